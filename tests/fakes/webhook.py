"""A web service such as a user may write for the `webhook` router, strict in all that the
contract asks of both ends (docs/outer/generic.md)."""

import hashlib
import hmac
import json
import time
from dataclasses import dataclass, field
from typing import Any, Final

from aiohttp import web

from tests.fakes.base import FakeService, Fault
from turnout.config.weights import WHOLE

TOKEN: Final = "token-of-the-fake-9d1f"
SECRET: Final = "secret-of-the-fake-77aa"
API_KEY: Final = "api-key-of-the-fake-5b0c"
NAMES: Final = ("blue", "green")


@dataclass
class _Change:
    at_s: float
    fails: bool


@dataclass
class FakeWebhook(FakeService):
    """One service at `/shop`. With `signed` every call must have a signature."""

    weights: dict[str, Any] = field(default_factory=lambda: {"blue": 100, "green": 0})
    settings: dict[str, Any] = field(default_factory=lambda: {"pool": "a", "sticky": True})
    problems: list[str] = field(default_factory=list)
    ttl_s: float = 0.0
    tail_per_min: float | None = None
    version: int = 1
    token: str = TOKEN
    secret: str = SECRET
    changes: dict[str, _Change] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)

    def writes(self, request: web.Request, body: bytes) -> bool:
        return request.method != "GET"

    def snapshot(self) -> Any:
        return json.loads(json.dumps([self.weights, self.settings, self.problems]))

    def change_outside(self, **changed: Any) -> None:
        """Somebody else's change of one of the fields."""
        for name, value in changed.items():
            setattr(self, name, value)
        self.version += 1

    def second_weight(self) -> int:
        first, second = (float(self.weights[name]) for name in NAMES)
        return round(second * WHOLE / (first + second))

    def refusal(self, fault: Fault, request: web.Request) -> web.Response:
        if fault is Fault.DENIED:
            # Some say back what they were sent.
            said = {"error": f"expired: {request.headers.get('Authorization')}"}
            return web.json_response(said, status=401)
        status = {Fault.THROTTLED: 429, Fault.UNAVAILABLE: 503}[fault]
        return web.json_response({"error": fault.value}, status=status)

    async def handle(self, request: web.Request, body: bytes) -> web.StreamResponse:
        if wrong := self._caller(request, body):
            return web.json_response({"error": wrong}, status=401)
        path = request.path.removeprefix("/shop")
        if request.method == "GET" and path == "":
            return web.json_response(self._told())
        if request.method == "GET" and path.startswith("/changes/"):
            change = self.changes.get(path.removeprefix("/changes/"))
            if change is None:
                return web.json_response({"error": "no such change"}, status=404)
            return web.json_response({"state": self._state(change), "detail": "by the fake"})
        if request.method == "PUT" and path == "":
            return self._put(request, body)
        return web.json_response({"error": "there is no such call"}, status=405)

    def _told(self) -> dict[str, Any]:
        told: dict[str, Any] = {
            "weights": self.weights,
            "version": f"v{self.version}",
            "settings": self.settings,
            "problems": self.problems,
            "ttl_seconds": self.ttl_s,
        }
        if self.tail_per_min is not None:
            told["tail"] = {"requests_per_min": self.tail_per_min}
        for id, change in self.changes.items():
            if self._state(change) == "pending":
                told["change"] = id
        return told

    def _state(self, change: _Change) -> str:
        if time.monotonic() - change.at_s < self.pending_s:
            return "pending"
        return "failed" if change.fails else "in_sync"

    def _caller(self, request: web.Request, body: bytes) -> str:
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            return "who are you?"
        if request.headers.get("X-Api-Key") != API_KEY:
            return "the API key is wrong"
        parts = dict(
            part.split("=", 1)
            for part in request.headers.get("Turnout-Signature", "t=0,v1=").split(",")
        )
        if abs(time.time() - int(parts["t"])) > 60:
            return "the signature is too old"
        if_match = request.headers.get("If-Match", "")
        signed = f"{parts['t']}\n{request.method}\n{request.path_qs}\n{if_match}\n".encode() + body
        wanted = hmac.new(self.secret.encode(), signed, hashlib.sha256).hexdigest()
        return "" if hmac.compare_digest(wanted, parts["v1"]) else "the signature is wrong"

    def _put(self, request: web.Request, body: bytes) -> web.Response:
        key = request.headers.get("Idempotency-Key", "")
        if request.headers.get("Content-Type") != "application/json" or len(key) < 16:
            return web.json_response({"error": "a field is missing"}, status=400)
        if key in self.keys:
            return web.json_response({"error": "this call was made before"}, status=400)
        self.keys.add(key)
        if request.headers.get("If-Match") is None:
            return web.json_response({"error": "If-Match is missing"}, status=428)
        if request.headers["If-Match"] != f'"v{self.version}"':
            return web.json_response({"error": f"it is v{self.version} now"}, status=412)
        try:
            asked = json.loads(body)
            assert set(asked) == {"weights"} and set(asked["weights"]) == set(NAMES)
            amounts = [asked["weights"][name] for name in NAMES]
            assert all(type(amount) in (int, float) and amount >= 0 for amount in amounts)
            assert sum(amounts) > 0
        except (ValueError, AssertionError, TypeError):
            return web.json_response({"error": "no such weights"}, status=422)
        return self._move(asked["weights"])

    def _move(self, weights: dict[str, Any]) -> web.Response:
        id = f"change-{len(self.changes) + 1}"
        takes_time = self.pending_s > 0 or self.fails_next
        if takes_time:
            self.changes[id] = _Change(time.monotonic(), self.fails_next)
        if not self.fails_next and self.weights != weights:
            self.weights = weights
            self.version += 1
        self.fails_next = False
        if takes_time:
            return web.json_response({"change": id}, status=202)
        return web.json_response({"in_sync": True})
