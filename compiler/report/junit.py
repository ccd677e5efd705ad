"""The result of ``burnish check`` as JUnit XML, which CI systems show as tests.

A row is a test suite and a check a test case. What the noise left undecided is a skipped test with
its reason, or a failure where the configuration says so.
"""

from __future__ import annotations

import io

from junitparser import Error, Failure, JUnitXml, Skipped, TestCase, TestSuite

from burnish.gate.result import CheckResult, GateReport, RowResult


def junit_text(report: GateReport) -> str:
    """The report as a JUnit XML document."""
    document = JUnitXml("burnish check")
    for row in report.rows:
        document.add_testsuite(_suite(row, report))
    document.update_statistics()  # type: ignore[no-untyped-call]  # as it is in junitparser 5
    # Times of single checks are not known, those of rows are.
    document.time = round(report.seconds, 3)
    for suite, row in zip(document, report.rows, strict=True):
        suite.time = round(row.seconds, 3)
    buffer = io.BytesIO()
    document.write(buffer, pretty=True)
    return buffer.getvalue().decode()


def _suite(row: RowResult, report: GateReport) -> TestSuite:
    suite = TestSuite(row.name)
    for name, value in report.environment.items():
        suite.add_property(name, value)
    for check in row.checks:
        suite.add_testcase(_case(row, check))
    return suite


def _case(row: RowResult, check: CheckResult) -> TestCase:
    case = TestCase(check.name, classname=f"burnish.{row.name}")
    message = check.message or check.outcome
    if check.outcome == "error":
        case.result = [Error(message, f"exit code {check.exit_code}")]
    elif check.exit_code:
        case.result = [Failure(message, f"{check.gate}: exit code {check.exit_code}")]
    elif check.outcome != "passed":
        case.result = [Skipped(message, check.outcome)]
    if check.measured:
        lines = [f"measured: {check.measured}"]
        lines += [f"demanded: {check.limit}"] if check.limit else []
        case.system_out = "\n".join(lines)
    return case
