"""A web service of one's own as a router: GET what there is, PUT what is wanted.

`documents` has what is said, docs/outer/generic.md the contract for who writes the service. Each
call is signed, if a secret is configured, and made once: what is repeated is the mover's.
"""

import hashlib
import hmac
import json
import ssl
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlsplit

from turnout.config.outer.generic import Webhook
from turnout.config.secret_files import read_file
from turnout.control.outer import documents
from turnout.control.outer.documents import Granularity, NoDocument
from turnout.control.outer.rest import Rest
from turnout.control.outer.seams import (
    Capabilities,
    Change,
    Conflict,
    Context,
    Denied,
    NotDone,
    Progress,
    Reading,
    Refused,
    ReplyLost,
    Tail,
    Verdict,
    Wanted,
    differences,
)

SIGNATURE: Final = "Turnout-Signature"
_TOKEN_BYTES_MAX: Final = 16 * 1024


def signature(secret: str, *, at: int, method: str, target: str, if_match: str, body: bytes) -> str:
    """`t=SECONDS,v1=HEX`: HMAC-SHA-256 by `secret` of time, method, target, If-Match and body.

    The first four are each followed by a line feed. The time bounds for how long a recorded call
    can be played again, and If-Match makes that one fail which was carried out.
    """
    signed = f"{at}\n{method}\n{target}\n{if_match}\n".encode() + body
    return f"t={at},v1={hmac.new(secret.encode(), signed, hashlib.sha256).hexdigest()}"


def make_router(settings: Webhook, context: Context) -> "WebhookRouter":
    return WebhookRouter(settings, context)


class WebhookRouter:
    """One service's weights, at one URL."""

    def __init__(self, settings: Webhook, context: Context) -> None:
        """Raises Refused when `ca_file` cannot be read."""
        self._settings = settings
        self._names = context.names
        self._granularity = Granularity(settings.weighted, settings.steps)
        url = urlsplit(settings.url)
        self._path = quote(url.path, safe="/%:@!$&'()*+,;=~-._") or "/"
        self._query = f"?{url.query}" if url.query else ""
        self._rest = Rest(
            f"{url.scheme}://{url.netloc}",
            who=f"webhook {settings.url}",
            timeout_s=context.timeout_s,
            turn=context.turn,
            verify=_verification(settings.ca_file),
            secret_fields=tuple(settings.headers),
        )

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(
            atomic=True, weighted=self._settings.weighted, exchange=False, conditional=True
        )

    def expressible(self, second_weight: int) -> int | None:
        return self._granularity.expressible(second_weight)

    async def read(self) -> Reading:
        told = await self._call("GET", self._path)
        found = documents.reading_of(told, self._names, weighted=self._settings.weighted)
        if "version" not in told:
            problem = "it tells no `version`, which changes by others are noticed by"
            return Reading(
                found.second_weight, found.version, found.exact, found.settings,
                [*found.problems, problem], found.warnings, found.ttl_s,
            )  # fmt: skip
        return found

    def preview(self, wanted: Wanted, reading: Reading) -> Mapping[str, Any]:
        return {
            "method": "PUT",
            "url": self._settings.url,
            "if_match": reading.version,
            "body": {"weights": self._weights(wanted)},
        }

    async def set_weights(self, wanted: Wanted, if_read: Reading) -> Change:
        weights = self._weights(wanted)
        body = json.dumps({"weights": weights}).encode()
        try:
            told = await self._call("PUT", self._path, body=body, version=if_read.version)
        except Conflict as error:
            raise Conflict(f"{error}{await self._difference(if_read)}") from None
        try:
            return documents.change_of(told, weights)
        except NoDocument as error:
            raise ReplyLost(f"webhook {self._settings.url}: its answer to PUT: {error}") from None

    async def confirm(self, wanted: Wanted, reading: Reading) -> Change:
        told = await self._call("GET", self._path)
        return documents.change_under_way(told, reading.exact["weights"])

    async def poll(self, change: Change) -> Progress:
        if not change.id:
            return documents.progress_by_reading(change, await self.read(), self._names)
        path = f"{self._path.rstrip('/')}/changes/{quote(change.id, safe='')}"
        try:
            return documents.progress_of(await self._call("GET", path))
        except (Refused, Conflict) as error:
            return Progress(Verdict.UNKNOWN, str(error))
        except NoDocument as error:
            raise NotDone(f"webhook {self._settings.url}: change {change.id}: {error}") from None

    async def tail(self, old_upstream: int) -> Tail:
        return documents.tail_of(await self._call("GET", self._path))

    async def close(self) -> None:
        await self._rest.close()

    def _weights(self, wanted: Wanted) -> dict[str, int | float]:
        return documents.weights_wanted(wanted, self._names, self._granularity)

    async def _difference(self, before: Reading) -> str:
        """What somebody else changed, in words, where it can be read."""
        try:
            now = await self.read()
        except (NotDone, Refused, Conflict):
            return ""
        found = differences(
            {**before.exact, "settings": before.settings}, {**now.exact, "settings": now.settings}
        )
        return f": {'; '.join(found)}" if found else ""

    async def _call(
        self, method: str, path: str, *, body: bytes = b"", version: str | None = None
    ) -> Mapping[str, Any]:
        """The answer's document. Raises as `Rest.call`."""
        target = path + self._query
        if_match = "" if version is None else f'"{version}"'
        fields = dict(self._settings.headers)
        fields["Accept"] = "application/json"
        if body:
            fields["Content-Type"] = "application/json"
            # Of this one call: what repeats it on its way must not have it carried out twice.
            fields["Idempotency-Key"] = uuid.uuid4().hex
        if if_match:
            fields["If-Match"] = if_match
        if token := self._token():
            fields["Authorization"] = f"Bearer {token}"
        if self._settings.secret:
            fields[SIGNATURE] = signature(
                self._settings.secret, at=int(time.time()), method=method, target=target,
                if_match=if_match, body=body,
            )  # fmt: skip
        answer = await self._rest.call(method, target, content=body or None, headers=fields)
        try:
            return documents.read_json(answer.content)
        except NoDocument as error:
            text = f"webhook {self._settings.url}: its answer to {method}: {error}"
            raise (NotDone if method == "GET" else ReplyLost)(text) from None

    def _token(self) -> str:
        """From its file anew for each call, as it may be renewed. Raises Denied."""
        path = self._settings.token_file
        if path is None:
            return self._settings.token or ""
        try:
            content = read_file(path, _TOKEN_BYTES_MAX)
        except OSError as error:
            raise Denied(f"the token's file {path} cannot be read: {error.strerror}") from None
        token = (content or b"").strip()
        if not token or not all(33 <= byte <= 126 for byte in token):
            raise Denied(f"{path} holds no token: expected one line of visible ASCII")
        return token.decode("ascii")


def _verification(ca_file: str | None) -> ssl.SSLContext | bool:
    if ca_file is None:
        return True
    try:
        return ssl.create_default_context(cafile=ca_file)
    except (OSError, ssl.SSLError) as error:
        raise Refused(f"ca_file {ca_file} cannot be used: {error}") from None
