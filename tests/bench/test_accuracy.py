from __future__ import annotations

from typing import Any

import pytest

from tests.bench.accuracy import Found, Row, section
from tests.bench.results import with_section

FOUND = Found(below_fp32=0.93, fp32_ms=4.0, auto_ms=1.5, evaluations=31, minutes=2.25)


def row(model: str = "opennsfw", worst: float = 0.995, **more: Any) -> Row:
    return Row(model, calibrated=16, judged=200, worst=worst, products=(54, 55), **more)


def test_section_of_int8() -> None:
    text = section([row("minilm", 0.0081), row()])
    assert text.startswith("## What int8 changes on trained models\n")
    assert "`python -m tests.bench.accuracy`" in text
    assert "| minilm | 16 | 200 | change 0.0081 | 54 of 55 |" in text
    assert "| opennsfw | 16 | 200 | 99.50% | 54 of 55 |" in text


def test_section_of_auto_is_another() -> None:
    text = section([row(found=FOUND)])
    assert text.startswith("## What auto keeps on trained models\n")
    assert "`python -m tests.bench.accuracy --precision auto`" in text
    assert "| opennsfw | 16 | 200 | 99.50% | 93.0% | 4.000 | 1.500 | 31 | 2.2 |" in text
    both = with_section(section([row()]), text)
    assert both.count("## What") == 2
    columns = {line.count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(columns) == 1


@pytest.mark.parametrize(
    ("measured", "passed"),
    [
        (row("ppocr_det", 0.975), True),
        (row("ppocr_det", 0.965), False),
        (row("ppocr_det", 0.975, found=FOUND), False),
        (row("ppocr_det", 0.991, found=FOUND), True),
        (row("minilm", 0.009, found=FOUND), True),
        (row("minilm", 0.011), False),
    ],
)
def test_goals(measured: Row, passed: bool) -> None:
    assert measured.passed is passed
