"""Promise 7, requests: refused with a well-formed answer and a close, or passed on in exactly
one reading. The cases are in `corpus/`, the rule in `judge.py`, how they are run in `runner.py`."""

import pytest

from tests.conformance.case import RequestCase
from tests.conformance.corpus.every import request_cases
from tests.conformance.runner import Stand

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.product]


@pytest.mark.parametrize("case", request_cases(), ids=lambda case: f"{case.family}: {case.name}")
async def test_a_request_has_one_reading_or_none(stand: Stand, case: RequestCase) -> None:
    await stand.run_request(case)
