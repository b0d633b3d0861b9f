"""The imaginary load balancer of docs/outer-layers.md."""

from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from tests.fakes.base import FakeService
from turnout.config.weights import WHOLE

TOKEN: Final = "token-of-the-example-4c1d"


@dataclass
class FakeExample(FakeService):
    members: dict[str, int] = field(default_factory=lambda: {"blue": 100, "green": 0})
    algorithm: str = "round_robin"
    version: int = 1

    def writes(self, request: web.Request, body: bytes) -> bool:
        return request.method == "PUT"

    def snapshot(self) -> Any:
        return {"members": dict(self.members), "algorithm": self.algorithm}

    def change(self, **changed: Any) -> None:
        before = self.snapshot()
        for name, value in changed.items():
            setattr(self, name, value)
        self.version += self.snapshot() != before

    async def handle(self, request: web.Request, body: bytes) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.json_response({"error": "who are you?"}, status=401)
        etag = f'"{self.version}"'
        if request.path != "/pool":
            return web.json_response({"error": "no such thing"}, status=404)
        if request.method == "GET":
            return web.json_response(self.snapshot(), headers={"ETag": etag})
        if request.headers.get("If-Match") != etag:
            return web.json_response({"error": "it was changed"}, status=412)
        asked = await request.json()
        members = asked["members"]
        if set(asked) != {"members", "algorithm"} or sum(members.values()) != 100:
            return web.json_response({"error": "no such pool"}, status=400)
        self.change(**asked)
        return web.json_response(self.snapshot())

    def second_weight(self) -> int:
        return self.members["green"] * WHOLE // sum(self.members.values())
