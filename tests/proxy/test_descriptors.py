"""How many descriptors a worker has open, counted both ways."""

import os
import tempfile

from turnout.proxy import descriptors


def test_what_is_open_is_counted() -> None:
    before = descriptors.open_now(0)
    assert before is not None
    with tempfile.TemporaryFile(), tempfile.TemporaryFile():
        assert descriptors.open_now(0) == before + 2
        listed = len(os.listdir("/proc/self/fd")) - 1
    assert listed == before + 2
    assert descriptors.open_now(0) == before


def test_many_are_told_by_the_system_or_not_at_all() -> None:
    told = descriptors.open_now(1_000_000)
    assert told in (None, descriptors.open_now(0))
