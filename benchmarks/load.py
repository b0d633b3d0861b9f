"""The load: wrk with a script made for it, h2load with its log."""

import json
import shutil
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchmarks.processes import HarnessError, start, tail
from benchmarks.ratios import quantile
from benchmarks.workloads import Heads, Request

BODY_VARIANTS: Final = 16
"""Large bodies are made in advance: making each would be what the load's core does."""
LARGE_BODY_BYTES: Final = 100_000

# With Host, Cookie, and X-Trace: 20.
BROWSER: Final = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/126.0.0.0 Safari/537.36",
    "Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,"
    "*/*;q=0.8",
    "Accept-Language": "en-GB,en;q=0.9,de;q=0.8",
    "Accept-Encoding": "gzip, deflate, br, zstd",
    "Cache-Control": "no-cache",
    "Pragma": "no-cache",
    "Sec-Ch-Ua": '"Chromium";v="126", "Not.A/Brand";v="24"',
    "Sec-Ch-Ua-Mobile": "?0",
    "Sec-Ch-Ua-Platform": '"Linux"',
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-Site": "same-origin",
    "Sec-Fetch-User": "?1",
    "Upgrade-Insecure-Requests": "1",
    "Dnt": "1",
    "Priority": "u=0, i",
}


def lua(request: Request) -> str:
    """A script for wrk: requests that differ from one to the next, and a line of JSON at the end."""
    fields = dict(BROWSER) if request.heads is Heads.BROWSER else {}
    if request.close:
        fields["Connection"] = "close"
    fixed = "\n".join(f"fields[{json.dumps(k)}] = {json.dumps(v)}" for k, v in fields.items())
    referer = "fields['Referer'] = 'https://shop.example/list?page=' .. n"
    host = f"fields['Host'] = 'h' .. (n * 7 % {request.hosts}) .. '.bench.example'"
    path = json.dumps(request.path)
    if request.varies:
        path = f"{path} .. (n * 31 % 100003) .. '?q=' .. n"
    if request.hosts:
        # The first service of each host in turn, then the second of each.
        prefix = f"(math.floor(n / {request.hosts}) % 2 == 0 and '/a/' or '/b/')"
        path = f"{prefix} .. (n * 31 % 100003) .. '?q=' .. n"
    return f"""
local n = 0
local base = 0
local made = {{}}
local fields = {{}}
{fixed}
local body = {f"string.rep('x', {request.body_bytes})" if request.body_bytes else "nil"}

local function new()
  n = n + 1
  fields['Cookie'] = 'session=' .. (base + n * 7919) .. '; id=' .. n
  fields['X-Trace'] = base * n
  {referer if request.heads is Heads.BROWSER else ""}
  {host if request.hosts else ""}
  return wrk.format({json.dumps(request.method)}, {path}, fields, body)
end

function init(args)
  math.randomseed(os.time())
  base = math.random(1000000)
  if {request.body_bytes} >= {LARGE_BODY_BYTES} then
    for i = 1, {BODY_VARIANTS} do made[i] = new() end
  end
end

function request()
  if made[1] == nil then return new() end
  n = n + 1
  return made[n % {BODY_VARIANTS} + 1]
end

function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'RESULT {{"requests":%d,"bytes":%d,"duration_us":%d,"connect":%d,"read":%d,"write":%d,' ..
    '"status":%d,"timeout":%d,"p50_us":%d,"p99_us":%d,"p999_us":%d}}\\n',
    summary.requests, summary.bytes, summary.duration, e.connect, e.read, e.write,
    e.status, e.timeout, latency:percentile(50), latency:percentile(99),
    latency:percentile(99.9)))
end
"""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a load got."""

    requests: int
    seconds: float
    bytes_read: int
    p50_ms: float
    p99_ms: float
    p999_ms: float
    faults: tuple[str, ...]
    """What makes it worthless: errors, statuses that are not 2xx or 3xx."""
    all_requests: int = 0
    """Of h2load, with those that are left out of the latencies."""


def parse_wrk(said: str) -> Loaded:
    """Raises HarnessError when wrk did not come to its end."""
    _, found, rest = said.partition("RESULT ")
    if not found:
        raise HarnessError(f"wrk said no result: {said[-500:]}")
    result: dict[str, int] = json.loads(rest.splitlines()[0])
    faults = [
        f"{result[kind]} {words}"
        for kind, words in (
            ("status", "answers that are not 2xx or 3xx"),
            ("connect", "connections failed"),
            ("read", "reads failed"),
            ("write", "writes failed"),
            ("timeout", "timeouts"),
        )
        if result[kind]
    ]
    if not result["requests"]:
        faults.append("nothing was answered")
    return Loaded(
        result["requests"],
        result["duration_us"] / 1e6,
        result["bytes"],
        result["p50_us"] / 1e3,
        result["p99_us"] / 1e3,
        result["p999_us"] / 1e3,
        tuple(faults),
    )


class Wrk:
    """A run of wrk, under way. Its threads share the load's cores."""

    def __init__(
        self,
        request: Request,
        port: int,
        *,
        connections: int,
        seconds: int,
        cores: frozenset[int],
        directory: Path,
    ) -> None:
        program = shutil.which("wrk")
        if program is None:
            raise HarnessError("wrk is not installed: make bench-tools")
        script = directory / "wrk.lua"
        script.write_text(lua(request))
        self._log = directory / "wrk.log"
        self._limit_s = seconds + 30.0
        self._process = start(
            [program, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "20s",
             "-s", script, f"http://127.0.0.1:{port}"],
            cores=cores, log=self._log, stdout=subprocess.PIPE,
        )  # fmt: skip

    def result(self) -> Loaded:
        """Wait for its end."""
        try:
            said, _ = self._process.communicate(timeout=self._limit_s)
        except subprocess.TimeoutExpired:
            raise HarnessError(f"wrk did not end: {tail(self._log)}") from None
        finally:
            self.kill()
        return parse_wrk(said.decode())

    def interrupt(self) -> None:
        """Let it end now, with its result."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


# ---------------------------------------------------------------- h2load


def parse_h2load_log(text: str, *, skip_s: float = 0.0) -> Loaded:
    """Latency of a run from h2load's log: start (µs of the clock), status, duration (µs), by tabs.

    The first `skip_s` seconds are left out: connections are made then.
    """
    rows = [tuple(map(int, line.split("\t")[:3])) for line in text.splitlines() if line]
    if not rows:
        return Loaded(0, 0.0, 0, 0.0, 0.0, 0.0, ("nothing was answered",))
    first_us = min(begun_us for begun_us, _, _ in rows) + int(skip_s * 1e6)
    kept = [row for row in rows if row[0] >= first_us]
    bad = sum(not 200 <= status < 400 for _, status, _ in kept)
    durations_ms = sorted(took_us / 1e3 for _, _, took_us in kept)
    faults = [f"{bad} answers that are not 2xx or 3xx"] if bad else []
    if not kept:
        return Loaded(0, 0.0, 0, 0.0, 0.0, 0.0, ("nothing was answered",))
    ended_us = max(begun_us + took_us for begun_us, _, took_us in kept)
    p50_ms, p99_ms, p999_ms = (quantile(durations_ms, share) for share in (0.5, 0.99, 0.999))
    seconds = (ended_us - first_us) / 1e6
    return Loaded(
        len(kept), seconds, 0, p50_ms, p99_ms, p999_ms, tuple(faults), all_requests=len(rows)
    )


def h2load(
    paths: Sequence[str],
    port: int,
    *,
    connections: int,
    rate_s: float,
    seconds: int,
    cores: frozenset[int],
    directory: Path,
) -> Loaded:
    """Requests at a fixed rate over HTTP/1.1, `rate_s` in all."""
    program = shutil.which("h2load")
    if program is None:
        raise HarnessError("h2load is not installed: make bench-tools")
    urls, log, records = (directory / f"h2load.{name}" for name in ("urls", "log", "tsv"))
    urls.write_text("".join(f"http://127.0.0.1:{port}{path}\n" for path in paths))
    records.unlink(missing_ok=True)
    process = start(
        [program, "--h1", f"-c{connections}", "-t1", f"-D{seconds}", f"--rps={rate_s / connections}",
         f"--log-file={records}", f"--input-file={urls}"],
        cores=cores, log=log,
    )  # fmt: skip
    try:
        process.wait(seconds + 30.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise HarnessError(f"h2load did not end: {tail(log)}") from None
    return parse_h2load_log(records.read_text(), skip_s=0.5)
