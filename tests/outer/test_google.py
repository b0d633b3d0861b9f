"""What the routers of Google Cloud have in common."""

import json
import re
from pathlib import Path

import httpx
import pytest
from ruamel.yaml import YAML

from tests.outer.google_cases import problems_of
from turnout.control.outer.google import (
    NotThere,
    changed,
    error_text,
    meaning,
    short_name,
)
from turnout.control.outer.seams import Change, OuterError, Reading, Throttled, Verdict
from turnout.control.outer.settling import Settling


def answer(status: int, *reasons: str) -> httpx.Response:
    errors = [{"domain": "global", "reason": reason, "message": "so"} for reason in reasons]
    return httpx.Response(status, content=json.dumps({"error": {"errors": errors}}))


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (answer(403, "rateLimitExceeded"), Throttled),
        (answer(403, "quotaExceeded"), Throttled),
        (answer(403, "forbidden"), None),
        (answer(400, "resourceNotReady"), Throttled),
        (answer(400, "invalid"), None),
        (answer(404, "notFound"), NotThere),
        (answer(412, "conditionNotMet"), None),
        (httpx.Response(403, content="<html>Forbidden</html>"), None),
        (httpx.Response(403, content='{"error": "forbidden"}'), None),
        (httpx.Response(403, content="[]"), None),
    ],
)
def test_reasons_say_what_a_status_does_not(
    refusal: httpx.Response, kind: type[OuterError] | None
) -> None:
    found = meaning(refusal, "as it was said")
    if kind is None:
        assert found is None
        return
    assert type(found) is kind
    assert str(found) == "as it was said"


def test_what_is_done_is_in_sync_only_a_while_later() -> None:
    now = [100.0]
    settling = Settling(60.0, lambda: now[0])
    change = Change("7", {"weights": {"a": 1}})
    assert settling.done(change, "done").verdict is Verdict.PENDING
    now[0] = 159.9
    assert settling.done(change, "done").verdict is Verdict.PENDING
    now[0] = 160.0
    assert settling.done(change, "done").verdict is Verdict.IN_SYNC
    other = Change("8", change.document)
    assert settling.done(other, "done").verdict is Verdict.PENDING, "each change its own"


def test_without_a_while_it_is_in_sync_at_once() -> None:
    assert Settling(0.0, lambda: 0.0).done(Change(""), "done").verdict is Verdict.IN_SYNC


def test_an_operations_error_is_in_words() -> None:
    assert error_text({"code": 9, "message": "not ready"}) == "9 not ready"
    several = [{"code": "A", "message": "one"}, {"code": "B", "message": "two"}]
    assert error_text({"errors": several}) == "A one; B two"


def test_a_difference_begins_with_the_share() -> None:
    before = Reading(0, "1", {"weights": {"a": 100}}, {"ttl": 60})
    after = Reading(312, "2", {"weights": {"a": 31}}, {"ttl": 300})
    assert changed(before, after, "green") == (
        "green 0 %, now 3.12 %; ttl: 60, now 300; weights.a: 100, now 31"
    )
    assert changed(before, Reading(0, "3", before.exact, before.settings), "green") == ""
    unclear = Reading(None, "4", {}, {}, problems=["gone"])
    assert changed(before, unclear, "green") == "ttl: 60, now gone; weights: {'a': 100}, now gone"


def test_a_name_is_the_last_part_of_a_url() -> None:
    assert short_name("projects/p/locations/l/services/s/revisions/r1") == "r1"
    assert short_name("r1") == "r1"


PAGE = Path(__file__).resolve().parents[2] / "docs" / "outer" / "google.md"


@pytest.mark.parametrize("kind", ["cloud_run", "cloud_dns", "url_map"])
def test_the_example_of_each_kind_is_taken_by_the_loader(kind: str) -> None:
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    outers = [YAML(typ="safe", pure=True).load(block).get("outer") for block in blocks]
    (outer,) = (outer for outer in outers if outer and outer["kind"] == kind)
    credentials = next(block for block in blocks if block.startswith("credentials:"))
    more = YAML(typ="safe", pure=True).load(credentials)
    assert problems_of({**outer, **more}) == ""
