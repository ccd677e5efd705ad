"""What the gate writes: exit codes, table, JUnit XML, Markdown, annotations."""

from __future__ import annotations

import io
import json
from xml.etree import ElementTree

import pytest
from rich.console import Console

from burnish.errors import LoweringError, UnsupportedOpError
from burnish.gate.result import EXIT_CODES, CheckResult, Gate, GateReport, RowResult
from burnish.report.gate import gate_table, reasons, summary
from burnish.report.github import workflow_commands
from burnish.report.junit import junit_text
from burnish.report.markdown import markdown_text

PASSED = CheckResult.judged("accuracy", "y", "", "max 1e-6", "atol 1e-3", top1=None)
ACCURACY = CheckResult.judged("accuracy", "z|1", "max_abs 2, max-abs is 1", "max 2", "max-abs 1")
SIZE = CheckResult.judged("size", "", "3 MB, where 2 MB is allowed", "3 MB", "<= 2 MB", bytes=3)
UNDECIDED = CheckResult(
    "latency", "/ onnxruntime", "inconclusive", "1.0 [0.9, 1.2]", "<= 1.1", "too noisy: 100%"
)
SKIPPED = CheckResult("latency", "/ baseline", "skipped", message="another CPU")
BROKEN = CheckResult.broken("compile", "", UnsupportedOpError("no lowering", at="Foo", hint="cut"))


def report(*rows: tuple[CheckResult, ...]) -> GateReport:
    return GateReport(
        "burnish.toml",
        tuple(
            RowResult(f"m{i}-x86-fp32", f"m{i}", "x86", "fp32", checks, 1.5)
            for i, checks in enumerate(rows)
        ),
        {"python": "3.11", "cpu": "A_B"},
        3.25,
    )


FULL = report((PASSED, ACCURACY, UNDECIDED, SKIPPED, SIZE), (BROKEN,))


@pytest.mark.parametrize(
    ("checks", "code"),
    [
        ((PASSED,), 0),
        ((PASSED, UNDECIDED, SKIPPED), 0),
        ((SIZE, ACCURACY), 10),
        ((SIZE, PASSED), 12),
        ((ACCURACY, BROKEN), 3),
        ((CheckResult.broken("compile", "", LoweringError("x")),), 4),
        ((CheckResult.broken("compile", "", RuntimeError("a bug")), BROKEN), 1),
    ],
)
def test_the_exit_code_is_the_lowest_of_what_failed(
    checks: tuple[CheckResult, ...], code: int
) -> None:
    assert report(checks).exit_code == code


def test_every_gate_has_the_exit_code_of_the_contract() -> None:
    gates: dict[Gate, int] = {
        "accuracy": 10,
        "latency": 11,
        "size": 12,
        "memory": 12,
        "precision": 13,
        "placement": 13,
    }
    assert gates == EXIT_CODES


def test_json_has_a_schema_version_and_everything_else() -> None:
    plain = json.loads(json.dumps(FULL.to_dict(), allow_nan=False))
    assert plain["schema_version"] == 1
    assert plain["exit_code"] == 3
    assert plain["counts"] == {
        "passed": 1,
        "failed": 2,
        "inconclusive": 1,
        "skipped": 1,
        "error": 1,
    }
    first = plain["rows"][0]
    assert (first["model"], first["target"], first["precision"]) == ("m0", "x86", "fp32")
    assert first["checks"][1]["message"] == "max_abs 2, max-abs is 1"
    assert first["checks"][4]["details"] == {"bytes": 3}
    assert plain["rows"][1]["checks"][0]["details"]["error"] == "UnsupportedOpError"


def test_junit() -> None:
    root = ElementTree.fromstring(junit_text(FULL))
    assert root.tag == "testsuites"
    counts = {key: root.get(key) for key in ("tests", "failures", "errors", "skipped", "time")}
    assert counts == {
        "tests": "6",
        "failures": "2",
        "errors": "1",
        "skipped": "2",
        "time": "3.25",
    }
    suites = root.findall("testsuite")
    assert [suite.get("name") for suite in suites] == ["m0-x86-fp32", "m1-x86-fp32"]
    assert [suite.get("time") for suite in suites] == ["1.5", "1.5"]
    cases = {case.get("name"): case for suite in suites for case in suite.findall("testcase")}
    assert [child.tag for child in cases["accuracy y"]] == ["system-out"]
    failure = cases["accuracy z|1"].find("failure")
    assert failure is not None
    assert failure.get("message") == "max_abs 2, max-abs is 1"
    assert failure.get("type") == "accuracy: exit code 10"
    skipped = cases["latency / onnxruntime"].find("skipped")
    assert skipped is not None
    assert skipped.get("message") == "too noisy: 100%"
    error = cases["compile"].find("error")
    assert error is not None
    assert "no lowering" in (error.get("message") or "")
    properties = {p.get("name"): p.get("value") for p in suites[0].iter("property")}
    assert properties == {"python": "3.11", "cpu": "A_B"}


def test_an_undecided_latency_that_fails_is_a_failure_in_junit() -> None:
    strict = CheckResult("latency", "/ baseline", "inconclusive", message="noisy", exit_code=11)
    root = ElementTree.fromstring(junit_text(report((strict,))))
    assert root.get("failures") == "1"
    assert root.find(".//failure") is not None


def test_markdown() -> None:
    text = markdown_text(FULL)
    lines = text.splitlines()
    assert lines[0] == "## ❌ burnish check"
    table = [line for line in lines if line.startswith("|")]
    assert len(table) == 2 + 6
    # A bar in a name is no end of a cell.
    assert all(line.replace("\\|", "").count("|") == 8 for line in table)
    assert "accuracy z\\|1" in text
    assert "too noisy: 100%" in text
    assert "A\\_B" in text
    assert markdown_text(report((PASSED,))).startswith("## ✅ burnish check\n")
    assert "did not pass" not in markdown_text(report((PASSED,)))


def test_annotations() -> None:
    lines = workflow_commands(FULL)
    assert lines[0] == "::error title=m1-x86-fp32%3A compile::no lowering%0A  at: Foo%0Ahint: cut"
    assert lines[-1].startswith("::warning title=m0-x86-fp32%3A latency / onnxruntime::")
    assert lines[-1].endswith("too noisy: 100%25")
    assert len(lines) == 4
    assert not workflow_commands(report((PASSED, SKIPPED)))


def test_table_and_summary() -> None:
    buffer = io.StringIO()
    Console(file=buffer, width=160).print(gate_table(FULL))
    text = buffer.getvalue()
    for word in ("m0", "latency / onnxruntime", "1.0 [0.9, 1.2]", "inconclusive", "<= 2 MB"):
        assert word in text
    assert [check.exit_code for _, check in reasons(FULL)] == [3, 10, 12, 0, 0]
    assert summary(FULL) == (
        "FAILED (exit code 3): 2 rows, 1 passed, 2 failed, 1 inconclusive, 1 skipped, 1 error, 3 s"
    )
    assert summary(report((PASSED,))) == "passed: 1 row, 1 passed, 3 s"
