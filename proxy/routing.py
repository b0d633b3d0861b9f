"""Which service a request belongs to, and which of its upstreams gets it. Pure.

Second in the life of a request: after its head has been read, before a server is chosen.
"""

import hmac
from collections.abc import Sequence
from typing import Final

from turnout.config.table import TableService
from turnout.proxy.scoreboard import WEIGHT_MASK, WEIGHT_SHIFT, WEIGHT_UNIT

NO_SERVICE: Final = -1
PHASE_STEP: Final = 6180
"""Workers begin this far apart, so that few requests over many workers still spread evenly
(the golden section of 10,000: the phases of any number of workers stay far from each other)."""


class Prefixes:
    """The path prefixes of one host's services."""

    __slots__ = ("_longest", "_positions")

    def __init__(self) -> None:
        self._positions: dict[bytes, int] = {}
        self._longest = 0

    def add(self, prefix: bytes, position: int) -> None:
        self._positions[prefix] = position
        self._longest = max(self._longest, len(prefix))

    def find(self, path: bytes) -> int:
        """Return the position of the longest prefix of `path`, or NO_SERVICE.

        It is cut at its slashes from the right until a prefix is met: one lookup a segment,
        however many services there are, and none for what is longer than any prefix.
        """
        positions = self._positions
        end = len(path)
        if end > self._longest:
            end = path.rfind(b"/", 0, self._longest + 1)
        while end > 0:
            found = positions.get(path[:end])
            if found is not None:
                return found
            end = path.rfind(b"/", 0, end)
        return positions.get(b"", NO_SERVICE)


class Router:
    """Host and path -> the position of a service in the table.

    The longest host wins (an exact name before `*.` before no host), then the longest path
    prefix on `/` boundaries. If no service of the longest host has a fitting prefix, the next
    shorter one is asked: a service without hosts is the default for whatever is left.
    """

    __slots__ = ("_any", "_exact", "_wildcard", "alone")

    def __init__(self, services: Sequence[TableService]) -> None:
        self._exact: dict[bytes, Prefixes] = {}
        self._wildcard: dict[bytes, Prefixes] = {}
        self._any = Prefixes()
        for position, service in enumerate(services):
            prefix = service.path_prefix.rstrip("/").encode()
            if not service.hosts:
                self._any.add(prefix, position)
            for host in service.hosts:
                name = host.encode()
                if name.startswith(b"*."):
                    self._wildcard.setdefault(name[2:], Prefixes()).add(prefix, position)
                else:
                    self._exact.setdefault(name, Prefixes()).add(prefix, position)
        self.alone = len(services) == 1 and self._any.find(b"") == 0
        """There is one service, and it gets every request."""

    def find(self, host: bytes, path: bytes) -> int:
        """Return the position of the service, or NO_SERVICE.

        `host` is in lower case and without its port, `path` without its query.
        """
        if self.alone:
            return 0
        exact = self._exact.get(host)
        if exact is not None:
            found = exact.find(path)
            if found >= 0:
                return found
        dot = host.find(b".")
        if dot > 0:
            wildcard = self._wildcard.get(host[dot + 1 :])
            if wildcard is not None:
                found = wildcard.find(path)
                if found >= 0:
                    return found
        return self._any.find(path)


def first_phase(worker: int) -> int:
    """The phase that worker number `worker` begins with, 0 to 9,999."""
    return (worker * PHASE_STEP) % WEIGHT_UNIT


def choose(word: int, phase: int) -> tuple[int, int]:
    """Return (upstream, next phase) for one more request of a service.

    `word` is the service's routing word. The phase adds up the second upstream's weight; each
    time it passes 10,000 the second is chosen. Over any 10,000 consecutive requests that is
    exactly its weight, as evenly spread as whole requests can be (Bresenham's line).
    """
    weight = (word >> WEIGHT_SHIFT) & WEIGHT_MASK
    if weight == 0:
        return 0, phase
    if weight >= WEIGHT_UNIT:
        return 1, phase
    phase += weight
    if phase >= WEIGHT_UNIT:
        return 1, phase - WEIGHT_UNIT
    return 0, phase


def tried_out(service: TableService, value: bytes) -> int:
    """Return the upstream that a try-out header's value asks for, or -1 if it may not.

    The value is `green; token=…`, or the name alone where no token is configured. Tokens are
    compared in constant time.
    """
    name, _, parameters = value.partition(b";")
    token = b""
    for parameter in parameters.split(b";"):
        key, _, text = parameter.strip().partition(b"=")
        if key.strip().lower() == b"token":
            token = text.strip().strip(b'"')
    expected = service.try_out_token.encode()
    if not hmac.compare_digest(token, expected):
        return -1
    wanted = name.strip()
    for position, upstream in enumerate(service.upstreams):
        if upstream.name.encode() == wanted:
            return position
    return -1
