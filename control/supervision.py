"""Control's line to the supervisor, which does exactly three things for it.

Apply a plan, replace a worker, upgrade: each is answered by done, or the system's error.
"""

import asyncio
import json
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Final

from turnout.proxy.commands import (
    SUPERVISOR_SOCKET,
    Answer,
    ApplyPlan,
    FrameReader,
    Message,
    Plan,
    ProtocolError,
    ReplaceWorker,
    Upgrade,
    decode,
    encode,
    encode_plan,
    frame,
)

ANSWER_LIMIT_S: Final = 10.0
NO_SUPERVISOR: Final = (
    "the supervisor cannot be reached: start `turnout run` again, which takes over what serves"
)
RETRY_S: Final = 0.2
READ_BYTES: Final = 65536


class Supervision:
    """A connection to the supervisor that is kept, and made again when it is lost."""

    __slots__ = ("_path", "_requests", "_task", "_waiting", "_writer")

    def __init__(self, runtime_dir: Path) -> None:
        self._path = str(runtime_dir / SUPERVISOR_SOCKET)
        self._requests = count(1)
        self._waiting: dict[int, asyncio.Future[str]] = {}
        self._writer: asyncio.StreamWriter | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    @property
    def connected(self) -> bool:
        return self._writer is not None

    async def apply_plan(self, plan: Plan) -> str:
        """Use this plan's binds and workers; the error if nothing was changed, else nothing."""
        # As in its file, version and all: the supervisor reads both in the same way.
        document = json.loads(encode_plan(plan))
        return await self._ask(lambda request: ApplyPlan(request, document))

    async def replace(self, region: int, reason: str) -> str:
        """Kill the worker of a region and start another. Once it is answered the region is
        settled: what the worker held is counted as cut."""
        return await self._ask(lambda request: ReplaceWorker(request, region, reason))

    async def upgrade(self, who: str, version: str) -> str:
        """Begin to become the program that is installed now; the error if it was not begun.
        We are replaced in the course of it."""
        return await self._ask(lambda request: Upgrade(request, who, version))

    async def _ask(self, message: Callable[[int], Message]) -> str:
        if self._writer is None:
            return NO_SUPERVISOR
        request = next(self._requests)
        waiting: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._waiting[request] = waiting
        try:
            self._writer.write(frame(encode(message(request))))
            return await asyncio.wait_for(waiting, ANSWER_LIMIT_S)
        except TimeoutError:
            return f"the supervisor did not answer within {ANSWER_LIMIT_S:g} s"
        finally:
            del self._waiting[request]

    async def _run(self) -> None:
        while True:
            try:
                reader, self._writer = await asyncio.open_unix_connection(self._path)
            except OSError:
                # A supervisor that was killed: we serve on until another comes.
                await asyncio.sleep(RETRY_S)
                continue
            try:
                await self._read(reader)
            except (OSError, ProtocolError):
                pass  # as its end: what waits for an answer is told below
            finally:
                self._writer.close()
                self._writer = None
                for waiting in self._waiting.values():
                    if not waiting.done():
                        waiting.set_result("the supervisor is gone")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        frames = FrameReader()
        while data := await reader.read(READ_BYTES):
            for _, payload in frames.feed(data):
                message = decode(payload)
                if isinstance(message, Answer):
                    waiting = self._waiting.get(message.request)
                    if waiting is not None and not waiting.done():
                        waiting.set_result(message.error)
