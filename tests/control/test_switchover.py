"""A switchover's moves: every pair of state and event, and every order of events."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
)

from turnout.config.model import WHOLE, OnFailure
from turnout.control import decider, switchover
from turnout.control.evidence import Evidence
from turnout.control.health import UpstreamHealth
from turnout.control.orders import (
    AwaitAcknowledgement,
    CheckHealth,
    CheckReturn,
    CloseIdle,
    Command,
    Drain,
    Finish,
    HoldStep,
    PrepareTables,
    SetWeight,
    commands,
)
from turnout.control.state import (
    APPROVAL,
    FINAL,
    PERSON,
    State,
    Switchover,
    from_document,
    plan_steps,
    to_document,
    without_weight,
)
from turnout.control.switchover import (
    EVENTS,
    MOVES,
    Abort,
    Event,
    GaveUp,
    IllegalMove,
    PrepareFailed,
    Return,
    Rollback,
    StepNeedsApproval,
    StepTaken,
    TargetFailed,
    TargetNeverHealthy,
    carried_out,
    step,
)
from turnout.proxy.scoreboard import HealthWord

AT = 1000.0


def new(**changes: Any) -> Switchover:
    value = Switchover(
        id="01",
        service="shop",
        first="blue",
        second="green",
        from_upstream="blue",
        to_upstream="green",
        strategy="careful",
        weights_before=0,
        steps=(100, 5000, WHOLE),
        pause_s=60.0,
        on_failure=OnFailure.ROLLBACK,
        check_s=5.0,
        requested_by="ci",
        reason="v42",
        created_at=AT,
    )
    return replace(value, **changes)


def event(kind: type[Event], at: float = AT) -> Event:
    if kind in (PrepareFailed, TargetNeverHealthy, TargetFailed, GaveUp):
        return kind(at, "why")
    if kind in (switchover.Pause, switchover.Resume, switchover.Approve, Abort, Rollback):
        return kind(at, "ann")
    return kind(at)


def fitting(state: State, kind: type[Event]) -> Switchover:
    """A value in `state` in which `kind` is refused for nothing but the state."""
    value = new(state=state, moved=True, second_weight=100)
    if state is State.PAUSED:
        waiting = APPROVAL if kind is switchover.Approve else PERSON
        value = replace(value, paused_from=State.CHECKING, waiting_for=waiting)
    if kind is StepNeedsApproval:
        value = replace(value, pause_s=None)
    if kind is switchover.PauseOver:
        value = replace(value, next_step_at=AT)
    if kind is switchover.LastStepTaken:
        value = replace(value, step_index=2)
    if state is State.ROLLING_BACK:
        aborted = kind is switchover.RestoredByAbort
        value = replace(value, ends_as=State.ABORTED if aborted else State.ROLLED_BACK)
    return value


@pytest.mark.parametrize("state", list(State))
@pytest.mark.parametrize("kind", EVENTS, ids=lambda kind: kind.__name__)
def test_every_pair_moves_as_the_table_says_or_is_illegal(state: State, kind: type[Event]) -> None:
    value = fitting(state, kind)
    before = to_document(value)
    move = MOVES.get((state, kind))
    if move is None:
        with pytest.raises(IllegalMove):
            step(value, event(kind))
    else:
        after, orders = step(value, event(kind))
        wanted = State.CHECKING if isinstance(move, Return) else move
        assert after.state is wanted
        assert orders == commands(after)
        if wanted is not state:
            assert after.phases[-1] == (wanted, AT)
    assert to_document(value) == before


def test_every_event_and_every_state_stands_in_the_table() -> None:
    assert {kind for _, kind in MOVES} == set(EVENTS)
    assert {state for state, _ in MOVES} == set(State) - FINAL


@pytest.mark.parametrize("state", sorted(set(State) - FINAL))
def test_every_state_can_be_given_up_or_left(state: State) -> None:
    assert (state, GaveUp) in MOVES


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (new(state=State.PAUSED, waiting_for=APPROVAL), switchover.Resume),
        (new(state=State.PAUSED, waiting_for=PERSON), switchover.Approve),
        (new(state=State.PAUSED, waiting_for=PERSON), TargetFailed),
        (new(state=State.SHIFTING, moved=True, step_index=2), StepTaken),
        (new(state=State.SHIFTING, moved=True, next_step_at=AT), StepTaken),
        (new(state=State.SHIFTING, moved=True, pause_s=None), StepTaken),
        (new(state=State.SHIFTING, moved=True), switchover.LastStepTaken),
        (new(state=State.SHIFTING, moved=True), switchover.PauseOver),
        (new(state=State.ROLLING_BACK, ends_as=State.ABORTED), switchover.Restored),
        (new(state=State.ROLLING_BACK, ends_as=State.ROLLED_BACK), switchover.RestoredByAbort),
    ],
)
def test_what_the_value_does_not_allow_is_illegal_too(value: Switchover, kind: type[Event]) -> None:
    with pytest.raises(IllegalMove, match=str(value.state)):
        step(value, event(kind))


# ---------------------------------------------------------------- what is to be done


def test_each_state_has_its_commands() -> None:
    moving = new(moved=True, second_weight=100)
    assert commands(new()) == ()
    assert commands(new(state=State.PREPARING)) == (PrepareTables(),)
    assert commands(new(state=State.CHECKING, check_until=AT)) == (CheckHealth(1, AT),)
    assert commands(replace(moving, state=State.SHIFTING)) == (
        CheckHealth(1, None),
        SetWeight(0, 100),
        AwaitAcknowledgement(0),
    )
    assert commands(replace(moving, state=State.SHIFTING, next_step_at=AT)) == (HoldStep(AT),)
    assert commands(replace(moving, state=State.DRAINING, step_index=2)) == (
        Drain(0, 2),
        CloseIdle(0),
    )
    assert commands(replace(moving, state=State.ROLLING_BACK)) == (
        CheckReturn(),
        SetWeight(3, 0),
        AwaitAcknowledgement(3),
        Drain(1, 3),
        CloseIdle(1),
    )
    assert commands(new(state=State.ROLLING_BACK)) == ()
    assert commands(replace(moving, state=State.COMPLETED)) == (Finish(State.COMPLETED),)


def test_a_split_drains_nothing() -> None:
    value = new(state=State.DRAINING, steps=(3000,), moved=True, second_weight=3000)
    assert commands(value) == ()
    back = new(state=State.ROLLING_BACK, weights_before=5000, moved=True)
    assert not any(isinstance(command, Drain) for command in commands(back))


def test_a_target_that_has_all_of_it_is_not_checked_only_drained_for() -> None:
    value = new(steps=(0,), from_upstream="green", to_upstream="blue")
    assert commands(replace(value, state=State.CHECKING)) == ()
    assert commands(replace(value, state=State.SHIFTING))[0] == SetWeight(0, 0)


def test_abort_from_shifting_restores_and_ends_as_aborted() -> None:
    value = new(state=State.SHIFTING, moved=True, second_weight=100)
    value, _ = step(value, Abort(AT, "ann", "wrong build"))
    assert (value.state, value.second_weight, value.outcome) == (
        State.ROLLING_BACK,
        0,
        "wrong build",
    )
    done = carried_out(value, AT + 1)
    assert done is not None
    value, _ = step(value, done)
    assert (value.state, value.finished_at) == (State.ABORTED, AT + 1)


def test_a_forced_rollback_says_who_forced_it() -> None:
    value, _ = step(
        new(state=State.SHIFTING, moved=True), Rollback(AT, "ann", "on fire", forced=True)
    )
    assert (value.forced_by, value.force_reason) == ("ann", "on fire")


def test_a_pause_without_end_waits_for_approval() -> None:
    value = new(state=State.SHIFTING, moved=True, pause_s=None)
    done = carried_out(value, AT)
    assert done is not None
    value, orders = step(value, done)
    assert (value.state, value.waiting_for, orders) == (State.PAUSED, APPROVAL, ())
    assert carried_out(value, AT) is None
    value, _ = step(value, switchover.Approve(AT, "ann"))
    assert (value.state, value.step_index, value.second_weight) == (State.SHIFTING, 1, 5000)


def test_a_pause_by_a_person_keeps_the_time_of_the_next_step() -> None:
    value = new(state=State.SHIFTING, moved=True, next_step_at=AT + 60)
    value, orders = step(value, switchover.Pause(AT, "ann"))
    assert orders == ()
    value, orders = step(value, switchover.Resume(AT + 10, "ann"))
    assert orders == (HoldStep(AT + 60),)


def test_a_paused_check_begins_anew() -> None:
    value = new(state=State.CHECKING, check_until=AT + 5)
    value, _ = step(value, switchover.Pause(AT, "ann"))
    value, _ = step(value, switchover.Resume(AT + 100, "ann"))
    assert (value.state, value.check_until) == (State.CHECKING, AT + 105)


@pytest.mark.parametrize(
    ("shares", "target", "present", "steps"),
    [
        ((100, 5000, 10_000), 1, 0, (100, 5000, 10_000)),
        ((100, 5000, 10_000), 0, 10_000, (9900, 5000, 0)),
        ((100, 5000, 10_000), 1, 1000, (5000, 10_000)),
        ((100, 5000, 10_000), 1, 5000, (10_000,)),
        ((100, 5000, 10_000), 0, 4000, (0,)),
        ((10_000,), 1, 10_000, (10_000,)),
    ],
)
def test_no_step_takes_weight_from_the_target(
    shares: tuple[int, ...], target: int, present: int, steps: tuple[int, ...]
) -> None:
    assert plan_steps(shares, target, present) == steps


def test_a_value_survives_writing_and_reading() -> None:
    value, _ = step(new(), switchover.Begun(AT))
    value, _ = step(value, switchover.Pause(AT + 1, "ann"))
    assert from_document(to_document(value)) == value
    later = {**to_document(value), "a_field_of_a_later_version": 1}
    assert from_document(later) == value


# ---------------------------------------------------------------- every order of events


GO_ON = st.integers(0, 7)


class AnyOrder(RuleBasedStateMachine):
    """Anything may happen at any time: sickness, people, crashes. One weight must stay true.

    What the executor does between a look at health and the word it sets is one rule here, as
    nothing but milliseconds lies between the two there.
    """

    def __init__(self) -> None:
        super().__init__()
        self.now = AT
        self.weight = 0
        self.health = [HealthWord.HEALTHY, HealthWord.HEALTHY]
        self.value: Switchover | None = None
        self.done = 0

    @initialize(
        weight=st.sampled_from([0, 3000, WHOLE]),
        goal=st.sampled_from([0, 1]),
        shares=st.sampled_from([(WHOLE,), (100, 5000, WHOLE)]),
        pause_s=st.sampled_from([0.0, 10.0, None]),
        on_failure=st.sampled_from(OnFailure),
        forced=st.sampled_from(["", "", "", "ann"]),
    )
    def begin(
        self,
        weight: int,
        goal: int,
        shares: tuple[int, ...],
        pause_s: float | None,
        on_failure: OnFailure,
        forced: str,
    ) -> None:
        self.weight = weight
        self.value = new(
            from_upstream=("green", "blue")[goal],
            to_upstream=("blue", "green")[goal],
            weights_before=weight,
            second_weight=weight,
            steps=plan_steps(shares, goal, weight),
            pause_s=pause_s,
            on_failure=on_failure,
            forced_by=forced,
        )

    @property
    def current(self) -> Switchover:
        assert self.value is not None
        return self.value

    def upstream(self, index: int) -> UpstreamHealth:
        state = self.health[index]
        return UpstreamHealth(("blue", "green")[index], state, f"{state.name}", 0, 1)

    def back(self) -> list[UpstreamHealth]:
        gained = self.current.weights_before - self.weight
        return [self.upstream(int(gained > 0))] if gained else []

    def happen(self, happened: Event) -> None:
        before = self.current
        try:
            self.value, _ = step(before, happened)
        except IllegalMove:
            assert self.value is before
            return
        self.done = 0

    def judged(self, verdict: decider.WatchVerdict) -> None:
        match verdict:
            case decider.RollBack(reason):
                self.happen(TargetFailed(self.now, reason))
            case decider.GiveUp(reason):
                self.happen(GaveUp(self.now, reason))

    # ------------------------------------------------------------ the world

    # Each rule lets the executor go on a little first, so that it comes at any point of it.

    @rule(first=GO_ON, index=st.sampled_from([0, 1]), state=st.sampled_from(HealthWord))
    def turn(self, first: int, index: int, state: HealthWord) -> None:
        self.carry_on(first)
        self.health[index] = state

    @rule(first=GO_ON, seconds=st.sampled_from([0.0, 1.0, 30.0]), crash=st.booleans())
    def time_passes(self, first: int, seconds: float, crash: bool) -> None:
        self.carry_on(first)
        self.now += seconds
        if crash:
            self.value = from_document(to_document(self.current))
            self.done = 0

    @rule(first=GO_ON)
    def watch(self, first: int) -> None:
        self.carry_on(first)
        watched = (State.SHIFTING, State.PAUSED, State.DRAINING)
        if not (self.current.moved and self.current.state in watched):
            return
        situation = decider.Situation(
            self.upstream(self.current.target), Evidence(0, 0, None, None, 0.0), None
        )
        forced = bool(self.current.forced_by)
        self.judged(decider.watch(situation, self.back(), self.current.on_failure, forced))

    # ------------------------------------------------------------ people

    @rule(
        first=GO_ON,
        kind=st.sampled_from(
            [switchover.Pause, switchover.Resume, switchover.Approve, Abort, Rollback]
        ),
        forced=st.booleans(),
    )
    def person(self, first: int, kind: type[Event], forced: bool) -> None:
        self.carry_on(first)
        if kind not in (Abort, Rollback):
            self.happen(event(kind, self.now))
            return
        forced = forced and kind is Rollback
        if isinstance(decider.may_return(self.back(), forced), decider.GoOn):
            turned = Rollback(self.now, "ann", "", forced)
            self.happen(turned if kind is Rollback else Abort(self.now, "ann"))

    # ------------------------------------------------------------ the executor

    def carry_on(self, times: int) -> None:
        for _ in range(times):
            self.carry_out_one()

    def carry_out_one(self) -> None:
        orders = commands(self.current)
        if self.done < len(orders):
            self.carry_out(orders[self.done])
            return
        happened = carried_out(self.current, self.now)
        if happened is not None:
            self.happen(happened)

    def carry_out(self, command: Command) -> None:
        match command:
            case CheckHealth(upstream, until):
                self.check(upstream, until)
            case CheckReturn():
                match decider.may_return(self.back(), bool(self.current.forced_by)):
                    case decider.GoOn():
                        self.set_the_weight_that_follows()
                    case decider.Refuse(reason):
                        self.happen(GaveUp(self.now, reason))
            case SetWeight():
                self.set_weight(command)
            case HoldStep(until):
                self.done += int(self.now >= until)
            case _:
                self.done += 1

    def check(self, upstream: int, until: float | None) -> None:
        forced = bool(self.current.forced_by)
        match decider.may_rise(self.upstream(upstream), self.now, until, forced):
            case decider.GoOn():
                self.set_the_weight_that_follows()
            case decider.Refuse(reason) if until is not None:
                self.happen(TargetNeverHealthy(self.now, reason))
            case decider.Refuse(reason):
                self.judged(decider.failed(reason, self.back(), self.current.on_failure))

    def set_the_weight_that_follows(self) -> None:
        self.done += 1
        orders = commands(self.current)
        if self.done < len(orders) and isinstance(orders[self.done], SetWeight):
            self.carry_out(orders[self.done])

    def set_weight(self, command: SetWeight) -> None:
        if command.second_weight != self.weight:
            gains = int(command.second_weight > self.weight)
            healthy = self.health[gains] is HealthWord.HEALTHY
            assert healthy or self.current.forced_by, "weight rose on the unhealthy"
        self.weight = command.second_weight
        self.done += 1

    # ------------------------------------------------------------ what must hold

    @invariant()
    def a_final_state_has_known_weights(self) -> None:
        if self.value is None:
            return
        match self.value.state:
            case State.COMPLETED:
                assert self.weight == self.value.steps[-1]
            case State.ROLLED_BACK | State.ABORTED:
                assert self.weight == self.value.weights_before

    @invariant()
    def nothing_moves_before_it_is_said(self) -> None:
        if self.value is not None and not self.value.moved:
            assert self.weight == self.value.weights_before

    @invariant()
    def only_what_has_no_weight_is_drained(self) -> None:
        if self.value is None or self.value.final:
            return
        orders = commands(self.value)
        for order in orders[: self.done]:
            if isinstance(order, Drain):
                assert without_weight(self.weight) == order.upstream

    def teardown(self) -> None:
        """With everybody healthy and every question answered, it ends."""
        if self.value is None:
            return
        self.health = [HealthWord.HEALTHY, HealthWord.HEALTHY]
        for _ in range(60):
            if self.current.final:
                return
            self.now += 100.0
            if self.current.state is State.PAUSED:
                waiting = self.current.waiting_for
                kind = switchover.Approve if waiting == APPROVAL else switchover.Resume
                self.happen(event(kind, self.now))
            self.carry_out_one()
        raise AssertionError(f"it never ends: {self.current}")


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=400, stateful_step_count=25, deadline=None)
