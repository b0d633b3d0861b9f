"""Tokens by which Azure and Google Cloud know who calls: where they come from, and until when.

`Tokens` is the `Authorization` of `rest`: it keeps one token until shortly before it expires
and has one renewal under way at a time. What it gets a token from is a source, one function for
each: a file, a command, the platform's metadata server, Microsoft Entra ID.

A token is never part of an error, nor of what any object here looks like. Service account keys of
Google are not read: signing by them takes a library of its own, and `gcloud`, as a command, does it.

Sources: learn.microsoft.com, "How to use managed identities for Azure resources on an Azure VM to
acquire an access token" and "OAuth 2.0 client credentials flow"; cloud.google.com, "Get access
tokens" of the Compute Engine metadata server; the variables as azure-identity and google-auth
name them.
"""

import asyncio
import contextlib
import json
import os
import re
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote, urlsplit

import httpx

from turnout.config.outer.credentials import AzureCredentials, AzureIdentity, GoogleCredentials
from turnout.config.places import is_loopback
from turnout.control.outer.rest import retry_after_s
from turnout.control.outer.seams import Denied, NotDone, OuterError, Throttled

EARLY_S: Final = 120.0
"""How long before it expires a token is renewed; of short-lived ones a tenth of their life."""
TOKEN_BYTES_MAX: Final = 64 * 1024
"""Of a file or of what a command prints; tokens with many groups have some 10 KB."""
_SHOWN_MAX: Final = 300
_VISIBLE: Final = re.compile(r"[!-~]{1,65536}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Token:
    value: str = field(repr=False)
    life_s: float | None = None
    """From now on; None: it is asked for anew each time."""


Source = Callable[[], Awaitable[Token]]
"""Gets a token. Raises Denied, with what to do about it; NotDone when it may work by itself."""


class Tokens:
    """`Authorization: Bearer …`, from a source.

    >>> tokens = azure_tokens(settings.credentials, audience="https://management.azure.com")
    >>> rest = Rest(url, who="Azure", timeout_s=10, turn=turn, authorization=tokens)
    """

    __slots__ = ("_lock", "_monotonic", "_source", "_token", "_until")

    def __init__(self, source: Source, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._monotonic = monotonic
        self._lock = asyncio.Lock()
        self._token = ""
        self._until = float("-inf")

    async def __call__(self) -> Mapping[str, str]:
        """The field for a call. Raises Denied or NotDone."""
        async with self._lock:
            if self._monotonic() >= self._until:
                await self._renew()
            return {"authorization": f"Bearer {self._token}"}

    async def renew(self, refused: Mapping[str, str]) -> bool:
        """These fields were refused (401): whether there are others now. Raises as a call."""
        async with self._lock:
            before = refused.get("authorization")
            if before == f"Bearer {self._token}":  # nobody else has renewed it meanwhile
                await self._renew()
            return before != f"Bearer {self._token}"

    async def _renew(self) -> None:
        asked = self._monotonic()
        token = await self._source()
        self._token = token.value
        life_s = token.life_s or 0.0
        self._until = asked + life_s - min(EARLY_S, life_s / 10)


def azure_tokens(
    settings: AzureCredentials, audience: str, environ: Mapping[str, str] = os.environ
) -> Tokens:
    """Tokens of Microsoft Entra ID for an API; `audience` is its URL. Raises Denied when a
    variable is missing that it needs."""
    named = _file_or_command(settings)
    if named is not None:
        return Tokens(named)
    identity = settings.identity
    if identity is AzureIdentity.BY_ENVIRONMENT:
        identity = _by_environment(environ)
    client_id = settings.client_id or environ.get("AZURE_CLIENT_ID", "")
    if identity is AzureIdentity.MANAGED:
        return Tokens(managed_identity(audience, client_id, environ, settings.timeout))
    need = {
        "AZURE_TENANT_ID": settings.tenant_id or environ.get("AZURE_TENANT_ID", ""),
        "AZURE_CLIENT_ID": client_id,
    }
    proof = (
        "AZURE_CLIENT_SECRET"
        if identity is AzureIdentity.CLIENT_SECRET
        else "AZURE_FEDERATED_TOKEN_FILE"
    )
    need[proof] = environ.get(proof, "")
    for variable, value in need.items():
        if not value:
            raise Denied(f"credentials.identity is {identity}, and it needs {variable}: set it")
    application = Application(
        need["AZURE_TENANT_ID"],
        client_id,
        environ.get("AZURE_AUTHORITY_HOST") or "https://login.microsoftonline.com",
        secret=need.get("AZURE_CLIENT_SECRET", ""),
        federated_token_file=need.get("AZURE_FEDERATED_TOKEN_FILE", ""),
    )
    return Tokens(entra_id(application, audience, settings.timeout))


def google_tokens(settings: GoogleCredentials, environ: Mapping[str, str] = os.environ) -> Tokens:
    """Access tokens of Google Cloud."""
    named = _file_or_command(settings)
    if named is not None:
        return Tokens(named)
    host = environ.get("GCE_METADATA_HOST") or environ.get("GCE_METADATA_ROOT")
    return Tokens(
        google_metadata(
            host or "metadata.google.internal", settings.service_account, settings.timeout
        )
    )


def _file_or_command(settings: AzureCredentials | GoogleCredentials) -> Source | None:
    if settings.token_file is not None:
        return token_file(settings.token_file)
    if settings.token_command:
        return token_command(settings.token_command, settings.timeout, settings.reuse)
    return None


def _by_environment(environ: Mapping[str, str]) -> AzureIdentity:
    if environ.get("AZURE_CLIENT_SECRET"):
        return AzureIdentity.CLIENT_SECRET
    if environ.get("AZURE_FEDERATED_TOKEN_FILE"):
        return AzureIdentity.WORKLOAD
    return AzureIdentity.MANAGED


# ---------------------------------------------------------------- a file, a command


def token_file(path: str) -> Source:
    """A token alone in a file, read each time: it may have been renewed."""

    async def read() -> Token:
        return Token(await asyncio.to_thread(_content, path))

    return read


def _content(path: str) -> str:
    try:
        with open(path, "rb") as file:
            content = file.read(TOKEN_BYTES_MAX + 1)
    except OSError as error:
        raise Denied(f"the token in {path} cannot be read: {error.strerror}") from None
    return _one_token(content, f"the token in {path}")


def _one_token(content: bytes, what: str) -> str:
    if len(content) > TOKEN_BYTES_MAX:
        raise Denied(f"{what} has more than {TOKEN_BYTES_MAX} bytes: that is no token")
    text = content.decode("ascii", "replace").strip()
    if not text:
        raise Denied(f"{what} is empty")
    if not _VISIBLE.fullmatch(text):
        raise Denied(f"{what} is not one word of visible ASCII: expected a token alone")
    return text


def token_command(command: Sequence[str], timeout_s: float, reuse_s: float) -> Source:
    """What a command prints; `reuse_s`: how long it is used if it does not say."""
    what = f"the token of {command[0]}"

    async def run() -> Token:
        code, output, complaint = await _output(command, timeout_s)
        if code and len(output) <= TOKEN_BYTES_MAX:
            said = f": {_without_tokens(complaint)}" if complaint.strip() else ""
            raise Denied(f"{what}: it ended with {code}{said}")
        if output.lstrip()[:1] == b"{":
            return _token_of(_document(output, what), what, reuse_s)
        return Token(_one_token(output, what), reuse_s)

    return run


async def _output(command: Sequence[str], timeout_s: float) -> tuple[int, bytes, bytes]:
    """Run it; its exit status, output and complaints, of each at most a little too much."""
    what = f"the token of {command[0]}"
    async with _pipe() as (stdout, output), _pipe() as (stderr, complaint):
        try:
            # A session of its own: what it has started in turn ends with it.
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        except OSError as error:
            raise Denied(f"{what}: it cannot be started: {error.strerror}") from None
        finally:
            os.close(stdout)
            os.close(stderr)

        def end() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

        try:
            async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
                printed = group.create_task(_at_most(output, end))
                complained = group.create_task(_at_most(complaint, end))
                code = await process.wait()
                end()  # what it left behind would keep the pipes open
        except TimeoutError:
            raise Denied(
                f"{what}: it took longer than credentials.timeout, {timeout_s:g} s"
            ) from None
        finally:
            end()
            await process.wait()
    return code, printed.result(), complained.result()


@contextlib.asynccontextmanager
async def _pipe() -> AsyncIterator[tuple[int, asyncio.StreamReader]]:
    """The end to write to, which the caller closes, and what comes out.

    asyncio's own for subprocesses would have to be read to their end before a process can be
    waited for, and one that prints without end has none.
    """
    there, here = os.pipe()
    try:
        stream = asyncio.StreamReader()
        transport, _ = await asyncio.get_running_loop().connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(there, "rb", 0)
        )
    except BaseException:
        os.close(here)
        raise
    try:
        yield here, stream
    finally:
        transport.close()


async def _at_most(stream: asyncio.StreamReader, end: Callable[[], None]) -> bytes:
    """All that comes; what is more than a token may have ends it."""
    content = b""
    while more := await stream.read(16384):
        content += more
        if len(content) > TOKEN_BYTES_MAX:
            end()
            break
    return content[: TOKEN_BYTES_MAX + 1]


def _without_tokens(complaint: bytes) -> str:
    """What a program complained of, without words so long that they may be a token."""
    text = " ".join(complaint.decode("utf-8", "replace").split())
    text = re.sub(r"[^\s/]{32,}", "(…)", text)
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"


# ---------------------------------------------------------------- metadata servers


def managed_identity(
    audience: str, client_id: str, environ: Mapping[str, str], timeout_s: float
) -> Source:
    """Azure's own identity of where Turnout runs; `client_id` of one that a user assigned."""
    params = {"resource": f"{audience}/"}
    if client_id:
        params["client_id"] = client_id
    endpoint, secret = environ.get("IDENTITY_ENDPOINT"), environ.get("IDENTITY_HEADER")
    if endpoint and secret:
        url, headers = endpoint, {"x-identity-header": secret}
        params["api-version"] = "2019-08-01"
    else:
        base = environ.get("AZURE_POD_IDENTITY_AUTHORITY_HOST") or "http://169.254.169.254"
        url, headers = f"{base.rstrip('/')}/metadata/identity/oauth2/token", {"metadata": "true"}
        params["api-version"] = "2018-02-01"
    what = f"the managed identity of Azure ({urlsplit(url).netloc})"

    async def ask() -> Token:
        async with _client(url, timeout_s, by_proxy=False) as client:
            answer = await _answer(client.get(url, params=params, headers=headers), what)
        return _token_of(_document(answer.content, what), what)

    return ask


def google_metadata(host: str, account: str, timeout_s: float) -> Source:
    """The service account of the machine, by the metadata server at `host` or `host:port`."""
    path = f"/computeMetadata/v1/instance/service-accounts/{quote(account, safe='@')}/token"
    what = f"the metadata server of Google Cloud ({host})"

    async def ask() -> Token:
        async with _client("http://", timeout_s, by_proxy=False) as client:
            answer = await _answer(
                client.get(f"http://{host}{path}", headers={"metadata-flavor": "Google"}), what
            )
        if answer.headers.get("metadata-flavor") != "Google":
            raise Denied(f"{what}: what answers there is no metadata server")
        return _token_of(_document(answer.content, what), what)

    return ask


# ---------------------------------------------------------------- Microsoft Entra ID


@dataclass(frozen=True, slots=True)
class Application:
    """An application of a directory, with one of two proofs."""

    tenant_id: str
    client_id: str
    authority: str
    secret: str = field(default="", repr=False)
    federated_token_file: str = ""
    """Of a token by somebody whom the application trusts; it is renewed in place."""


def entra_id(application: Application, audience: str, timeout_s: float) -> Source:
    """A token by the client credentials flow. Raises Denied for an authority in the clear."""
    authority = application.authority.rstrip("/")
    if "://" not in authority:
        authority = f"https://{authority}"
    place = urlsplit(authority)
    if place.scheme != "https" and not is_loopback(place.hostname or ""):
        raise Denied(f"AZURE_AUTHORITY_HOST is {authority}: a secret goes there. Write https://")
    url = f"{authority}/{application.tenant_id}/oauth2/v2.0/token"
    what = f"Microsoft Entra ID ({place.netloc})"
    form = {
        "grant_type": "client_credentials",
        "client_id": application.client_id,
        "scope": f"{audience}/.default",
    }

    async def ask() -> Token:
        if application.secret:
            proof = {"client_secret": application.secret}
        else:
            assertion = await asyncio.to_thread(_content, application.federated_token_file)
            proof = {
                "client_assertion_type": "urn:ietf:params:oauth:client-assertion-type:jwt-bearer",
                "client_assertion": assertion,
            }
        async with _client(url, timeout_s, by_proxy=True) as client:
            answer = await _answer(client.post(url, data={**form, **proof}), what)
        return _token_of(_document(answer.content, what), what)

    return ask


# ---------------------------------------------------------------- answers


def _client(url: str, timeout_s: float, *, by_proxy: bool) -> httpx.AsyncClient:
    """`by_proxy`: by the one that the environment names; a metadata server is on this machine."""
    # Without TLS there is nothing to verify, and reading the authorities takes 70 ms.
    tls = url.startswith("https:")
    return httpx.AsyncClient(timeout=timeout_s, trust_env=by_proxy, verify=tls)


async def _answer(call: Awaitable[httpx.Response], what: str) -> httpx.Response:
    """Its answer, 2xx only. Raises Denied, Throttled, NotDone: asking again does no harm."""
    try:
        answer = await call
    except (httpx.ConnectError, httpx.ConnectTimeout) as error:
        # For what runs elsewhere the address is nobody's: it is said like a refusal.
        raise Denied(
            f"{what} cannot be reached: {type(error).__name__}. If Turnout does not run there,"
            " say in `credentials` where its tokens come from"
        ) from None
    except httpx.HTTPError as error:
        raise NotDone(f"{what} does not answer: {type(error).__name__}") from None
    if answer.is_success:
        return answer
    raise _refusal(what, answer)


def _refusal(what: str, answer: httpx.Response) -> OuterError:
    text = f"{what}: {answer.status_code} {_reason(answer)}".rstrip()
    status = answer.status_code
    if status == 429:
        return Throttled(text, retry_after_s(answer))
    # 404 and 410 are the metadata service's words for "being updated", by its documentation.
    if status >= 500 or status in (404, 410):
        return NotDone(text, retry_after_s(answer))
    return Denied(text)


def _reason(answer: httpx.Response) -> str:
    """What an OAuth error says; never all of a body, which nobody knows what is in."""
    try:
        document = answer.json()
    except ValueError:
        return ""
    if not isinstance(document, dict):
        return ""
    words = [str(document.get(key, "")) for key in ("error", "error_description")]
    return _without_tokens(" ".join(words).encode())


def _document(content: bytes, what: str) -> Mapping[str, Any]:
    try:
        document = json.loads(content)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise Denied(f"{what}: its answer is no JSON object")
    return document


def _token_of(
    document: Mapping[str, Any], what: str, reuse_s: float = 0.0, now: float | None = None
) -> Token:
    """The token of an answer, in any of the spellings in use; numbers may be text."""
    value = document.get("access_token") or document.get("accessToken")
    if not isinstance(value, str) or not _VISIBLE.fullmatch(value):
        raise Denied(f"{what}: its answer has no access_token")
    life_s = _number(document.get("expires_in"))
    if life_s is None and (until := _number(document.get("expires_on"))) is not None:
        life_s = until - (time.time() if now is None else now)
    return Token(value, reuse_s if life_s is None else max(life_s, 0.0))


def _number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
