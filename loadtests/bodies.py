"""Pure: what is in the bodies. Each byte is of one request and one server.

So an answer that is put together of two, or given to another client, has another digest.
"""

import hashlib
from typing import Final

_UNIT_BYTES: Final = 64


class Digest:
    """Of all bytes of a body; empty when there were none."""

    def __init__(self) -> None:
        self._hash = hashlib.blake2b(digest_size=8)
        self._any = False

    def update(self, data: bytes | bytearray | memoryview) -> None:
        if data:
            self._any = True
            self._hash.update(data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest() if self._any else ""


def digest(data: bytes) -> str:
    """Of a whole body."""
    whole = Digest()
    whole.update(data)
    return whole.hexdigest()


def page(who: str, id: str, size: int) -> bytes:
    """`size` bytes that nobody else sends, in which a lost or swapped piece shows."""
    lines = (
        f"{who} {id} {line}".encode().ljust(_UNIT_BYTES, b".")
        for line in range(size // _UNIT_BYTES + 1)
    )
    return b"".join(lines)[:size]


def event(upstream: str, id: str, number: int) -> bytes:
    """The event of this number, counted from 0."""
    return f"id: {number}\ndata: {upstream} {id} {number}\n\n".encode()


def reply(upstream: str, id: str, number: int, message: bytes) -> bytes:
    """What a WebSocket's message of this number is answered with."""
    return f"{upstream} {id} {number} ".encode() + message
