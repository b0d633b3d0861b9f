"""A kind of router with the fake that it speaks to, as the conformance suite drives it.

Each kind has a file here, `tests/outer/target_KIND.py`, with a subclass or several, which
`TARGETS` in `tests/outer/targets.py` finds. The suite is `tests/outer/test_conformance.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from tests.fakes.base import FakeService
from turnout.config.loader import load_text
from turnout.config.model import Outer
from turnout.control.outer.loading import make_router
from turnout.control.outer.seams import Context, Router

CONFIGURATION = """
listeners: [{{bind: "127.0.0.1:8080"}}]
services:
  shop:
    upstreams: {{blue: {{servers: ["127.0.0.1:9001"]}}, green: {{servers: ["127.0.0.1:9002"]}}}}
    outer: {outer}
"""


class Target(ABC):
    """A fake of a system that stands at blue 100, green 0, and how Turnout is told of it."""

    kind: ClassVar[str]
    can_fail: ClassVar[bool] = True
    """Its changes can be taken on and then fail; false: there is no such thing with it."""
    can_pend: ClassVar[bool] = True
    """Its changes take time; false: they are in sync with the answer."""
    can_be_denied: ClassVar[bool] = True
    """It asks who calls."""
    in_product: ClassVar[bool] = True
    """The real processes can be configured with it."""
    secrets: ClassVar[tuple[str, ...]] = ()
    """Of the settings and the environment: they may be seen in the fake's calls alone."""

    fake: FakeService

    @abstractmethod
    def make_fake(self) -> FakeService:
        """A new fake at blue 100."""

    @abstractmethod
    def settings(self) -> Mapping[str, Any]:
        """The `outer:` section, which names `self.fake` where it is served."""

    def environment(self) -> Mapping[str, str]:
        """Variables that a process of Turnout needs beside, such as an endpoint's address."""
        return {}

    @abstractmethod
    def second_weight(self) -> int:
        """What the fake's state amounts to, hundredths of a percent of green."""

    def state(self) -> Any:
        """The fake's state but what it counts itself, such as versions: the same when everything
        is as it was."""
        return self.fake.snapshot()

    @abstractmethod
    def change_weight_outside(self) -> None:
        """Somebody else moves the weights: a bit, or all where it cannot be split."""

    @abstractmethod
    def change_settings_outside(self) -> None:
        """Somebody else changes something beside the weights that a switch would overwrite."""

    @abstractmethod
    def spoil(self) -> None:
        """Make it something that the configuration does not describe: a third member with
        weight, a member missing."""

    # ------------------------------------------------------------ what the suite uses

    def outer(self) -> Outer:
        """The settings as the loader reads them."""
        text = CONFIGURATION.format(outer=dict(self.settings()))
        service = load_text(text, environ=dict(self.environment())).services[0]
        assert service.outer is not None
        return service.outer

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        self.fake = self.make_fake()
        async with self.fake:
            yield

    turns: int = 0
    """How many calls were asked for."""
    calls_without_turn: ClassVar[int] = 0
    """For each router: of those that are not the API's own, such as one for a token."""

    def router(self, *, timeout_s: float = 5.0) -> Router:
        """A new router, as after a start. To be closed. `environment` must be set."""

        async def turn() -> None:
            self.turns += 1

        context = Context(("blue", "green"), timeout_s, turn, lambda what, remedy: None)
        return make_router(self.outer().settings, context)
