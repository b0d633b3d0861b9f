"""Between the reading that a change rests on and the change itself nothing waits for a turn.

AWS knows no condition for these changes, so each router reads again just before. A turn may take
seconds when many services call at once, and somebody else's change in that time must be seen.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

from tests.outer.target import Target
from tests.outer.target_alb import AlbTarget
from tests.outer.target_elastic_beanstalk import ElasticBeanstalkTarget
from tests.outer.target_route53 import Route53AliasTarget, Route53Target
from turnout.config.weights import WHOLE
from turnout.control.outer.loading import make_router
from turnout.control.outer.seams import Conflict, Context, Router, Wanted


class ByNameAndById(ElasticBeanstalkTarget):
    """Which takes two calls to be read."""

    def settings(self) -> Mapping[str, Any]:
        green = next(
            key for key, one in self.fake.environments.items()
            if one["EnvironmentName"] == "shop-green"
        )  # fmt: skip
        return {**super().settings(), "environments": {"blue": "shop-blue", "green": green}}


class Turns:
    """Turns during one of which somebody else changes the weights."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self.left = 0
        """So many more turns until then; 0: never."""
        self.taken = 0

    async def turn(self) -> None:
        await asyncio.sleep(0)
        self.taken += 1
        if self.left:
            self.left -= 1
            if not self.left:
                self._target.change_weight_outside()

    def router(self) -> Router:
        context = Context(("blue", "green"), 5.0, self.turn, lambda what, remedy: None)
        return make_router(self._target.outer().settings, context)


KINDS = [Route53Target, Route53AliasTarget, AlbTarget, ElasticBeanstalkTarget, ByNameAndById]


@pytest.mark.parametrize("kind", KINDS)
async def test_a_change_from_outside_while_a_turn_is_waited_for_is_not_overwritten(
    kind: type[Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = 3 if kind is ByNameAndById else 2
    for turn in range(1, needed + 1):
        target = kind()
        async with target.serve():
            for name, value in target.environment().items():
                monkeypatch.setenv(name, value)
            turns = Turns(target)
            router = turns.router()
            try:
                reading = await router.read()
                turns.left, turns.taken = turn, 0
                with pytest.raises(Conflict):
                    await router.set_weights(Wanted(WHOLE), reading)
            finally:
                await router.close()
            assert (turns.left, turns.taken) == (0, needed)
            assert target.fake.writing == []


async def test_what_is_confirmed_is_not_overwritten_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """Route 53 writes again what is there, for an id to follow."""
    for turn in (1, 2):
        target = Route53Target()
        async with target.serve():
            for name, value in target.environment().items():
                monkeypatch.setenv(name, value)
            turns = Turns(target)
            router = turns.router()
            try:
                reading = await router.read()
                turns.left = turn
                with pytest.raises(Conflict):
                    await router.confirm(Wanted(0), reading)
            finally:
                await router.close()
            assert target.fake.writing == []
