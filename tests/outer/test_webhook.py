"""The webhook beside what every router must do: signature, credentials, TLS, odd services."""

import asyncio
import re
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import trustme
from aiohttp import web

from tests import under_test
from tests.fakes.base import Fault
from tests.fakes.webhook import API_KEY, SECRET, TOKEN
from tests.harness import bench
from tests.outer.target_webhook import WebhookTarget
from turnout.config.loader import SettingsError, load_text
from turnout.config.weights import WHOLE
from turnout.control.outer.loading import make_router
from turnout.control.outer.seams import (
    Change,
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
from turnout.control.outer.webhook import signature

PAGE: Final = Path(__file__).parents[2] / "docs" / "outer" / "generic.md"
CONFIGURATION: Final = """
listeners: [{bind: "127.0.0.1:8080"}]
services:
  shop:
    upstreams: {blue: {servers: ["127.0.0.1:9001"]}, green: {servers: ["127.0.0.1:9002"]}}
    outer:
      kind: webhook
"""
WHAT_THERE_IS: Final = {"weights": {"blue": 100, "green": 0}, "version": "1"}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def loaded(base: Path | None = None, **settings: Any) -> Any:
    text = CONFIGURATION + "".join(f"      {key}: {value}\n" for key, value in settings.items())
    outer = load_text(text, base=base, environ={}).services[0].outer
    assert outer is not None
    return outer.settings


def router(base: Path | None = None, **settings: Any) -> Router:
    async def turn() -> None:
        """No pace."""

    context = Context(("blue", "green"), 5.0, turn, lambda what, remedy: None)
    return make_router(loaded(base, **settings), context)


@asynccontextmanager
async def served(handler: Handler, tls: ssl.SSLContext | None = None) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
    try:
        yield f"{'https' if tls else 'http'}://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def always(document: Any, status: int = 200, **fields: str) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response(document, status=status, headers=fields)

    return handler


# ---------------------------------------------------------------- who calls


def test_the_page_verifies_a_signature_and_nothing_that_was_changed() -> None:
    (code,) = re.findall(
        r"^```python\n(import hashlib.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL
    )
    page: dict[str, Any] = {}
    exec(compile(code, PAGE.name, "exec"), page)  # noqa: S102
    now = int(time.time())

    def accepted(
        at: int = now, method: str = "PUT", target: str = "/shop?a=1", if_match: str = '"7"',
        body: bytes = b"{}", secret: str = SECRET,
    ) -> bool:  # fmt: skip
        made = signature(
            SECRET, at=at, method="PUT", target="/shop?a=1", if_match='"7"', body=b"{}"
        )
        fields = {"Turnout-Signature": made, "If-Match": if_match}
        found: bool = page["is_turnout"](secret, method, target, fields, body)
        return found

    assert accepted()
    changed: list[Mapping[str, Any]] = [
        {"method": "GET"}, {"target": "/shop?a=2"}, {"if_match": '"8"'}, {"body": b"{ }"},
        {"secret": "another"}, {"at": now - 61},
    ]  # fmt: skip
    assert [accepted(**one) for one in changed] == [False] * len(changed)


async def test_a_token_is_read_from_its_file_for_each_call(tmp_path: Path) -> None:
    seen = []

    async def handler(request: web.Request) -> web.Response:
        seen.append(request.headers.get("Authorization"))
        return web.json_response(WHAT_THERE_IS)

    async with served(handler) as url:
        made = router(tmp_path, url=url, token_file="token")
        with pytest.raises(Denied, match="token cannot be read: No such file"):
            await made.read()
        for token in ("first-token", "second-token"):
            (tmp_path / "token").write_text(f"{token}\n")
            await made.read()
        (tmp_path / "token").write_text("two words")
        with pytest.raises(Denied, match="holds no token") as raised:
            await made.read()
        assert "two words" not in str(raised.value)
        await made.close()
    assert seen == ["Bearer first-token", "Bearer second-token"]


async def test_a_redirect_is_refused_and_credentials_do_not_go_with_it() -> None:
    asked = []

    async def elsewhere(request: web.Request) -> web.Response:
        asked.append(request.path)
        return web.json_response(WHAT_THERE_IS)

    async with (
        served(elsewhere) as other,
        served(always({}, 307, Location=f"{other}/x")) as url,
    ):
        made = router(url=url, token="the-token")
        with pytest.raises(Refused, match="307"):
            await made.read()
        await made.close()
    assert asked == []


async def test_a_certificate_of_ones_own_authority(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    async with served(always(WHAT_THERE_IS), tls) as url:
        knows, knows_not = router(tmp_path, url=url, ca_file="ca.pem"), router(url=url)
        assert (await knows.read()).second_weight == 0
        with pytest.raises(NotDone, match="certificate"):
            await knows_not.read()
        await knows.close()
        await knows_not.close()
    with pytest.raises(Refused, match=r"ca_file .*missing\.pem cannot be used"):
        router(tmp_path, url=url, ca_file="missing.pem")


# ---------------------------------------------------------------- odd services


async def test_without_a_version_it_is_a_problem() -> None:
    async with served(always({"weights": {"blue": 1, "green": 0}})) as url:
        made = router(url=url)
        assert any("`version`" in problem for problem in (await made.read()).problems)
        await made.close()


@pytest.mark.parametrize(
    ("body", "what"), [("<html>", "no JSON"), ("[1]", "no JSON object"), ("x" * 70_000, "65536")]
)
async def test_an_answer_that_is_none_tells_nothing(body: str, what: str) -> None:
    async def handler(request: web.Request) -> web.Response:
        if request.method == "GET" and "set" not in seen:
            return web.json_response(WHAT_THERE_IS)
        return web.Response(text=body)

    seen: set[str] = set()
    async with served(handler) as url:
        made = router(url=url)
        reading = await made.read()
        seen.add("set")
        with pytest.raises(ReplyLost, match=what):
            await made.set_weights(Wanted(WHOLE), reading)
        with pytest.raises(NotDone, match=what):
            await made.read()
        with pytest.raises(NotDone, match=what):
            await made.poll(Change("1"))
        await made.close()


async def test_an_answer_to_a_change_that_does_not_say_what_became_of_it_is_a_lost_one() -> None:
    async with served(always({**WHAT_THERE_IS, "ok": True})) as url:
        made = router(url=url)
        with pytest.raises(ReplyLost, match="neither"):
            await made.set_weights(Wanted(WHOLE), await made.read())
        await made.close()


async def test_what_it_says_to_wait_is_waited() -> None:
    async with served(always({}, 429, **{"Retry-After": "7"})) as url:
        made = router(url=url)
        with pytest.raises(Throttled) as raised:
            await made.read()
        assert raised.value.retry_after_s == 7.0
        await made.close()


async def test_a_change_that_it_does_not_know_is_unknown() -> None:
    target = WebhookTarget()
    async with target.serve():
        made = target.router()
        progress = await made.poll(Change("change-77", {"weights": {}}))
        assert (progress.verdict, "no such change" in progress.detail) == (Verdict.UNKNOWN, True)
        await made.close()


async def test_in_sync_that_is_not_so_is_unknown() -> None:
    target = WebhookTarget()
    async with target.serve():
        made = target.router()
        change = await made.set_weights(Wanted(WHOLE), await made.read())
        target.fake.change_outside(weights={"blue": 100, "green": 0})
        assert (await made.poll(change)).verdict is Verdict.UNKNOWN
        await made.close()


async def test_the_query_of_its_url_is_kept_and_an_id_cannot_leave_its_place() -> None:
    asked = []

    async def handler(request: web.Request) -> web.Response:
        asked.append(request.raw_path)
        return web.json_response({"state": "pending"})

    async with served(handler) as url:
        made = router(url=f"{url}/a/shop?env=prod")
        for id in ("42", "../../x?y#z"):
            assert (await made.poll(Change(id))).verdict is Verdict.PENDING
        await made.close()
    assert asked == [
        "/a/shop/changes/42?env=prod", "/a/shop/changes/..%2F..%2Fx%3Fy%23z?env=prod",
    ]  # fmt: skip


async def test_the_tail_is_asked_for_anew() -> None:
    target = WebhookTarget()
    async with target.serve():
        made = target.router()
        target.fake.change_outside(ttl_s=60, tail_per_min=12)
        tail = await made.tail(0)
        assert (tail.ttl_s, tail.requests_per_min) == (60.0, 12.0)
        await made.close()


# ---------------------------------------------------------------- settings


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({}, "services.shop.outer.url is missing; it must be given"),
        ({"url": "edge.example/x"}, "expected `http://` or `https://`"),
        ({"url": "https://ann:pass@edge.example/"}, "it holds no credentials"),
        ({"url": "https://edge.example/#x"}, "expected `http://`"),
        ({"url": "https://edge.example:0/"}, "expected `http://`"),
        ({"url": "https://[::1/"}, "expected `http://`"),
        ({"url": "https://e.example/", "token": "a", "token_file": "b"}, "Remove one of them"),
        ({"url": "https://e.example/", "headers": "{If-Match: x}"}, "If-Match is set by Turnout"),
        ({"url": "https://e.example/", "headers": "{X-Key: 12}"}, "the value of X-Key: expected"),
        ({"url": "https://e.example/", "headers": '{"X Key": a}'}, "a field's name: expected"),
        ({"url": "https://e.example/", "steps": 1}, "expected 2 to 10000"),
    ],
)
def test_what_is_wrong_in_its_settings_is_named(settings: dict[str, Any], what: str) -> None:
    with pytest.raises(SettingsError) as raised:
        loaded(**settings)
    assert what in str(raised.value)


@pytest.mark.parametrize("key", ["token", "secret"])
def test_a_secret_that_cannot_be_one_is_not_shown(key: str) -> None:
    with pytest.raises(SettingsError) as raised:
        loaded(None, url="https://e.example/", **{key: '"my secret, its words"'})
    assert "my secret" not in str(raised.value)
    assert f"services.shop.outer.{key}" in str(raised.value)


def test_a_header_s_value_that_cannot_be_one_is_not_shown() -> None:
    with pytest.raises(SettingsError) as raised:
        loaded(url="https://e.example/", headers='{X-Key: "ä my secret"}')
    assert "my secret" not in str(raised.value)


# ---------------------------------------------------------------- the real processes


async def test_secrets_are_written_and_shown_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    target = WebhookTarget()
    names = {"EDGE_TOKEN": TOKEN, "EDGE_SECRET": SECRET, "EDGE_KEY": API_KEY}
    for name, value in names.items():
        monkeypatch.setenv(name, value)
    async with target.serve():
        outer = {
            **target.settings(),
            "token": "${EDGE_TOKEN}",
            "secret": "${EDGE_SECRET}",
            "headers": {"X-Api-Key": "${EDGE_KEY}"},
            "retry_for": "1s",
        }
        async with bench(workers=1, outer=outer) as at:
            assert (await at.product.api.switch("green"))["state"] == "completed"
            target.fake.inject(Fault.DENIED, 1000)
            failed = await at.product.api.switch("blue")
            assert "expired: (hidden)" in str(failed), failed
            shown = [str(failed)]
            for path in ("services", "services/shop/switchovers", "audit", "services/shop"):
                shown.append((await at.product.api.http.get(f"/v1/{path}")).text)
            dry = await at.product.api.switch("blue", wait=False, dry_run=True)
            shown.append(str(dry))
            checked = await asyncio.create_subprocess_exec(
                under_test.PYTHON, "-P", "-m", "turnout", "check", "--outer",
                "-c", str(at.product.config_file),
                env=at.product.environment, stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            said = (await checked.communicate())[0].decode()
            assert target.fake.url in said, said
            shown += [said, at.product.log()]
            written = {
                path: path.read_bytes() for path in at.product.base.rglob("*") if path.is_file()
            }
            assert any(path.name.startswith("turnout.db") for path in written)
    for value in names.values():
        assert not [text for text in shown if value in text]
        assert not [path for path, content in written.items() if value.encode() in content]
