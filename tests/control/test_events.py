"""Events: stable names, and lines that nobody can break."""

import json
from dataclasses import fields

import pytest

from turnout.control import describe, events
from turnout.control.events import RolledBack, ServerUnhealthy, WeightsChanged, to_line, utc


def test_every_event_has_a_dotted_name_of_its_own() -> None:
    kinds = [kind for kind in vars(events).values() if hasattr(kind, "NAME")]
    names = [kind.NAME for kind in kinds]
    assert len(names) == len(set(names)) > 20
    assert all(name.count(".") == 1 and name.islower() for name in names)


def test_a_line_is_read_at_3_a_m() -> None:
    told = RolledBack(
        service="shop",
        switchover="7f3",
        second_weight=0,
        cut=0,
        reason="green p99 812 ms > 500 ms",
        next="turnout receipt 7f3",
    )
    assert to_line(told) == (
        "switchover.rolled_back service=shop switchover=7f3 second_weight=0 cut=0"
        ' reason="green p99 812 ms > 500 ms" next="turnout receipt 7f3"'
    )


def test_whatever_was_cut_is_named_some_in_each_event() -> None:
    entries = [{"method": "GET", "path": f"/{number}"} for number in range(120)]
    told = describe.cut("shop", "blue", entries, "worker_died", "")
    assert [event.count for event in told] == [50, 50, 20]
    assert [name for event in told for name in event.names] == [f"GET /{n}" for n in range(120)]
    assert to_line(told[2]).startswith(
        'exchanges.cut service=shop upstream=blue count=20 reason=worker_died names="GET /100,GET '
    )


def test_numbers_and_maps_are_plain() -> None:
    told = WeightsChanged(
        service="shop", weights={"blue": 99.99, "green": 0.01}, epoch=7, switchover=""
    )
    assert (
        to_line(told)
        == "service.weights_changed service=shop weights=blue:99.99,green:0.01 epoch=7"
    )


@pytest.mark.parametrize("text", ['a "b"', "a\nb", "a=b", "a\x1b[31mb", "a\u2028b", "a\\b"])
def test_what_others_wrote_stays_on_its_line(text: str) -> None:
    told = ServerUnhealthy(service="shop", upstream="green", server="10.0.0.7:9001", reason=text)
    line = to_line(told)
    assert line.isprintable()
    quoted = line.partition(" reason=")[2]
    assert json.loads(quoted) == text


def test_json_has_the_name_the_time_and_the_fields() -> None:
    told = events.Held(service="shop", who="ci", until=5.0, reason="")
    assert json.loads(events.to_json(told, "2026-11-24T02:08:31.250Z")) == {
        "at": "2026-11-24T02:08:31.250Z",
        "event": "service.held",
        "service": "shop",
        "who": "ci",
        "until": "1970-01-01T00:00:05.000Z",
        "reason": "",
    }


def test_points_in_time_are_utc_wherever_they_are_read() -> None:
    assert utc(1_764_000_000.25) == "2025-11-24T16:00:00.250Z"
    told = events.Shifting(
        service="shop", switchover="7f3", step=1, steps=3, second_weight=100, next_step_at=60.5
    )
    assert to_line(told).endswith(" next_step_at=1970-01-01T00:01:00.500Z")
    assert events.to_document(told)["next_step_at"] == "1970-01-01T00:01:00.500Z"
    held = events.Held(service="shop", who="ci", until=None, reason="")
    assert to_line(held) == "service.held service=shop who=ci"


def test_every_number_with_a_fraction_is_a_point_in_time() -> None:
    """A duration would have its unit in its name, and a test of its own."""
    kinds = [kind for kind in vars(events).values() if hasattr(kind, "NAME")]
    named = {field.name for kind in kinds for field in fields(kind) if "float |" in str(field.type)}
    assert named == events.TIMES
