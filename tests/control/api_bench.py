"""The control API over real HTTP, on the real executor and store; workers and health in memory."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import ClientResponse
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.web import Application, Request

from tests.control.in_memory import MemoryProber
from tests.control.test_executor import ATOMIC, Bench, configured, opened
from turnout.config.model import Configuration
from turnout.config.table import RoutingTable, TableService, TableUpstream
from turnout.control.api import ApiContext, make_app
from turnout.control.event_stream import Streams
from turnout.control.health import ProbeResult
from turnout.control.journal import Journal
from turnout.control.prober import ServerView
from turnout.control.publisher import Reloaded
from turnout.control.refused_calls import RefusedCalls
from turnout.control.shared import SharedState
from turnout.control.store import Author
from turnout.control.supervision import Supervision
from turnout.control.tail_watch import TailWatch
from turnout.control.upgrades import Upgrades
from turnout.proxy import scoreboard as board
from turnout.proxy.scoreboard import Geometry, HealthWord, Scoreboard, SharedWords, WorkerState

TOKENS = """
control:
  tokens:
    - {name: ci, scope: write, token: "write-token-0123456789"}
    - {name: dashboard, scope: read, token: "read-token-0123456789"}
"""
WRITE = {"Authorization": "Bearer write-token-0123456789"}
READ = {"Authorization": "Bearer read-token-0123456789"}


class Health(MemoryProber):
    """Each upstream has one server, whose health is the upstream's."""

    def servers(self, service: str, upstream: str) -> Sequence[ServerView]:
        found = self.upstream(service, upstream)
        address = "127.0.0.1:9001" if upstream == "blue" else "127.0.0.1:9002"
        error = "" if found.healthy else "connection refused"
        probe = ProbeResult(at=1_700_000_000.25, duration_ms=1.5, status=None, error=error)
        last = None if found.state is HealthWord.UNKNOWN else probe
        return (ServerView(address, address, found.state, found.reason, last),)


@dataclass
class ApiBench:
    """A served API and what stands behind it."""

    bench: Bench
    context: ApiContext
    prober: Health
    shared: SharedState
    streams: Streams
    http: TestClient[Request, Application]
    problems: list[str] = field(default_factory=list)
    unready: list[str] = field(default_factory=list)
    reloads: list[Author] = field(default_factory=list)
    reloaded: Reloaded | Exception = field(
        default_factory=lambda: Reloaded(changed=True, table=7, workers=2)
    )

    async def call(
        self, method: str, path: str, body: Any = None, **headers: str
    ) -> tuple[int, dict[str, Any], Mapping[str, str]]:
        """Status, JSON and headers; names of headers have `_` for `-`. `body` bytes go as is."""
        answer = await self.raw(method, path, body, **headers)
        text = await answer.text()
        return answer.status, json.loads(text) if text else {}, answer.headers

    async def raw(self, method: str, path: str, body: Any = None, **headers: str) -> ClientResponse:
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return await self.http.request(method, path, data=data, headers=named)

    async def until_state(self, id: str, state: str) -> dict[str, Any]:
        async with asyncio.timeout(5):
            while True:
                _, found, _ = await self.call("GET", f"/v1/switchovers/{id}")
                if found["state"] == state:
                    return found
                await asyncio.sleep(0.005)


def make_shared(path: Path) -> SharedState:
    """Shared memory with one worker that serves."""
    path.mkdir(exist_ok=True)
    for name, size in (
        (board.ROUTING_FILE, board.ROUTING_BYTES),
        (board.HEALTH_FILE, board.HEALTH_BYTES),
    ):
        SharedWords(path / name, size, create=True).close()
    made = Scoreboard.create(path, Geometry(regions=2, services=4, inflight=4), 42)
    made.words[made.region(0) + board.R_STATE] = WorkerState.SERVING
    made.memory.close()
    return SharedState(path)


@asynccontextmanager
async def served(
    path: Path, more: str = "", streams: Streams | None = None
) -> AsyncIterator[ApiBench]:
    """`more` is added to the configuration's text."""
    configuration: Configuration = configured(ATOMIC + more)
    prober, shared = Health(), make_shared(path / "run")
    streams = streams or Streams()
    async with opened(path, prober=prober, configuration=configuration) as bench:
        made: list[ApiBench] = []

        async def reload(author: Author) -> Reloaded:
            made[0].reloads.append(author)
            if isinstance(made[0].reloaded, Exception):
                raise made[0].reloaded
            return made[0].reloaded

        context = ApiContext(
            executor=bench.executor,
            store=bench.store,
            prober=prober,
            journal=journal_of(bench),
            shared=shared,
            configuration=lambda: configuration,
            reload=reload,
            in_force=lambda: (),
            upgrades=Upgrades(shared, Supervision(path / "run"), journal_of(bench)),
            refused=RefusedCalls(bench.store, time.time),
            tails=TailWatch(shared, lambda: configuration, lambda: table_of(configuration)),
            unready=lambda: made[0].unready,
            now=time.time,
            tell=lambda what, remedy: made[0].problems.append(f"{what}: {remedy}"),
        )
        async with TestClient(TestServer(make_app(context, streams))) as http:
            made.append(ApiBench(bench, context, prober, shared, streams, http))
            yield made[0]
    shared.close()


def table_of(configuration: Configuration) -> RoutingTable:
    """The services in the slots that the store gives them, and nothing else."""
    services = []
    for slot, service in enumerate(configuration.services, start=1):
        first, second = (TableUpstream(name, ()) for name in service.names)
        services.append(TableService(service.name, slot, (), "/", (first, second)))
    return RoutingTable(number=1, services=tuple(services))


def journal_of(bench: Bench) -> Journal:
    """The journal that the executor tells to."""
    return bench.executor._world.journal
