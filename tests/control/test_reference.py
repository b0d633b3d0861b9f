"""The reference pages say what the code says."""

import pytest

from turnout.control.reference import PAGES, pages
from turnout.control.routes import ROUTES


@pytest.mark.parametrize("name", ["api.md", "cli.md"])
def test_the_page_is_as_the_code_makes_it(name: str) -> None:
    path = PAGES / name
    assert path.read_text() == pages()[path], f"{path} is out of date; write it anew: make docs"


def test_every_call_is_on_the_page() -> None:
    text = (PAGES / "api.md").read_text()
    assert [r.path for r in ROUTES if f"`{r.method} {r.path}`" not in text] == []
