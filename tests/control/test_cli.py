"""The command line as a process of its own, against the control API over a Unix socket."""

import asyncio
import signal
import socket
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from tests.control.api_bench import TOKENS, ApiBench, served
from tests.control.cli_forks import CLEAN, Done, Forks
from turnout.control import client
from turnout.control.api import make_app
from turnout.control.publisher import Reloaded
from turnout.control.receipt import verify
from turnout.proxy.scoreboard import ExchangeClass, HealthWord

LIMIT_S = 30.0
MAIN = "from turnout.control.cli import main; main()"
forks = Forks()


@pytest.fixture(scope="module", autouse=True)
def forking() -> Iterator[None]:
    forks.open()
    yield
    forks.close()


@dataclass
class Running:
    process: asyncio.subprocess.Process

    async def done(self) -> Done:
        async with asyncio.timeout(LIMIT_S):
            out, err = await self.process.communicate()
        return Done(self.process.returncode or 0, out.decode(), err.decode())


class Shell:
    """Runs `turnout` in a directory of its own, towards one API."""

    def __init__(self, directory: Path, api: ApiBench | None = None) -> None:
        self.directory = directory
        self.socket = directory / "control.sock"
        self.environment = {**CLEAN, "TURNOUT_CONTROL": f"unix:{self.socket}"}
        self._api = api
        self._runner: web.AppRunner | None = None

    async def serve(self) -> None:
        """Let control be there."""
        assert self._api is not None
        self._runner = web.AppRunner(make_app(self._api.context), shutdown_timeout=0.1)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self.socket)).start()

    async def away(self) -> None:
        """Let control be gone."""
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None
            self.socket.unlink(missing_ok=True)

    async def start(self, *words: str, before: str = "") -> Running:
        """Start the program as a shell does; `before` is run in it first."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", f"{before}{MAIN}", *words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environment,
            cwd=self.directory,
        )
        return Running(process)

    async def __call__(self, *words: str, **environment: str) -> Done:
        """Run a command to its end, in a process that has its modules already."""
        async with asyncio.timeout(LIMIT_S):
            return await forks.run(words, {**self.environment, **environment}, self.directory)


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[ApiBench]:
    async with served(tmp_path) as made:
        yield made


@pytest.fixture
async def turnout(tmp_path: Path, api: ApiBench) -> AsyncIterator[Shell]:
    shell = Shell(tmp_path, api)
    await shell.serve()
    yield shell
    await shell.away()


@pytest.fixture
def alone(tmp_path: Path) -> Shell:
    """Without any API."""
    return Shell(tmp_path)


async def under_way(api: ApiBench, strategy: str = "careful") -> str:
    """Start a switchover that takes long, and return its id."""
    body = {"to": "green", "strategy": strategy}
    _, document, _ = await api.call("POST", "/v1/services/shop/switchovers", body)
    await api.until_state(document["id"], "shifting")
    return str(document["id"])


# ---------------------------------------------------------------- look


async def test_status_shows_weights_and_why_an_upstream_is_not_healthy(
    turnout: Shell, api: ApiBench
) -> None:
    api.prober.set("green", HealthWord.UNHEALTHY)
    done = await turnout("status")
    assert done.code == 0
    assert "100 %" in done.out
    assert "green is unhealthy" in done.out


async def test_the_program_runs_as_a_shell_starts_it(turnout: Shell) -> None:
    done = await (await turnout.start("status", "--json")).done()
    assert done.json == (await turnout("status", "--json")).json


async def test_status_as_json_is_what_the_api_says_and_nothing_else(
    turnout: Shell, api: ApiBench
) -> None:
    assert (await turnout("status", "--json")).json == (await api.call("GET", "/v1/services"))[1]
    found = (await turnout("status", "shop", "--json")).json
    assert found == (await api.call("GET", "/v1/services/shop"))[1]


async def test_history_and_receipt_tell_of_what_was_done(turnout: Shell) -> None:
    await turnout("switch", "green", "--reason", "v42")
    assert "v42" in (await turnout("history")).out
    (item,) = (await turnout("history", "--json")).json["items"]
    last = (await turnout("receipt", "--json")).json
    assert verify(last) == []
    assert last == (await turnout("receipt", item["id"], "--json")).json
    text = await turnout("receipt")
    assert "0 accepted = 0 answered by upstream" in text.out


async def test_a_receipt_that_does_not_exist_is_wrong_use(turnout: Shell) -> None:
    assert (await turnout("receipt")).code == 2
    assert (await turnout("receipt", "nothing")).code == 2


# ---------------------------------------------------------------- switch


async def test_switch_waits_and_prints_the_receipt(turnout: Shell, api: ApiBench) -> None:
    done = await turnout("switch", "green")
    assert (done.code, done.out.split()[0]) == (0, "Receipt")
    assert "completed" in done.out
    assert (await api.call("GET", "/v1/services/shop"))[1]["active"] == "green"


async def test_switch_as_json_prints_the_receipt_alone(turnout: Shell) -> None:
    done = await turnout("switch", "shop", "green", "--json", "--reason", "v42")
    assert (done.code, done.err) == (0, "")
    assert (done.json["state"], done.json["reason"]) == ("completed", "v42")


async def test_no_wait_gives_the_id_and_wait_takes_it(turnout: Shell) -> None:
    done = await turnout("switch", "green", "--no-wait", "--json")
    assert done.code == 0
    waited = await turnout("wait", done.json["id"], "--json")
    assert (waited.code, waited.json["state"]) == (0, "completed")


async def test_a_switch_to_where_all_traffic_is_does_nothing(turnout: Shell) -> None:
    done = await turnout("switch", "blue")
    assert done.code == 0
    assert (await turnout("history", "--json")).json["items"] == []


async def test_a_dry_run_does_nothing(turnout: Shell, api: ApiBench) -> None:
    done = await turnout("switch", "green", "--strategy", "careful", "--dry-run")
    assert done.code == 0
    assert "green 10 %" in done.out
    assert api.bench.weights == []


async def test_what_was_cut_is_counted_on_stderr_and_strict_makes_it_a_failure(
    turnout: Shell, api: ApiBench
) -> None:
    api.bench.workers.request(1, ExchangeClass.PLAIN)
    done = await turnout("switch", "green", "--json")
    assert (done.code, done.json["requests"]["cut"]) == (0, 1)
    assert done.err.startswith("1 ")
    api.bench.workers.request(1, ExchangeClass.PLAIN)
    done = await turnout("switch", "blue", "--strict")
    assert done.code == 1


async def test_a_switch_that_failed_is_1(turnout: Shell, api: ApiBench) -> None:
    api.prober.set("green", HealthWord.UNKNOWN)
    done = await turnout("switch", "green")
    assert done.code == 1
    assert "failed" in done.err
    assert api.bench.weights == []


async def test_waiting_for_health_is_asked_for_with_a_unit(turnout: Shell, api: ApiBench) -> None:
    api.prober.set("green", HealthWord.UNHEALTHY)
    assert (await turnout("switch", "green", "--wait-healthy", "60")).code == 2
    running = await turnout.start("switch", "green", "--wait-healthy", "60s")
    async with asyncio.timeout(LIMIT_S):
        while (now := (await api.call("GET", "/v1/services/shop"))[1]["switchover"]) is None:
            await asyncio.sleep(0.01)
    await api.until_state(now["id"], "checking")
    api.prober.set("green", HealthWord.HEALTHY)
    assert (await running.done()).code == 0


WRONG_OR_REFUSED = {
    "switch red": 2,
    "switch toys green": 2,
    "switch green --strategy bold": 2,
    "switch": 2,
    "switch a b c": 2,
    "switch green --fast": 2,
    "weights blue=90 green=20": 2,
    "weights blue=ninety green=10": 2,
    "weights blue": 2,
    "servers green=nonsense": 2,
    "rollback": 4,
    "wait": 2,
    "pause": 2,
    "pause nothing": 2,
    "nothing": 2,
}


async def test_what_is_wrong_or_refused_has_its_exit_code_and_says_why(turnout: Shell) -> None:
    done: dict[str, Done] = {}
    waiting = iter(WRONG_OR_REFUSED)

    async def one_after_the_other() -> None:
        for line in waiting:
            done[line] = await turnout(*line.split())

    await asyncio.gather(*(one_after_the_other() for _ in range(3)))
    assert {line: found.code for line, found in done.items()} == WRONG_OR_REFUSED
    for line, found in done.items():
        assert found.out == "", line
        assert found.err.strip(), line
        assert "Traceback" not in found.err, line


async def test_an_unhealthy_target_and_a_second_switchover_are_refused(
    turnout: Shell, api: ApiBench
) -> None:
    api.prober.set("green", HealthWord.UNHEALTHY)
    done = await turnout("switch", "green")
    assert done.code == 4
    assert "green is unhealthy" in done.err
    forced = await turnout("switch", "green", "--force", "--reason", "it answers", "--json")
    assert (forced.code, forced.json["forced_by"]) == (0, "local")
    api.prober.set("green", HealthWord.HEALTHY)
    await turnout("rollback")
    id = await under_way(api)
    done = await turnout("switch", "green")
    assert done.code == 4
    assert id in done.err


# ---------------------------------------------------------------- waiting


async def test_an_interrupt_ends_the_waiting_and_not_the_switchover(
    turnout: Shell, api: ApiBench
) -> None:
    running = await turnout.start("switch", "green", "--strategy", "careful")
    assert running.process.stderr is not None
    async with asyncio.timeout(LIMIT_S):
        seen = b""
        while b"shifting" not in seen:
            seen += await running.process.stderr.readline()
    running.process.send_signal(signal.SIGINT)
    done = await running.done()
    (item,) = (await turnout("history", "--json")).json["items"]
    assert done.code == 130
    assert item["id"] in done.err
    assert item["state"] == "shifting"


async def test_waiting_goes_on_while_control_is_away(turnout: Shell, api: ApiBench) -> None:
    id = await under_way(api)
    running = await turnout.start("wait")
    assert running.process.stderr is not None
    async with asyncio.timeout(LIMIT_S):
        await running.process.stderr.readline()
    await turnout.away()
    await api.call("POST", f"/v1/switchovers/{id}/abort")
    await api.until_state(id, "aborted")
    await turnout.serve()
    done = await running.done()
    assert done.code == 1
    assert "aborted" in done.err


async def test_control_that_stays_away_is_3_with_the_id(turnout: Shell, api: ApiBench) -> None:
    id = await under_way(api)
    # A shorter patience than the 30 s of the real one.
    shorter = "import turnout.control.client as client; client.LOST_S = 0.2; "
    running = await turnout.start("wait", before=shorter)
    assert running.process.stderr is not None
    async with asyncio.timeout(LIMIT_S):
        await running.process.stderr.readline()
    await turnout.away()
    done = await running.done()
    assert done.code == 3
    assert id in done.err


async def test_control_that_is_not_there_is_3(alone: Shell) -> None:
    done = await alone("status")
    assert (done.code, done.out) == (3, "")
    assert "cannot be reached" in done.err


# ---------------------------------------------------------------- steer


async def test_the_one_under_way_is_steered_without_its_id(turnout: Shell, api: ApiBench) -> None:
    id = await under_way(api)
    assert (await turnout("pause", "--json")).json["state"] == "paused"
    assert (await turnout("pause")).code == 4
    assert (await turnout("resume", id, "--json")).json["state"] == "shifting"
    assert (await turnout("approve")).code == 4
    done = await turnout("abort", "--reason", "enough", "--json")
    assert (done.code, done.json["state"]) == (0, "aborted")


async def test_rollback_turns_back_what_is_under_way(turnout: Shell, api: ApiBench) -> None:
    id = await under_way(api)
    done = await turnout("rollback", "--reason", "no", "--json")
    assert (done.code, done.json["switchover"], done.json["state"]) == (0, id, "rolled_back")


async def test_weights_servers_hold_and_release(turnout: Shell, api: ApiBench) -> None:
    done = await turnout("weights", "blue=99.75", "green=0.25", "--json")
    assert (done.code, done.json["weights"]) == (0, {"blue": 99.75, "green": 0.25})
    done = await turnout("servers", "shop", "green=127.0.0.1:9009,unix:/run/a=b.sock", "--json")
    assert done.code == 0
    row = (await api.bench.executor.service("shop")).row
    assert row.servers == {"green": ("127.0.0.1:9009", "unix:/run/a=b.sock")}
    assert "held" in (await turnout("hold")).out
    assert (await turnout("release", "--json")).json["held"] is False


async def test_reload_says_what_needs_a_restart(turnout: Shell, api: ApiBench) -> None:
    api.reloaded = Reloaded(changed=True, needs_restart=("control.bind",))
    done = await turnout("reload")
    assert done.code == 0
    assert "control.bind" in done.err
    api.reloaded = Reloaded(error="turnout.yaml:3: services is empty")
    done = await turnout("reload")
    assert done.code == 2
    assert "turnout.yaml:3: services is empty" in done.err


# ---------------------------------------------------------------- who


async def test_the_token_is_that_of_the_environment(tmp_path: Path) -> None:
    async with served(tmp_path, TOKENS) as api:
        turnout = Shell(tmp_path, api)
        await turnout.serve()
        assert (await turnout("status")).code == 4
        assert (await turnout("status", TURNOUT_TOKEN="wrong")).code == 4
        assert (await turnout("status", TURNOUT_TOKEN="read-token-0123456789")).code == 0
        done = await turnout("hold", TURNOUT_TOKEN="read-token-0123456789")
        assert done.code == 4
        assert "dashboard" in done.err
        assert (await turnout("hold", TURNOUT_TOKEN="write-token-0123456789")).code == 0
        await turnout.away()


# ---------------------------------------------------------------- without an API


WRONG = """listeners: [{bind: "127.0.0.1:8080"}]
services:
  shop:
    upstreams: {blue: {servers: ["127.0.0.1:9001"]}, green: {servers: ["nonsense"]}}
    drain: {timeout: 30}
"""


async def test_check_names_every_mistake_with_its_line(alone: Shell) -> None:
    (alone.directory / "turnout.yaml").write_text(WRONG)
    done = await alone("check")
    assert (done.code, done.out) == (2, "")
    assert "turnout.yaml:4: services.shop.upstreams.green.servers" in done.err
    assert "turnout.yaml:5: services.shop.drain.timeout is 30" in done.err


async def test_check_of_a_right_file_is_0(alone: Shell) -> None:
    right = WRONG.replace('"nonsense"', "").replace("30", "30s")
    (alone.directory / "other.yaml").write_text(right)
    assert (await alone("check")).code == 2
    assert (await alone("check", "-c", "other.yaml")).code == 0
    assert (await alone("check", TURNOUT_CONFIG="other.yaml")).code == 0


async def test_the_configuration_says_where_the_api_is(turnout: Shell) -> None:
    right = WRONG.replace('"nonsense"', "").replace("30", "30s")
    text = f"control: {{bind: 'unix:{turnout.socket}'}}\n{right}"
    (turnout.directory / "turnout.yaml").write_text(text)
    del turnout.environment["TURNOUT_CONTROL"]
    assert (await turnout("status")).code == 0
    assert (await turnout("status", "--control", "127.0.0.1:1")).code == 3


@pytest.mark.parametrize(
    "wrong",
    [
        "bogus: 1",
        "control: {tokens: [{name: ci, scope: write, token: '${NOT_MINE_TO_KNOW}'}]}",
        "services: {shop: {upstreams: nonsense}}",
    ],
)
async def test_a_running_server_is_reached_whatever_else_is_wrong_with_the_file(
    turnout: Shell, wrong: str
) -> None:
    bind = f"bind: 'unix:{turnout.socket}'"
    file = turnout.directory / "turnout.yaml"
    del turnout.environment["TURNOUT_CONTROL"]
    if wrong.startswith("control"):
        file.write_text(wrong.replace("{tokens", f"{{{bind}, tokens") + "\n")
    else:
        file.write_text(f"control: {{{bind}}}\n{wrong}\n")
    assert (await turnout("check")).code == 2
    assert (await turnout("status")).code == 0


@pytest.mark.parametrize(
    "text", ["a: [", "control: {bind: '${NOBODY_SET_THIS}'}", "control: {bind: 9}"]
)
async def test_a_file_that_does_not_say_where_the_api_is_names_the_option(
    turnout: Shell, text: str
) -> None:
    (turnout.directory / "turnout.yaml").write_text(text)
    del turnout.environment["TURNOUT_CONTROL"]
    done = await turnout("status")
    assert (done.code, done.out) == (2, "")
    assert "turnout.yaml:1: " in done.err
    assert "--control" in done.err
    assert (await turnout("status", TURNOUT_CONTROL=f"unix:{turnout.socket}")).code == 0


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Where connections are taken, and nobody is there: a control process that is stopped."""
    monkeypatch.setattr(client, "ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(client, "LOST_S", 0.5)
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield "{}:{}".format(*listening.getsockname())


def test_a_control_that_is_stuck_is_not_waited_for(stuck: str) -> None:
    with pytest.raises(client.Unreachable, match="takes the call and does not answer"):
        client.Client(stuck).services()
    for method in ("POST", "PUT"):
        with pytest.raises(client.Unreachable):
            client.Client(stuck).call(method, "/v1/services/shop/hold")
    with pytest.raises(client.CommandError, match="7f3 goes on") as error:
        next(client.Client(stuck).follow("7f3"))
    assert error.value.code == 3


async def test_a_call_that_takes_long_is_waited_for_while_control_lives(
    turnout: Shell, api: ApiBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(client, "LOST_S", 0.3)
    api.bench.workers.prepare_gate = gate = asyncio.Event()
    asking = client.Client(f"unix:{turnout.socket}")
    body = {"weights": {"blue": 90, "green": 10}}
    calling = asyncio.create_task(
        asyncio.to_thread(asking.call, "PUT", "/v1/services/shop/weights", body)
    )
    _, pending = await asyncio.wait({calling}, timeout=1.5)
    assert pending, "it answers once the workers have acknowledged"
    gate.set()
    assert (await calling)["weights"] == {"blue": 90, "green": 10}
    items = (await api.call("GET", "/v1/services/shop/switchovers"))[1]["items"]
    assert len(items) == 1


async def test_schema_is_a_json_schema(alone: Shell) -> None:
    assert (await alone("schema")).json["$schema"].startswith("https://json-schema.org/")


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("-c", "missing.yaml"),
        ("--listen", ":0"),
        ("--listen", "nonsense", "--blue", "127.0.0.1:1", "--green", "127.0.0.1:2"),
    ],
)
async def test_run_with_nothing_right_to_run_is_2(alone: Shell, words: tuple[str, ...]) -> None:
    done = await alone("run", *words)
    assert (done.code, done.out) == (2, "")
    assert done.err.strip()
    assert "Traceback" not in done.err


async def test_every_command_explains_itself(alone: Shell) -> None:
    done = await alone("--help")
    assert done.code == 0
    for command in ("run", "switch", "rollback", "receipt"):
        assert command in done.out
    done = await alone("switch", "--help")
    assert "turnout switch green" in done.out
