"""For pytest in a dry run: a test that needs a GPU passes where it comes as far as the driver, and fails before.

What comes as far is shown as skipped; a run in which no test started is a failure.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from bench.gpu.driver import REACHED, needs_driver


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Generator[None, Any, Any]:
    """Fixtures may be the first to need it."""
    return (yield from _to_the_driver())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, Any, Any]:
    """The test itself."""
    return (yield from _to_the_driver())


def _to_the_driver() -> Generator[None, Any, Any]:
    try:
        return (yield)
    except Exception as error:
        if needs_driver(str(error)):
            pytest.skip(REACHED)
        raise
