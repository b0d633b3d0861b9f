"""One probe: a request to one server over a connection of its own, judged by the policy.

A fresh connection each time, as a probe has to find out whether the server still accepts.
Nothing of the environment is used (no proxy, no .netrc), and no redirect is followed: what is
judged is this server's own answer.
"""

import asyncio
import importlib.metadata
import os
import ssl
import time
from collections.abc import Sequence
from typing import Final

import httpx

from turnout.config.address import Address, AddressKind
from turnout.config.model import HealthPolicy, StatusRange
from turnout.control.health import ProbeResult

# httpx wants one even for http; made once, as loading certificates takes 10 ms and more.
_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


def _user_agent() -> str:
    try:
        return f"turnout-prober/{importlib.metadata.version('turnout')}"
    except importlib.metadata.PackageNotFoundError:  # a checkout that was never installed
        return "turnout-prober"


USER_AGENT: Final = _user_agent()


class ServerProbe:
    """Probes one endpoint, time after time."""

    __slots__ = ("_client", "_host", "_url_base")

    def __init__(self, address: str, endpoint: str) -> None:
        """`address` as configured (it is the Host field), `endpoint` to connect to."""
        place = Address.parse(endpoint)
        is_unix = place.kind is AddressKind.UNIX
        transport = httpx.AsyncHTTPTransport(
            uds=place.path if is_unix else None,
            verify=_NO_TLS,
            trust_env=False,
            limits=httpx.Limits(max_keepalive_connections=0),
        )
        self._client = httpx.AsyncClient(
            transport=transport, trust_env=False, follow_redirects=False, timeout=None
        )
        self._url_base = "http://localhost" if is_unix else f"http://{place}"
        self._host = "localhost" if is_unix else address

    async def __call__(self, policy: HealthPolicy, body_bytes: int) -> ProbeResult:
        """Probe once, within `policy.timeout_s` from the connection to the body's end.

        At most `body_bytes` of the body are read; what comes later is neither waited for nor
        judged.
        """
        at = time.time()
        began_s = time.monotonic()
        status: int | None = None
        try:
            async with asyncio.timeout(policy.timeout_s):
                request = self._client.build_request(
                    "GET",
                    self._url_base + policy.path,
                    headers={
                        "Host": policy.host or self._host,
                        "User-Agent": USER_AGENT,
                        "Accept": "*/*",
                        "Accept-Encoding": "identity",
                        "Connection": "close",
                    },
                )
                response = await self._client.send(request, stream=True)
                status = response.status_code
                try:
                    body = await _beginning(response, body_bytes)
                finally:
                    await response.aclose()
            error = verdict(status, body, policy)
        except TimeoutError:
            missing = "no answer" if status is None else "the body did not end"
            error = f"{missing} within {policy.timeout_s:g} s"
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as fault:
            error = say(fault)
        return ProbeResult(
            at=at,
            duration_ms=round((time.monotonic() - began_s) * 1000, 1),
            status=status,
            error=error,
        )

    async def close(self) -> None:
        await self._client.aclose()


async def _beginning(response: httpx.Response, size: int) -> bytes:
    body = bytearray()
    async for part in response.aiter_raw():
        body += part[: size - len(body)]
        if len(body) >= size:
            break
    return bytes(body)


def verdict(status: int, body: bytes, policy: HealthPolicy) -> str:
    """Why an answer is bad; empty when it is good."""
    if not any(status in good for good in policy.status):
        return f"status {status}, expected {ranges(policy.status)}"
    if policy.body and policy.body.encode() not in body:
        return f"the body does not have {policy.body!r} in its first {len(body)} bytes"
    return ""


def ranges(statuses: Sequence[StatusRange]) -> str:
    """`200-399,418`."""
    return ",".join(
        str(good.first) if good.first == good.last else f"{good.first}-{good.last}"
        for good in statuses
    )


def say(fault: BaseException) -> str:
    """The fault in a few words: the system's own where it has one, as it lies beneath."""
    beneath: BaseException | None = fault
    while beneath is not None:
        if isinstance(beneath, OSError) and beneath.errno:
            return os.strerror(beneath.errno).lower()
        beneath = beneath.__cause__ or beneath.__context__
    text = str(fault)
    return f"{type(fault).__name__}: {text}" if text else type(fault).__name__
