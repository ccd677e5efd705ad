"""What reports print: whole lines into pipes, no markup from names, the right words."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from burnish.passes.manager import PassRecord
from burnish.report.compile import print_report
from burnish.report.console import print_counts, print_line
from burnish.report.inspect import print_artifact, print_explanation, print_model, rule_names
from burnish.requests import CompileReport

REPORT = CompileReport(
    output="/tmp/m.burnish",
    target="x86-64-v4",
    seconds={"import": 0.5, "lower": 1.25},
    passes=(
        PassRecord("canonicalize", 10, 8, 0.01, True),
        PassRecord("fuse-attention", 8, 8, 0.01, False),
    ),
    notes=("[x] is one", "another"),
    nodes={"burnish::MatMul": 2, "Relu": 1},
    kernels=2,
    weight_bytes=3_000_000,
    peak_memory_bytes=250_000_000,
)
COMPARISON: dict[str, Any] = {
    "outputs": [
        {"name": "a", "max_abs": 1e-6, "scale": 1.0, "atol": 1e-3, "cosine": 1.0},
        {"name": "b", "max_abs": 3e-6, "scale": 0.5, "atol": 1e-3, "cosine": 0.99},
        {"name": "c", "max_abs": None, "scale": 0.0, "atol": 1e-3, "cosine": 1.0},
    ]
}


def test_compile_report(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(REPORT)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "/tmp/m.burnish: x86-64-v4, 3 nodes, 2 kernels, 3.0 MB of weights, 1.8 s"
    assert lines[1:3] == ["note: [x] is one", "note: another"]
    assert lines[3] == "not compared with onnxruntime (--no-check)"


def test_compile_report_with_comparison(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(replace(REPORT, comparison=COMPARISON, notes=()))
    out = capsys.readouterr().out
    assert "equal to onnxruntime within tolerance: 3 outputs" in out
    assert "largest error 3e-06 at scale 0.5 (b), least cosine similarity 0.990000" in out


def test_failed_drawing_is_not_called_a_choice(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(replace(REPORT, notes=("not compared: sizes", "x")))
    assert "--no-check" not in capsys.readouterr().out


def test_details(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(REPORT, verbose=True)
    out = capsys.readouterr().out
    assert "canonicalize" in out
    assert "fuse-attention" not in out, "it changed nothing"
    assert "250 MB" in out
    assert "burnish::MatMul" in out


def test_lines_are_not_wrapped_or_cut(capsys: pytest.CaptureFixture[str]) -> None:
    name = "/very/long/" * 12
    print_line(name)
    print_counts(("node", "count"), [(name, 3)])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == name
    assert any(name in line and "3" in line for line in lines[1:])


def test_explanation(capsys: pytest.CaptureFixture[str]) -> None:
    node = {"node": "burnish::Conv", "names": ["[a]", "b"]}
    print_explanation(
        {
            "rule": "make-conv",
            "applied": [node] * 7,
            "near_misses": [{"at": "Conv_3", "reason": "the weights are not constant"}],
        }
    )
    out = capsys.readouterr().out
    assert "make-conv had a part in 7 nodes" in out
    assert out.count("burnish::Conv from [a], b") == 5
    assert "and 2 more" in out
    assert "Conv_3: the weights are not constant" in out
    print_explanation({"rule": "make-conv", "applied": [], "near_misses": []})
    assert "no near misses" in capsys.readouterr().out


def test_rules_are_known() -> None:
    names = rule_names()
    assert names == sorted(set(names))
    assert {"identity", "fuse-attention", "conv-to-nhwc", "mul-mul", "neutral-zero"} <= set(names)


def test_model_that_cannot_be_imported(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"operator": "acme::Foo", "reason": "no such operator", "nodes": ["a", "b"]}]
    print_model({"model": "m.onnx", "target": "x86", "precision": "fp32", "unsupported": rows})
    out = capsys.readouterr().out
    assert out.startswith("2 nodes cannot be compiled for x86 at fp32:\n")
    assert "  2 x acme::Foo: no such operator (a, b)" in out


def test_artifact_names_are_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    node = {
        "op": "Relu",
        "precision": "fp32",
        "storage": "fp32",
        "detail": "tile [6x4]",
        "tactic": "",
        "why": "",
        "reason": "its result may leave the range of float16",
        "kernel": "relu_1",
        "nodes": ["/layer[0]/relu", "b", "c", "d", "e"],
    }
    print_artifact(
        {
            "path": "m.burnish",
            "model_name": "m",
            "target": {"name": "x86-64-v4", "isa": "avx512"},
            "inputs": [{"name": "x", "dtype": "float32", "shape": ["n", 3]}],
            "outputs": [],
            "verification": None,
            "nodes": [node],
        }
    )
    out = capsys.readouterr().out
    assert "input x: float32[n,3]" in out
    assert "/layer[0]/relu, b, c and 2 more" in out
    assert "in fp32: Relu (/layer[0]/relu, b, c): its result may leave the range of float16" in out
    assert "verified" not in out


def test_what_came_from_the_cache(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(replace(REPORT, kernels_reused=1, kernels_built=2))
    assert "kernels: 1 reused, 2 built" in capsys.readouterr().out
    print_report(replace(REPORT, kernels_reused=3, kernels_built=0, cached=True))
    out = capsys.readouterr().out
    assert out.splitlines()[0].endswith("1.8 s (from the cache: nothing has changed)")
    assert "reused" not in out


def test_a_report_comes_back_from_json() -> None:
    report = replace(REPORT, comparison=COMPARISON, data_files=("a", "b"), kept={"x": "y"})
    assert CompileReport.from_dict(json.loads(json.dumps(report.to_dict()))) == report
