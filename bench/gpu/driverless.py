"""A pytest plugin for dry runs: a test that needs a GPU passes where it reaches the driver, and fails before.

What comes as far is shown as skipped; a run in which no test started is a failure.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from bench.gpu.driver import REACHED, needs_driver


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option that names the tests to run to their end."""
    parser.addoption("--whole", default="", help="words of the names of tests that run to their end")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests that need a GPU, and those that are named."""
    words = [word for word in config.getoption("--whole").split(",") if word]
    items[:] = [item for item in items if item.get_closest_marker("gpu") or any(word in item.name for word in words)]


_there: set[str] = set()
"""Tests of which a case came as far: their other cases would come no farther."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Generator[None, Any, Any]:
    """Take the fixtures as far as the driver, unless another case of the test was there."""
    if _name(item) in _there and item.get_closest_marker("gpu"):
        pytest.skip(f"{REACHED}, as another case did")
    return (yield from _to_the_driver(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Take the test itself as far as the driver."""
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
