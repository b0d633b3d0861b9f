"""The fuzzer: tries cases until its time is over, keeps those that did something new, and makes
what it found small.

A case is of interest if its result has a shape that none had before: which answers, which
counters, how the connections ended. Interesting ones are changed further, as a fuzzer that is
guided by coverage does; what is covered is what a client, a server and an operator can see.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from time import monotonic
from typing import Any, Final, Protocol

from tests.fuzz import drive, grammar
from tests.fuzz.drive import Found, Worlds
from tests.fuzz.results import Case, Result
from tests.fuzz.turns import STEPS, Episode

CORPUS_MAX: Final = 3000
EPISODES: Final = 0.06
"""Of what is tried, so many are episodes of turns: each takes as long as ten others."""
SAME_MAX: Final = 3
"""Findings of one sort that are told; the others are counted."""


def shape(case: Case, result: Result) -> tuple[object, ...]:
    """What of a result makes its case an interesting one."""
    return (
        case.kind, case.asked, case.world, result.client_end, frozenset(result.counted),
        tuple((one.status, one.whole, one.interims, len(one.fields), one.body[:24] if one.status >= 400 else b"")
              for one in result.answers[:3]),
        len(result.requests), bool(result.rests),
        tuple(tuple(sorted(name for name, _ in one.fields)) for one in result.requests[:1]),
    )  # fmt: skip


@dataclass
class Fuzzer:
    """Random cases, one after the other; the same ones for the same seed."""

    seed: int
    worlds: Worlds
    corpus: list[Case] = field(default_factory=list)
    tried: int = 0
    shapes: set[tuple[object, ...]] = field(default_factory=set)
    sorts: dict[str, int] = field(default_factory=dict)
    """Findings, counted by sort."""

    def __post_init__(self) -> None:
        self._random = Random(self.seed)

    def step(self) -> list[Found]:
        """Try one case; return what is wrong with it."""
        random = self._random
        self.tried += 1
        if random.random() < EPISODES:
            case = Case("turns", b"%d %d" % (random.getrandbits(48), STEPS))
            cuts: tuple[int, ...] = ()
        else:
            case = grammar.case(random, self.corpus)
            cuts = grammar.cuts(random, case.data)
        if not case.data:
            return []
        found, result = check(self.worlds, case, cuts)
        seen = shape(case, result) if result is not None else None
        if seen is not None and seen not in self.shapes and not found:
            self.shapes.add(seen)
            if len(self.corpus) < CORPUS_MAX:
                self.corpus.append(case)
            else:
                self.corpus[random.randrange(CORPUS_MAX)] = case
        new = []
        for one in found:
            name = sort_of(one)
            self.sorts[name] = self.sorts.get(name, 0) + 1
            if self.sorts[name] <= SAME_MAX:
                new.append(one)
        return new

    def run(self, seconds: float, cases: int = 0) -> Iterator[list[Found]]:
        """Try cases for so long, or so many."""
        end_s = monotonic() + seconds
        while (self.tried < cases) if cases else (monotonic() < end_s):
            yield self.step()


def check(
    worlds: Worlds, case: Case, cuts: tuple[int, ...] = ()
) -> tuple[list[Found], Result | None]:
    """Try a case in all ways; return what is wrong, and its first result, if it has one."""
    if case.kind != "turns":
        return drive.check(worlds, case, cuts)
    seed, steps = map(int, case.data.split())
    problems = Episode(seed).run(steps)
    return ([Found(case, (), "turns", "; ".join(problems))] if problems else []), None


def sort_of(found: Found) -> str:
    """Findings of the same cause mostly have the same words."""
    words = [word for word in found.text.replace("\n", " ").split() if word.isalpha()]
    return " ".join((found.case.kind, found.way, *words[:9]))


# ---------------------------------------------------------------- making it small


def minimise(worlds: Worlds, found: Found, seconds: float = 5.0) -> Found:
    """Return a smaller case that is wrong in the same way."""
    end_s = monotonic() + seconds
    name = sort_of(found)

    def still(case: Case, cuts: tuple[int, ...] = (), /) -> Found | None:
        if monotonic() > end_s or not case.data:
            return None
        again, _ = check(worlds, case, cuts)
        return next((one for one in again if sort_of(one) == name), None)

    best = found
    if found.case.kind == "turns":
        return _with_fewer_steps(found, still)
    for change in (_without_pieces, _with_plain_options):
        best = change(best, still)
    return best


class Still(Protocol):
    """Is this case wrong in the same way?"""

    def __call__(self, case: Case, cuts: tuple[int, ...] = (), /) -> Found | None: ...


def _without_pieces(found: Found, still: Still) -> Found:
    size = max(1, len(found.case.data) // 2)
    while size:
        at = 0
        while at < len(found.case.data):
            data = found.case.data[:at] + found.case.data[at + size :]
            cuts = tuple(cut if cut <= at else max(at, cut - size) for cut in found.cuts)
            smaller = still(replace(found.case, data=data), cuts)
            if smaller is None:
                at += size
            else:
                found = smaller
        size //= 2
    return found


def _with_fewer_steps(found: Found, still: Still) -> Found:
    seed, steps = map(int, found.case.data.split())
    at, step = steps, max(1, steps // 2)
    while step:
        fewer = still(replace(found.case, data=b"%d %d" % (seed, at - step))) if at > step else None
        if fewer is None:
            step //= 2
        else:
            found, at = fewer, at - step
    return found


def _with_plain_options(found: Found, still: Still) -> Found:
    for change in ({"asked": "get"}, {"end": "stay"}, {"world": "wide"}, {"world": "tight"}):
        plain: Any = change
        smaller = still(replace(found.case, **plain), found.cuts)
        found = smaller or found
    if found.way == "in pieces":
        for cut in found.cuts:
            fewer = tuple(one for one in found.cuts if one != cut)
            found = (still(found.case, fewer) if fewer else None) or found
    return found


# ---------------------------------------------------------------- cases in files


def write(found: Found, directory: Path) -> Path:
    """Write a case to a file of `directory` that `read` takes; return its path."""
    directory.mkdir(parents=True, exist_ok=True)
    case = found.case
    text = json.dumps(
        {
            "kind": case.kind, "asked": case.asked, "end": case.end, "world": case.world,
            "data": case.data.decode("latin-1"), "cuts": list(found.cuts) if found.way == "in pieces" else [],
            "way": found.way, "found": found.text,
        },
        indent=1,
    )  # fmt: skip
    number = 1
    while (path := directory / f"{case.kind}-{number}.json").exists():
        number += 1
    path.write_text(text + "\n")
    return path


def read(path: Path) -> tuple[Case, tuple[int, ...]]:
    """Return the case of a file, and where its data is cut."""
    fields = json.loads(path.read_text())
    case = Case(
        fields["kind"], fields["data"].encode("latin-1"), fields["asked"], fields["end"],
        fields["world"],
    )  # fmt: skip
    return case, tuple(fields["cuts"])
