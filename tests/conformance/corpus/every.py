"""All of the corpus, and its table in the docs.

`python -m tests.conformance.corpus.every` writes the table anew.
"""

from pathlib import Path
from typing import Final

from tests.conformance.case import IdleCase, RequestCase, ResponseCase
from tests.conformance.corpus import (
    ends,
    request_chunks,
    request_fields,
    request_lengths,
    request_lines,
    responses,
)
from tests.conformance.corpus.family import Family

REQUESTS: Final[tuple[Family, ...]] = (
    *request_lengths.FAMILIES,
    *request_chunks.FAMILIES,
    *request_fields.FAMILIES,
    *request_lines.FAMILIES,
)
RESPONSES: Final[tuple[Family, ...]] = (*responses.FAMILIES, *ends.FAMILIES)

PAGE: Final = Path(__file__).resolve().parents[3] / "docs" / "conformance.md"
BEGIN: Final = "<!-- corpus:begin -->\n"
END: Final = "<!-- corpus:end -->"


def request_cases() -> list[RequestCase]:
    return [case for one in REQUESTS for case in one.cases if isinstance(case, RequestCase)]


def response_cases() -> list[ResponseCase]:
    return [case for one in RESPONSES for case in one.cases if isinstance(case, ResponseCase)]


def idle_cases() -> list[IdleCase]:
    return [case for one in RESPONSES for case in one.cases if isinstance(case, IdleCase)]


def table() -> str:
    """The families, what may come of their cases, and how many there are of each."""
    lines = [
        "| family | cases | passed on | refused | cut short | source |",
        "|---|---|---|---|---|---|",
    ]
    totals = [0, 0, 0, 0]
    for family in (*REQUESTS, *RESPONSES):
        counts = [len(family.cases), 0, 0, 0]
        for case in family.cases:
            if isinstance(case, RequestCase):
                counts[2 if case.status else 1] += 1
            elif isinstance(case, ResponseCase):
                counts[2 if case.status == 502 else 3 if case.cut else 1] += 1
            else:
                counts[2] += 1
        totals = [a + b for a, b in zip(totals, counts, strict=True)]
        figures = " | ".join(str(count or "") for count in counts)
        lines.append(f"| {family.name} | {figures} | {family.source} |")
    lines.append(f"| **all** | {' | '.join(f'**{count}**' for count in totals)} | |")
    return "\n".join(lines) + "\n"


def page() -> str:
    """The page of the docs with the table of today."""
    text = PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    PAGE.write_text(page())
