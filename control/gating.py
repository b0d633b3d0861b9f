"""Gates of a step: asked until each lets it go on, or one has failed too often.

`judge` is pure: what a gate has answered so far -> go on, wait, or it has failed. Only a pass
goes on. A gate that cannot be asked, or does not tell, is waited for, but not for ever.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, replace

from turnout.config.model import Gate
from turnout.control import events
from turnout.control.journal import Journal
from turnout.control.outer.layers import OuterLayers
from turnout.control.outer.seams import GateQuestion, GateResult, GateVerdict, OuterError
from turnout.control.rows import Note
from turnout.control.state import Switchover
from turnout.control.store import Database, Store


@dataclass(frozen=True, slots=True)
class Answers:
    """What a gate has answered so far, at one step."""

    failures: int = 0
    """In a row."""
    undecided_since: float | None = None
    """Since when it was neither pass nor fail; None: it is."""


@dataclass(frozen=True, slots=True)
class Passed:
    """It lets the step go on."""


@dataclass(frozen=True, slots=True)
class Wait:
    """It is asked again."""

    answers: Answers


@dataclass(frozen=True, slots=True)
class Failed:
    reason: str


def judge(gate: Gate, answers: Answers, result: GateResult, at: float) -> Passed | Wait | Failed:
    """What follows from a gate's answer. `at` is when it came, seconds since 1970."""
    match result.verdict:
        case GateVerdict.PASS:
            return Passed()
        case GateVerdict.FAIL:
            failures = answers.failures + 1
            if failures >= gate.failures:
                times = "" if failures == 1 else f" {failures} times in a row"
                return Failed(f"gate {gate.name} fails{times}: {result.reason}")
            return Wait(Answers(failures))
        case _:
            since = at if answers.undecided_since is None else answers.undecided_since
            if at - since >= gate.patience_s:
                return Failed(
                    f"gate {gate.name} is {result.verdict.value} for {gate.patience_s:g} s"
                    f" (patience): {result.reason}"
                )
            # It says nothing of a failure before: that counts on.
            return Wait(replace(answers, undecided_since=since))


class GateKeeper:
    """Asks the gates of a step."""

    def __init__(
        self, layers: OuterLayers, store: Store, journal: Journal, wall: Callable[[], float]
    ) -> None:
        """`wall` is the clock that other systems have, too: their values are of its times."""
        self._wall = wall
        self._layers = layers
        self._store = store
        self._journal = journal
        self.doing: dict[str, str] = {}
        """Switchover -> which gate it waits for, and why, in words."""

    async def passed(
        self, value: Switchover, step: int, since: float, now: Callable[[], float]
    ) -> str:
        """Wait until all of the service's gates let the step go on, or return why one does not.

        They are asked side by side; `since` is when weights were last moved.
        """
        gates = [gate for gate in self._layers.gates(value.service) if gate.name in value.gates]
        tasks = [asyncio.create_task(self._one(gate, value, step, since, now)) for gate in gates]
        try:
            for ended in asyncio.as_completed(tasks):
                if reason := await ended:
                    return reason
            return ""
        finally:
            self.doing.pop(value.id, None)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _one(
        self, gate: Gate, value: Switchover, step: int, since: float, now: Callable[[], float]
    ) -> str:
        answers = Answers()
        before: GateVerdict | None = None
        while True:
            # The switchover's own times never jump, so they may be others than the world's.
            at = self._wall()
            question = GateQuestion(
                service=value.service,
                upstream=value.to_upstream,
                switchover=value.id,
                step=step,
                since=at - (now() - since),
                at=at,
            )
            result = await self._asked(gate, question)
            if result.verdict is not before:
                await self._keep(gate, value, step, result, now())
                before = result.verdict
            match judge(gate, answers, result, now()):
                case Passed():
                    return ""
                case Failed(reason):
                    return reason
                case Wait(answers):
                    verdict = result.verdict.value
                    self.doing[value.id] = f"gate {gate.name} is {verdict}: {result.reason}"
                    await asyncio.sleep(gate.interval_s)

    async def _asked(self, gate: Gate, question: GateQuestion) -> GateResult:
        try:
            asked = await self._layers.gate(question.service, gate)
            async with asyncio.timeout(2 * gate.call_timeout_s):
                return await asked.check(question)
        except OuterError as error:
            return GateResult(GateVerdict.ERROR, str(error))
        except TimeoutError:
            reason = f"no answer in {2 * gate.call_timeout_s:g} s"
            return GateResult(GateVerdict.ERROR, reason)

    async def _keep(
        self, gate: Gate, value: Switchover, step: int, result: GateResult, at: float
    ) -> None:
        document = {
            "gate": gate.name,
            "kind": gate.kind,
            "step": step + 1,
            "verdict": result.verdict.value,
            "value": result.value,
            "reason": result.reason,
            "at": events.utc(at),
        }
        await self._store(Database.keep_gate, value.id, step, gate.name, document)
        told = events.GateChecked(
            service=value.service,
            switchover=value.id,
            gate=gate.name,
            verdict=result.verdict.value,
            reason=result.reason,
        )
        await self._journal.note(Note(events=(told,)))
