"""What is beyond the proxy as it is now, read without a running Turnout: `turnout check --outer`.

Nothing is changed. Each system that a configuration names is asked once: what it has, what a
switch to either upstream would call, what each gate says, which servers a source knows.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import Any, TypeVar

from turnout.config.model import Configuration, Service
from turnout.config.weights import WHOLE, Weights
from turnout.control.outer import loading
from turnout.control.outer.loading import pace_of
from turnout.control.outer.seams import (
    Context,
    Discovery,
    FoundServers,
    Gate,
    GateQuestion,
    OuterError,
    Reading,
    Router,
    Wanted,
)

T = TypeVar("T")


async def check(configuration: Configuration) -> list[dict[str, Any]]:
    """A document for each service that has something beyond the proxy, in the file's order.

    `error` says why a system could not be asked; `problems` why it is not as configured.
    """
    found = await asyncio.gather(*(_service(service) for service in configuration.services))
    return [document for document in found if len(document) > 1]


def is_well(documents: list[dict[str, Any]]) -> bool:
    """Whether everything could be asked and is as configured. Whether a gate would let a step pass
    now does not matter; that it can be asked does."""
    for document in documents:
        outer = document.get("outer")
        parts = [*document.get("discover", []), *document.get("gates", [])]
        if outer is not None and (outer.get("error") or outer.get("problems")):
            return False
        if any(part.get("error") or part.get("verdict") == "error" for part in parts):
            return False
    return True


async def _service(service: Service) -> dict[str, Any]:
    document: dict[str, Any] = {"service": service.name}
    if service.outer is not None:
        document["outer"] = await _asked(service.outer.kind, lambda: _router(service))
    sources = [upstream for upstream in service.upstreams if upstream.discover is not None]
    if sources:
        document["discover"] = [await _source(service, upstream.name) for upstream in sources]
    if service.gates:
        document["gates"] = [await _gate(service, gate.name) for gate in service.gates]
    return document


async def _asked(
    kind: str, ask: Callable[[], Awaitable[dict[str, Any]]], **more: Any
) -> dict[str, Any]:
    try:
        return {"kind": kind, **more, **await ask()}
    except OuterError as error:
        return {"kind": kind, **more, "error": str(error)}
    except TimeoutError:
        return {"kind": kind, **more, "error": "it did not answer in time"}


async def _router(service: Service) -> dict[str, Any]:
    outer = service.outer
    assert outer is not None
    context, warnings = _context(service, outer.settings, outer.call_timeout_s)
    router: Router = loading.make_router(outer.settings, context)
    try:
        reading = await router.read()
        return {
            "order": outer.order.value,
            "capabilities": asdict(router.capabilities),
            "weights": None
            if reading.second_weight is None
            else Weights(*service.names, reading.second_weight).percentages(),
            "ttl_seconds": reading.ttl_s,
            "problems": list(reading.problems),
            "warnings": [*reading.warnings, *warnings],
            "there": reading.exact,
            "switches": [] if reading.problems else _switches(service, router, reading),
        }
    finally:
        await router.close()


def _switches(service: Service, router: Router, reading: Reading) -> list[dict[str, Any]]:
    """What a switch to each upstream would call."""
    found = []
    for name, weight in zip(service.names, (0, WHOLE), strict=True):
        same = reading.second_weight == weight
        call = None if same else router.preview(Wanted(weight), reading)
        found.append({"to": name, "call": call})
    return found


async def _source(service: Service, name: str) -> dict[str, Any]:
    upstream = service.upstream(name)
    assert upstream is not None and upstream.discover is not None
    discover = upstream.discover

    async def ask() -> dict[str, Any]:
        context, _ = _context(service, discover.settings, discover.call_timeout_s)
        source: Discovery = loading.make_discovery(discover.settings, context)
        try:
            async with asyncio.timeout(2 * discover.call_timeout_s):
                found: FoundServers = await anext(aiter(source.snapshots()))
        finally:
            await source.close()
        return {"servers": [asdict(server) for server in found.servers], "revision": found.revision}

    return await _asked(discover.kind, ask, upstream=name)


async def _gate(service: Service, name: str) -> dict[str, Any]:
    gate = next(gate for gate in service.gates if gate.name == name)

    async def ask() -> dict[str, Any]:
        context, warnings = _context(service, gate.settings, gate.call_timeout_s)
        made: Gate = loading.make_gate(gate.settings, context)
        question = GateQuestion(service.name, service.names[1], "", 0, 0.0, time.time())
        try:
            async with asyncio.timeout(2 * gate.call_timeout_s):
                result = await made.check(question)
                warnings += await _setup(made)
        finally:
            await made.close()
        return {
            "verdict": result.verdict.value,
            "value": result.value,
            "reason": result.reason,
            "warnings": warnings,
        }

    return await _asked(gate.kind, ask, gate=name)


async def _setup(gate: Gate) -> list[str]:
    """What a gate finds odd in its own settings, such as a metric that nobody writes."""
    ask = getattr(gate, "check_setup", None)
    return [] if ask is None else list(await ask())


def _context(service: Service, settings: object, timeout_s: float) -> tuple[Context, list[str]]:
    told: list[str] = []
    turn = pace_of(settings).turn
    return Context(service.names, timeout_s, turn, lambda what, remedy: told.append(what)), told
