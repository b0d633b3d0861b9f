"""What the own cases of Google Cloud's routers have in common: a fake that is served, a router."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from tests.outer.google_token import GoogleTarget
from turnout.config.loader import load_text
from turnout.control.outer.seams import Change, Progress, Router, Verdict

T = TypeVar("T", bound=GoogleTarget)


@asynccontextmanager
async def served(target: T) -> AsyncIterator[tuple[T, Router]]:
    """The target with its fake, and a router."""
    async with target.serve():
        router = target.router()
        try:
            yield target, router
        finally:
            await router.close()


async def ended(router: Router, change: Change) -> Progress:
    """The first progress that is not pending."""
    async with asyncio.timeout(10):
        while (progress := await router.poll(change)).verdict is Verdict.PENDING:
            await asyncio.sleep(0.01)
    return progress


def problems_of(outer: Mapping[str, Any]) -> str:
    """What the loader says of an `outer:` section; empty: it takes it."""
    text = f"""
listeners: [{{bind: "127.0.0.1:8080"}}]
services:
  shop:
    upstreams: {{blue: {{servers: ["127.0.0.1:9001"]}}, green: {{servers: ["127.0.0.1:9002"]}}}}
    outer: {dict(outer)}
"""
    try:
        load_text(text)
    except ValueError as error:
        return str(error)
    return ""
