"""The cases as tests, and the pool that runs those that were selected."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
import pytest

from tests.onnx_suite import denied
from tests.onnx_suite.pool import Pool


def _names(config: pytest.Config) -> list[str]:
    """Names of all cases; loading them takes seconds, and they depend on the version of onnx."""
    key = f"burnish/onnx-suite-{onnx.__version__}"
    cache = getattr(config, "cache", None)
    found: list[str] | None = cache.get(key, None) if cache is not None else None
    if found is None:
        from tests.onnx_suite.cases import load_cases

        found = list(load_cases())
        if cache is not None:
            cache.set(key, found)
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each case."""
    if "case_name" in metafunc.fixturenames:
        metafunc.parametrize("case_name", _names(metafunc.config))


@pytest.fixture(scope="session")
def pool(request: pytest.FixtureRequest) -> Iterator[Pool]:
    """The selected cases, all under way."""
    selected = [
        item.callspec.params["case_name"]
        for item in request.session.items
        if isinstance(item, pytest.Function)
        and hasattr(item, "callspec")
        and "case_name" in item.callspec.params
    ]
    with Pool() as running:
        running.submit(selected)
        yield running


@pytest.fixture(scope="session")
def listed() -> dict[str, denied.Group]:
    """The groups of refused cases by case."""
    return denied.by_case(denied.read())


@pytest.fixture(scope="session")
def inexact() -> set[str]:
    """Cases whose stored outputs are inexact."""
    return {row.case for row in denied.read_inexact()}
