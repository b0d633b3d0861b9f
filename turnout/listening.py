"""The listening sockets, which the supervisor opens and keeps for its whole life.

Each bind has one `SO_REUSEPORT` socket for each worker, so that the kernel spreads new
connections over the workers. Every worker has all of them: a sibling accepts from the
socket of a dead or removed worker. So a socket once opened stays open as long as its
listener is configured; closing one would reset the connections that are queued on it.

A `unix:` socket, and one that systemd handed over, is one for all workers.
"""

import errno
import os
import re
import socket
import stat
from collections.abc import MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

BACKLOG: Final = 4096
"""Connections that may be queued on one socket; the kernel's `somaxconn` bounds it too."""
SHARED: Final = -1
"""Owner of a socket that all workers accept from."""
FIRST_SYSTEMD_FD: Final = 3
UNIX_MODE: Final = 0o666
"""Whoever may reach a port on loopback may reach this; the directory's mode narrows it."""


class ListenError(Exception):
    """A bind that cannot be listened on; the text names it, the cause and the remedy."""


@dataclass(frozen=True, slots=True)
class ListeningSocket:
    """One open socket. `owner` is the number of the worker that it is for, or SHARED."""

    bind: str
    owner: int
    socket: socket.socket
    inode: int = 0
    """Of the file of a Unix socket that we made: only this file is removed at the end."""

    @property
    def address(self) -> str:
        """Where it really listens: differs from `bind` by the port when that was 0."""
        name: Any = self.socket.getsockname()
        if self.socket.family == socket.AF_UNIX:
            return f"unix:{name}"
        host, port = name[0], name[1]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def close(self) -> None:
        if self.inode:
            path = Path(self.bind.removeprefix("unix:"))
            try:
                # Another program may have put its own socket there since.
                if path.lstat().st_ino == self.inode:
                    path.unlink()
            except FileNotFoundError:
                pass
        self.socket.close()


class ListeningSockets:
    """All open sockets, by bind and owner."""

    __slots__ = ("_handed_over", "_may_share", "_open")

    def __init__(
        self,
        handed_over: Sequence[socket.socket] = (),
        *,
        may_share: bool,
        opened: Sequence[ListeningSocket] = (),
    ) -> None:
        """`handed_over` are systemd's; `opened` those of an earlier supervisor or program. With
        `may_share`, a bind of the first `change` may be in use already: by the workers of an
        earlier supervisor that do not answer, and are about to leave."""
        known = {os.fstat(entry.socket.fileno()).st_ino for entry in opened}
        self._handed_over = []
        for given in handed_over:
            if os.fstat(given.fileno()).st_ino in known:
                given.close()  # systemd hands it over at every start; the workers have it already
            else:
                self._handed_over.append(given)
        self._may_share = may_share
        self._open: list[ListeningSocket] = list(opened)

    def records(self) -> list[tuple[dict[str, object], int]]:
        """All sockets as workers are told of them: (what it is, descriptor)."""
        return [
            (
                {"bind": entry.bind, "owner": entry.owner, "inode": entry.inode},
                entry.socket.fileno(),
            )
            for entry in self._open
        ]

    @property
    def opened(self) -> Sequence[ListeningSocket]:
        """All of them, for whoever takes them over."""
        return tuple(self._open)

    @property
    def unused(self) -> Sequence[socket.socket]:
        """systemd's that no bind has asked for yet."""
        return tuple(self._handed_over)

    def addresses(self) -> dict[str, str]:
        """Bind as configured -> where it really listens."""
        return {opened.bind: opened.address for opened in reversed(self._open)}

    def change(self, binds: Sequence[str], workers: int) -> list[ListeningSocket]:
        """Open what is missing for these binds and workers; return what is not wanted any more.

        The caller closes the returned sockets once the workers have been told. Sockets of
        workers that are no more are kept. Raises ListenError, and then nothing is changed.
        """
        opened: list[ListeningSocket] = []
        before, self._open = self._open, self._named_anew(binds)
        try:
            for bind in dict.fromkeys(binds):
                opened += self._missing(bind, workers)
        except ListenError:
            self._open = before
            for entry in opened:
                entry.close()
            raise
        self._may_share = False
        unwanted = [entry for entry in self._open if entry.bind not in binds]
        self._open = [entry for entry in self._open if entry.bind in binds] + opened
        return unwanted

    def refuse(self) -> None:
        """Whoever comes from now on is refused at once, and does not wait in a queue that nobody
        looks at until everything has ended. systemd's sockets stay: it starts us for the next."""
        for entry in self._open:
            if entry.owner != SHARED or entry.inode:
                with suppress(OSError):  # somebody has ended it already
                    entry.socket.shutdown(socket.SHUT_RDWR)

    def _named_anew(self, binds: Sequence[str]) -> list[ListeningSocket]:
        """The open sockets, those that are wanted under another spelling by the new one:
        `127.0.0.1:0` was listened on at 8080, say, and now 127.0.0.1:8080 is written."""
        known = {entry.bind for entry in self._open}
        missing = [bind for bind in dict.fromkeys(binds) if bind not in known]
        named = []
        for entry in self._open:
            if entry.bind not in binds:
                for bind in missing:
                    if _is_bound_to(entry.socket, bind):
                        entry = replace(entry, bind=bind)
                        break
            named.append(entry)
        return named

    def _missing(self, bind: str, workers: int) -> list[ListeningSocket]:
        there = [entry for entry in self._open if entry.bind == bind]
        owners = {entry.owner for entry in there}
        if SHARED in owners:
            return []
        if not there:
            given = self._take_handed_over(bind)
            if given is not None:
                return [ListeningSocket(bind, SHARED, given)]
            if bind.startswith("unix:"):
                return [_open_unix(bind, may_share=self._may_share)]
            if not self._may_share:
                refuse_if_in_use(bind)
        port = there[0].socket.getsockname()[1] if there else None
        opened: list[ListeningSocket] = []
        try:
            for owner in range(workers):
                if owner not in owners:
                    entry = ListeningSocket(bind, owner, _open_port(bind, port))
                    opened.append(entry)
                    port = entry.socket.getsockname()[1]
        except ListenError:
            for entry in opened:
                entry.close()
            raise
        return opened

    def _take_handed_over(self, bind: str) -> socket.socket | None:
        for given in self._handed_over:
            if _is_bound_to(given, bind):
                self._handed_over.remove(given)
                given.setblocking(False)
                return given
        return None

    @property
    def handed_over_unused(self) -> list[str]:
        """Addresses of systemd's sockets that no bind asked for."""
        return [str(given.getsockname()) for given in self._handed_over]

    def close(self) -> None:
        for entry in self._open:
            entry.close()
        self._open = []


def handed_over_by_systemd(environment: MutableMapping[str, str]) -> list[socket.socket]:
    """The sockets that systemd passed to this process, once: what says so is removed, as an
    upgrade keeps process id and environment. Source: sd_listen_fds(3)."""
    meant_for = environment.pop("LISTEN_PID", "")
    count = environment.pop("LISTEN_FDS", "0")
    environment.pop("LISTEN_FDNAMES", None)
    if meant_for != str(os.getpid()):
        return []
    sockets = []
    for descriptor in range(FIRST_SYSTEMD_FD, FIRST_SYSTEMD_FD + int(count)):
        os.set_inheritable(descriptor, False)
        sockets.append(socket.socket(fileno=descriptor))
    return sockets


# ---------------------------------------------------------------- one bind


def refuse_if_in_use(bind: str) -> None:
    """Raise ListenError if another process listens at `bind`, or nobody can.

    With SO_REUSEPORT the second bind of the same user succeeds silently and takes a part of
    the connections: so it is tried once without.
    """
    if bind.startswith("unix:"):
        _remove_stale(bind, bind.removeprefix("unix:"), may_share=False)
    else:
        _bind(bind, None, share=False).close()


def _split(bind: str) -> tuple[str, int]:
    """`host:port`, `[v6]:port` or `:port` -> host (empty: all interfaces) and port."""
    match = re.fullmatch(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]*)):([0-9]{1,5})", bind, re.ASCII)
    if match is None:
        raise ListenError(f"{bind} is no address to listen on. Write 127.0.0.1:8080 or :8080")
    return match[1] or match[2], int(match[3])


def _new_socket(host: str) -> tuple[socket.socket, str]:
    """A socket of the right family, and the host to bind it to."""
    if host:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        made = socket.socket(family, socket.SOCK_STREAM)
        if family == socket.AF_INET6:
            # So that 0.0.0.0:80 can be configured beside [::]:80.
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        return made, host
    try:
        made = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    except OSError:  # a machine without IPv6
        return socket.socket(socket.AF_INET, socket.SOCK_STREAM), "0.0.0.0"
    return made, "::"


def _bind(bind: str, port: int | None, *, share: bool) -> socket.socket:
    host, configured_port = _split(bind)
    made, host = _new_socket(host)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if share:
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((host, configured_port if port is None else port))
    except OSError as error:
        made.close()
        raise ListenError(_explain(bind, error)) from error
    return made


def _open_port(bind: str, port: int | None) -> socket.socket:
    made = _bind(bind, port, share=True)
    try:
        made.setblocking(False)
        made.listen(BACKLOG)
    except OSError as error:
        made.close()
        raise ListenError(_explain(bind, error)) from error
    return made


def _open_unix(bind: str, *, may_share: bool) -> ListeningSocket:
    path = bind.removeprefix("unix:")
    _remove_stale(bind, path, may_share=may_share)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.bind(path)
        os.chmod(path, UNIX_MODE)
        made.setblocking(False)
        made.listen(BACKLOG)
        inode = os.lstat(path).st_ino
    except OSError as error:
        made.close()
        raise ListenError(_explain(bind, error)) from error
    return ListeningSocket(bind, SHARED, made, inode)


def _remove_stale(bind: str, path: str, *, may_share: bool) -> None:
    """Remove the socket file of a process that is gone; refuse anything else in its place."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return  # not there; bind() says what else is wrong with the path
    if not stat.S_ISSOCK(mode):
        raise ListenError(
            f"{bind}: a file that is no socket is there. Remove it, or choose another path"
        )
    if not may_share:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            if probe.connect_ex(path) != errno.ECONNREFUSED:
                raise ListenError(_in_use(bind))
    os.unlink(path)


def _is_bound_to(given: socket.socket, bind: str) -> bool:
    name: Any = given.getsockname()
    if given.family == socket.AF_UNIX or bind.startswith("unix:"):
        return bool(bind == f"unix:{name}")
    host, port = _split(bind)
    return bool(
        name[1] == port and (name[0] == host or (not host and name[0] in ("::", "0.0.0.0")))
    )


def _in_use(bind: str) -> str:
    return (
        f"{bind} is in use: another process listens there. Stop it "
        f"(`ss -lntxp` shows which it is), or choose another bind"
    )


def _explain(bind: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return _in_use(bind)
    remedies = {
        errno.EACCES: "a port below 1024 needs root or CAP_NET_BIND_SERVICE; a path needs a "
        "directory that may be written",
        errno.EADDRNOTAVAIL: "no interface of this machine has that address. Write :port for all",
        errno.ENOENT: "the directory does not exist. Make it, or choose another path",
        errno.EMFILE: "too many open files. Raise `ulimit -n`",
    }
    remedy = remedies.get(error.errno or 0, "choose another bind")
    return f"{bind} cannot be listened on ({error.strerror}): {remedy}"
