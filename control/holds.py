"""Holding a service: new requests wait in the workers until it is released.

A hold ends by itself, also after a restart: nobody's forgetfulness keeps a service shut.
"""

import asyncio

from turnout.control import events
from turnout.control.carrier import World
from turnout.control.loops import keep_running
from turnout.control.refusals import stale
from turnout.control.store import Audit, Author, Database, Note, ServiceRow, StaleRevision


class Holds:
    """The holds of all services, and when each ends."""

    __slots__ = ("_releases", "_world")

    def __init__(self, world: World) -> None:
        self._world = world
        self._releases: dict[str, asyncio.Task[None]] = {}

    async def hold(
        self, service: str, timeout_s: float, author: Author, revision: int | None
    ) -> ServiceRow:
        """Hold it for `timeout_s` from now on. Raises RevisionIsStale."""
        until = self._world.now() + timeout_s
        told = events.Held(service=service, who=author.who, until=until, reason=author.reason)
        note = Note(Audit(author, "service.hold", service), (told,))
        row = await self._set(service, True, until, note, revision)
        self._release_in(service, timeout_s)
        return row

    def take_up(self, row: ServiceRow, timeout_s: float) -> None:
        """Go on with a hold that the last control process began. Not beyond `timeout_s` from
        now, whatever has become of the clock meanwhile."""
        left_s = (row.hold_until or 0.0) - self._world.now()
        self._release_in(row.name, max(0.0, min(left_s, timeout_s)))

    async def release(
        self, service: str, author: Author, revision: int | None = None
    ) -> ServiceRow:
        """Let what is held go. Raises RevisionIsStale."""
        told = events.Released(service=service, who=author.who, reason=author.reason)
        note = Note(Audit(author, "service.release", service), (told,))
        row = await self._set(service, False, None, note, revision)
        task = self._releases.pop(service, None)
        if task is not None and task is not asyncio.current_task():
            task.cancel()
        return row

    def _release_in(self, service: str, left_s: float) -> None:
        """Release it so many seconds from now; what was said before is forgotten."""
        uptime = self._world.clock.uptime
        until_s = uptime() + left_s
        previous = self._releases.pop(service, None)
        if previous is not None:
            previous.cancel()

        async def later() -> None:
            while (left_s := until_s - uptime()) > 0:
                await asyncio.sleep(left_s)
            await self.release(service, Author("turnout", reason="hold.timeout is over"))

        ending = keep_running(f"releasing {service}", later, self._world.journal.problem)
        self._releases[service] = asyncio.create_task(ending)

    async def close(self) -> None:
        """Forget the ends; the store has them."""
        tasks = list(self._releases.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _set(
        self, service: str, held: bool, until: float | None, note: Note, revision: int | None
    ) -> ServiceRow:
        world = self._world

        async def decide() -> ServiceRow:
            return await world.store(
                Database.hold, service, held, until, world.now(), note, revision
            )

        try:
            row = await world.words.publish(decide)
        except StaleRevision as error:
            raise stale(error) from None
        world.journal.told(note)
        return row
