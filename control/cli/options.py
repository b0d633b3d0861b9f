"""The command line itself, and what its commands have in common."""

from typing import Annotated, Final

import typer

from turnout.control.client import (
    EXIT_USAGE,
    Client,
    control_endpoint,
    fail,
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


def connect(control: str | None, config: str | None) -> Client:
    return Client(control_endpoint(control, config))


def named(client: Client, service: str) -> str:
    """The service that is meant."""
    return service or client.only_service()


def needs_reason(force: bool, reason: str) -> None:
    if force and not reason:
        fail("--force needs --reason: the record says who forced what, and why.", EXIT_USAGE)
