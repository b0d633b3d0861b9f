"""What is done in a run, by value."""

from collections import Counter
from copy import deepcopy
from itertools import islice, pairwise
from typing import Any

from loadtests.changes import CHANGES, SERVICE, nth, unchanged
from loadtests.schedule import ALWAYS, Counts, Do, campaign, plan

CONFIGURATION: dict[str, Any] = {
    "workers": 2,
    "listeners": [{"bind": "127.0.0.1:0"}],
    "log": {"access": "off"},
    "limits": {"services": 8},
    "pool": {"idle_timeout": "30s"},
    "services": {SERVICE: {"upstreams": {"blue": {"servers": ["a:1", "b:2"]}}}},
}


def test_a_seed_always_gives_the_same() -> None:
    assert list(islice(plan(7), 50)) == list(islice(plan(7), 50))
    counts = Counts(switches=20, reloads=5, control_kills=5)
    assert campaign(7, counts) == campaign(7, counts)
    assert campaign(7, counts) != campaign(8, counts)
    assert tuple(islice(plan(7), len(ALWAYS))) == ALWAYS


def test_a_campaign_has_as_many_of_each_as_was_asked_for() -> None:
    steps = campaign(3, Counts(switches=500, reloads=50, control_kills=100))
    done = Counter(step.do for step in steps)
    assert (done[Do.CHANGED], done[Do.KILLED], done[Do.RELOAD]) == (50, 100, 0)
    assert sum(done.values()) == 652
    assert set(done) == set(Do) - {Do.RELOAD}
    for before, step in pairwise(steps):
        if step.do is Do.ROLLBACK:
            assert before.do in (Do.ATOMIC, Do.STEPPED, Do.HELD)


def test_each_reload_finds_something_changed() -> None:
    def after(number: int) -> dict[str, Any]:
        configuration = deepcopy(CONFIGURATION)
        nth(number)(configuration)
        return configuration

    found = [after(number) for number in range(2 * len(CHANGES))]
    for before, now in pairwise(found):
        assert before != now
    assert all(now == CONFIGURATION for now in found[1::2])
    assert nth(1) is unchanged
