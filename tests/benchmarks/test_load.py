"""What the load generators say becomes figures, and errors make a turn void."""

import contextlib
import json
import os
import re
import shutil
import socketserver
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from benchmarks.load import BODY_VARIANTS, Wrk, parse_h2load_log, parse_wrk
from benchmarks.processes import HarnessError, wait_until
from benchmarks.workloads import WORKLOADS, Drive, Heads

GOOD = {
    "requests": 3000, "bytes": 9000, "duration_us": 2_000_000, "connect": 0, "read": 0, "write": 0,
    "status": 0, "timeout": 0, "p50_us": 800, "p99_us": 2500, "p999_us": 4000,
}  # fmt: skip


def said(**changed: int) -> str:
    return f"Running 2s test\n  3000 requests in 2.00s\nRESULT {json.dumps(GOOD | changed)}\n"


def test_what_wrk_counted_is_taken_in_seconds_and_milliseconds() -> None:
    found = parse_wrk(said())
    assert (found.requests, found.seconds, found.bytes_read) == (3000, 2.0, 9000)
    assert (found.p50_ms, found.p99_ms, found.p999_ms) == (0.8, 2.5, 4.0)
    assert found.faults == ()


@pytest.mark.parametrize("kind", ["status", "connect", "read", "write", "timeout"])
def test_one_error_of_any_kind_makes_the_turn_void(kind: str) -> None:
    [fault] = parse_wrk(said(**{kind: 1})).faults
    assert fault.startswith("1 ")


def test_no_answer_at_all_makes_the_turn_void() -> None:
    assert parse_wrk(said(requests=0)).faults == ("nothing was answered",)


def test_a_run_without_a_result_is_an_error() -> None:
    with pytest.raises(HarnessError, match="no result"):
        parse_wrk("unable to connect to 127.0.0.1:19300")


def test_h2loads_log_becomes_quantiles() -> None:
    # One request each ms, the n-th takes n µs.
    log = "".join(f"{1_000_000 + n * 1000}\t200\t{n}\n" for n in range(1, 1001))
    found = parse_h2load_log(log)
    assert (found.requests, found.all_requests, found.faults) == (1000, 1000, ())
    assert (found.p50_ms, found.p99_ms, found.p999_ms) == (0.5, 0.99, 0.999)
    assert found.seconds == pytest.approx(1.0)


def test_the_first_moments_of_h2loads_log_are_left_out_of_the_latency() -> None:
    log = "0\t200\t9000\n400000\t200\t9000\n500000\t200\t10\n1500000\t200\t20\n"
    found = parse_h2load_log(log, skip_s=0.5)
    assert (found.requests, found.all_requests) == (2, 4)
    assert found.p999_ms == 0.02


@pytest.mark.parametrize("status", [-1, 404, 502])
def test_a_failed_request_in_h2loads_log_makes_the_turn_void(status: int) -> None:
    found = parse_h2load_log(f"0\t200\t10\n1000\t{status}\t10\n")
    assert found.faults == ("1 answers that are not 2xx or 3xx",)


def test_more_columns_in_h2loads_log_do_not_matter() -> None:
    assert parse_h2load_log("0\t200\t10\t77\n").p50_ms == 0.01


def test_an_empty_log_makes_the_turn_void() -> None:
    assert parse_h2load_log("").faults == ("nothing was answered",)


# ---------------------------------------------------------------- what wrk really sends

REQUESTS = {
    workload.name: workload.request for workload in WORKLOADS if workload.drive is Drive.SATURATE
}
ENOUGH = 20


class Recorder(socketserver.StreamRequestHandler):
    """Keeps the head of each request and answers it."""

    heads: ClassVar[list[str]]

    def handle(self) -> None:
        while head := self._head():
            text = head.decode()
            found = re.search(r"^content-length: (\d+)", text, re.IGNORECASE | re.MULTILINE)
            self.rfile.read(int(found[1]) if found else 0)
            self.heads.append(text)
            close = "Connection: close\r\n" if "\r\nConnection: close\r\n" in text else ""
            self.wfile.write(f"HTTP/1.1 200 OK\r\n{close}Content-Length: 0\r\n\r\n".encode())
            if close:
                return

    def _head(self) -> bytes:
        """The next head without its blank line; nothing, when no more comes."""
        lines = []
        with contextlib.suppress(ConnectionError):  # wrk was killed: no more comes
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                lines.append(line)
            if line:
                return b"".join(lines)
        return b""


@pytest.fixture
def recorder() -> Iterator[socketserver.ThreadingTCPServer]:
    Recorder.heads = []
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), Recorder) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.shutdown()


@pytest.mark.skipif(not shutil.which("wrk"), reason="wrk is not installed")
@pytest.mark.parametrize("name", REQUESTS)
def test_requests_differ_from_one_to_the_next(
    name: str, recorder: socketserver.ThreadingTCPServer, tmp_path: Path
) -> None:
    request = REQUESTS[name]
    wrk = Wrk(
        request, recorder.server_address[1], connections=1, seconds=30,
        cores=frozenset(os.sched_getaffinity(0)), directory=tmp_path,
    )  # fmt: skip
    try:
        wait_until(lambda: len(Recorder.heads) >= ENOUGH, f"{ENOUGH} requests")
        wrk.interrupt()
        assert wrk.result().faults == ()
    finally:
        wrk.kill()
    heads = Recorder.heads[:ENOUGH]
    different = BODY_VARIANTS if request.body_bytes > 100_000 else ENOUGH
    for what in (r" (/[^? ]*)", r"session=(\d+)", r"X-Trace: (\d+)"):
        found = {each[1] for head in heads if (each := re.search(what, head))}
        assert len(found) == (1 if what[1] == "(" and not request.varies else different), what
    assert all(head.startswith(f"{request.method} /") for head in heads)
    fields = heads[0].count("\r\n") - 1
    assert fields == 20 if request.heads is Heads.BROWSER else fields < 6
    hosts = {line for head in heads for line in head.split("\r\n") if line.startswith("Host: h")}
    assert len(hosts) == min(ENOUGH, request.hosts)
