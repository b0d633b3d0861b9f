"""`turnout pause`, `resume`, `approve`, `abort`, `hold`, `release`: what steers it."""

from typing import Any

from turnout.control.cli.move import started
from turnout.control.cli.options import (
    AsJson,
    Config,
    Control,
    Id,
    NoWait,
    Reason,
    Service,
    app,
    connect,
    named,
)
from turnout.control.client import (
    Client,
)


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
    started(client, answer, no_wait, as_json, strict=False, good=("aborted",))


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
