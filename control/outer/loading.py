"""Loads what implements a seam by its kind in the settings, and only then.

A kind's settings say which module beside this one has it (`module`); that module has
`make_router`, `make_discovery` or `make_gate`, each of (settings, context). Its own library is
imported by it, when it is made: what is not configured costs nothing and need not be installed.
"""

import asyncio
import importlib
import importlib.util
import time
from collections.abc import Callable, Iterator
from typing import Any, Final, cast

from turnout.config.model import Configuration, Service
from turnout.control.outer.seams import Context, Discovery, Gate, MissingExtra, Router

PACKAGE: Final = "turnout.control.outer"
EXTRAS: Final = {"boto3": "aws", "botocore": "aws", "google": "google"}
"""Library -> the extra that installs it."""


class Pace:
    """At most so many calls a second, with a few at once: of one kind, over all services.

    A bucket that holds `burst` and gets `per_s` a second.
    """

    __slots__ = ("_burst", "_at", "_left", "_lock", "_per_s")

    def __init__(self, per_s: float, burst: int) -> None:
        self._per_s = per_s
        self._burst = burst
        self._left = float(burst)
        self._at = time.monotonic()
        self._lock = asyncio.Lock()

    async def turn(self) -> None:
        """Return when a call may be made; in the order in which it was asked."""
        async with self._lock:
            now = time.monotonic()
            self._left = min(float(self._burst), self._left + (now - self._at) * self._per_s)
            self._at = now
            if self._left < 1:
                wait_s = (1 - self._left) / self._per_s
                await asyncio.sleep(wait_s)
                self._at, self._left = time.monotonic(), 1.0
            self._left -= 1


def module_of(settings: object) -> str:
    """Which file beside this one carries a kind out; `settings` are of `config.outer`."""
    return str(getattr(type(settings), "module", ""))


def pace_of(settings: object) -> Pace:
    """A new pace for a kind's calls, as its settings say."""
    return Pace(*getattr(type(settings), "paced", (5.0, 10)))


class Paces:
    """One pace for what each file here calls, whoever calls by it: an account's limits are shared
    by all services, and by routers, sources and gates alike."""

    __slots__ = ("_by_module",)

    def __init__(self) -> None:
        self._by_module: dict[str, Pace] = {}

    def of(self, settings: object) -> Pace:
        return self._by_module.setdefault(module_of(settings), pace_of(settings))


def missing_extras(configuration: Configuration) -> Iterator[tuple[str, str]]:
    """What the configuration names and cannot be used for want of a library: what is wrong, and
    what to do. Looked for, not imported."""
    needed_by: dict[str, list[str]] = {}
    for service in configuration.services:
        for kind, settings in _kinds(service):
            library = str(getattr(type(settings), "library", ""))
            if library:
                needed_by.setdefault(library, []).append(f"{service.name} ({kind})")
    for library, needing in needed_by.items():
        if importlib.util.find_spec(library) is None:
            yield (
                f"{library} is not installed, and is needed by {', '.join(needing)}",
                f"pip install 'turnout[{EXTRAS[library]}]'",
            )


def _kinds(service: Service) -> Iterator[tuple[str, object]]:
    if service.outer is not None:
        yield f"outer: {service.outer.kind}", service.outer.settings
    for upstream in service.upstreams:
        if upstream.discover is not None:
            place = f"discover of {upstream.name}: {upstream.discover.kind}"
            yield place, upstream.discover.settings
    for gate in service.gates:
        yield f"gate {gate.name}: {gate.kind}", gate.settings


def make_router(settings: object, context: Context) -> Router:
    """Raises MissingExtra, and Refused for settings that its system cannot have."""
    return cast(Router, _made(settings, "make_router", context))


def make_discovery(settings: object, context: Context) -> Discovery:
    """Raises as `make_router`."""
    return cast(Discovery, _made(settings, "make_discovery", context))


def make_gate(settings: object, context: Context) -> Gate:
    """Raises as `make_router`."""
    return cast(Gate, _made(settings, "make_gate", context))


def _made(settings: object, maker: str, context: Context) -> object:
    module = importlib.import_module(f"{PACKAGE}.{module_of(settings)}")
    make: Callable[[Any, Context], object] = getattr(module, maker)
    try:
        return make(settings, context)
    except ModuleNotFoundError as error:
        library = (error.name or "").partition(".")[0]
        extra = EXTRAS.get(library)
        if extra is None:
            raise
        raise MissingExtra(
            f"{getattr(settings, 'kind', '')} needs {library}, which is not installed:"
            f" pip install 'turnout[{extra}]'"
        ) from None
