"""Is RLIMIT_NOFILE enough for the plan? Said at the start, by value."""

import pytest

from turnout.descriptors import COPIES, OTHERS, needed, too_few


def table(connections: int) -> dict[str, dict[str, int]]:
    return {"limits": {"connections": connections}}


def test_each_client_and_its_server_need_one_in_one_worker() -> None:
    assert needed(10_000, 4, 1) == 2 * 2500 + (4 + COPIES) + OTHERS
    assert needed(10_000, 3, 2) == 2 * 3334 + 2 * (3 + COPIES) + OTHERS


@pytest.mark.parametrize(("limit", "enough"), [(0, True), (5073, True), (5072, False), (80, False)])
def test_a_limit_that_is_too_low_is_said_with_the_remedy(limit: int, enough: bool) -> None:
    found = too_few(limit, table(10_000), workers=4, listeners=1)
    if enough:
        assert found == {}
    else:
        assert (found["limit"], found["needed"], found["connections"]) == (limit, 5073, 10_000)
        assert found["next"].startswith("raise LimitNOFILE (ulimit -n) to 5073, or lower limits.")
