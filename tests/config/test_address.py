"""Addresses: one canonical spelling each, and an error says what to write."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from turnout.config.address import Address, AddressKind

PORTS = st.integers(1, 65535)


@pytest.mark.parametrize(
    ("text", "canonical", "kind"),
    [
        ("127.0.0.1:9001", "127.0.0.1:9001", AddressKind.INET),
        ("[::1]:9001", "[::1]:9001", AddressKind.INET),
        ("[0:0:0:0::1]:80", "[::1]:80", AddressKind.INET),
        ("[FE80::1]:80", "[fe80::1]:80", AddressKind.INET),
        ("[fe80::1%eth0]:80", "[fe80::1%eth0]:80", AddressKind.INET),
        ("app:9001", "app:9001", AddressKind.NAME),
        ("App.Example.:9001", "app.example.:9001", AddressKind.NAME),
        ("my_app-1:9001", "my_app-1:9001", AddressKind.NAME),
        ("app:009001", None, None),
        ("app:09001", "app:9001", AddressKind.NAME),
        ("unix:/run/shop.sock", "unix:/run/shop.sock", AddressKind.UNIX),
    ],
)
def test_an_address_has_one_canonical_spelling(
    text: str, canonical: str | None, kind: AddressKind | None
) -> None:
    if canonical is None:
        with pytest.raises(ValueError, match="port"):
            Address.parse(text)
        return
    address = Address.parse(text)
    assert (str(address), address.kind) == (canonical, kind)
    assert Address.parse(canonical) == address


@given(st.ip_addresses(), PORTS)
def test_every_ip_address_survives_writing_and_reading(
    host: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int
) -> None:
    text = f"[{host}]:{port}" if host.version == 6 else f"{host}:{port}"
    address = Address.parse(text)
    assert address == Address(AddressKind.INET, host.compressed, port)
    assert Address.parse(str(address)) == address


@given(st.from_regex(r"[a-z]([a-z0-9-]{0,10}[a-z0-9])?(\.[a-z][a-z0-9]{0,9}){0,3}", fullmatch=True))
def test_every_host_name_survives_writing_and_reading(name: str) -> None:
    address = Address.parse(f"{name.upper()}:80")
    assert address == Address(AddressKind.NAME, name, 80)
    assert Address.parse(str(address)) == address


@given(st.text(max_size=30))
def test_any_text_is_an_address_or_a_value_error(text: str) -> None:
    try:
        address = Address.parse(text)
    except ValueError as error:
        assert str(error)
    else:
        assert Address.parse(str(address)) == address


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it is empty; expected host:port, [v6]:port or unix:/path"),
        ("app", "it has no port. Write app:80, or the port that it listens on"),
        ("9001", "it has no host. Write 127.0.0.1:9001"),
        (":9001", "it has no host. Write 127.0.0.1:9001"),
        ("::1:9001", "an IPv6 address needs brackets. Write [::1]:9001"),
        ("[::1:9001", "a bracket is open; expected [v6]:port, such as [::1]:9001"),
        ("[127.0.0.1]:80", "'127.0.0.1' is no IPv6 address; expected [v6]:port"),
        ("10.0.0:80", "'10.0.0' is no IPv4 address; expected four numbers 0..255"),
        ("10.0.0.256:80", "'10.0.0.256' is no IPv4 address; expected four numbers 0..255"),
        ("010.0.0.1:80", "'010.0.0.1' is no IPv4 address; expected four numbers 0..255"),
        ("app:0", "port '0' is none; expected a number from 1 to 65535"),
        ("app:65536", "port '65536' is none; expected a number from 1 to 65535"),
        ("app:http", "port 'http' is none; expected a number from 1 to 65535"),
        ("app:٣", "port '٣' is none; expected a number from 1 to 65535"),
        (
            "http://app:80",
            "expected an address, not a URL: host:port, such as 10.0.0.7:9001",
        ),
        ("-app:80", "host '-app' is none; expected an IP address or a host name in ASCII"),
        ("bücher:80", "host 'bücher' is none; expected an IP address or a host name in ASCII"),
        ("unix:run/x", "a Unix socket needs an absolute path. Write unix:/run/name.sock"),
        ("unix:/" + "x" * 103, "the path of a Unix socket may have 103 bytes and no NUL"),
    ],
)
def test_a_wrong_address_says_what_to_write(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=r".") as raised:
        Address.parse(text)
    assert str(raised.value) == message


def test_a_bind_may_leave_out_the_host_and_a_server_may_not() -> None:
    assert str(Address.parse_bind(":8080")) == ":8080"
    assert Address.parse_bind(":8080") == Address(AddressKind.INET, "", 8080)
    assert Address.parse_bind("127.0.0.1:0") == Address(AddressKind.INET, "127.0.0.1", 0)
    with pytest.raises(ValueError, match="no host"):
        Address.parse(":8080")


def test_a_bind_may_leave_the_port_to_the_system() -> None:
    assert Address.parse_bind("127.0.0.1:0") == Address(AddressKind.INET, "127.0.0.1", 0)
    assert Address.parse_bind(":0") == Address(AddressKind.INET, "", 0)


def test_a_bind_is_no_name() -> None:
    with pytest.raises(ValueError, match=r"Write 127\.0\.0\.1:8080, \[::1\]:8080 or :8080"):
        Address.parse_bind("localhost:8080")


@pytest.mark.parametrize(
    ("bind", "loopback"),
    [
        ("127.0.0.1:1", True),
        ("127.8.8.8:1", True),
        ("[::1]:1", True),
        ("unix:/x", True),
        (":1", False),
        ("0.0.0.0:1", False),
        ("[::]:1", False),
        ("10.0.0.1:1", False),
    ],
)
def test_loopback_is_what_no_other_machine_reaches(bind: str, loopback: bool) -> None:
    assert Address.parse_bind(bind).is_loopback is loopback


def test_localhost_is_loopback_and_another_name_is_not() -> None:
    assert Address.parse("localhost:1").is_loopback
    assert not Address.parse("app:1").is_loopback
