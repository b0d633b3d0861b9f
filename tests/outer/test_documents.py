"""What a web service or a program of one's own tells, by value: what of it is believed."""

from typing import Any

import pytest

from turnout.config.weights import WHOLE
from turnout.control.outer import documents
from turnout.control.outer.documents import Granularity, NoDocument
from turnout.control.outer.seams import (
    Change,
    NotExpressible,
    Progress,
    Reading,
    Tail,
    Verdict,
    Wanted,
)

NAMES = ("blue", "green")


def read(weights: Any, *, weighted: bool = True, **more: Any) -> Reading:
    told = {"weights": weights, "version": "1", **more}
    return documents.reading_of(told, NAMES, weighted=weighted)


@pytest.mark.parametrize(
    ("weights", "second_weight"),
    [
        ({"blue": 100, "green": 0}, 0),
        ({"blue": 0, "green": 0.5}, WHOLE),
        ({"blue": 9, "green": 1}, 1000),
        ({"green": 1, "blue": 2}, 3333),
        ({"blue": 1_000_000, "green": 1}, 1),
        ({"blue": 1, "green": 1_000_000}, WHOLE - 1),
    ],
)
def test_shares_are_of_the_sum_and_never_rounded_to_nothing(
    weights: dict[str, Any], second_weight: int
) -> None:
    found = read(weights)
    assert (found.second_weight, list(found.problems)) == (second_weight, [])
    assert found.exact == {"weights": weights}


@pytest.mark.parametrize(
    ("weights", "problem"),
    [
        (None, "it tells no `weights`: expected a JSON object of both upstreams"),
        ({}, "its `weights` are of nobody; expected blue and green"),
        ({"blue": 1}, "its `weights` are of blue; expected blue and green"),
        ({"blue": 1, "green": 0, "red": 0}, "its `weights` are of blue, green, red; expected"),
        ({"blue": 0, "green": 0}, "its `weights` are both 0: nobody gets anything"),
        ({"blue": -1, "green": 2}, "expected numbers, 0 or more"),
        ({"blue": True, "green": 0}, "expected numbers, 0 or more"),
        ({"blue": "1", "green": 0}, "expected numbers, 0 or more"),
        ({"blue": float("nan"), "green": 1}, "expected numbers, 0 or more"),
        ({"blue": float("inf"), "green": 1}, "expected numbers, 0 or more"),
    ],
)
def test_weights_that_cannot_be_are_a_problem(weights: Any, problem: str) -> None:
    found = read(weights)
    assert found.second_weight is None
    assert problem in found.problems[0]


def test_a_split_of_what_switches_whole_is_a_problem() -> None:
    assert read({"blue": 1, "green": 0}, weighted=False).problems == []
    (problem,) = read({"blue": 3, "green": 1}, weighted=False).problems
    assert problem.startswith("it is split, blue 75 %, green 25 %, and `weighted` is false")


@pytest.mark.parametrize("version", [17, "", "a b", 'a"b', "ä", "x" * 201, "-x", ["1"]])
def test_a_version_that_cannot_stand_in_a_field_is_a_problem(version: Any) -> None:
    (problem,) = read({"blue": 1, "green": 0}, version=version).problems
    assert problem.startswith("its `version` is no text")


def test_without_a_version_a_digest_of_the_state_is_one() -> None:
    def version(weights: Any, settings: Any) -> str:
        return read(weights, version=None, settings=settings).version

    one = version({"blue": 1, "green": 0}, {"a": 1})
    assert one == version({"green": 0, "blue": 1}, {"a": 1})
    assert len({one, version({"blue": 2, "green": 0}, {"a": 1}), version({"blue": 1, "green": 0}, {})}) == 3  # fmt: skip


def test_what_is_told_beside_is_passed_on_and_what_is_nonsense_is_not() -> None:
    found = read(
        {"blue": 1, "green": 0}, settings={"a": [1]}, problems=["ill\nat 3"], warnings=["old"],
        ttl_seconds=60,
    )  # fmt: skip
    assert (found.settings, found.problems, found.warnings) == ({"a": [1]}, ["ill at 3"], ["old"])
    assert found.ttl_s == 60.0
    odd = read({"blue": 1, "green": 0}, settings=[], ttl_seconds="x", problems="x", warnings=3)
    assert (odd.problems, odd.warnings, odd.ttl_s) == (["its `settings` are no JSON object"], [], 0)


@pytest.mark.parametrize(
    ("parts", "asked", "given"),
    [(100, 3333, 33), (100, 1, 1), (100, 9999, 99), (10, 500, 10), (3, 5000, 66.67), (10_000, 1, 0.01)],
)  # fmt: skip
def test_what_is_asked_for_is_in_percent_of_what_it_can(
    parts: int, asked: int, given: float
) -> None:
    weights = documents.weights_wanted(Wanted(asked), NAMES, Granularity(True, parts))
    assert weights == {"blue": pytest.approx(100 - given), "green": given}


def test_on_the_way_back_it_is_what_was_told() -> None:
    exact = {"weights": {"blue": 25, "green": 3.5}}
    back = documents.weights_wanted(Wanted(1200, exact), NAMES, Granularity(True, 100))
    assert back == {"blue": 25, "green": 3.5}


def test_a_split_is_not_asked_of_what_switches_whole() -> None:
    with pytest.raises(NotExpressible, match=r"blue 70 %, green 30 % is asked for"):
        documents.weights_wanted(Wanted(3000), NAMES, Granularity(False, 100))


@pytest.mark.parametrize(
    ("told", "id"),
    [({"in_sync": True}, ""), ({"change": "42"}, "42"), ({"change": "a/b", "in_sync": False}, "a/b")],
)  # fmt: skip
def test_an_answer_to_a_change(told: dict[str, Any], id: str) -> None:
    weights = {"blue": 0, "green": 100}
    assert documents.change_of(told, weights) == Change(id, {"weights": weights})


@pytest.mark.parametrize(
    "told",
    [{}, {"in_sync": False}, {"in_sync": 1}, {"change": 42}, {"change": ""}, {"change": "--help"},
     {"change": "a b"}, {"in_sync": True, "change": "1"}],
)  # fmt: skip
def test_an_answer_that_does_not_tell_is_none(told: dict[str, Any]) -> None:
    with pytest.raises(NoDocument, match="neither"):
        documents.change_of(told, {})


def test_how_far_a_change_is() -> None:
    told = {"state": "pending", "detail": "2 of\n 5"}
    assert documents.progress_of(told) == Progress(Verdict.PENDING, "2 of 5")
    odds: list[dict[str, Any]] = [{}, {"state": "done"}, {"state": []}]
    for odd in odds:
        with pytest.raises(NoDocument, match="pending, in_sync, failed, unknown"):
            documents.progress_of(odd)


def test_a_change_without_an_id_is_looked_at_by_reading() -> None:
    change = Change("", {"weights": {"blue": 10, "green": 90}})
    there = documents.progress_by_reading(change, read({"blue": 0.1, "green": 0.9}), NAMES)
    assert there.verdict is Verdict.IN_SYNC
    gone = documents.progress_by_reading(change, read({"blue": 1, "green": 0}), NAMES)
    assert gone.verdict is Verdict.UNKNOWN
    assert "now has" in gone.detail


def test_the_tail_is_what_is_told_of_it() -> None:
    told = {"ttl_seconds": 30, "tail": {"requests_per_min": 12}}
    assert documents.tail_of(told) == Tail(30.0, 12.0)
    odds: list[dict[str, Any]] = [{}, {"tail": 12}, {"tail": {"requests_per_min": "x"}}]
    for odd in odds:
        assert documents.tail_of(odd) == Tail(0.0, None)


@pytest.mark.parametrize(
    ("data", "what"),
    [(b"", "no JSON"), (b"<html>", "no JSON"), (b"[]", "no JSON object"), (b"\xff\xfe", "no JSON"),
     (b"{" + b" " * documents.DOCUMENT_BYTES_MAX, "more than 65536 bytes")],
)  # fmt: skip
def test_what_is_no_document(data: bytes, what: str) -> None:
    with pytest.raises(NoDocument, match=what):
        documents.read_json(data)
