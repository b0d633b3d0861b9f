"""Switches through the control API: every 100 ms beside a load, and one by one for their latency."""

import contextlib
import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from benchmarks.peers import SERVICE, Running
from benchmarks.processes import HarnessError
from benchmarks.ratios import Measure, quantile
from benchmarks.workloads import SWITCH_EVERY_S
from turnout.proxy.scoreboard import (
    NEWEST_EPOCH,
    R_EPOCH_SEEN,
    ROUTING_BYTES,
    ROUTING_FILE,
    Scoreboard,
    SharedWords,
)

POLL_S: Final = 0.000_02
SWITCH_LIMIT_S: Final = 10.0
COMMITS: Final = 200
ENOUGH_SWITCHES: Final = 0.8
"""Of what there should have been; with fewer a turn is void."""


class Switcher:
    """A context in which traffic is switched to and fro, every `SWITCH_EVERY_S`."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._error = ""
        self.done = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        next_s = time.monotonic()
        try:
            target = inactive(self._running)
            while not self._stop.wait(max(0.0, next_s - time.monotonic())):
                next_s = max(next_s + SWITCH_EVERY_S, time.monotonic())
                path = f"/v1/services/{SERVICE}/switchovers?wait=true"
                target = other(self._running.api("POST", path, {"to": target})["to"])
                self.done += 1
        except (HarnessError, OSError) as error:
            self._error = str(error)

    def faults(self, seconds: float) -> tuple[str, ...]:
        """What makes the turn void, when it is over."""
        if self._error:
            return (self._error,)
        expected = seconds / SWITCH_EVERY_S
        if self.done < ENOUGH_SWITCHES * expected:
            return (f"{self.done} switches, not {expected:.0f}",)
        return ()


def other(upstream: str) -> str:
    return "green" if upstream == "blue" else "blue"


def inactive(running: Running) -> str:
    """The upstream that has nothing."""
    return other(running.api("GET", f"/v1/services/{SERVICE}")["active"])


# ---------------------------------------------------------------- latency


def latencies(running: Running, count: int) -> dict[str, float]:
    """Time from sending each of `count` calls until the last worker has seen the new epoch.

    It is read from the shared memory, every 20 µs. Each switch ends (the call returns) before
    the next begins. Beside it: commits of SQLite on the same disk, as control makes one for
    each switch.
    """
    acknowledged_s, called_s, gaps_s = [], [], []
    target = inactive(running)
    words = SharedWords(running.runtime_dir / ROUTING_FILE, ROUTING_BYTES, create=False)
    board = Scoreboard.open(running.runtime_dir)
    try:
        with _ahead_of_the_load():
            for _ in range(count):
                one = _switch(running.control_socket, target, words, board)
                acknowledged_s.append(one[0])
                called_s.append(one[1])
                gaps_s.append(one[2])
                target = other(target)
            commits_s = sorted(_commits(running.site.state / "commits.db"))
    finally:
        words.close()
        board.memory.close()
    acknowledged_s.sort()
    called_s.sort()
    found = {
        Measure.P50_MS: quantile(acknowledged_s, 0.5),
        Measure.P99_MS: quantile(acknowledged_s, 0.99),
        Measure.MAX_MS: acknowledged_s[-1],
        Measure.CALL_P50_MS: quantile(called_s, 0.5),
        Measure.CALL_P99_MS: quantile(called_s, 0.99),
        Measure.FSYNC_P50_MS: quantile(commits_s, 0.5),
        Measure.FSYNC_P99_MS: quantile(commits_s, 0.99),
        Measure.POLL_GAP_MS: max(gaps_s),
    }
    return {str(key): value * 1e3 for key, value in found.items()} | {
        str(Measure.SWITCHES): float(count)
    }


def _switch(
    control: Path, target: str, words: SharedWords, board: Scoreboard
) -> tuple[float, float, float]:
    """Seconds until acknowledged, until the call returned, and of the longest look away."""
    body = json.dumps({"to": target}).encode()
    request = (
        f"POST /v1/services/{SERVICE}/switchovers?wait=true HTTP/1.1\r\nHost: control\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        "Connection: close\r\n\r\n"
    ).encode() + body
    before = words.words[NEWEST_EPOCH]
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(control))
        began_s = looked_s = time.perf_counter()
        connection.sendall(request)
        longest_s = 0.0
        while True:
            acknowledged = _all_have_seen(before, words, board)
            now_s = time.perf_counter()
            longest_s = max(longest_s, now_s - looked_s)
            looked_s = now_s
            if acknowledged:
                break
            if now_s - began_s > SWITCH_LIMIT_S:
                raise HarnessError(f"no switch in {SWITCH_LIMIT_S:g} s")
            time.sleep(POLL_S)
        connection.settimeout(SWITCH_LIMIT_S)
        said = b"".join(iter(lambda: connection.recv(65_536), b""))
    if not said.startswith(b"HTTP/1.1 200 ") or b'"completed"' not in said:
        raise HarnessError(f"a switch answered {said[-400:].decode(errors='replace')}")
    return looked_s - began_s, time.perf_counter() - began_s, longest_s


def _all_have_seen(before: int, words: SharedWords, board: Scoreboard) -> bool:
    newest = words.words[NEWEST_EPOCH]
    return newest > before and all(
        board.words[board.region(index) + R_EPOCH_SEEN] >= newest for index in board.live_regions()
    )


@contextlib.contextmanager
def _ahead_of_the_load() -> Iterator[None]:
    """Let this process look when it wants to, where the system allows it: it shares a core."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        policy = os.SCHED_RR | os.SCHED_RESET_ON_FORK
        os.sched_setscheduler(0, policy, os.sched_param(1))
    except PermissionError:
        yield  # the longest look away is reported
        return
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def _commits(path: Path) -> Iterator[float]:
    """Seconds of commits as control's store makes them: WAL, synchronous=FULL."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("PRAGMA synchronous = FULL")
        database.execute("CREATE TABLE IF NOT EXISTS decision (id INTEGER PRIMARY KEY, body TEXT)")
        for number in range(COMMITS):
            began_s = time.perf_counter()
            database.execute("BEGIN IMMEDIATE")
            database.execute("INSERT INTO decision (body) VALUES (?)", (f"{number} {'x' * 400}",))
            database.execute("COMMIT")
            yield time.perf_counter() - began_s
