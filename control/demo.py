"""`turnout demo`: the main job in one terminal, with real parts.

Two small upstreams of different versions, the proxy as `turnout run` starts it, a client load,
an atomic switch, a stepped one and a rollback through the command line. Every request has a
number; at the end three ledgers are compared: what the client sent and got, what the upstreams
received, and what the proxy's receipts and counters say.
"""

import asyncio
import json
import os
import signal
import socket
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final

from rich.console import Group, RenderableType
from rich.live import Live
from rich.rule import Rule
from rich.text import Text

from turnout.control.cli_output import BAR, bar, err, out, receipt_view, styled
from turnout.control.client import Client, CommandError

VERSIONS: Final = {"blue": "v1", "green": "v2"}
KEPT_CONNECTIONS: Final = 12
REQUESTS_PER_SECOND: Final = 400
READY_LIMIT_S: Final = 20.0
ANSWER_LIMIT_S: Final = 30.0
STOP_LIMIT_S: Final = 10.0
RECENT_S: Final = 1.0

CONFIGURATION: Final = """\
workers: 2
runtime_dir: {directory}/run
listeners: [{{bind: "127.0.0.1:{port}"}}]
control: {{bind: "unix:{directory}/control.sock"}}
state: {{path: {directory}/turnout.db}}
log: {{access: off}}
services:
  shop:
    upstreams:
      blue: {{servers: ["127.0.0.1:{blue}"]}}
      green: {{servers: ["127.0.0.1:{green}"]}}
    health: {{path: /healthz, interval: 300ms, timeout: 1s, rise: 1, fall: 2}}
    drain: {{timeout: 10s, tunnels: 10s}}
    switchover:
      strategies:
        careful: {{steps: [5, 25, 50, 100], pause: {pause_ms}ms}}
"""


class DemoFailed(Exception):
    """The show cannot go on; the text says why."""


# ---------------------------------------------------------------- an upstream


class Upstream(asyncio.Protocol):
    """A server that says its version, and remembers the number of each request."""

    received: ClassVar[Counter[str]] = Counter()
    version = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].decode("latin-1")
            length = next(
                (
                    int(line.partition(":")[2])
                    for line in head.split("\r\n")
                    if line.lower().startswith("content-length:")
                ),
                0,
            )
            if len(self.buffer) < end + 4 + length:
                return
            self.buffer = self.buffer[end + 4 + length :]
            self.answer(head.split(" ")[1])

    def answer(self, path: str) -> None:
        body = self.version
        if path.startswith("/order/"):
            self.received[path.removeprefix("/order/")] += 1
            # Some take longer, so that there is something in flight at each flip.
            number = int(path.removeprefix("/order/"))
            if number % 10 == 0:
                asyncio.get_running_loop().call_later(0.15, self.send, body)
                return
        elif path == "/ledger":
            body = json.dumps(self.received).encode()
        self.send(body)

    def send(self, body: bytes) -> None:
        if not self.transport.is_closing():
            self.transport.write(
                b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
            )


async def serve_upstream(version: str) -> None:
    """Serve until the parent closes our standard input; the port is the first line said."""
    Upstream.version = version.encode()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Upstream, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()
    server.close()


# ---------------------------------------------------------------- the load


@dataclass(slots=True)
class Ledger:
    """What the client sent and got."""

    sent: int = 0
    answered: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    recent: deque[tuple[float, str, float]] = field(default_factory=deque)
    """(when, version, milliseconds) of the last second."""

    def note(self, version: str, milliseconds: float) -> None:
        now = time.monotonic()
        self.answered[version] += 1
        self.recent.append((now, version, milliseconds))
        while self.recent and self.recent[0][0] < now - RECENT_S:
            self.recent.popleft()


class Load:
    """Kept and fresh connections at a bounded rate, until told to stop."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.ledger = Ledger()
        self.stopped = False
        self._number = 0

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(KEPT_CONNECTIONS):
                group.create_task(self._client(kept=True))
            for _ in range(KEPT_CONNECTIONS // 4):
                group.create_task(self._client(kept=False))

    async def _client(self, *, kept: bool) -> None:
        clients = KEPT_CONNECTIONS + KEPT_CONNECTIONS // 4
        pause_s = clients / REQUESTS_PER_SECOND
        connection: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        while not self.stopped:
            began = time.monotonic()
            self._number += 1
            number = str(self._number)
            self.ledger.sent += 1
            try:
                async with asyncio.timeout(ANSWER_LIMIT_S):
                    if connection is None:
                        connection = await asyncio.open_connection("127.0.0.1", self.port)
                    version, closes = await self._ask(*connection, number)
                self.ledger.note(version, (time.monotonic() - began) * 1000)
            except (OSError, asyncio.IncompleteReadError, ValueError) as error:
                self.ledger.lost.append(f"/order/{number}: {error or type(error).__name__}")
                closes = True
            if connection is not None and (closes or not kept):
                connection[1].close()
                connection = None
            await asyncio.sleep(max(0.0, began + pause_s - time.monotonic()))
        if connection is not None:
            connection[1].close()

    async def _ask(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: str
    ) -> tuple[str, bool]:
        """One request; returns the version that answered, and whether the connection ends."""
        body = b"x" * 200 if int(number) % 3 == 0 else b""
        method = "POST" if body else "GET"
        head = f"{method} /order/{number} HTTP/1.1\r\nHost: shop.example\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n" if body else "\r\n"
        writer.write(head.encode() + body)
        answer = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        status = answer.split(" ")[1]
        length = int(answer.partition("content-length:")[2].partition("\r\n")[0])
        content = await reader.readexactly(length)
        if status != "200":
            raise ValueError(f"status {status}: {content.decode('latin-1').strip()}")
        return content.decode(), "connection: close" in answer


# ---------------------------------------------------------------- the show


class Show:
    """What is on the screen: the shares of the last second, and what has been done."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.doing = "starting"
        self.weights: dict[str, float] = {}
        self.done: list[str] = []
        self._said_at = 0.0

    def view(self) -> RenderableType:
        recent = list(self.load.ledger.recent)
        versions = Counter(version for _, version, _ in recent)
        took = sorted(milliseconds for _, _, milliseconds in recent)
        lines: list[RenderableType] = [Text(self.doing, style="bold")]
        for upstream, version in VERSIONS.items():
            share = 100 * versions[version] / len(recent) if recent else 0.0
            weight = self.weights.get(upstream)
            lines.append(
                Text.assemble(
                    (f"{upstream:>6} {version}  ", styled(upstream)),
                    bar(share, styled(upstream), BAR + 10),
                    f" {share:5.1f} % of requests",
                    f", weight {weight:g} %" if weight is not None else "",
                )
            )
        if took:
            p50, p99 = took[len(took) // 2], took[int(len(took) * 0.99)]
            lines.append(
                Text(
                    f"{len(recent)} requests/s   p50 {p50:.1f} ms   p99 {p99:.1f} ms   "
                    f"{self.load.ledger.sent} sent   {len(self.load.ledger.lost)} lost"
                )
            )
        return Group(*lines, *(Text(f"✓ {line}", style="green") for line in self.done))

    def say(self) -> None:
        """The same as a plain line, once a second."""
        now = time.monotonic()
        if now - self._said_at < 1:
            return
        self._said_at = now
        recent = list(self.load.ledger.recent)
        versions = Counter(version for _, version, _ in recent)
        shares = "  ".join(
            f"{upstream} {100 * versions[version] / len(recent) if recent else 0:.0f} %"
            for upstream, version in VERSIONS.items()
        )
        ledger = self.load.ledger
        print(
            f"{self.doing:<44} {shares}  {len(recent)} requests/s  "
            f"{ledger.sent} sent  {len(ledger.lost)} lost",
            flush=True,
        )


class Stage:
    """The processes of the demo, each ended by its own id whatever happens."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.upstreams: dict[str, asyncio.subprocess.Process] = {}
        self.ports: dict[str, int] = {}
        self.proxy: asyncio.subprocess.Process | None = None
        self.log = directory / "turnout.log"
        self.config = directory / "turnout.yaml"

    async def start(self, pause_s: float) -> int:
        """Start upstreams and proxy; returns the proxy's port once it serves."""
        for upstream, version in VERSIONS.items():
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", "-m", "turnout.control.demo", version,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
                start_new_session=True,
            )  # fmt: skip
            self.upstreams[upstream] = process
            assert process.stdout is not None
            self.ports[upstream] = int(await process.stdout.readline())
        port = _free_port()
        self.config.write_text(
            CONFIGURATION.format(
                directory=self.directory, port=port, pause_ms=int(pause_s * 1000), **self.ports
            )
        )
        with self.log.open("wb") as log:
            self.proxy = await asyncio.create_subprocess_exec(
                *_turnout("run", "-c", str(self.config)),
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        await self._ready()
        return port

    async def _ready(self) -> None:
        limit = time.monotonic() + READY_LIMIT_S
        while time.monotonic() < limit:
            assert self.proxy is not None
            if self.proxy.returncode is not None:
                break
            try:
                service = await asyncio.to_thread(self.service)
                if all(upstream["healthy"] for upstream in service["upstreams"].values()):
                    return
            except CommandError:
                pass  # not listening yet: asked again until the limit
            await asyncio.sleep(0.1)
        raise DemoFailed(f"the proxy did not become ready:\n{self.log.read_text()}")

    def client(self) -> Client:
        return Client(f"unix:{self.directory}/control.sock")

    def service(self) -> dict[str, Any]:
        return self.client().call("GET", "/v1/services/shop")

    async def command(self, *arguments: str) -> dict[str, Any]:
        """Run the real command; returns the JSON that it prints. Raises DemoFailed."""
        process = await asyncio.create_subprocess_exec(
            *_turnout(*arguments, "--json", "--control", f"unix:{self.directory}/control.sock"),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        said, complained = await process.communicate()
        if process.returncode != 0:
            what = " ".join(arguments)
            raise DemoFailed(f"turnout {what} exited {process.returncode}:\n{complained.decode()}")
        document: dict[str, Any] = json.loads(said)
        return document

    async def ledgers(self) -> Counter[str]:
        """How often each request's number reached an upstream."""
        received: Counter[str] = Counter()
        for port in self.ports.values():
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET /ledger HTTP/1.1\r\nHost: ledger\r\n\r\n")
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
            length = int(head.partition("Content-Length: ")[2].partition("\r\n")[0])
            received.update(json.loads(await reader.readexactly(length)))
            writer.close()
        return received

    async def stop(self) -> None:
        if self.proxy is not None:
            await _end(self.proxy)
        for process in self.upstreams.values():
            assert process.stdin is not None
            process.stdin.close()
            await _end(process)


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_LIMIT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()


def _turnout(*arguments: str) -> list[str]:
    return [sys.executable, "-P", "-m", "turnout", *arguments]


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def _act(stage: Stage, show: Show, seconds: float) -> list[dict[str, Any]]:
    """The three switches; returns their receipts."""
    pause_s = seconds / 15
    plan: Sequence[tuple[str, str, tuple[str, ...]]] = (
        ("atomic switch to green", "turnout switch green", ("switch", "green", "--reason", "v2")),
        (
            "stepped switch to blue: 5, 25, 50, 100 %",
            "turnout switch blue --strategy careful",
            ("switch", "blue", "--strategy", "careful", "--reason", "back to v1, carefully"),
        ),
        ("rollback: green again", "turnout rollback", ("rollback", "--reason", "v2 was better")),
    )
    receipts = []
    for what, spelled, arguments in plan:
        show.doing = "all is quiet"
        await asyncio.sleep(seconds / 10)
        show.doing = f"$ {spelled}"
        receipts.append(await stage.command(*arguments))
        show.done.append(what)
    show.doing = "all is quiet"
    await asyncio.sleep(pause_s)
    return receipts


async def _paint(stage: Stage, show: Show, live: Live | None) -> None:
    """Keep the picture fresh; a weight that cannot be asked for stays the last one."""
    while True:
        try:
            show.weights = (await asyncio.to_thread(stage.service))["weights"]
        except CommandError as error:
            show.doing = f"control: {error}"
        if live is not None:
            live.update(show.view(), refresh=True)
        else:
            show.say()
        await asyncio.sleep(0.12)


async def _run(seconds: float) -> int:
    base = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="turnout-demo-", dir=base) as name:
        stage = Stage(Path(name))
        try:
            out.print("Starting two upstreams (blue v1, green v2) and the proxy with 2 workers …")
            port = await stage.start(seconds / 15)
            load = Load(port)
            show = Show(load)
            loading = asyncio.create_task(load.run())
            live = Live(show.view(), console=out, auto_refresh=False) if out.is_terminal else None
            with live or nullcontext():
                painting = asyncio.create_task(_paint(stage, show, live))
                try:
                    receipts = await _act(stage, show, seconds)
                finally:
                    load.stopped = True
                    painting.cancel()
                    await asyncio.gather(painting, loading, return_exceptions=True)
                    if live is not None:
                        live.update(show.view(), refresh=True)
            return await _conclude(stage, load, receipts)
        finally:
            await stage.stop()


async def _conclude(stage: Stage, load: Load, receipts: list[dict[str, Any]]) -> int:
    """Compare the ledgers and say what came of it."""
    for receipt in receipts:
        out.print(Rule(style="bright_black"))
        out.print(receipt_view(receipt))
    out.print(Rule(style="bright_black"))
    ledger = load.ledger
    received = await stage.ledgers()
    answered = sum(ledger.answered.values())
    doubled = [number for number, times in received.items() if times > 1]
    metrics = await asyncio.to_thread(_accepted, stage)
    cut = sum(int(receipt["requests"]["cut"]) for receipt in receipts)
    out.print(f"client:    {ledger.sent} sent, {answered} answered ({_versions(ledger)})")
    out.print(f"upstreams: {len(received)} received, {len(doubled)} twice")
    out.print(f"proxy:     {metrics} accepted, {cut} cut in {len(receipts)} switchovers")
    lost = len(ledger.lost)
    agree = ledger.sent == answered + lost == len(received) + lost and metrics == ledger.sent
    good = not lost and not doubled and not cut and agree
    out.print(
        Text(
            f"{ledger.sent} requests, {lost} lost, {len(doubled)} doubled, {cut} cut"
            + ("" if agree else "; the ledgers do not agree"),
            style="bold green" if good else "bold red",
        )
    )
    for line in ledger.lost[:20]:
        err.print(f"lost {line}")
    return 0 if good else 1


def _versions(ledger: Ledger) -> str:
    return ", ".join(f"{count} by {version}" for version, count in sorted(ledger.answered.items()))


def _accepted(stage: Stage) -> int:
    """The proxy's own counter of accepted requests."""
    text = stage.client().text("/metrics")
    return round(
        sum(
            float(line.rpartition(" ")[2])
            for line in text.splitlines()
            if line.startswith("turnout_requests_accepted_total{")
        )
    )


def run_demo(seconds: float) -> int:
    """Run the demo; the exit code is 0 if nothing was lost, doubled or cut."""
    try:
        return asyncio.run(_run(seconds))
    except DemoFailed as error:
        err.print(f"turnout: {error}", style="red")
        return 1


if __name__ == "__main__":
    asyncio.run(serve_upstream(sys.argv[1]))
