"""Logs against real files, a pipe that nobody reads, and a disk that is full."""

import json
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from turnout.config.model import LogFormat
from turnout.control.events import ServerUnhealthy
from turnout.control.logs import EventLog, LogWriter, _parts


def until(condition: Callable[[], bool], deadline_s: float = 5.0) -> None:
    end = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < end, "the condition did not come true in time"
        time.sleep(0.01)


class Told:
    """What a writer said was wrong."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def __call__(self, problem: str, remedy: str) -> None:
        assert remedy
        self.said.append(problem)


@pytest.fixture
def told() -> Told:
    return Told()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "access.log"


def test_lines_arrive_whole_and_in_order(path: Path, told: Told) -> None:
    writer = LogWriter("access log", str(path), tell=told)
    for number in range(1000):
        assert writer.write(b"%d\n" % number)
    assert writer.close()
    assert path.read_bytes().split() == [b"%d" % number for number in range(1000)]
    assert told.said == []


def test_two_writers_of_one_file_do_not_tear_lines(path: Path, told: Told) -> None:
    writers = [LogWriter("access log", str(path), tell=told) for _ in range(2)]
    lines = [character * 200 + b"\n" for character in (b"a", b"b")]
    for _ in range(500):
        for writer, line in zip(writers, lines, strict=True):
            writer.write(line)
    assert all(writer.close() for writer in writers)
    assert sorted(path.read_bytes().splitlines(keepends=True)) == sorted(lines * 500)


def test_a_renamed_file_is_left_and_made_anew(path: Path, told: Told) -> None:
    writer = LogWriter("access log", str(path), tell=told)
    writer.write(b"before\n")
    until(path.exists)
    path.rename(path.with_suffix(".1"))
    writer.reopen()
    writer.write(b"after\n")
    assert writer.close()
    assert path.read_bytes() == b"after\n"
    assert path.with_suffix(".1").read_bytes() == b"before\n"


def test_a_renamed_file_is_noticed_without_being_told(path: Path, told: Told) -> None:
    writer = LogWriter("access log", str(path), tell=told)
    writer.write(b"before\n")
    until(path.exists)
    path.rename(path.with_suffix(".1"))

    def made_anew() -> bool:
        writer.write(b"after\n")
        return path.exists()

    until(made_anew)
    assert writer.close()
    assert path.with_suffix(".1").read_bytes().startswith(b"before\n")


def test_another_path_after_a_reload(path: Path, told: Told) -> None:
    writer = LogWriter("access log", str(path), tell=told)
    writer.write(b"before\n")
    until(lambda: path.exists() and path.read_bytes() == b"before\n")
    other = path.with_name("other.log")
    writer.reopen(str(other))
    writer.write(b"after\n")
    assert writer.close()
    assert other.read_bytes() == b"after\n"


@pytest.fixture
def stuck_pipe() -> Iterator[tuple[int, str]]:
    """The reading end of a pipe that is full, and a path that leads to its writing end."""
    reader, sink = os.pipe()
    os.set_blocking(sink, False)
    try:
        while True:
            os.write(sink, bytes(4096))
    except BlockingIOError:
        os.set_blocking(sink, True)
    yield reader, f"/proc/self/fd/{sink}"
    for descriptor in (reader, sink):
        os.close(descriptor)


def test_a_reader_that_stopped_stalls_nobody_and_what_was_dropped_is_told(
    stuck_pipe: tuple[int, str], told: Told
) -> None:
    reader, path = stuck_pipe
    writer = LogWriter("access log", path, tell=told, queue_bytes_max=1000)
    line = b"x" * 99 + b"\n"
    began = time.monotonic()
    kept = sum(writer.write(line) for _ in range(10_000))
    assert time.monotonic() - began < 2.0
    assert 10 <= kept <= 20  # what the thread has in its hands, and what is queued
    assert writer.dropped_lines == 10_000 - kept
    assert len(told.said) == 1 and "being dropped" in told.said[0]

    received = bytearray()

    def drain() -> None:
        while (len(received) - received.count(0)) < kept * len(line):
            received.extend(os.read(reader, 65536))

    thread = threading.Thread(target=drain)
    thread.start()
    thread.join(5.0)
    assert received.lstrip(b"\0") == line * kept
    until(lambda: len(told.said) == 2)
    assert f"{10_000 - kept} lines were dropped" in told.said[1]
    assert writer.close()


def test_a_full_disk_is_told_once_and_its_lines_are_kept(told: Told, path: Path) -> None:
    writer = LogWriter("event log", "/dev/full", tell=told)
    writer.write(b"one\n")
    until(lambda: bool(told.said))
    writer.write(b"two\n")
    assert "No space left on device" in told.said[0]
    writer.reopen()  # tried again, and still full
    until(lambda: not writer._reopen)
    writer.reopen(str(path))  # as if room had been made
    assert writer.close()
    assert path.read_bytes() == b"one\ntwo\n"
    assert len(told.said) == 2 and "0 lines were dropped" in told.said[1]


def test_a_line_that_a_full_disk_cut_is_whole_again_when_there_is_room(
    told: Told, path: Path
) -> None:
    lines = b"".join(character * 399 + b"\n" for character in (b"a", b"b", b"c"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        writer = LogWriter("access log", str(path), tell=told)
        writer.write(lines)
        until(lambda: bool(told.said))
        assert path.read_bytes() == lines[:1000]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert writer.close()
    assert path.read_bytes() == lines


def test_a_directory_that_is_missing_is_told_and_used_once_it_is_there(
    tmp_path: Path, told: Told
) -> None:
    path = tmp_path / "logs" / "access.log"
    writer = LogWriter("access log", str(path), tell=told)
    writer.write(b"one\n")
    until(lambda: bool(told.said))
    assert "No such file or directory" in told.said[0]
    path.parent.mkdir()
    until(lambda: path.exists() and path.read_bytes() == b"one\n")
    assert writer.close()


def test_closing_does_not_wait_for_a_disk_that_hangs(
    stuck_pipe: tuple[int, str], told: Told
) -> None:
    writer = LogWriter("access log", stuck_pipe[1], tell=told)
    writer.write(b"one\n")
    assert not writer.close(timeout_s=0.1)


@pytest.mark.parametrize(
    ("batch", "size", "parts"),
    [
        (b"", 4, []),
        (b"ab\n", 4, [b"ab\n"]),
        (b"a\nb\nc\n", 4, [b"a\nb\n", b"c\n"]),
        (b"abcdef\ng\n", 4, [b"abcdef\n", b"g\n"]),
        (b"g\nabcdef\n", 4, [b"g\n", b"abcdef\n"]),
        (b"abcdef", 4, [b"abcdef"]),
    ],
)
def test_a_batch_is_cut_at_line_ends_only(batch: bytes, size: int, parts: list[bytes]) -> None:
    assert _parts(batch, size) == parts


EVENT = ServerUnhealthy(
    service="shop", upstream="green", server="10.0.0.7:9001", reason="3 probes failed: status 503"
)


@pytest.mark.parametrize(
    ("format", "expected"),
    [
        (
            LogFormat.TEXT,
            "2026-03-01T12:00:00.250Z server.unhealthy service=shop upstream=green "
            'server=10.0.0.7:9001 reason="3 probes failed: status 503"\n',
        ),
        (LogFormat.OFF, ""),
    ],
)
def test_an_event_as_a_line(path: Path, told: Told, format: LogFormat, expected: str) -> None:
    writer = LogWriter("event log", str(path), tell=told)
    log = EventLog(writer, format, now=lambda: 1772366400.25)
    log.write(EVENT)
    assert writer.close()
    assert (path.read_text() if path.exists() else "") == expected


def test_an_event_as_json(path: Path, told: Told) -> None:
    writer = LogWriter("event log", str(path), tell=told)
    EventLog(writer, LogFormat.JSON, now=lambda: 1772366400.25).write(EVENT)
    assert writer.close()
    assert json.loads(path.read_bytes()) == {
        "at": "2026-03-01T12:00:00.250Z",
        "event": "server.unhealthy",
        "service": "shop",
        "upstream": "green",
        "server": "10.0.0.7:9001",
        "reason": "3 probes failed: status 503",
    }


def test_a_clients_line_break_does_not_make_a_second_line(path: Path, told: Told) -> None:
    writer = LogWriter("event log", str(path), tell=told)
    hostile = ServerUnhealthy(upstream="green", server="a:1", reason="x\nswitchover.completed")
    EventLog(writer, LogFormat.TEXT).write(hostile)
    assert writer.close()
    assert path.read_bytes().count(b"\n") == 1
