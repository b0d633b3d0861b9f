"""Parts of the benchmark that decide by value, or are small enough to be tried for real."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks import interpreter, peer_configs
from benchmarks.interpreter import build_of
from benchmarks.machine import Pinning, default_pinning
from benchmarks.measure import cpu_us, memory
from benchmarks.peer_configs import Site
from benchmarks.processes import Ports, descendants, is_there, running_module, start, stop
from benchmarks.websocket import client_message, messages, server_message, unmasked
from benchmarks.workloads import SERVICES, Variant
from tests.test_architecture import IMPURE, imports, is_pure
from turnout.config import loader

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.parametrize(
    ("configure", "prefix", "packaged", "optimised"),
    [
        ("'--enable-optimizations' '--with-lto'", "/usr/local", False, True),
        ("'--enable-shared' '--prefix=/usr'", "/usr", True, True),
        ("'--enable-shared' '--prefix=/usr'", "/usr", False, False),
        ("'--prefix=/root/.pyenv/versions/3.11.7'", "/root/.pyenv/versions/3.11.7", True, False),
    ],
)
def test_how_an_interpreter_was_built_is_told_by_what_it_says(
    configure: str, prefix: str, packaged: bool, optimised: bool
) -> None:
    assert build_of(configure, prefix, packaged).optimised is optimised


def test_make_asks_an_interpreter_by_an_exit_status() -> None:
    done = subprocess.run([sys.executable, "-I", interpreter.__file__], check=False, timeout=20)
    assert done.returncode == interpreter.status()
    assert done.returncode in (interpreter.OPTIMISED, interpreter.PLAIN, interpreter.NO_VENV)


@pytest.mark.parametrize(
    ("cores", "separate", "says"),
    [
        ({0}, 1, "proxy on core 0, load and origin on core 0"),
        ({0, 1}, 2, "proxy on core 0, load and origin on core 1"),
        ({0, 1, 2}, 3, "proxy on core 0, load on 1, origin on 2"),
        ({0, 1, 2, 3}, 4, "proxy on core 0, load on 1, origin on 2"),
        ({2, 5}, 2, "proxy on core 2, load and origin on core 5"),
    ],
)
def test_cores_are_given_to_the_proxy_first_then_load_then_origin(
    cores: set[int], separate: int, says: str
) -> None:
    pinning = default_pinning(frozenset(cores))
    assert (pinning.separate, pinning.says()) == (separate, says)


def test_two_workers_have_two_cores_where_there_are_four() -> None:
    assert default_pinning(frozenset(range(4))).for_workers == {0, 3}
    assert default_pinning(frozenset(range(2))).for_workers == {0, 1}


def test_cores_of_the_proxy_that_others_use_are_not_its_own() -> None:
    assert Pinning(frozenset({0}), frozenset({0, 1}), frozenset({2})).separate == 1


# ---------------------------------------------------------------- WebSocket


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 4096, 65_535])
def test_a_message_comes_out_of_its_frame_as_it_went_in(size: int) -> None:
    payload = os.urandom(size)
    assert messages(client_message(payload, b"\x01\x02\x03\xff")) == ([payload], b"")
    assert messages(server_message(payload)) == ([payload], b"")


def test_the_examples_of_the_standard_are_read() -> None:
    # RFC 6455, section 5.7, but for the opcode: text there, binary here.
    masked = bytes.fromhex("82 85 37 fa 21 3d 7f 9f 4d 51 58")
    assert messages(masked) == ([b"Hello"], b"")
    assert client_message(b"Hello", bytes.fromhex("37 fa 21 3d")) == masked
    assert server_message(b"Hello") == bytes.fromhex("82 05 48 65 6c 6c 6f")


def test_a_frame_that_is_not_whole_is_kept() -> None:
    frames = client_message(b"one", b"abcd") + client_message(b"two", b"efgh")
    for cut in range(len(frames)):
        first, rest = messages(frames[:cut])
        then, rest = messages(rest + frames[cut:])
        assert (first + then, rest) == ([b"one", b"two"], b"")


def test_masking_is_its_own_inverse() -> None:
    assert unmasked(unmasked(b"payload", b"mask"), b"mask") == b"payload"


# ---------------------------------------------------------------- processes and what they cost


def test_a_process_runs_on_its_cores_and_is_ended_with_what_it_started(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    script = (
        "import subprocess, sys, time\n"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "print('up', flush=True); time.sleep(60)\n"
    )
    before = os.sched_getaffinity(0)
    process = start(
        [sys.executable, "-c", script],
        cores=frozenset({core}), log=tmp_path / "log", stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"up\n"
        family = descendants(process.pid)
        assert len(family) == 2
        assert all(os.sched_getaffinity(pid) == {core} for pid in family)
        assert os.sched_getaffinity(0) == before
        assert memory(family).rss_mib > memory(family[:1]).rss_mib > 1.0
    finally:
        stop(process)
    assert not any(map(is_there, family))


def test_cpu_time_is_that_of_the_process_in_microseconds() -> None:
    before_us, began_s = cpu_us([os.getpid()]), time.process_time()
    while time.process_time() - began_s < 0.1:
        pass
    assert 90_000 < cpu_us([os.getpid()]) - before_us < 400_000


def test_a_module_that_runs_is_known_by_its_name() -> None:
    assert running_module([os.getpid()], b"no.such.module") == []


def test_a_port_is_given_once() -> None:
    ports = Ports(19_460)
    assert len({ports.take() for _ in range(5)}) == 5


# ---------------------------------------------------------------- configurations


def site(tmp_path: Path, variant: Variant = Variant.PLAIN) -> Site:
    return Site(tmp_path, tmp_path, 19_470, 19_471, 19_472, variant, ROOT)


@pytest.mark.parametrize("variant", Variant)
def test_turnout_takes_its_configuration(tmp_path: Path, variant: Variant) -> None:
    path = tmp_path / "turnout.yaml"
    path.write_text(peer_configs.turnout(site(tmp_path, variant)))
    found = loader.load(path)
    assert found.workers == (2 if variant is Variant.TWO_WORKERS else 1)
    assert len(found.services) == (SERVICES if variant is Variant.SERVICES else 1)


def test_only_haproxys_variant_splices(tmp_path: Path) -> None:
    assert "splice-response" not in peer_configs.haproxy(site(tmp_path))
    assert "option splice-response" in peer_configs.haproxy(site(tmp_path, Variant.SPLICE))


@pytest.mark.parametrize(
    "text", [peer_configs.envoy, peer_configs.traefik, peer_configs.traefik_routes,
             peer_configs.caddy],
)  # fmt: skip
def test_configurations_that_are_json_are(tmp_path: Path, text: object) -> None:
    assert callable(text)
    json.loads(text(site(tmp_path)))


def test_what_says_it_is_pure_is() -> None:
    pure = [
        path
        for path in (ROOT / "benchmarks").glob("*.py")
        if is_pure(f"benchmarks/{path.name}", ROOT)
    ]
    assert {"ratios.py", "report.py", "workloads.py"} <= {path.name for path in pure}
    for path in pure:
        assert not {name.split(".")[0] for name in imports(path, ROOT)} & IMPURE, path
