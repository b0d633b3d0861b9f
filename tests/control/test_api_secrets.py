"""Tokens of the control API: where they come from, and that they are shown nowhere.

Each test of secrecy looks through everything that Turnout has written and answered: files of
its runtime directory, its state, its logs, arguments of its processes, answers, what the
command line printed.
"""

import asyncio
import contextlib
import json
import os
import stat
import subprocess
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from tests import under_test
from tests.harness import SERVICE, Product, settings, until
from tests.upstreams import Upstream
from turnout.proxy.commands import PLAN_FILE

OF_ENVIRONMENT: Final = "environment-0a1b2c3d4e5f60718293"
OF_FILE: Final = "of-a-file-00112233445566778899"
LATER: Final = "of-a-file-later-99887766554433"
LITERAL: Final = "literally-55aa55aa55aa55aa55aa"
WRONG: Final = "somebody-elses-secret-of-another"
CLI_LIMIT_S: Final = 20.0


class Guarded:
    """The product with tokens, and everything that was seen of it."""

    def __init__(self, product: Product, token_file: Path) -> None:
        self.product = product
        self.token_file = token_file
        self.seen: list[str] = []

    async def call(self, method: str, path: str, token: str = "", **more: Any) -> httpx.Response:
        fields = {"Authorization": f"Bearer {token}"} if token else {}
        fields |= more.pop("headers", {})
        answer = await self.product.api.http.request(method, path, headers=fields, **more)
        self.seen.append(f"{answer.headers}\n{answer.text}")
        return answer

    async def cli(self, *words: str, **environment: str) -> tuple[int, str]:
        kept = {name: value for name, value in os.environ.items() if "TURNOUT" not in name}
        process = await asyncio.create_subprocess_exec(
            under_test.PYTHON, "-P", "-m", "turnout", *words,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=self.product.base,
            env={**kept, "PYTHONPATH": under_test.python_path(), **environment},
        )  # fmt: skip
        output, _ = await asyncio.wait_for(process.communicate(), CLI_LIMIT_S)
        assert process.returncode is not None
        self.seen.append(output.decode())
        return process.returncode, output.decode()

    def places_of(self, secret: str) -> set[str]:
        """Where the secret can be read: names of files, `answers`, `arguments`."""
        found = set()
        for path in self.product.base.rglob("*"):
            if stat.S_ISREG(path.lstat().st_mode) and secret.encode() in path.read_bytes():
                found.add(str(path.relative_to(self.product.base)))
        if any(secret in text for text in self.seen):
            found.add("answers")
        for pid in [self.product.supervisor_pid, *self.product.processes()]:
            with contextlib.suppress(OSError):
                if secret.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.add("arguments")
        return found

    async def control_again(self) -> None:
        """kill -9 of control; until the next one is there."""
        count = self.product.log().count("control.started")
        os.kill(self.product.control_pid, 9)
        await until(lambda: self.product.log().count("control.started") > count, "control", 20.0)


@contextlib.asynccontextmanager
async def guarded(
    *, literal: bool = False, faults: Mapping[str, str] | None = None
) -> AsyncIterator[Guarded]:
    async with Upstream("blue") as blue, Upstream("green") as green:
        product = Product(
            settings([blue.address], [green.address], workers=1, health="off"),
            faults=faults,
            environment={"OPS_TOKEN": OF_ENVIRONMENT},
        )
        token_file = product.base / "secrets" / "ci"
        token_file.parent.mkdir()
        token_file.write_text(f"{OF_FILE}\n")
        token_file.chmod(0o600)
        tokens: list[dict[str, str]] = [
            {"name": "ops", "scope": "write", "token": "${OPS_TOKEN}"},
            {"name": "ci", "scope": "write", "token_file": "secrets/ci"},
        ]
        if literal:
            tokens.append({"name": "old", "scope": "read", "token": LITERAL})
        product.write_config({"control": {"bind": product.control_address, "tokens": tokens}})
        try:
            await product.start(control=False)
            await until(lambda: "control.started" in product.log(), "control", 20.0)
            yield Guarded(product, token_file)
        finally:
            await product.close()


BREAK_METRICS: Final = """
from turnout.control import exposition
def render(shared, facts, accept):
    raise RuntimeError("broken on purpose")
exposition.render = render
"""


async def test_no_token_is_shown_anywhere() -> None:
    faults = {"turnout.control.app": BREAK_METRICS}
    async with guarded(literal=True, faults=faults) as at:
        at.product.errors_expected = True
        for token in (OF_ENVIRONMENT, OF_FILE):
            assert (await at.call("GET", "/v1/services", token)).status_code == 200
            switch = f"/v1/services/{SERVICE}/switchovers?wait=true"
            to = "green" if token == OF_FILE else "blue"
            body = {"to": to, "reason": "a switch"}
            assert (await at.call("POST", switch, token, json=body)).status_code == 200
            # Refused, with a token that is right, in every way that answers differently.
            for headers in ({"Host": "x\x00"}, {"If-Match": "x"}, {"Origin": "null"}):
                with contextlib.suppress(httpx.HTTPError):
                    await at.call("POST", f"/v1/services/{SERVICE}/hold", token, headers=headers)
            await at.call("GET", "/nowhere", token)
            assert (await at.call("GET", "/metrics", token)).status_code == 500
            await at.call(
                "POST", f"/v1/services/{SERVICE}/hold", "", headers={"Authorization": token}
            )
            broken = f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\x00\r\n\r\n"
            at.seen.append(await raw(at.product, broken))
            long = f"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}{'x' * 9000}\r\n\r\n"
            at.seen.append(await raw(at.product, long))
        assert (await at.call("GET", "/v1/services", WRONG)).status_code == 401
        assert (await at.call("GET", "/v1/services", LITERAL)).status_code == 200
        hold = f"/v1/services/{SERVICE}/hold"
        assert (await at.call("POST", hold, LITERAL)).status_code == 403
        for path in ("/v1/audit", "/openapi.json", "/", "/readyz"):
            await at.call("GET", path, OF_ENVIRONMENT)
        async with at.product.api.http.stream(
            "GET",
            "/v1/events",
            headers={"Authorization": f"Bearer {OF_FILE}", "Last-Event-ID": "0"},
        ) as events:
            async for text in events.aiter_text():
                at.seen.append(text)
                if "switchover.completed" in text:
                    break
        config, control = str(at.product.config_file), at.product.control_address
        assert (await at.cli("check", "-c", config, OPS_TOKEN=OF_ENVIRONMENT))[0] == 0
        code, _ = await at.cli("status", "--control", control, TURNOUT_TOKEN=OF_ENVIRONMENT)
        assert code == 0
        token_file = str(at.token_file)
        code, _ = await at.cli("receipt", "--control", control, TURNOUT_TOKEN_FILE=token_file)
        assert code == 0
        assert (await at.cli("status", "--control", control, TURNOUT_TOKEN=WRONG))[0] == 4
        # Wrong configurations, whose errors show what was found.
        right = at.product.config_file.read_text()
        for wrong in (
            right.replace('"scope": "write"', '"scope": "${OPS_TOKEN}"', 1),
            right.replace('"tokens": [', '"tokens": ["${OPS_TOKEN}", '),
            right.replace('"secrets/ci"', f'"{LITERAL}"'),
            right.replace("secrets/ci", "turnout.yaml"),
            right.replace('"read"', f'"{LITERAL}"'),
        ):
            assert wrong != right
            at.product.config_file.write_text(wrong)
            assert (await at.call("POST", "/v1/reload", OF_FILE)).status_code == 422
        assert (await at.cli("check", "-c", config, OPS_TOKEN=OF_ENVIRONMENT))[0] == 2
        at.product.config_file.write_text(right)
        await at.control_again()
        assert (await at.call("GET", "/v1/services", OF_FILE)).status_code == 200

        assert at.places_of(OF_ENVIRONMENT) == set()
        assert at.places_of(OF_FILE) == {"secrets/ci"}
        assert at.places_of(WRONG) == set()
        # What a person wrote into the file itself stands in the copy of that file too, which
        # a restarted control reads: for this user's eyes only.
        plan = f"{at.product.runtime_dir.name}/{PLAN_FILE}"
        assert at.places_of(LITERAL) == {"turnout.yaml", plan}
        assert stat.S_IMODE((at.product.base / plan).stat().st_mode) == 0o600
        assert stat.S_IMODE(at.product.runtime_dir.stat().st_mode) == 0o700
        assert "api.mistake" in at.product.log()


async def raw(product: Product, text: str) -> str:
    reader, writer = await asyncio.open_unix_connection(product.control_address[5:])
    writer.write(text.encode())
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer.decode()


async def test_a_reload_reads_a_tokens_file_anew() -> None:
    async with guarded() as at:
        at.token_file.write_text(f"{LATER}\r\n")
        assert (await at.call("GET", "/v1/services", OF_FILE)).status_code == 200
        assert (await at.call("POST", "/v1/reload", OF_FILE)).json()["changed"] is True
        assert (await at.call("GET", "/v1/services", OF_FILE)).status_code == 401
        assert (await at.call("GET", "/v1/services", LATER)).status_code == 200
        # One that cannot be read changes nothing.
        for content, what in ((None, "does not exist"), (b"\n", "is empty"), (b"a\nb\n", "lines")):
            at.token_file.unlink() if content is None else at.token_file.write_bytes(content)
            answer = await at.call("POST", "/v1/reload", OF_ENVIRONMENT)
            assert answer.status_code == 422
            assert f"control.tokens.1.token_file is (hidden); {at.token_file}" in answer.text
            assert what in answer.text
            assert (await at.call("GET", "/v1/services", LATER)).status_code == 200


async def test_a_restarted_control_without_a_tokens_file_lets_nobody_in_by_it() -> None:
    """It starts all the same: others' tokens work, and it says what is missing."""
    async with guarded() as at:
        at.token_file.unlink()
        await at.control_again()
        for token in (OF_FILE, "", "x"):
            assert (await at.call("GET", "/v1/services", token)).status_code == 401
        empty = await at.call("GET", "/v1/services", headers={"Authorization": "Bearer"})
        assert empty.status_code == 401
        assert (await at.call("GET", "/v1/services", OF_ENVIRONMENT)).status_code == 200
        assert f"{at.token_file} does not exist" in at.product.log()
        at.token_file.write_text(OF_FILE)
        at.token_file.chmod(0o644)
        assert (await at.call("POST", "/v1/reload", OF_ENVIRONMENT)).status_code == 200
        assert (await at.call("GET", "/v1/services", OF_FILE)).status_code == 200
        assert f"chmod 0600 {at.token_file}" in at.product.log()
        config = str(at.product.config_file)
        code, said = await at.cli("check", "-c", config, OPS_TOKEN=OF_ENVIRONMENT)
        assert code == 0
        assert "can be read by others on this machine: its mode is 0644" in said


def cli_now(base: Path, *words: str) -> tuple[int, str]:
    done = subprocess.run(
        [under_test.PYTHON, "-P", "-m", "turnout", *words],
        capture_output=True, text=True, timeout=CLI_LIMIT_S, check=False, cwd=base,
        env={**os.environ, "PYTHONPATH": under_test.python_path()},
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("command", "bind"), [("check", "[::]:9180"), ("run", ":9180"), ("run", "10.1.2.3:9180")]
)
def test_an_address_that_others_reach_needs_a_token(
    tmp_path: Path, bind: str, command: str
) -> None:
    file = tmp_path / "turnout.yaml"
    upstreams = {"blue": {"servers": ["127.0.0.1:9001"]}, "green": {"servers": []}}
    document = {
        "runtime_dir": str(tmp_path / "run"),
        "listeners": [{"bind": "127.0.0.1:8080"}],
        "services": {"shop": {"upstreams": upstreams}},
        "control": {"bind": bind},
    }
    file.write_text(json.dumps(document, indent=1).replace('"control": {\n', '"control": {'))
    line = 1 + file.read_text()[: file.read_text().index('"control"')].count("\n")
    code, said = cli_now(tmp_path, command, "-c", str(file))
    assert code == 2
    assert f'{file}:{line}: control.bind is "{bind}"; other machines can reach it' in said
    assert 'write tokens: [{name: ops, scope: write, token: "${TURNOUT_TOKEN}"}]' in said
    assert not (tmp_path / "run").exists()
