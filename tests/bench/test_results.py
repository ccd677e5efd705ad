from __future__ import annotations

from typing import Any

import pytest

from tests.bench.limits import geomean, memory_limit, violations
from tests.bench.results import describe_run, markdown, with_section


def row(name: str = "lstm", ratio: float = 1.2, **changes: Any) -> dict[str, Any]:
    timings = [
        {"runner": runner, "min_ms": ms, "median_ms": 2 * ms, "ratio_min": r, "ratio_median": r}
        for runner, ms, r in (("burnish", 1.0, 1.0), ("onnxruntime", ratio, ratio))
    ]
    slower = {"runner": "openvino", "min_ms": 9.0, "median_ms": 9.0}
    timings.append(slower | {"ratio_min": 9.0, "ratio_median": 9.0})
    found = {
        "model": name,
        "compile_s": 3.0,
        "peak_bytes": 5e8,
        "model_bytes": 2_000_000,
        "equal": True,
        "bench": {"shapes": {"x": [1, 50, 64], "h": [1]}, "timings": timings},
    }
    return found | changes


def test_rows_within_the_limits() -> None:
    assert violations([row(ratio=1.5), row("bert", 1.0, compile_s=29.0)]) == []
    assert geomean([row(ratio=2.0), row(ratio=0.5)]) == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (row(ratio=0.99), "0.990x as fast as the faster peer (limit 1.0x)"),
        (row("resnet50", ratio=1.19), "1.190x as fast as the faster peer (limit 1.2x)"),
        (row(equal=False), "differ"),
        (row("resnet50", compile_s=15.1), "15.1 s (limit 15 s)"),
        (row(compile_s=45.1), "limit 45 s"),
        (row(peak_bytes=memory_limit(2_000_000) + 1e7), "1.02 GB"),
        ({"model": "vit", "error": "compile failed: boom"}, "vit: compile failed: boom"),
    ],
)
def test_each_limit(bad: dict[str, Any], message: str) -> None:
    (found,) = violations([row(ratio=1.4), row(ratio=1.4), row(ratio=1.4), bad])
    assert message in found


def test_geometric_mean_is_a_limit() -> None:
    assert violations([row(ratio=1.0), row(ratio=1.21)]) == ["geometric mean 1.100 (limit 1.2)"]


def test_document_says_everything() -> None:
    run = describe_run("python -m tests.bench", 1)
    rows = [row(), row("vit", 0.5), {"model": "bert", "error": "compile failed"}]
    text = markdown(run, rows)
    assert "`python -m tests.bench`" in text
    assert run["machine"] in text
    assert f"onnxruntime {run['versions']['onnxruntime']}" in text
    times = "1.000 / 2.000 | 1.200 / 2.400 | 9.000 / 9.000"
    assert f"| lstm | 1x50x64 | {times} | 1.20 | 3.0 | 500 | yes |" in text
    assert "**0.77** (minimum)" in text
    assert "- vit: 0.500x as fast as the faster peer (limit 1.0x)" in text
    assert "- bert: compile failed" in text


def test_section_replaces_the_one_of_its_title() -> None:
    document = "# Results\n\n## A\n\nold\n\n## B\n\nkept\n"
    replaced = with_section(document, "## A\n\nnew\n")
    assert replaced == "# Results\n\n## A\n\nnew\n\n## B\n\nkept\n"
    assert with_section(replaced, "## A\n\nnew\n") == replaced
    assert with_section(document, "## B\n\nnew\n").endswith("old\n\n## B\n\nnew\n")
    assert with_section(document, "## C\n\nmore\n") == document + "\n## C\n\nmore\n"
