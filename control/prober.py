"""Probes every server of every service, on whichever colour, and knows how each upstream is.

One loop a server for as long as it is configured. What a result means is decided in `health`,
how one probe is made in `probe`; this keeps the schedule, writes the health words that the
workers read, tells changes, and answers the executor and the API. After a restart it goes on
from the words: what was unhealthy stays so until probes say otherwise.
"""

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Protocol, TypeAlias

from turnout.config.model import Configuration, HealthPolicy
from turnout.config.model import Prober as Bounds
from turnout.config.table import RoutingTable, TableServer
from turnout.control import events
from turnout.control.health import (
    NEVER_PROBED,
    ProbeResult,
    ServerHealth,
    Traffic,
    UpstreamHealth,
    from_word,
    next_probe_s,
    not_resolved,
    observed,
    probed,
    upstream_health,
)
from turnout.control.loops import Tell, keep_running
from turnout.control.probe import ServerProbe
from turnout.control.tables import Unresolved
from turnout.proxy.commands import Passive
from turnout.proxy.scoreboard import HealthWord

Key: TypeAlias = tuple[int, int, str, str]
"""Service slot, upstream index, address, endpoint: a server that stays over a reload."""
UpstreamKey: TypeAlias = tuple[str, str]
"""Names of service and upstream."""

ALWAYS_HEALTHY = ServerHealth(HealthWord.HEALTHY, "")
"""With `health: off` nobody looks."""


class HealthWords(Protocol):
    """The words that workers read (`shared.SharedState`)."""

    def health(self, health_slot: int) -> HealthWord: ...

    def set_health(self, health_slot: int, word: HealthWord) -> None: ...


@dataclass(frozen=True, slots=True)
class ServerView:
    """One server, as the API shows it."""

    address: str
    endpoint: str
    """Empty: the address is a name, and nobody knows where it is."""
    state: HealthWord
    reason: str
    """Why it is not healthy; empty when it is."""
    last_probe: ProbeResult | None

    @property
    def healthy(self) -> bool:
        return self.state is HealthWord.HEALTHY


class _Server:
    """One watched server. Its policy and its names may change while it stays."""

    __slots__ = ("health", "policy", "server", "service", "sooner", "task", "upstream")

    def __init__(self, server: TableServer, health: ServerHealth) -> None:
        self.server = server
        self.health = health
        self.policy: HealthPolicy | None = None
        self.service = ""
        self.upstream = ""
        self.sooner = asyncio.Event()
        """Something speaks against the state: do not wait for the interval's end."""
        self.task: asyncio.Task[None] | None = None


class Prober:
    """Watches the servers of a routing table. To be used in one event loop."""

    __slots__ = (
        "_bound",
        "_bounds",
        "_by_slot",
        "_changed",
        "_dice",
        "_emit",
        "_lookup_error",
        "_min_healthy",
        "_policies",
        "_servers",
        "_started",
        "_tell",
        "_unresolved",
        "_upstreams",
        "_words",
    )

    def __init__(
        self,
        words: HealthWords,
        *,
        emit: Callable[[events.Event], None],
        tell: Tell,
        lookup_error: Callable[[str], str] = lambda address: "",
        dice: Callable[[], float] = lambda: random.uniform(-1.0, 1.0),
    ) -> None:
        """`lookup_error` says why a server's name does not resolve."""
        self._words = words
        self._emit = emit
        self._tell = tell
        self._lookup_error = lookup_error
        self._dice = dice
        self._started = False
        self._bounds = Bounds(concurrency=1, body_bytes=0)
        self._bound = asyncio.Semaphore(1)
        self._servers: dict[Key, _Server] = {}
        self._by_slot: dict[int, _Server] = {}
        self._policies: dict[str, HealthPolicy | None] = {}
        self._min_healthy: dict[UpstreamKey, int] = {}
        self._unresolved: dict[UpstreamKey, list[str]] = {}
        """Addresses that are in no table, as their names do not resolve."""
        self._upstreams: dict[UpstreamKey, UpstreamHealth] = {}
        self._changed = asyncio.Event()

    # ------------------------------------------------------------ what is watched

    def watch(
        self,
        configuration: Configuration,
        table: RoutingTable,
        unresolved: Iterable[Unresolved] = (),
    ) -> None:
        """Watch the servers of this table from now on, and no others.

        Those that are `unresolved` cannot be probed, and count as not healthy.

        To be called before the table is published: a server that is new gets its health word
        here, so that no worker takes it for the one that had the word before. The first call
        after a start takes the words as they are.
        """
        if self._bounds != configuration.prober:
            self._bounds = configuration.prober
            self._bound = asyncio.Semaphore(self._bounds.concurrency)
        self._policies = {service.name: service.health for service in configuration.services}
        self._min_healthy = {
            (service.name, upstream.name): upstream.min_healthy
            for service in configuration.services
            for upstream in service.upstreams
        }
        self._unresolved = {}
        for lost in unresolved:
            self._unresolved.setdefault((lost.service, lost.upstream), []).append(lost.address)
        before, self._servers = self._servers, {}
        for service in table.services:
            for index, upstream in enumerate(service.upstreams):
                for server in upstream.servers:
                    key = (service.slot, index, server.address, server.endpoint)
                    watched = before.pop(key, None) or self._new(server)
                    self._servers[key] = watched
                    watched.service, watched.upstream = service.name, upstream.name
                    self._adopt(watched, server, self._policies.get(service.name))
        for gone in before.values():
            _stop(gone)
        self._by_slot = {watched.server.health_slot: watched for watched in self._servers.values()}
        self._judge_all(table, told=self._started)
        self._started = True

    def _new(self, server: TableServer) -> _Server:
        if self._started:
            return _Server(server, ServerHealth())
        return _Server(server, from_word(self._words.health(server.health_slot)))

    def _adopt(self, watched: _Server, server: TableServer, policy: HealthPolicy | None) -> None:
        """Give a server its place in the table and its policy, and see that its loop runs."""
        if policy is None:
            watched.health = ALWAYS_HEALTHY
        elif watched.health is ALWAYS_HEALTHY:
            watched.health = ServerHealth()
        if policy != watched.policy:
            watched.sooner.set()
        watched.server, watched.policy = server, policy
        self._words.set_health(server.health_slot, watched.health.state)
        if policy is None and watched.task is not None:
            _stop(watched)
        elif policy is not None and watched.task is None:
            what = f"probing {server.address} ({watched.upstream} of {watched.service})"
            watched.task = asyncio.create_task(
                keep_running(what, partial(self._keep, watched), self._tell),
                name=what,
            )

    async def close(self) -> None:
        servers, self._servers = list(self._servers.values()), {}
        tasks = [server.task for server in servers if server.task is not None]
        for server in servers:
            _stop(server)
        await asyncio.gather(*tasks, return_exceptions=True)

    # ------------------------------------------------------------ the loop of one server

    async def _keep(self, watched: _Server) -> None:
        probe = ServerProbe(watched.server.address, watched.server.endpoint)
        try:
            while watched.policy is not None:
                async with self._bound:
                    began_s = time.monotonic()
                    result = await probe(watched.policy, self._bounds.body_bytes)
                if watched.policy is not None:
                    self._take(watched, probed(watched.health, result, watched.policy))
                await self._pause(watched, began_s)
        finally:
            await probe.close()

    async def _pause(self, watched: _Server, began_s: float) -> None:
        """Wait for the next probe's time; it comes sooner when doubt arises meanwhile."""
        dice = self._dice()
        while watched.policy is not None:
            due_s = began_s + next_probe_s(watched.health, watched.policy, dice)
            left_s = due_s - time.monotonic()
            if left_s <= 0:
                return
            watched.sooner.clear()
            try:
                await asyncio.wait_for(watched.sooner.wait(), left_s)
            except TimeoutError:
                return

    # ------------------------------------------------------------ what comes in

    def observe(self, message: Passive) -> None:
        """Take in what a worker saw of a server in real traffic."""
        traffic = Traffic(
            message.answered, message.errors_5xx, message.connect_errors, message.last_error
        )
        watched = self._by_slot.get(message.health_slot)
        if watched is None or watched.policy is None:
            return  # of a server that is gone, or that nobody judges
        self._take(watched, observed(watched.health, traffic, watched.policy))
        if watched.health.in_doubt:
            watched.sooner.set()

    def _take(self, watched: _Server, health: ServerHealth) -> None:
        before, watched.health = watched.health, health
        if health.state is before.state:
            if health.reason != before.reason:
                self._judge(watched.service, watched.upstream)
            return
        self._words.set_health(watched.server.health_slot, health.state)
        kind = (
            events.ServerHealthy if health.state is HealthWord.HEALTHY else events.ServerUnhealthy
        )
        reason = health.reason or f"{health.good_in_a_row} good probes in a row"
        self._emit(
            kind(
                service=watched.service,
                upstream=watched.upstream,
                server=_label(watched.server),
                reason=reason,
            )
        )
        self._judge(watched.service, watched.upstream)
        self._news()

    # ------------------------------------------------------------ whole upstreams

    def _judge_all(self, table: RoutingTable, told: bool) -> None:
        named = [
            (service.name, upstream.name)
            for service in table.services
            for upstream in service.upstreams
        ]
        for key in self._upstreams.keys() - set(named):
            del self._upstreams[key]
        for service, upstream in named:
            self._judge(service, upstream, told)
        self._news()

    def _judge(self, service: str, upstream: str, told: bool = True) -> None:
        """Judge an upstream anew, and tell a change, unless we only found it so at the start."""
        key = (service, upstream)
        before = self._upstreams.get(key)
        now = self._upstreams[key] = self._health(key)
        was = before.state if before is not None else HealthWord.UNKNOWN
        if now.state is was or not told:
            return
        if now.state is HealthWord.HEALTHY:
            reason = f"{now.healthy_servers} of {now.servers} servers healthy"
            self._emit(events.UpstreamHealthy(service=service, upstream=upstream, reason=reason))
        elif now.state is HealthWord.UNHEALTHY:
            self._emit(
                events.UpstreamUnhealthy(service=service, upstream=upstream, reason=now.reason)
            )

    def _health(self, key: UpstreamKey) -> UpstreamHealth:
        service, upstream = key
        servers: Mapping[str, ServerHealth] = {
            _label(watched.server): watched.health
            for watched in self._servers.values()
            if (watched.service, watched.upstream) == key
        }
        return upstream_health(
            upstream,
            servers,
            self._min_healthy.get(key, 1),
            self._policies.get(service),
            {address: self._lookup_error(address) for address in self._unresolved.get(key, ())},
        )

    def _news(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    # ------------------------------------------------------------ what is asked

    def upstream(self, service: str, upstream: str) -> UpstreamHealth:
        """Health of an upstream as it is known now; of one not watched: not known."""
        key = (service, upstream)
        if key in self._unresolved:
            return self._health(key)  # why a name does not resolve may have changed
        known = self._upstreams.get(key)
        if known is not None:
            return known
        return UpstreamHealth(upstream, HealthWord.UNKNOWN, f"{upstream} is {NEVER_PROBED}", 0, 0)

    def servers(self, service: str, upstream: str) -> tuple[ServerView, ...]:
        """The servers of an upstream in the table's order, then those that do not resolve."""
        resolved = (
            ServerView(
                address=watched.server.address,
                endpoint=watched.server.endpoint,
                state=watched.health.state,
                reason="" if watched.health.state is HealthWord.HEALTHY else watched.health.reason,
                last_probe=watched.health.last_probe,
            )
            for watched in self._servers.values()
            if (watched.service, watched.upstream) == (service, upstream)
        )
        unresolved = (
            ServerView(
                address=address,
                endpoint="",
                state=HealthWord.UNHEALTHY,
                reason=not_resolved(self._lookup_error(address)),
                last_probe=None,
            )
            for address in self._unresolved.get((service, upstream), ())
        )
        return (*resolved, *unresolved)

    async def changed(self) -> None:
        """Wait until the state of any server or the set of servers changes after this call."""
        await self._changed.wait()

    def not_running(self) -> list[str]:
        """Probe loops that should run and do not: none, unless something is badly wrong."""
        return [
            f"{_label(watched.server)} of {watched.service}"
            for watched in self._servers.values()
            if watched.policy is not None and (watched.task is None or watched.task.done())
        ]


def _stop(watched: _Server) -> None:
    watched.policy = None
    task, watched.task = watched.task, None
    if task is not None:
        task.cancel()


def _label(server: TableServer) -> str:
    """The server's address, with what it stands for at the moment where that is not the same."""
    if server.address == server.endpoint:
        return server.address
    return f"{server.address} ({server.endpoint})"
