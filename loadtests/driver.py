"""Carries the schedule out through the control API, and notes when each call was answered."""

import asyncio
import contextlib
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Any, Final

import httpx

from loadtests import changes
from loadtests.ledgers import UPSTREAMS, Change, Receipt, receipt
from loadtests.schedule import Do, Step
from loadtests.stage import SERVICE, Stage, StageError, tail

HELD_S: Final = 0.1
QUIET_LIMIT_S: Final = 60.0
IDLE_TIMEOUTS_S: Final = (30, 20)
FINAL: Final = ("completed", "rolled_back", "aborted", "failed")

Json = dict[str, Any]


class Refused(Exception):
    """The API answered with something else than what was asked for."""


class Driver:
    """One service's switches. `changes` grows while they are done."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._path = f"/v1/services/{SERVICE}"
        self._wall_s = time.time() - time.monotonic()
        now_s = time.monotonic()
        self.changes = [Change("start", now_s, now_s, UPSTREAMS[0])]
        self.weights: dict[str, float] = {UPSTREAMS[0]: 100.0, UPSTREAMS[1]: 0.0}
        self.doing = ""
        self._rolls_back_to = dict(self.weights)
        self._known: dict[str, float] = {}
        """Switchover -> when its end was known here."""
        self._reloads = 0
        self._changed = 0
        self._keys = 0

    async def run(self, steps: Iterator[Step], every_s: float, until_s: float) -> None:
        """Do one step after the other, each `every_s` after the one before began, or later."""
        for step in steps:
            began_s = time.monotonic()
            if began_s >= until_s:
                return
            await self.do(step)
            pause_s = min(began_s + every_s, until_s) - time.monotonic()
            await asyncio.sleep(max(0.0, pause_s))

    async def do(self, step: Step) -> None:
        """Do one step; what goes wrong is in the change that is noted."""
        heavy = max(UPSTREAMS, key=lambda name: self.weights[name])
        to = UPSTREAMS[1 - UPSTREAMS.index(heavy)]
        before = dict(self.weights)
        self.doing = f"{step.do} to {to}" if step.do in _TO else str(step.do)
        flip, error = False, ""
        asked_s = time.monotonic()
        try:
            wanted, flip = await self._carry_out(step, to, before)
            if self.weights != wanted:
                error = f"the weights are {self.weights}, not {wanted}"
        except (Refused, httpx.HTTPError) as fault:
            error = f"{type(fault).__name__}: {fault}"
            await self._quiet()
        done_s = time.monotonic()
        if self.weights != before:
            self._rolls_back_to = before
        settled = next((name for name in UPSTREAMS if self.weights[name] == 100.0), None)
        self.changes.append(
            Change(self.doing, asked_s, done_s, settled, flip=flip and not error, error=error)
        )
        self.doing = ""

    async def _carry_out(
        self, step: Step, to: str, before: dict[str, float]
    ) -> tuple[dict[str, float], bool]:
        """The weights that it must have led to, and whether in one instant."""
        whole = {name: 100.0 if name == to else 0.0 for name in UPSTREAMS}
        match step.do:
            case Do.ATOMIC:
                await self._switch(to, "atomic")
            case Do.STEPPED:
                await self._switch(to, "stepped")
                return whole, False
            case Do.WEIGHTS:
                whole = await self._by_hand(step.first_hundredths)
                return whole, 100.0 in whole.values()
            case Do.ROLLBACK:
                await self._rollback()
                whole = self._rolls_back_to
                return whole, 100.0 in whole.values()
            case Do.TURN_BACK:
                await self._turn_back(to)
                return before, False
            case Do.HELD:
                await self._held(to)
            case Do.RELOAD:
                await self._reload()
                return before, False
            case Do.CHANGED:
                await self._reload_changed()
                return before, False
            case Do.KILLED:
                await self._killed(to, step.after_s)
        return whole, True

    # ------------------------------------------------------------ the steps

    async def _switch(self, to: str, strategy: str) -> None:
        body = {"to": to, "strategy": strategy, "reason": "load test"}
        self._ended(
            await self._call("POST", f"{self._path}/switchovers?wait=true", body), "completed"
        )
        await self._look()

    async def _by_hand(self, first_hundredths: int) -> dict[str, float]:
        first = first_hundredths / 100
        wanted = {UPSTREAMS[0]: first, UPSTREAMS[1]: round(100 - first, 2)}
        await self._call("PUT", f"{self._path}/weights?wait=true", {"weights": wanted})
        await self._look()
        return wanted

    async def _rollback(self) -> None:
        found = await self._call(
            "POST", f"{self._path}/rollback?wait=true", {"reason": "load test"}
        )
        self._ended(found, "completed")
        await self._look()

    async def _turn_back(self, to: str) -> None:
        """Start a stepped switch, and roll it back once it has given the target some weight."""
        body = {"to": to, "strategy": "stepped"}
        started = await self._call("POST", f"{self._path}/switchovers", body)
        limit_s = time.monotonic() + 10.0
        while (await self._call("GET", f"/v1/switchovers/{started['id']}"))["state"] != "shifting":
            if time.monotonic() > limit_s:
                raise Refused(f"switchover {started['id']} was not shifting within 10 s")
            await asyncio.sleep(0.02)
        found = await self._call(
            "POST", f"{self._path}/rollback?wait=true", {"reason": "load test"}
        )
        self._ended(found, "rolled_back")
        await self._look()

    async def _held(self, to: str) -> None:
        await self._call("POST", f"{self._path}/hold", {"reason": "load test"})
        try:
            # Long enough for requests to gather: they are what this is about.
            await asyncio.sleep(HELD_S)
            await self._switch(to, "atomic")
        finally:
            await self._call("POST", f"{self._path}/release", {"reason": "load test"})

    async def _reload(self) -> None:
        self._reloads += 1
        # Every other one finds nothing changed.
        self._stage.write_config(IDLE_TIMEOUTS_S[self._reloads // 2 % 2])
        await self._call("POST", "/v1/reload", {"reason": "load test"})
        await self._look()

    async def _reload_changed(self) -> None:
        self._stage.write_config(change=changes.nth(self._changed))
        self._changed += 1
        done = await self._call("POST", "/v1/reload", {"reason": "load test"})
        if not done["changed"]:
            raise Refused("the reload found nothing changed")
        await self._look()

    async def _killed(self, to: str, after_s: float) -> None:
        """Kill control amid a switch; whoever asked asks again with its key until it knows."""
        self._keys += 1
        key = {"Idempotency-Key": f"load-{self._keys}"}
        body = {"to": to, "strategy": "atomic", "reason": "load test"}
        asking = asyncio.create_task(
            self._stage.api.post(f"{self._path}/switchovers?wait=true", json=body, headers=key)
        )
        await asyncio.sleep(after_s)
        self._stage.kill_control()
        await asyncio.wait({asking})
        limit_s = time.monotonic() + QUIET_LIMIT_S
        while asking.exception() is not None or asking.result().status_code == 503:
            if time.monotonic() > limit_s:
                raise StageError(f"control did not come back:\n{tail(self._stage.product_log)}")
            await asyncio.sleep(0.05)
            asking = asyncio.create_task(
                self._stage.api.post(f"{self._path}/switchovers?wait=true", json=body, headers=key)
            )
            await asyncio.wait({asking})
        answer = asking.result()
        if not answer.is_success:
            raise Refused(f"after the kill: {answer.status_code} {answer.text}")
        self._ended(answer.json(), "completed")
        await self._quiet()
        await self._healthy()
        if not answer.json()["changed"]:
            raise Refused(f"nothing was to be done for {answer.text}")

    async def _healthy(self) -> None:
        """Wait until a control that has come back may move weight to each upstream again."""
        limit_s = time.monotonic() + QUIET_LIMIT_S
        while True:
            service = await self._call("GET", self._path)
            if all(upstream["healthy"] for upstream in service["upstreams"].values()):
                return
            if time.monotonic() > limit_s:
                raise StageError(f"not healthy again:\n{tail(self._stage.product_log)}")
            await asyncio.sleep(0.02)

    # ------------------------------------------------------------ calls

    async def _call(self, method: str, path: str, body: Json | None = None) -> Json:
        """Raises Refused for anything but 2xx."""
        answer = await self._stage.api.request(method, path, json=body)
        if not answer.is_success:
            raise Refused(f"{method} {path}: {answer.status_code} {answer.text}")
        document: Json = answer.json()
        return document

    def _ended(self, switchover: Json, state: str) -> None:
        if switchover["id"] is not None:
            self._known[switchover["id"]] = time.monotonic()
        if switchover["state"] != state:
            raise Refused(
                f"switchover {switchover['id']} is {switchover['state']}, not {state}: "
                f"{switchover['outcome']}"
            )

    async def _look(self) -> None:
        service = await self._call("GET", self._path)
        self.weights = {name: float(service["weights"][name]) for name in UPSTREAMS}

    async def _quiet(self) -> None:
        """Look once the API answers and nothing is under way. Raises StageError."""
        limit_s = time.monotonic() + QUIET_LIMIT_S
        while time.monotonic() < limit_s:
            with contextlib.suppress(Refused, httpx.TransportError):
                service = await self._call("GET", self._path)
                if service["switchover"] is None:
                    await self._look()
                    return
            await asyncio.sleep(0.05)
        raise StageError(f"the API did not come to rest:\n{tail(self._stage.product_log)}")

    async def receipts(self) -> list[Receipt]:
        """Of every switchover of this run, the oldest first. Raises Refused."""
        found = []
        page = await self._call("GET", f"{self._path}/switchovers?limit=1000")
        for item in reversed(page["items"]):
            switchover = await self._call("GET", f"/v1/switchovers/{item['id']}")
            document = switchover["receipt"]
            if switchover["state"] not in FINAL or document is None:
                raise Refused(f"switchover {item['id']} is {switchover['state']} without receipt")
            found.append(
                receipt(
                    document,
                    started_s=self._monotonic(document["window"]["started_at"]),
                    ended_s=self._monotonic(document["finished_at"]),
                    known_s=self._known.get(item["id"], float("inf")),
                )
            )
        return found

    def _monotonic(self, at: str) -> float:
        """A time of the API's, in UTC to the millisecond, on the clock of the ledgers."""
        return datetime.fromisoformat(at).timestamp() - self._wall_s


_TO: Final = (Do.ATOMIC, Do.STEPPED, Do.TURN_BACK, Do.HELD, Do.KILLED)
