"""The example of docs/outer-layers.md, as it stands there: it passes what every router must."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, Final

from tests.fakes.example import TOKEN, FakeExample
from tests.outer.target import Target
from turnout.config.model import Outer

PAGE: Final = Path(__file__).parents[2] / "docs" / "outer-layers.md"
_CODE: Final = re.compile(
    r"^```python\n# ((?:config|control)/\S+)\.py\n(.*?)^```$", re.MULTILINE | re.DOTALL
)


def modules() -> dict[str, ModuleType]:
    """The page's files, as if they were where it says, by their names."""
    found = {}
    for path, code in _CODE.findall(PAGE.read_text()):
        name = f"turnout.{path.replace('/', '.')}"
        if name not in sys.modules:
            made = ModuleType(name)
            made.__dict__["__file__"] = str(PAGE)
            sys.modules[name] = made
            # The page is ours, and its code is what is tested.
            exec(compile(code, f"{PAGE.name}: {path}.py", "exec"), made.__dict__)  # noqa: S102
        found[name] = sys.modules[name]
    return found


class ExampleTarget(Target):
    kind: ClassVar[str] = "example"
    can_fail: ClassVar[bool] = False
    can_pend: ClassVar[bool] = False
    in_product: ClassVar[bool] = False  # it is in no process but this
    secrets: ClassVar[tuple[str, ...]] = (TOKEN,)
    fake: FakeExample

    def make_fake(self) -> FakeExample:
        return FakeExample()

    def settings(self) -> Mapping[str, Any]:
        return {"kind": "example", "url": self.fake.url, "token": TOKEN}

    def outer(self) -> Outer:
        section = modules()["turnout.config.outer.example"].Example
        made: Outer = section(**self.settings()).to_model("example")
        return made

    def second_weight(self) -> int:
        return self.fake.second_weight()

    def change_weight_outside(self) -> None:
        self.fake.change(members={"blue": 61, "green": 39})

    def change_settings_outside(self) -> None:
        self.fake.change(algorithm="least_connections")

    def spoil(self) -> None:
        self.fake.change(members={"blue": 50, "green": 0, "red": 50})
