"""The suite itself: its judge, its list of refusals, and what a case cannot do to the others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx.parser
import pytest

from tests.onnx_suite import denied, report
from tests.onnx_suite.cases import KINDS, Case, load_cases
from tests.onnx_suite.child import WrongResultError, judge
from tests.onnx_suite.denied import Group, Inexact
from tests.onnx_suite.outcome import Outcome

TOLERANCE = (1e-3, 1e-7)
ONE = np.asarray([1.0, np.nan, np.inf], np.float32)


def test_judge_takes_what_is_within_the_tolerance() -> None:
    judge([ONE * np.float32(1.0005)], ["float32"], [ONE], TOLERANCE)
    judge([np.asarray(3)], ["int64"], [np.int64(3)], TOLERANCE)
    narrow = np.asarray([1.5, -2.0], ml_dtypes.bfloat16)
    judge([narrow.view(np.uint16)], ["bfloat16"], [narrow], TOLERANCE)


@pytest.mark.parametrize(
    ("result", "dtype", "message"),
    [
        (ONE * np.float32(1.01), "float32", "Not equal to tolerance"),
        (np.nan_to_num(ONE), "float32", "nan location mismatch"),
        (np.asarray([1.0, np.nan, -np.inf], np.float32), "float32", "Not equal to tolerance"),
        (ONE.astype(np.float64), "float64", "dtype float64 instead of float32"),
        (ONE[None], "float32", r"shape \(1, 3\) instead of \(3,\)"),
        ([ONE], "float32", "list instead of ndarray"),
    ],
)
def test_judge_is_strict(result: Any, dtype: str, message: str) -> None:
    with pytest.raises(WrongResultError, match=message):
        judge([result], [dtype], [ONE], TOLERANCE)


def test_judge_counts_outputs() -> None:
    with pytest.raises(WrongResultError, match="0 outputs instead of 1"):
        judge([], [], [ONE], TOLERANCE)


STRINGS = Group("strings", "element type string", ("a",))


@pytest.mark.parametrize(
    ("outcome", "group", "inexact", "message"),
    [
        (Outcome("passed"), None, False, None),
        (Outcome("refused", "1 x Cast: element type string"), STRINGS, False, None),
        (Outcome("inexact"), None, True, None),
        (Outcome("passed"), STRINGS, False, "passes, but is on the list"),
        (Outcome("passed"), None, True, "passes, but is listed as inexact"),
        (Outcome("refused", "another reason"), STRINGS, False, "should be refused"),
        (Outcome("failed", "element type string"), STRINGS, False, "should be refused"),
        (Outcome("refused", "element type string"), None, False, "refused"),
        (Outcome("wrong", "output 0"), None, False, "wrong: output 0"),
        (Outcome("wrong", "output 0"), None, True, "wrong: output 0"),
    ],
)
def test_problem(outcome: Outcome, group: Group | None, inexact: bool, message: str | None) -> None:
    found = denied.problem(outcome, group, inexact)
    assert (found is None) if message is None else found is not None and message in found


def test_list_is_written_as_it_is_read(tmp_path: Path) -> None:
    groups = [STRINGS, Group('a "quoted" reason', r"x\d+|it's", ("b", "c"))]
    rows = [Inexact("d", "noise", 1e-3, 2e-6)]
    denied.write(groups, rows, tmp_path / "list.toml")
    assert denied.read(tmp_path / "list.toml") == groups
    assert denied.read_inexact(tmp_path / "list.toml") == rows
    outcomes = {"c": Outcome("passed"), "e": Outcome("refused", "element type string")}
    assert [g.cases for g in denied.update(groups, outcomes)] == [("e",), ()]


def test_case_is_listed_once(tmp_path: Path) -> None:
    denied.write([STRINGS, STRINGS], [], tmp_path / "list.toml")
    with pytest.raises(ValueError, match="listed twice: a"):
        denied.read(tmp_path / "list.toml")


def test_list_names_cases_that_exist() -> None:
    cases = load_cases()
    listed = set(denied.by_case(denied.read())) | {row.case for row in denied.read_inexact()}
    assert listed <= set(cases)
    assert {case.kind for case in cases.values()} == set(KINDS)


def test_report_adds_up() -> None:
    kinds = {"a": "node", "b": "node", "c": "simple"}
    outcomes = {"a": Outcome("passed"), "b": Outcome("refused"), "c": Outcome("passed")}
    text = report.markdown(kinds, outcomes, [STRINGS], [])
    assert "| node | 2 | 1 | 1 | 0 | 0 | 0 | 0 | 0 |" in text
    assert "| all | 3 | 2 | 1 | 0 | 0 | 0 | 0 | 0 | 896 | 1593 |" in text
    assert "| strings | 1 |" in text


class Misbehaving:
    """Stands for what ONNX's loader gives; its model does damage."""

    rtol, atol = TOLERANCE
    model_dir = url = None

    def __init__(self, what: str) -> None:
        self.what = what
        x = np.asarray([-1, 2], np.float32)
        self.data_sets = [([x], [np.maximum(x, 0) if what == "fine" else x])]

    @property
    def model(self) -> onnx.ModelProto:
        if self.what == "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        if self.what == "leave":
            # Its own child keeps the pipe of the results open.
            if os.fork() == 0:
                time.sleep(600)
            os._exit(3)
        if self.what == "memory":
            np.ones(1 << 32).sum()
        if self.what == "spin":
            while True:
                pass
        if self.what == "bug":
            raise KeyError("bug")
        return onnx.parser.parse_model(
            '<ir_version: 10, opset_import: ["": 21]> '
            "g (float[2] x) => (float[2] y) { y = Relu(x) }"
        )


def serve() -> None:
    """Run the misbehaving cases; for a process of its own."""
    import tempfile

    from tests.onnx_suite import child, server

    # A kind has a limit of its own.
    child.LIMITS["spin"] = child.LIMITS["leave"] = (2, 4 << 30)
    names = sys.argv[1:]
    cases = {name: Case(name, name, Misbehaving(name)) for name in names}
    server._RESULTS = 1
    with tempfile.TemporaryDirectory() as folder:
        server.Server(cases, 2, Path(folder)).serve()


@pytest.mark.slow
def test_cases_cannot_harm_each_other() -> None:
    names = ["crash", "spin", "fine", "memory", "wrong", "bug", "leave"]
    done = subprocess.run(
        [sys.executable, "-c", "from tests.onnx_suite.test_harness import serve; serve()", *names],
        input="".join(f"{name}\n" for name in names),
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        timeout=300,
        check=True,
    )
    found = {}
    for line in done.stdout.splitlines():
        head, _, outcome = line.partition("\t")
        found[json.loads(head)["name"]] = Outcome.decode(outcome.encode())
    assert {name: outcome.status for name, outcome in found.items()} == {
        "crash": "crashed",
        "spin": "timeout",
        "fine": "passed",
        "memory": "failed",
        "wrong": "wrong",
        "bug": "failed",
        "leave": "timeout",
    }
    assert "SIGSEGV" in found["crash"].detail
    assert "out of memory" in found["memory"].detail
    assert "KeyError" in found["bug"].detail
