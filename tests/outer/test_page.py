"""The table of kinds in docs/outer-layers.md says what the routers say of themselves."""

import re
import textwrap
from pathlib import Path
from typing import Final, get_args

import pytest

from tests.outer.target import Target
from tests.outer.targets import TARGETS
from turnout.config.loader import load_text
from turnout.config.outer import OuterKind

PAGE: Final = Path(__file__).parents[2] / "docs" / "outer-layers.md"
LISTENERS: Final = 'listeners: [{bind: "127.0.0.1:8080"}]\n'
SERVICE: Final = """services:
  shop:
    upstreams: {blue: {servers: ["127.0.0.1:9001"]}, green: {servers: ["127.0.0.1:9002"]}}
"""
ROW: Final = re.compile(r"^\| \[?`(\w+)`.*?\|.*?\| (.*?) \| (.*?) \|", re.MULTILINE)


@pytest.mark.parametrize("page", ["outer-layers.md", "outer/generic.md"])
def test_its_settings_are_taken_by_the_loader(page: str) -> None:
    text = (PAGE.parent / page).read_text()
    examples = re.findall(r"^```yaml\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert examples
    for example in examples:
        if example.startswith("outer:"):
            example = SERVICE + textwrap.indent(example, "    ")
        environ = dict.fromkeys(re.findall(r"\$\{(\w+)\}", example), "0123456789abcdef")
        (service,) = load_text(LISTENERS + example, environ=environ).services
        assert service.outer is not None


def rows() -> dict[str, list[tuple[str, str]]]:
    """Kind -> its rows' shares, and how a change by others is noticed."""
    found: dict[str, list[tuple[str, str]]] = {}
    for kind, shares, noticed in ROW.findall(PAGE.read_text()):
        found.setdefault(kind, []).append((shares, noticed))
    return found


def test_every_kind_has_its_row() -> None:
    kinds = {get_args(kind.model_fields["kind"].annotation)[0] for kind in get_args(get_args(OuterKind)[0])}  # fmt: skip
    assert kinds == set(rows())


def test_every_row_leads_to_the_page_that_is_about_its_kind() -> None:
    for kind in rows():
        (row, *_) = (
            line for line in PAGE.read_text().splitlines() if re.match(rf"\| \[?`{kind}`", line)
        )
        link = re.match(rf"\| \[`{kind}`\]\((outer/\w+\.md)\) ?[^|]*\|", row)
        assert link is not None, f"no link: {row}"
        assert "<!--" not in row
        assert f"kind: {kind}" in (PAGE.parent / link[1]).read_text()


def test_every_kind_has_a_target() -> None:
    assert set(rows()) == {target.kind for target in TARGETS if target.in_product}


@pytest.mark.parametrize("kind", TARGETS, ids=lambda target: target.__name__)
async def test_its_row_is_what_its_router_can(
    kind: type[Target], monkeypatch: pytest.MonkeyPatch
) -> None:
    target = kind()
    if not target.in_product:
        pytest.skip(f"{target.kind} is the page's example")
    async with target.serve():
        for name, value in target.environment().items():
            monkeypatch.setenv(name, value)
        router = target.router()
        can = router.capabilities
        await router.close()
    can_all_or_nothing = "weighted" in target.settings()
    assert any(
        (shares == "0 or 100") == (not can.weighted and not can_all_or_nothing)
        and (noticed == "read again just before") == (not can.conditional)
        for shares, noticed in rows()[target.kind]
    ), (can, rows()[target.kind])
