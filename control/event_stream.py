"""`GET /v1/events`: what happens, as server-sent events, to many readers at once.

Every event is a row of the store, so nothing is queued for a reader: one that lags is read
for again, and one that takes nothing for a while is disconnected and counted. It comes back
with the id it saw last (`Last-Event-ID`) and misses nothing that is still kept.
"""

import asyncio
import json
import socket
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from aiohttp import web

from turnout.control import views
from turnout.control.journal import Journal
from turnout.control.problems import Problem
from turnout.control.store import StoredEvent

KEEP_ALIVE_S: Final = 15.0
GONE_S: Final = 1.0
"""How often it is looked whether a reader is still there, while nothing happens: one that has
gone takes the place of another."""
WRITE_LIMIT_S: Final = 10.0
"""A reader whose socket takes nothing for so long is disconnected."""
RETRY_MS: Final = 1000
BUFFER_BYTES: Final = 64 * 1024
"""Of what a reader has not taken yet; more waits for it."""


@dataclass(slots=True)
class Streams:
    """All readers of the process, and those that were too slow."""

    keep_alive_s: float = KEEP_ALIVE_S
    write_limit_s: float = WRITE_LIMIT_S
    slow: int = 0
    tasks: set["asyncio.Task[object]"] = field(default_factory=set)

    @property
    def open(self) -> int:
        return len(self.tasks)

    def close(self) -> None:
        """Disconnect every reader; to be called when control stops."""
        for task in self.tasks:
            task.cancel()


async def serve(
    request: web.Request, journal: Journal, streams: Streams, limit: int, newest: int
) -> web.StreamResponse:
    """Give events to a reader until it goes, or is too slow.

    Without `Last-Event-ID` from the next event after `newest` on. Raises Problem for a wrong
    id, and when `limit` readers are there already.
    """
    after = _after(request, newest)
    if streams.open >= limit:
        raise Problem(
            "too-many-streams",
            f"{limit} readers of events are there already (control.event_streams)",
            headers={"Retry-After": "5"},
        )
    task = asyncio.current_task()
    assert task is not None
    streams.tasks.add(task)
    try:
        return await _serve(request, journal, streams, after)
    finally:
        streams.tasks.discard(task)


def _after(request: web.Request, newest: int) -> int:
    given = request.headers.get("Last-Event-ID", "")
    if not given:
        return newest
    if not (given.isascii() and given.isdigit() and len(given) <= 18):
        raise Problem("malformed-header", f"Last-Event-ID is {given!r}; it is a number")
    return int(given)


async def _serve(
    request: web.Request, journal: Journal, streams: Streams, after: int
) -> web.StreamResponse:
    response = web.StreamResponse(
        headers={
            "Content-Type": "text/event-stream; charset=utf-8",
            "Cache-Control": "no-store",
            "X-Accel-Buffering": "no",
        }
    )
    await response.prepare(request)
    transport = request.transport
    if transport is not None:
        transport.set_write_buffer_limits(high=BUFFER_BYTES)
        link = transport.get_extra_info("socket")
        if link is not None:  # else the kernel would take megabytes for a reader that is stuck
            link.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)
    try:
        async with asyncio.timeout(streams.write_limit_s):
            await response.write(f"retry: {RETRY_MS}\n\n".encode())
        await _follow(request, response, journal, streams, after)
    except TimeoutError:
        streams.slow += 1
        if transport is not None:
            transport.abort()
    except ConnectionError:
        pass  # the reader has gone
    except asyncio.CancelledError:
        # Control is stopping: an ordinary end, after which the reader connects again.
        with suppress(ConnectionError):
            await response.write_eof()
    return response


async def _follow(
    request: web.Request,
    response: web.StreamResponse,
    journal: Journal,
    streams: Streams,
    after: int,
) -> None:
    events = journal.follow(after)
    pending: asyncio.Future[StoredEvent] | None = None
    quiet_s = 0.0
    try:
        while True:
            if pending is None:
                pending = asyncio.ensure_future(anext(events))
            # Not wait_for: it would cancel, and so end, the generator.
            wait_s = min(streams.keep_alive_s - quiet_s, GONE_S)
            done, _ = await asyncio.wait({pending}, timeout=wait_s)
            if request.transport is None or request.transport.is_closing():
                return
            quiet_s += wait_s
            if done:
                event, pending = pending.result(), None
                text = _text(event, after)
                after = event.seq
            elif quiet_s >= streams.keep_alive_s:
                text = ": keep-alive\n\n"
            else:
                continue
            quiet_s = 0.0
            async with asyncio.timeout(streams.write_limit_s):
                await response.write(text.encode())
    finally:
        if pending is not None:
            pending.cancel()
            with suppress(asyncio.CancelledError):
                await pending


def _text(event: StoredEvent, after: int) -> str:
    """The event as the stream has it; what was trimmed before it is said."""
    lost = "" if event.seq == after + 1 else f": events {after + 1} to {event.seq - 1} are gone\n"
    data = json.dumps(views.event(event), separators=(",", ":"))
    return f"{lost}id: {event.seq}\nevent: {event.name}\ndata: {data}\n\n"
