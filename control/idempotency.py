"""Calls that come twice: the answer to an `Idempotency-Key` is kept in the store.

A client that got no answer sends the call again with the same key, and gets the first answer
again: a switchover is started once. The key is written with the decision, in one transaction,
and the answer behind it: whoever dies in between, the decision is not made a second time, and
the answer is then made of what was decided.
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from typing import Final

from aiohttp import web

from turnout.control.problems import Problem
from turnout.control.store import DECIDED, Answer, Database, Key, Store, StoreUnusable

KEY_CHARS_MAX: Final = 200
KEPT_FIELDS: Final = ("Content-Type", "Location", "ETag")
REPLAYED: Final = "Idempotency-Replayed"


class Idempotency:
    """The keys of one process; the answers are the store's."""

    __slots__ = ("_locks", "_now", "_store")

    def __init__(self, store: Store, now: Callable[[], float]) -> None:
        self._store = store
        self._now = now
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}
        """Key -> its lock, and how many calls want it."""

    async def once(
        self,
        caller: str,
        key: str,
        call: bytes,
        kept_s: float,
        work: Callable[[Key], Awaitable[web.Response]],
        recall: Callable[[str], Awaitable[web.Response]],
    ) -> web.Response:
        """Answer with `work`, or with the first answer to this caller's key.

        `call` is all that the answer depends on: method, path and body. `recall` makes the
        answer again of a decision whose answer was lost; it gets the switchover's id, or nothing
        where it is of a service. Answers of 500 and above are not kept, as they decided nothing.
        Raises what `work` raises, and Problem(422) for another call.
        """
        if not 0 < len(key) <= KEY_CHARS_MAX or not key.isprintable():
            raise Problem(
                "malformed-header",
                f"Idempotency-Key has {len(key)} characters; it has 1 to {KEY_CHARS_MAX}, printable",
            )
        name = f"{caller}:{key}"
        known = Key(name, hashlib.sha256(call).hexdigest())
        lock, wanted = self._locks.get(name, (asyncio.Lock(), 0))
        self._locks[name] = (lock, wanted + 1)
        try:
            async with lock:
                return await self._once(known, key, kept_s, work, recall)
        finally:
            lock, wanted = self._locks.pop(name)
            if wanted > 1:
                self._locks[name] = (lock, wanted - 1)

    async def _once(
        self,
        known: Key,
        key: str,
        kept_s: float,
        work: Callable[[Key], Awaitable[web.Response]],
        recall: Callable[[str], Awaitable[web.Response]],
    ) -> web.Response:
        found = await self._store(Database.answer, known.name)
        if found is not None and found.digest != known.digest:
            raise Problem(
                "key-used-otherwise",
                f"the key {key!r} came with another call before; use another key",
            )
        if found is not None and found.status == DECIDED:
            response = await recall(found.body)
            response.headers[REPLAYED] = "true"
            return response
        if found is not None:
            headers = {**found.headers, REPLAYED: "true"}
            return web.Response(body=found.body.encode(), status=found.status, headers=headers)
        try:
            response = await work(known)
        except Problem as problem:
            await self._keep(known, kept_s, problem.response())
            raise
        await self._keep(known, kept_s, response)
        return response

    async def _keep(self, known: Key, kept_s: float, response: web.Response) -> None:
        if response.status >= 500:
            return
        headers = {name: response.headers[name] for name in KEPT_FIELDS if name in response.headers}
        body = response.body if isinstance(response.body, bytes) else b""
        answer = Answer(known.digest, response.status, headers, body.decode())
        # If it cannot be kept the answer is true all the same, and the key is with the decision;
        # of a call that decided nothing, nothing is lost.
        with contextlib.suppress(StoreUnusable):
            await self._store(Database.keep_answer, known.name, answer, self._now(), kept_s)
