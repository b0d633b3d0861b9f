"""Many runs of the command line, each in a process of its own, for the price of one import.

Importing takes longer than most commands. So one process imports the program once and forks for
each command; only what comes after the imports is run in the fork.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith("TURNOUT_") and name not in ("FORCE_COLOR", "COLUMNS")
}
SERVER = """
import json, os, sys, threading
import rich.live
import turnout.config.loader, turnout.control.cli, turnout.control.cli_output

def report(number, child):
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.write(1, b"%d %d\\n" % (number, code))

for line in sys.stdin:
    call = json.loads(line)
    child = os.fork()
    if not child:
        os.environ.clear()
        os.environ.update(call["environment"])
        os.chdir(call["directory"])
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        for descriptor in (1, 2):
            path = call["files"][descriptor - 1]
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), descriptor)
        sys.argv = ["turnout", *call["words"]]
        turnout.control.cli.main()
    threading.Thread(target=report, args=(call["number"], child)).start()
"""


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Forks:
    """The process that forks. To be opened before an event loop needs it, and closed."""

    def __init__(self) -> None:
        self._waiting: dict[int, tuple[asyncio.AbstractEventLoop, asyncio.Future[int]]] = {}
        self._count = 0

    def open(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=CLEAN,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._reader.join()
        self._process.wait()

    async def run(
        self, words: Sequence[str], environment: Mapping[str, str], directory: Path
    ) -> Done:
        """Run a command to its end."""
        self._count += 1
        number, loop = self._count, asyncio.get_running_loop()
        ended: asyncio.Future[int] = loop.create_future()
        self._waiting[number] = (loop, ended)
        with tempfile.TemporaryDirectory() as place:
            files = [Path(place, "out"), Path(place, "err")]
            call = {
                "number": number,
                "words": words,
                "environment": dict(environment),
                "directory": str(directory),
                "files": [str(path) for path in files],
            }
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(call) + "\n")
            self._process.stdin.flush()
            code = await ended
            return Done(code, *(path.read_text() for path in files))

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            number, code = map(int, line.split())
            loop, ended = self._waiting.pop(number)
            loop.call_soon_threadsafe(ended.set_result, code)
