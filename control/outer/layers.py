"""All outer systems that the configuration in force names, by service; and the gates.

Routers and gates are made when they are first needed, and made anew when their settings change.
"""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from turnout.config.model import Configuration, Gate, Service
from turnout.control import loops
from turnout.control.events import Event
from turnout.control.journal import Journal
from turnout.control.outer import loading
from turnout.control.outer.loading import Paces
from turnout.control.outer.mover import Mover
from turnout.control.outer.seams import Context, OuterError
from turnout.control.outer.seams import Gate as GateSeam
from turnout.control.rows import Note
from turnout.control.store import Store

CLOSE_LIMIT_S: Final = 2.0


class OuterLayers:
    """What steers traffic beyond the proxy, for all services."""

    def __init__(
        self, store: Store, journal: Journal, tell: loops.Tell, wall: Callable[[], float]
    ) -> None:
        self._store = store
        self._journal = journal
        self._tell = tell
        self._wall = wall
        self._services: dict[str, Service] = {}
        self._movers: dict[str, Mover] = {}
        self._gates: dict[tuple[str, str], tuple[Gate, GateSeam]] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self.paces = Paces()
        self._closing: set[asyncio.Task[None]] = set()

    def configure(self, configuration: Configuration) -> None:
        """Use what this configuration names; what is under way goes on with it."""
        self._services = {service.name: service for service in configuration.services}
        for name, mover in list(self._movers.items()):
            service = self._services.get(name)
            if service is None or service.outer != mover.outer or service.names != mover.names:
                self._close_later(self._movers.pop(name).close())
        for (name, gate_name), (gate, made) in list(self._gates.items()):
            service = self._services.get(name)
            if service is None or gate not in service.gates:
                del self._gates[name, gate_name]
                self._close_later(made.close())

    def of(self, service: str) -> Mover | None:
        """The service's outer system; None: the configuration names none."""
        found = self._services.get(service)
        if found is None or found.outer is None:
            return None
        if service not in self._movers:
            outer = found.outer
            settings = outer.settings
            context = self._context(found, settings, outer.call_timeout_s)
            self._movers[service] = Mover(
                service,
                found.names,
                outer,
                lambda: loading.make_router(settings, context),
                self._store,
                self._journal,
                self._wall,
                self._locks.setdefault(service, asyncio.Lock()),
            )
        return self._movers[service]

    def gates(self, service: str) -> Sequence[Gate]:
        """The service's gates, as configured."""
        found = self._services.get(service)
        return () if found is None else found.gates

    async def gate(self, service: str, gate: Gate) -> GateSeam:
        """What can be asked for it. Raises OuterError when it cannot be made."""
        known = self._gates.get((service, gate.name))
        if known is not None and known[0] == gate:
            return known[1]
        context = self._context(self._services[service], gate.settings, gate.call_timeout_s)
        made = await asyncio.to_thread(loading.make_gate, gate.settings, context)
        self._gates[service, gate.name] = (gate, made)
        return made

    async def tell(self, event: Event) -> None:
        """Store and tell what happened beyond the proxy. Raises StoreUnusable."""
        await self._journal.note(Note(events=(event,)))

    async def close(self) -> None:
        for mover in self._movers.values():
            self._close_later(mover.close())
        for _, made in self._gates.values():
            self._close_later(made.close())
        if self._closing:
            # A call that has begun may take its time; whoever starts next reads what became of it.
            await asyncio.wait(self._closing, timeout=CLOSE_LIMIT_S)

    def _context(self, service: Service, settings: object, timeout_s: float) -> Context:
        return Context(service.names, timeout_s, self.paces.of(settings).turn, self._tell)

    def _close_later(self, closing: Awaitable[None]) -> None:
        async def close() -> None:
            try:
                await closing
            except OuterError as error:
                self._tell(f"an outer system's client was not closed: {error}", "nothing")

        task = asyncio.get_running_loop().create_task(close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
