"""How many clients a worker has descriptors for; beyond that it accepts nothing for a while.

libuv, which accepts for us, does not wait when there are no descriptors left: it closes what is
queued, unanswered (tried: 58 of 100 connections were lost). So a worker stops accepting before,
while each client that it has can still get a connection to a server. What comes meanwhile waits
in the queue of the listening socket, or is taken by a sibling that has room (decision 24).
"""

import errno
import os
import resource
from typing import Final

RESERVE: Final = 32
"""For what is opened now and then: a table's file, a lookup, connections that are accepted in
the turn of the loop in which accepting stops."""
COUNTED_MAX: Final = 500
"""Counting them one by one takes some microseconds each, while all clients wait."""
ROOM_MIN: Final = 4
"""A worker with fewer descriptors than it should have serves one client after the other."""

OURS: Final = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL}
)
"""Why a connection to a server was not even tried: no descriptors, no memory, no ports left."""


def open_now(about: int) -> int | None:
    """Descriptors that this process has open; None when that cannot be told, or costs too much
    with `about` so many: before Linux 6.2 they can only be counted one by one."""
    try:
        found = os.stat("/proc/self/fd").st_size
        if found or about > COUNTED_MAX:
            return found or None
        return len(os.listdir("/proc/self/fd")) - 1  # without the one that it is read by
    except OSError:
        return None


def room(others: int) -> int:
    """Return how many descriptors there are for clients and servers, when `others` are used
    for something else."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        soft = 1 << 30
    free = max(soft - others, 0)
    return max(free - RESERVE, min(free, ROOM_MIN))


def any_left() -> bool:
    """Can one more be opened now, by this process and by the system?"""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno not in OURS
    return True


def full(clients: int, servers: int, room: int) -> bool:
    """Would one more client leave too few descriptors for every client to be served?"""
    return clients + max(clients, servers) + 2 > room
