"""Descriptors: as many as may be had, and a word where that is too few for the plan."""

import resource
from collections.abc import Mapping
from contextlib import suppress
from typing import Any, Final

COPIES: Final = 5
"""A worker has each of its own listening sockets so often: what it accepts by, and the one it
was given (`proxy/listener.py`)."""
OTHERS: Final = 64
"""Of a worker: shared memory, the loop's own, sockets to the others, standard streams, and what
is opened now and then."""


def raise_limit() -> int:
    """Let this process and its children open as many files as they may: a worker has two for
    each client. The soft limit is low for the sake of programs that use select(2). Return the
    limit; 0 is none."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 0 if limit == resource.RLIM_INFINITY else limit


def needed(connections: int, workers: int, listeners: int) -> int:
    """So many has a worker when `connections` clients are spread evenly over `workers`, each
    with a connection to a server."""
    return 2 * -(-connections // workers) + listeners * (workers + COPIES) + OTHERS


def too_few(limit: int, table: Mapping[str, Any], workers: int, listeners: int) -> dict[str, Any]:
    """What is to be said of `limit` descriptors; empty when they are enough."""
    connections = int(table["limits"]["connections"])
    wanted = needed(connections, workers, listeners)
    if not limit or limit >= wanted:
        return {}
    return {
        "limit": limit,
        "needed": wanted,
        "connections": connections,
        "next": f"raise LimitNOFILE (ulimit -n) to {wanted}, or lower limits.connections; with "
        "fewer, a worker accepts nothing while it has none to spare",
    }
