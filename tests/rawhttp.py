"""A client made of a bare socket: sends any bytes, and reads answers strictly.

It is its own reading of RFC 9112, shared with nothing that it tests: an answer that is not
well formed, or ends where it should not, raises `Malformed`.
"""

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import AsyncIterator, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Self

LIMIT: Final = 1 << 22
_STATUS: Final = re.compile(rb"HTTP/1\.([01]) (\d{3})(?: ([^\r\n]*))?")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\r\n\0]*?)[ \t]*")
_SIZE: Final = re.compile(rb"[0-9A-Fa-f]{1,16}")


class Malformed(AssertionError):
    """What came in is not an HTTP/1 answer, or not all of one."""


@dataclass(slots=True)
class Answer:
    """One answer, read to its end."""

    status: int
    version_minor: int
    head: bytes
    """As it came in, blank line included."""
    fields: list[tuple[str, str]]
    body: bytes = b""
    trailers: list[tuple[str, str]] = field(default_factory=list)
    interim: list["Answer"] = field(default_factory=list)
    framing: str = "none"
    """none, length, chunked or close."""
    closed: bool = False
    """The connection has ended behind it, or says that it will."""

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.fields if key.lower() == name.lower()]

    def get(self, name: str) -> str | None:
        """The only value of a field, or None; several are an error."""
        found = self.all(name)
        assert len(found) <= 1, f"{name} stands {len(found)} times: {found}"
        return found[0] if found else None

    @property
    def upstream(self) -> str | None:
        """Which scripted upstream answered; None: Turnout itself."""
        return self.get("X-Upstream")

    def must_be(self, status: int, upstream: str | None = None) -> "Answer":
        """Check status and who answered; the whole answer is shown if it is another."""
        assert (self.status, self.upstream) == (status, upstream), (
            f"expected {status} of {upstream or 'turnout'}:\n"
            f"{self.head.decode('latin-1')}{self.body[:500]!r}"
        )
        return self


def parse_head(data: bytes) -> Answer:
    """An answer's head as an Answer without body. Raises Malformed."""
    lines = data[:-4].split(b"\r\n")
    status = _STATUS.fullmatch(lines[0])
    if status is None:
        raise Malformed(f"status line {lines[0]!r}")
    return Answer(int(status[2]), int(status[1]), data, _fields(lines[1:]))


def _fields(lines: list[bytes]) -> list[tuple[str, str]]:
    fields = []
    for line in lines:
        found = _FIELD.fullmatch(line)
        if found is None:
            raise Malformed(f"field line {line!r}")
        fields.append((found[1].decode(), found[2].decode("latin-1")))
    return fields


class Client:
    """One connection. Every wait ends after `limit_s` seconds with TimeoutError."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, limit_s: float = 10.0
    ) -> None:
        self.reader = reader
        self.writer = writer
        self.limit_s = limit_s

    @classmethod
    async def open(
        cls, address: str, *, limit_s: float = 10.0, receive_buffer: int = 0, local: str = ""
    ) -> "Client":
        """Connect to `host:port`, `[v6]:port` or `unix:/path`, from the address `local`."""
        async with asyncio.timeout(limit_s):
            if address.startswith("unix:"):
                pair = await asyncio.open_unix_connection(address[5:], limit=LIMIT)
            else:
                host, _, port = address.rpartition(":")
                host = host.strip("[]")
                family = socket.AF_INET6 if ":" in host else socket.AF_INET
                link = socket.socket(family)
                link.setblocking(False)
                if receive_buffer:
                    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
                if local:
                    link.bind((local, 0))
                await asyncio.get_running_loop().sock_connect(link, (host, int(port)))
                pair = await asyncio.open_connection(sock=link, limit=receive_buffer // 2 or LIMIT)
        return cls(*pair, limit_s)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """End with a reset."""
        link = self.writer.get_extra_info("socket")
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def half_close(self) -> None:
        self.writer.write_eof()

    # ------------------------------------------------------------ sending

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.writer.write(data)
        async with asyncio.timeout(self.limit_s):
            await self.writer.drain()

    async def ask(
        self,
        target: str = "/",
        *,
        method: str = "GET",
        host: str = "test.example",
        fields: dict[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        """Send a request; a body gets a Content-Length."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}"]
        lines += [f"{name}: {value}" for name, value in (fields or {}).items()]
        if body:
            lines.append(f"Content-Length: {len(body)}")
        await self.send("\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body)

    async def get(self, target: str = "/", **more: str) -> Answer:
        """GET over this connection, with further fields as X_Test_Id="7"."""
        fields = {name.replace("_", "-"): value for name, value in more.items()}
        await self.ask(target, fields=fields)
        return await self.answer()

    # ------------------------------------------------------------ reading

    async def head(self) -> Answer:
        """Read one head, interim ones included, and no more."""
        try:
            async with asyncio.timeout(self.limit_s):
                return parse_head(await self.reader.readuntil(b"\r\n\r\n"))
        except asyncio.IncompleteReadError as error:
            raise Malformed(f"the connection ended amid a head: {error.partial[:300]!r}") from error

    async def answer(self, method: str = "GET") -> Answer:
        """Read one answer to its end, with the interim ones before it."""
        interim = []
        while (found := await self.head()).status < 200 and found.status != 101:
            interim.append(found)
        found.interim = interim
        options = [word.strip().lower() for word in ",".join(found.all("Connection")).split(",")]
        found.closed = "close" in options or (
            found.version_minor == 0 and "keep-alive" not in options
        )
        codings, lengths = found.all("Transfer-Encoding"), found.all("Content-Length")
        if method == "HEAD" or found.status in (101, 204, 304):
            return found
        try:
            async with asyncio.timeout(self.limit_s):
                await self._body(found, codings, lengths)
        except asyncio.IncompleteReadError as error:
            raise Malformed(
                f"the connection ended amid a body:\n{found.head.decode('latin-1')}"
                f"{(found.body + error.partial)[-300:]!r}"
            ) from error
        return found

    async def _body(self, found: Answer, codings: list[str], lengths: list[str]) -> None:
        reader = self.reader
        if codings:
            if codings != ["chunked"] or lengths:
                raise Malformed(f"Transfer-Encoding {codings} with Content-Length {lengths}")
            found.framing = "chunked"
            pieces = []
            while size := await self._chunk_size():
                pieces.append(await reader.readexactly(size))
                if await reader.readexactly(2) != b"\r\n":
                    raise Malformed("a chunk does not end in CR LF")
            lines = []
            while (line := await reader.readuntil(b"\r\n")) != b"\r\n":
                lines.append(line[:-2])
            found.trailers = _fields(lines)
            found.body = b"".join(pieces)
        elif lengths:
            if len(lengths) != 1 or not lengths[0].isdigit():
                raise Malformed(f"Content-Length {lengths}")
            found.framing = "length"
            found.body = await reader.readexactly(int(lengths[0]))
        else:
            found.framing = "close"
            found.closed = True
            found.body = await reader.read(-1)

    async def _chunk_size(self) -> int:
        line = await self.reader.readuntil(b"\r\n")
        if _SIZE.fullmatch(line[:-2]) is None:
            raise Malformed(f"chunk size line {line!r}")
        return int(line, 16)

    async def some(self) -> bytes:
        """Read what is there, at least one byte; nothing at the end."""
        async with asyncio.timeout(self.limit_s):
            return await self.reader.read(LIMIT)

    async def until(self, wanted: bytes) -> bytes:
        async with asyncio.timeout(self.limit_s):
            return await self.reader.readuntil(wanted)

    async def rest(self) -> tuple[bytes, str]:
        """Read to the connection's end; how it ended: `closed` or `reset`."""
        data = b""
        try:
            async with asyncio.timeout(self.limit_s):
                while piece := await self.reader.read(LIMIT):
                    data += piece
        except ConnectionError:
            return data, "reset"
        return data, "closed"

    async def ended(self) -> None:
        """Wait for the connection's end, and for nothing before it."""
        data, _ = await self.rest()
        assert not data, f"expected the end, got {data[:300]!r}"


async def get(address: str, target: str = "/", **more: str) -> Answer:
    """GET over a connection of its own."""
    async with await Client.open(address) as client:
        return await client.get(target, **more)


@contextlib.asynccontextmanager
async def at_work(clients: Iterable[Coroutine[Any, Any, None]]) -> AsyncIterator[None]:
    """Let them run until left in order, and then to their ends, which the caller has to ask them
    for; whoever still runs when it is left otherwise is cancelled."""
    tasks = [asyncio.ensure_future(client) for client in clients]
    try:
        yield
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
