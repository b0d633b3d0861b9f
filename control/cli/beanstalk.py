"""`turnout beanstalk`: what a release with Elastic Beanstalk needs beside the switch; thin.

`create` makes a service's missing environment, `deploy` brings a version to the one that is idle.
Both speak to Elastic Beanstalk itself, as the configuration names it; neither needs a Turnout that
runs, and neither moves traffic.
"""

import asyncio
import os
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from turnout.control.client import (
    EXIT_FAILED,
    EXIT_REFUSED,
    EXIT_USAGE,
    CommandError,
    fail,
    read_configuration,
)

if TYPE_CHECKING:
    from turnout.config.outer.aws import ElasticBeanstalk
    from turnout.control.outer.aws import AwsClient
    from turnout.control.outer.beanstalk_environments import EnvironmentNow

app = typer.Typer(
    help="Elastic Beanstalk: create an environment, deploy to the idle one.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Config = Annotated[
    str | None,
    typer.Option("--config", "-c", help="The configuration file.", envvar="TURNOUT_CONFIG"),
]
Service = Annotated[str, typer.Option("--service", help="May be left out when there is only one.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the call, and make none.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return when it has been accepted.")]
TimeoutMin = Annotated[
    int, typer.Option("--timeout", min=1, max=1440, help="How many minutes it may take.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="The version's label.")]

POLL_FIRST_S: Final = 0.25
POLL_MAX_S: Final = 10.0


@app.command()
def deploy(
    version: Version,
    service: Service = "",
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: TimeoutMin = 30,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Deploy a version to the environment that is idle: the one that does not hold the live name.

    Exit 0 once it is ready with the version, 1 when it ends with another, 4 when it cannot be
    told which one is idle, or that is busy.

    Examples:

      turnout beanstalk deploy v42

      turnout beanstalk deploy v42 --service shop --dry-run
    """
    settings, names = _configured(config, service)

    async def work(client: "AwsClient") -> None:
        idle = _idle(await _described(client, settings, names), settings, names)
        if idle["VersionLabel"] == version:
            _say(idle, as_json, f"{idle['EnvironmentName']} has {version} already.")
            return
        call: dict[str, Any] = {
            "EnvironmentId": str(idle["EnvironmentId"]),
            "VersionLabel": version,
        }
        if dry_run:
            _show("UpdateEnvironment", call)
            return
        taken = await client.call("update_environment", writes=True, **call)
        await _finished(client, taken, version, 0 if no_wait else timeout, as_json)

    _run(settings, names, work)


@app.command()
def create(
    upstream: Annotated[
        str, typer.Argument(metavar="UPSTREAM", help="Whose environment is missing.")
    ],
    version: Version,
    template: Annotated[
        str, typer.Option(help="A saved configuration of the application to make it by.")
    ] = "",
    stack: Annotated[str, typer.Option(help="Instead: the solution stack, by its name.")] = "",
    cname: Annotated[
        str, typer.Option(help="The first part of its name in DNS; left out: the environment's.")
    ] = "",
    application: Annotated[
        str, typer.Option(help="Left out: that of the other upstream's environment.")
    ] = "",
    service: Service = "",
    dry_run: DryRun = False,
    no_wait: NoWait = False,
    timeout: TimeoutMin = 30,
    config: Config = None,
    as_json: AsJson = False,
) -> None:
    """Create an upstream's environment, by the name that the configuration has for it.

    Its platform and settings are those of a saved configuration, or of a solution stack.

    Examples:

      turnout beanstalk create green v42 --template shop-2026

      turnout beanstalk create green v42 --stack "64bit Amazon Linux 2023 v4.5.0 running Python 3.13"
    """
    settings, names = _configured(config, service)
    if upstream not in names:
        fail(f"{upstream} is no upstream. Write one of {', '.join(names)}.", EXIT_USAGE)
    if bool(template) == bool(stack):
        fail("either --template or --stack says how it is to be made.", EXIT_USAGE)

    async def work(client: "AwsClient") -> None:
        from turnout.control.outer.beanstalk_environments import is_id

        name = settings.environments[upstream]
        if is_id(name):
            fail(
                f"environments.{upstream} is an id. Write the name that it is to have.", EXIT_USAGE
            )
        found = dict(zip(names, await _described(client, settings, names), strict=True))
        if (there := found[upstream]) is not None:
            fail(f"{name} is there already, and {there.get('Status')}.", EXIT_REFUSED)
        other = next(one for key, one in found.items() if key != upstream)
        of = application or str((other or {}).get("ApplicationName") or "")
        if not of:
            fail("neither environment is there: --application must be given.", EXIT_USAGE)
        call: dict[str, Any] = {
            "ApplicationName": of,
            "EnvironmentName": name,
            "VersionLabel": version,
        }
        call |= {"TemplateName": template} if template else {"SolutionStackName": stack}
        call |= {"CNAMEPrefix": cname} if cname else {}
        if dry_run:
            _show("CreateEnvironment", call)
            return
        taken = await client.call("create_environment", writes=True, **call)
        await _finished(client, taken, version, 0 if no_wait else timeout, as_json)

    _run(settings, names, work)


# ---------------------------------------------------------------- parts


def _configured(config: str | None, service: str) -> tuple["ElasticBeanstalk", tuple[str, str]]:
    """The service's settings, and the names of its upstreams. Raises CommandError(2)."""
    from turnout.config.origin import find_file
    from turnout.config.outer.aws import ElasticBeanstalk

    file = find_file(config, os.environ)
    if file is None:
        fail("there is no ./turnout.yaml. Name a file with -c.", EXIT_USAGE)
    fitting = {
        one.name: (one.outer.settings, one.names)
        for one in read_configuration(file).services
        if one.outer is not None and isinstance(one.outer.settings, ElasticBeanstalk)
    }
    if not service and len(fitting) == 1:
        return next(iter(fitting.values()))
    if service not in fitting:
        those = ", ".join(fitting) or "none"
        what = f"{service} is none of them" if service else "name one with --service"
        fail(f"services with outer.kind elastic_beanstalk in {file}: {those}; {what}.", EXIT_USAGE)
    return fitting[service]


def _run(
    settings: "ElasticBeanstalk",
    names: tuple[str, str],
    work: Callable[["AwsClient"], Coroutine[Any, Any, None]],
) -> None:
    from turnout.control.outer.aws import AwsClient
    from turnout.control.outer.seams import Context, OuterError, ReplyLost

    async def turn() -> None:
        """One command asks seldom enough."""

    async def whole() -> None:
        context = Context(names, settings.call_timeout, turn, lambda what, remedy: None)
        try:
            client = AwsClient(
                "elasticbeanstalk", context, who="Elastic Beanstalk", region=settings.region
            )
        except ModuleNotFoundError:
            fail("this needs boto3, which is not installed: pip install 'turnout[aws]'", EXIT_USAGE)
        try:
            await work(client)
        finally:
            await client.close()

    try:
        asyncio.run(whole())
    except ReplyLost as error:
        text = f"{error}. It may have been accepted: look before you ask again."
        raise CommandError(text, EXIT_FAILED) from None
    except OuterError as error:
        raise CommandError(str(error), EXIT_FAILED) from None


async def _described(
    client: "AwsClient", settings: "ElasticBeanstalk", names: tuple[str, str]
) -> list["EnvironmentNow | None"]:
    from turnout.control.outer.beanstalk_environments import is_environment, named

    found: list[EnvironmentNow | None] = []
    for name in names:
        environment = settings.environments[name]
        which: dict[str, Any] = {**named(environment)}
        described = await client.every(
            "describe_environments", "Environments", sends="NextToken", gets="NextToken",
            IncludeDeleted=False, **which,
        )  # fmt: skip
        found.append(next((one for one in described if is_environment(one, environment)), None))
    return found


def _idle(
    found: list["EnvironmentNow | None"], settings: "ElasticBeanstalk", names: tuple[str, str]
) -> "EnvironmentNow":
    """The one that does not hold the live name, ready. Raises CommandError(4)."""
    from turnout.config.weights import WHOLE
    from turnout.control.outer.beanstalk_environments import reading_of

    reading = reading_of(found, settings, names)
    if reading.problems:
        fail("; ".join(reading.problems), EXIT_REFUSED)
    idle = found[0 if reading.second_weight == WHOLE else 1]
    assert idle is not None, "without a problem both are there"
    if idle.get("Status") != "Ready":
        fail(f"{idle.get('EnvironmentName')} is {idle.get('Status')}, not Ready.", EXIT_REFUSED)
    return idle


async def _finished(
    client: "AwsClient", taken: "EnvironmentNow", version: str, minutes: int, as_json: bool
) -> None:
    """Wait until it is ready with the version; raise CommandError(1) when it is with another."""
    from turnout.control.outer.beanstalk_environments import GOOD, PASSING, health_of
    from turnout.control.outer.seams import NotDone

    name, now = str(taken.get("EnvironmentName")), taken
    if not minutes:
        _say(now, as_json, f"{name} is {now.get('Status')}; {version} was accepted.")
        return
    deadline = time.monotonic() + 60 * minutes
    wait_s = POLL_FIRST_S
    while True:
        try:
            answer = await client.call(
                "describe_environments", EnvironmentIds=[str(taken.get("EnvironmentId"))]
            )
            now = next(iter(answer.get("Environments") or ()), {})
        except NotDone as error:
            typer.echo(f"{error}; asked again", err=True)
        status = str(now.get("Status") or "gone")
        if status not in PASSING | {"Launching"}:
            break
        if time.monotonic() > deadline:
            fail(f"{name} is still {status} after {minutes} minutes.", EXIT_FAILED)
        await asyncio.sleep(wait_s)
        wait_s = min(wait_s * 1.5, POLL_MAX_S)
    has = now.get("VersionLabel")
    if status != "Ready" or has != version:
        fail(f"{name} is {status} with {has}, not with {version}; see its events.", EXIT_FAILED)
    health = health_of(now)
    if health not in GOOD:
        typer.echo(f"warning: the health of {name} is {health}", err=True)
    _say(now, as_json, f"{name} is Ready with {version}, health {health}.")


def _show(call: str, parameters: dict[str, str]) -> None:
    from turnout.control.cli_output import print_json

    print_json({"call": call, **parameters})


def _say(now: "EnvironmentNow", as_json: bool, text: str) -> None:
    from turnout.control.cli_output import print_json

    if not as_json:
        typer.echo(text)
        return
    keys = ("EnvironmentName", "EnvironmentId", "VersionLabel", "Status", "CNAME")
    print_json({key: now.get(key) for key in keys})
