"""One line for each exchange: made here, written by control.

Lines are collected and sent in batches; while control is away a bounded batch is kept, then
lines are dropped and counted. Nothing here waits for a disk. With the log off there is no
AccessLog, and an exchange pays one comparison.
"""

import json
from time import gmtime, strftime, time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from turnout.proxy.exchange import Exchange

BATCH_BYTES: Final = 64 * 1024
"""Lines are sent once they are so many, and else twice in a moment. No limit: none is lost."""

_JSON: Final = (
    '{"time":"%s.%03dZ","request_id":%s,"client":"%s","method":"%s","host":%s,"path":%s,'
    '"status":%d,"service":"%s","upstream":"%s","server":"%s","bytes_in":%d,"bytes_out":%d,'
    '"duration_ms":%.3f,"retries":%d,"epoch":%d,"outcome":"%s"}\n'
)
_TEXT: Final = (
    "%s.%03dZ request_id=%s client=%s method=%s host=%s path=%s status=%d service=%s upstream=%s"
    " server=%s bytes_in=%d bytes_out=%d duration_ms=%.3f retries=%d epoch=%d outcome=%s\n"
)
_quote = json.encoder.encode_basestring_ascii


class AccessLog:
    """The lines that have not been sent yet."""

    __slots__ = ("_lines", "_second", "_stamp", "_template", "kept_bytes", "size")

    def __init__(self) -> None:
        self.use("json", 0)
        self._lines: list[str] = []
        self._second = -1
        self._stamp = ""
        self.size = 0
        """Characters collected: about the bytes that they will be."""

    def use(self, form: str, kept_bytes: int) -> None:
        """Write lines in this form, `json` or `text`, from now on; keep so many bytes."""
        self._template = _JSON if form == "json" else _TEXT
        self.kept_bytes = kept_bytes

    def add(self, exchange: "Exchange", outcome: str, now_us: int) -> None:
        """Write the line of an exchange that has just ended."""
        at_s = time()
        second = int(at_s)
        if second != self._second:
            # Hot: once a second instead of once a line.
            self._second = second
            self._stamp = strftime("%Y-%m-%dT%H:%M:%S", gmtime(second))
        service, upstream, head = exchange.service, exchange.upstream, exchange.head
        server = exchange.server if exchange.pool is None else exchange.pool.endpoint
        line = self._template % (
            self._stamp,
            int((at_s - second) * 1000),
            _quote(exchange.request_id.decode("latin-1")),
            exchange.down.hop.peer.decode("latin-1"),
            head.method.decode("latin-1"),
            _quote(head.host.decode("latin-1")),
            _quote(head.path.decode("latin-1")),
            exchange.status,
            service.table.name if service is not None else "",
            upstream.name if upstream is not None else "",
            server,
            exchange.bytes_in,
            exchange.bytes_out,
            (now_us - exchange.started_us) / 1000,
            exchange.retries,
            exchange.epoch,
            outcome,
        )
        self._lines.append(line)
        self.size += len(line)

    def take(self) -> tuple[bytes, int]:
        """Return what is collected and how many lines that is; begin anew."""
        lines, self._lines = self._lines, []
        self.size = 0
        return "".join(lines).encode("utf-8", "replace"), len(lines)

    def drop_surplus(self) -> int:
        """While nobody takes them: drop all beyond the limit; returns how many lines."""
        if self.size <= self.kept_bytes:
            return 0
        kept: list[str] = []
        size = 0
        for line in self._lines:
            if size + len(line) > self.kept_bytes:
                break
            kept.append(line)
            size += len(line)
        dropped = len(self._lines) - len(kept)
        self._lines, self.size = kept, size
        return dropped
