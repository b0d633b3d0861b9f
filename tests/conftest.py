"""What every test has: the processes of a failed one say what they wrote."""

from collections.abc import Generator

import pytest

from tests import harness


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed:
        for number, product in enumerate(harness.started):
            text = product.log()[-harness.LOG_TAIL :]
            report.sections.append((f"stderr of turnout {number}", text))
    return report


def pytest_runtest_logfinish() -> None:
    # Products of a module's fixture are alive still; the others are closed.
    harness.started[:] = [one for one in harness.started if one.base.exists()]
