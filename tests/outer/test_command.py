"""A program of one's own beside what every router must do: its ends, its limits, its lock."""

import asyncio
import os
import re
import shutil
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from tests.harness import until
from turnout.config.loader import SettingsError, load_text
from turnout.config.weights import WHOLE
from turnout.control.outer.command import Ended, Lock, what_it_means
from turnout.control.outer.loading import make_router
from turnout.control.outer.seams import (
    Change,
    Conflict,
    Context,
    Denied,
    NotDone,
    Refused,
    ReplyLost,
    Router,
    Throttled,
    Verdict,
    Wanted,
)

PAGE: Final = Path(__file__).parents[2] / "docs" / "outer" / "generic.md"
CONFIGURATION: Final = """
listeners: [{{bind: "127.0.0.1:8080"}}]
services:
  shop:
    upstreams: {{blue: {{servers: ["127.0.0.1:9001"]}}, green: {{servers: ["127.0.0.1:9002"]}}}}
    outer: {outer}
"""
TOLD: Final = """echo '{"weights": {"blue": 100, "green": 0}}'"""


def loaded(**settings: Any) -> Any:
    text = CONFIGURATION.format(outer={"kind": "command", **settings})
    outer = load_text(text, base=Path("/etc/turnout"), environ={}).services[0].outer
    assert outer is not None
    return outer.settings


async def no_turn() -> None:
    """No pace."""


def router(*argv: str, timeout_s: float = 10.0, **settings: Any) -> Router:
    context = Context(("blue", "green"), timeout_s, no_turn, lambda what, remedy: None)
    return make_router(loaded(argv=list(argv), **settings), context)


def program(path: Path, text: str) -> str:
    """A program of bash with this text: `$verb` is what it is called for."""
    file = path / "program.sh"
    file.write_text(f"#!/usr/bin/env bash\nverb=$1\n{text}\n")
    file.chmod(0o755)
    return str(file)


def alive(pid: int) -> bool:
    try:
        # A zombie has ended.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


# ---------------------------------------------------------------- how it ends


@pytest.mark.parametrize(
    ("status", "of_set", "of_read"),
    [
        (0, None, None),
        (1, ReplyLost, NotDone),
        (2, Refused, Refused),
        (3, Throttled, Throttled),
        (4, Conflict, Conflict),
        (5, Denied, Denied),
        (6, Refused, Refused),
        (127, Refused, Refused),
        (-9, ReplyLost, NotDone),
        (-15, ReplyLost, NotDone),
    ],
)
def test_what_an_end_means(status: int, of_set: type | None, of_read: type | None) -> None:
    ended = Ended(status, b"{}", "the last words")
    for verb, meant in (("set", of_set), ("read", of_read), ("poll", of_read)):
        error = what_it_means(verb, ended)
        assert type(error) is (meant or type(None))
        assert error is None or str(error).endswith(": the last words")


async def test_the_last_line_of_its_stderr_is_shown_without_its_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_TOKEN", "the-edge-token")
    monkeypatch.setenv("OTHER", "not passed on")
    text = r'printf "first\n\e[31mrefused for $EDGE_TOKEN\e[0m ${OTHER:-nothing}\n\n" >&2; exit 6'
    made = router(program(tmp_path, text), environment=["EDGE_TOKEN"])
    with pytest.raises(Refused) as raised:
        await made.read()
    assert str(raised.value).endswith(
        "program.sh read: it ended with 6: [31mrefused for (hidden) [0m nothing"
    )


async def test_it_gets_what_is_named_and_nothing_else_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGE_TOKEN", "the-edge-token")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not for it")
    text = f'env > {tmp_path}/env; pwd > {tmp_path}/pwd; echo "$@" > {tmp_path}/argv; {TOLD}'
    made = router(program(tmp_path, text), environment=["EDGE_TOKEN"])
    await made.read()
    names = {line.partition("=")[0] for line in (tmp_path / "env").read_text().splitlines()}
    # bash adds the last three itself.
    assert names - {"PWD", "SHLVL", "_"} == {"EDGE_TOKEN"} | (
        {"PATH", "HOME", "LANG"} & os.environ.keys()
    )
    assert (tmp_path / "pwd").read_text() == "/\n"
    assert (tmp_path / "argv").read_text() == "read\n"


def test_a_variable_that_is_not_there_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGE_TOKEN", raising=False)
    with pytest.raises(Refused, match="names EDGE_TOKEN, which Turnout itself has not"):
        router("/bin/true", environment=["EDGE_TOKEN"])


@pytest.mark.parametrize(
    ("make", "what"),
    [
        (lambda file: None, "No such file"),
        (lambda file: file.write_text("#!/bin/sh\n"), "Permission denied"),
        (lambda file: (file.write_text("no first line"), file.chmod(0o755)), "Exec format error"),
    ],
    ids=["missing", "not executable", "no program"],
)
async def test_what_cannot_be_run_is_refused(
    tmp_path: Path, make: Callable[[Path], Any], what: str
) -> None:
    make(tmp_path / "file")
    made = router(str(tmp_path / "file"))
    with pytest.raises(Refused, match=f"cannot be run: {what}"):
        await made.read()


@pytest.mark.parametrize("text", ["echo no JSON", "head -c 70000 /dev/zero", ":"])
async def test_what_it_writes_must_be_a_document(tmp_path: Path, text: str) -> None:
    made = router(program(tmp_path, f'[ "$verb" = read ] && [ ! -e {tmp_path}/odd ] && {TOLD} || {text}'))  # fmt: skip
    reading = await made.read()
    with pytest.raises(ReplyLost, match="what it wrote"):
        await made.set_weights(Wanted(WHOLE), reading)
    (tmp_path / "odd").touch()
    with pytest.raises(NotDone, match="what it wrote"):
        await made.read()


async def test_a_change_that_it_refuses_to_speak_of_is_unknown(tmp_path: Path) -> None:
    made = router(program(tmp_path, "echo 'what change?' >&2; exit 6"))
    progress = await made.poll(Change("42"))
    assert (progress.verdict, "what change?" in progress.detail) == (Verdict.UNKNOWN, True)


# ---------------------------------------------------------------- how long it may take


async def test_after_its_time_it_is_killed_with_all_that_it_started(tmp_path: Path) -> None:
    text = f"sleep 300 & echo $! $$ > {tmp_path}/pids; wait"
    made = router(program(tmp_path, text), timeout_s=1.0)
    began_s = time.monotonic()
    with pytest.raises(NotDone, match="had not ended after 1 s, and was killed"):
        await made.read()
    assert time.monotonic() - began_s < 5.0
    await all_ended(tmp_path / "pids")


async def test_what_it_leaves_behind_holds_no_descriptor_of_ours(tmp_path: Path) -> None:
    """Who leaves its session is not killed with it, and goes on holding its streams."""
    text = "setsid sleep 5 &\nexec sleep 5"
    made = router(program(tmp_path, text), timeout_s=0.2)
    before = len(os.listdir("/dev/fd"))
    for _ in range(3):
        with pytest.raises(NotDone, match="was killed"):
            await made.read()
    await asyncio.sleep(0.05)
    assert len(os.listdir("/dev/fd")) <= before


async def test_when_the_call_is_cancelled_it_is_killed_too(tmp_path: Path) -> None:
    text = f"sleep 300 & echo $! $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pids; wait"
    made = router(program(tmp_path, text))
    call = asyncio.create_task(made.read())
    await until((tmp_path / "pids").exists, "the program to be at work")
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    await all_ended(tmp_path / "pids")


async def all_ended(pids: Path) -> None:
    found = [int(pid) for pid in pids.read_text().split()]
    assert len(found) == 2
    await until(lambda: not any(map(alive, found)), "both processes to end")


# ---------------------------------------------------------------- control dies

CALLER: Final = """
import asyncio, sys
from turnout.control.outer.seams import Wanted
from tests.outer.test_command import router

async def main():
    made = router(sys.argv[1])
    await made.set_weights(Wanted(10_000), await made.read())

asyncio.run(main())
"""


async def test_what_a_killed_control_has_left_running_is_waited_for(tmp_path: Path) -> None:
    """Else the next one would read that nothing has changed yet, and ask again."""
    text = f"""
if [ $verb = set ]; then
  echo $$ > {tmp_path}/new; mv {tmp_path}/new {tmp_path}/pid
  until [ -e {tmp_path}/go ]; do sleep 0.02; done
  echo 1 >> {tmp_path}/done
fi
{TOLD}"""
    path = program(tmp_path, text)
    caller = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CALLER, path, cwd=PAGE.parents[2]
    )
    made = router(path)
    try:
        await until((tmp_path / "pid").exists, "the program to be at work")
        caller.kill()
        await caller.wait()
        for call in (made.read, lambda: made.poll(Change("")), lambda: made.tail(0)):
            with pytest.raises(Throttled, match="still running"):
                await call()
        (tmp_path / "go").touch()
        pid = int((tmp_path / "pid").read_text())
        await until(lambda: not alive(pid), "the program to end")
        assert (await made.read()).second_weight == 0
        assert (tmp_path / "done").read_text() == "1\n"
    finally:
        (tmp_path / "go").touch()


def test_another_program_or_another_argument_is_another_lock() -> None:
    with Lock("a").held("a"), Lock("b").held("b"), pytest.raises(Throttled), Lock("a").held("a"):
        raise AssertionError("held twice")
    with Lock("a").held("a"):
        """It is free again."""


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({}, "services.shop.outer.argv is missing; it must be given"),
        ({"argv": "/bin/true --now"}, "it is run without a shell. Write a list"),
        ({"argv": []}, "expected a list of 1 to 64 words"),
        ({"argv": ["/bin/true", 9]}, "expected each word as text. Put it in quotes"),
        ({"argv": [""]}, "the program is empty"),
        ({"argv": ["x"], "environment": ["A=b"]}, "names of variables, without $ and ="),
        ({"argv": ["x"], "environment": "A"}, "expected a list of at most 64 names"),
    ],
)
def test_what_is_wrong_in_its_settings_is_named(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(SettingsError) as raised:
        loaded(**settings)
    assert what in str(raised.value)


def test_a_program_is_relative_to_the_file_or_found_by_path() -> None:
    assert loaded(argv=["./move.sh", "./x"]).argv == ("/etc/turnout/move.sh", "./x")
    assert loaded(argv=["bash", "x"]).argv == ("bash", "x")


# ---------------------------------------------------------------- the page's example

HAPROXY: Final = """
global
  stats socket ipv4@127.0.0.1:{port} level admin
defaults
  mode http
  timeout connect 1s
  timeout client 1s
  timeout server 1s
backend front
  server blue 127.0.0.1:9001 weight 100
  server green 127.0.0.1:9002 weight 0
"""


@asynccontextmanager
async def haproxy(path: Path) -> AsyncIterator[int]:
    """A real one; the port of its runtime API."""
    found = shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip("haproxy is not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (path / "haproxy.cfg").write_text(HAPROXY.format(port=port))
    process = await asyncio.create_subprocess_exec(
        found, "-db", "-f", str(path / "haproxy.cfg"), stderr=asyncio.subprocess.DEVNULL
    )

    def listens() -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", port)) == 0

    try:
        await until(listens, "haproxy to listen")
        yield port
    finally:
        process.kill()
        await process.wait()


async def test_the_page_s_script_moves_weights_of_a_real_haproxy(tmp_path: Path) -> None:
    (script,) = re.findall(r"^```bash\n(.*?haproxy-weights\.sh.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)  # fmt: skip
    (tmp_path / "haproxy-weights.sh").write_text(script)
    async with haproxy(tmp_path) as port:
        argv = ["bash", str(tmp_path / "haproxy-weights.sh"), str(port)]
        made = router(*argv, "front/blue", "front/green")
        first = await made.read()
        assert (first.second_weight, list(first.problems)) == (0, [])
        for wanted in (Wanted(3000), Wanted(WHOLE), Wanted(0, exact=first.exact)):
            change = await made.set_weights(wanted, await made.read())
            assert (await made.poll(change)).verdict is Verdict.IN_SYNC
            assert (await made.read()).second_weight == wanted.second_weight
        assert (await made.read()).exact == first.exact
        wrong = router(*argv, "front/blue", "front/red")
        with pytest.raises(Refused, match="front/red: No such server"):
            await wrong.read()
    with pytest.raises(NotDone):
        await made.read()
