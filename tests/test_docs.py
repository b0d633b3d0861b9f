"""The docs say what the code says: links lead somewhere, names and states are the real ones.

`python tests/test_docs.py` writes the diagram of states anew.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from turnout.control import events
from turnout.control.switchover import FINAL, MOVES, Return, State
from turnout.proxy.scoreboard import CUT_REASONS, NOT_RETRIED_REASONS, REFUSED_REASONS

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
ARCHITECTURE = ROOT / "docs" / "architecture.md"
OPERATIONS = ROOT / "docs" / "operations.md"
BEGIN, END = "<!-- states:begin -->\n", "<!-- states:end -->"

LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.+)$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = FENCE.sub("", page.read_text())
    plain = (re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading) for heading in HEADING.findall(text))
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for link in LINK.findall(FENCE.sub("", page.read_text())):
        if link.startswith(("http://", "https://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_the_tests_that_reliability_names_exist() -> None:
    page = (ROOT / "docs" / "reliability.md").read_text()
    named = re.findall(r"`(?:tests/[\w/]*|test_)[\w*.]*`", page)
    missing, room = [], Path("tests")
    for name in named:
        path = Path(name.strip("`"))
        room = path.parent if len(path.parts) > 1 else room
        if not list(ROOT.glob(str(room / path.name))):
            missing.append(name)
    assert named and missing == []


def states() -> str:
    """The switchover's moves as a diagram: one arrow for each pair of states."""
    arrows: dict[tuple[str, str], list[str]] = {}
    for (state, event), after in MOVES.items():
        # Back to where it was paused: any of the three.
        ends = (State.PREPARING, State.CHECKING, State.SHIFTING) if after in Return else (after,)
        for end in ends:
            assert isinstance(end, State)
            arrows.setdefault((state.value, end.value), []).append(event.__name__)
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.PENDING.value}"]
    lines += [f"    {a} --> {b}: {', '.join(names)}" for (a, b), names in arrows.items()]
    lines += [f"    {state.value} --> [*]" for state in State if state in FINAL]
    return "\n".join([*lines, "```", ""])


def test_the_diagram_is_drawn_from_the_table() -> None:
    found = ARCHITECTURE.read_text().partition(BEGIN)[2].partition(END)[0]
    assert found == states(), "run: python tests/test_docs.py"


def event_names() -> Iterator[str]:
    """Every event that control tells, and every line that the supervisor and workers say."""
    for found in vars(events).values():
        name = getattr(found, "NAME", None) if isinstance(found, type) else None
        if isinstance(name, str):
            yield name
    for path in sorted((ROOT / "turnout").glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                said = node.args[0] if node.func.id == "say" and node.args else None
                if isinstance(said, ast.Constant) and isinstance(said.value, str):
                    yield said.value


@pytest.mark.parametrize("name", sorted(set(event_names())))
def test_operations_says_what_to_do_at_each_event(name: str) -> None:
    assert f"`{name}`" in OPERATIONS.read_text()


@pytest.mark.parametrize(
    "word", [*State, *CUT_REASONS, *NOT_RETRIED_REASONS, *REFUSED_REASONS], ids=str
)
def test_operations_explains_each_state_and_reason(word: str) -> None:
    assert f"`{word}`" in OPERATIONS.read_text()


@pytest.mark.parametrize("number", range(1, 9))
def test_each_promise_has_its_tests(number: int) -> None:
    pattern = f"tests/promises/test_{number}_*.py"
    assert f"## {number}. " in (page := (ROOT / "docs" / "promises.md").read_text())
    assert f"`{pattern}`" in page
    assert list(ROOT.glob(pattern)) != []


if __name__ == "__main__":
    text = ARCHITECTURE.read_text()
    before, _, rest = text.partition(BEGIN)
    ARCHITECTURE.write_text(before + BEGIN + states() + END + rest.partition(END)[2])
    sys.exit()
