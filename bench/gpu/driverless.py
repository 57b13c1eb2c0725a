"""For pytest in a dry run: a test that needs a GPU passes where it comes as far as the driver, and fails before.

What comes as far is shown as skipped; a run in which no test started is a failure.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from bench.gpu.driver import REACHED, needs_driver


def pytest_addoption(parser: pytest.Parser) -> None:
    """Which tests without a GPU run too."""
    parser.addoption("--whole", default="", help="words of the names of tests that run to their end")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Those that need a GPU, and those that are named."""
    words = [word for word in config.getoption("--whole").split(",") if word]
    items[:] = [item for item in items if item.get_closest_marker("gpu") or any(word in item.name for word in words)]


_there: set[str] = set()
"""Tests of which a case came as far: their other cases would come no farther."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    """Fixtures may be the first to need it."""
    if _name(item) in _there and item.get_closest_marker("gpu"):
        pytest.skip(f"{REACHED}, as another case did")
    return (yield from _to_the_driver(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """The test itself."""
    return (yield from _to_the_driver(item))


def _to_the_driver(item: pytest.Item) -> Generator[None, Any, Any]:
    try:
        return (yield)
    except Exception as error:
        if needs_driver(str(error)):
            _there.add(_name(item))
            pytest.skip(REACHED)
        raise


def _name(item: pytest.Item) -> str:
    return item.nodeid.partition("[")[0]
