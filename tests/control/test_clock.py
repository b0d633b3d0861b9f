"""The scale of a switchover's times, by value."""

from dataclasses import dataclass

from turnout.control.clock import Clock, boot_id, now_on, scale_of
from turnout.control.state import Scale


@dataclass
class Machine:
    wall_s: float = 1000.0
    uptime_s: float = 10.0

    def clock(self, boot: str = "a") -> Clock:
        return Clock(lambda: self.wall_s, lambda: self.uptime_s, boot)


def test_a_clock_that_is_set_does_not_move_a_scale() -> None:
    machine = Machine()
    scale = scale_of(machine.clock())
    assert now_on(scale, machine.clock()) == 1000.0
    machine.wall_s, machine.uptime_s = 90_000.0, 15.0
    assert now_on(scale, machine.clock()) == 1005.0


def test_the_next_process_of_the_same_boot_goes_on_with_a_scale() -> None:
    machine = Machine()
    kept = scale_of(machine.clock())
    machine.wall_s, machine.uptime_s = 5.0, 20.0
    assert scale_of(machine.clock(), kept) == kept


def test_after_another_boot_the_wall_clock_is_all_there_is() -> None:
    machine = Machine()
    kept = scale_of(machine.clock("a"))
    machine.wall_s, machine.uptime_s = 1300.0, 1.0
    scale = scale_of(machine.clock("b"), kept)
    assert scale == Scale("b", 1299.0)
    assert now_on(scale, machine.clock("b")) == 1300.0
    # Nor is a boot that nobody knows the same as another.
    assert scale_of(machine.clock(""), Scale("", 5.0)) == Scale("", 1299.0)


def test_a_boot_has_an_id_that_stays() -> None:
    assert boot_id() == boot_id()
