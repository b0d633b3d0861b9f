"""What can be broken on purpose on a stage, by name, and what each of it explains.

A fault is an asynchronous context: broken inside, whole again once left. Used by the soak and by
the tests of `tests/faults`, one vocabulary for both.
"""

import asyncio
import contextlib
import itertools
import os
import random
import re
import resource
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Final

import httpx

from loadtests.explained import Disturbance
from loadtests.stage import Stage, StageError
from loadtests.upstream import Mode

BACK_LIMIT_S: Final = 30.0

TIMEOUTS: Final = {
    "connect": "500ms", "first_byte": "1s", "body_idle": "1s", "watchdog": "1s", "shutdown": "5s",
}  # fmt: skip
"""Of the product on a stage for faults: each shows soon."""
HEALTH: Final = {
    "path": "/healthz", "interval": "250ms", "timeout": "500ms", "rise": 1, "fall": 2,
    "doubt_interval": "100ms",
}  # fmt: skip
RESOLVER: Final = {
    "hosts_interval": "200ms", "timeout": "300ms", "ttl_min": "100ms", "failed_max": "300ms",
}  # fmt: skip

PATCHES: Final = {
    "turnout.proxy.worker": """
import os, sys, time
words = sys.orig_argv
marks = os.path.dirname(words[words.index("--runtime-dir") + 1])
while os.path.exists(f"{marks}/mark-slow-start"):
    time.sleep(0.01)
for mark, status in (("crash", 3), ("other-program", 78)):
    if os.path.exists(f"{marks}/mark-{mark}"):
        open(f"{marks}/met-{mark}", "w").close()
        os._exit(status)
from turnout.proxy import deadlines
late = deadlines.late

def hang(*given):
    # Called by the sweep, in the worker's loop.
    try:
        os.unlink(f"{marks}/mark-hang-{os.getpid()}")
    except FileNotFoundError:
        return late(*given)
    while True:
        pass

deadlines.late = hang
""",
    "turnout.supervisor": """
import os, subprocess
from turnout import children

# Workers die here more often than anywhere: up to five seconds each time would be most of a run.
children.Backoff.LONGEST_S = 1.0
popen = subprocess.Popen

class Refused(popen):
    def __init__(self, *given, **more):
        marks = os.environ["LOADTESTS_MARKS"]
        if os.path.exists(marks + "/mark-no-fork"):
            open(marks + "/met-no-fork", "w").close()
            raise BlockingIOError(11, "Resource temporarily unavailable")
        super().__init__(*given, **more)

subprocess.Popen = Refused
""",
    "turnout.control.app": """
import os
from pathlib import Path
from turnout.control import resolver
hosts = Path(os.environ["LOADTESTS_MARKS"], "hosts")
resolver.Resolver.__init__.__kwdefaults__["hosts_path"] = hosts
""",
}
PATCHES["turnout.control.compiler"] = PATCHES["turnout.control.app"]


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing to break. `begin` is given a stage and whom it is done to: servers, or none."""

    name: str
    begin: Callable[[Stage, Sequence[str]], AbstractAsyncContextManager[None]]
    statuses: frozenset[int] = frozenset()
    breaks: bool = False
    workers: int = 0
    """So many workers it costs."""
    repeats: bool = False
    """And their successors."""
    of_worker: bool = False
    of_server: bool = False


class Done:
    """Notes what was broken, and when, while it is."""

    def __init__(self) -> None:
        self.disturbances: list[Disturbance] = []
        self.doing = ""

    @contextlib.asynccontextmanager
    async def broken(
        self, fault: Fault, stage: Stage, upstream: str = "", servers: Sequence[str] = ()
    ) -> AsyncIterator[None]:
        """Have the fault for as long as this lasts."""
        began_s = time.monotonic()
        where = f"{fault.name} of {', '.join(servers)}" if servers else fault.name
        self.doing = where
        try:
            async with fault.begin(stage, servers):
                yield
        finally:
            self.doing = ""
            self.disturbances.append(
                Disturbance(
                    where, began_s, time.monotonic(), upstream,
                    fault.statuses, fault.breaks, fault.workers, fault.repeats,
                )
            )  # fmt: skip


# ---------------------------------------------------------------- servers


@contextlib.asynccontextmanager
async def _killed(stage: Stage, servers: Sequence[str]) -> AsyncIterator[None]:
    for server in servers:
        await stage.kill_upstream(server)
    try:
        yield
    finally:
        for server in servers:
            await stage.restart_upstream(server)


@contextlib.asynccontextmanager
async def _stopped(stage: Stage, servers: Sequence[str]) -> AsyncIterator[None]:
    for server in servers:
        stage.signal_upstream(server, signal.SIGSTOP)
    try:
        yield
    finally:
        for server in servers:
            stage.signal_upstream(server, signal.SIGCONT)


def _mode(mode: Mode) -> Callable[[Stage, Sequence[str]], AbstractAsyncContextManager[None]]:
    @contextlib.asynccontextmanager
    async def turned(stage: Stage, servers: Sequence[str]) -> AsyncIterator[None]:
        for server in servers:
            await stage.turn(server, mode)
        try:
            yield
        finally:
            for server in servers:
                await stage.turn(server, Mode.WELL)

    return turned


@contextlib.asynccontextmanager
async def _forgotten(stage: Stage, servers: Sequence[str]) -> AsyncIterator[None]:
    """The servers' names mean nothing any more, to whomever asks."""
    before = stage.hosts.read_text()
    names = {f"{server}.test" for server in servers}
    left = [line for line in before.splitlines() if line.split()[1] not in names]
    stage.hosts.write_text("".join(f"{line}\n" for line in left))
    try:
        yield
    finally:
        stage.hosts.write_text(before)


BAD_GATEWAY: Final = frozenset({502})
LATE: Final = frozenset({504})
OF_UPSTREAM: Final = (
    Fault("killed", _killed, BAD_GATEWAY, breaks=True, of_server=True),
    Fault("stopped", _stopped, LATE, breaks=True, of_server=True),
    Fault("refusing", _mode(Mode.REFUSING), BAD_GATEWAY, breaks=True, of_server=True),
    Fault("resetting", _mode(Mode.RESETTING), BAD_GATEWAY, breaks=True, of_server=True),
    Fault("hanging", _mode(Mode.HANGING), LATE, of_server=True),
    Fault("slow", _mode(Mode.SLOW), of_server=True),
    Fault("full", _mode(Mode.FULL), BAD_GATEWAY | LATE, breaks=True, of_server=True),
    Fault("flapping", _mode(Mode.FLAPPING), of_server=True),
    Fault("forgotten", _forgotten, of_server=True),
)


# ---------------------------------------------------------------- workers


async def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something. Raises StageError when it does not come."""
    limit_s = time.monotonic() + BACK_LIMIT_S
    while not condition():
        if time.monotonic() > limit_s:
            raise StageError(f"waited {BACK_LIMIT_S:g} s for {what}")
        await asyncio.sleep(0.01)


async def serving(stage: Stage, workers: int, *, exactly: bool = False) -> None:
    """Wait until so many workers serve, and no other is about to leave. Raises StageError."""

    def there() -> bool:
        number = len(stage.inside.workers())
        enough = number == workers if exactly else number >= workers
        return enough and not stage.inside.leaving()

    await until(there, f"{workers} workers")


def _victim(stage: Stage) -> int:
    workers = stage.inside.workers()
    return workers[random.choice(sorted(workers.keys() - stage.spared))]


def _worker(
    how: Callable[[Stage, int], None], mark: str = ""
) -> Callable[[Stage, Sequence[str]], AbstractAsyncContextManager[None]]:
    """End one worker somehow; it has a successor at the end. With a mark, which its successor
    meets before this is left, not before."""

    @contextlib.asynccontextmanager
    async def ended(stage: Stage, servers: Sequence[str]) -> AsyncIterator[None]:
        there = len(stage.inside.workers())
        pid = _victim(stage)
        path, met = stage.directory / f"mark-{mark}", stage.directory / f"met-{mark}"
        if mark:
            path.touch()
        try:
            how(stage, pid)
            yield
            await until(lambda: not stage.inside.alive(pid), f"worker {pid} to end")
            if mark:
                await until(met.exists, f"a start to fail: {mark}")
        finally:
            if mark:
                path.unlink()
                met.unlink(missing_ok=True)
            await serving(stage, there)

    return ended


def _signal(number: signal.Signals) -> Callable[[Stage, int], None]:
    return lambda stage, pid: os.kill(pid, number)


def _hang(stage: Stage, pid: int) -> None:
    (stage.directory / f"mark-hang-{pid}").touch()


@contextlib.asynccontextmanager
async def _no_descriptors(stage: Stage, servers: Sequence[str]) -> AsyncIterator[None]:
    """A worker is killed, and its supervisor has no descriptor left to start another with."""
    there, pid, supervisor = len(stage.inside.workers()), _victim(stage), stage.inside.supervisor
    before = resource.prlimit(supervisor, resource.RLIMIT_NOFILE)
    used = {int(name) for name in os.listdir(f"/proc/{supervisor}/fd")}
    free = next(number for number in itertools.count() if number not in used)
    resource.prlimit(supervisor, resource.RLIMIT_NOFILE, (free, before[1]))
    try:
        told = stage.product_log.read_text().count("worker.not_started")
        os.kill(pid, signal.SIGKILL)
        yield
        await until(
            lambda: stage.product_log.read_text().count("worker.not_started") > told,
            "a start to fail for want of descriptors",
        )
    finally:
        resource.prlimit(supervisor, resource.RLIMIT_NOFILE, before)
        await serving(stage, there)


@contextlib.asynccontextmanager
async def _fewer(stage: Stage, servers: Sequence[str]) -> AsyncIterator[None]:
    """By reload to twice as many workers, back inside, and to twice as many again."""
    before = stage.workers
    await _reload(stage, 2 * before)
    await _reload(stage, before)
    yield
    await _reload(stage, 2 * before)
    await _reload(stage, before)


async def _reload(stage: Stage, workers: int) -> None:
    stage.workers = workers
    stage.write_config()
    answer = await stage.api.post("/v1/reload", json={"reason": "fault"})
    if not answer.is_success:
        raise StageError(f"reload to {workers} workers: {answer.status_code} {answer.text}")
    await serving(stage, workers, exactly=True)


OF_WORKER: Final = (
    Fault("worker killed", _worker(_signal(signal.SIGKILL)), workers=1, of_worker=True),
    Fault("no descriptors for a worker", _no_descriptors, workers=1, of_worker=True),
    Fault("worker stopped", _worker(_signal(signal.SIGSTOP)), workers=1, of_worker=True),
    Fault("worker hangs", _worker(_hang), workers=1, of_worker=True),
    Fault(
        "worker crashes at each start", _worker(_signal(signal.SIGKILL), "crash"),
        workers=1, repeats=True, of_worker=True,
    ),
    Fault(
        "worker cannot be forked", _worker(_signal(signal.SIGKILL), "no-fork"),
        workers=1, of_worker=True,
    ),
    Fault("more and fewer workers", _fewer, of_worker=True),
)  # fmt: skip
OTHER_PROGRAM: Final = Fault(
    "another program on disk", _worker(_signal(signal.SIGKILL), "other-program"),
    workers=1, repeats=True, of_worker=True,
)  # fmt: skip
"""Apart: the supervisor tries that again only after a while."""


# ---------------------------------------------------------------- control


@contextlib.asynccontextmanager
async def _control_killed(stage: Stage, servers: Sequence[str]) -> AsyncIterator[None]:
    pid = stage.inside.control
    os.kill(pid, signal.SIGKILL)
    yield
    limit_s = time.monotonic() + BACK_LIMIT_S
    while time.monotonic() < limit_s:
        with contextlib.suppress(httpx.TransportError):
            if stage.inside.control != pid and (await stage.api.get("/readyz")).is_success:
                return
        await asyncio.sleep(0.02)
    raise StageError(f"waited {BACK_LIMIT_S:g} s for another control process")


OF_CONTROL: Final = (Fault("control killed", _control_killed),)


_CUT: Final = re.compile(r"exchanges\.cut .*reason=worker_died .*names=(.*)")
_NAME: Final = re.compile(r"/([a-z0-9-]+)(?=[,\"\s]|$)")


def named_as_cut(stage: Stage) -> list[str]:
    """The ids of what dead workers held, as the product's log names them: they are in the paths."""
    lines = stage.product_log.read_text(errors="replace").splitlines()
    return [id for line in lines if (found := _CUT.search(line)) for id in _NAME.findall(found[1])]


def options() -> dict[str, Any]:
    """What `staged` takes for a stage on which all of these can be done."""
    return {
        "named": True,
        "patches": PATCHES,
        "service": {
            "health": HEALTH,
            "switchover": {
                "error_limit": {"requests": 20, "window": "2s"},
                "strategies": {
                    "stepped": {"steps": [5, 25, 60, 100], "pause": "250ms"},
                    "halves": {"steps": [50, 100], "pause": "2s"},
                },
            },
        },
        "top": {"timeouts": TIMEOUTS, "resolver": RESOLVER},
    }
