"""Addresses as people write them: `10.0.0.7:9001`, `app:9001`, `[::1]:9001`, `unix:/run/app.sock`.

One canonical spelling each, so that two addresses are the same server if and only if their
texts are equal.
"""

import ipaddress
import re
from dataclasses import dataclass
from enum import Enum
from typing import Final


class AddressKind(Enum):
    """How an address is reached."""

    INET = "inet"
    """An IP address and a port; an empty host (binds only) is every interface."""
    NAME = "name"
    """A host name, to be resolved, and a port."""
    UNIX = "unix"
    """The path of a Unix socket."""


# An underscore is not in RFC 1123, but Docker Compose names hosts so.
_HOST_NAME: Final = re.compile(
    r"(?=.{1,254}\Z)[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
    r"(?:\.[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?)*\.?",
    re.ASCII,
)
# sun_path is 108 bytes on Linux and 104 on macOS, its closing NUL included.
_UNIX_PATH_BYTES_MAX: Final = 103


@dataclass(frozen=True, slots=True)
class Address:
    """Where to connect to or to listen. `str()` is its one canonical spelling."""

    kind: AddressKind
    host: str
    """The IP address (IPv6 without brackets) or host name; empty for `unix:` and `:port`."""
    port: int
    """0 for `unix:`."""
    path: str = ""
    """The absolute path of a `unix:` address, else empty."""

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read a server's address: `host:port`, `[v6]:port` or `unix:/path`.

        Raises ValueError that says what was expected and what to write.
        """
        return cls._parse(text, port_min=1)

    @classmethod
    def _parse(cls, text: str, port_min: int) -> "Address":
        if text.startswith("unix:"):
            return cls(AddressKind.UNIX, "", 0, _unix_path(text.removeprefix("unix:")))
        if "://" in text:
            raise ValueError("expected an address, not a URL: host:port, such as 10.0.0.7:9001")
        host, colon, port_text = text.rpartition(":")
        if not colon:
            raise ValueError(_no_port(text))
        if not host:
            raise ValueError(f"it has no host. Write 127.0.0.1{text}")
        if ":" in host and not host.startswith("["):
            raise ValueError("an IPv6 address needs brackets. Write [::1]:9001")
        kind, host = _host(host)
        return cls(kind, host, _port(port_text, port_min))

    @classmethod
    def parse_bind(cls, text: str) -> "Address":
        """Read an address to listen on: as `parse`, also `:port`, but no host names.

        With port 0 the system chooses one; `listening.json` in the runtime directory says which.

        Raises ValueError that says what was expected and what to write.
        """
        if re.fullmatch(r":[0-9]+", text, re.ASCII):
            return cls(AddressKind.INET, "", _port(text[1:], 0))
        address = cls._parse(text, port_min=0)
        if address.kind is AddressKind.NAME:
            raise ValueError(
                f"a name cannot be listened on, as it may mean several addresses. "
                f"Write 127.0.0.1:{address.port}, [::1]:{address.port} or :{address.port}"
            )
        return address

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.kind is AddressKind.UNIX or self.host == "localhost":
            return True
        if self.kind is AddressKind.NAME or not self.host:
            return False
        return ipaddress.ip_address(self.host).is_loopback

    def __str__(self) -> str:
        if self.kind is AddressKind.UNIX:
            return f"unix:{self.path}"
        if ":" in self.host:
            return f"[{self.host}]:{self.port}"
        return f"{self.host}:{self.port}"


def _unix_path(path: str) -> str:
    if not path.startswith("/"):
        raise ValueError("a Unix socket needs an absolute path. Write unix:/run/name.sock")
    if "\0" in path or len(path.encode()) > _UNIX_PATH_BYTES_MAX:
        raise ValueError(
            f"the path of a Unix socket may have {_UNIX_PATH_BYTES_MAX} bytes and no NUL"
        )
    return path


def _no_port(text: str) -> str:
    if not text:
        return "it is empty; expected host:port, [v6]:port or unix:/path"
    if text.isascii() and text.isdigit():
        return f"it has no host. Write 127.0.0.1:{text}"
    return f"it has no port. Write {text}:80, or the port that it listens on"


def _port(text: str, port_min: int) -> int:
    digits = text.isascii() and text.isdigit() and len(text) <= 5
    if not (digits and port_min <= int(text) <= 65535):
        raise ValueError(f"port {text!r} is none; expected a number from {port_min} to 65535")
    return int(text)


def _host(text: str) -> tuple[AddressKind, str]:
    if text.startswith("["):
        if not text.endswith("]"):
            raise ValueError("a bracket is open; expected [v6]:port, such as [::1]:9001")
        try:
            return AddressKind.INET, ipaddress.IPv6Address(text[1:-1]).compressed
        except ValueError:
            raise ValueError(f"{text[1:-1]!r} is no IPv6 address; expected [v6]:port") from None
    name = text.lower()
    if not name.rstrip(".").rpartition(".")[2].isdigit():
        if _HOST_NAME.fullmatch(name) is None:
            raise ValueError(
                f"host {text!r} is none; expected an IP address or a host name in ASCII"
            )
        return AddressKind.NAME, name
    # No top-level domain is a number: this is meant to be IPv4, or is a slip in one.
    try:
        return AddressKind.INET, ipaddress.IPv4Address(name).compressed
    except ValueError:
        raise ValueError(f"{text!r} is no IPv4 address; expected four numbers 0..255") from None
