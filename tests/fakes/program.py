"""What `move_weights.sh` speaks to: the fake of the webhook, by the contract of a program."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from aiohttp import web

from tests.fakes.base import Fault
from tests.fakes.webhook import NAMES, TOKEN, FakeWebhook

PROGRAM: Final = Path(__file__).parent / "move_weights.sh"


@dataclass
class FakeProgram(FakeWebhook):
    """The state that the program moves. A version is compared when there is one."""

    tells_version: bool = True

    def refusal(self, fault: Fault, request: web.Request) -> web.Response:
        if fault is Fault.DENIED:
            said = {"error": f"expired: {request.headers.get('X-Token')}"}
            return web.json_response(said, status=401)
        return super().refusal(fault, request)

    def _caller(self, request: web.Request, body: bytes) -> str:
        return "" if request.headers.get("X-Token") == TOKEN else "who are you?"

    def _told(self) -> dict[str, Any]:
        told = super()._told()
        if not self.tells_version:
            del told["version"]
        return told

    def _put(self, request: web.Request, body: bytes) -> web.Response:
        asked = json.loads(body)
        if set(asked) != {"weights", "if_version"} or set(asked["weights"]) != set(NAMES):
            return web.json_response({"error": "no such call"}, status=422)
        if self.tells_version and asked["if_version"] != f"v{self.version}":
            return web.json_response({"error": f"it is v{self.version} now"}, status=412)
        return self._move(asked["weights"])
