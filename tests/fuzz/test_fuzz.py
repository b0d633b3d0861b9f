"""The fuzzer, for as long as there is time in every run; longer by `make fuzz`.

Always the same cases, as the same seed makes the same ones. And it would find something: put
mistakes into the product, small ones of the kind that have been made, and each is found.
"""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz import loop
from tests.fuzz.drive import Worlds
from tests.fuzz.loop import Fuzzer, check, minimise, read, write
from tests.fuzz.results import Case
from turnout.proxy import downstream, fast_path, framing, head, plain_head, replies
from turnout.proxy.account import Account
from turnout.proxy.upstream import UpstreamConnection

SEED = 1
CASES = 700
CASES_TO_FIND = 2000
"""A mistake is found sooner, mostly in some hundreds."""
KEPT = sorted((Path(__file__).parent / "cases").glob("*.json"))


@pytest.fixture
def worlds() -> Iterator[Worlds]:
    with Worlds() as found:
        yield found


def test_nothing_is_found(worlds: Worlds) -> None:
    fuzzer = Fuzzer(SEED, worlds)
    found = [one for new in fuzzer.run(0.0, CASES) for one in new]
    print(f"seed {SEED}, {fuzzer.tried} cases, {len(fuzzer.shapes)} shapes")
    assert found == [], f"seed {SEED}: make fuzz shows and keeps them"
    # It gets somewhere: what it tries is not refused at its first byte.
    assert len(fuzzer.shapes) > CASES / 6


def test_the_same_seed_tries_the_same(worlds: Worlds) -> None:
    seen = []
    for _ in range(2):
        fuzzer = Fuzzer(SEED, worlds)
        list(fuzzer.run(0.0, 40))
        seen.append((fuzzer.corpus, fuzzer.shapes))
    assert seen[0] == seen[1]
    assert seen[0][0]


@pytest.mark.parametrize("path", KEPT, ids=[path.stem for path in KEPT])
def test_what_was_found_once_is_right_now(worlds: Worlds, path: Path) -> None:
    case, cuts = read(path)
    found, _ = check(worlds, case, cuts)
    assert found == []


# ---------------------------------------------------------------- it finds mistakes

Break = Callable[[pytest.MonkeyPatch], None]


def a_chunk_size_with_a_sign_in_front(patch: pytest.MonkeyPatch) -> None:
    pattern = framing._SIZE_LINE.pattern
    patch.setattr(framing, "_SIZE_LINE", re.compile(b"(?:[ +-]|0x)?" + pattern))


def bytes_behind_an_answer_are_kept(patch: pytest.MonkeyPatch) -> None:
    finished = UpstreamConnection.finished

    def keeping(self: UpstreamConnection) -> None:
        self.keep = True
        finished(self)

    patch.setattr(UpstreamConnection, "finished", keeping)


def an_early_end_is_counted_twice(patch: pytest.MonkeyPatch) -> None:
    count = Account.count_aborted

    def twice(self: Account) -> None:
        count(self)
        count(self)

    patch.setattr(Account, "count_aborted", twice)


def a_whole_head_is_refused_in_other_words(patch: pytest.MonkeyPatch) -> None:
    def say_what_it_is(self: downstream.Downstream, data: bytes, refused: framing.Refused) -> None:
        self._refuse(replies.refused(refused), refused.reason)

    patch.setattr(downstream.Downstream, "_refuse_head", say_what_it_is)


def the_fast_path_takes_any_length(patch: pytest.MonkeyPatch) -> None:
    read_plain = plain_head.read_plain_answer

    def careless(data: bytes, end: int, fields_max: int) -> Any:
        return read_plain(data[:-1], end, fields_max) or read_plain(data, end, fields_max)

    patch.setattr(fast_path, "read_plain_answer", careless)


def the_fast_path_overlooks_a_field(patch: pytest.MonkeyPatch) -> None:
    unusual = plain_head._UNUSUAL
    patch.setattr(
        plain_head,
        "_UNUSUAL",
        re.compile(unusual.pattern.replace(b"(?i:onnection)", b"(?i:onexxtion)")
                              .replace(b"[Nn](?i:ection)", b"[Nn](?i:exxtion)"), unusual.flags),
    )  # fmt: skip


def a_reader_raises(patch: pytest.MonkeyPatch) -> None:
    parse = head.parse_request

    def raising(data: bytes, fields_max: int = 100) -> Any:
        assert b"Cookie" not in data
        return parse(data, fields_max)

    patch.setattr(downstream, "parse_request", raising)


MISTAKES: tuple[Break, ...] = (
    a_chunk_size_with_a_sign_in_front,
    bytes_behind_an_answer_are_kept,
    an_early_end_is_counted_twice,
    a_whole_head_is_refused_in_other_words,
    the_fast_path_takes_any_length,
    the_fast_path_overlooks_a_field,
    a_reader_raises,
)


@pytest.mark.parametrize("mistake", MISTAKES, ids=[one.__name__ for one in MISTAKES])
def test_a_mistake_is_found(
    worlds: Worlds, monkeypatch: pytest.MonkeyPatch, mistake: Break
) -> None:
    mistake(monkeypatch)
    fuzzer = Fuzzer(SEED, worlds)
    found = next((new for new in fuzzer.run(0.0, CASES_TO_FIND) if new), [])
    print(f"found after {fuzzer.tried} cases")
    assert found


def test_a_finding_is_made_small_and_kept_in_a_file(
    worlds: Worlds, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    a_reader_raises(monkeypatch)
    case = Case(
        "request", b"GET /a?b HTTP/1.1\r\nHost: a\r\nCookie: a\r\nX-B: c\r\n\r\nGET /", "head"
    )
    found, _ = check(worlds, case)
    small = minimise(worlds, found[0])
    assert len(small.case.data) < len(case.data) - 20
    assert b"Cookie" in small.case.data
    path = write(small, tmp_path)
    again, cuts = read(path)
    assert again == small.case
    assert check(worlds, again, cuts)[0]
    assert write(small, tmp_path) != path


def test_an_episode_is_made_short(worlds: Worlds, monkeypatch: pytest.MonkeyPatch) -> None:
    an_early_end_is_counted_twice(monkeypatch)
    found, _ = check(worlds, Case("turns", b"1 150"))
    small = minimise(worlds, found[0])
    assert small.case.kind == "turns"
    assert int(small.case.data.split()[1]) < 150
    assert loop.sort_of(small) == loop.sort_of(found[0])
