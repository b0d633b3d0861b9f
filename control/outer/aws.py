"""Calls of AWS for what is in this room: boto3 in a thread, and what its failures mean.

boto3 (`turnout[aws]`) is imported by the first call, in the thread. Region, credentials and
endpoints are found as boto3 finds them: environment, profile, instance or container role,
`AWS_ENDPOINT_URL_…`. Its own retries are off: whether a call may be made again is decided by who
made it, who reads first.

As in `rest`: a call that certainly was not carried out raises NotDone or one of its kinds; one
of which nobody knows raises ReplyLost.
"""

import asyncio
import functools
import importlib.util
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from turnout.control.outer.seams import (
    Conflict,
    Context,
    Denied,
    NotDone,
    OuterError,
    Refused,
    ReplyLost,
    Throttled,
)

THROTTLED: Final = frozenset(
    {
        # As botocore lists them (retries/standard.py, 1.44) …
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "RequestThrottledException",
        "RequestThrottled",
        "TooManyRequestsException",
        "ProvisionedThroughputExceededException",
        "TransactionInProgressException",
        "RequestLimitExceeded",
        "BandwidthLimitExceeded",
        "LimitExceededException",
        "SlowDown",
        "PriorRequestNotComplete",
        "EC2ThrottledException",
        # … and where an earlier change is still being carried out (Elastic Beanstalk).
        "OperationInProgressFailure",
        "OperationInProgressException",
    }
)
DENIED: Final = frozenset(
    {
        "AccessDenied",
        "AccessDeniedException",
        "AuthFailure",
        "AuthorizationError",
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InsufficientPrivilegesException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "NotAuthorized",
        "OptInRequired",
        "RequestExpired",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnauthorizedOperation",
        "UnrecognizedClientException",
    }
)
# Their texts repeat what was signed, which has the session's token in it.
_WITHOUT_TEXT: Final = frozenset(
    {"SignatureDoesNotMatch", "InvalidSignatureException", "IncompleteSignature"}
)
# Of botocore, by name: it is not imported here. Nothing has left this machine.
_UNSENT: Final = frozenset(
    {"EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError"}
)
_WITHOUT_CREDENTIALS: Final = frozenset(
    {
        "NoCredentialsError",
        "PartialCredentialsError",
        "CredentialRetrievalError",
        "MetadataRetrievalError",
        "NoAuthTokenError",
        "TokenRetrievalError",
        "SSOError",
        "LoginError",
    }
)
# No answer, or one that cannot be read. Any other error of botocore is about what was asked.
_UNANSWERED: Final = frozenset(
    {
        "HTTPClientError",
        "ConnectionError",
        "IncompleteReadError",
        "ChecksumError",
        "FlexibleChecksumError",
        "ResponseParserError",
    }
)
# What to do about it, by the error's name; the first kind of it that is here.
_REMEDIES: Final = {
    "NoCredentialsError": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, or "
    "give the machine a role",
    "PartialCredentialsError": "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY both, or "
    "AWS_PROFILE",
    "SSOError": "sign in anew: aws sso login",
    "LoginError": "sign in anew: aws login",
    "TokenRetrievalError": "sign in anew: aws sso login",
    "CredentialRetrievalError": "see to what AWS_PROFILE, or the machine's role, takes them from",
    "MetadataRetrievalError": "see to the machine's role, or set AWS_PROFILE",
    "NoRegionError": "set AWS_DEFAULT_REGION, or `region` where the section has one",
    "InvalidRegionError": "correct AWS_DEFAULT_REGION, or `region`",
    "ProfileNotFound": "correct AWS_PROFILE, or write that profile into ~/.aws/config",
    "ConfigNotFound": "correct AWS_CONFIG_FILE",
    "ConfigParseError": "correct that file, or AWS_CONFIG_FILE",
    "ProxyConnectionError": "correct HTTPS_PROXY and NO_PROXY",
    "SSLError": "let AWS_CA_BUNDLE name the authorities to trust, or correct AWS_ENDPOINT_URL…",
    "EndpointConnectionError": "see whether this machine reaches it, and correct `region` or "
    "AWS_ENDPOINT_URL…",
    "ConnectTimeoutError": "see whether this machine reaches it, and correct `region` or "
    "AWS_ENDPOINT_URL…",
    "ParamValidationError": "correct the setting that it names",
    "ImportError": "install it anew: pip install 'turnout[aws]'",
}
_WRONG_ENDPOINT: Final = "Invalid endpoint"
_WRONG_HEADER: Final = "Invalid header value"
_SHOWN_MAX: Final = 300
_PAGES_MAX: Final = 200
_START_S: Final = 10.0
"""How long importing boto3 and finding credentials may take, once, before the first call."""
_THREADS: Final = 4

Meanings = Mapping[str, type[OuterError]]
"""Error code -> what it means, where a service has codes of its own."""


class _Late(Exception):
    """Its time was over before it was sent."""


class _Failed(Exception):
    """A call that boto3 did not carry through."""

    def __init__(self, error: Exception, sent: bool) -> None:
        self.error = error
        self.sent = sent
        super().__init__(error)


class Turns:
    """Turns that were waited for ahead of some calls: those follow one another at once.

    One is kept for the call that writes, however many calls the reading before it takes.
    """

    def __init__(self, left: int) -> None:
        self._left = left

    def take(self, *, writes: bool) -> bool:
        """Whether there is one for this call."""
        if self._left <= (0 if writes else 1):
            return False
        self._left -= 1
        return True


class AwsClient:
    """A client of one AWS service, to be used in one event loop.

    >>> client = AwsClient("route53", context, who="Route 53")
    >>> answer = await client.call("change_resource_record_sets", writes=True, HostedZoneId=…)
    """

    def __init__(
        self,
        service: str,
        context: Context,
        *,
        who: str,
        region: str | None = None,
        meanings: Meanings | None = None,
    ) -> None:
        """`service` as boto3 has it, `who` as people read it in errors.

        Raises ModuleNotFoundError, which `loading` turns into MissingExtra.
        """
        if importlib.util.find_spec("boto3") is None:
            raise ModuleNotFoundError("No module named 'boto3'", name="boto3")
        self._service = service
        self._context = context
        self._who = who
        self._region = region
        self._meanings = meanings or {}
        self._free = asyncio.Semaphore(_THREADS)
        self._closed = False
        self._making = asyncio.Lock()
        self._client: Any = None
        self._this_call = threading.local()

    async def turns(self, reads: int) -> Turns:
        """Wait for the turns of so many calls that read and one that writes.

        To be given to these calls. What is changed outside while a turn is waited for is then
        seen by the reading: between it and the writing nothing waits.
        """
        for _ in range(reads + 1):
            await self._context.turn()
        return Turns(reads + 1)

    async def call(
        self, method: str, *, writes: bool = False, turns: Turns | None = None, **parameters: Any
    ) -> dict[str, Any]:
        """Make the call `method`, as boto3 names it, once, and return its answer.

        `writes`: it may change something. `turns`: those that were waited for already. Raises as
        `failure_of` says.
        """
        what = f"{self._who}: {_operation(method)}"
        if turns is None or not turns.take(writes=writes):
            await self._context.turn()
        client = await self._ready(what)
        timeout_s = self._context.timeout_s
        # Connecting takes up to half of the time: what is not being sent by the other half
        # never is, so that nothing is carried out after it was said to have been lost.
        send_by = time.monotonic() + timeout_s / 2
        try:
            async with asyncio.timeout(timeout_s):
                answer: dict[str, Any] = await self._in_thread(
                    self._made, client, method, send_by, parameters
                )
                return answer
        except TimeoutError:
            text = f"{what}: no answer within {timeout_s:g} s"
            raise (ReplyLost if writes else NotDone)(text) from None
        except _Failed as failed:
            failure = failure_of(
                failed.error, what, writes=writes, meanings=self._meanings, sent=failed.sent
            )
            if isinstance(failure, Denied):
                self._forget()
            raise failure from (None if _is_secret(failed.error) else failed.error)

    async def every(
        self,
        method: str,
        items: str,
        *,
        sends: str,
        gets: str,
        turns: Turns | None = None,
        **parameters: Any,
    ) -> list[dict[str, Any]]:
        """The `items` of all pages of a reading call.

        `gets` is the answer's field with where the next page begins, `sends` the parameter that
        takes it. Raises as `call`, and Refused after 200 pages.
        """
        found: list[dict[str, Any]] = []
        for _ in range(_PAGES_MAX):
            answer = await self.call(method, turns=turns, **parameters)
            found += answer.get(items) or []
            token = answer.get(gets)
            if not token:
                return found
            parameters[sends] = token
        raise Refused(f"{self._who}: {_operation(method)}: more than {_PAGES_MAX} pages")

    async def close(self) -> None:
        client, self._client = self._client, None
        self._closed = True
        if client is not None:
            client.close()

    # ------------------------------------------------------------ in the threads

    def _made(
        self, client: Any, method: str, send_by: float, parameters: Mapping[str, Any]
    ) -> dict[str, Any]:
        this = self._this_call
        this.send_by, this.sent = send_by, False
        try:
            answer: dict[str, Any] = getattr(client, method)(**parameters)
        # Errors of botocore and of what it uses have no base class in common.
        except Exception as error:
            raise _Failed(error, this.sent) from error
        return answer

    def _not_late(self, **_: Any) -> None:
        if time.monotonic() > self._this_call.send_by:
            raise _Late
        self._this_call.sent = True

    def _connected(self) -> Any:
        # The import alone takes 0.2 s and 45 MiB: for who has configured it, and not in the loop.
        import boto3
        import botocore.session
        from botocore.config import Config

        # A session of its own: boto3's is not for several threads. What describes the services
        # is read once for all of them: it is most of the time and the memory that a client takes.
        core = botocore.session.get_session()
        core.register_component("data_loader", _descriptions(core.get_config_variable("data_path")))
        client = boto3.session.Session(botocore_session=core).client(
            self._service,
            region_name=self._region,
            config=Config(
                connect_timeout=self._context.timeout_s / 2,
                read_timeout=self._context.timeout_s,
                retries={"total_max_attempts": 1, "mode": "standard"},
                max_pool_connections=_THREADS,
            ),
        )
        client.meta.events.register("before-send", self._not_late)
        return client

    # ------------------------------------------------------------ around them

    async def _in_thread(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """One of a few, each for one call. Who ends waits for none of them: an executor's would be
        waited for at the end of the process, for as long as a call may hang."""
        if self._closed:
            raise RuntimeError(f"the client of {self._who} is closed")
        loop = asyncio.get_running_loop()
        await self._free.acquire()
        future: asyncio.Future[Any] = loop.create_future()

        def settle(result: Any, error: BaseException | None) -> None:
            self._free.release()
            if future.done():
                return  # nobody waits any more
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        def work() -> None:
            result, error = None, None
            try:
                result = function(*arguments)
            except BaseException as raised:  # noqa: BLE001 - it is raised by who waits
                error = raised
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(settle, result, error)

        try:
            threading.Thread(target=work, name=f"aws-{self._service}", daemon=True).start()
        except RuntimeError:
            self._free.release()
            raise
        return await future

    async def _ready(self, what: str) -> Any:
        async with self._making:
            if self._client is None:
                try:
                    async with asyncio.timeout(_START_S + self._context.timeout_s):
                        self._client = await self._in_thread(self._connected)
                except TimeoutError:
                    raise Denied(f"{what}: no credentials were found in time") from None
                # Whatever it is: a profile, an endpoint or a file that boto3 cannot use.
                except Exception as error:
                    raise failure_of(error, what, writes=False, meanings={}, sent=False) from error
            return self._client

    def _forget(self) -> None:
        # boto3 keeps what it once read of files and variables; it may have been renewed there.
        self._client = None


@functools.cache
def _descriptions(data_path: str | None) -> Any:
    from botocore.loaders import create_loader

    return create_loader(data_path)


def failure_of(
    error: Exception, what: str, *, writes: bool, meanings: Meanings, sent: bool = True
) -> OuterError:
    """What an error that boto3 raised means. `sent`: the call has begun to leave this machine.

    Throttled, Denied and what `meanings` says go by the error code, whatever the status. Else
    status 409 and 412 are Conflict, other 4xx Refused, 5xx and no answer ReplyLost, or NotDone
    of a call that only reads; what never left this machine is NotDone, or Denied for want of
    credentials; what botocore itself does not take is Refused, and so is anything else that was
    raised before the call was sent. After that nobody knows.
    """
    if isinstance(error, _Late):
        return NotDone(f"{what}: it could not be sent in time")
    names = [kind.__name__ for kind in type(error).__mro__]
    response = getattr(error, "response", None)
    if "ClientError" in names and isinstance(response, Mapping):
        return _refusal(response, what, writes=writes, meanings=meanings)
    if _is_secret(error):
        # Raised before anything is written.
        return Denied(
            f"{what}: a credential has a line break, or what else no header may have. Write it "
            f"anew: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, or the profile's"
        )
    text = f"{what}: {_cut(f'{type(error).__name__}: {error}').rstrip('.')}{_remedy(error, names)}"
    lost = ReplyLost(text) if writes else NotDone(text)
    for name in names:
        if name in _UNSENT:
            return NotDone(text)
        if name in _WITHOUT_CREDENTIALS:
            return Denied(text)
        if name in _UNANSWERED:
            return lost
    return Refused(text) if "BotoCoreError" in names or not sent else lost


def _is_secret(error: Exception) -> bool:
    """Whether its text has a credential: the value of a header that cannot be sent."""
    return _WRONG_HEADER in str(error)


def _remedy(error: Exception, names: Sequence[str]) -> str:
    if _WRONG_ENDPOINT in str(error):
        found: str | None = (
            "write AWS_ENDPOINT_URL… (or `endpoint_url` in ~/.aws/config) as https://host:port, or "
            "leave it out"
        )
    else:
        found = next((_REMEDIES[name] for name in names if name in _REMEDIES), None)
    return f". Remedy: {found}" if found else ""


def _refusal(
    response: Mapping[str, Any], what: str, *, writes: bool, meanings: Meanings
) -> OuterError:
    said = response.get("Error") or {}
    meta = response.get("ResponseMetadata") or {}
    code = str(said.get("Code") or "").rpartition("#")[2]
    status = int(meta.get("HTTPStatusCode") or 0)
    message = "" if code in _WITHOUT_TEXT else _cut(str(said.get("Message") or ""))
    text = f"{what}: {status} {code}" + (f": {message}" if message else "")
    if code in meanings:
        return meanings[code](text)
    if code in THROTTLED or status == 429:
        return Throttled(text, _retry_after_s(meta))
    if code in DENIED or status in (401, 403):
        return Denied(text)
    if status in (409, 412):
        return Conflict(text)
    if 400 <= status < 500:
        return Refused(text)
    return ReplyLost(text) if writes else NotDone(text, _retry_after_s(meta))


def _retry_after_s(meta: Mapping[str, Any]) -> float:
    value = str((meta.get("HTTPHeaders") or {}).get("retry-after", ""))
    return float(value) if value.isdecimal() and len(value) < 7 else 0.0


def _operation(method: str) -> str:
    """`describe_rules` -> `DescribeRules`, nearly as the service's documentation has it."""
    return "".join(word.capitalize() for word in method.split("_"))


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"
