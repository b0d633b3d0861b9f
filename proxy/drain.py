"""What is in flight in this worker, by service, upstream and class; cutting and leaving.

Pure over the worker's connections: it says which exchanges a cut means and which idle
connections may be closed now; the worker carries it out.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from turnout.proxy.exchange import Exchange, State

if TYPE_CHECKING:
    from turnout.proxy.downstream import Downstream

QUIET_S: Final = 1.0
"""An idle client connection that has been quiet for this long is unlikely to send a request
at the very moment in which it is closed."""
PACE: Final = 0.1
"""Share of the quiet connections closed at each look, so that clients do not all come back at
once."""


def under_way(connections: Iterable["Downstream"]) -> Iterator[Exchange]:
    """Every exchange that has not ended."""
    for connection in connections:
        exchange = connection.exchange
        if exchange is not None and exchange.state is not State.ENDED:
            yield exchange


def to_cut(
    connections: Iterable["Downstream"],
    slot: int,
    upstream: int,
    classes: Collection[int],
    epoch: int,
) -> list[Exchange]:
    """The exchanges that a service's upstream has, of these classes, picked before `epoch`."""
    return [
        exchange
        for exchange in under_way(connections)
        if exchange.service is not None
        and exchange.service.slot == slot
        and exchange.upstream is not None
        and exchange.upstream.position == upstream
        and exchange.kind in classes
        and exchange.epoch < epoch
    ]


def to_close(connections: Iterable["Downstream"], now_s: float) -> list["Downstream"]:
    """The idle client connections that a leaving worker closes now: the quietest share."""
    quiet = [
        connection
        for connection in connections
        if connection.idle and connection.quiet_since_s <= now_s - QUIET_S
    ]
    quiet.sort(key=lambda connection: connection.quiet_since_s)
    return quiet[: max(8, int(len(quiet) * PACE))]
