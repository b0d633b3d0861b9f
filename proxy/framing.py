"""Pure: where a body ends, and nothing that could end in two places.

RFC 9112 section 6 and 7. A body that two readers would end at different bytes is how one
request is smuggled inside another, so whatever the standard leaves to a reader's good will
is refused here. `head.py` finds the fields, this module says what they mean together;
`ChunkedDecoder` walks a chunked body as its bytes come in, in reads of any size.
"""

import re
from collections.abc import Set as AbstractSet
from enum import Enum
from typing import Final, NamedTuple

from turnout.proxy.fields import Refused as Refused
from turnout.proxy.fields import is_protected

# Bytes of a chunk-size line with its extensions. No setting: a size has 16 digits, extensions
# mean nothing to anybody known, and no server's own limit is below it.
CHUNK_LINE_MAX: Final = 1024
# A length that every reader holds in a signed 64-bit integer.
BODY_BYTES_MAX: Final = 2**63 - 1


class BodyKind(Enum):
    """How the end of a body is known."""

    NONE = "none"
    LENGTH = "length"
    CHUNKED = "chunked"
    UNTIL_CLOSE = "until_close"


class BodyEnd(NamedTuple):
    """Where a body ends; `length` is bytes for LENGTH, else 0."""

    kind: BodyKind
    length: int


class Passing(Enum):
    """What is to be done to a body on its way to the client."""

    AS_IS = "as_is"  # NONE, LENGTH, or until close to a client that knows nothing else
    RECHUNK = "rechunk"  # chunked stays chunked: decoded, checked, encoded again
    CHUNK = "chunk"  # ended by close; chunked for the client, so that an unclean end shows
    DECHUNK = "dechunk"  # chunked; the client speaks HTTP/1.0, so it ends by close


NO_BODY: Final = BodyEnd(BodyKind.NONE, 0)
CHUNKED_BODY: Final = BodyEnd(BodyKind.CHUNKED, 0)
BODY_UNTIL_CLOSE: Final = BodyEnd(BodyKind.UNTIL_CLOSE, 0)


def body_end_of_request(length: bytes | None, coding: bytes | None, version_minor: int) -> BodyEnd:
    """Say where a request's body ends. Source: RFC 9112, section 6.3.

    `length` and `coding` are the values of the only Content-Length and Transfer-Encoding
    (None: no such field; the caller refuses repeated ones). Raises Refused: 400 for both
    together, for a coding on HTTP/1.0 and for a length that is not digits; 501 for another
    coding than `chunked` alone.
    """
    if coding is not None:
        _check_coding(coding, length is not None, version_minor, 400)
        return CHUNKED_BODY
    if length is None:
        return NO_BODY
    number = content_length(length, 400)
    return BodyEnd(BodyKind.LENGTH, number) if number else NO_BODY


def body_end_of_response(
    status: int,
    request_method: bytes,
    length: bytes | None,
    coding: bytes | None,
    version_minor: int,
) -> BodyEnd:
    """Say where a response's body ends. Source: RFC 9112, section 6.3. Raises Refused(502)."""
    if coding is not None:
        _check_coding(coding, length is not None, version_minor, 502)
    number = -1 if length is None else content_length(length, 502)
    if request_method == b"HEAD" or status < 200 or status == 204 or status == 304:
        return NO_BODY
    if coding is not None:
        return CHUNKED_BODY
    if number > 0:
        return BodyEnd(BodyKind.LENGTH, number)
    return NO_BODY if number == 0 else BODY_UNTIL_CLOSE


def content_length(value: bytes, status: int) -> int:
    """Return the bytes that a Content-Length declares; raises Refused(status) unless digits."""
    value = value.strip(b" \t")
    if value.isdigit() and len(value) <= 19:
        number = int(value)
        if number <= BODY_BYTES_MAX:
            return number
    raise Refused(
        status,
        "bad_content_length",
        "The Content-Length is not one whole number below 2^63.",
    )


def is_plain_length(value: bytes) -> bool:
    """Whether a Content-Length can go on as it came: digits alone, none of them a padding zero.

    `007` and `7 ` are valid and mean 7, to us; to be sure of the next reader they are
    written anew.
    """
    return value.isdigit() and (value[0] != 48 or len(value) == 1) and len(value) < 19


_CODING_LIST: Final = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z\-, \t;=\"]+")


def _check_coding(value: bytes, has_length: bool, version_minor: int, status: int) -> None:
    if has_length:
        raise Refused(
            status,
            "conflicting_lengths",
            "The message has both a Content-Length and a Transfer-Encoding.",
        )
    if version_minor == 0:
        raise Refused(status, "coding_on_http10", "A Transfer-Encoding has no meaning in HTTP/1.0.")
    value = value.strip(b" \t")
    if value.lower() == b"chunked":
        return
    if status == 400 and _CODING_LIST.fullmatch(value):
        status = 501
    raise Refused(status, "unknown_coding", "The Transfer-Encoding is not `chunked` alone.")


def passing(kind: BodyKind, client_version_minor: int) -> Passing:
    """Say what becomes of a response's body of `kind` for a client of that HTTP/1 version."""
    if kind is BodyKind.CHUNKED:
        return Passing.RECHUNK if client_version_minor else Passing.DECHUNK
    if kind is BodyKind.UNTIL_CLOSE and client_version_minor:
        return Passing.CHUNK
    return Passing.AS_IS


# ---------------------------------------------------------------- chunks


def chunk(data: bytes) -> bytes:
    """Return `data` as one chunk; empty for no data, as an empty chunk would be the last."""
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def last_chunk(trailers: bytes = b"") -> bytes:
    """Return the end of a chunked body; `trailers` are whole lines with their CRLF."""
    return b"0\r\n" + trailers + b"\r\n"


# Where a decoder is. Hot: plain numbers, as looking up an enum's member takes 0.05 us.
_SIZE, _DATA, _DATA_END, _TRAILERS, _END = range(5)

_EXTENSION = (
    rb";[!#$%&'*+.^_`|~0-9A-Za-z-]+"
    rb"(?:=(?:[!#$%&'*+.^_`|~0-9A-Za-z-]+|" + rb'"(?:[\t !#-\[\]-~]|\\[\t -~])*"' + rb"))?"
)
_SIZE_LINE: Final = re.compile(rb"([0-9A-Fa-f]{1,16})(?:" + _EXTENSION + rb")*\r\n")
_SIZE_LINE_BEGUN: Final = re.compile(rb"(?:[0-9A-Fa-f]{1,16}(?:;[\t -~]*)?\r?)?")
_NOT_OF_TRAILERS: Final = re.compile(rb"[^\t\r\n -~\x80-\xff]|\r(?!\n|\Z)|(?<!\r)\n")
_TRAILER: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[\t -~\x80-\xff]*\r\n")


class ChunkedDecoder:
    """Walks one chunked body, in reads of any size. Source: RFC 9112, section 7.1.

    For each read call `reencode` (for a receiver of chunks) or `decode` (for one that wants
    the bare body), always the same. Neither raises: afterwards look at `finished`. If it is
    set, either `fault` says why the body is refused, or it has ended: `trailers` holds the
    lines that may be passed on, `leftover` the bytes behind it. What was returned up to a
    fault does not depend on how the bytes were split into reads.

    Strict: sizes of 1 to 16 hex digits below 2^63, CRLF at every end, extensions of the
    standard's form without white space around their signs. Extensions are dropped, and so
    are trailers that frame, route or authenticate, or that Connection names. It holds back one unfinished line, or the
    unfinished trailers, no more.
    """

    __slots__ = (
        "_at", "_held", "_left", "_named", "_status", "_trailer_bytes",
        "body_bytes", "fault", "finished", "leftover", "trailers",
    )  # fmt: skip

    def __init__(
        self,
        refuse_status: int = 400,
        trailer_bytes: int = 8192,
        named: AbstractSet[bytes] = frozenset(),
    ) -> None:
        """`refuse_status` is a fault's: 400 for a request, 502 for a response. The whole
        trailer section may have `trailer_bytes`; 0 is no limit. `named` are the options of the
        head's Connection: trailers of these names go no further (RFC 9110, section 7.6.1)."""
        self._status = refuse_status
        self._named = named
        self._trailer_bytes = trailer_bytes or BODY_BYTES_MAX
        self._at = _SIZE
        self._left = 0
        self._held = b""
        self.body_bytes = 0
        """Bytes of the body proper in all chunks whose size has been read."""
        self.finished = False
        self.fault: Refused | None = None
        self.trailers = b""
        self.leftover = b""

    def reencode(self, data: bytes) -> bytes:
        """Return what of the body can be sent on now, as chunks, up to the last one.

        Chunks without extensions go on in the very bytes they came in.
        """
        if self._at == _DATA and len(data) <= self._left:
            # Hot: a read in the midst of a chunk is passed on uncopied.
            self._left -= len(data)
            if self._left == 0:
                self._at = _DATA_END
            return data
        return self._walk(data, True)

    def decode(self, data: bytes) -> bytes:
        """Return what of the body can be sent on now, without any framing."""
        if self._at == _DATA and len(data) <= self._left:
            self._left -= len(data)
            if self._left == 0:
                self._at = _DATA_END
            return data
        return self._walk(data, False)

    def _walk(self, data: bytes, as_chunks: bool) -> bytes:
        if self._held:
            data = self._held + data
            self._held = b""
        end = len(data)
        at = self._at
        position = 0
        sent_to = 0  # what lies before it is in `pieces`, or is dropped
        pieces: list[bytes] = []
        while position < end:
            if at == _DATA:
                step = min(self._left, end - position)
                if not as_chunks:
                    pieces.append(data[position : position + step])
                position += step
                self._left -= step
                if self._left:
                    break
                at = _DATA_END
            elif at == _DATA_END:
                ending = data[position : position + 2]
                if ending == b"\r\n":
                    position += 2
                    at = _SIZE
                elif ending == b"\r":
                    break
                else:
                    self._refuse("A chunk's data does not end in CR LF where its size says.")
                    break
            elif at == _SIZE:
                # Whoever looks further may be made to: a match takes 50 bytes for each it passes.
                line = _SIZE_LINE.match(data, position, position + CHUNK_LINE_MAX)
                if line is None:
                    self._check_begun(data, position)
                    break
                self._left = int(line[1], 16)
                if self._left > BODY_BYTES_MAX:
                    self._refuse("A chunk's size is beyond what a reader can count.")
                    break
                self.body_bytes += self._left
                plain = line.end() == line.end(1) + 2
                data_end = line.end() + self._left
                if plain and as_chunks and self._left and data.startswith(b"\r\n", data_end):
                    # Hot: a whole chunk without extensions, its end too, goes on as it is.
                    position = data_end + 2
                    self._left = 0
                    continue
                if self._left == 0:
                    if as_chunks:
                        pieces.append(data[sent_to:position])
                    at = _TRAILERS
                else:
                    if as_chunks and not plain:
                        pieces.append(data[sent_to : line.end(1)])
                        sent_to = line.end() - 2
                    at = _DATA
                position = line.end()
            else:
                ended_at = self._read_trailers(data, position)
                if ended_at < 0:
                    break
                at = _END
                self.finished = True
                self.leftover = data[ended_at:]
                if as_chunks:
                    pieces.append(last_chunk(self.trailers))
                self._at = at
                return b"".join(pieces)
        self._at = at
        if self.fault is None and at != _DATA:
            self._held = data[position:]
        if as_chunks and at != _TRAILERS:
            if not pieces and position == end:
                return data
            pieces.append(data[sent_to:position])
        return b"".join(pieces)

    def _check_begun(self, data: bytes, position: int) -> None:
        if (
            len(data) - position > CHUNK_LINE_MAX
            or _SIZE_LINE_BEGUN.fullmatch(data, position) is None
        ):
            self._refuse("A chunk's size is not 1 to 16 hex digits, or its line is malformed.")

    def _read_trailers(self, data: bytes, position: int) -> int:
        """Return where the body ends in `data`, or -1 when that is not to be said yet."""
        if data.startswith(b"\r\n", position):
            return position + 2
        blank = data.find(b"\r\n\r\n", position, position + self._trailer_bytes)
        if blank < 0:
            if (
                len(data) - position >= self._trailer_bytes
                or _NOT_OF_TRAILERS.search(data, position) is not None
            ):
                self._refuse("The trailers are malformed or too large.")
            return -1
        kept = []
        while position < blank + 2:
            line = _TRAILER.match(data, position)
            if line is None:
                self._refuse("The trailers are malformed or too large.")
                return -1
            name = line[1].lower()
            if not is_protected(name) and name not in self._named:
                kept.append(line[0])
            position = line.end()
        self.trailers = b"".join(kept)
        return blank + 4

    def _refuse(self, text: str) -> None:
        self.fault = Refused(self._status, "bad_chunk", text)
        self.finished = True
