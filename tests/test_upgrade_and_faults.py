"""Upgrades that meet another fault: what failed leaves control, workers and memory as they were."""

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Final

import pytest

from tests.harness import stopped, until
from tests.programs import OTHER_LAYOUT, Edits
from tests.test_upgrade import upgradable, upgrade, upgrade_ended
from turnout.proxy.upgrading import PROOF_PREFIX

DEAD_AT_FIRST: Final = [
    (
        "    parser = argparse",
        "    from pathlib import Path\n"
        "    if not Path(__file__).with_name('well').exists(): sys.exit(5)\n"
        "    parser = argparse",
    )
]
"""Of `proxy/worker.py`: it cannot start until the machine is well again."""


def be_well(program: Path) -> None:
    for directory in (program / "proxy", program / "turnout" / "proxy"):
        (directory / "well").write_text("")


async def test_control_knows_the_workers_that_follow_a_failed_upgrade(tmp_path: Path) -> None:
    async with upgradable(tmp_path) as at:
        product = at.product
        at.programs.install("bad", {**OTHER_LAYOUT, "proxy/worker.py": DEAD_AT_FIRST})
        found = await upgrade(product, "failed")
        assert "exit 5" in found["error"]
        be_well(at.programs.path)
        before = set(product.workers().values())
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        # Their successors are of the new program, and count in a scoreboard of its layout.
        await until(lambda: len(set(product.workers().values()) - before) == 2, "successors")
        await product.control_ready()
        await product.api.healthy()
        for _ in range(5):
            assert (await at.get()).status == 200
        assert (await product.api.metrics()).sum("turnout_requests_accepted_total") == 5
        slow = asyncio.create_task(at.get("/slow?delay=1.5"))
        await at.blue.received("/slow")
        ended = await product.api.switch("green")
        assert slow.done(), "it was called drained while a worker still had a request"
        assert (await slow).status == 200
        assert ended["receipt"]["requests"]["accepted"] == 1


async def test_no_room_behind_execve_leaves_the_old_workers(tmp_path: Path) -> None:
    fits = "        if self.boards and self._fits(wanted, workers):\n"
    full = f'        raise SharedMemoryError("no room")\n{fits}'
    async with upgradable(tmp_path) as at:
        product = at.product
        product.errors_expected = True
        before = product.processes()
        edits: Edits = {"proxy/scoreboards.py": [(fits, full)]}
        at.programs.install("full", edits)
        assert (await upgrade(product, "failed"))["error"] == "no room"
        assert product.processes() == before
        # Nor of another layout: nobody can be started, and those who serve go on.
        other = dict(OTHER_LAYOUT)
        at.programs.install("other", {**other, **edits})
        os.kill(product.supervisor_pid, signal.SIGUSR2)  # control may not have found it again yet
        await until(lambda: product.log().count('upgrade.failed reason="no room"') == 2, "failure")
        assert product.processes() == before
        os.kill(product.workers()[0], signal.SIGKILL)
        await until(lambda: "it has no scoreboard" in product.log(), "what it says")
        assert product.supervisor_pid in product.processes()
        assert (await at.get()).status == 200
        at.programs.install("1")
        os.kill(product.supervisor_pid, signal.SIGUSR2)
        await until(lambda: product.upgrade_step() == "done", "the upgrade", 20.0)
        await until(lambda: len(product.workers()) == 2, "two workers")


async def test_a_control_that_was_waiting_comes_back_after_a_failed_upgrade(
    tmp_path: Path,
) -> None:
    async with upgradable(tmp_path) as at:
        product = at.product
        control = product.control_pid
        at.programs.install("bad", {**OTHER_LAYOUT, "proxy/worker.py": DEAD_AT_FIRST})
        os.kill(control, signal.SIGKILL)
        # It is of another program, and so it waits for long.
        await until(lambda: "again_in_s=10.0" in product.log(), "that it waits")
        os.kill(product.supervisor_pid, signal.SIGUSR2)
        await until(lambda: product.upgrade_step() == "failed", "the failure")
        await product.control_replaced(control)


async def test_control_is_started_however_long_the_new_program_reads(tmp_path: Path) -> None:
    main = "def main(arguments: Sequence[str] | None = None) -> int:\n"
    async with upgradable(tmp_path) as at:
        at.programs.install(
            "slow",
            {
                "control/compiler.py": [(main, f"{main}    import time; time.sleep(3)\n")],
                "turnout/upgrade.py": [
                    ("CONTROL_LIMIT_S: Final = 20.0", "CONTROL_LIMIT_S: Final = 1.5")
                ],
            },
        )
        control = at.product.control_pid
        await at.product.api.call("POST", "/v1/upgrade")
        await until(lambda: at.product.upgrade_step() == "done", "the upgrade", 30.0)
        await at.product.control_replaced(control)


@pytest.mark.parametrize("watchdog", ["1s", "0s"])
async def test_the_old_worker_stays_while_the_new_one_hangs(tmp_path: Path, watchdog: str) -> None:
    timeouts = {"shutdown": "2s", "watchdog": watchdog}
    limit = [("CONTROL_LIMIT_S: Final = 20.0", "CONTROL_LIMIT_S: Final = 5.0")]
    async with upgradable(tmp_path, workers=1, timeouts=timeouts) as at:
        product = at.product
        old = product.workers()[0]
        at.programs.install("2", {"turnout/upgrade.py": limit})
        await product.api.call("POST", "/v1/upgrade")
        await until(lambda: product.workers().get(0) not in (None, old), "the new one to serve")
        async with stopped(product.workers()[0]):
            found = await upgrade_ended(product)
            assert found["step"] == "failed"
            why = "hung" if watchdog == "1s" else "does not turn its loop"
            assert why in found["error"]
            assert (await asyncio.wait_for(at.get(), 5.0)).status == 200
        assert old in product.processes()


async def test_a_proof_that_is_killed_leaves_nothing_for_long(tmp_path: Path) -> None:
    copied = "        state = replace(configuration.state, path=str(copy))\n"
    async with upgradable(tmp_path) as at:
        product = at.product

        def left() -> list[Path]:
            return list(product.runtime_dir.glob(f"{PROOF_PREFIX}*/store.db"))

        slow = f"        import time; time.sleep(20)\n{copied}"
        at.programs.install("slow", {"control/proof.py": [(copied, slow)]})
        for _ in range(2):
            await product.api.call("POST", "/v1/upgrade")
            (first,) = await until(left, "the copy of the store")
            proof = next(pid for pid, name in product.processes().items() if name.endswith("proof"))
            with contextlib.suppress(ProcessLookupError):
                os.kill(proof, signal.SIGKILL)
            assert (await upgrade_ended(product))["step"] == "failed"
            assert left() == [first]
        await product.stop()
        assert left() == []


async def test_an_end_that_was_not_written_down_does_not_forbid_the_next(tmp_path: Path) -> None:
    async with upgradable(tmp_path) as at:
        product = at.product
        at.programs.install("2")
        await product.api.call("POST", "/v1/upgrade")
        await until(lambda: product.upgrade_step() == "replacing", "the new workers")
        in_the_way = product.runtime_dir / ".upgrade.json.new"
        in_the_way.mkdir()
        await until(lambda: "upgrade.not_written" in product.log(), "the end", 20.0)
        in_the_way.rmdir()
        await product.control_ready()
        assert product.upgrade_step() == "replacing"
        at.programs.install("3")
        assert (await upgrade(product))["to_version"] == "3"
