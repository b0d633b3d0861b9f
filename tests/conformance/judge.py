"""Decides whether what a server received is what a case allows, in exactly one reading."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from tests.conformance.case import Sent
from tests.conformance.readers import STRICT, Message, Reading, readings

ADDED: Final = (
    b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"via", b"x-request-id",
)  # fmt: skip
"""What this hop says of itself: each once in every request."""
_FRAMING: Final = (b"content-length", b"transfer-encoding")
_TELLING: Final = (b"host", *_FRAMING)


class Ambiguous(AssertionError):
    """Two readers read the same bytes in two ways."""


@dataclass(frozen=True, slots=True)
class Heard:
    """What one connection of a server received, in the one reading that all readers share."""

    messages: tuple[Message, ...]
    unfinished: bool


def heard(data: bytes) -> Heard:
    """The one reading of these bytes. Raises Ambiguous if there are several, or none."""
    found = readings(data)
    first = found["h11"]
    for name, reading in found.items():
        if name in STRICT:
            same = (reading.messages, reading.end == "clean") == (
                first.messages,
                first.end == "clean",
            )
        else:
            same = _outline(reading) == _outline(first)
        # gunicorn calls it a fault, too, when the bytes end amid a chunk.
        if not same or (reading.end == "refused" and name != "gunicorn"):
            raise Ambiguous(f"{name!r} reads\n  {reading}\nand h11\n  {first}\nin\n  {data!r}")
    return Heard(first.messages, first.end == "unfinished")


def _outline(reading: Reading) -> tuple[object, ...]:
    """What two readers must agree on though one is kinder about names and values."""
    messages = [
        (
            message.method,
            message.target,
            message.version,
            [pair for pair in message.fields if pair[0] in _TELLING],
            message.body,
            [name for name, _ in message.trailers if name in _TELLING],
        )
        for message in reading.messages
    ]
    return messages, reading.end


def as_sent(message: Message) -> Sent:
    """A request as the corpus speaks of it. Fails if this hop has not said who it is, once."""
    names = [name for name, _ in message.fields]
    for name in ADDED:
        assert names.count(name) == 1, f"{name.decode()} stands {names.count(name)} times"
    assert names.count(b"host") == 1, f"{names.count(b'host')} hosts"
    framing = [pair for pair in message.fields if pair[0] in _FRAMING]
    assert len(framing) <= 1, f"two framings: {framing}"
    chunked = framing == [(b"transfer-encoding", b"chunked")]
    if framing and not chunked:
        assert framing[0] == (b"content-length", b"%d" % len(message.body)), framing
    assert message.version == b"1.1"
    return Sent(
        target=message.target.decode("latin-1"),
        method=message.method.decode("latin-1"),
        body=message.body,
        chunked=chunked,
        length=bool(framing) and not chunked and not message.body,
        host=dict(message.fields)[b"host"].decode("latin-1"),
        fields=_text(pair for pair in message.fields if pair[0] not in (*ADDED, *_TELLING)),
        trailers=_text(message.trailers),
    )


def _text(pairs: Iterable[tuple[bytes, bytes]]) -> tuple[tuple[str, str], ...]:
    return tuple((name.decode("latin-1"), value.decode("latin-1")) for name, value in pairs)
