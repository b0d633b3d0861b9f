"""A plain proxy of aiohttp's server and client, on the standard loop: `… PORT ORIGIN_PORT`.

What a person would write who needs a proxy in Python and looks no further; bodies are
streamed, connections to the origin are kept.
"""

import asyncio
import sys
from typing import Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict

HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "host"}
)
CHUNK_BYTES: Final = 65_536


class Proxy:
    def __init__(self, origin_port: int) -> None:
        self.origin = f"http://127.0.0.1:{origin_port}"

    async def start(self) -> None:
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=300),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None),
        )

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self.websocket(request)
        body = request.content if request.body_exists else None
        async with self.session.request(
            request.method, self.origin + request.raw_path, data=body,
            headers=end_to_end(request.headers), allow_redirects=False,
        ) as answer:  # fmt: skip
            response = web.StreamResponse(
                status=answer.status, reason=answer.reason, headers=end_to_end(answer.headers)
            )
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            await response.write_eof()
            return response

    async def websocket(self, request: web.BaseRequest) -> web.StreamResponse:
        client = web.WebSocketResponse(compress=False)
        await client.prepare(request)
        async with self.session.ws_connect(self.origin + request.raw_path, compress=0) as server:

            async def to_client() -> None:
                async for message in server:
                    await client.send_bytes(message.data)
                await client.close()

            async with asyncio.TaskGroup() as group:
                group.create_task(to_client())
                async for message in client:
                    await server.send_bytes(message.data)
                await server.close()
        return client


def end_to_end(headers: "CIMultiDict[str] | aiohttp.typedefs.LooseHeaders") -> CIMultiDict[str]:
    """The fields that are meant for the other end."""
    kept: CIMultiDict[str] = CIMultiDict(headers)
    for name in HOP_BY_HOP:
        kept.popall(name, None)
    return kept


async def serve(port: int, origin_port: int) -> None:
    proxy = Proxy(origin_port)
    await proxy.start()
    runner = web.ServerRunner(web.Server(proxy.handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, backlog=4096).start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
