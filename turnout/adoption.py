"""Take over from a supervisor that was killed: its workers and their listening sockets.

The workers serve on meanwhile, and every one of them holds all listening sockets. Each is asked
for them on a Unix socket of its own in the runtime directory, so that no connection is refused
or lost: the sockets are never closed, whoever has opened them. See `turnout.proxy.adoption`.
"""

import os
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from turnout.children import DESCRIPTORS_MAX, WORKER_MODULE, Child
from turnout.listening import ListeningSocket
from turnout.loop import Loop, say
from turnout.proxy.commands import FrameReader, Hello, ProtocolError, Sockets, decode, worker_socket
from turnout.proxy.scoreboard import R_PID, SharedMemoryError, WorkerState
from turnout.proxy.scoreboards import Scoreboards

ANSWER_LIMIT_S: Final = 2.0
"""For all workers together: one that hangs is told to leave instead, once others serve."""
READ_BYTES: Final = 65536


@dataclass(slots=True)
class Found:
    """A worker that an earlier supervisor left behind alive."""

    region: int
    child: Child
    hello: Hello | None = None
    """What it said of itself; None: it did not answer, or leaves already."""
    link: socket.socket | None = None
    sockets: list[ListeningSocket] = field(default_factory=list)


def live_workers(boards: Scoreboards, runtime_dir: Path, now_s: float) -> list[Found]:
    """The workers of an earlier supervisor that are alive."""
    found = []
    for region in boards.live_regions():
        child = Child.adopt(boards.field(region, R_PID), WORKER_MODULE, runtime_dir, now_s)
        if child is not None:
            found.append(Found(region, child))
    return found


def open_scoreboards(runtime_dir: Path) -> Scoreboards:
    """What is there; nothing where it cannot be read."""
    try:
        return Scoreboards(runtime_dir, must_exist=False)
    except SharedMemoryError as error:
        say("scoreboard.not_read", error=error, next="counters begin anew")
        (runtime_dir / "scoreboard").unlink(missing_ok=True)
        return Scoreboards(runtime_dir, must_exist=False)


def ask_for_sockets(boards: Scoreboards, workers: Sequence[Found], runtime_dir: Path) -> None:
    """Ask those that serve for the listening sockets; what they answer is put into `workers`."""
    loop = Loop()
    asked: list[_Asked] = []
    for worker in workers:
        if boards.state(worker.region) is WorkerState.SERVING:
            with suppress(OSError):  # of an older program, or just leaving
                asked.append(_Asked(worker, runtime_dir, loop))
    deadline_s = time.monotonic() + ANSWER_LIMIT_S
    late: list[bool] = []
    loop.after(ANSWER_LIMIT_S, lambda: late.append(True))
    while not late and any(not one.done for one in asked):
        loop.turn()
    for one in asked:
        one.end()
    if time.monotonic() >= deadline_s:
        silent = [worker.region for worker in workers if worker.hello is None]
        say("workers.silent", regions=",".join(map(str, silent)), next="they are replaced")


def one_set(workers: Sequence[Found]) -> list[ListeningSocket]:
    """The listening sockets of all answers together, each once; the other copies are closed.

    Answers differ where the supervisor was killed while it told its workers of a new set.
    """
    chosen: dict[int, ListeningSocket] = {}
    for worker in workers:
        for entry in worker.sockets:
            inode = os.fstat(entry.socket.fileno()).st_ino
            if inode in chosen:
                entry.socket.close()
            else:
                chosen[inode] = entry
        worker.sockets = []
    return list(chosen.values())


class _Asked:
    """One worker that has been asked."""

    def __init__(self, worker: Found, runtime_dir: Path, loop: Loop) -> None:
        self._worker = worker
        self._loop = loop
        self._reader = FrameReader()
        self._descriptors: list[int] = []
        self.done = False
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connection.setblocking(False)
        try:
            self._connection.connect(str(runtime_dir / worker_socket(worker.region)))
        except OSError:
            self._connection.close()
            raise
        loop.watch(self._connection.fileno(), self._readable)

    def _readable(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(
                self._connection, READ_BYTES, DESCRIPTORS_MAX + 53
            )
            self._descriptors += descriptors
            if not data:
                raise ProtocolError("it ended")
            for _, payload in self._reader.feed(data):
                self._take(decode(payload))
        except BlockingIOError:
            return
        except (OSError, ProtocolError, KeyError, ValueError) as error:
            say("worker.not_adopted", region=self._worker.region, error=error)
            self._forget()

    def _take(self, message: object) -> None:
        worker = self._worker
        if isinstance(message, Hello):
            if message.pid != worker.child.pid:
                raise ProtocolError(f"process {message.pid} answered for {worker.child.pid}")
            worker.hello = message
        elif isinstance(message, Sockets):
            count = len(message.sockets)
            given, self._descriptors = self._descriptors[:count], self._descriptors[count:]
            entries: list[tuple[dict[str, Any], int]] = list(
                zip(message.sockets, given, strict=True)
            )
            for entry, descriptor in entries:
                listening = socket.socket(fileno=descriptor)
                worker.sockets.append(
                    ListeningSocket(entry["bind"], entry["owner"], listening, entry["inode"])
                )
            if not message.more:
                worker.link = self._connection
                self._finish()

    def _finish(self) -> None:
        self.done = True
        self._loop.unwatch(self._connection.fileno())

    def _forget(self) -> None:
        if not self.done:
            self._finish()
        self._connection.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        for entry in self._worker.sockets:
            entry.socket.close()
        worker = self._worker
        worker.hello, worker.link, worker.sockets = None, None, []

    def end(self) -> None:
        """Forget one that has not answered in time."""
        if not self.done:
            self._forget()
