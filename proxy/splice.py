"""Pipes for splice(2): bytes go from one socket to another without passing through memory.

The kernel splices only from or into a pipe, so a body on its way needs one in between. It is
taken when bytes are about to move and given back as soon as it is empty: a client that reads
holds none, one that stalls holds one, with no more in it than `PIPE_BYTES`.
"""

import contextlib
import fcntl
import os
from typing import Final

PIPE_BYTES: Final = 1024 * 1024
"""Asked for: what the system allows anybody. With a quarter of it a body of 64 MiB cost a third
more, as each splice of it wakes the server. An unprivileged user gets 64 of these
(`fs.pipe-user-pages-soft`), and less for further ones."""
PIPE_BYTES_MIN: Final = 64 * 1024
"""With less (a user beyond the limit gets 8 KiB) copying costs less than splicing."""
IDLE_MAX: Final = 16
"""Empty pipes kept for the next: one is enough as long as no client stalls."""


class Pipe:
    """One pipe, both ends non-blocking."""

    __slots__ = ("capacity_bytes", "read_end", "write_end")

    def __init__(self, read_end: int, write_end: int, capacity_bytes: int) -> None:
        self.read_end = read_end
        self.write_end = write_end
        self.capacity_bytes = capacity_bytes


class Pipes:
    """The pipes of one worker: at most `pipes_max` at a time, as the caller says."""

    __slots__ = ("_idle", "open")

    def __init__(self) -> None:
        self._idle: list[Pipe] = []
        self.open = 0

    def take(self, pipes_max: int) -> Pipe | None:
        """Return an empty pipe, or None when none can be had: then the body is copied."""
        if self._idle:
            return self._idle.pop()
        if self.open >= pipes_max:
            return None
        try:
            read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:  # no descriptors left: the body is copied, as it would be without us
            return None
        with contextlib.suppress(PermissionError):  # beyond the user's limit: as large as it is
            fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        pipe = Pipe(read_end, write_end, fcntl.fcntl(write_end, fcntl.F_GETPIPE_SZ))
        self.open += 1
        if pipe.capacity_bytes < PIPE_BYTES_MIN:
            self.discard(pipe)
            return None
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """Take back a pipe that is empty."""
        if len(self._idle) < IDLE_MAX:
            self._idle.append(pipe)
        else:
            self.discard(pipe)

    def discard(self, pipe: Pipe) -> None:
        """Close a pipe, with what is in it."""
        os.close(pipe.read_end)
        os.close(pipe.write_end)
        self.open -= 1
