"""Pure: the JSON that a web service or a program of one's own speaks, as a router's values.

`webhook` and `command` carry the same documents over different wires; docs/outer/generic.md has
them for who writes the other end. What is told is not trusted: all of it is checked here.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from turnout.config.weights import WHOLE, percent
from turnout.control.outer.seams import (
    Change,
    NotExpressible,
    Progress,
    Reading,
    Tail,
    Verdict,
    Wanted,
    nearest_share,
)

DOCUMENT_BYTES_MAX: Final = 64 * 1024
"""Of one answer; what is longer is no answer."""
_ID_MAX: Final = 200
_TEXT_MAX: Final = 300


class NoDocument(ValueError):
    """What was told is not what the contract says; the text says where."""


@dataclass(frozen=True, slots=True)
class Granularity:
    """What the other end can express: in how many parts of the whole; 1: all or nothing."""

    weighted: bool
    parts: int

    def expressible(self, second_weight: int) -> int | None:
        if self.weighted:
            return nearest_share(second_weight, self.parts)
        return second_weight if second_weight in (0, WHOLE) else None


def read_json(data: bytes) -> Mapping[str, Any]:
    """An answer's document. Raises NoDocument."""
    if len(data) > DOCUMENT_BYTES_MAX:
        raise NoDocument(f"it has more than {DOCUMENT_BYTES_MAX} bytes")
    try:
        found = json.loads(data)
    except ValueError:
        raise NoDocument("it is no JSON") from None
    if not isinstance(found, Mapping):
        raise NoDocument("it is no JSON object")
    return found


def reading_of(told: Mapping[str, Any], names: tuple[str, str], *, weighted: bool) -> Reading:
    """What is told of the state now. What is wrong with it is in `problems`.

    Without a `version` of its own a digest of all of it stands for one.
    """
    problems = [_text(problem) for problem in _list(told.get("problems"))]
    weights = told.get("weights")
    second = _second_weight(weights, names, problems)
    if second not in (None, 0, WHOLE) and not weighted:
        problems.append(
            f"it is split, {shares(second, names)}, and `weighted` is false: "
            "move it wholly to one side, or write `weighted: true`"
        )
    settings = told.get("settings", {})
    if not isinstance(settings, Mapping):
        problems.append("its `settings` are no JSON object")
        settings = {}
    version = told.get("version")
    if version is None:
        version = digest([weights, settings])
    elif not is_id(version):
        problems.append(
            f"its `version` is no text of 1 to {_ID_MAX} visible ASCII characters without quotes"
        )
        version = digest([weights, settings])
    return Reading(
        second_weight=second,
        version=version,
        exact={"weights": weights},
        settings=settings,
        problems=problems,
        warnings=[_text(warning) for warning in _list(told.get("warnings"))],
        ttl_s=_amount(told.get("ttl_seconds")) or 0.0,
    )


def weights_wanted(
    wanted: Wanted, names: tuple[str, str], granularity: Granularity
) -> dict[str, int | float]:
    """What to ask for: the weights as they were read, or percentages. Raises NotExpressible."""
    if wanted.exact is not None:
        return dict(wanted.exact["weights"])
    nearest = granularity.expressible(wanted.second_weight)
    if nearest is None:
        raise NotExpressible(
            f"{shares(wanted.second_weight, names)} is asked for, and it switches whole, as "
            "`weighted` is false: give 0 or 100"
        )
    first, second = names
    return {first: percent(WHOLE - nearest), second: percent(nearest)}


def change_of(told: Mapping[str, Any], weights: Mapping[str, Any]) -> Change:
    """The answer to a change that was asked for. Raises NoDocument."""
    id, in_sync = told.get("change"), told.get("in_sync")
    if in_sync is True and id is None:
        return Change("", {"weights": dict(weights)})
    if is_id(id) and in_sync in (None, False):
        return Change(str(id), {"weights": dict(weights)})
    raise NoDocument('it is neither {"in_sync": true} nor {"change": "ID"}')


def change_under_way(told: Mapping[str, Any], weights: Mapping[str, Any]) -> Change:
    """The change that is told beside the weights as not in sync yet; without an id: there is none."""
    id = told.get("change")
    return Change(str(id) if is_id(id) else "", {"weights": dict(weights)})


def progress_of(told: Mapping[str, Any]) -> Progress:
    """The answer to how far a change is. Raises NoDocument."""
    try:
        verdict = Verdict(told["state"])
    except (KeyError, ValueError, TypeError):
        raise NoDocument(f"its `state` is none of {', '.join(Verdict)}") from None
    return Progress(verdict, _text(told.get("detail", "")))


def progress_by_reading(change: Change, reading: Reading, names: tuple[str, str]) -> Progress:
    """Of a change without an id: whether what was asked for is there."""
    asked = _second_weight(change.document.get("weights"), names, [])
    if asked is not None and reading.second_weight == asked:
        return Progress(Verdict.IN_SYNC)
    return Progress(
        Verdict.UNKNOWN,
        f"it said that it was done, and now has {_text(reading.exact['weights'])}",
    )


def tail_of(told: Mapping[str, Any]) -> Tail:
    """Who still comes by the old way, where the other end says so."""
    tail = told.get("tail")
    count = tail.get("requests_per_min") if isinstance(tail, Mapping) else None
    return Tail(_amount(told.get("ttl_seconds")) or 0.0, _amount(count))


def shares(second_weight: int | None, names: tuple[str, str]) -> str:
    """`blue 90 %, green 10 %`."""
    second = second_weight or 0
    return f"{names[0]} {percent(WHOLE - second)} %, {names[1]} {percent(second)} %"


def digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def is_id(value: Any) -> bool:
    """Whether it can stand in a header field, a URL and a command line."""
    return (
        isinstance(value, str)
        and 0 < len(value) <= _ID_MAX
        and all("!" <= letter <= "~" and letter not in '"\\' for letter in value)
        and not value.startswith("-")
    )


def _second_weight(weights: Any, names: tuple[str, str], problems: list[str]) -> int | None:
    if not isinstance(weights, Mapping):
        problems.append("it tells no `weights`: expected a JSON object of both upstreams")
        return None
    if set(weights) != set(names):
        found = ", ".join(sorted(map(_text, weights))) or "nobody"
        problems.append(f"its `weights` are of {found}; expected {names[0]} and {names[1]}")
        return None
    amounts = [_amount(weights[name]) for name in names]
    if None in amounts:
        problems.append(f"its `weights` are {_text(weights)}; expected numbers, 0 or more")
        return None
    first, second = (amount or 0.0 for amount in amounts)
    if first + second <= 0:
        problems.append("its `weights` are both 0: nobody gets anything")
        return None
    return _share(first, second)


def _share(first: float, second: float) -> int:
    if second == 0:
        return 0
    if first == 0:
        return WHOLE
    # A share that is not nothing stays something, as on the way there.
    return min(max(round(second * WHOLE / (first + second)), 1), WHOLE - 1)


def _amount(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if 0 <= value < 1e12 else None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _text(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _TEXT_MAX else f"{text[:_TEXT_MAX]}…"
