"""`turnout status`, `tail`, `history`, `receipt`: what is and what was."""

import time
from typing import Annotated, Any

import typer

from turnout.control.cli.options import (
    LIVE_PER_SECOND,
    AsJson,
    Config,
    Control,
    Service,
    app,
    connect,
    named,
)
from turnout.control.client import (
    EXIT_USAGE,
    FINAL_STATES,
    fail,
)


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
