"""What every test has: the processes of a failed one say what they wrote.

Tests of a file that starts the whole product have the mark `product`: `-m "not product"` runs
the quick ones.
"""

import gc
from collections.abc import Generator

import pytest
from hypothesis import settings

from tests import harness

# The same examples in every run, and none that fails for being slow on a busy machine. New
# ones are looked for with `--hypothesis-profile=default`.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    # A collected task may say that it failed, with a traceback. Making one parses, and so does a
    # report: Python before 3.11.5 does not stand one within the other, and all tests would end.
    gc.disable()
    try:
        report = yield
    finally:
        gc.enable()
    if report.failed:
        for number, product in enumerate(harness.started):
            text = product.log()[-harness.LOG_TAIL :]
            report.sections.append((f"stderr of turnout {number}", text))
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    whole = (harness.Product, harness.bench)
    for item in items:
        known = vars(item.module).values() if isinstance(item, pytest.Function) else ()
        if any(value is one for value in known for one in whole):
            item.add_marker("product")


def pytest_runtest_logfinish() -> None:
    # Products of a module's fixture are alive still; the others are closed.
    harness.started[:] = [one for one in harness.started if one.base.exists()]
