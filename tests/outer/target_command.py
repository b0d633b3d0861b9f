"""The `command` router's program, and the fake that keeps its state."""

from collections.abc import Mapping
from typing import Any, ClassVar

from tests.fakes.program import PROGRAM, FakeProgram
from tests.fakes.webhook import TOKEN
from tests.outer.target import Target


class CommandTarget(Target):
    kind: ClassVar[str] = "command"
    secrets: ClassVar[tuple[str, ...]] = (TOKEN,)
    fake: FakeProgram

    def make_fake(self) -> FakeProgram:
        return FakeProgram()

    def settings(self) -> Mapping[str, Any]:
        return {
            "kind": "command",
            "argv": ["bash", str(PROGRAM), str(self.fake.port)],
            "environment": ["FAKE_TOKEN"],
        }

    def environment(self) -> Mapping[str, str]:
        return {"FAKE_TOKEN": TOKEN}

    def second_weight(self) -> int:
        return self.fake.second_weight()

    def change_weight_outside(self) -> None:
        self.fake.change_outside(weights={"blue": 25, "green": 3})

    def change_settings_outside(self) -> None:
        self.fake.change_outside(settings={"pool": "b", "sticky": True})

    def spoil(self) -> None:
        self.fake.change_outside(weights={"blue": 90, "green": 0, "canary": 10})


class SimplestCommandTarget(CommandTarget):
    """A program that tells and compares no version."""

    def make_fake(self) -> FakeProgram:
        return FakeProgram(tells_version=False)
