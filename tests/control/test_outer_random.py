"""A mover in any weather: crashes, lost replies, throttling, somebody else; in every order.

Whatever happens, nothing is carried out twice, what somebody else changed is not moved over, and
what is said to be done is done.
"""

import asyncio
import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.control.outer_in_memory import MemoryRouter
from turnout.config.model import OnFailure, Outer, OuterOrder
from turnout.control.journal import Journal
from turnout.control.outer import mover as mover_module
from turnout.control.outer.mover import Mover, Stopped
from turnout.control.outer.seams import (
    Change,
    Conflict,
    Denied,
    NotDone,
    Reading,
    ReplyLost,
    Verdict,
    Wanted,
)
from turnout.control.rows import Note, ServiceNames
from turnout.control.state import OuterPart, Switchover
from turnout.control.store import Database, Store

STEPS: Final = (1000, 5000, 10_000)
FAULTS: Final = (
    "throttled", "denied", "lost before", "lost after", "conflict", "crash before", "crash after",
    "crash at reading", "crash at polling",
)  # fmt: skip
"""What a call may meet."""


class Crash(BaseException):
    """The process ends here: nothing that comes behind it runs."""


@dataclass
class WeatheredRouter(MemoryRouter):
    weather: list[str] = field(default_factory=list)
    """One for each call, in order; then the sun shines."""
    carried_out: list[int] = field(default_factory=list)
    crashed: bool = False
    outsider: int = 0
    """So many calls from now somebody else changes the note; 0: nobody does."""

    def _next(self) -> str:
        if self.outsider:
            self.outsider -= 1
            if not self.outsider:
                self.note = "theirs"
        return self.weather.pop(0) if self.weather else ""

    async def read(self) -> Reading:
        match self._next():
            case "throttled":
                raise NotDone("slow down")
            case "denied":
                raise Denied("expired")
            case "lost before" | "lost after":
                raise ReplyLost("no answer")
            case "crash at reading":
                await self._crash()
        return await super().read()

    async def set_weights(self, wanted: Wanted, if_read: Reading) -> Change:
        fault = self._next()
        match fault:
            case "throttled":
                raise NotDone("slow down")
            case "denied":
                raise Denied("expired")
            case "lost before":
                raise ReplyLost("no answer")
            case "conflict":
                raise Conflict("it has changed")
            case "crash before":
                await self._crash()
        change = await super().set_weights(wanted, if_read)
        self.carried_out.append(wanted.second_weight)
        match fault:
            case "lost after":
                raise ReplyLost("no answer")
            case "crash after":
                await self._crash()
        return change

    async def poll(self, change: Change) -> Any:
        match self._next():
            case "crash at polling":
                await self._crash()
            case "throttled":
                raise NotDone("slow down")
            case "lost before" | "lost after":
                raise ReplyLost("no answer")
        return await super().poll(change)

    async def _crash(self) -> None:
        self.crashed = True
        await asyncio.Event().wait()


def switchover() -> Switchover:
    return Switchover(
        id="",
        service="shop",
        first="blue",
        second="green",
        from_upstream="blue",
        to_upstream="green",
        strategy="careful",
        weights_before=0,
        steps=STEPS,
        pause_s=0.0,
        on_failure=OnFailure.ROLLBACK,
        check_s=1.0,
        requested_by="ci",
        reason="",
        created_at=time.time(),
        outer=OuterPart("memory", OuterOrder.OUTER_FIRST, tail=False),
    )


@dataclass
class World:
    """What outlives a crash: the store, and the system."""

    path: Path
    router: WeatheredRouter
    value: Switchover | None = None

    async def run(self, back_at: int) -> str:
        """Carry all steps out, and from `back_at` on go back; how it ended. Crashes begin anew."""
        while True:
            store = Store.open(self.path)
            try:
                self.router.crashed = False
                task = asyncio.create_task(self._life(store, back_at))
                while not task.done() and not self.router.crashed:
                    await asyncio.sleep(0)
                if task.done():
                    return task.result()
                me = asyncio.current_task()
                others = [other for other in asyncio.all_tasks() if other is not me]
                for other in others:
                    other.cancel()
                await asyncio.gather(*others, return_exceptions=True)
            finally:
                store.close()

    async def _life(self, store: Store, back_at: int) -> str:
        journal = Journal(store, lambda event: None, time.time)
        outer = Outer("memory", OuterOrder.OUTER_FIRST, 60.0, 60.0, 0.001, None, None)
        mover = Mover(
            "shop", ("blue", "green"), outer, lambda: self.router, store, journal, time.time,
            asyncio.Lock(),
        )  # fmt: skip
        if self.value is None:
            names = ServiceNames("shop", "blue", "green", 0)
            await store(Database.ensure_services, [names], 0.0, live=False)
            self.value = await store(
                Database.start_switchover, switchover(), 0.0, lambda stored: Note(), None
            )
        value = self.value
        try:
            await mover.look(value, time.time)
            for step, weight in enumerate(STEPS):
                if step == back_at:
                    await mover.restore(value, len(STEPS), time.time)
                    return "back"
                await mover.move(value, step, weight, time.time)
            return "done"
        except Stopped as error:
            return str(error)


@pytest.fixture(autouse=True, scope="module")
def quick() -> Any:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RETRY_FIRST_S", "RETRY_MAX_S", "POLL_FIRST_S", "POLL_MAX_S"):
            patch.setattr(mover_module, name, 0.0005)
        yield


WEATHER: Final = st.lists(st.sampled_from([*FAULTS, "", ""]), max_size=14)


@settings(max_examples=40, deadline=None)
@given(WEATHER, st.integers(1, 3), st.booleans())
def test_nothing_is_carried_out_twice_and_what_is_said_is_so(
    weather: list[str], back_at: int, exchange: bool
) -> None:
    router = WeatheredRouter(weather=list(weather), exchange=exchange)
    with tempfile.TemporaryDirectory() as directory:
        said = asyncio.run(World(Path(directory) / "t.db", router).run(back_at))
    if back_at < len(STEPS):
        assert (said, router.weight) == ("back", 0)
        assert router.carried_out == [*STEPS[:back_at], 0]
    else:
        assert (said, router.weight) == ("done", 10_000)
        assert router.carried_out == list(STEPS)


@settings(max_examples=40, deadline=None)
@given(WEATHER, st.integers(1, 3), st.integers(1, 20))
def test_what_somebody_else_changed_is_never_moved_over(
    weather: list[str], back_at: int, outsider: int
) -> None:
    router = WeatheredRouter(weather=list(weather), outsider=outsider)
    with tempfile.TemporaryDirectory() as directory:
        said = asyncio.run(World(Path(directory) / "t.db", router).run(back_at))
    assert len(router.carried_out) == len(set(router.carried_out))
    if router.note == "theirs" and said not in ("done", "back"):
        assert "theirs" in said or "it has changed" in said
    elif said in ("done", "back"):
        expected = [*STEPS[:back_at], *([0] if said == "back" else [])]
        assert router.carried_out == expected


@pytest.mark.parametrize("seed", range(5))
def test_the_weather_does_reach_it(seed: int) -> None:
    """The tests above could pass in sunshine: here each fault is met at a writing call."""
    faults = [fault for fault in FAULTS if "reading" not in fault and "polling" not in fault]
    random.Random(seed).shuffle(faults)
    router = WeatheredRouter(weather=[word for fault in faults for word in ("", fault)])
    with tempfile.TemporaryDirectory() as directory:
        said = asyncio.run(World(Path(directory) / "t.db", router).run(3))
    assert said == "done"
    assert len(router.weather) <= 2, "the last may be left, as a look met the one before"
    assert router.carried_out == list(STEPS)
    assert router.journal.count("confirm") >= 1
    assert router.verdict is Verdict.IN_SYNC
