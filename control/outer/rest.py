"""Calls of HTTP APIs for what is in this room: one client, and what its failures mean.

A call that certainly was not carried out raises NotDone or one of its kinds, so that it may be
tried again; one of which nobody knows raises ReplyLost, so that it is read back. Redirects are
not followed: a credential would go with them.
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping
from typing import Any, Final, Protocol, TypeVar, runtime_checkable

import httpx

from turnout.control.outer.seams import (
    Conflict,
    Denied,
    NotDone,
    OuterError,
    Refused,
    ReplyLost,
    Throttled,
    without,
)

T = TypeVar("T")

Authorization = Callable[[], Awaitable[Mapping[str, str]]]
"""Gives the fields that say who calls; it may raise OuterError."""

Meaning = Callable[[httpx.Response, str], OuterError | None]
"""What a refusal means where its status does not tell, with the text of its error; None: its
status does."""


@runtime_checkable
class Renewable(Protocol):
    """An authorization that may have others when its fields are refused."""

    async def renew(self, refused: Mapping[str, str]) -> bool:
        """These fields were refused (401): whether there are others now."""
        ...


ANSWER_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of an answer, as it is when nothing is compressed any more."""
LINE_BYTES_MAX: Final = 16 * 1024 * 1024
"""Of one line of an answer that comes line by line."""
_SHOWN_MAX: Final = 300
_CONFLICTS: Final = frozenset({409, 410, 412})
_READS: Final = frozenset({"GET", "HEAD"})
_OF_THE_WIRE: Final = frozenset({"content-encoding", "content-length", "transfer-encoding"})
"""Fields that are not of the content as it was read."""


class NotFound(Refused):
    """404: there is no such thing."""


async def nobody() -> Mapping[str, str]:
    """No authorization."""
    return {}


class Rest:
    """A client of one HTTP API.

    >>> rest = Rest("https://run.googleapis.com", who="Cloud Run", timeout_s=10, turn=turn)
    >>> document = await rest.call("GET", "/v2/projects/p/locations/l/services/s")
    """

    def __init__(
        self,
        base_url: str,
        *,
        who: str,
        timeout_s: float,
        turn: Callable[[], Awaitable[None]],
        authorization: Authorization = nobody,
        verify: Any = True,
        secret_fields: Collection[str] = (),
        meaning: Meaning = lambda answer, text: None,
    ) -> None:
        """`who` names the API in errors; `verify` as httpx takes it; `meaning` is asked first
        what a refusal means.

        What is sent in Authorization and in `secret_fields` stands in no error, also where the
        API says it back.
        """
        self._secret_fields = ("authorization", *secret_fields)
        self._meaning = meaning
        self._who = who
        self._turn = turn
        self._timeout_s = timeout_s
        self._authorization = authorization
        # Without TLS there is nothing to verify, and reading the authorities takes 70 ms.
        tls = base_url.startswith("https:")
        self._client = httpx.AsyncClient(
            base_url=base_url,
            timeout=timeout_s,
            follow_redirects=False,
            verify=verify if tls else False,
        )

    async def call(
        self,
        method: str,
        path: str,
        *,
        json: Any = None,
        content: bytes | None = None,
        params: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Make the call once and return its answer, 2xx only.

        Raises NotDone, Throttled (429), Denied (401, 403), Conflict (409, 410, 412), NotFound
        (404), Refused (other 4xx, and 3xx), ReplyLost (5xx and no answer, of what is no read; a
        read that fails is NotDone). What is refused by 401 is made a second time if the
        authorization has others then: it was not carried out.
        """
        what = f"{self._who}: {method} {path}"
        request = self._client.build_request(
            method, path, json=json, content=content, params=params, headers=headers
        )
        try:
            who = await self._fields(what)
            answer = await self._send(request, who)
            if answer.status_code == 401 and await self._renewed(who, what):
                answer = await self._send(request, await self._fields(what))
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            raise NotDone(f"{what}: {_words(error)}") from error
        except httpx.HTTPError as error:
            if method in _READS:
                raise NotDone(f"{what}: {_words(error)}") from error
            raise ReplyLost(f"{what}: {_words(error)}") from error
        if not answer.is_success:
            raise self._refused(what, answer, reads=method in _READS)
        return answer

    async def _send(self, request: httpx.Request, who: Mapping[str, str]) -> httpx.Response:
        await self._turn()
        request.headers.update(who)
        # httpx's own timeout is for each part of an answer, and one may trickle in for ever.
        try:
            async with asyncio.timeout(self._timeout_s):
                return await _whole(await self._client.send(request, stream=True))
        except TimeoutError:
            raise httpx.ReadTimeout("the answer is not whole in time", request=request) from None

    async def _fields(self, what: str) -> Mapping[str, str]:
        """Who calls."""
        return await self._in_time(self._authorization(), what)

    async def _renewed(self, refused: Mapping[str, str], what: str) -> bool:
        if not isinstance(self._authorization, Renewable):
            return False
        return await self._in_time(self._authorization.renew(refused), what)

    async def _in_time(self, asked: Awaitable[T], what: str) -> T:
        """A call must end in its time, with all that it needs."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asked
        except TimeoutError:
            raise NotDone(f"{what}: its credentials took longer than call_timeout") from None

    async def document(self, method: str, path: str, **more: Any) -> Any:
        """As `call`; its body as JSON. Raises ReplyLost, or NotDone of a read, when it is none."""
        answer = await self.call(method, path, **more)
        try:
            return answer.json()
        except ValueError as error:
            text = f"{self._who}: {method} {path}: its answer is no JSON"
            raise (NotDone if method in _READS else ReplyLost)(text) from error

    async def lines(
        self, path: str, *, silence_s: float, params: Mapping[str, str] | None = None
    ) -> AsyncGenerator[bytes, None]:
        """A GET whose answer comes line by line for as long as the server likes.

        Raises as `call`; NotDone as well when it breaks off, when nothing comes for `silence_s`,
        and for a line of more than LINE_BYTES_MAX.
        """
        what = f"{self._who}: GET {path}"
        fields = await self._fields(what)
        await self._turn()
        timeout = httpx.Timeout(self._timeout_s, read=silence_s)
        begun = bytearray()
        try:
            async with self._client.stream(
                "GET", path, params=params, headers=fields, timeout=timeout
            ) as answer:
                if not answer.is_success:
                    async with asyncio.timeout(self._timeout_s):
                        raise self._refused(what, await _whole(answer), reads=True)
                async for piece in answer.aiter_bytes():
                    first, *more = piece.split(b"\n")
                    begun += first
                    for line in more:
                        yield bytes(begun)
                        begun[:] = line
                    if len(begun) > LINE_BYTES_MAX:
                        raise NotDone(f"{what}: a line of more than {LINE_BYTES_MAX} bytes")
        except TimeoutError:
            raise NotDone(f"{what}: the answer is not whole in time") from None
        except httpx.HTTPError as error:
            raise NotDone(f"{what}: {_words(error)}") from error

    async def close(self) -> None:
        await self._client.aclose()

    def _refused(self, what: str, answer: httpx.Response, *, reads: bool) -> OuterError:
        hidden = [answer.request.headers.get(name, "") for name in self._secret_fields]
        refusal = _refusal(what, answer, hidden, reads=reads)
        return self._meaning(answer, str(refusal)) or refusal


async def _whole(answer: httpx.Response) -> httpx.Response:
    """The answer, read to its end. Raises httpx.ReadError when it has more than may be."""
    content = bytearray()
    try:
        async for piece in answer.aiter_bytes():
            content += piece
            if len(content) > ANSWER_BYTES_MAX:
                text = f"an answer of more than {ANSWER_BYTES_MAX} bytes"
                raise httpx.ReadError(text, request=answer.request)
    finally:
        await answer.aclose()
    told = [
        (name, value)
        for name, value in answer.headers.multi_items()
        if name.lower() not in _OF_THE_WIRE
    ]
    return httpx.Response(
        answer.status_code, headers=told, content=bytes(content), request=answer.request
    )


def _refusal(
    what: str, answer: httpx.Response, hidden: Collection[str], *, reads: bool
) -> OuterError:
    text = f"{what}: {answer.status_code} {_said(answer, hidden)}".rstrip()
    status = answer.status_code
    if status == 429:
        return Throttled(text, retry_after_s(answer))
    if status in (401, 403):
        return Denied(text)
    if status in _CONFLICTS:
        return Conflict(text)
    if status == 404:
        return NotFound(text)
    if status < 500:
        return Refused(text)
    return NotDone(text, retry_after_s(answer)) if reads else ReplyLost(text)


def retry_after_s(answer: httpx.Response) -> float:
    """`Retry-After` in seconds (RFC 9110, section 10.2.3); 0 when there is none, or a date."""
    value = answer.headers.get("retry-after", "")
    return float(value) if value.isdecimal() and len(value) < 7 else 0.0


def _said(answer: httpx.Response, hidden: Collection[str]) -> str:
    # Of `Bearer TOKEN` the token alone may be said back, too.
    secrets = [word for value in hidden for word in (value, value.rpartition(" ")[2])]
    text = " ".join(without(answer.text, secrets).split())
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}…"


def _words(error: httpx.HTTPError) -> str:
    return f"{type(error).__name__} {error}".strip()
