"""`turnout switch`, `weights`, `servers`, `rollback`, `wait`: what moves traffic."""

import re
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from turnout.control.cli.options import (
    AsJson,
    Config,
    Control,
    Force,
    Id,
    NoWait,
    Reason,
    Service,
    Strict,
    app,
    connect,
    named,
    needs_reason,
)
from turnout.control.client import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    Client,
    fail,
)


@app.command(rich_help_panel="Move traffic")
def switch(
    target: Annotated[
        list[str], typer.Argument(metavar="[SERVICE] UPSTREAM", help="Where the traffic goes.")
    ],
    strategy: Annotated[
        str, typer.Option(help="One of the service's; by default its own default.")
    ] = "",
    wait_healthy: Annotated[
        str, typer.Option(help="Wait so long for the target to become healthy, such as 60s.")
    ] = "",
    no_wait: NoWait = False,
    strict: Strict = False,
    force: Force = False,
    reason: Reason = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    as_json: AsJson = False,
    control: Control = None,
    config: Config = None,
) -> None:
    """Move the traffic. Exit 0: the old upstream has nothing in flight and may be stopped.

    Examples:

      turnout switch green

      turnout switch shop green --strategy careful --wait-healthy 60s --reason v42
    """
    needs_reason(force, reason)
    if len(target) > 2:
        fail(f"one service and one upstream at most; got {' '.join(target)}.", EXIT_USAGE)
    client = connect(control, config)
    service = named(client, target[0] if len(target) == 2 else "")
    body: dict[str, Any] = {"to": target[-1], "reason": reason}
    if strategy:
        body["strategy"] = strategy
    if wait_healthy:
        body["wait_healthy"] = wait_healthy
    if force:
        body["force"] = True
    if dry_run:
        body["dry_run"] = True
    answer = client.call("POST", f"/v1/services/{service}/switchovers", body)
    if dry_run:
        _show_plan(answer, as_json)
    elif not answer.get("changed", True):
        _nothing_to_do(answer, as_json, f"{service}: {target[-1]} has all of the traffic already.")
    else:
        started(client, answer, no_wait, as_json, strict, good=("completed",))


def _show_plan(answer: dict[str, Any], as_json: bool) -> None:
    from turnout.control.cli_output import print_json

    beyond = answer.get("outer") or {}
    if as_json:
        print_json(answer)
    else:
        _say_plan(answer)
    if beyond.get("problems"):
        raise typer.Exit(EXIT_FAILED)  # it would be refused as this is


def _say_plan(answer: dict[str, Any]) -> None:
    from turnout.control.cli_output import out, percent

    out.print(f"would move {answer['service']}: {answer['from']} → {answer['to']}")
    for number, step in enumerate(answer.get("steps") or (), start=1):
        shares = ", ".join(f"{name} {percent(float(weight))}" for name, weight in step.items())
        out.print(f"  step {number}: {shares}")
    if answer.get("gates"):
        out.print(f"before each step that takes weight there, asks: {', '.join(answer['gates'])}")
    if answer.get("outer"):
        from turnout.control.outer_output import plan_lines

        for line in plan_lines(answer["outer"]):
            out.print(line)


def _nothing_to_do(answer: dict[str, Any], as_json: bool, text: str) -> None:
    from turnout.control.cli_output import out, print_json

    if as_json:
        print_json(answer)
    else:
        out.print(text)


def started(
    client: Client,
    answer: dict[str, Any],
    no_wait: bool,
    as_json: bool,
    strict: bool,
    good: Sequence[str],
) -> None:
    """A switchover has been accepted: wait for its end, or say its id."""
    from turnout.control.cli_output import out, print_json

    id = str(answer["id"])
    if no_wait:
        if as_json:
            print_json(answer)
        else:
            out.print(f"{id} {answer['state']}")
        return
    _finish(client, id, as_json, strict, good)


def _finish(client: Client, id: str, as_json: bool, strict: bool, good: Sequence[str]) -> None:
    """Show the switchover until it has ended, then its receipt; exit as it ended."""
    from turnout.control.cli_output import err, out, print_json, receipt_view

    try:
        ended = _watch(client, id, quiet=as_json)
    except KeyboardInterrupt:
        err.print(f"interrupted: the switchover {id} goes on; see: turnout wait {id}")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    found = ended.get("receipt")
    if as_json:
        print_json(found if found is not None else ended)
    elif found is not None:
        out.print(receipt_view(found))
    cut = int(found["requests"]["cut"]) if found is not None else 0
    if cut:
        err.print(f"{cut} request(s) were cut; turnout receipt {id} names them.")
    if ended["state"] not in good:
        why = ended.get("outcome") or "see its receipt"
        err.print(f"turnout: the switchover {id} ended as {ended['state']}: {why}")
        raise typer.Exit(EXIT_FAILED)
    if strict and cut:
        raise typer.Exit(EXIT_FAILED)


def _watch(client: Client, id: str, *, quiet: bool) -> dict[str, Any]:
    """Show where the switchover stands until it has ended; returns it as it then is."""
    from rich.live import Live

    from turnout.control.cli_output import err, out, switchover_line, switchover_view

    now: dict[str, Any] = {}
    if quiet:
        *_, (now, _) = client.follow(id)
    elif out.is_terminal:
        with Live(console=out, auto_refresh=False, transient=True) as live:
            for now, service in client.follow(id):
                live.update(switchover_view(now, service), refresh=True)
    else:
        last: tuple[object, ...] = ()
        for now, service in client.follow(id):
            doing = str(now.get("doing", ""))
            pending = re.sub(r" \d+ s$", "", doing)  # how long so far is no news
            key = (now["state"], now.get("step"), str(service["weights"]), pending)
            if key != last:
                last = key
                err.print(switchover_line(now, service))
    return now


@app.command(rich_help_panel="Move traffic")
def weights(
    shares: Annotated[
        list[str], typer.Argument(metavar="[SERVICE] blue=90 green=10", help="Both; sum 100.")
    ],
    force: Force = False,
    reason: Reason = "",
    as_json: AsJson = False,
    control: Control = None,
    config: Config = None,
) -> None:
    """Set the weights by hand, in percent with up to two decimals.

    Examples: turnout weights blue=90 green=10    turnout weights shop blue=99.5 green=0.5
    """
    from turnout.control.cli_output import out, print_json, service_view

    needs_reason(force, reason)
    named_service, assigned = _assignments(shares)
    try:
        numbers = {name: _number(value) for name, value in assigned.items()}
    except ValueError as error:
        fail(f"a weight is a number of percent, such as blue=90: {error}", EXIT_USAGE)
    client = connect(control, config)
    service = named(client, named_service)
    body: dict[str, Any] = {"weights": numbers, "reason": reason}
    if force:
        body["force"] = True
    found = client.call("PUT", f"/v1/services/{service}/weights", body)
    if as_json:
        print_json(found)
    else:
        out.print(service_view([found]))


def _number(value: str) -> float | int:
    number = float(value)
    return int(number) if number.is_integer() else number


def _assignments(arguments: Sequence[str]) -> tuple[str, dict[str, str]]:
    """`[SERVICE] name=value …` -> (service or empty, the assignments). Raises CommandError(2)."""
    service = ""
    assigned: dict[str, str] = {}
    for position, argument in enumerate(arguments):
        name, sign, value = argument.partition("=")
        if not sign and position == 0 and len(arguments) > 1:
            service = argument
        elif sign and name and name not in assigned:
            assigned[name] = value
        else:
            fail(f"expected name=value once for each upstream; got {argument!r}.", EXIT_USAGE)
    return service, assigned


@app.command(rich_help_panel="Move traffic")
def servers(
    lists: Annotated[
        list[str],
        typer.Argument(metavar="[SERVICE] blue=10.0.0.7:9001,10.0.0.8:9001", help="New servers."),
    ],
    reason: Reason = "",
    as_json: AsJson = False,
    control: Control = None,
    config: Config = None,
) -> None:
    """Give an upstream new servers; those that go are drained.

    Example: turnout servers green=10.0.0.7:9001,10.0.0.8:9001
    """
    from turnout.control.cli_output import out, print_json, service_view

    named_service, assigned = _assignments(lists)
    client = connect(control, config)
    service = named(client, named_service)
    found: dict[str, Any] = {}
    for upstream, addresses in assigned.items():
        body = {"servers": [one for one in addresses.split(",") if one], "reason": reason}
        found = client.call("PUT", f"/v1/services/{service}/upstreams/{upstream}", body)
    if as_json:
        print_json(found)
    else:
        out.print(service_view([client.call("GET", f"/v1/services/{service}")]))


@app.command(rich_help_panel="Move traffic")
def rollback(
    service: Service = "",
    no_wait: NoWait = False,
    strict: Strict = False,
    force: Force = False,
    reason: Reason = "",
    as_json: AsJson = False,
    control: Control = None,
    config: Config = None,
) -> None:
    """Go back to where the traffic was before the last switchover, from any state.

    Examples: turnout rollback    turnout rollback shop --force --reason "green is on fire"
    """
    needs_reason(force, reason)
    client = connect(control, config)
    body: dict[str, Any] = {"reason": reason}
    if force:
        body["force"] = True
    answer = client.call("POST", f"/v1/services/{named(client, service)}/rollback", body)
    started(client, answer, no_wait, as_json, strict, good=("completed", "rolled_back"))


@app.command(rich_help_panel="Move traffic")
def wait(
    id: Id = "",
    strict: Strict = False,
    as_json: AsJson = False,
    control: Control = None,
    config: Config = None,
) -> None:
    """Wait for a switchover that was started elsewhere; exits as `switch` does.

    Examples: turnout wait    turnout wait 1m85qv04f --strict
    """
    client = connect(control, config)
    _finish(client, id or client.under_way(), as_json, strict, good=("completed",))
