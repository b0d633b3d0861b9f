"""The process entry of one worker.

Started by the supervisor with its number, its region of the scoreboard and a socket on which
its listening sockets arrive. It obeys the supervisor only (SIGTERM: finish what is under way,
then go), and serves on without it and without control.
"""

import argparse
import asyncio
import contextlib
import gc
import sys

import uvloop

from turnout.proxy.commands import EXIT_OTHER_GENERATION, program_generation
from turnout.proxy.scoreboard import R_STATE, WorkerState
from turnout.proxy.worker_core import Worker


async def serve(arguments: argparse.Namespace) -> int:
    worker = Worker(arguments, asyncio.get_running_loop())
    worker.loop.set_exception_handler(
        lambda loop, context: worker.unexpected(
            context.get("exception") or RuntimeError(context["message"])
        )
    )
    worker.start()
    # What was made until now lives as long as the worker: not to be walked at each collection.
    gc.collect()
    gc.freeze()
    await worker.finished.wait()
    await asyncio.sleep(0.05)  # what was written last leaves with the next turns of the loop
    worker.words[worker.region_base + R_STATE] = WorkerState.DRAINING
    return 0


def main() -> int:
    """Run one worker until it has been told to go and has finished."""
    parser = argparse.ArgumentParser(prog="turnout-worker", description=__doc__)
    parser.add_argument("--runtime-dir", required=True)
    parser.add_argument("--worker", type=int, required=True)
    parser.add_argument("--region", type=int, required=True)
    parser.add_argument("--link", type=int, required=True)
    parser.add_argument("--generation", required=True)
    arguments = parser.parse_args()
    found = program_generation()
    if found != arguments.generation:
        print(
            f"worker.other_generation started_for={arguments.generation} on_disk={found} "
            'next="turnout upgrade"',
            file=sys.stderr,
        )
        return EXIT_OTHER_GENERATION
    with (
        contextlib.suppress(KeyboardInterrupt),
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        return runner.run(serve(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
