"""Control is killed before and after every durable write of every decision; or a write fails.

The writes are counted in a run without a fault, so that a new one is covered without touching
this file. After each: control comes back, what was begun is brought to its end exactly once, a
caller that lost its answer asks again with its key and causes nothing twice, and the load that
runs meanwhile does not notice.

`TURNOUT_FAULTS=all` runs every write of every deed; without it those of an atomic switch, and
one, chosen by a seed, of others.
"""

import asyncio
import itertools
import random
import sqlite3
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import httpx

from tests.faults.store_faults import Orders, every_case, ordered
from tests.harness import SERVICE, ApiError, Bench, settings
from tests.load import Load, misplaced, must_not_fail
from tests.upstreams import Upstream
from turnout.control.receipt import verify
from turnout.proxy.scoreboard import RoutingWord, service_word_index

STEPS: Final = {
    "strategies": {
        "stepped": {"steps": [10, 100], "pause": "50ms"},
        "slow": {"steps": [10, 100], "pause": "1h"},
    }
}
SEED: Final = 32
KILLED: Final = ("atomic switch", "rollback", "rollback midway", "servers", "reload")
FAILING: Final = ("atomic switch", "rollback midway", "servers")
"""Deeds at whose writes control is killed, and deeds whose writes fail, where not all are run."""
COMEBACK_S: Final = 30.0
PATH: Final = f"/v1/services/{SERVICE}"
keys = itertools.count(1)


@dataclass(slots=True)
class Faulted:
    """A running product that takes orders, and what is known of it."""

    at: Bench
    orders: Orders
    spare: Upstream
    weights: dict[str, float] = field(default_factory=lambda: {"blue": 100.0, "green": 0.0})
    reloads: int = 0
    writes: list[str] = field(default_factory=list)
    """Of the last deed to whose end control lived."""

    @property
    def other(self) -> str:
        return "green" if self.weights["blue"] >= 50 else "blue"

    async def call(self, method: str, path: str, body: Any, key: str) -> Any:
        headers = {"Idempotency-Key": key}
        return await self.at.product.api.call(method, path, body, headers=headers)

    def store(self, statement: str, *values: object) -> list[tuple[Any, ...]]:
        """Read the store as it is on the disk."""
        path = f"file:{self.at.product.base}/turnout.db?mode=ro"
        with sqlite3.connect(path, uri=True, timeout=10) as connection:
            return connection.execute(statement, values).fetchall()


@asynccontextmanager
async def faulted(directory: Path) -> AsyncIterator[Faulted]:
    async with Upstream("blue") as blue, Upstream("green") as green, Upstream("green") as spare:
        configuration = settings([blue.address], [green.address], workers=2, switchover=STEPS)
        product, orders = ordered(directory, configuration)
        product.errors_expected = False
        try:
            await product.start()
            await product.api.healthy()
            yield Faulted(Bench(product, blue, green), orders, spare)
        finally:
            await product.close()


# ---------------------------------------------------------------- the deeds


@dataclass(frozen=True, slots=True)
class Deed:
    """A decision of each kind: `act` makes it, with a key for whoever asks twice; `states` are
    how the switchovers that it causes end, `weights` those that it leads to."""

    name: str
    act: Callable[[Faulted, str], Awaitable[Any]]
    states: tuple[str, ...] = ()
    weights: Callable[[Faulted], dict[str, float]] = lambda at: at.weights
    check: Callable[[Faulted], Awaitable[None]] | None = None


def all_to(name: str) -> dict[str, float]:
    return {"blue": 100.0 if name == "blue" else 0.0, "green": 100.0 if name == "green" else 0.0}


def switch(strategy: str) -> Callable[[Faulted, str], Awaitable[Any]]:
    async def act(at: Faulted, key: str) -> Any:
        body = {"to": at.other, "strategy": strategy}
        return await at.call("POST", f"{PATH}/switchovers", body, key)

    return act


async def by_hand(at: Faulted, key: str) -> Any:
    blue = 25.0 if at.weights["blue"] != 25.0 else 75.0
    weights = {"weights": {"blue": blue, "green": 100 - blue}}
    return await at.call("PUT", f"{PATH}/weights?wait=true", weights, key)


async def roll_back(at: Faulted, key: str) -> Any:
    return await at.call("POST", f"{PATH}/rollback", {"reason": "it is bad"}, key)


async def turn_back(at: Faulted, key: str) -> Any:
    """A stepped switchover that is rolled back in its first pause."""
    await begin_slowly(at, key)
    return await at.call("POST", f"{PATH}/rollback", {"reason": "it is bad"}, f"{key}-back")


async def begin_slowly(at: Faulted, key: str) -> str:
    """Begin a switchover whose first pause does not end; its id, once it has moved a weight."""
    begun = await at.call("POST", f"{PATH}/switchovers", {"to": at.other, "strategy": "slow"}, key)
    id: str = begun["id"]
    while begun["state"] in ("pending", "preparing", "checking"):
        await asyncio.sleep(0.01)
        begun = await at.at.product.api.switchover(id)
    return id


async def abort(at: Faulted, key: str) -> Any:
    id = await begin_slowly(at, key)
    return await at.call("POST", f"/v1/switchovers/{id}/abort", {}, f"{key}-abort")


async def hold_and_release(at: Faulted, key: str) -> Any:
    await at.call("POST", f"{PATH}/hold", {}, key)
    return await at.call("POST", f"{PATH}/release", {}, f"{key}-release")


async def servers(at: Faulted, key: str) -> Any:
    body = {"servers": [at.at.green.address, at.spare.address]}
    return await at.call("PUT", f"{PATH}/upstreams/green", body, key)


async def servers_are_set(at: Faulted) -> None:
    kept = at.store("SELECT servers FROM services")[0][0]
    assert at.spare.address in kept
    # And given back, for the next time.
    await at.call("PUT", f"{PATH}/upstreams/green", {"servers": [at.at.green.address]}, key())


async def reload(at: Faulted, key: str) -> Any:
    at.at.product.write_config({"pool": {"idle_timeout": f"{20 + at.reloads}s"}})
    return await at.call("POST", "/v1/reload", {}, key)


async def reload_is_done(at: Faulted) -> None:
    """The next reload of the same file finds nothing changed, and a next one has something."""
    assert (await at.call("POST", "/v1/reload", {}, key()))["changed"] is False
    at.reloads += 1


def key() -> str:
    return f"key-{next(keys)}"


def moved(at: Faulted) -> dict[str, float]:
    return all_to(at.other)


DEEDS: Final = (
    Deed("atomic switch", switch("atomic"), ("completed",), moved),
    Deed("rollback", roll_back, ("completed",), lambda at: all_to(at.other)),
    Deed("stepped switch", switch("stepped"), ("completed",), moved),
    Deed("rollback midway", turn_back, ("rolled_back",)),
    Deed("abort", abort, ("aborted",)),
    Deed("hold and release", hold_and_release),
    Deed("servers", servers, check=servers_are_set),
    Deed("reload", reload, check=reload_is_done),
    Deed(
        "weights by hand", by_hand, ("completed",),
        lambda at: {"blue": 25.0, "green": 75.0} if at.weights["blue"] != 25.0
        else {"blue": 75.0, "green": 25.0},
    ),
)  # fmt: skip


# ---------------------------------------------------------------- carried out, and looked at


async def patiently(at: Faulted, what: str, call: Callable[[], Awaitable[Any]]) -> Any:
    """As a deploy script would: without an answer, or told that the store cannot be used now,
    it asks again."""
    deadline = asyncio.get_running_loop().time() + COMEBACK_S
    while True:
        try:
            return await call()
        except httpx.TransportError:
            await at.at.product.control_ready(COMEBACK_S)
        except ApiError as error:
            assert error.status == 503, error
            await asyncio.sleep(0.05)
        assert asyncio.get_running_loop().time() < deadline, f"{what}: no answer"


async def carried_out(at: Faulted, deed: Deed) -> None:
    """Do it, and look whether everything is as if nothing had happened, exactly once."""
    before = {id for (id,) in at.store("SELECT id FROM switchovers")}
    wanted = deed.weights(at)
    asked = key()
    await patiently(at, deed.name, lambda: deed.act(at, asked))
    service = await patiently(at, deed.name, at.at.product.api.settled)
    if at.orders.pending:
        at.writes = at.orders.writes()
        at.orders.end()
    await at.at.product.control_ready(COMEBACK_S)
    assert service["weights"] == wanted, deed.name
    assert service["held"] is False
    new = [
        (id, state, document)
        for id, state, document in at.store(
            "SELECT id, state, receipt FROM switchovers ORDER BY id"
        )
        if id not in before
    ]
    assert tuple(state for _, state, _ in new) == deed.states, (deed.name, new)
    for id, _, _ in new:
        await once(at, id)
    agree(at)
    if deed.check is not None:
        await deed.check(at)
    at.weights = wanted


async def once(at: Faulted, id: str) -> None:
    """One beginning, one end, one receipt that agrees, and epochs that rise."""
    found = await at.at.product.api.switchover(id)
    assert verify(found["receipt"]) == []
    told = Counter(
        name
        for (name,) in at.store(
            "SELECT name FROM events WHERE json_extract(document, '$.switchover') = ?", id
        )
    )
    assert told["switchover.started"] == 1, told
    assert told[f"switchover.{found['state']}"] == 1, told
    epochs = [
        epoch
        for (epoch,) in at.store(
            "SELECT epoch FROM switchover_steps WHERE switchover = ? ORDER BY decided_at", id
        )
    ]
    assert epochs == sorted(set(epochs)), epochs


def agree(at: Faulted) -> None:
    """The words say what the store has decided, and no more was counted than there is."""
    slot, weight, held, epoch = at.store("SELECT slot, second_weight, held, epoch FROM services")[0]
    routing = at.at.product.routing()
    word = RoutingWord.unpack(routing.words[service_word_index(slot)])
    routing.close()
    assert word == RoutingWord(bool(held), weight, epoch)
    ended = sum(count for (count,) in at.store("SELECT count FROM ended"))
    assert ended == at.store("SELECT count(*) FROM switchovers WHERE final = 1")[0][0]
    (newest,) = at.store("SELECT epoch FROM meta")[0]
    assert newest >= epoch


async def counted(at: Faulted, deed: Deed) -> list[str]:
    """The deed without a fault: its writes."""
    at.orders.give("count")
    await carried_out(at, deed)
    assert at.writes, f"{deed.name} wrote nothing"
    return at.writes


async def at_each_write(
    at: Faulted, deeds: Sequence[Deed], kinds: tuple[str, ...], dice: random.Random
) -> list[str]:
    """Every deed with a fault at each of its writes, or at some; returns what was done."""
    done = []
    for deed in deeds:
        writes = await counted(at, deed)
        cases = [(kind, number) for number in range(1, len(writes) + 1) for kind in kinds]
        if not every_case():
            # Before a write is behind the one before it: nothing durable is in between.
            behind = [case for case in cases if case[0] != "kill before"]
            cases = behind if deed is DEEDS[0] else [dice.choice(cases)]
        for kind, number in cases:
            if deed.name == "rollback" and at.weights["blue"] in (25.0, 75.0):
                await carried_out(at, DEEDS[0])
            at.orders.give(kind, number, times=3 if every_case() else 1)
            what = f"{deed.name}: {kind} write {number}, {writes[number - 1]}"
            try:
                await carried_out(at, deed)
            except BaseException as error:
                error.add_note(what)
                raise
            done.append(what)
    return done


async def under_load(directory: Path, deeds: Sequence[Deed], *kinds: str) -> list[str]:
    async with faulted(directory) as at:
        load = Load(lambda: at.at.product.address, pause_s=0.02)
        async with load.running(4, 2):
            done = await at_each_write(at, deeds, kinds, random.Random(SEED))
        must_not_fail(load.samples)
        at.at.green.ledger = [*at.at.green.ledger, *at.spare.ledger]
        assert misplaced(load.samples, [at.at.blue, at.at.green]) == []
    return done


def chosen(names: Sequence[str]) -> list[Deed]:
    return [deed for deed in DEEDS if every_case() or deed.name in names]


async def test_control_killed_at_each_write_of_each_decision(tmp_path: Path) -> None:
    done = await under_load(tmp_path, chosen(KILLED), "kill before", "kill after")
    assert len(done) >= 8, done


async def test_a_write_that_fails_is_no_half_decision(tmp_path: Path) -> None:
    """The disk is full for some writes, beginning at each, and then it is not."""
    done = await under_load(tmp_path, chosen(FAILING), "fail")
    assert len(done) >= 6, done


async def test_what_was_in_flight_is_in_the_receipt_when_control_dies_behind_the_flip(
    tmp_path: Path,
) -> None:
    async with faulted(tmp_path) as at:
        asked = asyncio.ensure_future(at.at.get("/slow?delay=2"))
        await at.at.product.until(lambda: at.at.blue.ledger, "the request at blue")
        at.orders.give("kill after", 1)
        asked_as = key()
        begun = await patiently(at, "the switch", lambda: switch("atomic")(at, asked_as))
        over = await at.at.product.api.ended(begun["id"])
        assert over["receipt"]["in_flight_at_flip"]["plain"] == 1
        assert over["receipt"]["requests"]["answered_by_upstream"] == 1
        assert (await asked).upstream == "blue"
