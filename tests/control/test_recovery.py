"""What a start has to do, by value."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from turnout.config.loader import load_text
from turnout.config.model import WHOLE, OnFailure, Service
from turnout.control.recovery import Orphan, Resume, SetWord, TurnBack, plan
from turnout.control.rows import ServiceRow
from turnout.control.switchover import State, Switchover
from turnout.proxy.scoreboard import RoutingWord

TEXT = """
listeners: [{bind: "127.0.0.1:8080"}]
services:
  shop:
    upstreams: {blue: {servers: ["127.0.0.1:9001"]}, green: {servers: ["127.0.0.1:9002"]}}
    switchover: {after_restart: resume}
"""


API = """
  api:
    match: {hosts: [api.example]}
    upstreams: {blue: {servers: ["127.0.0.1:9003"]}, green: {servers: ["127.0.0.1:9004"]}}
"""


def services(text: str = TEXT) -> dict[str, Service]:
    found = load_text(text, base=Path("/srv"), environ={}).services
    return {service.name: service for service in found}


def row(slot: int = 1, name: str = "shop", **changes: Any) -> ServiceRow:
    made = ServiceRow(slot, name, "blue", "green", 0, 5, False, None, {}, 1)
    return replace(made, **changes)


def under_way(state: State = State.SHIFTING) -> Switchover:
    return Switchover(
        id="01",
        service="shop",
        first="blue",
        second="green",
        from_upstream="blue",
        to_upstream="green",
        strategy="atomic",
        weights_before=0,
        steps=(WHOLE,),
        pause_s=0.0,
        on_failure=OnFailure.ROLLBACK,
        check_s=5.0,
        requested_by="ci",
        reason="",
        created_at=1.0,
        state=state,
    )


def test_words_that_agree_are_left_alone() -> None:
    found = plan(services(), [row()], {1: RoutingWord(False, 0, 5)}, [], restarted=False)
    assert (found.words, found.switchovers, found.epoch_least) == ((), (), 5)


@pytest.mark.parametrize(
    "word", [RoutingWord(False, 0, 4), RoutingWord(True, 0, 5), RoutingWord(False, 1, 5)]
)
def test_a_word_behind_its_decision_is_set(word: RoutingWord) -> None:
    found = plan(services(), [row()], {1: word}, [], restarted=False)
    assert found.words == (SetWord(row()),)


def test_words_are_set_in_the_order_of_their_epochs() -> None:
    both = services(TEXT + API)
    late, early = row(epoch=9), row(slot=2, name="api", epoch=8)
    words = {1: RoutingWord(False, 0, 1), 2: RoutingWord(False, 0, 2)}
    found = plan(both, [late, early], words, [], restarted=False)
    assert [order.row for order in found.words] == [early, late]


def test_a_service_that_is_not_configured_has_no_word_to_set() -> None:
    words = {1: RoutingWord(False, 0, 5)}
    found = plan(services(), [row(), row(slot=7, name="gone", epoch=3)], words, [], restarted=True)
    assert found.words == ()


BACK = TEXT.replace("resume", "rollback")


@pytest.mark.parametrize(
    ("text", "restarted", "state", "kind"),
    [
        (TEXT, False, State.SHIFTING, Resume),
        (TEXT, True, State.SHIFTING, Resume),
        (BACK, False, State.SHIFTING, Resume),
        (BACK, True, State.SHIFTING, TurnBack),
        (BACK, True, State.PAUSED, TurnBack),
        (BACK, True, State.ROLLING_BACK, Resume),
    ],
)
def test_only_a_stop_of_everything_asks_what_is_configured(
    text: str, restarted: bool, state: State, kind: type[object]
) -> None:
    found = plan(services(text), [], {}, [under_way(state)], restarted=restarted)
    assert [type(taken) for taken in found.switchovers] == [kind]


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (TEXT.replace("shop:", "other:"), "no longer configured"),
        (TEXT.replace("green", "canary"), "are now blue and canary"),
    ],
)
def test_a_switchover_without_its_service_or_upstreams_can_only_fail(text: str, why: str) -> None:
    (found,) = plan(services(text), [], {}, [under_way()], restarted=False).switchovers
    assert isinstance(found, Orphan)
    assert why in found.reason


def test_what_an_older_copy_of_the_store_had_under_way_is_over() -> None:
    value = replace(under_way(), overtaken="the store is older than what is in force")
    found = plan(services(), [row()], {1: RoutingWord(False, 0, 5)}, [value], restarted=False)
    assert found.switchovers == (Orphan(value, "the store is older than what is in force"),)
