"""Tokens: where they come from, how long they are kept, and that nobody sees them."""

import asyncio
import contextlib
import os
import stat
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.base import Fault
from tests.fakes.identities import (
    ASSERTION,
    AUDIENCE,
    CLIENT,
    HEADER,
    SECRET,
    TENANT,
    FakeIdentities,
)
from turnout.config.outer.credentials import AzureCredentials, GoogleCredentials
from turnout.control.outer.rest import Rest
from turnout.control.outer.seams import Denied, NotDone, ReplyLost, Throttled
from turnout.control.outer.tokens import Token, Tokens, azure_tokens, google_tokens, token_file


@pytest.fixture
async def fake() -> AsyncIterator[FakeIdentities]:
    async with FakeIdentities() as fake:
        yield fake


def azure(environ: Mapping[str, str], **settings: Any) -> Tokens:
    return azure_tokens(AzureCredentials(**settings), AUDIENCE, environ)


def google(environ: Mapping[str, str], **settings: Any) -> Tokens:
    return google_tokens(GoogleCredentials(**settings), environ)


async def bearer(tokens: Tokens) -> str:
    fields = await tokens()
    assert list(fields) == ["authorization"]
    return fields["authorization"].removeprefix("Bearer ")


def application(fake: FakeIdentities, **more: str) -> dict[str, str]:
    return {
        "AZURE_AUTHORITY_HOST": fake.url,
        "AZURE_TENANT_ID": TENANT,
        "AZURE_CLIENT_ID": CLIENT,
        **more,
    }


# ---------------------------------------------------------------- where they come from


async def test_a_virtual_machine_of_azure_asks_its_metadata_service(fake: FakeIdentities) -> None:
    environ = {"AZURE_POD_IDENTITY_AUTHORITY_HOST": fake.url}
    assert await bearer(azure(environ)) == fake.token
    assert await bearer(azure(environ, client_id=CLIENT, identity="managed")) == fake.token
    assert "client_id=client-1" in fake.journal[-1].path


async def test_an_app_of_azure_asks_the_endpoint_that_it_was_given(fake: FakeIdentities) -> None:
    environ = {"IDENTITY_ENDPOINT": f"{fake.url}/msi/token", "IDENTITY_HEADER": HEADER}
    assert await bearer(azure(environ)) == fake.token


async def test_an_application_proves_itself_by_its_secret(fake: FakeIdentities) -> None:
    assert await bearer(azure(application(fake, AZURE_CLIENT_SECRET=SECRET))) == fake.token


async def test_a_pod_proves_itself_by_a_federated_token_that_is_read_each_time(
    fake: FakeIdentities, tmp_path: Path
) -> None:
    file = tmp_path / "assertion"
    file.write_text("ey.expired")
    fake.life_s = 0
    tokens = azure(application(fake, AZURE_FEDERATED_TOKEN_FILE=str(file)))
    with pytest.raises(Denied, match="AADSTS7000215"):
        await tokens()
    file.write_text(ASSERTION)
    assert await bearer(tokens) == fake.token


async def test_a_machine_of_google_asks_its_metadata_server(fake: FakeIdentities) -> None:
    environ = {"GCE_METADATA_HOST": f"127.0.0.1:{fake.port}"}
    assert await bearer(google(environ)) == fake.token
    email = "turnout@p.iam.gserviceaccount.com"
    assert await bearer(google(environ, service_account=email)) == fake.token
    assert email in fake.journal[-1].path


async def test_what_is_no_metadata_server_is_not_believed(fake: FakeIdentities) -> None:
    fake.flavor = ""
    with pytest.raises(Denied, match="is no metadata server"):
        await google({"GCE_METADATA_HOST": f"127.0.0.1:{fake.port}"})()


async def test_a_file_is_read_again_for_each_call(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("first\n")
    tokens = google({}, token_file=str(file))
    assert await bearer(tokens) == "first"
    (tmp_path / "new").write_text("second\n")
    (tmp_path / "new").replace(file)
    assert await bearer(tokens) == "second"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read: No such file"),
        ("", "is empty"),
        ("two words", "is not one word"),
        ("é", "is not one word"),
        ("x" * 65537, "has more than 65536 bytes"),
    ],
)
async def test_a_file_without_a_token_is_said(
    tmp_path: Path, content: str | None, words: str
) -> None:
    file = tmp_path / "token"
    if content is not None:
        file.write_text(content)
    with pytest.raises(Denied, match=words) as denied:
        await google({}, token_file=str(file))()
    assert not content or content not in str(denied.value)


def script(tmp_path: Path, code: str) -> list[str]:
    file = tmp_path / "token-program"
    file.write_text(f"#!{sys.executable} -IS\nimport sys, os, time\n{code}\n")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return [str(file), "a b", "$HOME"]


@pytest.mark.parametrize(
    "printed",
    [
        "print('the-token')",
        """print('{"accessToken": "the-token", "expiresOn": "2026-11-26 10:00", "expires_on": 1}')""",
        """print('{"access_token": "the-token", "expires_in": 3599}')""",
    ],
)
async def test_a_command_prints_a_token(tmp_path: Path, printed: str) -> None:
    # Without a shell: its arguments arrive as they were written.
    code = f"assert sys.argv[1:] == ['a b', '$HOME']\nassert sys.stdin.read() == ''\n{printed}"
    assert await bearer(azure({}, token_command=script(tmp_path, code))) == "the-token"


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("sys.exit('no account is active')", "ended with 1: no account is active"),
        ("print('s' * 40, file=sys.stderr); sys.exit(3)", r"ended with 3: \(…\)"),
        ("print('two words')", "is not one word"),
        ('print(\'{"token": "the-token"}\')', "its answer has no access_token"),
        ("print('{')", "its answer is no JSON object"),
        ("print()", "is empty"),
        ("print('x' * 70000)", "has more than 65536 bytes"),
    ],
)
async def test_a_command_that_gives_no_token_is_said(tmp_path: Path, code: str, words: str) -> None:
    with pytest.raises(Denied, match=words) as denied:
        await azure({}, token_command=script(tmp_path, code))()
    assert "the-token" not in str(denied.value)


async def test_a_command_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(Denied, match="cannot be started: No such file"):
        await google({}, token_command=[str(tmp_path / "missing")])()


async def test_a_command_that_never_ends_is_ended_with_all_that_it_started(
    tmp_path: Path,
) -> None:
    pids = tmp_path / "pids"
    code = (
        "child = os.fork()\n"
        f"open({str(pids)!r}, 'a').write(f'{{os.getpid()}} ')\n"
        "while True: time.sleep(60)"
    )
    tokens = google({}, token_command=script(tmp_path, code), timeout="500ms")
    began = time.monotonic()
    with pytest.raises(Denied, match=r"longer than credentials\.timeout, 0\.5 s"):
        await tokens()
    assert time.monotonic() - began < 5
    started = [int(pid) for pid in pids.read_text().split()]
    assert len(started) == 2
    async with asyncio.timeout(5):
        while any(map(_runs, started)):
            await asyncio.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


async def test_a_command_that_prints_without_end_is_ended(tmp_path: Path) -> None:
    code = "while True: sys.stdout.write('x' * 65536)"
    with pytest.raises(Denied, match="has more than 65536 bytes"):
        await google({}, token_command=script(tmp_path, code))()


# ---------------------------------------------------------------- how long they are kept


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def counted(life_s: float | None) -> tuple[list[str], Callable[[], Awaitable[Token]]]:
    given: list[str] = []

    async def source() -> Token:
        await asyncio.sleep(0)
        given.append(f"token-{len(given)}")
        return Token(given[-1], life_s)

    return given, source


@pytest.mark.parametrize(
    ("life_s", "kept_s"), [(3600.0, 3480.0), (1200.0, 1080.0), (60.0, 54.0), (0.0, 0.0)]
)
async def test_a_token_is_kept_until_shortly_before_it_expires(
    life_s: float, kept_s: float
) -> None:
    clock = Clock()
    given, source = counted(life_s)
    tokens = Tokens(source, clock)
    await tokens()
    if kept_s:
        clock.now += kept_s - 1
        assert await bearer(tokens) == "token-0"
        clock.now += 1
    assert await bearer(tokens) == "token-1"
    assert len(given) == 2


async def test_one_renewal_is_under_way_at_a_time(fake: FakeIdentities) -> None:
    fake.answer_s = 0.05
    tokens = azure({"AZURE_POD_IDENTITY_AUTHORITY_HOST": fake.url})
    assert await asyncio.gather(*(bearer(tokens) for _ in range(20))) == [fake.token] * 20
    assert fake.issued == 1


async def test_who_stops_waiting_for_a_token_holds_up_nobody(fake: FakeIdentities) -> None:
    fake.answer_s = 0.2
    tokens = azure({"AZURE_POD_IDENTITY_AUTHORITY_HOST": fake.url})
    first = asyncio.create_task(bearer(tokens))
    while not fake.journal:
        await asyncio.sleep(0.01)
    first.cancel()
    fake.answer_s = 0
    assert await bearer(tokens) == fake.token


# ---------------------------------------------------------------- 401


async def turn() -> None:
    """No pace."""


async def test_a_call_refused_by_401_is_made_once_more_with_another_token(
    fake: FakeIdentities,
) -> None:
    tokens = azure({"AZURE_POD_IDENTITY_AUTHORITY_HOST": fake.url})
    rest = Rest(fake.url, who="API", timeout_s=5, turn=turn, authorization=tokens)
    await rest.call("POST", "/api")
    fake.revoked.add(fake.token)
    assert await rest.document("POST", "/api", json={"a": 1}) == {"done": True}
    calls = [(call.path, call.status, call.body) for call in fake.writing]
    assert calls == [("/api", 200, b""), ("/api", 401, b'{"a":1}'), ("/api", 200, b'{"a":1}')]
    assert fake.issued == 2
    await rest.close()


async def test_a_call_is_not_made_again_with_the_token_that_was_refused(
    fake: FakeIdentities, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("old-token")
    tokens = azure({}, token_file=str(file))
    rest = Rest(fake.url, who="API", timeout_s=5, turn=turn, authorization=tokens)
    with pytest.raises(Denied, match="401"):
        await rest.call("POST", "/api")
    assert len(fake.writing) == 1
    await rest.close()


async def test_a_call_is_made_twice_at_most(fake: FakeIdentities) -> None:
    tokens = azure({"AZURE_POD_IDENTITY_AUTHORITY_HOST": fake.url})
    rest = Rest(fake.url, who="API", timeout_s=5, turn=turn, authorization=tokens)
    fake.inject(Fault.DENIED, 10)
    with pytest.raises(Denied):
        await rest.call("POST", "/api")
    assert len(fake.writing) == 2
    await rest.close()


async def test_many_refused_at_once_renew_it_once(fake: FakeIdentities) -> None:
    tokens = azure({"AZURE_POD_IDENTITY_AUTHORITY_HOST": fake.url})
    rest = Rest(fake.url, who="API", timeout_s=5, turn=turn, authorization=tokens)
    await rest.call("GET", "/api")
    fake.revoked.add(fake.token)
    fake.answer_s = 0.05
    await asyncio.gather(*(rest.call("GET", "/api") for _ in range(5)))
    assert fake.issued == 2
    await rest.close()


# ---------------------------------------------------------------- what goes wrong, and secrecy


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault.THROTTLED, Throttled),
        (Fault.DENIED, Denied),
        (Fault.UNAVAILABLE, NotDone),
        (Fault.LOST_BEFORE, NotDone),
    ],
)
async def test_a_token_that_was_not_given_is_no_change_that_may_be_lost(
    fake: FakeIdentities, fault: Fault, error: type[Exception]
) -> None:
    tokens = azure(application(fake, AZURE_CLIENT_SECRET=SECRET))
    fake.inject(fault, writes=False)
    with pytest.raises(error) as raised:
        await tokens()
    assert SECRET not in str(raised.value)
    assert await bearer(tokens) == fake.token


async def test_where_no_platform_is_the_remedy_is_said() -> None:
    environ = {"AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://127.0.0.1:9"}
    with pytest.raises(Denied, match="say in `credentials` where its tokens come from"):
        await azure(environ)()


async def test_a_missing_variable_is_named(fake: FakeIdentities) -> None:
    with pytest.raises(Denied, match="needs AZURE_TENANT_ID"):
        azure({"AZURE_CLIENT_SECRET": SECRET, "AZURE_CLIENT_ID": CLIENT})
    with pytest.raises(Denied, match="needs AZURE_FEDERATED_TOKEN_FILE"):
        azure(application(fake), identity="workload")


async def test_a_secret_does_not_go_out_in_the_clear() -> None:
    environ = {
        "AZURE_AUTHORITY_HOST": "http://login.example",
        "AZURE_TENANT_ID": TENANT,
        "AZURE_CLIENT_ID": CLIENT,
        "AZURE_CLIENT_SECRET": SECRET,
    }
    with pytest.raises(Denied, match="Write https://") as denied:
        azure(environ)
    assert SECRET not in str(denied.value)


async def test_tokens_are_in_no_error_and_no_representation(
    fake: FakeIdentities, tmp_path: Path
) -> None:
    file = tmp_path / "token"
    file.write_text("a-token-of-a-length-that-must-never-be-seen")
    file_tokens = Tokens(token_file(str(file)))
    by_secret = azure(application(fake, AZURE_CLIENT_SECRET=SECRET))
    seen = [repr(Token("a-token-of-a-length-that-must-never-be-seen"))]
    for tokens in (file_tokens, by_secret):
        rest = Rest(fake.url, who="API", timeout_s=5, turn=turn, authorization=tokens)
        fake.inject(Fault.DENIED, 2)
        with pytest.raises(Denied) as denied:
            await rest.call("POST", "/api")
        seen += [repr(tokens), str(denied.value), repr(denied.value), repr(rest)]
        await rest.close()
    assert not [text for text in seen if "must-never-be-seen" in text or SECRET in text]


async def test_the_proxy_of_the_environment_does_not_get_what_is_for_the_metadata_service(
    fake: FakeIdentities, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with FakeIdentities() as proxy:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        for name in ("NO_PROXY", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
        environ = {**os.environ, "GCE_METADATA_HOST": f"127.0.0.1:{fake.port}"}
        assert await bearer(google(environ)) == fake.token
        assert proxy.journal == []


# ---------------------------------------------------------------- time


async def test_credentials_that_take_too_long_are_no_lost_reply(fake: FakeIdentities) -> None:
    fake.answer_s = 8.0
    tokens = azure({"AZURE_POD_IDENTITY_AUTHORITY_HOST": fake.url})
    rest = Rest(fake.url, who="API", timeout_s=0.1, turn=turn, authorization=tokens)
    began = time.monotonic()
    with pytest.raises(NotDone, match="its credentials took longer than call_timeout"):
        await rest.call("POST", "/api")
    assert time.monotonic() - began < 4
    assert fake.writing == []
    await rest.close()


async def test_an_answer_that_trickles_in_is_given_up_in_time() -> None:
    async def trickle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        with contextlib.suppress(ConnectionError):
            while not writer.is_closing():
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)

    server = await asyncio.start_server(trickle, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    rest = Rest(f"http://127.0.0.1:{port}", who="API", timeout_s=0.2, turn=turn)
    async with asyncio.timeout(4):
        with pytest.raises(ReplyLost, match="not whole in time"):
            await rest.call("POST", "/api")
        with pytest.raises(NotDone, match="not whole in time"):
            await rest.call("GET", "/api")
    await rest.close()
    server.close()
