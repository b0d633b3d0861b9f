"""The corpus as a whole: large enough, of every family, each case with its source, and the docs
say how many there are."""

from tests.conformance.case import Case
from tests.conformance.corpus.every import (
    PAGE,
    REQUESTS,
    RESPONSES,
    idle_cases,
    page,
    request_cases,
    response_cases,
)

CASES_MIN = 300
FAMILIES = (
    "CL.TE", "TE.CL", "TE.TE", "CL.0", "TE.0", "0.CL", "chunk extensions", "chunk sizes", "bare CR and LF",
    "obs-fold", "white space around names", "Content-Length", "Host", "absolute-form against Host",
    "hop-by-hop", "trailers", "h2c and other upgrades", "request lines", "pipelining",
    "bytes behind the end", "responses with two lengths", "early answers", "1xx", "101 unasked",
    "unasked bytes on an idle connection", "HEAD, 204 and 304", "answers cut short",
)  # fmt: skip


def test_the_corpus_is_large_enough_and_of_every_family() -> None:
    cases: list[Case] = [*request_cases(), *response_cases(), *idle_cases()]
    assert len(cases) >= CASES_MIN
    assert set(FAMILIES) <= {family.name for family in (*REQUESTS, *RESPONSES)}
    assert all(case.source for case in cases)


def test_no_case_stands_twice() -> None:
    sent = [case.data for case in request_cases()]
    assert len(set(sent)) == len(sent)
    said = [(case.says, case.then, case.asks, case.early) for case in response_cases()]
    assert len(set(said)) == len(said)
    names = [
        (family.name, case.name) for family in (*REQUESTS, *RESPONSES) for case in family.cases
    ]
    assert len(set(names)) == len(names)


def test_the_page_says_how_many_there_are() -> None:
    assert PAGE.read_text() == page(), (
        "docs/conformance.md is out of date: python -m tests.conformance.corpus.every"
    )
