"""`turnout beanstalk`: what is asked of Elastic Beanstalk, and when it is not asked."""

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.control.cli_forks import CLEAN, Done, Forks
from tests.fakes.aws import CREDENTIALS
from tests.fakes.base import Fault
from tests.fakes.elastic_beanstalk import BLUE, GREEN, IDLE, LIVE, FakeElasticBeanstalk

CONFIGURATION = f"""
listeners: [{{bind: "127.0.0.1:8080"}}]
services:
  shop:
    upstreams: {{blue: {{servers: ["127.0.0.1:9001"]}}, green: {{servers: ["127.0.0.1:9002"]}}}}
    outer:
      kind: elastic_beanstalk
      environments: {{blue: shop-blue, green: shop-green}}
      cname: {LIVE}
"""


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    made = Forks()
    made.open()
    yield made
    made.close()


@dataclass
class Shell:
    fake: FakeElasticBeanstalk
    directory: Path
    forks: Forks

    async def __call__(self, *words: str) -> Done:
        environment = {
            **CLEAN, **CREDENTIALS, "AWS_ENDPOINT_URL_ELASTIC_BEANSTALK": self.fake.url,
        }  # fmt: skip
        return await self.forks.run(["beanstalk", *words], environment, self.directory)


@pytest.fixture
async def turnout(tmp_path: Path, forks: Forks) -> AsyncIterator[Shell]:
    (tmp_path / "turnout.yaml").write_text(CONFIGURATION)
    async with FakeElasticBeanstalk() as fake:
        fake.put(BLUE, "shop-blue", LIVE)
        fake.put(GREEN, "shop-green", IDLE)
        yield Shell(fake, tmp_path, forks)


def versions(fake: FakeElasticBeanstalk) -> dict[str, str]:
    return {one["EnvironmentName"]: one["VersionLabel"] for one in fake.environments.values()}


async def test_a_version_goes_to_the_environment_that_is_idle(turnout: Shell) -> None:
    turnout.fake.pending_s = 0.1
    done = await turnout("deploy", "v2")
    assert (done.code, done.err) == (0, "")
    assert done.out == "shop-green is Ready with v2, health Ok.\n"
    assert versions(turnout.fake) == {"shop-blue": "v1", "shop-green": "v2"}
    again = await turnout("deploy", "v2", "--json")
    assert (again.code, again.json["VersionLabel"]) == (0, "v2")
    assert len(turnout.fake.writing) == 1


async def test_after_a_swap_it_is_the_other_one(turnout: Shell) -> None:
    blue, green = turnout.fake.environments[BLUE], turnout.fake.environments[GREEN]
    blue["CNAME"], green["CNAME"] = green["CNAME"], blue["CNAME"]
    assert (await turnout("deploy", "v2")).code == 0
    assert versions(turnout.fake) == {"shop-blue": "v2", "shop-green": "v1"}


async def test_a_dry_run_shows_the_call_and_makes_none(turnout: Shell) -> None:
    done = await turnout("deploy", "v2", "--dry-run")
    assert done.json == {
        "call": "UpdateEnvironment", "EnvironmentId": GREEN, "VersionLabel": "v2",
    }  # fmt: skip
    del turnout.fake.environments[GREEN]
    words = ("create", "green", "v2", "--template", "saved", "--dry-run")
    assert (await turnout(*words)).json == {
        "call": "CreateEnvironment", "ApplicationName": "shop", "EnvironmentName": "shop-green",
        "VersionLabel": "v2", "TemplateName": "saved",
    }  # fmt: skip
    assert turnout.fake.writing == []


@pytest.mark.parametrize(
    ("state", "code", "said"),
    [
        ({"Status": "Updating"}, 4, "shop-green is Updating, not Ready"),
        ({"Status": "Terminated"}, 4, "green's environment shop-green is not there"),
    ],
)
async def test_nothing_is_deployed_where_it_cannot_be_told_what_is_idle(
    turnout: Shell, state: dict[str, str], code: int, said: str
) -> None:
    turnout.fake.environments[GREEN].update(state)
    done = await turnout("deploy", "v2")
    assert (done.code, said in done.err) == (code, True), done.err
    assert turnout.fake.writing == []


async def test_a_version_that_is_not_there_is_refused_in_the_service_s_words(
    turnout: Shell,
) -> None:
    done = await turnout("deploy", "v9")
    assert done.code == 1
    assert "No Application Version named 'v9' found." in done.err


async def test_a_lost_answer_is_not_asked_again(turnout: Shell) -> None:
    turnout.fake.inject(Fault.LOST_AFTER)
    done = await turnout("deploy", "v2")
    assert (done.code, "It may have been accepted" in done.err) == (1, True)
    assert len(turnout.fake.writing) == 1


async def test_an_environment_is_created_where_it_is_missing(turnout: Shell) -> None:
    del turnout.fake.environments[GREEN]
    turnout.fake.pending_s = 0.1
    done = await turnout(
        "create", "green", "v2", "--stack", "64bit Amazon Linux 2023 v4.5.0 running X",
        "--cname", "shop-next",
    )  # fmt: skip
    assert (done.code, done.out) == (0, "shop-green is Ready with v2, health Ok.\n"), done.err
    [made] = [one for id_, one in turnout.fake.environments.items() if id_ != BLUE]
    assert made["CNAME"] == "shop-next.eu-west-1.elasticbeanstalk.com"
    again = await turnout("create", "green", "v2", "--template", "saved")
    assert (again.code, "shop-green is there already" in again.err) == (4, True)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("create", "red", "v2", "--template", "saved"), "red is no upstream"),
        (("create", "green", "v2"), "either --template or --stack"),
        (("deploy", "v2", "--service", "other"), "other is none of them"),
        (("deploy", "v2", "-c", "there-is-none.yaml"), "there-is-none.yaml"),
    ],
)
async def test_wrong_use_is_said_and_nothing_is_asked(
    turnout: Shell, words: tuple[str, ...], said: str
) -> None:
    done = await turnout(*words)
    assert (done.code, said in done.err) == (2, True), done.err
    assert turnout.fake.journal == []


async def test_without_such_a_service_it_says_so(turnout: Shell) -> None:
    text = json.dumps(
        {
            "listeners": [{"bind": "127.0.0.1:8080"}],
            "services": {
                "shop": {
                    "upstreams": {
                        name: {"servers": [f"127.0.0.1:900{n}"]}
                        for n, name in enumerate(("blue", "green"))
                    }
                }
            },
        }
    )
    (turnout.directory / "turnout.yaml").write_text(text)
    done = await turnout("deploy", "v2")
    assert (done.code, "kind elastic_beanstalk" in done.err) == (2, True), done.err
