"""`turnout`: the command line. A client of the control API; `run` becomes the supervisor.

Heavy parts are imported inside the commands that need them: a deploy script calls this often.
"""

import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from turnout.config.model import Configuration
from turnout.control import beanstalk_cli
from turnout.control.client import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_USAGE,
    FINAL_STATES,
    POLL_S,
    Client,
    CommandError,
    Unreachable,
    control_endpoint,
    fail,
    read_configuration,
)

app = typer.Typer(
    name="turnout",
    help="Move traffic between two environments of a service without losing a request.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(beanstalk_cli.app, name="beanstalk", rich_help_panel="Prepare a side")

Config = Annotated[
    str | None,
    typer.Option("--config", "-c", help="The configuration file.", envvar="TURNOUT_CONFIG"),
]
Control = Annotated[
    str | None,
    typer.Option(
        "--control",
        help="The control API: host:port, a URL (https://…) or unix:/path.",
        envvar="TURNOUT_CONTROL",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Service = Annotated[str, typer.Argument(help="May be left out when there is only one.")]
Id = Annotated[str, typer.Argument(help="May be left out when one is under way.")]
Force = Annotated[
    bool, typer.Option("--force", help="Even onto an unhealthy upstream; needs --reason.")
]
Reason = Annotated[str, typer.Option("--reason", help="Kept in history, receipt and audit.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return when it has been accepted.")]
Strict = Annotated[bool, typer.Option("--strict", help="Exit 1 if anything was cut.")]
LIVE_PER_SECOND: Final = 8


def main() -> None:
    """Run the command line; never returns."""
    try:
        # Without its own ending, the library returns the code of an Exit instead of raising it.
        returned = app(standalone_mode=False)
        code = returned if isinstance(returned, int) else 0
    except CommandError as error:
        print(f"turnout: {error}", file=sys.stderr)
        code = error.code
    except typer.Exit as error:
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        code = EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader of our output has gone (`| head`): nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        if (shown := getattr(error, "show", None)) is None:
            raise
        shown()  # what the command-line library says of wrong use
        code = EXIT_USAGE
    sys.exit(code)


def connect(control: str | None, config: str | None) -> Client:
    return Client(control_endpoint(control, config))


def named(client: Client, service: str) -> str:
    """The service that is meant."""
    return service or client.only_service()


def needs_reason(force: bool, reason: str) -> None:
    if force and not reason:
        fail("--force needs --reason: the record says who forced what, and why.", EXIT_USAGE)


# ---------------------------------------------------------------- start and check


@app.command(rich_help_panel="Run")
def run(
    config: Config = None,
    listen: Annotated[
        list[str] | None, typer.Option(help="host:port or :port to listen on; without a file.")
    ] = None,
    blue: Annotated[
        list[str] | None, typer.Option(help="A server of blue; may be given twice.")
    ] = None,
    green: Annotated[list[str] | None, typer.Option(help="A server of green.")] = None,
    health_path: Annotated[
        str | None, typer.Option(help="Probe this path of each server; without a file.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Worker processes; without a file.")] = None,
    control: Annotated[
        str | None, typer.Option("--control", help="Where the control API listens; without a file.")
    ] = None,
    state: Annotated[str | None, typer.Option(help="The store's file; without a file.")] = None,
    runtime_dir: Annotated[str | None, typer.Option(help="Without a file.")] = None,
) -> None:
    """Start everything in the foreground.

    Examples:

      turnout run -c turnout.yaml

      turnout run --listen :8080 --blue 127.0.0.1:9001 --green 127.0.0.1:9002
    """
    from turnout.config.origin import find_file, inline
    from turnout.control.entry import become_supervisor

    if listen or blue or green:
        if not (listen and blue and green):
            fail("without a file, --listen, --blue and --green are all needed.", EXIT_USAGE)
        assert listen and blue and green
        text = inline(
            listen,
            blue,
            green,
            health_path=health_path,
            control=control,
            state=state,
            runtime_dir=runtime_dir,
            workers=workers,
        )
        arguments = ["--inline", text]
    else:
        file = find_file(config, os.environ)
        if file is None:
            fail(
                "there is no ./turnout.yaml. Name a file with -c, or give --listen, --blue and "
                "--green.",
                EXIT_USAGE,
            )
        arguments = ["--config", str(file)]
    become_supervisor(arguments)


@app.command(rich_help_panel="Run")
def check(
    outer: Annotated[
        bool,
        typer.Option(
            "--outer",
            help="Ask what is beyond the proxy too, and say what a switch would change there.",
        ),
    ] = False,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Validate the configuration: exit 0, or 2 with file, line, key and what was expected.

    With --outer each system that the configuration names (DNS, a load balancer, gates, sources of
    servers) is read, and nothing is changed: exit 1 when one cannot be asked or is not as
    configured.

    Examples:

      turnout check -c turnout.yaml

      turnout check --outer
    """
    from turnout.config.origin import find_file
    from turnout.control import file_warnings
    from turnout.control.cli_output import out, print_json

    file = find_file(config, os.environ)
    if file is None:
        fail("there is no ./turnout.yaml. Name a file with -c.", EXIT_USAGE)
    read = read_configuration(file)
    names = [service.name for service in read.services]
    warnings = list(file_warnings.warnings(read.control, time.time()))
    beyond = _ask_beyond(read) if outer else None
    if as_json:
        document = {"file": str(file), "valid": True, "services": names, "warnings": warnings}
        print_json(document if beyond is None else {**document, "outer": beyond})
    else:
        for warning in warnings:
            print(f"warning: {warning}", file=sys.stderr)
        listeners = ", ".join(str(listener.bind) for listener in read.listeners)
        out.print(f"{file} is valid: {len(names)} service(s) ({', '.join(names)}) on {listeners}.")
        if beyond is not None:
            from turnout.control.outer_output import check_view

            out.print(check_view(beyond) if beyond else "There is nothing beyond the proxy.")
    if beyond is not None:
        from turnout.control.outer.checking import is_well

        if not is_well(beyond):
            raise typer.Exit(EXIT_FAILED)


def _ask_beyond(configuration: Configuration) -> list[dict[str, Any]]:
    import asyncio

    from turnout.control.outer.checking import check as check_outer

    return asyncio.run(check_outer(configuration))


@app.command(rich_help_panel="Run")
def schema() -> None:
    """Print the JSON Schema of the configuration, for editors.

    Example: turnout schema > turnout.schema.json
    """
    from turnout.config.loader import schema as configuration_schema
    from turnout.control.cli_output import print_json

    print_json(configuration_schema())


@app.command(rich_help_panel="Run")
def demo(
    seconds: Annotated[
        float, typer.Option(min=5, max=120, help="About how long the show takes.")
    ] = 30.0,
) -> None:
    """Two upstreams, a load, three switches and their receipts: in one terminal.

    Example: turnout demo --seconds 20
    """
    from turnout.control.demo import run_demo

    raise typer.Exit(run_demo(seconds))


# ---------------------------------------------------------------- look


@app.command(rich_help_panel="Look")
def status(
    service: Service = "",
    watch: Annotated[bool, typer.Option("--watch", help="Until Ctrl-C.")] = False,
    as_json: AsJson = False,
    control: Control = None,
    config: Config = None,
) -> None:
    """Show weights, health with its reason, what is in flight, and what is under way.

    Examples: turnout status    turnout status shop --watch    turnout status --json
    """
    from rich.live import Live

    from turnout.control.cli_output import out, print_json, service_view, upgrade_remarks

    client = connect(control, config)

    def services() -> list[dict[str, Any]]:
        if service:
            return [client.call("GET", f"/v1/services/{service}")]
        return client.services()

    if as_json:
        found = services()
        print_json(found[0] if service else {"items": found})
    elif watch and out.is_terminal:
        with Live(service_view(services()), console=out, auto_refresh=False) as live:
            while True:
                time.sleep(1 / LIVE_PER_SECOND)
                live.update(service_view(services()), refresh=True)
    else:
        out.print(service_view(services()))
        for remark in upgrade_remarks(client.upgrade()):
            out.print(remark)
        while watch:
            time.sleep(1)
            out.print(service_view(services()))


@app.command(rich_help_panel="Look")
def tail(
    service: Service = "",
    watch: Annotated[bool, typer.Option("--watch", help="Until Ctrl-C.")] = False,
    wait: Annotated[
        bool, typer.Option("--wait", help="Until the old side may go, or tail.timeout has passed.")
    ] = False,
    as_json: AsJson = False,
    control: Control = None,
    config: Config = None,
) -> None:
    """Show who still comes by the address of the side that lost its weight, and whether it may go.

    With --wait: exit 0 when the old side may go, 1 when tail.timeout has passed before.

    Examples: turnout tail    turnout tail shop --watch    turnout tail shop --wait
    """
    from turnout.control.tail_output import follow

    client = connect(control, config)
    path = f"/v1/services/{named(client, service)}/tail"
    raise typer.Exit(follow(client, path, watch=watch, wait=wait, as_json=as_json))


@app.command(rich_help_panel="Look")
def history(
    service: Service = "", as_json: AsJson = False, control: Control = None, config: Config = None
) -> None:
    """List the switchovers of a service, newest first.

    Example: turnout history shop
    """
    from turnout.control.cli_output import history_table, out, print_json

    client = connect(control, config)
    found = client.call("GET", f"/v1/services/{named(client, service)}/switchovers")
    if as_json:
        print_json(found)
    else:
        out.print(history_table(found["items"]))


@app.command(rich_help_panel="Look")
def receipt(
    id: Annotated[str, typer.Argument(help="By default the last switchover's.")] = "",
    as_json: AsJson = False,
    control: Control = None,
    config: Config = None,
) -> None:
    """Show what a switchover did, in counted facts whose sums agree.

    Examples: turnout receipt    turnout receipt 01hx… --json
    """
    from turnout.control.cli_output import out, print_json, receipt_view

    client = connect(control, config)
    if not id:
        ended = [
            item
            for service in client.services()
            for item in client.call("GET", f"/v1/services/{service['name']}/switchovers")["items"]
            if item["state"] in FINAL_STATES
        ]
        if not ended:
            fail("no switchover has ended yet.", EXIT_USAGE)
        id = str(max(ended, key=lambda item: str(item["started_at"]))["id"])
    found = client.call("GET", f"/v1/switchovers/{id}")
    if not found.get("receipt"):
        fail(f"the switchover {id} is {found['state']}: it has no receipt yet.", EXIT_USAGE)
    if as_json:
        print_json(found["receipt"])
    else:
        out.print(receipt_view(found["receipt"]))


# ---------------------------------------------------------------- move


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
        _started(client, answer, no_wait, as_json, strict, good=("completed",))


def _show_plan(answer: dict[str, Any], as_json: bool) -> None:
    from turnout.control.cli_output import out, percent, print_json

    if as_json:
        print_json(answer)
        return
    out.print(f"would move {answer['service']}: {answer['from']} → {answer['to']}")
    for number, step in enumerate(answer.get("steps") or (), start=1):
        shares = ", ".join(f"{name} {percent(float(weight))}" for name, weight in step.items())
        out.print(f"  step {number}: {shares}")
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


def _started(
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
            doing = str((now.get("outer") or {}).get("doing", ""))
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
    _started(client, answer, no_wait, as_json, strict, good=("completed", "rolled_back"))


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


# ---------------------------------------------------------------- steer


def _steer(
    verb: str, id: str, reason: str, as_json: bool, control: str | None, config: str | None
) -> tuple[Client, dict[str, Any]]:
    from turnout.control.cli_output import out, print_json

    client = connect(control, config)
    answer = client.call(
        "POST", f"/v1/switchovers/{id or client.under_way()}/{verb}", {"reason": reason}
    )
    if verb != "abort":
        if as_json:
            print_json(answer)
        else:
            out.print(f"{answer['id']} {answer['state']}")
    return client, answer


@app.command(rich_help_panel="Steer a switchover")
def pause(
    id: Id = "", reason: Reason = "", as_json: AsJson = False, control: Control = None,
    config: Config = None,
) -> None:  # fmt: skip
    """Stop a switchover where it is; the weights stay.

    Example: turnout pause --reason "looking at the logs"
    """
    _steer("pause", id, reason, as_json, control, config)


@app.command(rich_help_panel="Steer a switchover")
def resume(
    id: Id = "", reason: Reason = "", as_json: AsJson = False, control: Control = None,
    config: Config = None,
) -> None:  # fmt: skip
    """Let a paused switchover go on.

    Example: turnout resume
    """
    _steer("resume", id, reason, as_json, control, config)


@app.command(rich_help_panel="Steer a switchover")
def approve(
    id: Id = "", reason: Reason = "", as_json: AsJson = False, control: Control = None,
    config: Config = None,
) -> None:  # fmt: skip
    """Let a switchover go on that waits for a person's approval.

    Example: turnout approve 1m85qv04f
    """
    _steer("approve", id, reason, as_json, control, config)


@app.command(rich_help_panel="Steer a switchover")
def abort(
    id: Id = "", no_wait: NoWait = False, reason: Reason = "", as_json: AsJson = False,
    control: Control = None, config: Config = None,
) -> None:  # fmt: skip
    """End a switchover; the weights return to those before it.

    Example: turnout abort --reason "wrong version"
    """
    client, answer = _steer("abort", id, reason, as_json, control, config)
    _started(client, answer, no_wait, as_json, strict=False, good=("aborted",))


@app.command(rich_help_panel="Steer a service")
def hold(
    service: Service = "", reason: Reason = "", as_json: AsJson = False, control: Control = None,
    config: Config = None,
) -> None:  # fmt: skip
    """Keep new requests waiting, bounded in number and time.

    Example: turnout hold shop && ./migrate.sh; turnout release shop
    """
    _set_hold("hold", service, reason, as_json, control, config)


@app.command(rich_help_panel="Steer a service")
def release(
    service: Service = "", reason: Reason = "", as_json: AsJson = False, control: Control = None,
    config: Config = None,
) -> None:  # fmt: skip
    """Let held requests go.

    Example: turnout release shop
    """
    _set_hold("release", service, reason, as_json, control, config)


def _set_hold(
    verb: str, service: str, reason: str, as_json: bool, control: str | None, config: str | None
) -> None:
    from turnout.control.cli_output import out, print_json, service_view

    client = connect(control, config)
    found = client.call("POST", f"/v1/services/{named(client, service)}/{verb}", {"reason": reason})
    if as_json:
        print_json(found)
    else:
        out.print(service_view([found]))


# ---------------------------------------------------------------- the program itself


@app.command(rich_help_panel="Run")
def reload(as_json: AsJson = False, control: Control = None, config: Config = None) -> None:
    """Read the configuration again; a wrong one changes nothing.

    Example: turnout check && turnout reload
    """
    from turnout.control.cli_output import err, out, print_json

    answer = connect(control, config).call("POST", "/v1/reload")
    if as_json:
        print_json(answer)
        return
    out.print("reloaded")
    for key in answer.get("needs_restart") or ():
        err.print(f"{key} changed and takes effect at the next start.")


@app.command(rich_help_panel="Run")
def upgrade(
    no_wait: NoWait = False, as_json: AsJson = False, control: Control = None, config: Config = None
) -> None:
    """Become the program that is installed now, on the same sockets, without losing a request.

    The new program proves itself first; if that fails, or its workers do, the old ones serve on
    and it is said why (exit 1). What the old workers have under way they finish.

    Example: pip install -U turnout && turnout upgrade
    """
    from turnout.control.cli_output import err, out, print_json, steps_until

    client = connect(control, config)
    try:
        now = client.call("POST", "/v1/upgrade")
    except Unreachable as error:
        # It does not start any more when another program is installed than the one that runs.
        fail(f"{error}\nWithout it: kill -USR2 PID, of `turnout run`.", error.code)
    id, shown = now["id"], 0
    while True:
        for line in () if as_json else steps_until(shown, now["step"]):
            err.print(line)
            shown += 1
        if no_wait or not now["under_way"]:
            break
        time.sleep(POLL_S)
        now = client.patiently("/v1/upgrade", "The upgrade goes on; see: turnout status")
    if as_json:
        print_json(now)
    if now["id"] != id:
        fail("another upgrade was begun meanwhile; see: turnout status", EXIT_FAILED)
    if now["step"] == "failed":
        fail(f"not upgraded: {now['error']}\nThe workers of before serve on.", EXIT_FAILED)
    if not as_json:
        out.print(
            f"upgrade begun from {now['from_version']}"
            if now["under_way"]
            else f"upgraded from {now['from_version']} to {now['to_version']}"
        )
    if now["finishing"] and not as_json:
        err.print(f"{now['finishing']} workers of before finish what they have.")
    if now["remark"]:
        err.print(str(now["remark"]))


@app.command(rich_help_panel="Run")
def version() -> None:
    """Print the version, and whether the data plane is compiled.

    Example: turnout version
    """
    from importlib.metadata import version as installed
    from importlib.util import find_spec

    # By name, as nothing of the data plane is to be loaded here.
    hot = find_spec("turnout.proxy.fast_path")
    compiled = hot is not None and not str(hot.origin).endswith(".py")
    how = "compiled by mypyc" if compiled else "interpreted"
    print(f"turnout {installed('turnout')}, data plane {how} ({Path(sys.executable)})")
