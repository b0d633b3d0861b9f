"""The processes of a run: upstreams, the product as `turnout run -c` starts it, and locust.

Each is started in a session of its own, so that a terminal's Ctrl-C reaches the runner alone,
and is ended by its own id, whatever happens.
"""

import asyncio
import contextlib
import json
import os
import signal
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx

from loadtests.changes import Change, Json, unchanged
from loadtests.inside import Inside
from loadtests.ledgers import UPSTREAMS
from tests import under_test
from turnout.proxy.commands import CONTROL_LOCK_FILE

ROOT: Final = Path(__file__).resolve().parent.parent
SERVICE: Final = "shop"
START_LIMIT_S: Final = 60.0
STOP_LIMIT_S: Final = 40.0
LOG_TAIL: Final = 4000
MISTAKES: Final = ("Traceback (most recent call last)", "unexpected_error", "control.problem")
"""What the product says only when something is wrong in itself; the last one also when a name
does not resolve."""


# Control that dies again and again is started again after longer and longer pauses, up to five
# seconds: a hundred kills would take a quarter of an hour.
AT_ONCE: Final = """
from turnout import children
children.Backoff.LONGEST_S = children.Backoff.FIRST_S = 0.05
"""


class StageError(Exception):
    """A process that did not start, or did not do as it should; the text says which."""


class Stage:
    """The upstreams and the product between them and whoever comes."""

    def __init__(
        self,
        directory: Path,
        *,
        workers: int,
        servers: int,
        service: Mapping[str, Any] | None = None,
        top: Mapping[str, Any] | None = None,
        patches: Mapping[str, str] | None = None,
        named: bool = False,
        restarts_at_once: bool = False,
    ) -> None:
        """`service` and `top` are further keys of the configuration. `patches` are sources that
        are executed at the start of the product's processes, by module (`_PATCH`). With `named` the
        servers are told by name, and what the names mean stands in `hosts`. With `restarts_at_once`
        who dies again and again is not started ever more slowly."""
        self.directory = directory
        self.service = dict(service or {})
        self.top = dict(top or {})
        self.named = named
        self.spared: set[int] = set()
        """Numbers of the workers that no fault may cost their life."""
        self.hosts = directory / "hosts"
        self.workers = workers
        self.servers_each = servers
        self.url = ""
        self.client_ledger = directory / "clients.jsonl"
        self.locust_log = directory / "locust.log"
        self.product_log = directory / "turnout.log"
        self.config = directory / "turnout.yaml"
        self.api = httpx.AsyncClient(
            transport=httpx.AsyncHTTPTransport(uds=str(directory / "control.sock")),
            base_url="http://control",
            timeout=90.0,
        )
        self._addresses: dict[str, list[str]] = {name: [] for name in UPSTREAMS}
        self.modes: dict[str, str] = {}
        """Server -> how it was last told to behave."""
        self._ports: dict[str, int] = {}
        self._upstreams: dict[str, Process] = {}
        self._product: Process | None = None
        self._locust: Process | None = None
        self._stopped = False
        self.inside = Inside(directory / "run")
        self._environment = {**os.environ, "LOADTESTS_MARKS": str(directory)}
        paths = (str(ROOT), self._environment.get("PYTHONPATH", ""))
        self._environment["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)
        self._product_path = (
            self._environment["PYTHONPATH"] if under_test.IS_CHECKOUT else under_test.python_path()
        )
        if restarts_at_once:
            known = dict(patches or {})
            patches = {**known, "turnout.supervisor": known.get("turnout.supervisor", "") + AT_ONCE}
        if patches:
            self._write_patches(patches)
        self.faults: list[str] = []
        """What was wrong with a process."""

    def _write_patches(self, patches: Mapping[str, str]) -> None:
        directory = self.directory / "patches"
        directory.mkdir()
        (directory / "sitecustomize.py").write_text(_PATCH.format(patches=dict(patches)))
        self._product_path = os.pathsep.join(filter(None, (str(directory), self._product_path)))

    @property
    def upstream_ledgers(self) -> list[Path]:
        return [self.directory / f"{name}.jsonl" for name in self._upstreams]

    # ------------------------------------------------------------ start

    async def start(self) -> None:
        """Upstreams and product, until the product serves and holds both upstreams healthy."""
        names = [
            f"{name}-{number + 1}" for number in range(self.servers_each) for name in UPSTREAMS
        ]
        await asyncio.gather(*map(self._start_upstream, names))
        self.write_config()
        with self.product_log.open("wb") as log:
            self._product = await asyncio.create_subprocess_exec(
                under_test.PYTHON, "-P", "-m", "turnout", "run", "-c", str(self.config),
                cwd=self.directory, env={**self._environment, "PYTHONPATH": self._product_path},
                stdin=DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        await self._ready()
        listening = json.loads((self.directory / "run" / "listening.json").read_bytes())
        self.url = f"http://{listening['listeners']['127.0.0.1:0']}"

    async def _start_upstream(self, server: str) -> None:
        address = await self._spawn_upstream(server, 0)
        host, _, port = address.rpartition(":")
        name = f"{server}.test"
        if self.named:
            with self.hosts.open("a") as hosts:
                hosts.write(f"{host} {name}\n")
        self._ports[server] = int(port)
        self._addresses[server.partition("-")[0]].append(
            f"{name}:{port}" if self.named else address
        )

    async def _spawn_upstream(self, server: str, port: int) -> str:
        """Start its process; its address, once it listens."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "loadtests.upstream",
            "--upstream", server.partition("-")[0], "--name", server, "--port", str(port),
            "--ledger", str(self.directory / f"{server}.jsonl"),
            cwd=ROOT, stdin=PIPE, stdout=PIPE, start_new_session=True,
        )  # fmt: skip
        self._upstreams[server] = process
        self.modes[server] = ""
        assert process.stdout is not None
        address = (await process.stdout.readline()).decode().strip()
        if not address:
            raise StageError(f"upstream {server} did not start")
        return address

    # ------------------------------------------------------------ what is done to upstreams

    def servers(self, upstream: str) -> list[str]:
        """The names of an upstream's servers."""
        return sorted(name for name in self._upstreams if name.partition("-")[0] == upstream)

    async def turn(self, server: str, mode: str) -> None:
        """Have a server behave in another way (`upstream.Mode`); returns when it does."""
        process = self._upstreams[server]
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write(f"{mode}\n".encode())
        async with asyncio.timeout(START_LIMIT_S):
            answer = (await process.stdout.readline()).decode().strip()
        if answer != mode:
            raise StageError(f"upstream {server} was told {mode} and said {answer!r}")
        self.modes[server] = mode

    def signal_upstream(self, server: str, number: signal.Signals) -> None:
        self._upstreams[server].send_signal(number)

    async def kill_upstream(self, server: str) -> None:
        """kill -9, and wait for the end."""
        self.modes[server] = ""
        await _kill(self._upstreams[server])

    async def restart_upstream(self, server: str) -> None:
        """Start a killed one again, at its address and with its ledger."""
        await self._spawn_upstream(server, self._ports[server])

    def write_config(self, idle_timeout_s: int = 30, change: Change = unchanged) -> None:
        """The configuration; another `idle_timeout_s` is what a reload finds changed, or what
        `change` does to it."""
        configuration: Json = {
            "workers": self.workers,
            "runtime_dir": str(self.directory / "run"),
            "listeners": [{"bind": "127.0.0.1:0"}],
            "control": {"bind": f"unix:{self.directory}/control.sock"},
            "state": {"path": str(self.directory / "turnout.db")},
            "log": {"access": "off"},
            "limits": {"services": 8},
            "pool": {"idle_timeout": f"{idle_timeout_s}s"},
            "services": {
                SERVICE: {
                    "upstreams": {
                        name: {"servers": sorted(servers)} for name, servers in self._addresses.items()
                    },
                    # Patient: the machine is busy with the load, and the upstreams are well.
                    "health": {
                        "path": "/healthz", "interval": "500ms", "timeout": "10s", "rise": 1, "fall": 3,
                    },
                    "drain": {"timeout": "30s", "tunnels": "30s"},
                    "hold": {"requests": 1000, "timeout": "30s"},
                    "switchover": {
                        "strategies": {"stepped": {"steps": [5, 25, 60, 100], "pause": "250ms"}}
                    },
                    **self.service,
                }
            },
            **self.top,
        }  # fmt: skip
        change(configuration)
        self.config.write_text(json.dumps(configuration, indent=1))

    def kill_control(self) -> None:
        """kill -9. Raises StageError when there is none."""
        try:
            pid = int((self.directory / "run" / CONTROL_LOCK_FILE).read_text())
            os.kill(pid, signal.SIGKILL)
        except (OSError, ValueError) as error:
            raise StageError(f"control could not be killed: {error}") from error

    async def _ready(self) -> None:
        assert self._product is not None
        limit_s = time.monotonic() + START_LIMIT_S
        while time.monotonic() < limit_s:
            if self._product.returncode is not None:
                break
            with contextlib.suppress(httpx.TransportError):
                answer = await self.api.get(f"/v1/services/{SERVICE}")
                ready = await self.api.get("/readyz")
                if answer.is_success and ready.is_success:
                    upstreams: dict[str, Any] = answer.json()["upstreams"]
                    if all(upstream["healthy"] for upstream in upstreams.values()):
                        return
            await asyncio.sleep(0.05)
        raise StageError(f"turnout did not become ready:\n{tail(self.product_log)}")

    # ------------------------------------------------------------ the load

    async def start_load(self, users: int) -> None:
        """Start locust; returns when its first request has ended."""
        self.client_ledger.touch()
        environment = {**self._environment, "LOADTESTS_LEDGER": str(self.client_ledger)}
        with self.locust_log.open("wb") as log:
            self._locust = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests" / "locustfile.py"),
                "--headless", "--only-summary", "--users", str(users), "--spawn-rate", str(users),
                "--stop-timeout", "30", "--host", self.url,
                cwd=self.directory, env=environment,
                stdin=DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        limit_s = time.monotonic() + START_LIMIT_S
        while b'"Got"' not in self.client_ledger.read_bytes():
            if self._locust.returncode is not None or time.monotonic() > limit_s:
                raise StageError(f"locust did not start:\n{tail(self.locust_log)}")
            await asyncio.sleep(0.05)

    async def stop_load(self) -> None:
        """Let each user finish what it has under way, and wait for locust's end."""
        locust = self._locust
        if locust is None:
            return
        if locust.returncode is not None:
            self.faults.append(f"locust ended by itself:\n{tail(self.locust_log)}")
            return
        locust.terminate()
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                status = await locust.wait()
        except TimeoutError:
            self.faults.append(f"locust did not end:\n{tail(self.locust_log)}")
            return
        # 1 is locust's word for requests that failed: the ledgers name those.
        said = self.locust_log.read_text(errors="replace")
        if status not in (0, 1) or "Traceback" in said:
            self.faults.append(f"locust exited with {status}:\n{tail(self.locust_log)}")

    # ------------------------------------------------------------ end

    async def stop(self) -> None:
        """End all of them, the product as SIGTERM ends it. A second time is nothing."""
        if self._stopped:
            return
        self._stopped = True
        await self.api.aclose()
        self.inside.close()
        if self._locust is not None:
            await _kill(self._locust)
        if self._product is not None:
            await self._stop_product(self._product)
        for server, process in self._upstreams.items():
            assert process.stdin is not None
            process.stdin.close()
            if await _ended(process, 5.0) != 0:
                self.faults.append(f"upstream {server} exited with {process.returncode}")
            await _kill(process)

    async def _stop_product(self, product: Process) -> None:
        if product.returncode is not None:
            self.faults.append(f"turnout ended by itself with {product.returncode}")
        else:
            product.terminate()
            status = await _ended(product, STOP_LIMIT_S)
            if status != 0:
                self.faults.append(f"turnout ended with {status} at SIGTERM")
            await self._kill_product(product)
        text = self.product_log.read_text(errors="replace")
        for mistake in MISTAKES[: None if not self.named else -1]:
            if mistake in text:
                place = text.index(mistake)
                self.faults.append(f"turnout said: {text[max(0, place - 200) : place + 1500]}")

    async def _kill_product(self, product: Process) -> None:
        """Its children are in sessions of their own, and survive it if it is killed."""
        if product.returncode is not None:
            return
        await _kill(product)
        mark = os.fsencode(self.directory)
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if mark in (entry / "cmdline").read_bytes() and int(entry.name) != os.getpid():
                    os.kill(int(entry.name), signal.SIGKILL)


_PATCH: Final = """\
import os, sys
patches = {patches!r}
words = sys.orig_argv
name = words[words.index("-m") + 1] if "-m" in words else ""
if name in patches:
    exec(compile(patches[name], "patch", "exec"), {{"__name__": "patch"}})
if more := os.environ.get("LOADTESTS_PATCH"):
    exec(compile(open(more).read(), more, "exec"), {{"__name__": "patch"}})
"""
"""LOADTESTS_PATCH names a file with one more, for a test that breaks what the run is to find."""


@contextlib.asynccontextmanager
async def staged(*, workers: int, servers: int, **more: Any) -> AsyncIterator[Stage]:
    """A stage in a directory of its own, started; ended and removed when left. `more` is what
    `Stage` takes."""
    memory = Path("/dev/shm")
    # Shared memory belongs on a tmpfs, and a Unix socket's path has 107 bytes.
    base = memory if os.access(memory, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="turnout-load-", dir=base) as name:
        stage = Stage(Path(name), workers=workers, servers=servers, **more)
        try:
            await stage.start()
            yield stage
        finally:
            await stage.stop()


def tail(log: Path) -> str:
    """The end of what a process said."""
    return log.read_text(errors="replace")[-LOG_TAIL:]


async def _ended(process: Process, limit_s: float) -> int | None:
    """Its exit status; None: it has not ended in time."""
    try:
        async with asyncio.timeout(limit_s):
            return await process.wait()
    except TimeoutError:
        return None


async def _kill(process: Process) -> None:
    if process.returncode is None:
        process.kill()
        await process.wait()
