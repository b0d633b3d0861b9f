"""Pure: what a source says of an upstream's servers, and the last known -> the servers to use.

A source is less to be trusted than the servers: one that is lost, that is just starting or that
was mistyped says "none". So what is known stays until something better is known.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from turnout.config.address import Address
from turnout.control.outer.seams import FoundServers


class Trouble(StrEnum):
    """Why the servers in use are not just what the source says. Told once while it lasts."""

    NONE = ""
    EMPTY = "empty"
    """The source has no ready server."""
    INCOMPLETE = "incomplete"
    """The source could not read all of it."""
    TOO_MANY = "too_many"
    """More servers than `limits.servers`."""
    NO_ADDRESS = "no_address"
    """Something that is no address."""


@dataclass(frozen=True, slots=True)
class Judged:
    servers: tuple[str, ...]
    """To be used: never empty where something is known."""
    trouble: Trouble = Trouble.NONE
    detail: str = ""
    """The trouble in words; empty without one."""


def judge(known: Sequence[str], found: FoundServers, servers_max: int) -> Judged:
    """Which servers to use after a snapshot, `known` being those in use.

    Only servers that are ready and not draining are used: those that leave are drained. Kept is
    `known`, whole, when none is; no server leaves for an incomplete snapshot; and beyond
    `servers_max` those in use go before others.
    """
    ready, refused = _addresses(found)
    if not ready:
        said = f"{len(found.servers)} servers, none of them ready" if found.servers else "no server"
        rest = f"the {len(known)} last known stay" if known else "requests to it get 503"
        return Judged(tuple(known), Trouble.EMPTY, f"it has {said}: {rest}")
    wanted = ready if found.complete else ready | set(known)
    kept = [server for server in known if server in wanted]
    # Those in use stay in their order, so that a change is what has changed and no more.
    servers = (*kept, *sorted(wanted.difference(kept)))
    if len(servers) > servers_max:
        detail = (
            f"it has {len(servers)} servers and limits.servers allows {servers_max}:"
            f" {len(servers) - servers_max} get no traffic"
        )
        return Judged(servers[:servers_max], Trouble.TOO_MANY, detail)
    if not found.complete:
        detail = "it could not be read whole: no server is taken away"
        return Judged(servers, Trouble.INCOMPLETE, detail)
    if refused:
        return Judged(servers, Trouble.NO_ADDRESS, f"left out: {refused}")
    return Judged(servers)


def _addresses(found: FoundServers) -> tuple[set[str], str]:
    """The ready ones in their canonical spelling, and what was wrong with the first that has
    none."""
    ready: set[str] = set()
    refused = ""
    for server in found.servers:
        if not server.ready or server.draining:
            continue
        try:
            ready.add(str(Address.parse(server.address)))
        except ValueError as error:
            refused = refused or f"{server.address}: {error}"
    return ready, refused


def next_pause_s(pause_s: float, pause_max_s: float) -> float:
    """How long to wait before a source that was lost again is tried again."""
    return min(2 * pause_s, pause_max_s)
