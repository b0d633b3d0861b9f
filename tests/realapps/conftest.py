"""Real applications under real servers, each with the product in front of it."""

import asyncio
import os
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
import pytest_asyncio

from tests.harness import ROOT, Product

pytest.register_assert_rewrite("tests.realapps.compare")

START_LIMIT_S = 20.0


@dataclass(frozen=True, slots=True)
class App:
    """An application: `direct` is its own address, `proxied` the product's, both `ip:port`."""

    direct: str
    proxied: str
    host: str = "app.example"
    """The `Host` of all requests: what the application says of itself is then the same."""


@contextmanager
def serving(command: Sequence[str], log: Path) -> Iterator[str]:
    """Run a server that takes its listening socket as descriptor `{fd}`; gives its address.

    The socket listens before the server is there, so that nothing has to be waited for.
    """
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        fd = listener.fileno()
        with log.open("wb") as output:
            process = subprocess.Popen(
                [word.format(fd=fd) for word in command],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(fd,),
                env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
        try:
            yield "{}:{}".format(*listener.getsockname())
        finally:
            process.terminate()
            try:
                process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def answering(address: str, path: str, log: Path) -> None:
    """Wait until the application answers."""
    try:
        async with asyncio.timeout(START_LIMIT_S), httpx.AsyncClient() as client:
            answer = await client.get(f"http://{address}{path}", timeout=START_LIMIT_S)
    except (TimeoutError, httpx.HTTPError) as error:
        raise AssertionError(f"{error!r}; the server said:\n{log.read_text()}") from error
    assert answer.status_code == 200, f"{answer.text}\n{log.read_text()}"


def configuration(address: str, health: str) -> dict[str, object]:
    return {
        "workers": 2,
        "listeners": [{"bind": "127.0.0.1:0"}],
        "log": {"access": "off"},
        "limits": {"services": 8, "in_flight_named": 1024},
        # Below gunicorn's 2 s, or requests meet a closing connection.
        "pool": {"idle_timeout": "1s"},
        "services": {
            "app": {
                "upstreams": {"blue": {"servers": [address]}, "green": {"servers": []}},
                "health": {"path": health, "interval": "500ms", "timeout": "5s", "rise": 1},
            }
        },
    }


async def app(command: Sequence[str], health: str, log: Path) -> AsyncIterator[App]:
    with serving(command, log) as address:
        await answering(address, health, log)
        async with Product(configuration(address, health)) as product:
            yield App(address, product.address)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def httpbin(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    """httpbin under gunicorn."""
    command = (
        sys.executable, "-m", "gunicorn", "--bind", "fd://{fd}", "--threads", "8",
        "--worker-tmp-dir", str(tmp_path_factory.mktemp("gunicorn")),
        "tests.realapps.httpbin_app:app",
    )  # fmt: skip
    async for found in app(command, "/status/200", tmp_path_factory.mktemp("httpbin") / "log"):
        yield found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def starlette(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[App]:
    """A Starlette application under uvicorn."""
    command = (
        sys.executable, "-m", "uvicorn", "--fd", "{fd}", "--no-access-log",
        "tests.realapps.starlette_app:app",
    )  # fmt: skip
    async for found in app(command, "/healthz", tmp_path_factory.mktemp("starlette") / "log"):
        yield found
