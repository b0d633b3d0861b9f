"""After 101: bytes both ways, until both sides have closed. Counted as in flight until then."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from turnout.proxy.downstream import Downstream
    from turnout.proxy.exchange import Exchange
    from turnout.proxy.upstream import UpstreamConnection


class Tunnel:
    """The two connections of an exchange that has switched protocols.

    Each direction ends by itself: an end of file is passed on as one, and the tunnel is
    closed when both have ended, when either connection is lost, or when nothing has moved for
    `idle_s` seconds; for `half_closed_s` once one of them has ended.
    """

    __slots__ = (
        "_client_ended",
        "_down",
        "_exchange",
        "_half_closed_s",
        "_idle_s",
        "_server_ended",
        "_up",
    )

    def __init__(
        self,
        exchange: "Exchange",
        down: "Downstream",
        up: "UpstreamConnection",
        idle_s: float,
        half_closed_s: float,
    ) -> None:
        self._exchange = exchange
        self._down = down
        self._up = up
        self._idle_s = idle_s
        self._half_closed_s = half_closed_s
        self._client_ended = False
        self._server_ended = False
        self._moved()

    def _moved(self) -> None:
        now_s = self._exchange.worker.now_s
        self._down.wait_until(now_s + self._idle_s if self._idle_s else 0.0)

    def from_client(self, data: bytes) -> None:
        self._exchange.bytes_in += len(data)
        self._up.write(data)
        self._moved()

    def from_server(self, data: bytes) -> None:
        self._exchange.bytes_out += len(data)
        self._down.write(data)
        self._moved()

    def client_eof(self) -> bool:
        """Pass the client's end on; says whether its connection is to stay open for writing."""
        self._client_ended = True
        self._idle_s = self._half_closed_s
        self._moved()
        if self._server_ended:
            # Behind what the server has not taken yet; then `server_gone`.
            self._up.transport.close()
        else:
            self._up.transport.write_eof()
        return True

    def server_eof(self) -> bool:
        """Pass the server's end on; says whether its connection is to stay open for writing."""
        self._server_ended = True
        self._idle_s = self._half_closed_s
        self._moved()
        self._down.write_eof()
        # With both ended: close, behind what the server has not taken yet; then `server_gone`.
        return not self._client_ended

    def server_gone(self) -> None:
        """The server's connection is lost: what it sent before is delivered, then we close."""
        self._exchange.tunnel_closed()
