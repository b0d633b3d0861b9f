"""Where the control API listens, and what its connections may take: sockets, TLS, bounds.

The sockets stay from the start to the end of control; what a reload can change (TLS, limits)
is used by connections that come later. Connections that are open are left alone.
"""

import asyncio
import contextlib
import errno
import logging
import os
import socket
import ssl
import stat
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, cast

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.web_protocol import RequestHandler

from turnout.config.model import Address, AddressKind, ApiTls, ControlPlane
from turnout.config.tls_files import TlsError, server_context
from turnout.control.problems import Problem

BACKLOG: Final = 128
END_S: Final = 1.0
"""How long calls under way may take once control is told to end."""
log = logging.getLogger("turnout.control.api")


class CannotListen(Exception):
    """The API cannot be had at its address; the text says why and what to do."""


class ApiListener:
    """The served API. `control` gives the settings in force."""

    def __init__(
        self,
        app: web.Application,
        control: Callable[[], ControlPlane],
        tell: Callable[[str, str], None],
        count: Callable[[str], None],
    ) -> None:
        """`tell` is told what is wrong, and the remedy; `count` is called with a problem's name
        for what never becomes a call."""
        self._app = app
        self._control = control
        self._tell = tell
        self._count = count
        self._bind = control().bind
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=END_S)
        self._sockets: list[socket.socket] = []
        self._servers: list[asyncio.Server] = []
        self._inode: int | None = None
        self._tls: tuple[ApiTls | None, ssl.SSLContext | None] = (None, None)

    async def start(self) -> None:
        """Listen, and serve. Raises CannotListen."""
        await self._runner.setup()
        try:
            self._sockets = open_sockets(self._bind, self.mode)
        except OSError as error:
            await self._runner.cleanup()
            raise CannotListen(
                f"control.bind {self._bind} cannot be listened on: {error.strerror or error}"
            ) from error
        except CannotListen:
            await self._runner.cleanup()
            raise
        if self._bind.kind is AddressKind.UNIX:
            self._inode = os.lstat(self._bind.path).st_ino
        await self._serve()

    @property
    def mode(self) -> int:
        """Of a Unix socket's file."""
        control = self._control()
        if control.socket_mode is not None:
            return control.socket_mode
        # Without tokens the file's mode is all that says who may.
        return 0o666 if control.tokens else 0o600

    async def _serve(self) -> None:
        """Serve new connections by the settings in force; files that cannot be used are told,
        and what was served with before stays: nothing, or the certificate of before."""
        tls = self._control().tls
        context: ssl.SSLContext | None = None
        if tls is not None:
            try:
                context = await asyncio.to_thread(server_context, tls)
            except TlsError as error:
                self._tell(
                    f"control.tls.{error.key}: {error}",
                    "repair it, then: turnout reload, or SIGHUP",
                )
                # Never in the clear where TLS is wanted.
                if self._servers and self._tls[1] is None:
                    await self._stop_serving()
                return
        loop = asyncio.get_running_loop()
        more: dict[str, Any] = {"backlog": BACKLOG}
        if context is not None:
            more |= {"ssl": context, "ssl_handshake_timeout": self._control().timeout_s}
        begun: list[asyncio.Server] = []
        for listening in self._sockets:
            # A copy of each, as a server closes its own; what waits in the queue stays there.
            own = listening.dup()
            if self._bind.kind is AddressKind.UNIX:
                server = await loop.create_unix_server(self._connection, sock=own, **more)
            else:
                server = await loop.create_server(self._connection, sock=own, **more)
            begun.append(server)
        await self._stop_serving()
        self._servers = begun
        self._tls = (tls, context)

    async def _stop_serving(self) -> None:
        for server in self._servers:
            server.close()
        self._servers = []

    async def reconfigure(self) -> None:
        """After a reload: read the certificate anew, and speak TLS or not."""
        tls = self._control().tls
        if tls is not None or self._tls[0] is not None or not self._servers:
            await self._serve()

    async def close(self) -> None:
        """Let what is under way end, for END_S, and take the socket's file away."""
        await self._stop_serving()
        for listening in self._sockets:
            listening.close()
        await self._runner.cleanup()
        if self._inode is not None:
            # Not one that somebody else has put there since.
            with contextlib.suppress(FileNotFoundError):
                if os.lstat(self._bind.path).st_ino == self._inode:
                    os.unlink(self._bind.path)

    # ------------------------------------------------------------ connections

    def _connection(self) -> "Connection":
        server = self._runner.server
        assert server is not None
        return Connection(server, self._control(), self._count)


class Connection(RequestHandler):
    """A client's connection, with bounds; what cannot be read gets a problem document too."""

    __slots__ = ("_connections_max", "_count", "_link", "_owner", "_timeout_s")

    def __init__(
        self, server: web.Server, control: ControlPlane, count: Callable[[str], None]
    ) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=control.keep_alive_s,
            max_line_size=control.header_bytes,
            max_field_size=control.header_bytes,
            max_headers=control.headers,
            lingering_time=min(control.timeout_s, END_S),
            access_log=None,  # type: ignore[arg-type]  # None is what AppRunner passes too
        )
        self._owner = server
        self._count = count
        self._connections_max = control.connections
        self._timeout_s = control.timeout_s
        self._link: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._link = link = cast(asyncio.Transport, transport)  # uvloop's are none by class
        if len(self._owner.connections) > self._connections_max:
            self._count("too-many-connections")
            link.write(_TOO_MANY)
            self.force_close()

    async def start(self) -> None:
        """As aiohttp does; and a peer that takes nothing cannot keep the connection open."""
        try:
            await super().start()
        finally:
            if self._link is not None:
                asyncio.get_running_loop().call_later(self._timeout_s, self._link.abort)

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await super().finish_response(request, resp, start_time)
        except TimeoutError:
            if self._link is not None:
                self._link.abort()
            raise ConnectionResetError("the answer was not taken") from None

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no request gets an answer that repeats nothing of it, and so does the log: in
        a line that cannot be read there may be a token."""
        if status >= 500:
            log.error("api.mistake %s", type(exc).__name__, exc_info=exc)
            problem = Problem("internal-error", "it is in the log of events")
        elif isinstance(exc, LineTooLong) or "Too many" in (message or ""):
            problem = Problem(
                "head-too-large",
                f"a line of a head has {self.max_line_size} bytes at most (control.header_bytes), "
                f"and a head {self.max_headers} fields (control.headers)",
            )
        else:
            kind = type(exc).__name__ if exc is not None else HTTPStatus(status).phrase
            problem = Problem("http-error", f"this is no request of HTTP/1.1 ({kind})")
        if request.writer.output_size > 0:
            raise ConnectionError("an answer has begun already")
        self._count(problem.name)
        response = problem.response()
        response.headers["Server"] = "turnout"
        response.force_close()
        return response


def _too_many() -> bytes:
    response = Problem("too-many-connections", "there are too many (control.connections)")
    body = response.response().body
    assert isinstance(body, bytes)
    return (
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\n"
        b"Retry-After: 5\r\nConnection: close\r\nServer: turnout\r\n"
        b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
    )


_TOO_MANY: Final = _too_many()


# ---------------------------------------------------------------- sockets


def open_sockets(bind: Address, mode: int) -> list[socket.socket]:
    """The listening sockets of a bind; a Unix socket's file gets `mode`.

    Raises OSError, and CannotListen for what is in the way of a Unix socket.
    """
    if bind.kind is AddressKind.UNIX:
        return [_unix_socket(bind.path, mode)]
    if bind.host:
        family = socket.AF_INET6 if ":" in bind.host else socket.AF_INET
        return [_inet_socket(family, bind.host, bind.port)]
    every = [_inet_socket(socket.AF_INET, "0.0.0.0", bind.port)]
    try:
        every.append(_inet_socket(socket.AF_INET6, "::", bind.port))
    except OSError as error:
        if error.errno not in (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL):  # no IPv6 here
            every[0].close()
            raise
    return every


def _inet_socket(family: socket.AddressFamily, host: str, port: int) -> socket.socket:
    made = socket.socket(family, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind((host, port))
        made.listen(BACKLOG)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    return made


def _unix_socket(path: str, mode: int) -> socket.socket:
    _remove_stale(path)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    # Not chmod behind it: the file has its mode from the first moment on.
    before = os.umask(0o777 & ~mode)
    try:
        made.bind(path)
        made.listen(BACKLOG)
        made.setblocking(False)
    except OSError:
        made.close()
        raise
    finally:
        os.umask(before)
    return made


def _remove_stale(path: str) -> None:
    """Remove the socket file of a process that is gone; raises CannotListen for anything else."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return  # not there; bind() says what else is wrong with the path
    if not stat.S_ISSOCK(mode):
        raise CannotListen(
            f"control.bind unix:{path}: a file that is no socket is there. Remove it, or choose "
            "another path"
        )
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        if probe.connect_ex(path) != errno.ECONNREFUSED:
            raise CannotListen(
                f"control.bind unix:{path} is in use: another process listens there. Stop it "
                "(`ss -lxp` shows which it is), or choose another path"
            )
    os.unlink(path)
