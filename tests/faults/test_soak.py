"""The soak as it is run, for seconds instead of minutes: it passes what is well, and finds what is
broken on purpose. A part of `make faults`."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import pytest

from tests.harness import ROOT

RUN = (
    sys.executable, "-m", "loadtests.soak",
    "--minutes", "0.3", "--fault-every", "1", "--switch-every", "0.7", "--seed", "5", "--json",
)  # fmt: skip
LIMIT_S = 110.0

# What a dead worker held is counted, and nobody is told which it was.
NOT_NAMED = """
import sys
if "turnout.supervisor" in sys.orig_argv:
    from turnout import crew
    crew.Died = lambda number, region, pid, at, status, names, died=crew.Died: died(
        number, region, pid, at, status, []
    )
"""

pytestmark = pytest.mark.skipif(
    os.environ.get("TURNOUT_FAULTS") != "all", reason="half a minute each: make faults"
)


async def soak(**environment: str) -> tuple[int, dict[str, Any]]:
    """Run it; its exit status and what it says."""
    process = await asyncio.create_subprocess_exec(
        *RUN, cwd=ROOT, env={**os.environ, **environment}, stdout=PIPE, stderr=PIPE
    )
    async with asyncio.timeout(LIMIT_S):
        said, complained = await process.communicate()
    assert process.returncode in (0, 1), complained.decode()
    return process.returncode, json.loads(said)


async def test_what_is_well_passes() -> None:
    status, result = await soak()
    assert (status, result["findings"]) == (0, [])
    assert result["good"]
    assert len(result["broken"]) >= 3
    assert sum(result["changes"].values()) >= 5
    assert result["requests"]["all"]["sent"] > 1000
    assert {"supervisor", "control", "worker 0"} <= {one["role"] for one in result["processes"]}
    assert all(one["flat"] for one in result["processes"])


async def test_what_is_broken_is_found(tmp_path: Path) -> None:
    (tmp_path / "patch.py").write_text(NOT_NAMED)
    status, result = await soak(LOADTESTS_PATCH=str(tmp_path / "patch.py"))
    assert result["workers_killed"] >= 1, "nothing that it could have found"
    assert status == 1
    assert any("not named" in text for text in result["findings"]), result["findings"]
