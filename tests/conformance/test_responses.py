"""Promise 7, answers: 502, or passed on in exactly one reading, or visibly cut short; and the
next client of the server's connection gets its own. The cases are in `corpus/`."""

import pytest

from tests.conformance.case import IdleCase, ResponseCase
from tests.conformance.corpus.every import idle_cases, response_cases
from tests.conformance.runner import Stand

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.product]


@pytest.mark.parametrize("case", response_cases(), ids=lambda case: f"{case.family}: {case.name}")
async def test_an_answer_has_one_reading_or_none(stand: Stand, case: ResponseCase) -> None:
    await stand.run_response(case)


@pytest.mark.parametrize("case", idle_cases(), ids=lambda case: f"{case.family}: {case.name}")
async def test_who_asks_next_gets_nothing_that_nobody_asked_for(
    stand: Stand, case: IdleCase
) -> None:
    await stand.run_idle(case)
