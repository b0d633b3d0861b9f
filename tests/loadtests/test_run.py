"""The load test as it is run: it finds what is broken on purpose, and clears up after itself."""

import asyncio
import json
import os
import signal
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

from tests.harness import ROOT, until

RUN = (sys.executable, "-m", "loadtests")
LIMIT_S = 120.0

# Each worker learns of a switch up to a second late; and the one that is first to get its 200th
# request dies of it.
FAULTS = """
import os, sys
if "turnout.proxy.worker" in sys.orig_argv:
    import signal, time
    from turnout.proxy import exchange

    class Late:
        def __init__(self, words):
            self.words, self.copy, self.at_s = words, {}, 0.0

        def __getitem__(self, index):
            now_s = time.monotonic()
            if now_s - self.at_s > 1:
                self.copy, self.at_s = {}, now_s
            return self.copy.setdefault(index, self.words[index])

    pick = exchange.Exchange.pick
    picks = 0

    def pick_badly(self):
        global picks
        if not isinstance(self.worker.routing, Late):
            self.worker.routing = Late(self.worker.routing)
        pick(self)
        picks += 1
        if picks == 200 and not os.path.exists(mark := __file__ + ".died"):
            open(mark, "w").close()
            os.kill(os.getpid(), signal.SIGKILL)

    exchange.Exchange.pick = pick_badly
"""


async def test_a_broken_product_fails_it_and_every_request_is_named(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(FAULTS)
    process = await asyncio.create_subprocess_exec(
        *RUN, "--seconds", "8", "--switch-every", "100ms", "--seed", "1", "--json",
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(tmp_path)}, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    async with asyncio.timeout(LIMIT_S):
        said, complained = await process.communicate()
    assert process.returncode == 1, complained.decode()
    result = json.loads(said)
    assert not result["good"]
    assert result["faults"]["lost"] >= 1, result["findings"]
    assert result["faults"]["misrouted"] >= 1, result["findings"]
    misrouted = [text for text in result["findings"] if text.startswith("misrouted: ")]
    assert all(text.split(": ")[1][0] in "rew" for text in misrouted), misrouted
    assert "turnout_worker_restarts_total{} is 1" in "\n".join(result["findings"])


async def test_switches_reloads_and_kills_of_control_are_not_noticed_by_traffic() -> None:
    """A few of each; `make reliability` does hundreds."""
    process = await asyncio.create_subprocess_exec(
        *RUN, "--switches", "1", "--reloads", "4", "--control-kills", "2", "--switch-every", "50ms",
        "--seed", "32", "--json", cwd=ROOT, stdout=PIPE, stderr=PIPE,
    )  # fmt: skip
    async with asyncio.timeout(LIMIT_S):
        said, complained = await process.communicate()
    assert process.returncode == 0, (said.decode(), complained.decode())
    result = json.loads(said)
    assert result["good"]
    assert result["changes"]["atomic switch, control killed amid it"] == 2
    assert result["changes"]["reload of a change"] == 4
    assert sum(result["changes"].values()) == 9


async def test_ctrl_c_ends_all_that_was_started(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *RUN, "--seconds", "60", cwd=ROOT, env={**os.environ, "LOADTESTS_MARK": str(tmp_path)},
        stdout=PIPE, stderr=asyncio.subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        async with asyncio.timeout(LIMIT_S):
            while b"s left" not in (line := await process.stdout.readline()):
                assert line, "it ended by itself"
            mine = marked(tmp_path)
            # The runner, locust, 4 servers, supervisor, control and 2 workers.
            assert len(mine) == 10
            process.send_signal(signal.SIGINT)
            rest = await process.stdout.read()
            assert await process.wait() == 130, rest.decode()
        await until(lambda: not marked(tmp_path), "its processes to end", 5.0)
    finally:
        for pid in marked(tmp_path):
            os.kill(pid, signal.SIGKILL)


def marked(mark: Path) -> list[int]:
    """Processes that were started with our mark in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.fsencode(mark) in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue
    return found
