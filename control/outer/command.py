"""A program of one's own as a router: run to read, to set and to ask how far a change is.

`documents` has what is said, docs/outer/generic.md the contract for who writes the program. It
gets no shell, no more variables than are named, and a time after which it is killed with all
that it started.

A program goes on when the control process that runs it is killed. So that the next one does not
read, and call again, while it is at work, `set` holds a lock for as long as it or anything it
started lives, and every call waits for that.
"""

import asyncio
import contextlib
import errno
import hashlib
import json
import os
import signal
import socket
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from turnout.config.outer.generic import Command
from turnout.control.outer import documents
from turnout.control.outer.documents import Granularity, NoDocument
from turnout.control.outer.seams import (
    Capabilities,
    Change,
    Conflict,
    Context,
    Denied,
    NotDone,
    OuterError,
    Progress,
    Reading,
    Refused,
    ReplyLost,
    Tail,
    Throttled,
    Verdict,
    Wanted,
    differences,
    without,
)

ALWAYS_PASSED: Final = ("PATH", "HOME", "LANG")
TRY_AGAIN, CONFLICT, DENIED, WRONG_USE = 3, 4, 5, 2
"""What a program may end with beside 0; see docs/outer/generic.md."""
_STDERR_BYTES_MAX: Final = 4096
_AFTER_KILL_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Ended:
    """What came of one run."""

    status: int
    """Negative: the signal that ended it."""
    stdout: bytes
    last_words: str
    """The last line of its stderr."""


def what_it_means(verb: str, ended: Ended) -> OuterError | None:
    """The error that a run's end stands for; None: it did it. Pure."""
    words = f": {ended.last_words}" if ended.last_words else ""
    text = f"it ended with {ended.status}{words}"
    match ended.status:
        case 0:
            return None
        case status if status == TRY_AGAIN:
            return Throttled(text)
        case status if status == CONFLICT:
            return Conflict(text)
        case status if status == DENIED:
            return Denied(text)
        case 1:
            pass
        case status if status > 0:
            return Refused(text)
    if ended.status < 0:
        text = f"it was ended by {_signal_name(-ended.status)}{words}"
    # 1 is what a script ends with that failed somewhere: it may have come so far, or not.
    return ReplyLost(text) if verb == "set" else NotDone(text)


def make_router(settings: Command, context: Context) -> "CommandRouter":
    return CommandRouter(settings, context)


class CommandRouter:
    """One service's weights, as a program has them."""

    def __init__(self, settings: Command, context: Context) -> None:
        """Raises Refused when a variable is not there."""
        self._settings = settings
        self._context = context
        self._granularity = Granularity(settings.weighted, settings.steps)
        self._name = f"command {settings.argv[0]}"
        missing = [name for name in settings.environment if name not in os.environ]
        if missing:
            raise Refused(
                f"{self._name}: `environment` names {', '.join(missing)}, which Turnout itself has "
                "not. Set it where Turnout is started, or leave it out"
            )
        self._lock = Lock(json.dumps([os.getuid(), *settings.argv]))

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            atomic=True, weighted=self._settings.weighted, exchange=False, conditional=False
        )

    def expressible(self, second_weight: int) -> int | None:
        return self._granularity.expressible(second_weight)

    async def read(self) -> Reading:
        return documents.reading_of(
            await self._told("read"), self._context.names, weighted=self._settings.weighted
        )

    def preview(self, wanted: Wanted, reading: Reading) -> Mapping[str, Any]:
        return {
            "argv": [*self._settings.argv, "set"],
            "stdin": {"weights": self._weights(wanted), "if_version": reading.version},
        }

    async def set_weights(self, wanted: Wanted, if_read: Reading) -> Change:
        weights = self._weights(wanted)
        # A program need not compare versions itself.
        now = await self.read()
        if now.version != if_read.version:
            raise Conflict(f"{self._name}: it was changed by somebody else{_changed(if_read, now)}")
        asked = {"weights": weights, "if_version": if_read.version}
        try:
            told = await self._told("set", given=json.dumps(asked).encode())
        except Conflict as error:
            with contextlib.suppress(OuterError):
                raise Conflict(f"{error}{_changed(if_read, await self.read())}") from None
            raise
        try:
            return documents.change_of(told, weights)
        except NoDocument as error:
            raise ReplyLost(f"{self._name} set: what it wrote: {error}") from None

    async def confirm(self, wanted: Wanted, reading: Reading) -> Change:
        return documents.change_under_way(await self._told("read"), reading.exact["weights"])

    async def poll(self, change: Change) -> Progress:
        if not change.id:
            return documents.progress_by_reading(change, await self.read(), self._context.names)
        try:
            return documents.progress_of(await self._told("poll", change.id))
        except (Refused, Conflict) as error:
            return Progress(Verdict.UNKNOWN, str(error))
        except NoDocument as error:
            raise NotDone(f"{self._name} poll {change.id}: what it wrote: {error}") from None

    async def tail(self, old_upstream: int) -> Tail:
        return documents.tail_of(await self._told("read"))

    async def close(self) -> None:
        """Nothing is kept between two calls."""

    def _weights(self, wanted: Wanted) -> dict[str, int | float]:
        return documents.weights_wanted(wanted, self._context.names, self._granularity)

    async def _told(self, verb: str, *more: str, given: bytes = b"") -> Mapping[str, Any]:
        """Run it once; the document that it wrote. Raises OuterError."""
        await self._context.turn()
        what = " ".join((self._name, verb, *more))
        lost = ReplyLost if verb == "set" else NotDone
        passed = {*ALWAYS_PASSED, *self._settings.environment} & os.environ.keys()
        environment = {name: os.environ[name] for name in passed}
        secrets = [environment[name] for name in self._settings.environment]
        with self._lock.held(what) as lock:
            try:
                ended = await run(
                    (*self._settings.argv, verb, *more),
                    given,
                    environment,
                    timeout_s=self._context.timeout_s,
                    kept=(lock,) if verb == "set" else (),
                )
            except NotStarted as error:
                raise (NotDone if error.may_pass else Refused)(f"{what}: {error}") from None
            except TimeoutError:
                raise lost(
                    f"{what}: it had not ended after {self._context.timeout_s:g} s, and was killed"
                ) from None
        failure = what_it_means(verb, ended)
        if failure is not None:
            raise type(failure)(f"{what}: {without(str(failure), secrets)}")
        try:
            return documents.read_json(ended.stdout)
        except NoDocument as error:
            raise lost(f"{what}: what it wrote: {error}") from None


def _changed(before: Reading, now: Reading) -> str:
    """What somebody else changed, in words."""
    found = differences(
        {**before.exact, "settings": before.settings}, {**now.exact, "settings": now.settings}
    )
    return f": {'; '.join(found)}" if found else ""


# ---------------------------------------------------------------- one run


class NotStarted(Exception):
    """A program that could not be run."""

    def __init__(self, error: OSError) -> None:
        wrong = (FileNotFoundError, PermissionError, NotADirectoryError)
        # No format: a script without its first line, `#!`. Else: no memory, no descriptor.
        self.may_pass = not isinstance(error, wrong) and error.errno != errno.ENOEXEC
        super().__init__(f"it cannot be run: {error.strerror}")


async def run(
    argv: Iterable[str],
    given: bytes,
    environment: Mapping[str, str],
    *,
    timeout_s: float,
    kept: Iterable[int] = (),
) -> Ended:
    """Run a program to its end. `kept` are descriptors that it, and what it starts, holds.

    Its end is that of all who write to its streams. Raises TimeoutError and NotStarted; when it
    raises, also when it is cancelled, the program's process group is killed.
    """
    pipe = asyncio.subprocess.PIPE
    try:
        process = await asyncio.create_subprocess_exec(
            *argv, stdin=pipe, stdout=pipe, stderr=pipe, env=dict(environment), cwd="/",
            start_new_session=True, pass_fds=tuple(kept),
        )  # fmt: skip
    except OSError as error:
        raise NotStarted(error) from None
    ended = False
    try:
        assert process.stdin and process.stdout and process.stderr
        async with asyncio.timeout(timeout_s):
            stdout, stderr, _, status = await asyncio.gather(
                _first(process.stdout, documents.DOCUMENT_BYTES_MAX + 1),
                _last(process.stderr, _STDERR_BYTES_MAX),
                _feed(process.stdin, given),
                process.wait(),
            )
        ended = True
        return Ended(status, stdout, _last_line(stderr))
    finally:
        if not ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_AFTER_KILL_S):
                    await process.wait()
            # Who has left its session is not killed, and would hold our ends of the pipes open.
            process._transport.close()  # type: ignore[attr-defined]


async def _feed(stream: asyncio.StreamWriter, data: bytes) -> None:
    # Who does not read it ends with a status that says more.
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        stream.write(data)
        await stream.drain()
    stream.close()


async def _first(stream: asyncio.StreamReader, bytes_max: int) -> bytes:
    """The first so many bytes; the rest is read and thrown away."""
    kept = b""
    while part := await stream.read(bytes_max):
        kept += part[: bytes_max - len(kept)]
    return kept


async def _last(stream: asyncio.StreamReader, bytes_max: int) -> bytes:
    kept = b""
    while part := await stream.read(bytes_max):
        kept = (kept + part)[-bytes_max:]
    return kept


def _last_line(stderr: bytes) -> str:
    lines = [line for line in stderr.decode(errors="replace").splitlines() if line.strip()]
    text = "".join(letter if letter.isprintable() else " " for letter in lines[-1]) if lines else ""
    return text.strip()[:300]


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


class Lock:
    """A name that one process at a time can have, and those that it hands it on to.

    An abstract Unix socket (Linux): it is free as soon as the last who holds it has ended, however
    that was, and no file is left behind.
    """

    def __init__(self, of: str) -> None:
        self._name = b"\0turnout-command-" + hashlib.sha256(of.encode()).hexdigest().encode()

    @contextlib.contextmanager
    def held(self, what: str) -> Iterator[int]:
        """Its descriptor. Raises Throttled while somebody else has it."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as held:
            if sys.platform == "linux":
                try:
                    held.bind(self._name)
                except OSError:
                    raise Throttled(
                        f"{what}: an earlier call of it, or what that started, is still running"
                    ) from None
            yield held.fileno()
