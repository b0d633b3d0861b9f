"""The prober against real servers over real sockets, with the real health words."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

import pytest

from turnout.config.loader import load_text
from turnout.config.model import Configuration, HealthPolicy
from turnout.config.table import RoutingTable, TableServer, TableService, TableUpstream
from turnout.control import probe as probe_module
from turnout.control.events import (
    Event,
    ServerHealthy,
    ServerUnhealthy,
    UpstreamHealthy,
    UpstreamUnhealthy,
)
from turnout.control.probe import ServerProbe
from turnout.control.prober import Prober
from turnout.control.shared import SharedState
from turnout.proxy.commands import Passive
from turnout.proxy.scoreboard import (
    HEALTH_BYTES,
    HEALTH_FILE,
    ROUTING_BYTES,
    ROUTING_FILE,
    Geometry,
    HealthWord,
    Scoreboard,
    SharedWords,
)

DEADLINE_S = 5.0
UNKNOWN, HEALTHY, UNHEALTHY = HealthWord.UNKNOWN, HealthWord.HEALTHY, HealthWord.UNHEALTHY
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
SICK = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nsick"


class App:
    """A server that answers every request with `answer`, and keeps what it got."""

    def __init__(self, answer: bytes = OK) -> None:
        self.answer: bytes | None = answer
        """None: it accepts and says nothing."""
        self.closes = True
        """Once it has answered; otherwise it leaves the connection open."""
        self.heads: list[bytes] = []
        self.at: list[float] = []
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.endpoint = ""

    async def start(self, unix_path: Path | None = None) -> "App":
        if unix_path is not None:
            self._server = await asyncio.start_unix_server(self._serve, unix_path)
            self.endpoint = f"unix:{unix_path}"
        else:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
            self.endpoint = f"127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            self.at.append(time.monotonic())
            if self.answer is not None:
                writer.write(self.answer)
                await writer.drain()
            if self.answer is None or not self.closes:
                await reader.read()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the prober has seen enough
        finally:
            self._writers.discard(writer)
            writer.close()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
            for writer in list(self._writers):
                writer.transport.abort()
            self._server = None


Apps: TypeAlias = Callable[..., Awaitable[App]]


@pytest.fixture
async def apps() -> AsyncIterator[Apps]:
    started: list[App] = []

    async def start(answer: bytes = OK, unix_path: Path | None = None) -> App:
        started.append(await App(answer).start(unix_path))
        return started[-1]

    yield start
    for app in started:
        await app.stop()


@pytest.fixture
def state(tmp_path: Path) -> Iterator[SharedState]:
    for name, size in ((ROUTING_FILE, ROUTING_BYTES), (HEALTH_FILE, HEALTH_BYTES)):
        SharedWords(tmp_path / name, size, create=True).close()
    Scoreboard.create(tmp_path, Geometry(regions=1, services=1, inflight=1), 1)
    yield SharedState(tmp_path)


def configuration(health: str, min_healthy: int = 1) -> Configuration:
    text = f"""
listeners: [{{bind: 127.0.0.1:8080}}]
services:
  shop:
    upstreams:
      blue: {{servers: [127.0.0.1:1, 127.0.0.1:3], min_healthy: {min_healthy}}}
      green: {{servers: [127.0.0.1:2]}}
    health: {health}
"""
    return load_text(text, file="turnout.yaml", base=Path("/"), source="")


FAST = "{path: /healthz, interval: 100ms, doubt_interval: 50ms, timeout: 500ms, rise: 2, fall: 3}"


def table(*blue: str, slot_from: int = 0, address: str = "") -> RoutingTable:
    servers = tuple(
        TableServer(address or endpoint, endpoint, slot_from + index)
        for index, endpoint in enumerate(blue)
    )
    upstreams = (TableUpstream("blue", servers), TableUpstream("green", ()))
    return RoutingTable(1, (TableService("shop", 1, (), "/", upstreams),))


class Watching:
    """A prober and what it told."""

    def __init__(self, state: SharedState) -> None:
        self.state = state
        self.told: list[Event] = []
        self.problems: list[str] = []
        self.prober = Prober(
            state,
            emit=self.told.append,
            tell=lambda problem, remedy: self.problems.append(problem),
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for a change of the prober's own telling, until the condition holds."""
        async with asyncio.timeout(DEADLINE_S):
            while not condition():
                await self.prober.changed()

    async def until_blue(self, state: HealthWord) -> None:
        await self.until(lambda: self.prober.upstream("shop", "blue").state is state)

    def names(self) -> list[str]:
        return [event.NAME for event in self.told]


@pytest.fixture
async def watching(state: SharedState) -> AsyncIterator[Watching]:
    watching = Watching(state)
    yield watching
    await watching.prober.close()


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.01)


# ---------------------------------------------------------------- one probe


def policy(health: str = FAST) -> HealthPolicy:
    found = configuration(health).services[0].health
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("answer", "health", "error"),
    [
        (OK, FAST, ""),
        (SICK, FAST, "status 503, expected 200-399"),
        (b"HTTP/1.1 302 Found\r\nLocation: /no\r\nContent-Length: 0\r\n\r\n", FAST, ""),
        (SICK, "{path: /h, status: '200,503'}", ""),
        (OK, "{path: /h, status: 204}", "status 200, expected 204"),
        (OK, "{path: /h, body: ok}", ""),
        (OK, "{path: /h, body: fine}", "the body does not have 'fine' in its first 2 bytes"),
        (
            b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 70_000 + b"ok",
            "{path: /h, body: ok}",
            "the body does not have 'ok' in its first 65536 bytes",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok",
            "{path: /h, body: ok}",
            "RemoteProtocolError: peer closed connection without sending complete message body"
            " (received 2 bytes, expected 9)",
        ),
        (b"SSH-2.0-OpenSSH\r\n", FAST, "RemoteProtocolError: "),
        (b"", FAST, "RemoteProtocolError: Server disconnected without sending a response."),
    ],
)
async def test_an_answer_is_judged(apps: Apps, answer: bytes, health: str, error: str) -> None:
    app = await apps(answer)
    probe = ServerProbe(app.endpoint, app.endpoint)
    result = await probe(policy(health), 65536)
    await probe.close()
    assert result.error.startswith(error) if error else result.error == ""
    assert result.good is (not error)
    assert result.duration_ms > 0 and abs(result.at - time.time()) < DEADLINE_S


async def test_a_probe_asks_as_it_is_told(apps: Apps, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")  # nothing of the environment counts
    app = await apps()
    probe = ServerProbe("app:9001", app.endpoint)
    assert (await probe(policy("{path: '/healthz?full=1'}"), 65536)).good
    assert (await probe(policy("{path: /, host: shop.example}"), 65536)).good
    await probe.close()
    first, second = (head.decode().lower().split("\r\n") for head in app.heads)
    assert first[0] == "get /healthz?full=1 http/1.1"
    assert "host: app:9001" in first
    assert "connection: close" in first
    assert "accept-encoding: identity" in first
    assert f"user-agent: {probe_module.USER_AGENT}".lower() in first
    assert "host: shop.example" in second
    assert sum(line.startswith("host:") for line in second) == 1


async def test_each_probe_has_a_connection_of_its_own(apps: Apps) -> None:
    app = await apps()
    app.closes = False  # it would keep the connection, and answers one request on each
    probe = ServerProbe(app.endpoint, app.endpoint)
    assert (await probe(policy(), 65536)).good
    assert (await probe(policy(), 65536)).good
    await app.stop()
    result = await probe(policy(), 65536)
    await probe.close()
    assert (result.status, result.error) == (None, "connection refused")


async def test_a_unix_socket_is_probed(apps: Apps, tmp_path: Path) -> None:
    app = await apps(unix_path=tmp_path / "app.sock")
    probe = ServerProbe(app.endpoint, app.endpoint)
    assert (await probe(policy(), 65536)).good
    assert b"host: localhost\r\n" in app.heads[0].lower()
    await app.stop()
    (tmp_path / "app.sock").unlink(missing_ok=True)
    assert (await probe(policy(), 65536)).error == "no such file or directory"
    await probe.close()


@pytest.mark.parametrize(
    ("answer", "error", "status"),
    [
        (None, "no answer within 0.1 s", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nok", "the body did not end within", 200),
    ],
)
async def test_the_timeout_is_over_the_whole_probe(
    apps: Apps, answer: bytes | None, error: str, status: int | None
) -> None:
    app = await apps()
    app.answer, app.closes = answer, False
    probe = ServerProbe(app.endpoint, app.endpoint)
    result = await probe(policy("{path: /, timeout: 100ms}"), 65536)
    await probe.close()
    assert result.error.startswith(error) and result.status == status
    assert 90 <= result.duration_ms < 1000


# ---------------------------------------------------------------- the schedule and the verdict


async def test_a_server_becomes_healthy_and_says_why_it_is_not(
    apps: Apps, watching: Watching
) -> None:
    app = await apps()
    watching.prober.watch(configuration(FAST), table(app.endpoint))
    before = watching.prober.upstream("shop", "blue")
    assert before.state is UNKNOWN and "not probed yet" in before.reason
    assert watching.prober.servers("shop", "blue")[0].last_probe is None

    await watching.until_blue(HEALTHY)
    assert watching.state.health(0) is HEALTHY
    assert len(app.heads) == 2
    view = watching.prober.servers("shop", "blue")[0]
    assert view.healthy and view.reason == "" and view.last_probe and view.last_probe.status == 200

    app.answer = SICK
    await watching.until_blue(UNHEALTHY)
    assert watching.state.health(0) is UNHEALTHY
    view = watching.prober.servers("shop", "blue")[0]
    assert not view.healthy and "status 503, expected 200-399" in view.reason
    assert "status 503" in watching.prober.upstream("shop", "blue").reason
    assert [type(event) for event in watching.told] == [
        ServerHealthy,
        UpstreamHealthy,
        ServerUnhealthy,
        UpstreamUnhealthy,
    ]
    app.answer = OK
    await watching.until_blue(HEALTHY)


async def test_one_bad_probe_moves_nothing_and_is_looked_into_sooner(
    apps: Apps,
    watching: Watching,
) -> None:
    app = await apps()
    slow = "{path: /, interval: 1h, doubt_interval: 50ms, rise: 1, fall: 2, jitter: 0}"
    watching.prober.watch(configuration(slow), table(app.endpoint))
    await watching.until_blue(HEALTHY)
    assert len(app.heads) == 1
    watching.prober.observe(Passive(0, answered=0, errors_5xx=0, connect_errors=1))
    await eventually(lambda: len(app.heads) == 2)  # long before the hour is over
    assert watching.names() == ["server.healthy", "upstream.healthy"]


async def test_probes_come_at_the_interval(apps: Apps, watching: Watching) -> None:
    app = await apps()
    steady = "{path: /, interval: 200ms, doubt_interval: 200ms, rise: 1, jitter: 10%}"
    watching.prober.watch(configuration(steady), table(app.endpoint))
    await eventually(lambda: len(app.at) == 5)
    gaps = [later - earlier for earlier, later in zip(app.at, app.at[1:], strict=False)]
    assert all(0.15 < gap < 1.0 for gap in gaps)


async def test_real_traffic_takes_a_server_out_and_probes_bring_it_back(
    apps: Apps,
    watching: Watching,
) -> None:
    app = await apps()
    watching.prober.watch(configuration(FAST), table(app.endpoint))
    await watching.until_blue(HEALTHY)
    watching.prober.observe(Passive(0, 0, 0, connect_errors=3, last_error="connection refused"))
    assert watching.state.health(0) is UNHEALTHY
    view = watching.prober.servers("shop", "blue")[0]
    assert view.reason == "traffic: 3 connection attempts in a row failed: connection refused"
    await watching.until_blue(HEALTHY)


async def test_an_upstream_needs_enough_healthy_servers(apps: Apps, watching: Watching) -> None:
    good, bad = await apps(), await apps(SICK)
    watching.prober.watch(configuration(FAST, 2), table(good.endpoint, bad.endpoint))
    await watching.until_blue(UNHEALTHY)
    verdict = watching.prober.upstream("shop", "blue")
    assert verdict.reason.startswith("1 of 2 servers of blue healthy, 2 needed")
    watching.prober.watch(configuration(FAST, 1), table(good.endpoint, bad.endpoint))
    assert watching.prober.upstream("shop", "blue").healthy


# ---------------------------------------------------------------- reload, restart, faults


async def test_a_server_that_stays_keeps_its_state_over_a_reload(
    apps: Apps,
    watching: Watching,
) -> None:
    app, other = await apps(), await apps()
    watching.prober.watch(configuration(FAST), table(app.endpoint))
    await watching.until_blue(HEALTHY)
    watching.state.set_health(1, UNHEALTHY)  # left by a server of an earlier table
    told = len(watching.told)
    watching.prober.watch(configuration(FAST), table(app.endpoint, other.endpoint))
    assert watching.prober.upstream("shop", "blue").healthy
    assert (watching.state.health(0), watching.state.health(1)) == (HEALTHY, UNKNOWN)
    await watching.until(lambda: watching.state.health(1) is HEALTHY)
    assert watching.names()[told:] == ["server.healthy"]


async def test_a_server_that_goes_is_probed_no_more(apps: Apps, watching: Watching) -> None:
    app, other = await apps(), await apps()
    watching.prober.watch(configuration(FAST), table(app.endpoint))
    await watching.until_blue(HEALTHY)
    watching.prober.watch(configuration(FAST), table(other.endpoint, slot_from=1))
    probes = len(app.heads)
    await watching.until_blue(HEALTHY)
    await eventually(lambda: len(other.heads) >= 6)
    assert len(app.heads) <= probes + 1  # one may have been on its way
    assert watching.prober.not_running() == []


async def test_after_a_restart_health_goes_on_from_the_words(
    state: SharedState,
    watching: Watching,
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, never listening: refuses
        endpoint = f"127.0.0.1:{taken.getsockname()[1]}"
        state.set_health(0, HEALTHY)
        watching.prober.watch(configuration(FAST), table(endpoint))
        assert watching.prober.upstream("shop", "blue").healthy
        assert watching.told == []
        await watching.until_blue(UNHEALTHY)
    assert "connection refused" in watching.prober.upstream("shop", "blue").reason


async def test_with_health_off_everything_is_healthy_and_nothing_is_asked(
    apps: Apps,
    watching: Watching,
) -> None:
    app = await apps(SICK)
    watching.prober.watch(configuration("off"), table(app.endpoint))
    assert watching.prober.upstream("shop", "blue").healthy
    assert watching.state.health(0) is HEALTHY
    watching.prober.observe(Passive(0, 0, 0, connect_errors=100))
    assert watching.prober.upstream("shop", "blue").healthy
    assert app.heads == []
    watching.prober.watch(configuration(FAST), table(app.endpoint))
    assert watching.prober.upstream("shop", "blue").state is UNKNOWN
    await watching.until_blue(UNHEALTHY)
    watching.prober.watch(configuration("off"), table(app.endpoint))
    assert watching.prober.upstream("shop", "blue").healthy
    assert watching.state.health(0) is HEALTHY


async def test_no_more_probes_at_once_than_allowed(apps: Apps, watching: Watching) -> None:
    app = await apps()
    app.answer = None
    settings = configuration("{path: /, timeout: 200ms, interval: 100ms}")
    limited = replace(settings, prober=replace(settings.prober, concurrency=2))
    others = [await apps() for _ in range(5)]
    for other in others:
        other.answer = None
    everyone = [app, *others]
    watching.prober.watch(limited, table(*(each.endpoint for each in everyone)))
    await eventually(lambda: sum(len(each.heads) for each in everyone) >= 6)
    begun = sorted(at for each in everyone for at in each.at)
    # Each holds its place for 0.2 s: the third can begin only when the first has ended.
    assert begun[2] - begun[0] > 0.15 and begun[4] - begun[2] > 0.15


async def test_a_loop_that_does_not_run_is_named(apps: Apps, watching: Watching) -> None:
    app = await apps()
    watching.prober.watch(configuration(FAST), table(app.endpoint))
    [watched] = watching.prober._servers.values()
    assert watched.task is not None
    watched.task.cancel()
    await eventually(lambda: watching.prober.not_running() == [f"{app.endpoint} of shop"])


async def test_a_loop_that_breaks_is_told_and_begins_anew(
    apps: Apps,
    watching: Watching,
) -> None:
    app = await apps()
    told, failures = watching.told, iter([RuntimeError("broken on purpose")])

    def emit(event: Event) -> None:
        told.append(event)
        if (failure := next(failures, None)) is not None:
            raise failure

    watching.prober._emit = emit
    watching.prober.watch(configuration(FAST), table(app.endpoint))
    await eventually(lambda: bool(watching.problems))
    assert "RuntimeError: broken on purpose" in watching.problems[0]
    probes = len(app.heads)
    await eventually(lambda: len(app.heads) > probes)
    assert watching.prober.not_running() == []


def test_a_service_that_nobody_watches_is_not_known(state: SharedState) -> None:
    prober = Prober(state, emit=lambda event: None, tell=lambda problem, remedy: None)
    assert prober.upstream("shop", "blue").state is UNKNOWN
    assert prober.servers("shop", "blue") == ()
