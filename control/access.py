"""Pure: who may call the control API, judged by what a call brings with it.

Tokens say who it is. The checks of Host and Origin are for people's browsers: a page of
another site must be able neither to call the API of somebody's own machine (cross-site
request) nor to have its own name resolve to it (DNS rebinding).
"""

import hmac
import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from turnout.config.model import Address, AddressKind, ControlPlane, Scope, Token
from turnout.control.problems import Problem

LOCAL: Final = "local"
"""Who it is where no token exists: whoever reaches the API."""
SCHEME: Final = "Bearer"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls."""

    name: str
    scope: Scope


def authenticate(tokens: Sequence[Token], authorization: str) -> Caller:
    """Who brings this Authorization field; whoever it is may do everything without tokens.

    Every token is compared, each in constant time, so that the time tells nothing about any.
    Raises Problem(401).
    """
    if not tokens:
        return Caller(LOCAL, Scope.WRITE)
    scheme, _, sent = authorization.partition(" ")
    found: Token | None = None
    if scheme.lower() == SCHEME.lower():
        # Octets that are no UTF-8 came through as surrogates; they fit no token.
        given = sent.strip().encode(errors="surrogateescape")
        for token in tokens:
            if hmac.compare_digest(token.token.encode(), given):
                found = token
    if found is None:
        challenge = f'{SCHEME} realm="turnout"'
        if not authorization:
            raise Problem(
                "token-needed",
                "send a token: Authorization: Bearer … ($TURNOUT_TOKEN for the command line)",
                headers={"WWW-Authenticate": challenge},
            )
        raise Problem(
            "token-needed",
            "the token is none of control.tokens",
            headers={"WWW-Authenticate": f'{challenge}, error="invalid_token"'},
        )
    return Caller(found.name, found.scope)


def authorize(caller: Caller, needed: Scope) -> None:
    """Raises Problem(403) when the caller's scope is too small."""
    if needed is Scope.WRITE and caller.scope is not Scope.WRITE:
        raise Problem(
            "scope-too-small",
            f"the token {caller.name} may read; this call needs the scope write",
            headers={"WWW-Authenticate": f'{SCHEME} realm="turnout", error="insufficient_scope"'},
        )


def unprotected(before: ControlPlane, after: ControlPlane) -> str:
    """Why a reload must not leave the API with `after`'s tokens; empty: it may.

    What the API is bound to stays until a restart, so a file that is right by itself could
    take the tokens away from an address that others reach. Both have the bind of before.
    """
    bind = before.bind
    if after.tokens:
        return ""
    if not bind.is_loopback:
        what = "which other machines can reach"
    elif bind.kind is AddressKind.UNIX and before.tokens:
        what = "which everybody on this machine may connect to, as there have been tokens"
    else:
        return ""
    return (
        f"control.tokens is missing, and control.bind stays {bind} until a restart, {what}. "
        f"Keep control.tokens, or restart Turnout"
    )


def check_site(bind: Address, has_tokens: bool, headers: Mapping[str, str], write: bool) -> None:
    """Refuse what another web site makes somebody's browser send. Raises Problem(403).

    With tokens a foreign Host does no harm: the page of another name has no token to send.
    """
    host = headers.get("Host", "")
    rebinding = bind.kind is not AddressKind.UNIX and bind.is_loopback and not has_tokens
    if rebinding and not _is_ours(host, bind):
        raise Problem(
            "foreign-host",
            f"Host is {host!r}; without control.tokens this API answers to localhost, loopback "
            f"addresses and {bind} only",
        )
    origin = headers.get("Origin")
    if origin is not None and not _same_origin(origin, host):
        raise Problem("foreign-origin", f"Origin is {origin!r}, which is not {host}")
    if write and headers.get("Sec-Fetch-Site") in ("cross-site", "same-site"):
        raise Problem("foreign-origin", "a page of another site may not change anything here")


def _same_origin(origin: str, host: str) -> bool:
    try:
        netloc = urlsplit(origin).netloc
    except ValueError:
        return False
    return bool(netloc) and netloc.lower() == host.lower()


def _is_ours(host: str, bind: Address) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name in ("localhost", bind.host.lower()):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
