"""The control API of the running product against its own description, with generated calls.

Every call of /openapi.json is made with bodies and parameters that fit the description and with
such that do not, by schemathesis. No answer may be a 5xx but the documented ones, and each has a
documented status and is of the documented form. The same few calls in every run;
`make fuzz-api` makes more, and other ones each time.
"""

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation

from tests import harness
from tests.harness import Product, until
from tests.upstreams import Upstream
from turnout.control.routes import ROUTES

EXAMPLES: Final = int(os.environ.get("TURNOUT_API_EXAMPLES", "8"))
"""Calls of each operation, once fitting and once not."""
SEED: Final = int(os.environ.get("TURNOUT_API_SEED", "1"))
TOKEN: Final = "write-token-0123456789"
CALL_LIMIT_S: Final = 20.0
DOCUMENTED_5XX: Final = {501, 503}
load_all_checks()
CONFORMING: Final = CHECKS.get_by_names(
    [
        "status_code_conformance",
        "content_type_conformance",
        "response_headers_conformance",
        "response_schema_conformance",
        "allow_header_conformance",
    ]
)
REJECTING: Final = CHECKS.get_by_names(["negative_data_rejection"])
FIT_FOR_NOBODY: Final = re.compile(r"urn:turnout:problem:(malformed-|http-error)")
# A stream has no end, and an upgrade replaces the program that is being asked.
LEFT_OUT: Final = {"events", "upgrade"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def served() -> AsyncIterator[tuple[Product, str]]:
    """The product with the API on TCP and a token, between two upstreams."""
    async with Upstream("blue") as blue, Upstream("green") as green:
        product = Product(harness.settings([blue.address], [green.address]))
        bind = f"127.0.0.1:{free_port()}"
        tokens = [{"name": "ci", "scope": "write", "token": TOKEN}]
        # A body that is not whole is waited for; here not long.
        product.write_config({"control": {"bind": bind, "tokens": tokens, "timeout": "2s"}})
        try:
            await product.start(control=False)
            await until(lambda: "control.started" in product.log(), "control", 20.0)
            yield product, f"http://{bind}"
        finally:
            await product.close()


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: str(mode.value))
async def test_every_call_is_answered_as_the_description_says(mode: GenerationMode) -> None:
    print(f"TURNOUT_API_SEED={SEED} TURNOUT_API_EXAMPLES={EXAMPLES}")
    async with served() as (product, base):
        await asyncio.to_thread(call_everything, mode, base)
        assert "api.mistake" not in product.log()
        assert "Traceback" not in product.log()


def call_everything(mode: GenerationMode, base: str) -> None:
    described = requests.get(f"{base}/openapi.json", headers=bearer(), timeout=5).json()
    called = set()
    for operation in operations(described):
        call_one(operation, mode, base)
        called.add(operation.definition.raw["operationId"])
    assert called == {route.operation for route in ROUTES} - LEFT_OUT


def operations(described: dict[str, Any]) -> Iterator[APIOperation[Any, Any, Any, Any]]:
    for result in schemathesis.openapi.from_dict(described).get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()
        if operation.definition.raw["operationId"] not in LEFT_OUT:
            yield operation


def bearer() -> dict[str, str]:
    return {"Authorization": f"Bearer {TOKEN}"}


def call_one(operation: APIOperation[Any, Any, Any, Any], mode: GenerationMode, base: str) -> None:
    number = 0
    with requests.Session() as session:

        @seed(SEED)
        @settings(
            max_examples=EXAMPLES,
            database=None,
            deadline=None,
            derandomize=SEED == 1,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(mode))
        def one(case: Case[Any]) -> None:
            nonlocal number
            number += 1
            if number % 2 and "service" in (case.path_parameters or {}):
                # One that is there: a generated name never is.
                case.path_parameters["service"] = harness.SERVICE
                case.path_parameters.update(
                    {"upstream": "green"} if "upstream" in case.path_parameters else {}
                )
            judge(case, base, session)

        try:
            one()
        except Unsatisfiable:
            # Nothing can be wrong with a call that takes nothing.
            assert mode is GenerationMode.NEGATIVE
            assert not list(operation.iter_parameters())


def judge(case: Case[Any], base: str, session: requests.Session) -> None:
    answer = case.call(base_url=base, session=session, headers=bearer(), timeout=CALL_LIMIT_S)
    assert answer.status_code < 500 or answer.status_code in DOCUMENTED_5XX, answer.text
    if case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE:
        # What fits the description is understood, even where it cannot be done.
        assert not FIT_FOR_NOBODY.search(answer.text), (case.body, answer.text)
    # Any 4xx is a rejection, 412 and 413 too, which the check does not count.
    checks = CONFORMING if 400 <= answer.status_code < 500 else [*CONFORMING, *REJECTING]
    case.validate_response(answer, checks=checks, headers=bearer())  # type: ignore[arg-type]
