"""What a case of the corpus is: bytes, where they come from, and the one thing that may happen.

The corpus is data. A case says nothing of how it is run or judged: `runner.py` sends it over
real sockets, `judge.py` decides by what was received.
"""

from dataclasses import dataclass
from typing import Final

HOST: Final = "a"

Fields = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Sent:
    """One request as the server must have received it, in every reading."""

    target: str = "/seen"
    method: str = "POST"
    body: bytes = b""
    chunked: bool = False
    """Framed by chunks; else by a Content-Length if there is a body or `length` says so."""
    length: bool = False
    """A Content-Length also for an empty body."""
    host: str = HOST
    fields: Fields = ()
    """All further fields but those that every proxy of this kind adds, names in lower case."""
    trailers: Fields = ()


@dataclass(frozen=True, slots=True)
class RequestCase:
    """What a client sends, and what may come of it.

    Either everything is passed on as `sent`, or what precedes the fault is, and the rest is
    refused with `status` and the connection's end. Behind each case comes a request for
    `/hidden`: of a refused one no server may see it, else it is the next request.
    """

    family: str
    name: str
    source: str
    data: bytes
    sent: tuple[Sent, ...] = ()
    status: int = 0
    """Of the refusal; 0: nothing is refused."""
    broken: bool = False
    """The head has gone on before the fault: the server must see a request without an end."""
    closes: bool = False
    """The connection ends behind it without a fault, as it asked for."""


@dataclass(frozen=True, slots=True)
class ResponseCase:
    """What a server says to one request, and what may come of it."""

    family: str
    name: str
    source: str
    says: bytes
    then: str = "keep"
    """What the server does next: keep, close (an end of file) or reset."""
    asks: bytes = b"GET /said HTTP/1.1\r\nHost: a\r\n\r\n"
    asked: Fields = ()
    """Fields of `asks` that the server gets, but for the Host and its length."""
    early: bool = False
    """It says so before it reads the request's body."""
    status: int = 200
    """What the client gets; 502: Turnout's own answer; 0: nothing at all but an end."""
    body: bytes = b""
    """Of the answer; with `cut` what may come before its unclean end."""
    cut: bool = False
    """The answer reaches the client as cut short."""
    may_refuse: bool = False
    """With `cut`: it is 502 instead when its fault came before any of it was passed on."""
    fields: Fields = ()
    """Fields that the client must get, each once; names in lower case."""
    lacks: tuple[str, ...] = ()
    """Fields that the client must not get."""
    trailers: Fields = ()
    interims: tuple[int, ...] = ()
    """Status codes of the 1xx answers before it."""
    unfit: bool = False
    """The server's connection must not be used again."""

    @property
    def method(self) -> str:
        return self.asks.split(b" ", 1)[0].decode()


@dataclass(frozen=True, slots=True)
class IdleCase:
    """What a server says, or does, while its connection is idle in the pool."""

    family: str
    name: str
    source: str
    says: bytes
    then: str = "keep"


Case = RequestCase | ResponseCase | IdleCase
