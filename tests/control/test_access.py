"""Who may call the control API, by value: tokens, Host, Origin and what browsers say."""

from collections.abc import Iterator
from dataclasses import replace

import pytest

from tests.control.api_bench import TOKENS
from tests.control.test_executor import ATOMIC, configured
from turnout.config.model import Address, ControlPlane, Scope, Token
from turnout.control import access
from turnout.control.access import Caller
from turnout.control.problems import Problem

SHOP = "/v1/services/shop"


def test_every_token_is_found_wherever_it_stands() -> None:
    tokens = configured(ATOMIC + TOKENS).control.tokens
    found = access.authenticate(tokens, "bearer  read-token-0123456789 ")
    assert found == Caller("dashboard", Scope.READ)
    assert access.authenticate((), "") == Caller("local", Scope.WRITE)


def reached(bind: str, tokens: bool, hosts: tuple[str, ...] = ()) -> ControlPlane:
    """The control plane's settings, of which these are asked here."""
    control = configured(ATOMIC + (TOKENS if tokens else "")).control
    return replace(control, bind=Address.parse_bind(bind), hosts=hosts)


def judged(control: ControlPlane, method: str = "GET", path: str = SHOP, **fields: str) -> str:
    """The name of the problem that `check_site` has with a call; empty: none."""
    named = {name.replace("_", "-"): value for name, value in fields.items()}
    try:
        access.check_site(control, {"Host": "localhost", **named}, method, path)
    except Problem as refused:
        assert refused.status == 403
        return refused.name
    return ""


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize(
    ("bind", "host", "allowed"),
    [
        ("127.0.0.1:9180", "127.0.0.1:9180", True),
        ("127.0.0.1:9180", "localhost:9180", True),
        ("127.0.0.1:9180", "LOCALHOST.:9180", True),
        ("127.0.0.1:9180", "[::1]:9180", True),
        ("127.0.0.1:9180", "127.8.8.8", True),
        ("127.0.0.1:9180", "localhost", True),
        ("127.0.0.1:9180", "evil.example:9180", False),
        ("127.0.0.1:9180", "localhost.evil.example", False),
        ("127.0.0.1:9180", "127.0.0.1.evil.example", False),
        ("127.0.0.1:9180", "10.0.0.1:9180", False),
        ("127.0.0.1:9180", "evil@127.0.0.1", False),
        ("127.0.0.1:9180", "127.0.0.1:9180/evil.example", False),
        ("127.0.0.1:9180", "localhost evil.example", False),
        ("127.0.0.1:9180", "localhost,evil.example", False),
        ("127.0.0.1:9180", "2130706433", False),
        ("127.0.0.1:9180", "", False),
        ("unix:/run/turnout/control.sock", "whatever", True),
        ("10.0.0.5:9180", "10.0.0.5:9180", True),
        ("0.0.0.0:9180", "10.0.0.5:9180", True),
        ("0.0.0.0:9180", "turnout.example:9180", False),
        (":9180", "", False),
    ],
)
def test_a_name_that_was_made_to_resolve_here_is_refused(
    bind: str, tokens: bool, host: str, allowed: bool
) -> None:
    assert judged(reached(bind, tokens), Host=host) == ("" if allowed else "foreign-host")


@pytest.mark.parametrize(
    ("hosts", "host", "allowed"),
    [
        (("turnout.example",), "turnout.example:443", True),
        (("turnout.example",), "TURNOUT.example.", True),
        (("turnout.example",), "x.turnout.example", False),
        (("*.example",), "turnout.example", True),
        (("*.example",), "a.turnout.example", False),
        (("*.example",), "example", False),
        (("[fd00::1]",), "[fd00::1]:9180", True),
        (("*",), "whatever.example", True),
    ],
)
def test_names_of_the_settings_are_answered_to(
    hosts: tuple[str, ...], host: str, allowed: bool
) -> None:
    control = reached("127.0.0.1:9180", True, hosts)
    assert judged(control, Host=host) == ("" if allowed else "foreign-host")
    assert judged(control, Host="localhost") == ""


@pytest.mark.parametrize("bind", ["127.0.0.1:9180", "unix:/run/turnout/control.sock"])
@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize(
    ("origin", "allowed"),
    [
        ("http://localhost", True),
        ("https://LOCALHOST", True),
        ("null", False),
        ("", False),
        ("http://localhost:1", False),
        ("https://evil.example", False),
        ("http://localhost.evil.example", False),
        ("chrome-extension://localhost", False),
        ("file://", False),
        ("http://[", False),
    ],
)
def test_a_page_of_another_origin_is_refused(
    bind: str, method: str, origin: str, allowed: bool
) -> None:
    expected = "" if allowed else "foreign-origin"
    assert judged(reached(bind, False), method, Origin=origin) == expected


@pytest.mark.parametrize(
    ("site", "method", "path", "more", "allowed"),
    [
        ("none", "POST", SHOP, {}, True),
        ("same-origin", "POST", SHOP, {}, True),
        ("cross-site", "GET", SHOP, {}, False),
        ("cross-site", "GET", "/v1/events", {}, False),
        ("same-site", "GET", "/v1/events", {}, False),
        ("same-site", "POST", SHOP, {}, False),
        ("nonsense", "GET", SHOP, {}, False),
        ("cross-site", "GET", "/", {}, False),
        ("cross-site", "GET", "/", {"Sec_Fetch_Mode": "navigate"}, False),
        (
            "cross-site", "GET", "/",
            {"Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "iframe"}, False,
        ),
        (
            "cross-site", "GET", "/",
            {"Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}, True,
        ),
        (
            "cross-site", "GET", "/v1/events",
            {"Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}, False,
        ),
        (
            "cross-site", "POST", "/",
            {"Sec_Fetch_Mode": "navigate", "Sec_Fetch_Dest": "document"}, False,
        ),
    ],
)  # fmt: skip
def test_what_a_browser_says_of_its_page_is_heard(
    site: str, method: str, path: str, more: dict[str, str], allowed: bool
) -> None:
    control = reached("127.0.0.1:9180", False)
    expected = "" if allowed else "foreign-origin"
    assert judged(control, method, path, Sec_Fetch_Site=site, **more) == expected


class Looked(tuple[Token, ...]):
    """Tokens that know how many of them were looked at."""

    seen = 0

    def __iter__(self) -> Iterator[Token]:
        for token in super().__iter__():
            self.seen += 1
            yield token


@pytest.mark.parametrize(
    "sent", ["token-number-0-0123456789", "token-number-9-0123456789", "x", ""]
)
def test_every_token_is_looked_at_whichever_is_sent(sent: str) -> None:
    """An answer that comes sooner for the first one would tell where it stands."""
    tokens = Looked(
        Token(f"t{number}", Scope.READ, f"token-number-{number}-0123456789") for number in range(10)
    )
    try:
        access.authenticate(tokens, f"Bearer {sent}")
    except Problem as refused:
        assert refused.status == 401
    assert tokens.seen == 10


@pytest.mark.parametrize(
    "authorization",
    [
        "", "Bearer", "Bearer ", "Bearer  ", "Basic d3JpdGU6", "bearer: write-token-0123456789",
        "Bearer write-token-01234567890", "Bearer write-token-012345678", "Bearer \udcff",
        "Bearer WRITE-TOKEN-0123456789", "write-token-0123456789",
        "Bearer write-token-0123456789, Bearer x", 'Bearer "write-token-0123456789"',
    ],
)  # fmt: skip
def test_what_is_no_token_is_none(authorization: str) -> None:
    with pytest.raises(Problem) as refused:
        access.authenticate(configured(ATOMIC + TOKENS).control.tokens, authorization)
    assert refused.value.status == 401
    assert "write-token" not in str(refused.value)
