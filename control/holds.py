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
        self.release_at(service, until)
        return row

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

    def release_at(self, service: str, at: float) -> None:
        """Release it then, seconds since 1970; what was said before is forgotten."""
        previous = self._releases.pop(service, None)
        if previous is not None:
            previous.cancel()

        async def later() -> None:
            while (left_s := at - self._world.now()) > 0:
                await asyncio.sleep(min(left_s, 1.0))
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
