"""From the command to the first answer, and what a worker weighs when it has just begun.

The bounds are generous: they catch what loads a validator or waits for control, not a busy
machine.
"""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import httpx

from tests.harness import ROOT, Product, settings, until
from tests.upstreams import Upstream

FIRST_ANSWER_MAX_S = 3.0
WORKER_MAX_KIB = 34 * 1024


async def test_a_start_serves_while_control_is_still_being_imported() -> None:
    slow = {"turnout.control.app": "import time; time.sleep(2.0)"}
    async with Upstream("blue") as blue:
        product = Product(settings([blue.address], [], workers=1, health="off"), faults=slow)
        try:
            begun_s = time.monotonic()
            await product.start(control=False)
            async with httpx.AsyncClient(base_url=product.url) as client:
                assert (await client.get("/")).status_code == 200
            assert time.monotonic() - begun_s < FIRST_ANSWER_MAX_S
            assert not product.control_pid
        finally:
            await product.close()


async def test_control_is_started_although_no_worker_comes_to_serve() -> None:
    never = {"turnout.proxy.worker": "import time; time.sleep(60)"}
    async with Upstream("blue") as blue:
        product = Product(settings([blue.address], [], workers=1, health="off"), faults=never)
        try:
            product.write_config()
            product._spawn()
            await until(lambda: product.control_pid, "control", 20.0)
        finally:
            await product.close()


async def test_a_worker_at_rest_is_small() -> None:
    async with Upstream("blue") as blue:
        product = Product(settings([blue.address], [], workers=1, health="off"))
        try:
            await product.start(control=False)
            pid = next(iter(product.workers().values()))
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            found = re.search(r"^Rss:\s+(\d+) kB", rollup, re.MULTILINE)
            assert found is not None
            assert int(found[1]) < WORKER_MAX_KIB
        finally:
            await product.close()


def test_a_plain_run_loads_no_command_line_library() -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-P", "-X", "importtime", "-m", "turnout", "run", "-c", "/missing.yaml"],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert "turnout.control.entry" in done.stderr
    assert not re.search(r"\| +(typer|pydantic|rich)\b", done.stderr)
