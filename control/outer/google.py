"""What the routers of Google Cloud have in common: their API's errors, and when a change is done.

In reading order before `cloud_run`, `cloud_dns` and `url_map`. All of it is plain REST: Google's
own libraries are heavy, and a token is all that is needed of them (`tokens`).

Sources: the discovery documents of run v2, dns v1 and compute v1; google.aip.dev/154 (etags:
ABORTED, which is 409), google.aip.dev/193 (errors).
"""

import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import httpx

from turnout.config.outer.google import GoogleSection
from turnout.config.weights import percent
from turnout.control.outer.rest import Rest, retry_after_s
from turnout.control.outer.seams import (
    Change,
    Conflict,
    Context,
    OuterError,
    Reading,
    Refused,
    Throttled,
    differences,
)
from turnout.control.outer.tokens import google_tokens

ROUNDS_MAX: Final = 3
"""So often a call is made with a new etag, while nothing of ours has changed."""
_RATES: Final = frozenset({"rateLimitExceeded", "userRateLimitExceeded", "quotaExceeded"})
_BUSY: Final = frozenset({"resourceNotReady", "operationInProgress"})


class NotThere(Refused):
    """What was asked for does not exist (404)."""


def api(settings: GoogleSection, endpoint: str, context: Context, who: str) -> Rest:
    """A client of the API at `endpoint`, with the tokens that `settings` says."""
    return Rest(
        endpoint,
        who=who,
        timeout_s=context.timeout_s,
        turn=context.turn,
        authorization=google_tokens(settings.credentials),
        meaning=meaning,
    )


def meaning(answer: httpx.Response, text: str) -> OuterError | None:
    """What a refusal means where its status does not tell; None: it does.

    Compute Engine and Cloud DNS answer 403 for a rate as well as for a missing permission, and
    400 while an earlier operation is still at work on the same thing.
    """
    if answer.status_code == 404:
        return NotThere(text)
    reasons = _reasons(answer)
    if reasons & (_RATES | _BUSY):
        return Throttled(text, retry_after_s(answer))
    return None


def _reasons(answer: httpx.Response) -> set[str]:
    """`error.errors[].reason`, as the older APIs have it."""
    try:
        found = answer.json()["error"]["errors"]
        return {str(error["reason"]) for error in found}
    except (ValueError, KeyError, TypeError):
        return set()


def digest(value: Any) -> str:
    """Another one for another JSON value."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def short_name(reference: str) -> str:
    """The last part of a resource's name or URL."""
    return reference.rsplit("/", 1)[-1]


def changed(before: Reading, after: Reading, second: str) -> str:
    """What somebody else has changed between two readings, in words; empty: nothing of ours.
    `second` is the second upstream's name."""
    found = differences(before.settings, after.settings) + differences(before.exact, after.exact)
    if found and None not in (shares := (before.second_weight, after.second_weight)):
        was, now = (percent(share) for share in shares if share is not None)
        found[:0] = [f"{second} {was} %, now {now} %"] if was != now else []
    return "; ".join(found)


async def write_as_read(
    read: Callable[[], Awaitable[tuple[Reading, Any]]],
    write: Callable[[Reading, Any], Awaitable[Change]],
    if_read: Reading,
    second: str,
) -> Change:
    """Make a call whose system refuses it when anything at all was changed since it was read.

    `read` gives the reading with the document it was made of, `write` makes the call for both.
    What is not ours may change at any time, such as a service that is deployed or another
    service's rules in the same URL map: the call is made with a new etag then. Raises Conflict,
    with the difference, for a change of what is ours; nothing was changed.
    """
    refused: Conflict | None = None
    asked_with = ""
    for _ in range(ROUNDS_MAX):
        now, document = await read()
        if difference := changed(if_read, now, second):
            raise Conflict(f"somebody else has changed it: {difference}")
        if now.problems:
            raise Conflict(f"it is not as configured any more: {'; '.join(now.problems)}")
        if refused is not None and now.version == asked_with:
            # Not the etag: another sort of 409, which would be the same the next time.
            raise Refused(str(refused)) from refused
        asked_with = now.version
        try:
            return await write(now, document)
        except Conflict as error:
            refused = error
    assert refused is not None
    raise Conflict(f"it was changed {ROUNDS_MAX} times while it was written: {refused}")


def error_text(error: Mapping[str, Any]) -> str:
    """A failed operation's error in words; `errors` is how Compute Engine has it."""
    several = error.get("errors")
    if several:
        return "; ".join(f"{one.get('code', '')} {one.get('message', '')}" for one in several)
    return f"{error.get('code', '')} {error.get('message', '')}".strip()
