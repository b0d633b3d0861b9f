"""A case, what came of it, and in what two results of one case may differ: in nothing that counts."""

from dataclasses import dataclass, field
from typing import Final, Literal

from tests.fuzz.readers import Answer, Message

Kind = Literal["request", "answer", "turns"]
End = Literal["stay", "eof", "reset"]
ENDS: Final[tuple[End, ...]] = ("stay", "eof", "reset")


@dataclass(frozen=True)
class Case:
    """What is tried: all that it takes to try it again."""

    kind: Kind
    data: bytes
    """Of turns: seed and steps of an episode, in digits."""
    asked: str = "get"
    """Of ASKED; only for an answer."""
    end: End = "stay"
    """What comes behind the data: nothing and its time runs out, an end of file, a reset."""
    world: str = "tight"
    """Of WORLDS."""


@dataclass
class Result:
    """What came of a case in one split."""

    to_client: bytes = b""
    client_end: str = ""
    answers: list[Answer] = field(default_factory=list)
    behind: bytes = b""
    """What has come behind them: a tunnel's, or not whole."""
    requests: list[Message] = field(default_factory=list)
    """That servers have got whole."""
    rests: list[bytes] = field(default_factory=list)
    """Of requests that they have not got whole; and what came through a tunnel."""
    server_is_kept: bool = False
    """Its connection may be used again."""
    counted: dict[str, int] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def differs(case: Case, one: Result, other: Result) -> str | None:
    """Say in what two results of a case differ, None if in nothing that counts."""
    return (_request_differs if case.kind == "request" else _answer_differs)(one, other)


def _request_differs(one: Result, other: Result) -> str | None:
    if _told(one) != _told(other):
        return f"the client gets {one.to_client!r}\n      or {other.to_client!r}"
    if one.client_end != other.client_end:
        return f"the client's connection is {one.client_end} or {other.client_end}"
    if one.requests != other.requests:
        raw = [[message.raw for message in result.requests] for result in (one, other)]
        return f"servers get {raw[0]!r}\n      or {raw[1]!r}"
    # Of what is refused in its midst a server sees more or less; never a whole request.
    if not _prefixes(one.rests, other.rests):
        return f"servers get the beginnings {one.rests!r}\n      or {other.rests!r}"
    if one.counted != other.counted:
        return f"counted is {one.counted}\n      or {other.counted}"
    return None


def _prefixes(some: list[bytes], others: list[bytes]) -> bool:
    for index in range(max(len(some), len(others))):
        a = some[index] if index < len(some) else b""
        b = others[index] if index < len(others) else b""
        if not (a.startswith(b) or b.startswith(a)):
            return False
    return True


def is_broken(result: Result) -> bool:
    """The server's answer was not passed on, or visibly not all of it."""
    if not result.answers:
        return True
    answer = result.answers[0]
    return not answer.whole or (
        answer.status in (502, 504) and (answer.get(b"proxy-status") or b"").startswith(b"turnout;")
    )


def _answer_differs(one: Result, other: Result) -> str | None:
    if one.requests != other.requests:
        raw = [[message.raw for message in result.requests] for result in (one, other)]
        return f"servers get {raw[0]!r}\n      or {raw[1]!r}"
    if is_broken(one) and is_broken(other):
        # 502 while nothing has been passed on, else an unclean end: both say that it is no answer.
        cut = [r.answers[0] for r in (one, other) if r.answers and not r.answers[0].whole]
        if len(cut) == 2:
            first, second = cut
            same = _without_size(first)[:2] == _without_size(second)[:2]
            if not same or not _prefixes([first.body], [second.body]):
                return f"the client gets the beginnings {first}\n      or {second}"
        return None
    if _told(one) != _told(other) or is_broken(one) is not is_broken(other):
        return f"the client gets {one.to_client!r}\n      or {other.to_client!r}"
    if one.client_end != other.client_end:
        return f"the client's connection is {one.client_end} or {other.client_end}"
    if one.server_is_kept is not other.server_is_kept:
        return f"the server's connection is kept: {one.server_is_kept} or {other.server_is_kept}"
    if one.counted != other.counted:
        return f"counted is {one.counted}\n      or {other.counted}"
    return None


def _without_size(answer: Answer) -> tuple[object, ...]:
    """Chunks may be cut otherwise, and in what order fields of different names stand says nothing."""
    return answer.status, sorted(answer.fields), answer.body, answer.whole, answer.interims


def _told(result: Result) -> tuple[object, ...]:
    return [_without_size(answer) for answer in result.answers], result.behind
