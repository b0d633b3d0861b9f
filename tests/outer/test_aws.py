"""What is said of AWS's errors, and how a call is bounded."""

import asyncio
import re
import subprocess
import sys
import textwrap
import time
import traceback
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from botocore import exceptions as botocore

from tests.fakes.aws import CREDENTIALS
from tests.fakes.base import Call, FakeService, Fault
from turnout.config.loader import load_text
from turnout.control.outer import loading, seams
from turnout.control.outer.aws import AwsClient, failure_of
from turnout.control.outer.seams import Context, OuterError

ROOT = Path(__file__).resolve().parents[2]
WITH_UPSTREAMS = """
listeners: [{bind: "127.0.0.1:8080"}]
services:
  shop:
"""
WITHOUT_UPSTREAMS = f"""{WITH_UPSTREAMS}\
    upstreams: {{blue: {{servers: ["127.0.0.1:9001"]}}, green: {{servers: ["127.0.0.1:9002"]}}}}
"""


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    yield


def client_error(code: str, status: int, message: str = "as it is", **headers: str) -> Exception:
    response: Any = {
        "Error": {"Code": code, "Message": message},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
    }
    error: Exception = botocore.ClientError(response, "ModifyRule")
    return error


HANGS = """
import asyncio, os, socket, time
from turnout.control.outer.aws import AwsClient
from turnout.control.outer.seams import Context

async def turn(): pass

async def main(url):
    client = AwsClient(
        "route53", Context(("blue", "green"), 20.0, turn, lambda what, remedy: None), who="Route 53"
    )
    call = asyncio.create_task(client.call("get_change", Id="C1"))
    await asyncio.to_thread(silent.accept)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await client.close()

silent = socket.create_server(("127.0.0.1", 0))
os.environ["AWS_ENDPOINT_URL"] = url = f"http://127.0.0.1:{silent.getsockname()[1]}"
os.environ["AWS_DEFAULT_REGION"] = "eu-west-1"
asyncio.run(main(url))
print(time.monotonic(), flush=True)
"""


def test_a_process_ends_whatever_a_call_waits_for() -> None:
    ended = subprocess.run(
        [sys.executable, "-c", HANGS], stdout=subprocess.PIPE, check=True, timeout=30
    )
    assert time.monotonic() - float(ended.stdout) < 5


URL = "http://127.0.0.1:1"


@pytest.mark.parametrize(
    ("error", "reads", "writes"),
    [
        (client_error("Throttling", 400), seams.Throttled, seams.Throttled),
        (client_error("SlowDown", 503), seams.Throttled, seams.Throttled),
        (client_error("PriorRequestNotComplete", 400), seams.Throttled, seams.Throttled),
        (client_error("OperationInProgressFailure", 400), seams.Throttled, seams.Throttled),
        (client_error("Whatever", 429), seams.Throttled, seams.Throttled),
        (client_error("ExpiredToken", 403), seams.Denied, seams.Denied),
        (client_error("ExpiredTokenException", 400), seams.Denied, seams.Denied),
        (client_error("Whatever", 401), seams.Denied, seams.Denied),
        (client_error("SomethingInUse", 409), seams.Conflict, seams.Conflict),
        (client_error("ValidationError", 400), seams.Refused, seams.Refused),
        (client_error("com.amazonaws#Throttling", 400), seams.Throttled, seams.Throttled),
        (client_error("InternalFailure", 500), seams.NotDone, seams.ReplyLost),
        (client_error("ServiceUnavailable", 503), seams.NotDone, seams.ReplyLost),
        (client_error("", 502), seams.NotDone, seams.ReplyLost),
        (
            botocore.EndpointConnectionError(endpoint_url=URL, error="refused"),
            seams.NotDone,
            seams.NotDone,
        ),
        (botocore.ConnectTimeoutError(endpoint_url=URL), seams.NotDone, seams.NotDone),
        (botocore.ReadTimeoutError(endpoint_url=URL), seams.NotDone, seams.ReplyLost),
        (botocore.ConnectionClosedError(endpoint_url=URL), seams.NotDone, seams.ReplyLost),
        (botocore.SSLError(endpoint_url=URL, error="bad"), seams.NotDone, seams.ReplyLost),
        (botocore.NoCredentialsError(), seams.Denied, seams.Denied),
        (
            botocore.CredentialRetrievalError(provider="sso", error_msg="over"),
            seams.Denied,
            seams.Denied,
        ),
        (botocore.UnauthorizedSSOTokenError(), seams.Denied, seams.Denied),
        (botocore.NoRegionError(), seams.Refused, seams.Refused),
        (botocore.ProfileNotFound(profile="shop"), seams.Refused, seams.Refused),
        (botocore.ParamValidationError(report="it is wrong"), seams.Refused, seams.Refused),
    ],
    ids=lambda value: value.__name__ if isinstance(value, type) else str(value)[:40],
)
def test_an_error_of_boto3_says_whether_it_was_carried_out(
    error: Exception, reads: type[OuterError], writes: type[OuterError]
) -> None:
    for expected, does in ((reads, False), (writes, True)):
        failure = failure_of(error, "ALB: ModifyRule", writes=does, meanings={})
        assert type(failure) is expected
        assert str(failure).startswith("ALB: ModifyRule: ")


@pytest.mark.parametrize(
    ("sent", "writes", "meant"),
    [
        (False, True, seams.Refused),
        (False, False, seams.Refused),
        (True, True, seams.ReplyLost),
        (True, False, seams.NotDone),
    ],
)
def test_an_error_that_boto3_has_no_name_for_goes_by_whether_it_was_sent(
    sent: bool, writes: bool, meant: type[OuterError]
) -> None:
    failure = failure_of(ValueError("x"), "ALB: Modify", writes=writes, meanings={}, sent=sent)
    assert (type(failure), str(failure)) == (meant, "ALB: Modify: ValueError: x")


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (botocore.NoCredentialsError(), "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or"),
        (botocore.PartialCredentialsError(provider="env", cred_var="x"), "_KEY both"),
        (botocore.NoRegionError(), "set AWS_DEFAULT_REGION, or `region`"),
        (botocore.ProfileNotFound(profile="shop"), "correct AWS_PROFILE"),
        (botocore.UnauthorizedSSOTokenError(), "aws sso login"),
        (botocore.EndpointConnectionError(endpoint_url=URL), "whether this machine reaches it"),
        (botocore.ConnectTimeoutError(endpoint_url=URL), "whether this machine reaches it"),
        (botocore.ProxyConnectionError(proxy_url=URL), "HTTPS_PROXY"),
        (botocore.SSLError(endpoint_url=URL, error="bad"), "AWS_CA_BUNDLE"),
        (botocore.ParamValidationError(report="it is wrong"), "correct the setting"),
        (ValueError("Invalid endpoint: nonsense"), "https://host:port"),
        (ImportError("no such symbol"), r"pip install 'turnout[aws]'"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_the_user_can_mend_names_its_remedy(error: Exception, remedy: str) -> None:
    failure = failure_of(error, "ALB: ModifyRule", writes=False, meanings={}, sent=False)
    assert remedy in str(failure).partition(". Remedy: ")[2]


def test_a_service_may_have_codes_of_its_own() -> None:
    error = client_error("InvalidChangeBatch", 400)
    meanings = {"InvalidChangeBatch": seams.Conflict}
    failure = failure_of(error, "Route 53", writes=True, meanings=meanings)
    assert type(failure) is seams.Conflict


def test_the_text_of_a_wrong_signature_is_not_shown() -> None:
    error = client_error("SignatureDoesNotMatch", 403, "x-amz-security-token:SECRET")
    failure = failure_of(error, "ALB: ModifyRule", writes=True, meanings={})
    assert str(failure) == "ALB: ModifyRule: 403 SignatureDoesNotMatch"


def test_when_to_come_again_is_kept_as_it_was_said() -> None:
    error = client_error("Throttling", 400, **{"retry-after": "7"})
    failure = failure_of(error, "ALB: ModifyRule", writes=True, meanings={})
    assert isinstance(failure, seams.Throttled)
    assert failure.retry_after_s == 7


# ---------------------------------------------------------------- against a server


class Listeners(FakeService):
    """Answers DescribeListeners, a page of one at a time, and ModifyListener with nothing."""

    pages = 1

    def writes(self, request: web.Request, body: bytes) -> bool:
        return b"Action=Modify" in body

    def snapshot(self) -> Any:
        return None

    async def handle(self, request: web.Request, body: bytes) -> web.StreamResponse:
        name = "ModifyListener" if self.writes(request, body) else "DescribeListeners"
        page = int(body.rpartition(b"Marker=")[2]) if b"Marker=" in body else 1
        marker = f"<NextMarker>{page + 1}</NextMarker>" if page < self.pages else ""
        return web.Response(
            content_type="text/xml",
            text=f'<{name}Response xmlns="http://elasticloadbalancing.amazonaws.com/doc/2015-12-01/">'
            f"<{name}Result><Listeners><member><ListenerArn>{page}</ListenerArn></member>"
            f"</Listeners>{marker}</{name}Result></{name}Response>",
        )


@asynccontextmanager
async def serving(
    monkeypatch: pytest.MonkeyPatch, timeout_s: float = 5.0
) -> AsyncIterator[tuple[Listeners, AwsClient]]:
    async def turn() -> None:
        turns.append(time.monotonic())

    turns: list[float] = []
    async with Listeners() as fake:
        monkeypatch.setenv("AWS_ENDPOINT_URL_ELASTIC_LOAD_BALANCING_V2", fake.url)
        context = Context(("blue", "green"), timeout_s, turn, lambda what, remedy: None)
        client = AwsClient("elbv2", context, who="ALB")
        try:
            yield fake, client
        finally:
            await client.close()
        assert len(turns) >= len(fake.journal), "a call was made out of turn"


def texts(calls: list[Call]) -> list[str]:
    return [call.body.decode().partition("&")[0] for call in calls]


@pytest.mark.parametrize(
    ("fault", "meant"),
    [(Fault.LOST_BEFORE, seams.ReplyLost), (Fault.LOST_AFTER, seams.ReplyLost)],
)
async def test_a_call_is_made_once_whatever_comes_of_it(
    monkeypatch: pytest.MonkeyPatch, fault: Fault, meant: type[OuterError]
) -> None:
    async with serving(monkeypatch) as (fake, client):
        fake.inject(fault, 5)
        with pytest.raises(meant, match="ALB: ModifyListener"):
            await client.call("modify_listener", writes=True, ListenerArn="arn")
        assert texts(fake.journal) == ["Action=ModifyListener"]


async def test_a_lost_reading_call_may_be_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch) as (fake, client):
        fake.inject(Fault.LOST_AFTER, writes=False)
        with pytest.raises(seams.NotDone):
            await client.call("describe_listeners")
        assert (await client.call("describe_listeners"))["Listeners"] == [{"ListenerArn": "1"}]


async def test_no_answer_in_time_is_a_lost_reply(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch, timeout_s=1.0) as (fake, client):
        await client.call("describe_listeners")
        fake.slow_s = 8.0
        fake.inject(Fault.SLOW)
        began = time.monotonic()
        with pytest.raises(seams.ReplyLost):
            await client.call("modify_listener", writes=True, ListenerArn="arn")
        assert time.monotonic() - began < 6


async def test_what_was_given_up_is_not_sent_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of its threads is held up past the time that the call had for being sent."""
    async with serving(monkeypatch, timeout_s=1.5) as (fake, client):
        await client.call("describe_listeners")

        def held_up(**_: Any) -> None:
            time.sleep(0.8)

        assert client._client is not None
        client._client.meta.events.register_first("before-sign", held_up)
        with pytest.raises(seams.NotDone, match="could not be sent in time"):
            await client.call("modify_listener", writes=True, ListenerArn="arn")
        assert texts(fake.journal) == ["Action=DescribeListeners"]


async def test_nothing_listening_is_not_done(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch) as (fake, client):
        await fake.__aexit__()
        with pytest.raises(seams.NotDone, match="EndpointConnectionError"):
            await client.call("modify_listener", writes=True, ListenerArn="arn")
        await fake.__aenter__()


@pytest.mark.parametrize(
    ("variables", "meant", "words"),
    [
        (
            {"AWS_ENDPOINT_URL_ELASTIC_LOAD_BALANCING_V2": "nonsense"},
            seams.Refused,
            "Invalid endpoint: nonsense. Remedy: write AWS_ENDPOINT_URL…",
        ),
        ({"AWS_PROFILE": "nobody"}, seams.Refused, "(nobody) could not be found. Remedy: correct"),
        ({"AWS_DEFAULT_REGION": None}, seams.Refused, "specify a region. Remedy: set AWS_DEFAULT"),
        ({"AWS_SECRET_ACCESS_KEY": None}, seams.Denied, "Remedy: set AWS_ACCESS_KEY_ID and"),
        ({"AWS_SESSION_TOKEN": "token-0123456789\n"}, seams.Denied, "has a line break"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
async def test_what_boto3_cannot_use_is_said_with_a_remedy_and_nothing_is_sent(
    monkeypatch: pytest.MonkeyPatch,
    variables: dict[str, str | None],
    meant: type[OuterError],
    words: str,
) -> None:
    async with serving(monkeypatch) as (fake, client):
        for name, value in variables.items():
            if value is None:
                monkeypatch.delenv(name)
            else:
                monkeypatch.setenv(name, value)
        with pytest.raises(OuterError) as raised:
            await client.call("modify_listener", writes=True, ListenerArn="arn")
        assert type(raised.value) is meant, raised.value
        assert words in str(raised.value)
        shown = "".join(traceback.format_exception(raised.value))
        assert "token-0123456789" not in shown
        assert fake.journal == []


async def test_a_call_that_cannot_be_built_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch) as (fake, client):
        with pytest.raises(
            seams.Refused, match=r"ParamValidationError.*Remedy: correct the setting"
        ):
            await client.call("modify_listener", writes=True, ListenerArn=7)
        assert fake.journal == []


async def test_all_pages_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    async with serving(monkeypatch) as (fake, client):
        fake.pages = 3
        found = await client.every(
            "describe_listeners", "Listeners", sends="Marker", gets="NextMarker"
        )
        assert [entry["ListenerArn"] for entry in found] == ["1", "2", "3"]


async def test_credentials_that_were_renewed_are_found_by_the_next_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    async with serving(monkeypatch) as (_, client):
        with pytest.raises(seams.Denied, match="NoCredentialsError"):
            await client.call("describe_listeners")
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDEXAMPLE")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        await client.call("describe_listeners")


async def test_the_loop_goes_on_while_boto3_is_imported_and_called(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with serving(monkeypatch) as (fake, client):
        fake.slow_s = 0.3
        fake.inject(Fault.SLOW, writes=False)
        call = asyncio.create_task(client.call("describe_listeners"))
        beats = 0
        while not call.done():
            await asyncio.sleep(0.01)
            beats += 1
        assert beats >= 10
        await call


# ---------------------------------------------------------------- what is not installed


@pytest.mark.parametrize("kind", ["gates", "outer", "discover"])
def test_without_boto3_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    async def turn() -> None:
        """No pace."""

    sections = {
        "gates": "gates: {a: {kind: cloudwatch_alarm, names: [x]}}",
        "outer": "outer: {kind: elastic_beanstalk, cname: a.example,"
        " environments: {blue: blue, green: green}}",
        "discover": "upstreams: {blue: {servers: ['127.0.0.1:1']}, green: {discover:"
        " {kind: elastic_beanstalk, environment: shop-green}}}",
    }
    text = WITH_UPSTREAMS if kind == "discover" else WITHOUT_UPSTREAMS
    service = load_text(f"{text}    {sections[kind]}\n", environ={}).services[0]
    discover = service.upstreams[1].discover
    context = Context(("blue", "green"), 5.0, turn, lambda what, remedy: None)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(seams.MissingExtra, match=r"pip install 'turnout\[aws\]'"):
        if kind == "gates":
            loading.make_gate(service.gates[0].settings, context)
        elif kind == "outer" and service.outer:
            loading.make_router(service.outer.settings, context)
        elif discover:
            loading.make_discovery(discover.settings, context)


# ---------------------------------------------------------------- the page


def test_the_settings_on_the_page_are_taken_by_the_loader() -> None:
    page = (ROOT / "docs" / "outer" / "aws.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    assert len(blocks) >= 6
    for block in blocks:
        text = WITH_UPSTREAMS if "upstreams:" in block else WITHOUT_UPSTREAMS
        service = load_text(text + textwrap.indent(block, "    "), environ={}).services[0]
        assert service.outer or service.gates or any(one.discover for one in service.upstreams)
