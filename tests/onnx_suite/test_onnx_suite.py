"""Every case of the ONNX backend suite passes, or is refused for the reason that is listed."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tests.onnx_suite import denied
from tests.onnx_suite.pool import Pool


@pytest.mark.slow
def test_case(
    case_name: str, pool: Pool, listed: Mapping[str, denied.Group], inexact: set[str]
) -> None:
    outcome = pool.outcome(case_name)
    problem = denied.problem(outcome, listed.get(case_name), case_name in inexact)
    if problem:
        pytest.fail(problem, pytrace=False)
