"""Settings that name a place: an address, a host to match, a path, a network."""

import ipaddress
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from turnout.config.address import Address, AddressKind
from turnout.config.knobs import Kind, person_text
from turnout.config.model import StatusRange


@dataclass(frozen=True, slots=True)
class Server(Kind):
    """A server's address; read as its canonical spelling."""

    def read(self, value: Any, base: Path) -> str:
        return str(Address.parse(_absolute(_address_text(value), base)))

    def expected(self) -> str:
        return "`host:port`, `[v6]:port` or `unix:/path`"


@dataclass(frozen=True, slots=True)
class Bind(Kind):
    """An address to listen on."""

    def read(self, value: Any, base: Path) -> Address:
        return Address.parse_bind(_absolute(_address_text(value), base))

    def expected(self) -> str:
        return "`address:port`, `[v6]:port`, `:port` (every interface) or `unix:/path`"


def _address_text(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # Address says what is missing beside the port
    return person_text(value, "an address: host:port, [v6]:port or unix:/path")


def _absolute(text: str, base: Path) -> str:
    path = text.removeprefix("unix:")
    if path == text or not path:
        return text
    return f"unix:{_joined(base, path)}"


def _joined(base: Path, path: str) -> str:
    # Not resolve(): a link that is changed between two starts must be followed anew.
    return str(base / path)


@dataclass(frozen=True, slots=True)
class FilePath(Kind):
    """A path, relative to the file that names it; read as absolute. Some words pass as such."""

    words: tuple[str, ...] = ()

    def read(self, value: Any, base: Path) -> str:
        text = person_text(value, "a path")
        if text in self.words:
            return text
        if not text or "\0" in text:
            raise ValueError(f"expected {self.expected()}")
        return _joined(base, text)

    def expected(self) -> str:
        return ", ".join([*(f"`{word}`" for word in self.words), "a path"])


@dataclass(frozen=True, slots=True)
class Network(Kind):
    """A network in CIDR form or one address; `unix` for peers on a Unix socket."""

    def read(self, value: Any, base: Path) -> str:
        text = person_text(value, "a network")
        if text == "unix":
            return text
        try:
            return str(ipaddress.ip_network(text))
        except ValueError:
            pass
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise ValueError(f"expected {self.expected()}") from None
        raise ValueError(f"it has bits set beyond its length. Write {network}")

    def expected(self) -> str:
        return "a network such as `10.0.0.0/8`, an IP address, or `unix`"


@dataclass(frozen=True, slots=True)
class HostPattern(Kind):
    """A host name to match, in lower case, without port; `*.` stands for one label."""

    def read(self, value: Any, base: Path) -> str:
        text = person_text(value, "a host name").lower().removesuffix(".")
        if text == "*":
            raise ValueError("every host is matched when `hosts` is left out. Remove it")
        bare = text.removeprefix("*.")
        if "*" in bare:
            raise ValueError("`*.` may stand at the beginning only, for one label")
        if re.fullmatch(r"[^:\[\]]*:[0-9]*|\[.*\]:[0-9]*", bare):
            raise ValueError(f"hosts match without port. Write {text.rpartition(':')[0]}")
        try:
            address = Address.parse(f"{bare}:1")
        except ValueError:
            raise ValueError(f"expected {self.expected()}") from None
        if bare != text and address.kind is AddressKind.INET:
            raise ValueError("`*.` cannot stand before an IP address")
        return str(address).removesuffix(":1") if bare == text else text

    def expected(self) -> str:
        return "a host name in ASCII (`shop.example`, `*.shop.example`) or an IP address"


@dataclass(frozen=True, slots=True)
class DnsName(Kind):
    """A name in DNS; read in lower case and without the final dot."""

    wildcard: bool = False
    """`*` may be its first label."""

    def read(self, value: Any, base: Path) -> str:
        text = person_text(value, "a DNS name").lower().removesuffix(".")
        if not text.isascii():
            raise ValueError(f"expected {self.expected()}; of another script, its `xn--` form")
        bare = text.removeprefix("*.") if self.wildcard else text
        label = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
        wrong = len(text) > 253 or not re.fullmatch(rf"{label}(?:\.{label})*", bare)
        if wrong or bare.rpartition(".")[2].isdecimal():  # which would be an address
            raise ValueError(f"expected {self.expected()}")
        return text

    def expected(self) -> str:
        names = "`shop.example`, `*.shop.example`" if self.wildcard else "`shop.example`"
        return f"a name in DNS, in full and in ASCII: {names}"


@dataclass(frozen=True, slots=True)
class UrlPath(Kind):
    """A path of a URL, from `/` on, as it is sent."""

    prefix: bool = False
    """Read as a prefix: without a `/` at the end, without a query."""

    def read(self, value: Any, base: Path) -> str:
        text = person_text(value, "a path")
        if not text.startswith("/"):
            raise ValueError(f"a path begins with a slash. Write /{text}")
        if len(text) > 1024 or not re.fullmatch(r"[!-\"$-~]+", text, re.ASCII):
            raise ValueError(f"expected {self.expected()}")
        if not self.prefix:
            return text
        if "?" in text or re.search(r"//|/\.\.?(/|$)", text):
            raise ValueError("a prefix has no query, no empty part and no `.` or `..`")
        return text.rstrip("/") or "/"

    def expected(self) -> str:
        return "a path from `/` on: at most 1024 characters of visible ASCII, no `#`"


@dataclass(frozen=True, slots=True)
class Statuses(Kind):
    """`200`, `200-399`, `200-299,404` or a list of such; read as ranges."""

    def read(self, value: Any, base: Path) -> tuple[StatusRange, ...]:
        entries = value if isinstance(value, list) else str(value).split(",")
        ranges = []
        for entry in entries:
            text = str(entry).strip()
            match = re.fullmatch(r"([1-5][0-9]{2})(?:\s*-\s*([1-5][0-9]{2}))?", text, re.ASCII)
            if match is None:
                raise ValueError(f"expected {self.expected()}")
            first, last = int(match[1]), int(match[2] or match[1])
            if last < first:
                raise ValueError(f"the range is upside down. Write {last}-{first}")
            ranges.append(StatusRange(first, last))
        return tuple(ranges)

    def expected(self) -> str:
        return "a status from 100 to 599, a range (`200-399`), or several with commas"

    def schema(self) -> dict[str, Any]:
        one: dict[str, Any] = {"type": ["integer", "string"]}
        return {"anyOf": [one, {"type": "array", "minItems": 1, "items": one}]}


@dataclass(frozen=True, slots=True)
class Endpoint(Kind):
    """Where the API of a platform is: a URL without a path, as credentials are sent there."""

    def read(self, value: Any, base: Path) -> str:
        text = person_text(value, "a URL").removesuffix("/")
        if not re.fullmatch(r"https?://[A-Za-z0-9._:\[\]-]{1,255}", text, re.ASCII):
            raise ValueError(f"expected {self.expected()}")
        try:
            url = urlsplit(text)
            host, port = url.hostname or "", url.port
        except ValueError:
            raise ValueError(f"expected {self.expected()}") from None
        if not host or port == 0:
            raise ValueError(f"expected {self.expected()}")
        if url.scheme == "http" and not is_loopback(host):
            raise ValueError("a token would go there in the clear. Write https://")
        return text

    def expected(self) -> str:
        return "`https://host` or `https://host:port`; `http://` to this machine alone"


def is_loopback(host: str) -> bool:
    """Whether a host's name or address is this machine by its spelling alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


@dataclass(frozen=True, slots=True)
class ApiHost(HostPattern):
    """A name by which the control API is called; `*` is any."""

    def read(self, value: Any, base: Path) -> str:
        return "*" if value == "*" else HostPattern.read(self, value, base)

    def expected(self) -> str:
        return f"{HostPattern.expected(self)}, or `*`"


@dataclass(frozen=True, slots=True)
class FileMode(Kind):
    """`0660`: who may use a file; read as a number."""

    def read(self, value: Any, base: Path) -> int:
        # In YAML 1.2 a bare 0660 is the number 660, and 0o660 is 432: its owner, with 4, could
        # not write, which is refused.
        text = str(value) if isinstance(value, (int, str)) else ""
        if not re.fullmatch(r"0?[67][0-7]{2}", text, re.ASCII):
            raise ValueError(f'expected {self.expected()}. Write "0660" for a group')
        return int(text, 8)

    def expected(self) -> str:
        return "a file mode from `0600` to `0777`, its owner's first digit 6 or 7"

    def schema(self) -> dict[str, Any]:
        return {"type": ["string", "integer"]}


@dataclass(frozen=True, slots=True)
class ApiUrl(Kind):
    """The URL of an API, perhaps with a path; in the clear to this machine alone."""

    def read(self, value: Any, base: Path) -> str:
        text = person_text(value, "a URL").rstrip("/")
        match = re.fullmatch(
            r"(https?)://(\[[0-9A-Fa-f:]+\]|[A-Za-z0-9._-]+)(:[1-9][0-9]{0,4})?"
            r"(/[A-Za-z0-9._~/-]*)?",
            text,
            re.ASCII,
        )
        if match is None or len(text) > 1024:
            raise ValueError(f"expected {self.expected()}")
        here = match[2] in ("localhost", "[::1]") or match[2].startswith("127.")
        if match[1] == "http" and not here:
            raise ValueError("what is sent there could be read on the way. Write https://")
        return text

    def expected(self) -> str:
        return "`https://host:port`, or `http://` for one on this machine"
