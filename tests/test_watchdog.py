"""Whether a worker hangs, as a value; the processes are in tests/faults."""

import pytest

from turnout.watchdog import START_LIMIT_S, Pulse, felt, hung, look_every_s


def looked_at(looks: list[tuple[float, int]], every_s: float = 1.0) -> Pulse:
    """The pulse after looks, each (seconds since the one before, heartbeat)."""
    pulse = Pulse(0)
    for since_s, heartbeat_us in looks:
        pulse = felt(pulse, heartbeat_us, since_s, every_s)
    return pulse


def test_a_heartbeat_that_changes_is_life() -> None:
    assert looked_at([(1.0, 10), (1.0, 11), (1.0, 12)]) == Pulse(12)
    assert not hung(Pulse(12), 1.0, starting=False)


def test_it_hangs_when_nothing_has_changed_for_the_limit() -> None:
    still = [(1.0, 10), *[(1.0, 10)] * 9]
    assert not hung(looked_at(still), 10.0, starting=False)
    assert hung(looked_at([*still, (1.0, 10)]), 10.0, starting=False)


def test_one_tick_begins_the_time_anew() -> None:
    assert looked_at([(1.0, 10)] * 9 + [(1.0, 11), (1.0, 11)]) == Pulse(11, 1.0)


@pytest.mark.parametrize("slept_s", [3600.0, 86_400.0])
def test_a_machine_that_slept_has_no_hanging_workers(slept_s: float) -> None:
    """The first look after it finds the heartbeat of before: all of them had stopped."""
    pulse = looked_at([(1.0, 10), (slept_s, 10)])
    assert not hung(pulse, 10.0, starting=False)
    assert pulse.still_s == 2.0


def test_looks_that_always_come_late_still_add_up() -> None:
    """On a machine so busy that each look is late, one that hangs is found all the same."""
    assert hung(looked_at([(5.0, 10)] * 7), 10.0, starting=False)


def test_a_starting_worker_is_given_time_to_start() -> None:
    assert not hung(Pulse(1, START_LIMIT_S - 1), 10.0, starting=True)
    assert hung(Pulse(1, START_LIMIT_S), 10.0, starting=True)
    assert not hung(Pulse(1, START_LIMIT_S), 2 * START_LIMIT_S, starting=True)


def test_a_limit_of_nothing_is_none() -> None:
    assert not hung(Pulse(1, 1e9), 0.0, starting=False)
    assert not hung(Pulse(1, 1e9), 0.0, starting=True)


@pytest.mark.parametrize(("limit_s", "every_s"), [(1.0, 0.25), (10.0, 1.0), (0.0, 1.0)])
def test_it_is_looked_at_often_enough_to_be_found_in_time(limit_s: float, every_s: float) -> None:
    assert look_every_s(limit_s) == every_s
