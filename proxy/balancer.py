"""Pure: which of an upstream's servers gets the request: the less busy one of two.

Two servers are drawn, and the one with fewer requests in flight is taken: nearly as even as
looking at all of them, and without the herd that follows whoever is least busy. (Mitzenmacher,
"The Power of Two Choices in Randomized Load Balancing", 1996.)
"""

from collections.abc import Sequence
from typing import Final

NO_SERVER: Final = -1


def pick_server(
    in_flight: Sequence[int], usable: Sequence[bool], tried: Sequence[bool], random: int
) -> tuple[int, bool]:
    """Return (position, unhealthy): the server to use, and whether it is not a usable one.

    All three sequences go by position: requests in flight, whether nothing speaks against the
    server, whether this request has been sent to it already. `random` is any number of at
    least 32 random bits. Preferred are usable servers that have not been tried, then tried
    usable ones; if none is usable, the request still goes to one that was not tried, if there
    is any: it fails open, and the second value says so. Without servers: (NO_SERVER, False).
    """
    count = len(in_flight)
    if count == 1:
        return 0, not usable[0]
    candidates = [i for i in range(count) if usable[i] and not tried[i]]
    unhealthy = False
    if not candidates:
        candidates = [i for i in range(count) if usable[i]]
    if not candidates:
        unhealthy = True
        candidates = [i for i in range(count) if not tried[i]] or list(range(count))
    many = len(candidates)
    if many == 0:
        return NO_SERVER, False
    first_index = random % many
    first = candidates[first_index]
    if many == 1:
        return first, unhealthy
    # The second is drawn from the others, by bits that the first has not used up.
    second = candidates[(first_index + 1 + (random >> 16) % (many - 1)) % many]
    return (second if in_flight[second] < in_flight[first] else first), unhealthy
