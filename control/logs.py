"""The two logs: access lines as the workers made them, and events, each to a file or a stream.

A disk may be slow, full or gone, and a reader of our standard output may stop reading. None
of it may stall control or a worker: lines are queued within a bound, one thread of each log
writes them, and what does not fit is dropped, counted and told.

Files are opened for appending and written in whole lines, so several writers (the old and
the new program during an upgrade) do not tear each other's. A file that was renamed or
removed (logrotate) is noticed within a second and opened anew.
"""

import contextlib
import errno
import os
import select
import stat
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final

from turnout.config.model import LogFormat
from turnout.control import events

STREAMS: Final = {"stdout": 1, "stderr": 2}
QUEUE_BYTES_MAX: Final = 8 * 1024 * 1024
"""Of each log: what waits for its disk. Workers keep more (`log.access.buffer`)."""
_LOOK_INTERVAL_S: Final = 1.0
"""How often a failing file is tried again, and a renamed one looked for."""
_PIPE_BYTES: Final = 4096
"""PIPE_BUF: a write to a pipe of at most so much is not mixed with another process's."""
_FILE_BYTES: Final = 256 * 1024

Tell = Callable[[str, str], None]
"""Called with what is wrong and what to do about it; from any thread, must not block."""


class LogWriter:
    """One log's file or stream, its queue and its thread.

    `write` and `reopen` never block and may be called from any thread.
    """

    __slots__ = (
        "_about",
        "_closing",
        "_dropped_lines",
        "_failing_since",
        "_looked_at",
        "_opened",
        "_path",
        "_queue",
        "_queue_bytes_max",
        "_queued_bytes",
        "_reopen",
        "_tell",
        "_thread",
        "_unsaid_lines",
        "_wake",
    )

    def __init__(
        self, about: str, path: str, *, tell: Tell, queue_bytes_max: int = QUEUE_BYTES_MAX
    ) -> None:
        """Begin to write to `path`: `stdout`, `stderr` or a file, made when missing.

        `about` names the log in what is told (`access log`). A file that cannot be opened is
        told and tried again each second; it is no reason not to serve.
        """
        self._about = about
        self._path = path
        self._tell = tell
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._queue_bytes_max = queue_bytes_max
        self._dropped_lines = 0
        self._unsaid_lines = 0
        self._failing_since: float | None = None
        self._closing = False
        self._reopen = False
        self._looked_at = 0.0
        self._opened: int | None = None
        self._wake = threading.Condition()
        # A daemon: a process that exits must not wait for a disk that hangs.
        self._thread = threading.Thread(target=self._run, name=f"{about} writer", daemon=True)
        self._thread.start()

    @property
    def path(self) -> str:
        return self._path

    @property
    def dropped_lines(self) -> int:
        """Lines that were dropped since the beginning."""
        return self._dropped_lines

    def write(self, lines: bytes) -> bool:
        """Queue whole lines, each with its line feed. False: no room, they were dropped."""
        if not lines:
            return True
        with self._wake:
            if self._queued_bytes + len(lines) > self._queue_bytes_max or self._closing:
                first = not self._unsaid_lines and self._failing_since is None
                dropped = lines.count(b"\n")
                self._dropped_lines += dropped
                self._unsaid_lines += dropped
            else:
                self._queue.append(lines)
                self._queued_bytes += len(lines)
                self._wake.notify()
                return True
        if first and not self._closing:
            self._tell(
                f"the {self._about} ({self._path}) cannot be written as fast as it grows; "
                "lines are being dropped",
                "look for a full or slow disk, or a reader of standard output that has stopped",
            )
        return False

    def reopen(self, path: str | None = None) -> None:
        """Open the file again for what is written from now on, or another one (SIGHUP)."""
        with self._wake:
            self._path = path or self._path
            self._reopen = True
            self._wake.notify()

    def close(self, timeout_s: float = 5.0) -> bool:
        """Write what is queued and end. False: the disk did not take it in `timeout_s`."""
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    # ------------------------------------------------------------ in the thread

    def _run(self) -> None:
        rest = b""
        while True:
            with self._wake:
                while not (self._queue or rest or self._closing or self._reopen):
                    self._wake.wait()
                if self._closing and not self._queue and not rest:
                    break
                batch = rest + b"".join(self._queue)
                self._queue.clear()
                self._queued_bytes = len(batch)  # what is being written counts as well
            rest = self._write_out(batch)
            with self._wake:
                self._queued_bytes = len(rest) + sum(map(len, self._queue))
                if rest:
                    if self._closing:  # a last attempt was made
                        self._dropped_lines += rest.count(b"\n")
                        break
                    self._wake.wait_for(lambda: self._closing or self._reopen, _LOOK_INTERVAL_S)
        self._release()

    def _write_out(self, batch: bytes) -> bytes:
        """Write as much as the disk takes; return what is left. Tells trouble once, and its end."""
        try:
            descriptor = self._descriptor()
            for part in _parts(batch, _part_bytes(descriptor)):
                written = 0
                while written < len(part):
                    # What a full disk took is not written twice: the rest follows later, and
                    # the line is whole again.
                    try:
                        written += os.write(descriptor, part[written:])
                    except BlockingIOError:  # standard output that others made non-blocking
                        select.select([], [descriptor], [], _LOOK_INTERVAL_S)
                    except OSError:
                        batch = batch[written:]
                        raise
                batch = batch[len(part) :]
        except OSError as error:
            self._trouble(error)
        else:
            self._recovered()
        return batch

    def _descriptor(self) -> int:
        """Return where to write, opened anew if asked for or if the file has another name now."""
        with self._wake:
            path, reopen, self._reopen = self._path, self._reopen, False
        if path in STREAMS:
            self._release()
            return STREAMS[path]
        now_s = time.monotonic()
        if self._opened is not None and not reopen and now_s - self._looked_at >= _LOOK_INTERVAL_S:
            self._looked_at = now_s
            reopen = not _same_file(self._opened, path)
        if self._opened is None or reopen:
            # Closed first: if the new one cannot be opened, the next attempt begins here again.
            self._release()
            flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
            self._opened, self._looked_at = os.open(path, flags, 0o640), now_s
        return self._opened

    def _release(self) -> None:
        if self._opened is not None:
            with contextlib.suppress(OSError):  # a failed close loses nothing that is ours
                os.close(self._opened)
            self._opened = None

    def _trouble(self, error: OSError) -> None:
        if self._failing_since is not None:
            return
        self._failing_since = time.monotonic()
        remedy = {
            errno.ENOSPC: "make room on the disk; nothing needs to be restarted",
            errno.EDQUOT: "make room in the quota; nothing needs to be restarted",
            errno.EACCES: "let turnout's user write there, or choose another path",
            errno.ENOENT: "make the directory, or choose another path",
            errno.EPIPE: "nobody reads standard output any more; write to a file",
        }
        self._tell(
            f"the {self._about} ({self._path}) cannot be written: {os.strerror(error.errno or 0)}",
            remedy.get(error.errno or 0, "traffic goes on; lines are kept, then dropped"),
        )

    def _recovered(self) -> None:
        with self._wake:
            unsaid, self._unsaid_lines = self._unsaid_lines, 0
        since, self._failing_since = self._failing_since, None
        if since is None and not unsaid:
            return
        lasted = f" after {time.monotonic() - since:.1f} s" if since is not None else ""
        self._tell(
            f"the {self._about} ({self._path}) is written again{lasted}; "
            f"{unsaid} lines were dropped",
            "nothing; the requests of dropped lines are in the counters all the same",
        )


def _same_file(descriptor: int, path: str) -> bool:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(descriptor), found)


def _part_bytes(descriptor: int) -> int:
    return _PIPE_BYTES if stat.S_ISFIFO(os.fstat(descriptor).st_mode) else _FILE_BYTES


def _parts(batch: bytes, size: int) -> list[bytes]:
    """Cut into whole lines of `size` bytes together; a longer line is a part by itself."""
    parts: list[bytes] = []
    begin = 0
    while len(batch) - begin > size:
        end = batch.rfind(b"\n", begin, begin + size) + 1
        if end <= begin:
            end = batch.find(b"\n", begin) + 1 or len(batch)
        parts.append(batch[begin:end])
        begin = end
    if begin < len(batch):
        parts.append(batch[begin:])
    return parts


# ---------------------------------------------------------------- events


class EventLog:
    """Events as lines: what Turnout did and why, for people or for a collector."""

    __slots__ = ("_format", "_now", "_writer")

    def __init__(
        self, writer: LogWriter, format: LogFormat, now: Callable[[], float] = time.time
    ) -> None:
        """`now` gives seconds since 1970."""
        self._writer = writer
        self._format = format
        self._now = now

    def write(self, event: events.Event) -> None:
        """Queue the event's line; with format `off`, nothing."""
        if self._format is LogFormat.OFF:
            return
        at_utc = events.utc(self._now())
        if self._format is LogFormat.JSON:
            text = events.to_json(event, at_utc)
        else:
            text = f"{at_utc} {events.to_line(event)}"
        self._writer.write(text.encode("utf-8", "backslashreplace") + b"\n")

    def use(self, format: LogFormat, path: str) -> None:
        """Go on in another format or file, as a reload has it."""
        self._format = format
        self._writer.reopen(path)
