"""`turnout upgrade` with really different programs, under load: nothing is lost, whatever fails.

`TURNOUT_UPGRADES=50` makes the row of upgrades longer than it is by default, and
`TURNOUT_FAULTS=all` runs every case of what may fail (`make upgrades` has both).
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests.harness import ApiError, Bench, Product, settings, until
from tests.load import Load, misplaced, must_not_fail
from tests.programs import OTHER_LAYOUT, Edits, Programs
from tests.upstreams import Exchange, Upstream
from turnout.proxy.scoreboard import SCOREBOARD_FILE

UPGRADES: Final = int(os.environ.get("TURNOUT_UPGRADES", "3"))
EVERY_CASE: Final = os.environ.get("TURNOUT_FAULTS") == "all"
STEP_LIMIT_S: Final = 40.0


@dataclass(slots=True)
class Upgradable(Bench):
    """A product whose program can be replaced on the disk."""

    programs: Programs


@contextlib.asynccontextmanager
async def upgradable(tmp_path: Path, **top: Any) -> AsyncIterator[Upgradable]:
    programs = Programs(tmp_path / "programs")
    async with Upstream("blue") as blue, Upstream("green") as green:
        configuration = settings([blue.address], [green.address])
        product = Product({**configuration, **top}, program=programs)
        try:
            await product.start()
            await product.api.healthy()
            yield Upgradable(product, blue, green, programs)
        finally:
            await product.close()


async def upgrade(product: Product, expected: str = "done") -> dict[str, Any]:
    """Upgrade, and wait for how it ends."""
    begun = await product.api.call("POST", "/v1/upgrade")
    found = await upgrade_ended(product)
    assert (found["id"], found["step"]) == (begun["id"], expected), found
    return found


async def upgrade_ended(product: Product) -> dict[str, Any]:
    async with asyncio.timeout(STEP_LIMIT_S):
        while True:
            with contextlib.suppress(httpx.TransportError, ApiError):
                found: dict[str, Any] = await product.api.call("GET", "/v1/upgrade")
                if found["id"] and not found["under_way"]:
                    return found
            await asyncio.sleep(0.02)


async def turnout(product: Product, *words: str) -> tuple[int, str, str]:
    """The command line; its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "turnout", *words, "--control", product.control_address),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=product.environment,
    )
    out, err = await asyncio.wait_for(process.communicate(), STEP_LIMIT_S)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


# ---------------------------------------------------------------- all goes well


async def test_upgrades_in_a_row_under_load_lose_nothing(tmp_path: Path) -> None:
    async with upgradable(tmp_path) as at:
        product = at.product
        supervisor = product.supervisor_pid
        load = Load(lambda: product.address)
        took: list[float] = []
        accepted = 0.0
        async with load.running(kept=4, fresh=4):
            await load.more(50)
            for number in range(UPGRADES):
                # Every second one is of another layout: there and back again.
                version = f"2.{number % 2}"
                at.programs.install(version, OTHER_LAYOUT if number % 2 else {})
                before = product.workers()
                begun = time.monotonic()
                found = await upgrade(product)
                took.append(time.monotonic() - begun)
                assert (found["to_version"], found["version"]) == (version, version)
                await load.more(20)
                after = product.workers_by_process()
                assert len(after) == 2
                assert not set(before.values()) & set(after), "the old ones serve still"
                to = "green" if number % 2 else "blue"
                await product.api.switch(to)
                counted = (await product.api.metrics()).sum("turnout_requests_accepted_total")
                assert counted >= accepted, f"a counter fell, at upgrade {number}"
                accepted = counted
            await load.more(50)
        assert product.supervisor_pid == supervisor
        must_not_fail(load.samples, at_least=200)
        assert misplaced(load.samples, [at.blue, at.green]) == []
        await until(lambda: not product.leaving(), "the old workers to go")
        # The third ledger: what the proxy has counted, over all programs and layouts.
        metrics = await product.api.metrics()
        assert metrics.sum("turnout_requests_accepted_total") == len(load.samples)
        assert metrics.sum(
            "turnout_requests_total", outcome="answered_by_upstream", code="200"
        ) == len(load.samples)
        assert metrics.sum("turnout_requests_in_flight") == 0
        kept = list(product.runtime_dir.glob(f"{SCOREBOARD_FILE}*"))
        assert len(kept) <= 4, kept
        print(
            f"{UPGRADES} upgrades, {len(load.samples)} requests, 0 lost, doubled or misrouted; "
            f"seconds each: {min(took):.2f} to {max(took):.2f}"
        )


async def test_what_is_under_way_goes_on_in_the_old_workers_for_the_drain_time(
    tmp_path: Path,
) -> None:
    goes_on = asyncio.Event()

    async def halves(exchange: Exchange) -> None:
        await exchange.send(exchange.head(200, ("Content-Length: 200000",)))
        await exchange.send(bytes(100_000))
        await goes_on.wait()
        await exchange.send(bytes(100_000))

    async with upgradable(tmp_path, timeouts={"shutdown": "4s"}) as at:
        at.blue.script["/long"] = halves
        product = at.product
        before = set(product.workers().values())
        handshake = (
            b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        )
        async with (
            await at.client() as socket,
            await at.client() as download,
            await at.client() as never,
        ):
            await socket.send(handshake)
            assert (await socket.answer()).status == 101
            await never.ask("/never?hang=1")
            await at.blue.received("/never")
            await download.ask("/long")
            await at.blue.received("/long")
            at.programs.install("2", OTHER_LAYOUT)
            found = await upgrade(product)
            assert found["finishing"] >= 1
            # The old workers are read in their layout, by the new control.
            service = await product.api.service()
            assert service["upstreams"]["blue"]["in_flight"] == 3
            await socket.send(b"\x82\x85\0\0\0\0hello")
            assert await socket.until(b"hello")
            assert (await at.get("/other")).status == 200
            metrics = await product.api.metrics()
            assert metrics.sum("turnout_requests_in_flight", **{"class": "tunnel"}) == 1
            goes_on.set()
            answer = await download.answer()
            assert (answer.status, len(answer.body)) == (200, 200_000)
            assert before & set(product.processes())
            # What does not end is cut at the drain time, and counted.
            assert (await never.answer()).status == 503
            await socket.rest()  # maybe in another worker, some moments later
        await until(lambda: not before & set(product.processes()), "the old workers to go")
        metrics = await product.api.metrics()
        assert metrics.sum("turnout_requests_in_flight") == 0
        assert metrics.sum("turnout_requests_accepted_total") == 4
        assert metrics.sum("turnout_requests_cut_total", reason="shutdown") == 2


async def test_a_switchover_under_way_goes_on_over_an_upgrade(tmp_path: Path) -> None:
    strategies = {"slow": {"steps": [50, 100], "pause": "4s"}}
    programs = Programs(tmp_path / "programs")
    async with Upstream("blue") as blue, Upstream("green") as green:
        base = settings([blue.address], [green.address], switchover={"strategies": strategies})
        product = Product(base, program=programs)
        try:
            await product.start()
            await product.api.healthy()
            load = Load(lambda: product.address)
            async with load.running(kept=2, fresh=2):
                await load.more(20)
                started = await product.api.switch("green", wait=False, strategy="slow")
                await product.api.state(started["id"], "shifting")
                programs.install("2", OTHER_LAYOUT)
                await upgrade(product)
                ended = await product.api.ended(started["id"])
                await load.more(20)
            must_not_fail(load.samples)
            assert misplaced(load.samples, [blue, green]) == []
            assert ended["state"] == "completed"
            assert ended["receipt"]["window"]["counters_restarted"] is False
            sums = ended["receipt"]["requests"]
            assert sums["accepted"] == (
                sums["answered_by_upstream"] + sums["answered_by_proxy"]
                + sums["client_aborted"] + sums["cut"] + sums["in_flight"]
            )  # fmt: skip
            assert sums["accepted"] > 0
        finally:
            await product.close()


async def test_the_command_shows_the_steps_and_takes_a_changed_file(tmp_path: Path) -> None:
    async with upgradable(tmp_path) as at:
        product = at.product
        control, before = product.control_pid, set(product.workers().values())
        product.write_config({"workers": 3})
        at.programs.install("2", OTHER_LAYOUT)
        running = asyncio.create_task(turnout(product, "upgrade"))
        await until(product.upgrade_step, "it to begin")
        with pytest.raises(ApiError) as refused:
            await product.api.call("POST", "/v1/upgrade")
        assert refused.value.status == 409
        await until(lambda: product.upgrade_step() == "starting", "execve")
        os.kill(product.supervisor_pid, signal.SIGHUP)
        seen = 0
        while product.upgrade_step() != "done":
            new = set(product.workers().values()) - before
            alive = product.processes()
            # A control that does not see a worker would call drained what that still holds.
            assert not (new and control in alive), "a new worker serves under the old control"
            assert before <= set(alive), "an old worker left before the new ones had served"
            seen += len(new)
            await asyncio.sleep(0.002)
        assert seen, "it was over before it was looked at"
        code, out, err = await running
        assert (code, out) == (0, "upgraded from 1 to 2\n")
        # A signal that came amid it is not forgotten.
        await until(lambda: "configuration.reloaded who=SIGHUP" in product.log(), "the reload")
        assert "proves itself" in err and "control is replaced" in err
        assert len(product.workers()) == 3
        assert (await at.get()).status == 200
        code, out, err = await turnout(product, "status")
        assert (code, "upgrade" in out) == (0, False)
        audit = (await product.api.call("GET", "/v1/audit"))["items"]
        assert ("upgrade", "begun") in [(one["action"], one["outcome"]) for one in audit]


# ---------------------------------------------------------------- the proof fails

PROVING: Final = "    try:\n        proof"
SLEEP: Final = "import time; time.sleep(1.5); sys.exit(9)"
NO_PROOF: Final[dict[str, tuple[Edits, str]]] = {
    "what a worker imports is broken": (
        {"proxy/head.py": [("import", "this is no Python\nimport")]},
        "turnout.proxy.worker cannot be loaded: SyntaxError",
    ),
    "it speaks another language": (
        {"proxy/commands.py": [("VERSION: Final = 1\n", "VERSION: Final = 2\n")]},
        "restart turnout instead",
    ),
    "it cannot read what is handed over": (
        {"proxy/upgrading.py": [("HANDOVER_VERSION: Final = 1", "HANDOVER_VERSION: Final = 2")]},
        "hands over by version 1, this one knows 1 and 2",
    ),
    "it cannot read the table in force": (
        {"config/table.py": [("FORMAT: Final = 1", "FORMAT: Final = 9")]},
        "what is in force",
    ),
    "the store is newer": (
        {"control/ledger.py": [("SCHEMA_VERSION: Final = 1", "SCHEMA_VERSION: Final = 0")]},
        "was written by a newer turnout",
    ),
    "it ends without a word": (
        {
            "control/proof.py": [
                ("    try:\n        proof", "    sys.exit(9)\n    try:\n        proof")
            ]
        },
        "did not prove itself: exit 9",
    ),
}


async def test_a_program_that_does_not_prove_itself_changes_nothing(tmp_path: Path) -> None:
    async with upgradable(tmp_path) as at:
        product = at.product
        before = product.processes()
        files = sorted(path.name for path in product.runtime_dir.iterdir())
        for number, (what, (edits, why)) in enumerate(NO_PROOF.items()):
            at.programs.install(f"bad{number}", edits)
            found = await upgrade(product, "failed")
            assert why in found["error"], what
            assert product.processes() == before, what
            assert (await at.get()).status == 200
        at.programs.install("1")
        product.write_config({"wokers": 2})
        code, _, err = await turnout(product, "upgrade")
        assert code == 1
        assert "wokers" in err and "serve on" in err
        _, out, _ = await turnout(product, "status")
        assert "the last upgrade failed" in out and "wokers" in out
        assert product.processes() == before
        after = sorted(path.name for path in product.runtime_dir.iterdir())
        assert sorted({*after} - {*files}) == ["upgrade.json"]
        assert product.log().count("upgrade.failed") == len(NO_PROOF) + 1

        # While it proves itself, and when it has failed, all goes on as usual.
        at.programs.install("slow", {"control/proof.py": [(PROVING, f"    {SLEEP}\n{PROVING}")]})
        await product.api.call("POST", "/v1/upgrade")
        product.configuration.pop("wokers")
        product.write_config({"workers": 1})
        os.kill(product.supervisor_pid, signal.SIGHUP)
        await until(lambda: "configuration.reloaded" in product.log(), "the reload")
        assert product.upgrade_step() == "proving"
        assert (await upgrade_ended(product))["step"] == "failed"
        assert len(product.workers()) == 1


# ---------------------------------------------------------------- the new workers fail

NO_WORKERS: Final[dict[str, tuple[Edits, str]]] = {
    "dead at the start": (
        {"proxy/worker.py": [("    parser = argparse", "    sys.exit(5)\n    parser = argparse")]},
        "a worker of the new program died (exit 5)",
    ),
    "never ready": (
        {
            "proxy/worker.py": [("    parser = arg", "    import time; time.sleep(60)\n    parser = arg")],
            "turnout/upgrade.py": [("START_LIMIT_S: Final = 30.0", "START_LIMIT_S: Final = 0.5")],
        },
        "2 of 2 workers of the new program had not started within 0.5 s",
    ),
    "never serves": (
        {
            "proxy/worker_core.py": [
                ("        await self._serve_sockets()\n        if not", "        return\n        if not")
            ],
            "turnout/upgrade.py": [("SERVE_LIMIT_S: Final = 10.0", "SERVE_LIMIT_S: Final = 0.5")],
        },
        "2 of 2 workers of the new program did not accept connections within 0.5 s",
    ),
    "dead soon after it serves": (
        {
            "proxy/worker_core.py": [
                (
                    "            self.words[self.region_base + R_STATE] = WorkerState.SERVING",
                    "            self.words[self.region_base + R_STATE] = WorkerState.SERVING\n"
                    "            for one in self.listeners: one.stop()\n"
                    "            self.listeners = []\n"
                    "            self.loop.call_later(0.3, os._exit, 6)",
                )
            ]
        },
        "a worker of the new program died (exit 6)",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", NO_WORKERS if EVERY_CASE else ["dead soon after it serves"])
async def test_when_the_new_workers_fail_the_old_ones_serve_on(tmp_path: Path, what: str) -> None:
    edits, why = NO_WORKERS[what]
    layout = dict(OTHER_LAYOUT) if "dead" in what else {}
    async with upgradable(tmp_path) as at:
        product = at.product
        before = set(product.workers().values())
        load = Load(lambda: product.address)
        async with load.running(kept=3, fresh=3):
            await load.more(20)
            at.programs.install("bad", {**layout, **edits})
            found = await upgrade(product, "failed")
            assert why in found["error"]
            await load.more(50)
            assert before <= set(product.processes())
            await until(lambda: set(product.worker_processes()) == before, "the new ones to go")
            # A good one follows: the supervisor that failed becomes it.
            at.programs.install("good")
            found = await upgrade(product)
            await load.more(50)
        assert (found["to_version"], found["version"]) == ("good", "good")
        must_not_fail(load.samples)
        assert misplaced(load.samples, [at.blue, at.green]) == []
        await until(lambda: not before & set(product.processes()), "the old workers to go")
        metrics = await product.api.metrics()
        assert metrics.sum("turnout_requests_accepted_total") == len(load.samples)
        assert metrics.sum("turnout_requests_in_flight") == 0


# ---------------------------------------------------------------- beside an upgrade


@pytest.mark.parametrize(
    "step", ["starting", "proving", "replacing"] if EVERY_CASE else ["starting"]
)
async def test_turnout_can_be_stopped_amid_an_upgrade(tmp_path: Path, step: str) -> None:
    async with upgradable(tmp_path) as at:
        product = at.product
        at.programs.install("2", OTHER_LAYOUT)
        slow = asyncio.create_task(at.get("/slow?delay=1.5"))
        await at.blue.received("/slow")
        await product.api.call("POST", "/v1/upgrade")
        await until(lambda: product.upgrade_step() == step, step)
        assert await product.stop() == 0
        assert (await slow).status == 200


@pytest.mark.parametrize("hit", ["replacing", "starting"] if EVERY_CASE else ["replacing"])
async def test_a_supervisor_that_is_killed_amid_an_upgrade_is_followed(
    tmp_path: Path, hit: str
) -> None:
    async with upgradable(tmp_path) as at:
        product = at.product
        address = product.address
        product.configuration["listeners"] = [{"bind": address}]
        load = Load(lambda: address)
        async with load.running(kept=2, fresh=2):
            await load.more(20)
            at.programs.install("2", OTHER_LAYOUT)
            await product.api.call("POST", "/v1/upgrade")
            await until(lambda: product.upgrade_step() == hit, hit)
            os.kill(product.supervisor_pid, signal.SIGKILL)
            await product.wait()
            await load.more(20)
            await product.start()
            await load.more(50)
        must_not_fail(load.samples)
        assert misplaced(load.samples, [at.blue, at.green]) == []
        found = await product.api.call("GET", "/v1/upgrade")
        assert (found["step"], found["error"]) == ("failed", "the supervisor ended meanwhile")
        await until(lambda: len(product.worker_processes()) == 2, "two workers only")


# ---------------------------------------------------------------- a program changed on disk


async def test_a_program_changed_under_a_running_one_never_mixes(tmp_path: Path) -> None:
    async with upgradable(tmp_path) as at:
        product = at.product
        load = Load(lambda: product.address)
        first, second = product.workers().values()
        async with load.running(kept=0, fresh=2):
            await load.more(20)
            at.programs.install("2", OTHER_LAYOUT)
            os.kill(first, signal.SIGKILL)
            await until(lambda: "worker.other_generation" in product.log(), "what a worker says")
            await load.more(20)
            assert list(product.workers().values()) == [second]
            _, out, _ = await turnout(product, "status")
            assert "run `turnout upgrade`" in out
            # Control does not come back either; so it is the supervisor that is told.
            os.kill(product.control_pid, signal.SIGKILL)
            await until(lambda: "control.other_generation" in product.log(), "what control says")
            await load.more(20)
            code, _, err = await turnout(product, "upgrade")
            assert (code, "kill -USR2" in err) == (3, True)
            os.kill(product.supervisor_pid, signal.SIGUSR2)
            found = await upgrade_ended(product)
            assert (found["step"], found["version"]) == ("done", "2")
            await load.more(20)
        assert "exit 78: another version of turnout is installed" in product.log()
        await until(lambda: len(product.worker_processes()) == 2, "two workers")
        assert second not in product.processes()
        lost = [one for one in load.samples if one.error or one.status != 200]
        # What the killed worker held, at most one for each client.
        assert len(lost) <= 2, lost


# ---------------------------------------------------------------- reload


CHANGES: Final[tuple[Callable[[dict[str, Any]], dict[str, Any]], ...]] = (
    lambda now: {"workers": 3},
    lambda now: {"timeouts": {"shutdown": "3s", "keep_alive": "5s"}},
    lambda now: {"listeners": [*now["listeners"], {"bind": "[::1]:0"}][:2]},
    lambda now: {"workers": 1},
    lambda now: {"limits": {**now["limits"], "headers": 90}},
    lambda now: {"workers": 2, "trust_forwarded": ["10.0.0.0/8"]},
)


async def test_reloads_in_a_row_under_load_lose_nothing(tmp_path: Path) -> None:
    async with upgradable(tmp_path) as at:
        product = at.product
        load = Load(lambda: product.address)
        reloads = max(len(CHANGES), UPGRADES)
        async with load.running(kept=4, fresh=4):
            await load.more(50)
            for number in range(reloads):
                done = product.log().count("configuration.reloaded")
                product.write_config(CHANGES[number % len(CHANGES)](product.configuration))
                os.kill(product.supervisor_pid, signal.SIGHUP)
                await until(
                    lambda: product.log().count("configuration.reloaded") > done,  # noqa: B023
                    f"reload {number}",
                )
                await load.more(20)
        must_not_fail(load.samples, at_least=200)
        assert misplaced(load.samples, [at.blue, at.green]) == []
        assert "configuration.refused" not in product.log()
