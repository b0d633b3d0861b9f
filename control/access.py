"""Pure: who may call the control API, judged by what a call brings with it.

Tokens say who it is. The checks of Host and Origin are for people's browsers: a page of
another site must be able neither to call the API of somebody's own machine (cross-site
request) nor to have its own name resolve to it (DNS rebinding).
"""

import hashlib
import hmac
import ipaddress
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from turnout.config.model import AddressKind, ControlPlane, Scope, Token
from turnout.control.problems import Problem

LOCAL: Final = "local"
"""Who it is where no token exists: whoever reaches the API."""
SCHEME: Final = "Bearer"
_HOST: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9A-Za-z_.-]+))(?::[0-9]{1,5})?", re.ASCII)
"""RFC 9110, section 7.2, without what no name of ours has."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls."""

    name: str
    scope: Scope


def authenticate(tokens: Sequence[Token], authorization: str) -> Caller:
    """Who brings this Authorization field; whoever it is may do everything without tokens.

    Every token is compared, each in constant time and as its digest, so that the time tells
    nothing about any, its length included. Raises Problem(401).
    """
    if not tokens:
        return Caller(LOCAL, Scope.WRITE)
    scheme, _, sent = authorization.partition(" ")
    found: Token | None = None
    if scheme.lower() == SCHEME.lower():
        # Octets that are no UTF-8 came through as surrogates; they fit no token.
        given = _digest(sent.strip(" "))
        for token in tokens:
            if hmac.compare_digest(_digest(token.token), given):
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


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="surrogateescape")).digest()


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


def check_site(control: ControlPlane, call: Mapping[str, str], method: str, path: str) -> None:
    """Refuse what another web site makes somebody's browser send; `call` are its fields.

    Asked of every call, reading or writing, with tokens or without. Raises Problem(403).
    """
    host = call.get("Host", "")
    if not _is_ours(host, control):
        raise Problem(
            "foreign-host",
            f"Host is {host!r}; this API answers to localhost, loopback addresses, "
            f"{control.bind} and control.hosts. Is the name right? Then add it there",
        )
    origin = call.get("Origin")
    if origin is not None and not _same_origin(origin, host):
        raise Problem("foreign-origin", f"Origin is {origin!r}, which is not {host}")
    site = call.get("Sec-Fetch-Site", "none")
    if site in ("none", "same-origin"):
        return
    # A link on another page may lead to the status page: it changes nothing, and whoever put
    # the link there does not see it. Everything else is a page of another site that calls.
    followed = call.get("Sec-Fetch-Mode") == "navigate" and call.get("Sec-Fetch-Dest") == "document"
    if not (followed and method in ("GET", "HEAD") and path == "/"):
        raise Problem("foreign-origin", f"Sec-Fetch-Site is {site!r}: another site's page calls")


def _same_origin(origin: str, host: str) -> bool:
    try:
        parts = urlsplit(origin)
    except ValueError:
        return False
    web = parts.scheme in ("http", "https") and bool(parts.netloc)
    return web and parts.netloc.lower() == host.lower()


def _is_ours(host: str, control: ControlPlane) -> bool:
    bind = control.bind
    if bind.kind is AddressKind.UNIX or "*" in control.hosts:
        return True  # no browser connects to a file; or the settings say so
    match = _HOST.fullmatch(host)
    if match is None:
        return False
    name = (match[1] or match[2]).lower().removesuffix(".")
    if name in ("localhost", bind.host) or any(_fits(name, known) for known in control.hosts):
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    # DNS rebinding takes a name. What is bound to other addresses may be called by each of them.
    return address.is_loopback or not bind.is_loopback


def _fits(name: str, known: str) -> bool:
    if known.startswith("*."):
        return name.partition(".")[2] == known[2:] != ""
    return name == known.strip("[]")
