"""A loop that must never end silently: the prober's and the resolver's are kept so."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

AGAIN_AFTER_S: Final = 1.0

Tell = Callable[[str, str], None]
"""Called with what is wrong, and what to do about it."""


async def keep_running(
    what: str, body: Callable[[], Awaitable[None]], tell: Tell, again_after_s: float = AGAIN_AFTER_S
) -> None:
    """Run `body` until it returns or we are cancelled; told and begun anew when it raises.

    `what` names the loop (`probing 10.0.0.7:9001`) in what is told.
    """
    while True:
        try:
            return await body()
        except Exception as error:  # noqa: BLE001 - a fault of ours, of any kind: told, not hidden
            tell(
                f"{what} ended with {type(error).__name__}: {error}; it begins anew",
                "nothing at once; if it comes back, report it as a fault of Turnout",
            )
        await asyncio.sleep(again_after_s)
