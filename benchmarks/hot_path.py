"""Where the microseconds of Python go in the worker's hot path, without kernel and event loop.

    python -m benchmarks.hot_path [--fields 20] [--json]

A worker of this process, real but for its transports, is given a request and its answer, and
the parts of what it does are timed by themselves. Beside it stands what no noise can move: how
many opcodes of Python the exchange takes, and how many calls (`opcodes`; a test holds them to
a limit). What kernel, uvloop and llhttp take in the running product: `--perf` of the benchmark.
"""

import argparse
import asyncio
import json
import os
import shutil
import socket
import sys
import tempfile
import timeit
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import monotonic_ns
from types import FrameType
from typing import Any, Final, cast

import uvloop
from rich.console import Console
from rich.table import Table

from turnout.config.table import RoutingTable, TableServer, TableService, TableUpstream, encode
from turnout.proxy.commands import table_file
from turnout.proxy.downstream import Downstream
from turnout.proxy.head import IDEMPOTENT
from turnout.proxy.plain_head import read_plain_answer, read_plain_request
from turnout.proxy.scoreboard import (
    HEALTH_BYTES,
    HEALTH_FILE,
    ROUTING_BYTES,
    ROUTING_FILE,
    TABLE_IN_FORCE,
    WORD,
    Geometry,
    Scoreboard,
    SharedWords,
    write_inflight,
)
from turnout.proxy.upstream import UpstreamConnection
from turnout.proxy.worker_core import Worker

CALLS: Final = 2000
REPEATS: Final = 60
"""Of which the quickest counts: what disturbs only adds."""
BODY: Final = b"x" * 100
FIELDS_MAX: Final = 90
"""A plain head has a hundred at most."""


class Transport:
    """Takes everything at once, as a socket with room does."""

    def __init__(self) -> None:
        self.written = b""
        self._quiet = socket.socketpair()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": ("127.0.0.1", 50000), "sockname": ("127.0.0.1", 8080)}.get(name, self)

    def fileno(self) -> int:
        return self._quiet[0].fileno()

    def write(self, data: bytes) -> None:
        self.written = data

    def close(self) -> None:
        for end in self._quiet:
            end.close()

    def get_write_buffer_size(self) -> int:
        return 0

    def is_closing(self) -> bool:
        return False


class Loop:
    """Turns when we do."""

    def call_soon(self, callback: object) -> None:
        pass


def request(fields: int) -> bytes:
    """A head with so many fields beside its Host."""
    lines = b"".join(b"X-Field-%d: a value of usual length %d\r\n" % (i, i) for i in range(fields))
    return b"GET /a/15500?q=500 HTTP/1.1\r\nHost: shop.example\r\n" + lines + b"\r\n"


def answer(fields: int) -> bytes:
    """A head as nginx writes it, with so many more fields, and a body of 100 bytes."""
    lines = b"".join(b"X-Field-%d: a value of usual length %d\r\n" % (i, i) for i in range(fields))
    return (
        b"HTTP/1.1 200 OK\r\nServer: nginx\r\nDate: Wed, 25 Nov 2026 22:50:00 GMT\r\n"
        b"Content-Type: text/plain\r\nContent-Length: 100\r\nConnection: keep-alive\r\n"
        + lines + b"\r\n" + BODY
    )  # fmt: skip


@dataclass
class Bench:
    """A worker with one client connection and one idle server connection."""

    worker: Worker
    down: Downstream
    up: UpstreamConnection

    def exchange(self, head: bytes, data: bytes) -> None:
        """One request and its answer."""
        self.down.data_received(head)
        self.worker.flush()
        self.up.data_received(data)
        self.worker.flush()


@contextmanager
def bench() -> Iterator[Bench]:
    """A worker on shared memory of its own. To be entered within a running loop."""
    directory = Path(tempfile.mkdtemp(prefix="turnout-hot-path-"))
    ours, theirs = socket.socketpair()
    try:
        for name, size in ((ROUTING_FILE, ROUTING_BYTES), (HEALTH_FILE, HEALTH_BYTES)):
            SharedWords(directory / name, size, create=True).close()
        Scoreboard.create(directory, Geometry(8, 64, 1024), 1).memory.close()
        blue, green = (
            TableUpstream(name, (TableServer(f"127.0.0.1:{port}", f"127.0.0.1:{port}", slot),))
            for name, port, slot in (("blue", 9001, 1), ("green", 9002, 2))
        )
        service = TableService("shop", 1, (), "/", (blue, green))
        (directory / table_file(1)).write_bytes(encode(RoutingTable(1, (service,))))
        routing = SharedWords(directory / ROUTING_FILE, ROUTING_BYTES, create=False)
        routing.words[TABLE_IN_FORCE] = 1
        routing.close()
        arguments = argparse.Namespace(
            runtime_dir=str(directory), worker=0, region=0, link=ours.detach(), generation="-"
        )
        worker = Worker(arguments, asyncio.get_running_loop())
        worker.adopt_table()
        worker.loop = cast(asyncio.AbstractEventLoop, Loop())
        down = Downstream(worker, worker.admission.door("-"), b"")
        down.connection_made(cast(asyncio.Transport, Transport()))
        pool = worker.serving.services[0].upstreams[0].servers[0]
        up = UpstreamConnection(pool)
        up.connection_made(cast(asyncio.Transport, Transport()))
        up.expires_s = monotonic_ns() / 1e9 + 3600
        pool.idle.append(up)
        found = Bench(worker, down, up)
        for _ in range(100):  # the host is known, the code is specialised
            found.exchange(request(0), answer(0))
        yield found
    finally:
        theirs.close()
        shutil.rmtree(directory, ignore_errors=True)


def opcodes(found: Bench, fields: int = 0, exchanges: int = 50) -> tuple[float, float]:
    """How many opcodes and calls of Python one plain exchange takes in the worker's code."""
    counted: Counter[str] = Counter()

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if "proxy" not in frame.f_code.co_filename:
            return None
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        counted[event] += 1
        return trace

    head, data = request(fields), answer(fields)
    sys.settrace(trace)
    try:
        for _ in range(exchanges):
            found.exchange(head, data)
    finally:
        sys.settrace(None)
    return counted["opcode"] / exchanges, counted["call"] / exchanges


def parts(found: Bench, fields: int) -> dict[str, float]:
    """Microseconds of each part, and of the whole."""
    worker, down, up = found.worker, found.down, found.up
    head, data = request(fields), answer(fields)
    end = data.find(b"\r\n\r\n") + 4
    plain = read_plain_request(head, len(head), 100)
    read = read_plain_answer(data, end, 100)
    assert plain is not None and read is not None
    service = worker.serving.services[0]
    names: dict[str, Any] = {
        "worker": worker, "words": worker.words, "routing": worker.routing, "service": service,
        "pool": up.pool, "up": up, "head": head, "data": data, "end": end, "kept": plain[4],
        "lines": down.hop.lines, "authority": plain[3], "kept_back": read[2], "method": b"GET",
        "IDEMPOTENT": IDEMPOTENT, "write_inflight": write_inflight, "monotonic_ns": monotonic_ns,
        "octets": worker.octets, "at": worker.free_inflight[-1] * WORD,
        "base": service.upstreams[0].base, "read_plain_request": read_plain_request,
        "read_plain_answer": read_plain_answer, "exchange": found.exchange, "serving":
        worker.serving, "down": down,
    }  # fmt: skip

    def timed(statement: str) -> float:
        best = min(timeit.repeat(statement, globals=names, number=CALLS, repeat=REPEATS))
        return best / CALLS * 1e6

    empty = timed("pass")
    found_us = {
        "request: read": timed(
            "data.find(b'\\r\\n\\r\\n'); read_plain_request(head, len(head), 100)"
        ),
        "request: written": timed(
            "n = worker.ids_given + 1; i = b'%b%x' % (worker.id_prefix, n);"
            "b''.join((kept, lines, authority, b'\\r\\nX-Request-Id: ', i, b'\\r\\n\\r\\n'))"
        ),
        "answer: read": timed("data.find(b'\\r\\n\\r\\n'); read_plain_answer(data, end, 100)"),
        "answer: written": timed(
            "b'\\r\\nDate:' in kept_back;"
            "b''.join((kept_back, b'', worker.via_line, b'0123456789abcdef-1', data[end - 4:]))"
        ),
        "routing": timed(
            "routing[0] != worker.table_number; service = serving.only;"
            "routing[service.word_index] != service.word; service.sole; method in IDEMPOTENT"
        ),
        "pool": timed(
            "worker.health[pool.health_slot] == 2; up.expires_s <= 1.0; pool.idle;"
            "pool.in_flight += 1; pool.in_flight -= 1; pool.answered += 1"
        ),
        "accounting": timed(
            "write_inflight(octets, at, 1 << 63, 123456789, b'/a/15500');"
            "words[base] += 1; words[base] += 1; words[base] += 1; words[base] += 1;"
            "words[base] += 1; words[at // 8] = 0"
        ),
        "clock": timed("monotonic_ns() // 1000 / 1e6; monotonic_ns() // 1000"),
    }
    whole = timed("exchange(head, data)")
    found_us = {name: us - empty for name, us in found_us.items()}
    found_us["calls, guards, state"] = whole - sum(found_us.values())
    return {**found_us, "all of it": whole}


async def run(fields: int) -> dict[str, float]:
    """Measure one kind of exchange."""
    with bench() as found:
        executed, calls = opcodes(found, fields)
        return {**parts(found, fields), "opcodes": executed, "calls": calls}


def _fields(text: str) -> int:
    if not text.isdigit() or int(text) > FIELDS_MAX:
        raise argparse.ArgumentTypeError(f"{text!r} is not 0 to {FIELDS_MAX}")
    return int(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--fields", type=_fields, default=0, help="more in each head: 0 to 90")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        found = runner.run(run(arguments.fields))
    if arguments.json:
        print(json.dumps({name: round(value, 3) for name, value in found.items()}))
        return
    table = Table("part", "µs", "", title=f"one plain exchange, {arguments.fields} more fields")
    whole = found["all of it"]
    for name, value in found.items():
        if name in ("opcodes", "calls"):
            continue
        bar = "█" * round(30 * value / whole)
        table.add_row(name, f"{value:.2f}", bar if name != "all of it" else "")
    Console().print(table)
    print(f"{found['opcodes']:.0f} opcodes in {found['calls']:.0f} calls, pid {os.getpid()}")


if __name__ == "__main__":
    main()
