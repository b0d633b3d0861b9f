"""The compiled build: that it is what is tested, what asks for it, and how it says no."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests import under_test
from tests.harness import bench

ROOT = Path(__file__).resolve().parent.parent

of_the_compiled = pytest.mark.skipif(
    under_test.IS_CHECKOUT, reason="of the compiled build: make test-compiled"
)


def compiled_modules() -> list[str]:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())
    modules: list[str] = known["tool"]["turnout"]["compiled"]
    return modules


def setup(*words: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "setup.py", "--quiet", *words], env={**os.environ, **environment},
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


def test_every_module_that_is_to_be_compiled_is_there_and_named_once() -> None:
    modules = compiled_modules()
    assert modules == sorted(set(modules))
    missing = [each for each in modules if not (ROOT / f"{each.replace('.', '/')}.py").is_file()]
    assert missing == []


def test_nothing_that_is_started_by_name_or_is_the_contract_is_compiled() -> None:
    # A compiled module cannot be started with `-m`, and the generation is a digest of sources.
    apart = {"turnout.proxy.worker", "turnout.proxy.commands", "turnout.proxy.scoreboard"}
    assert apart.isdisjoint(compiled_modules())


def test_no_compiled_module_stands_in_the_checkout() -> None:
    rooms = (ROOT / room for room in ("config", "control", "proxy", "turnout"))
    assert [path for room in rooms for path in room.rglob("*.so")] == []


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        (["build_ext", "--inplace"], {"TURNOUT_COMPILE": "1"}, "make compiled"),
        (["develop"], {"TURNOUT_COMPILE": "1"}, "make compiled"),
        (["build"], {"TURNOUT_COMPILE": "yes"}, "TURNOUT_COMPILE=yes: 1 compiles"),
        (["build"], {"TURNOUT_COMPILE": "1", "CC": "no-such-cc"}, "apt install gcc python3-dev"),
    ],
)
def test_a_build_that_cannot_be_says_what_to_do(
    words: list[str], environment: dict[str, str], said: str
) -> None:
    done = setup(*words, **environment)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


@of_the_compiled
def test_every_module_of_the_list_is_compiled_and_not_of_this_checkout() -> None:
    assert under_test.is_compiled(), under_test.origin("turnout.proxy.fast_path")
    origins = [under_test.origin(module) for module in compiled_modules()]
    assert [
        each for each in origins if each.suffix != ".so" or ROOT / "proxy" in each.parents
    ] == []


@of_the_compiled
async def test_a_worker_runs_what_is_compiled() -> None:
    async with bench(workers=1, control=False, health="off") as at:
        assert (await at.get("/")).status == 200
        [pid] = at.product.workers().values()
        mapped = Path(f"/proc/{pid}/maps").read_text()
    assert "/turnout__mypyc.cpython" in mapped
    assert "/turnout/proxy/worker_core.cpython" in mapped
