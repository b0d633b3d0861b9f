"""A worker that does not turn its loop is replaced; nobody else is."""

import asyncio
import json
import os
import signal
import time

import pytest

from loadtests.clients import Lateness
from tests.harness import Bench, bench, stopped, until
from tests.rawhttp import Malformed, get
from turnout.proxy.commands import DIED_PREFIX

LIMIT_S = 1.0
TOP = {"timeouts": {"watchdog": "1s"}}
ANSWERED_S = 1.0
"""So soon every new connection is answered while a sibling is there."""

HANGS_WHEN_TOLD = """
import os, sys
from turnout.proxy import worker_core

words = sys.orig_argv
directory = os.path.dirname(words[words.index("--runtime-dir") + 1])
look = worker_core.Worker._look

def hang(self):
    try:
        os.unlink(f"{directory}/hang-{os.getpid()}")
    except FileNotFoundError:
        return look(self)
    while True:
        pass

worker_core.Worker._look = hang
"""
"""Hangs once the product's directory has a file `hang-<process id>`."""


def holder_of(running: Bench) -> int:
    """The process of the worker that has something in flight."""
    board, product = running.product.scoreboard, running.product
    for pid in product.workers().values():
        if board.service_in_flight(product.region_of(pid), 1):
            return pid
    raise AssertionError("nothing is in flight")


def cut_names(running: Bench) -> list[str]:
    """What dead workers held, as the supervisor wrote it down; control must be stopped."""
    files = running.product.runtime_dir.glob(f"{DIED_PREFIX}*.json")
    return [entry["path"] for path in files for entry in json.loads(path.read_bytes())["cut"]]


async def slowest_answer_s(running: Bench, until_gone: int) -> float:
    """Ask over ever new connections until a process has ended; the longest that one took, without
    what this busy machine has to do with it."""
    slowest_s, limit_s = 0.0, time.monotonic() + 10.0
    async with Lateness().noted() as late:
        while until_gone in running.product.processes():
            assert time.monotonic() < limit_s, "it is still there"
            began_s = time.monotonic()
            (await get(running.product.address)).must_be(200, "blue")
            slowest_s = max(slowest_s, time.monotonic() - began_s)
    return slowest_s - late.allowed_s


async def test_a_worker_that_hangs_is_replaced_and_what_it_held_is_named() -> None:
    """In an endless loop; one that is stopped is among the faults under load."""
    faults = {"turnout.proxy.worker": HANGS_WHEN_TOLD}
    async with bench(top=TOP, faults=faults, control=False, health="off") as running:
        product = running.product
        control = await until(lambda: product.control_pid, "control")
        async with stopped(control):
            held = asyncio.create_task(get(product.address, "/held?hang=1"))
            await running.blue.received("/held")
            holder = holder_of(running)
            mark = product.base / f"hang-{holder}"
            mark.touch()
            # What it accepts before it finds the mark it holds, too.
            await until(lambda: not mark.exists(), "it to hang", step_s=0.002)
            assert await slowest_answer_s(running, holder) < ANSWERED_S
            with pytest.raises((Malformed, OSError)):
                await held
            assert await until(lambda: cut_names(running), "the names") == ["/held"]
        await until(lambda: len(product.workers()) == 2, "its successor")
        assert holder not in product.workers().values()
        assert f'pid={holder} reason="hung: its loop did not turn' in product.log()
        assert 'status="hung: its loop' in product.log()


async def test_of_one_worker_the_successor_answers() -> None:
    async with bench(top=TOP, workers=1, control=False, health="off") as running:
        (pid,) = running.product.workers().values()
        os.kill(pid, signal.SIGSTOP)
        began_s = time.monotonic()
        # Queued at the worker that hangs, answered by the one that follows it.
        (await get(running.product.address)).must_be(200, "blue")
        assert time.monotonic() - began_s > LIMIT_S / 2
        assert pid not in running.product.processes()


async def test_a_machine_that_slept_replaces_nobody() -> None:
    async with bench(top=TOP, control=False, health="off") as running:
        product = running.product
        before = product.workers()
        everybody = [product.supervisor_pid, *before.values()]
        for pid in everybody:
            os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(1.5 * LIMIT_S)  # the sleep is what is tested
        os.kill(product.supervisor_pid, signal.SIGCONT)
        await asyncio.sleep(0.1)  # the supervisor wakes up first, and looks
        for pid in before.values():
            os.kill(pid, signal.SIGCONT)
        (await get(product.address)).must_be(200, "blue")
        await asyncio.sleep(1.5 * LIMIT_S)  # so long it would take to replace one
        assert product.workers() == before
        assert "worker.hung" not in product.log()
