"""The commands in the docs, run as they stand there (with other ports), against the product."""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.harness import ROOT

LIMIT_S = 120.0
BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif(
    not all(map(shutil.which, ("bash", "curl"))), reason="bash and curl are not installed"
)


def blocks(page: str) -> list[str]:
    return BLOCK.findall((ROOT / "docs" / page).read_text())


def free_ports(count: int) -> list[str]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [str(each.getsockname()[1]) for each in sockets]


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory for one run, in memory: shared files lie there too."""
    parent = "/dev/shm" if os.path.isdir("/dev/shm") else None
    with tempfile.TemporaryDirectory(prefix="turnout-docs-", dir=parent) as directory:
        yield Path(directory)


def run(script: str, place: Path) -> str:
    """Run it with bash, and return all that it said; ends what it started in the background."""
    ended = "trap 'kill $(jobs -p) 2>/dev/null; wait' EXIT\n"
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RUNTIME_DIRECTORY": str(place / "run"),
        "COLUMNS": "120",
    }
    for name in ("TURNOUT_CONFIG", "TURNOUT_CONTROL", "TURNOUT_TOKEN"):
        environment.pop(name, None)
    process = subprocess.Popen(
        ["bash", "-uc", ended + script],
        cwd=place,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        said, _ = process.communicate(timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGTERM)
        said, _ = process.communicate(timeout=LIMIT_S)
        pytest.fail(f"not done in {LIMIT_S:.0f} s:\n{said}")
    return said


def elsewhere(script: str, place: Path) -> str:
    """The same commands with free ports, in another directory, and in less time."""
    for port, free in zip(("8080", "9180", "9001", "9002"), free_ports(4), strict=True):
        if port == "9180":  # in the docs it is the default, which the file does not name
            script = script.replace("log:\n", f"control: {{bind: 127.0.0.1:{free}}}\nlog:\n")
        script = script.replace(f":{port}", f":{free}").replace(f" {port} ", f" {free} ")
    script = script.replace("pause: 3s", "pause: 300ms")
    return script.replace("/tmp/shop", str(place / "shop"))


def test_the_quick_start_works_as_it_is_written(place: Path) -> None:
    install, *rest = blocks("quick-start.md")
    assert "make setup" in install
    said = run(elsewhere("".join(rest), place), place)
    assert "turnout.yaml is valid" in said
    assert "turnout: serving on 127.0.0.1:" in said
    assert said.count("exit code 0\n") == 1 and said.count("exit code 4\n") == 1, said
    once = re.search(
        r"^ +\d+ hello from blue\n +\d+ hello from green\n(?! +\d)", said, re.MULTILINE
    )
    assert once is not None, said
    assert "rollback" in said and "careful" in said
    assert "The upstream is not healthy" in said


def test_the_deploy_script_goes_to_the_free_side_and_stops_the_old_one(place: Path) -> None:
    prepare, configure = blocks("quick-start.md")[1:3]
    deploy = next(block for block in blocks("releasing.md") if block.startswith("#!/bin/sh"))
    script = place / "deploy.sh"
    script.write_text(
        deploy.replace("set -eu\n", 'set -eu\nstart_version() { echo "starts $1 on $2"; }\n'
                       'stop_side() { echo "stops $1"; }\n')
    )  # fmt: skip
    said = run(
        elsewhere(prepare + configure + f"sh {script} v2; echo exit $?\n", place)
        + f"sh {script} v3; echo exit $?\n"
        + f"kill $TURNOUT; wait $TURNOUT; sh {script} v4; echo exit $?\n",
        place,
    )
    assert said.count("starts v2 on green") == 1, said
    first, second, third = said.split("starts v2 on green")[1].split("exit ")[:3]
    assert "stops blue" in first
    assert second.startswith("0\nstarts v3 on blue") and "stops green" in second
    assert third.startswith("0\n") and "stops" not in third
    assert "v4" not in said and said.endswith("exit 3\n"), said


def test_the_alerts_name_metrics_that_exist() -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    source = (ROOT / "control" / "exposition.py").read_text()
    named = set(re.findall(r"\bturnout_[a-z_]+", page)) - {"turnout_weight"}
    assert named
    for name in named:
        assert f'"{name.removesuffix("_total")}"' in source, name
