"""Which clients are too slow, by value: the same wait at two looks, and too little between."""

import pytest

from turnout.proxy.slow import Progress, look, too_slow

BODY = Progress("body_too_slow", 5, 1000)


@pytest.mark.parametrize(
    ("now", "slow"),
    [
        (Progress("body_too_slow", 5, 1099), True),
        (Progress("body_too_slow", 5, 1100), False),
        (Progress("body_too_slow", 6, 0), False),
        (Progress("reader_too_slow", 5, 1000), False),
    ],
    ids=["too-little", "enough", "another-exchange", "another-wait"],
)
def test_a_wait_must_go_on(now: Progress, slow: bool) -> None:
    assert too_slow(BODY, now, 100) is slow


class Client:
    def __init__(self, *moved: int | None) -> None:
        self.moved = list(moved)

    def progress(self) -> Progress | None:
        moved = self.moved.pop(0)
        return None if moved is None else Progress("reader_too_slow", 1, moved)


def test_only_who_was_waited_for_at_both_looks_is_judged() -> None:
    slow, fast, paused, late = (
        Client(0, 10, 20), Client(0, 100, 200), Client(0, None, 5), Client(None, 7, 8)
    )  # fmt: skip
    clients = [slow, fast, paused, late]
    waits, found = look(clients, {}, 50)
    assert found == [] and set(waits) == {slow, fast, paused}
    waits, found = look(clients, waits, 50)
    assert found == [(slow, "reader_too_slow")] and set(waits) == {fast, late}
    waits, found = look(clients[1:], waits, 50)
    assert found == [(late, "reader_too_slow")] and set(waits) == {fast, paused}
