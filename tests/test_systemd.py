"""What systemd and container runtimes are told, and what they send: by real sockets and signals."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.harness import ROOT, Product, bench, settings, until
from tests.test_upgrade import upgrade
from tests.under_test import PYTHON, python_path
from tests.upstreams import Upstream
from turnout.notify import watchdog_interval_s


class Notified:
    """A NOTIFY_SOCKET: what the supervisor has said, each with who said it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.messages: list[dict[str, str]] = []
        self.at_s: list[float] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)
        asyncio.get_running_loop().add_reader(self._socket.fileno(), self._read)

    def _read(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while data := self._socket.recv(65536):
                self.messages.append(dict(line.split("=", 1) for line in data.decode().split("\n")))
                self.at_s.append(time.monotonic())

    def said(self, name: str) -> list[dict[str, str]]:
        return [one for one in self.messages if name in one]

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self._socket.fileno())
        self._socket.close()


@contextlib.asynccontextmanager
async def notifying(tmp_path: Path, **environment: str) -> AsyncIterator[tuple[Product, Notified]]:
    notified = Notified(tmp_path / "notify")
    async with Upstream("blue") as blue:
        product = Product(
            settings([blue.address], [], health="off"),
            environment={"NOTIFY_SOCKET": str(notified.path), **environment},
        )
        try:
            await product.start()
            await until(lambda: notified.said("READY"), "READY=1")
            yield product, notified
        finally:
            await product.close()
            notified.close()


async def test_what_is_told_of_start_reload_upgrade_and_stop(tmp_path: Path) -> None:
    async with notifying(tmp_path, WATCHDOG_USEC="600000") as (product, notified):
        [told] = notified.said("READY")
        assert told["MAINPID"] == str(product.supervisor_pid)
        assert told["STATUS"].startswith("serving on 127.0.0.1:")

        before_us = time.monotonic_ns() // 1000
        os.kill(product.supervisor_pid, signal.SIGHUP)
        await until(lambda: len(notified.said("READY")) == 2, "the end of the reload")
        [reloading] = notified.said("RELOADING")
        assert before_us <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000

        await upgrade(product)
        await until(lambda: len(notified.said("READY")) == 3, "the end of the upgrade")
        assert "upgrading" in notified.said("RELOADING")[1]["STATUS"]
        # One that fails before it has begun to change anything says nothing.
        product.write_config({"wokers": 1})
        await upgrade(product, "failed")
        assert {one["MAINPID"] for one in notified.said("READY")} == {str(product.supervisor_pid)}
        told_of = [next(iter(one)) for one in notified.messages if "WATCHDOG" not in one]
        # The last word of each decides: it must never be left as reloading.
        assert told_of == ["READY", "RELOADING", "READY", "RELOADING", "READY"]

        # The watchdog is fed by the next program, too, at half of its time.
        fed = len(notified.said("WATCHDOG"))
        await until(lambda: len(notified.said("WATCHDOG")) > fed + 2, "it to be fed on")
        # A supervisor that hangs does not say that it lives.
        os.kill(product.supervisor_pid, signal.SIGSTOP)
        await until(lambda: is_stopped(product.supervisor_pid), "it to hang")
        fed = len(notified.said("WATCHDOG"))
        await asyncio.sleep(0.9)
        assert len(notified.said("WATCHDOG")) == fed
        os.kill(product.supervisor_pid, signal.SIGCONT)
        await until(lambda: len(notified.said("WATCHDOG")) > fed, "it to be fed again")

        assert await product.stop() == 0
        assert len(notified.said("STOPPING")) == 1


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.parametrize(
    ("environment", "interval_s"),
    [
        ({}, 0.0),
        ({"WATCHDOG_USEC": "10000000"}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "7"}, 5.0),
        ({"WATCHDOG_USEC": "10000000", "WATCHDOG_PID": "8"}, 0.0),
        ({"WATCHDOG_USEC": "soon"}, 0.0),
    ],
)
def test_how_often_the_watchdog_is_fed(environment: dict[str, str], interval_s: float) -> None:
    assert watchdog_interval_s(environment, 7) == interval_s


async def test_children_are_told_nothing_of_systemd(tmp_path: Path) -> None:
    async with notifying(tmp_path, WATCHDOG_USEC="60000000") as (product, _):
        for pid in set(product.processes()) - {product.supervisor_pid}:
            names = {
                one.partition(b"=")[0]
                for one in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            }
            assert not names & {b"NOTIFY_SOCKET", b"WATCHDOG_USEC", b"LISTEN_FDS"}


# ---------------------------------------------------------------- socket activation

START = (
    "import fcntl, os, sys\n"
    "count = int(sys.argv[1])\n"
    "given = [fcntl.fcntl(int(word), fcntl.F_DUPFD, 20) for word in sys.argv[3:3 + count]]\n"
    "for place, fd in enumerate(given, 3): os.dup2(fd, place)\n"
    "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(count), LISTEN_FDNAMES='a:b')\n"
    "os.execv(sys.executable, [sys.executable, '-P', '-m', 'turnout.supervisor', '--config',"
    " sys.argv[2]])\n"
)


async def test_sockets_of_systemd_outlive_upgrade_and_supervisor(tmp_path: Path) -> None:
    """systemd hands the same sockets over at each start; those that workers hold are those."""
    async with Upstream("blue") as blue:
        with (
            socket.create_server(("127.0.0.1", 0)) as first,
            socket.create_server(("127.0.0.1", 0)) as second,
        ):
            sockets = [first, second]
            binds = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
            base = settings([blue.address], [], health="off")
            product = Product({**base, "listeners": [{"bind": bind} for bind in binds]})
            product.write_config()

            errors = await asyncio.to_thread(open, product.log_file, "ab")

            async def start() -> asyncio.subprocess.Process:
                numbers = [str(one.fileno()) for one in sockets]
                process = await asyncio.create_subprocess_exec(
                    *(PYTHON, "-c", START, "2", str(product.config_file), *numbers),
                    pass_fds=[one.fileno() for one in sockets],
                    env={**os.environ, "PYTHONPATH": python_path()},
                    stderr=errors,
                )
                await until(
                    lambda: product.listening_pid() == process.pid and len(product.workers()) == 2,
                    "the workers",
                    20.0,
                )
                return process

            async def all_answer() -> None:
                for bind in binds:
                    async with httpx.AsyncClient(base_url=f"http://{bind}") as client:
                        assert (await client.get("/")).status_code == 200

            try:
                process = await start()
                await all_answer()
                await product.control_ready()
                await upgrade(product)
                await all_answer()
                before = product.workers()
                process.kill()
                await process.wait()
                process = await start()
                assert product.workers() == before
                await all_answer()
                assert "socket.unused" not in product.log()
                process.terminate()
                assert await asyncio.wait_for(process.wait(), 15) == 0
                assert all(
                    one.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN) for one in sockets
                )
            finally:
                errors.close()
                await product.close()


# ---------------------------------------------------------------- signals of a container


async def test_sigterm_takes_readiness_away_finishes_and_exits_0() -> None:
    listener = {"bind": "127.0.0.1:0", "health_path": "/_turnout/health"}
    async with bench(
        control=False, top={"listeners": [listener], "timeouts": {"shutdown": "5s"}}
    ) as at:
        async with await at.client() as probe, await at.client() as client:
            assert (await probe.get("/_turnout/health")).status == 200
            await client.ask("/slow?delay=1.5")
            await at.blue.received("/slow")
            os.kill(at.product.supervisor_pid, signal.SIGTERM)
            await until(lambda: not at.product.workers(), "the workers to leave")
            # On a connection that was open already: not ready any more. A new one is refused.
            assert (await probe.get("/_turnout/health")).status == 503
            # Who came between the last accept and that is reset; nobody is left waiting.
            found: OSError | None = None
            begun_s = time.monotonic()
            while not isinstance(found, ConnectionRefusedError):
                assert time.monotonic() < begun_s + 1.0, found
                with pytest.raises(OSError) as met:
                    async with asyncio.timeout(1):
                        await at.get("/_turnout/health")
                found = met.value
            assert (await client.answer()).status == 200
        assert await at.product.wait() == 0
        await until(lambda: not at.product.processes(), "all of it to end")


@pytest.mark.parametrize("second", [signal.SIGTERM, signal.SIGINT])
async def test_a_second_signal_ends_it_at_once(second: signal.Signals) -> None:
    async with bench(control=False, top={"timeouts": {"shutdown": "60s"}}) as at:
        async with await at.client() as client:
            await client.ask("/never?hang=1")
            await at.blue.received("/never")
            os.kill(at.product.supervisor_pid, signal.SIGTERM)
            await until(lambda: not at.product.workers(), "the workers to leave")
            os.kill(at.product.supervisor_pid, second)
            assert await at.product.wait(5.0) == 0
        assert not at.product.processes()


# ---------------------------------------------------------------- the unit file


def unit() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in (ROOT / "deploy/turnout.service").read_text().splitlines():
        if match := re.fullmatch(r"([A-Za-z]+)=(.*)", line):
            found.setdefault(match[1], []).append(match[2])
    return found


def test_the_unit_leaves_workers_and_runtime_directory_alive_when_the_supervisor_dies() -> None:
    assert unit()["KillMode"] == ["process"]
    assert unit()["RuntimeDirectoryPreserve"] == ["restart"]
    assert unit()["Restart"] == ["always"]


def test_the_unit_watches_and_upgrades() -> None:
    assert unit()["Type"] == ["notify"]
    assert unit()["NotifyAccess"] == ["main"]
    assert unit()["WatchdogSec"] == ["30s"]
    assert unit()["WatchdogSignal"] == ["SIGKILL"]
