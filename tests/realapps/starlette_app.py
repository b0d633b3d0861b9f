"""A Starlette application: WebSockets, event streams, streamed bodies, files."""

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import (
    FileResponse,
    JSONResponse,
    PlainTextResponse,
    Response,
    StreamingResponse,
)
from starlette.routing import Mount, Route, WebSocketRoute
from starlette.types import Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

closed: dict[str, list[object]] = {}
"""Conversation -> the client's close code and reason, as the server was told."""


async def healthz(request: Request) -> Response:
    return PlainTextResponse("ok")


async def echo(request: Request) -> Response:
    """Everything that came, but what a proxy adds."""
    body = await request.body()
    document = {
        "method": request.method,
        "path": request.url.path,
        "query": request.url.query,
        "host": request.headers.get("host"),
        "fields": [
            [name.decode("latin-1"), value.decode("latin-1")]
            for name, value in request.headers.raw
            if name.startswith(b"x-test-") or name in (b"cookie", b"accept", b"content-type")
        ],
        "bytes": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    return JSONResponse(document, headers={"X-Test-Answer": "yes"})


async def events(request: Request) -> Response:
    """Each event says when it was made, by the machine's monotonic clock."""
    count, gap_s = int(request.query_params["count"]), float(request.query_params["gap"])

    async def stream() -> AsyncIterator[bytes]:
        for number in range(count):
            yield f"id: {number}\ndata: {time.monotonic()}\n\n".encode()
            await asyncio.sleep(gap_s)

    return StreamingResponse(stream(), media_type="text/event-stream")


async def stream_back(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer each piece of the request's body with its length, while it comes.

    Without Starlette's StreamingResponse, which reads what is received as well, to notice a
    client that has gone.
    """
    await send({"type": "http.response.start", "status": 200, "headers": []})
    more = True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        more = message.get("more_body", False)
        if piece := message.get("body", b""):
            said = b"%d\n" % len(piece)
            await send({"type": "http.response.body", "body": said, "more_body": True})
    await send({"type": "http.response.body", "body": b""})


async def cookies(request: Request) -> Response:
    response = PlainTextResponse("two cookies")
    response.set_cookie("first", "1", path="/")
    response.set_cookie("second", "2", httponly=True)
    return response


async def file(request: Request) -> Response:
    return FileResponse(__file__, media_type="text/x-python")


async def talk(socket: WebSocket) -> None:
    """Send everything back; `close CODE REASON` closes."""
    await socket.accept(subprotocol=next(iter(socket.scope["subprotocols"]), None))
    name = socket.query_params.get("name", "")
    try:
        while True:
            message = await socket.receive()
            if message["type"] == "websocket.disconnect":
                raise WebSocketDisconnect(message["code"], message.get("reason"))
            if message.get("bytes") is not None:
                await socket.send_bytes(message["bytes"])
                continue
            text: str = message["text"]
            if text.startswith("close "):
                _, code, reason = text.split(" ", 2)
                await socket.close(int(code), reason)
                return
            await socket.send_text(text)
    except WebSocketDisconnect as end:
        closed[name] = [end.code, end.reason]


async def refuse(socket: WebSocket) -> None:
    await socket.close()


async def closes(request: Request) -> Response:
    """How the client of a conversation said goodbye; null while it has not."""
    return JSONResponse(closed.get(request.query_params["name"]))


METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
app = Starlette(
    routes=[
        Route("/healthz", healthz),
        Route("/echo", echo, methods=METHODS),
        Route("/echo/{rest:path}", echo, methods=METHODS),
        Route("/events", events),
        Mount("/stream-back", stream_back),
        Route("/cookies", cookies),
        Route("/file", file),
        Route("/closes", closes),
        WebSocketRoute("/talk", talk),
        WebSocketRoute("/refuse", refuse),
    ]
)
