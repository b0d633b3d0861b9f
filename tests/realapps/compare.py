"""An answer through the proxy held against the direct one."""

import gzip
from dataclasses import dataclass
from typing import Final

OWNED: Final = frozenset(
    ("via", "x-request-id", "date", "connection", "keep-alive", "transfer-encoding")
)
"""Fields that the proxy sets or takes away; and the date, which goes on between two requests."""

Fields = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer. Fields are as on the wire: in their order, with their case."""

    status: int
    reason: str
    fields: Fields
    body: bytes

    def get(self, name: str) -> list[str]:
        return [value for found, value in self.fields if found.lower() == name.lower()]


def same(direct: Answer, proxied: Answer) -> None:
    """Raises AssertionError that shows what differs."""
    assert end_to_end(proxied) == end_to_end(direct)
    assert proxied.get("via") == ["1.1 turnout"]
    if proxied.status >= 200:
        assert len(proxied.get("x-request-id")) == 1


def end_to_end(answer: Answer) -> tuple[int, str, Fields, bytes]:
    """What must be the same."""
    kept = [(name, value) for name, value in answer.fields if name.lower() not in OWNED]
    body = answer.body
    if answer.get("content-encoding") == ["gzip"] and body.startswith(b"\x1f\x8b"):
        body = gzip.decompress(body)  # it says in what second it was made
    return answer.status, answer.reason, kept, body
