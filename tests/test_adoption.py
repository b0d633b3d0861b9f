"""A supervisor that was killed: the next one adopts workers and sockets, and nobody notices."""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest

from tests.harness import Product, bench, settings, stopped, until
from tests.load import Load, misplaced, must_not_fail
from tests.programs import OTHER_LAYOUT, Programs
from tests.rawhttp import Malformed, get
from tests.upstreams import Upstream
from turnout.proxy.commands import worker_socket

KILLS: Final = int(os.environ.get("TURNOUT_UPGRADES", "2"))
"""Of the supervisor, one after the other; as many as there are upgrades on demand."""


async def kill_the_supervisor(product: Product) -> None:
    os.kill(product.supervisor_pid, signal.SIGKILL)
    await product.wait()


async def test_killed_supervisors_are_followed_under_load_and_nothing_is_lost() -> None:
    async with bench() as at:
        product, address = at.product, at.product.address
        product.configuration["listeners"] = [{"bind": address}]
        workers = product.workers()
        load = Load(lambda: address)
        async with load.running(kept=4, fresh=4):
            for _ in range(KILLS):
                await load.more(30)
                await kill_the_supervisor(product)
                await load.more(30)
                await product.start()
                assert product.workers() == workers
            await load.more(30)
            # Adopted workers take what a reload changes, like any others.
            product.write_config({"listeners": [{"bind": address}, {"bind": "[::1]:0"}]})
            os.kill(product.supervisor_pid, signal.SIGHUP)
            await until(lambda: "[::1]:0" in product.addresses(), "another listener")
            second = product.addresses()["[::1]:0"]
            host, port = second[1:].split("]:")
            socket.create_connection((host, int(port)), timeout=5).close()
        must_not_fail(load.samples, at_least=200)
        assert misplaced(load.samples, [at.blue, at.green]) == []
        metrics = await product.api.metrics()
        assert metrics.sum("turnout_requests_accepted_total") == len(load.samples)
        assert await product.stop() == 0


async def test_workers_of_another_program_are_replaced_on_their_own_sockets(
    tmp_path: Path,
) -> None:
    programs = Programs(tmp_path / "programs")
    async with Upstream("blue") as blue:
        product = Product(settings([blue.address], [], health="off"), program=programs)
        try:
            await product.start()
            before = set(product.workers().values())
            address = product.address
            product.configuration["listeners"] = [{"bind": address}]
            # A listener of one connection at a time would be seen here: who queues is not reset.
            load = Load(lambda: address)
            async with load.running(kept=3, fresh=3):
                await load.more(30)
                await kill_the_supervisor(product)
                programs.install("2", OTHER_LAYOUT)
                await product.start()
                await load.more(50)
                await until(lambda: not before & set(product.processes()), "the old to go")
                await load.more(20)
            must_not_fail(load.samples)
            assert misplaced(load.samples, [blue]) == []
            metrics = await product.api.metrics()
            assert metrics.sum("turnout_requests_accepted_total") == len(load.samples)
            assert metrics.sum("turnout_requests_in_flight") == 0
        finally:
            await product.close()


async def test_a_worker_that_hangs_is_not_waited_for() -> None:
    async with bench(control=False) as at:
        product = at.product
        workers = product.workers()
        await kill_the_supervisor(product)
        async with stopped(workers[0]):
            # Those of the other one are all of them, and what is missing is started.
            product._spawn()
            await until(lambda: "serving on" in product.log().partition("silent")[2], "it", 20.0)
            assert product.workers()[1] == workers[1]
            assert product.workers()[0] != workers[0]
            assert (await at.get()).status == 200
        await until(lambda: workers[0] not in product.processes(), "the hung one to leave")
        assert "workers.silent" in product.log()


async def test_a_dead_worker_and_a_dead_supervisor_are_both_made_good() -> None:
    async with bench(control=False) as at:
        product, address = at.product, at.product.address
        product.configuration["listeners"] = [{"bind": address}]
        workers = product.workers()
        held = asyncio.create_task(get(address, "/held?hang=1"))
        await at.blue.received("/held")
        holder = next(
            pid
            for pid in workers.values()
            if product.boards.service_in_flight(product.region_of(pid), 1)
        )
        await kill_the_supervisor(product)
        os.kill(holder, signal.SIGKILL)
        with pytest.raises((OSError, Malformed)):
            await held
        await product.start()
        assert set(workers.values()) & set(product.workers().values()) == (
            set(workers.values()) - {holder}
        )
        metrics = await product.api.metrics()
        assert metrics.sum("turnout_requests_cut_total", reason="worker_died") == 1
        assert metrics.sum("turnout_requests_in_flight") == 0


async def test_a_unix_socket_keeps_its_file_and_loses_it_at_the_end() -> None:
    async with Upstream("blue") as blue:
        product = Product(settings([blue.address], [], health="off"))
        path = product.base / "listen.sock"
        product.configuration["listeners"] = [{"bind": f"unix:{path}"}]
        try:
            await product.start()
            inode = path.stat().st_ino
            await kill_the_supervisor(product)
            await product.start()
            assert path.stat().st_ino == inode
            assert await product.stop() == 0
            assert not path.exists()
        finally:
            await product.close()


ASK = """
import os, socket, sys
os.setgroups([]); os.setgid(65534); os.setuid(int(sys.argv[2]))
asked = socket.socket(socket.AF_UNIX); asked.settimeout(5); asked.connect(sys.argv[1])
data, descriptors, _, _ = socket.recv_fds(asked, 65536, 200)
print(len(data) > 0, len(descriptors) > 0 or len(socket.recv_fds(asked, 65536, 200)[1]) > 0)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="takes two users")
async def test_only_the_same_user_is_given_the_sockets() -> None:
    async with bench(control=False) as at:
        product = at.product
        path = product.runtime_dir / worker_socket(product.region_of(product.workers()[0]))
        # Which keeps others out already: let them in as far as the worker itself.
        for place, mode in ((product.base, 0o711), (product.runtime_dir, 0o711), (path, 0o777)):
            place.chmod(mode)

        def ask(user: int) -> str:
            command = [sys.executable, "-I", "-c", ASK, str(path), str(user)]
            done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
            assert not done.stderr, done.stderr
            return done.stdout.strip()

        assert await asyncio.to_thread(ask, 65534) == "False False"
        assert "asked by another user" in product.log()
        assert await asyncio.to_thread(ask, 0) == "True True"
        # Whoever asks while the supervisor lives gets copies, and not its place.
        product.write_config(
            {"listeners": [*product.configuration["listeners"], {"bind": "[::1]:0"}]}
        )
        os.kill(product.supervisor_pid, signal.SIGHUP)
        await until(lambda: "[::1]:0" in product.addresses(), "another listener")
        assert (await at.get()).status == 200
