"""The real product in a directory of its own, for tests over real sockets.

`Product` starts the supervisor, which starts the rest, on free ports; waits until they serve;
gives the control API, the scoreboard and the processes; and ends what it has started, also
what has lost its supervisor. `Load` keeps requests going through it and checks every answer.
Scripted servers are in `upstreams`, the byte-exact client in `rawhttp`.
"""

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests import under_test
from tests.programs import Programs
from tests.rawhttp import Answer, Client
from tests.upstreams import Upstream
from turnout.proxy.commands import CONTROL_LOCK_FILE, LISTENING_FILE
from turnout.proxy.scoreboard import (
    HEALTH_BYTES,
    HEALTH_FILE,
    R_HEARTBEAT_US,
    R_PID,
    R_WORKER,
    ROUTING_BYTES,
    ROUTING_FILE,
    SCOREBOARD_FILE,
    Scoreboard,
    SharedMemoryError,
    SharedWords,
    WorkerState,
    read_file_header,
)
from turnout.proxy.scoreboards import Scoreboards
from turnout.proxy.upgrading import read_state

ROOT: Final = Path(__file__).parent.parent
START_LIMIT_S: Final = 20.0
STOP_LIMIT_S: Final = 15.0
SERVICE: Final = "shop"
LOG_TAIL: Final = 20_000

started: "list[Product]" = []
"""Of the test that runs now: `conftest` shows what they wrote when it fails."""


def settings(
    blue: Sequence[str], green: Sequence[str], *, workers: int = 2, **service: Any
) -> dict[str, Any]:
    """A configuration as data; `service` are further keys of the only service.

    Probes are quick, and sizes that only cost memory are small.
    """
    return {
        "workers": workers,
        "listeners": [{"bind": "127.0.0.1:0"}],
        "log": {"access": "off"},
        "timeouts": {"shutdown": "2s"},
        "limits": {"services": 8, "in_flight_named": 1024},
        "services": {
            SERVICE: {
                "upstreams": {"blue": {"servers": list(blue)}, "green": {"servers": list(green)}},
                "health": {
                    "path": "/healthz", "interval": "200ms", "timeout": "1s", "rise": 1, "fall": 2,
                    "doubt_interval": "50ms",
                },
                "drain": {"timeout": "10s", "tunnels": "10s"},
                **service,
            }
        },
    }  # fmt: skip


async def until(
    condition: Callable[[], Any], what: str, limit_s: float = 10.0, step_s: float = 0.01
) -> Any:
    """Wait until `condition()` is true and return it. AssertionError names what did not come."""
    deadline_s = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < deadline_s, f"waited {limit_s} s for: {what}"
        await asyncio.sleep(step_s)
    return found


class Product:
    """One running Turnout, or one that can be started (again) on the same state."""

    def __init__(
        self,
        configuration: Mapping[str, Any],
        *,
        faults: Mapping[str, str] | None = None,
        environment: Mapping[str, str] | None = None,
        descriptors: int = 0,
        program: "Programs | None" = None,
    ) -> None:
        """`faults` maps a module that is started as a process, such as
        `turnout.proxy.worker`, to Python source that is executed in it before it: so a promise
        can be broken on purpose without a switch for it in the product. Compiled modules cannot be changed
        so: with one of the data plane's the test is skipped for them. `descriptors` is how many
        each of its processes may have open (RLIMIT_NOFILE); 0: as many as this one. `program` are
        versions of the program that can be installed one over the other while it runs."""
        if under_test.is_compiled() and "turnout.proxy" in "".join((faults or {}).values()):
            pytest.skip("a fault is put into sources, and what is tested is compiled")
        shm = Path("/dev/shm")
        # A Unix socket's path has 107 bytes, and shared memory belongs on a tmpfs.
        directory = shm if os.access(shm, os.W_OK) else None
        self.base = Path(tempfile.mkdtemp(prefix="turnout-test-", dir=directory))
        self.runtime_dir = self.base / "run"
        self.config_file = self.base / "turnout.yaml"
        self.log_file = self.base / "stderr"
        self.access_log = self.base / "stdout"
        self.control_address = f"unix:{self.base}/control.sock"
        self.configuration: dict[str, Any] = {
            "runtime_dir": str(self.runtime_dir),
            "control": {"bind": self.control_address},
            "state": {"path": str(self.base / "turnout.db")},
            **configuration,
        }
        before = [self._write_faults(faults)] if faults else []
        before += [program.path] if program is not None else []
        path = under_test.python_path(*before)
        self._environment = {**os.environ, "PYTHONPATH": path, **(environment or {})}
        limit = f'ulimit -n {descriptors}; exec "$@"'
        self._wrapper = ("/bin/sh", "-c", limit, "sh") if descriptors else ()
        self._process: subprocess.Popen[bytes] | None = None
        self._boards: Scoreboards | None = None
        self.api = Api(self.control_address)
        self.errors_expected = False
        """Whether a worker may count mistakes of its own in this test."""
        started.append(self)

    def _write_faults(self, faults: Mapping[str, str]) -> Path:
        directory = self.base / "faults"
        directory.mkdir()
        (directory / "sitecustomize.py").write_text(
            "import sys\n"
            f"faults = {dict(faults)!r}\n"
            "words = sys.orig_argv\n"
            "name = words[words.index('-m') + 1] if '-m' in words else ''\n"
            "if name in faults:\n"
            "    exec(compile(faults[name], 'fault', 'exec'), {'__name__': 'fault'})\n"
        )
        return directory

    # ------------------------------------------------------------ life

    def write_config(self, configuration: Mapping[str, Any] | None = None) -> None:
        """Write the configuration file (JSON is YAML), changed as given."""
        self.configuration.update(configuration or {})
        self.config_file.write_text(json.dumps(self.configuration, indent=1))

    async def start(self, *, control: bool = True) -> Self:
        """Start, and wait until every worker serves and, with `control`, the API is ready."""
        self.write_config()
        if self._boards is not None:
            self._boards.close()
            self._boards = None
        self._spawn()
        await self.until(self._all_serving, "every worker to serve", START_LIMIT_S)
        if control:
            await self.control_ready()
        return self

    def _spawn(self) -> None:
        command = [*self._wrapper, under_test.PYTHON, "-P", "-m", "turnout.supervisor"]
        with open(self.log_file, "ab") as errors, open(self.access_log, "ab") as output:
            self._process = subprocess.Popen(
                [*command, "--config", str(self.config_file)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env=self._environment,
                cwd=self.base,
                start_new_session=True,
            )

    def _all_serving(self) -> bool:
        process = self._process
        assert process is not None
        status = process.poll()
        assert status is None, f"turnout ended with {status} at the start:\n{self.log()}"
        if not (self.runtime_dir / LISTENING_FILE).exists():
            return False
        listening = json.loads((self.runtime_dir / LISTENING_FILE).read_bytes())
        return listening["pid"] == process.pid and len(self.workers()) == self.workers_wanted

    @property
    def workers_wanted(self) -> int:
        return int(self.configuration["workers"])

    async def control_ready(self, limit_s: float = START_LIMIT_S) -> None:
        """Wait until the control API says that it is ready."""
        deadline_s = time.monotonic() + limit_s
        last: object = "not asked"
        while time.monotonic() < deadline_s:
            try:
                answer = await self.api.http.get("/readyz")
                if answer.status_code == 200:
                    return
                last = answer.text
            except httpx.TransportError as error:
                last = error
            await asyncio.sleep(0.02)
        raise AssertionError(f"control is not ready after {limit_s} s: {last!r}")

    async def control_replaced(self, before: int) -> None:
        """Wait until another control process than `before` is ready."""
        await self.until(
            lambda: self.control_pid not in (0, before), "another control process", START_LIMIT_S
        )
        await self.control_ready()

    async def stop(self, limit_s: float = STOP_LIMIT_S) -> int:
        """SIGTERM, and wait for the end; its exit status."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        status = await self.wait(limit_s)
        await self.until(lambda: not self.processes(), "its processes to end", 5.0)
        return status

    async def wait(self, limit_s: float = STOP_LIMIT_S) -> int:
        """Wait for the supervisor's end; its exit status."""
        process = self._process
        assert process is not None
        await self.until(lambda: process.poll() is not None, "turnout to end", limit_s)
        return int(process.returncode)

    def kill_everything(self) -> None:
        """kill -9 of every process of this Turnout, as nearly at once as can be."""
        while found := self.processes():  # the supervisor may just have started one more
            for pid in sorted(found):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.002)
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def close(self) -> None:
        """End everything. Fails if a process of it has made a mistake of its own."""
        try:
            await self.api.close()
            self.kill_everything()
            if self._boards is not None:
                self._boards.close()
            if not self.errors_expected:
                log = self.log()
                for sign in ("unexpected_error", "Traceback (most recent call last)"):
                    assert sign not in log, f"Turnout made a mistake:\n{log[-LOG_TAIL:]}"
        finally:
            self.last_log = self.log()
            shutil.rmtree(self.base, ignore_errors=True)

    async def __aenter__(self) -> Self:
        try:
            return await self.start()
        except BaseException:
            await self.close()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    # ------------------------------------------------------------ what it is

    last_log: str = ""

    def log(self) -> str:
        """What its processes wrote to stderr."""
        try:
            return self.log_file.read_text(errors="replace")
        except FileNotFoundError:
            return self.last_log

    async def until(self, condition: Callable[[], Any], what: str, limit_s: float = 10.0) -> Any:
        return await until(condition, what, limit_s)

    def addresses(self) -> dict[str, str]:
        """Bind as configured -> where it listens."""
        listening = json.loads((self.runtime_dir / LISTENING_FILE).read_bytes())
        found: dict[str, str] = listening["listeners"]
        return found

    def listening_pid(self) -> int:
        """Of the supervisor that wrote down where it listens; 0: none did."""
        try:
            return int(json.loads((self.runtime_dir / LISTENING_FILE).read_bytes())["pid"])
        except FileNotFoundError:
            return 0

    @property
    def address(self) -> str:
        """Where the first listener listens."""
        return self.addresses()[str(self.configuration["listeners"][0]["bind"])]

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    @property
    def supervisor_pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def control_pid(self) -> int:
        """Of the live control process; 0: there is none now."""
        try:
            pid = int((self.runtime_dir / CONTROL_LOCK_FILE).read_text() or 0)
        except (FileNotFoundError, ValueError):
            return 0
        return pid if pid in self.processes() else 0

    @property
    def scoreboard(self) -> Scoreboard:
        """The newest, of this program's layout."""
        return self.boards.newest

    @property
    def boards(self) -> Scoreboards:
        """All that there are now: an upgrade may have made another one."""
        known = self._boards
        if known is None or not self._are_newest(known):
            self._boards = Scoreboards(self.runtime_dir)
        assert self._boards is not None
        return self._boards

    def _are_newest(self, known: Scoreboards) -> bool:
        try:
            return read_file_header(self.runtime_dir / SCOREBOARD_FILE).first == known.numbers[0]
        except SharedMemoryError:
            return True

    def routing(self) -> SharedWords:
        """The routing words, mapped anew; close them."""
        return SharedWords(self.runtime_dir / ROUTING_FILE, ROUTING_BYTES, create=False)

    def health(self) -> SharedWords:
        """The health words, mapped anew; close them."""
        return SharedWords(self.runtime_dir / HEALTH_FILE, HEALTH_BYTES, create=False)

    def workers(self) -> dict[int, int]:
        """Number -> process id of the workers that serve and are alive; of whatever program."""
        try:
            boards = self.boards
        except SharedMemoryError:
            return {}
        found = {}
        now_us = time.monotonic_ns() // 1000
        for board in reversed(boards.boards):
            for region in board.numbers:
                alive = now_us - board.field(region, R_HEARTBEAT_US) < 1_000_000
                if board.state(region) is WorkerState.SERVING and alive:
                    pid = board.field(region, R_PID)
                    if Path(f"/proc/{pid}").exists():
                        found[board.field(region, R_WORKER)] = pid
        return found

    def worker_processes(self) -> list[int]:
        """Process ids of all workers that are alive, those that leave included."""
        return [pid for pid, name in self.processes().items() if name == "turnout.proxy.worker"]

    def workers_by_process(self) -> dict[int, int]:
        """Process id -> number of the workers that serve."""
        return {pid: number for number, pid in self.workers().items()}

    def leaving(self) -> set[int]:
        """Process ids of workers that are alive and do not serve (any more)."""
        return set(self.worker_processes()) - set(self.workers().values())

    def upgrade_step(self) -> str:
        """Of the last upgrade; empty: there was none."""
        found = read_state(self.runtime_dir)
        return "" if found is None else found.step

    @property
    def environment(self) -> dict[str, str]:
        """That its processes are started in."""
        return dict(self._environment)

    def region_of(self, pid: int) -> int:
        """The scoreboard region of a worker."""
        words = self.scoreboard.words
        for region in self.scoreboard.numbers:
            if words[self.scoreboard.region(region) + R_PID] == pid:
                return region
        raise AssertionError(f"no region of process {pid}")

    def processes(self) -> dict[int, str]:
        """Process id -> module of every live process of this Turnout, orphans included."""
        mark = os.fsencode(self.base)
        found = {}
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"-m" in words and any(word.startswith(mark) for word in words):
                found[int(entry.name)] = words[words.index(b"-m") + 1].decode()
        return found


@dataclass(slots=True)
class Bench:
    """A product between two scripted upstreams, `blue` (which has all) and `green`."""

    product: Product
    blue: Upstream
    green: Upstream

    async def client(self, **options: Any) -> Client:
        return await Client.open(self.product.address, **options)

    async def get(self, target: str = "/", **fields: str) -> Answer:
        """GET over a connection of its own."""
        async with await self.client() as client:
            return await client.get(target, **fields)


@contextlib.asynccontextmanager
async def bench(
    *,
    control: bool = True,
    faults: Mapping[str, str] | None = None,
    workers: int = 2,
    top: Mapping[str, Any] | None = None,
    descriptors: int = 0,
    **service: Any,
) -> AsyncIterator[Bench]:
    """Both upstreams and the product, until left. `top` are further keys of the configuration,
    `service` of its service; with `control` its API is ready and both upstreams healthy."""
    async with Upstream("blue") as blue, Upstream("green") as green:
        configuration = settings([blue.address], [green.address], workers=workers, **service)
        for key, value in (top or {}).items():
            known = configuration.get(key)
            configuration[key] = {**known, **value} if isinstance(known, dict) else value
        product = Product(configuration, faults=faults, descriptors=descriptors)
        try:
            await product.start(control=control)
            if control:
                await product.api.healthy()
            yield Bench(product, blue, green)
        finally:
            await product.close()


class ApiError(AssertionError):
    """An answer of the control API that the caller did not expect."""

    def __init__(self, answer: httpx.Response) -> None:
        super().__init__(
            f"{answer.request.method} {answer.request.url.path}: {answer.status_code} {answer.text}"
        )
        self.status = answer.status_code
        self.problem: dict[str, Any] = {}
        with contextlib.suppress(ValueError):
            self.problem = answer.json()


class Api:
    """The control API of one product, as a deploy script would use it."""

    def __init__(self, address: str, *, token: str = "") -> None:
        """`address` is `host:port` or `unix:/path`."""
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        uds = address[5:] if address.startswith("unix:") else None
        self.http = httpx.AsyncClient(
            base_url="http://control" if uds else f"http://{address}",
            transport=httpx.AsyncHTTPTransport(uds=uds),
            timeout=60.0,
            headers=headers,
        )

    async def close(self) -> None:
        await self.http.aclose()

    async def call(self, method: str, path: str, body: Any = None, **more: Any) -> Any:
        """Raises ApiError for anything but 2xx."""
        answer = await self.http.request(method, path, json=body, **more)
        if not answer.is_success:
            raise ApiError(answer)
        return answer.json() if answer.content else None

    async def service(self, name: str = SERVICE) -> dict[str, Any]:
        found: dict[str, Any] = await self.call("GET", f"/v1/services/{name}")
        return found

    async def switch(self, to: str, *, wait: bool = True, **body: Any) -> dict[str, Any]:
        """Start a switchover; with `wait`, the answer is held until its end."""
        suffix = "?wait=true" if wait else ""
        found: dict[str, Any] = await self.call(
            "POST", f"/v1/services/{SERVICE}/switchovers{suffix}", {"to": to, **body}
        )
        return found

    async def weights(self, blue: float, **body: Any) -> dict[str, Any]:
        """Set the weights by hand: `blue` percent, the rest to green."""
        weights = {"blue": blue, "green": round(100 - blue, 2)}
        found: dict[str, Any] = await self.call(
            "PUT", f"/v1/services/{SERVICE}/weights", {"weights": weights, **body}
        )
        return found

    async def rollback(self, *, wait: bool = True, **body: Any) -> dict[str, Any]:
        suffix = "?wait=true" if wait else ""
        found: dict[str, Any] = await self.call(
            "POST", f"/v1/services/{SERVICE}/rollback{suffix}", body
        )
        return found

    async def act(self, verb: str, id: str = "", **body: Any) -> dict[str, Any]:
        """pause, resume, approve or abort a switchover; hold or release the service."""
        where = f"/v1/switchovers/{id}" if id else f"/v1/services/{SERVICE}"
        found: dict[str, Any] = await self.call("POST", f"{where}/{verb}", body)
        return found

    async def switchover(self, id: str) -> dict[str, Any]:
        found: dict[str, Any] = await self.call("GET", f"/v1/switchovers/{id}")
        return found

    async def ended(self, id: str, limit_s: float = 20.0) -> dict[str, Any]:
        """Wait for a switchover's end."""
        deadline_s = time.monotonic() + limit_s
        while True:
            found = await self.switchover(id)
            if found["state"] in ("completed", "rolled_back", "aborted", "failed"):
                return found
            assert time.monotonic() < deadline_s, f"after {limit_s} s: {found}"
            await asyncio.sleep(0.02)

    async def settled(self, limit_s: float = 20.0) -> dict[str, Any]:
        """Wait until no switchover of the service is under way."""
        deadline_s = time.monotonic() + limit_s
        while (found := await self.service())["switchover"] is not None:
            assert time.monotonic() < deadline_s, f"after {limit_s} s: {found}"
            await asyncio.sleep(0.01)
        return found

    async def state(self, id: str, wanted: str, limit_s: float = 10.0) -> dict[str, Any]:
        """Wait until a switchover is in this state."""
        deadline_s = time.monotonic() + limit_s
        while (found := await self.switchover(id))["state"] != wanted:
            assert time.monotonic() < deadline_s, f"not {wanted} after {limit_s} s: {found}"
            await asyncio.sleep(0.01)
        return found

    async def metrics(self) -> "Metrics":
        return Metrics((await self.http.get("/metrics")).text)

    async def healthy(self, *upstreams: str, limit_s: float = 10.0) -> None:
        """Wait until these upstreams (both when none is named) are held healthy."""
        deadline_s = time.monotonic() + limit_s
        while True:
            found = (await self.service())["upstreams"]
            if all(found[name]["healthy"] is True for name in upstreams or ("blue", "green")):
                return
            assert time.monotonic() < deadline_s, f"after {limit_s} s: {found}"
            await asyncio.sleep(0.02)


class Metrics:
    """/metrics, read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.samples = [
            sample for family in text_string_to_metric_families(text) for sample in family.samples
        ]

    def sum(self, name: str, **labels: str) -> float:
        """Sum of the samples of this name that have these labels."""
        return sum(
            sample.value
            for sample in self.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


@contextlib.asynccontextmanager
async def stopped(pid: int) -> AsyncIterator[None]:
    """A process that hangs (SIGSTOP) meanwhile."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)
