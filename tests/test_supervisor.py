"""The supervisor with its real children: who dies is replaced, and nothing wrong is started."""

import asyncio
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from tests.harness import ROOT, ApiError, Product, settings, stopped, until
from tests.upstreams import Upstream
from turnout.proxy.commands import DIED_PREFIX, LISTENING_FILE, SUPERVISOR_SOCKET
from turnout.proxy.scoreboard import C_CONNECTIONS_ACCEPTED
from turnout.supervisor import STOP_MARGIN_S


@pytest.fixture
async def blue() -> AsyncIterator[Upstream]:
    async with Upstream("blue") as upstream:
        yield upstream


@contextlib.asynccontextmanager
async def turnout(blue: Upstream, **configuration: Any) -> AsyncIterator[Product]:
    """One that forwards everything to `blue`, without probes."""
    base = settings([blue.address], [], health="off")
    product = Product({**base, **configuration})
    try:
        yield await product.start(control=False)
    finally:
        await product.close()


async def get(product: Product, path: str = "/", **more: Any) -> httpx.Response:
    """One request on a connection of its own."""
    async with httpx.AsyncClient(base_url=product.url, timeout=10.0) as client:
        return await client.get(path, **more)


async def control_is_up(product: Product) -> int:
    return int(await until(lambda: product.control_pid, "control", 20.0))


def accepted(product: Product, worker: int) -> int:
    """Connections that the worker has ever accepted."""
    board = product.scoreboard
    return board.words[
        board.region(product.region_of(product.workers()[worker])) + C_CONNECTIONS_ACCEPTED
    ]


# ---------------------------------------------------------------- death


async def test_a_killed_worker_is_replaced_and_what_it_held_is_named(blue: Upstream) -> None:
    async with turnout(blue) as product:
        async with stopped(await control_is_up(product)):
            held = asyncio.create_task(get(product, "/slow?hang=1&secret=1"))
            await until(lambda: any(one.target.startswith("/slow") for one in blue.ledger), "it")
            before = product.workers()
            holder = holder_of(product)
            os.kill(holder, signal.SIGKILL)
            files = await until(
                lambda: list(product.runtime_dir.glob(f"{DIED_PREFIX}*.json")), "the names"
            )
            with pytest.raises(httpx.TransportError):
                await held
            died = json.loads(files[0].read_bytes())
            assert (died["pid"], died["status"]) == (holder, "killed by SIGKILL")
            assert [(cut["method"], cut["path"], cut["reason"]) for cut in died["cut"]] == [
                ("GET", "/slow", "worker_died")
            ]
            after = await until(lambda: len(product.workers()) == 2 and product.workers(), "both")
            assert len(set(before.values()) & set(after.values())) == 1
            board = product.scoreboard
            # The counters go on in the region, and what died is in their sum.
            assert all(board.service_in_flight(region, 1) == 0 for region in board.live_regions())
        # Control has its hands free again, and takes the names in.
        await until(lambda: not list(product.runtime_dir.glob(f"{DIED_PREFIX}*")), "control")


def holder_of(product: Product) -> int:
    """The process of the worker that has something in flight."""
    board = product.scoreboard
    for pid in product.workers().values():
        if board.service_in_flight(product.region_of(pid), 1):
            return pid
    raise AssertionError("nothing is in flight")


async def test_connections_of_a_dead_worker_are_served_by_its_sibling(blue: Upstream) -> None:
    async with turnout(blue) as product:
        for _ in range(3):
            os.kill(next(iter(product.workers().values())), signal.SIGKILL)
            answers = await asyncio.gather(*(get(product) for _ in range(20)))
            assert {answer.status_code for answer in answers} == {200}
        await until(lambda: len(product.workers()) == 2, "both workers")


async def test_a_worker_that_always_dies_is_started_ever_more_slowly(blue: Upstream) -> None:
    base = settings([blue.address], [], health="off")
    fault = (
        "import os, sys\nif sys.orig_argv[sys.orig_argv.index('--worker') + 1] == '1': os._exit(3)"
    )
    product = Product(base, faults={"turnout.proxy.worker": fault})
    try:
        product.configuration["workers"] = 2
        starting = asyncio.create_task(product.start(control=False))
        await until(lambda: "worker.waits" in product.log(), "a longer pause", 20.0)
        starting.cancel()
        await until(lambda: product.log().count("worker=1") >= 8, "several deaths", 20.0)
        # Its sibling serves meanwhile, alone, also from its socket.
        answers = await asyncio.gather(*(get(product) for _ in range(10)))
        assert {answer.status_code for answer in answers} == {200}
        pauses = [
            float(line.split("seconds=")[1].split()[0])
            for line in product.log().splitlines()
            if "worker.waits worker=1" in line
        ]
        assert pauses[:3] == [0.1, 0.2, 0.4]
        assert 'status="exit 3"' in product.log()
    finally:
        await product.close()


async def test_control_is_started_again_and_traffic_does_not_notice(blue: Upstream) -> None:
    async with turnout(blue) as product:
        for _ in range(2):
            before = await control_is_up(product)
            os.kill(before, signal.SIGKILL)
            assert (await get(product)).status_code == 200
            await another_control(product, before)
        assert product.log().count("control.died") == 2


async def another_control(product: Product, before: int) -> None:
    await until(lambda: product.control_pid not in (0, before), "another control", 20.0)


async def test_workers_outlive_the_supervisor_and_another_adopts_them(blue: Upstream) -> None:
    async with turnout(blue) as product:
        control = await control_is_up(product)
        before = product.workers()
        os.kill(product.supervisor_pid, signal.SIGKILL)
        await product.wait()
        assert (await get(product)).status_code == 200
        assert set(product.processes()) == {control, *before.values()}
        ready = await product.api.http.get("/readyz")
        assert ready.status_code == 503
        assert ready.json()["reasons"] == [
            "the supervisor cannot be reached: nobody replaces a worker that dies"
        ]
        for call in ("reload", "upgrade"):
            with pytest.raises(ApiError) as refused:
                await product.api.call("POST", f"/v1/{call}")
            assert refused.value.status == 503
            assert refused.value.problem["type"].endswith("no-supervisor")
            assert "start `turnout run` again" in refused.value.problem["detail"]
        # The same ports: a deploy script does not learn a new one.
        url = product.url
        product.configuration["listeners"] = [{"bind": product.address}]
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await client.get("/kept")).status_code == 200
            await product.start(control=False)
            # A connection from before is served on, by the worker that has it.
            assert (await client.get("/kept")).status_code == 200
        await until(lambda: control not in product.processes(), "the old control to go")
        assert "workers.adopted workers=2" in product.log()
        assert product.workers() == before
        answers = [await get(product) for _ in range(20)]
        assert {answer.status_code for answer in answers} == {200}
        # They are this supervisor's like any other: replaced when they die, stopped with it.
        os.kill(before[0], signal.SIGKILL)
        await until(lambda: product.workers().get(0) not in (None, before[0]), "a successor")
        assert (await get(product)).status_code == 200
        assert await product.stop() == 0


# ---------------------------------------------------------------- the end


async def test_sigterm_lets_requests_finish_and_exits_0(blue: Upstream) -> None:
    async with turnout(blue) as product:
        await control_is_up(product)
        slow = asyncio.create_task(get(product, "/slow?delay=1"))
        await until(lambda: blue.ledger, "the request")
        assert await product.stop() == 0
        assert (await slow).status_code == 200
        left = {path.name for path in product.runtime_dir.iterdir()}
        assert not left & {LISTENING_FILE, SUPERVISOR_SOCKET, "workers.sock", "plan.json"}


async def test_a_second_signal_ends_it_at_once(blue: Upstream) -> None:
    async with turnout(blue) as product:
        held = asyncio.create_task(get(product, "/hang?hang=1"))
        await until(lambda: blue.ledger, "the request")
        os.kill(product.supervisor_pid, signal.SIGTERM)
        await until(lambda: not product.workers(), "the workers to drain")
        os.kill(product.supervisor_pid, signal.SIGINT)
        assert await product.wait(3.0) == 0
        with pytest.raises(httpx.TransportError):
            await held


# ---------------------------------------------------------------- what is refused


def run(product: Product) -> subprocess.CompletedProcess[str]:
    product.write_config()
    return subprocess.run(
        [sys.executable, "-P", "-m", "turnout.supervisor", "--config", str(product.config_file)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        timeout=20,
        check=False,
    )


async def test_a_port_in_use_is_named_and_nothing_is_started(blue: Upstream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        bind = f"127.0.0.1:{other.getsockname()[1]}"
        product = Product({**settings([blue.address], []), "listeners": [{"bind": bind}]})
        done = await asyncio.to_thread(run, product)
    assert done.returncode == 2
    assert f"turnout: {bind} is in use" in done.stderr
    assert "choose another bind" in done.stderr
    assert product.processes() == {}
    await product.close()


async def test_a_port_that_another_turnout_shares_with_itself_is_in_use_too(
    blue: Upstream,
) -> None:
    # SO_REUSEPORT of the same user: the kernel alone would let it pass, and split the traffic.
    async with turnout(blue) as product:
        second = Product({**settings([blue.address], []), "listeners": [{"bind": product.address}]})
        done = await asyncio.to_thread(run, second)
        assert (done.returncode, "is in use" in done.stderr) == (2, True)
        await second.close()


async def test_a_second_run_on_the_directory_names_who_holds_it(blue: Upstream) -> None:
    async with turnout(blue) as product:
        done = await asyncio.to_thread(run, product)
        assert done.returncode == 2
        assert f"in use by another `turnout run`, process {product.supervisor_pid}." in done.stderr
        assert (await get(product)).status_code == 200
        assert len(product.workers()) == 2


async def test_a_wrong_configuration_starts_nothing(blue: Upstream) -> None:
    product = Product({**settings([blue.address], []), "wokers": 2})
    done = await asyncio.to_thread(run, product)
    assert done.returncode == 2
    assert f"{product.config_file}:" in done.stderr
    assert "workers" in done.stderr
    assert not product.runtime_dir.exists()
    await product.close()


# ---------------------------------------------------------------- without a store


async def test_without_a_readable_store_the_last_routing_is_served(blue: Upstream) -> None:
    async with turnout(blue) as product:
        await control_is_up(product)
        copy = product.base / "turnout.db.committed.json"
        await until(copy.exists, "the committed copy")
        product.kill_everything()
        (product.base / "turnout.db-wal").unlink(missing_ok=True)
        (product.base / "turnout.db").write_bytes(b"no database at all " * 1000)
        await product.start(control=False)
        assert (await get(product)).status_code == 200
        await until(lambda: "is not a database" in product.log(), "what control says", 20.0)
        assert "plan.degraded" in product.log()
        assert (await get(product)).status_code == 200


# ---------------------------------------------------------------- reload


async def reload(product: Product, **changes: Any) -> None:
    told = product.log().count("configuration.")
    product.write_config(changes)
    os.kill(product.supervisor_pid, signal.SIGHUP)
    await until(lambda: product.log().count("configuration.") > told, "an answer")


async def test_workers_grow_and_shrink_without_losing_a_request(blue: Upstream) -> None:
    async with turnout(blue) as product:
        await control_is_up(product)
        await until(lambda: "serving on" in product.log(), "control's connection")
        for wanted in (4, 2):
            done = asyncio.Event()
            busy = asyncio.create_task(requests_until(product, done))
            await reload(product, workers=wanted)
            await workers_are(product, wanted)
            # Connections are hashed over all sockets, those without an owner included.
            answers = await asyncio.gather(*(get(product) for _ in range(40)))
            assert {answer.status_code for answer in answers} == {200}
            done.set()
            assert await busy > 0
        await until(lambda: len(product.scoreboard.live_regions()) == 2, "the others to leave")
        assert "worker.died" not in product.log()


async def workers_are(product: Product, wanted: int) -> None:
    await until(lambda: len(product.workers()) == wanted, f"{wanted} workers")


async def requests_until(product: Product, done: asyncio.Event) -> int:
    """Requests one after the other, each answered; how many there were."""
    count = 0
    while not done.is_set():
        assert (await get(product)).status_code == 200
        count += 1
    return count


async def test_a_reload_while_control_is_away_is_done_when_it_is_back(blue: Upstream) -> None:
    async with turnout(blue) as product:
        before = await control_is_up(product)
        await until(lambda: "serving on" in product.log(), "control's connection")
        os.kill(before, signal.SIGKILL)
        await until(lambda: "control.died" in product.log(), "its end")
        await reload(product, workers=1)
        await workers_are(product, 1)
        assert "reload.waits" in product.log()
        assert product.log().count("control.died") == 1


async def test_a_reload_opens_new_listeners_and_closes_old_ones(
    blue: Upstream, unused_tcp_port: int
) -> None:
    async with turnout(blue) as product:
        await control_is_up(product)
        await until(lambda: "serving on" in product.log(), "control's connection")
        first, second = product.configuration["listeners"][0], f"127.0.0.1:{unused_tcp_port}"
        await reload(product, listeners=[first, {"bind": second}])
        async with httpx.AsyncClient() as client:
            await until(lambda: second in product.addresses(), "the second")
            assert (await client.get(f"http://{second}/")).status_code == 200
        await reload(product, listeners=[first])
        assert second not in product.addresses()
        async with httpx.AsyncClient() as client:
            with pytest.raises(httpx.ConnectError):
                await client.get(f"http://{second}/")
        assert (await get(product)).status_code == 200


async def test_a_reload_that_cannot_be_had_changes_nothing(blue: Upstream) -> None:
    async with turnout(blue) as product:
        await control_is_up(product)
        await until(lambda: "serving on" in product.log(), "control's connection")
        before, pids = product.addresses(), product.workers()
        first = product.configuration["listeners"][0]
        with socket.create_server(("127.0.0.1", 0)) as other:
            taken = f"127.0.0.1:{other.getsockname()[1]}"
            await reload(product, workers=3, listeners=[first, {"bind": taken}])
        assert f"{taken} is in use" in product.log()
        await reload(product, workers=3, listeners=[first], wokers=1)
        assert "wokers" in product.log()
        assert product.addresses() == before
        assert product.workers() == pids
        assert (await get(product)).status_code == 200


# ---------------------------------------------------------------- other sockets


@pytest.mark.parametrize(("shutdown", "status"), [(0, 200), ("500ms", 503)])
async def test_what_is_under_way_may_finish_for_so_long_when_everything_stops(
    blue: Upstream, shutdown: object, status: int
) -> None:
    """0 is no limit, neither the workers' nor the supervisor's for its workers."""
    async with turnout(blue, timeouts={"shutdown": shutdown}) as product:
        slow = asyncio.ensure_future(get(product, f"/slow?delay={STOP_MARGIN_S + 1}"))
        await blue.received("/slow")
        assert await product.stop() == 0
        assert (await slow).status_code == status
        cut = re.findall(
            r"exchanges\.cut worker=\d count=1 reason=shutdown names=(.*)", product.log()
        )
        assert cut == ([] if status == 200 else ['"GET /slow"'])


async def test_a_unix_socket_is_shared_and_its_stale_file_replaced(blue: Upstream) -> None:
    base = settings([blue.address], [], health="off")
    product = Product(base)
    path = product.base / "listen.sock"
    product.configuration["listeners"] = [{"bind": f"unix:{path}"}]
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))  # closed without being removed
    try:
        await product.start(control=False)
        transport = httpx.AsyncHTTPTransport(uds=str(path))
        async with httpx.AsyncClient(transport=transport, base_url="http://shop") as client:
            assert (await client.get("/")).status_code == 200
        assert await product.stop() == 0
        assert not path.exists()
    finally:
        await product.close()


async def test_sockets_of_systemd_are_used(blue: Upstream) -> None:
    with socket.create_server(("127.0.0.1", 0)) as given:
        bind = f"127.0.0.1:{given.getsockname()[1]}"
        base = settings([blue.address], [], health="off")
        product = Product({**base, "listeners": [{"bind": bind}]})
        product.write_config()
        # systemd's way: descriptor 3, and the process id that it is meant for.
        script = (
            "import os, sys; os.dup2(int(sys.argv[1]), 3); "
            "os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1'); "
            "os.execv(sys.executable, "
            "[sys.executable, '-P', '-m', 'turnout.supervisor', '--config', sys.argv[2]])"
        )
        number = str(given.fileno())
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", script, number, str(product.config_file)),
            pass_fds=(given.fileno(),),
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        try:
            await until(lambda: len(product.workers()) == 2, "the workers", 20.0)
            given.close()
            answers = await asyncio.gather(*(get(product) for _ in range(10)))
            assert {answer.status_code for answer in answers} == {200}
        finally:
            process.terminate()
            assert await asyncio.wait_for(process.wait(), 15) == 0
            await product.close()
