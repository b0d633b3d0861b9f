"""`turnout run`, `check`, `schema`, `demo`: what needs no running Turnout."""

import os
import sys
import time
from typing import Annotated, Any

import typer

from turnout.config.model import Configuration
from turnout.control.cli.options import (
    AsJson,
    Config,
    app,
)
from turnout.control.client import (
    EXIT_FAILED,
    EXIT_USAGE,
    fail,
    read_configuration,
)


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
    from turnout.control.outer.loading import missing_extras

    file = find_file(config, os.environ)
    if file is None:
        fail("there is no ./turnout.yaml. Name a file with -c.", EXIT_USAGE)
    read = read_configuration(file)
    names = [service.name for service in read.services]
    warnings = [
        *file_warnings.warnings(read.control, time.time()),
        *(f"{what}: {remedy}" for what, remedy in missing_extras(read)),
    ]
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
