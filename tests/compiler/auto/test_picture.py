"""The picture of a front: well-formed, everything in it and inside of it."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from burnish.auto.picture import svg
from burnish.auto.result import AutoReport, FrontPoint

FRONT = (
    FrontPoint("3 x fp32", 2e-3, 0.0, False),
    FrontPoint("1 x fp32, 2 x int8", 1.2e-3, 0.004, True),
    FrontPoint("3 x int8", 1e-3, 0.02, False),
)


def report(bound: float | None, front: tuple[FrontPoint, ...] = FRONT) -> AutoReport:
    return AutoReport(
        "m<1>.py:f", bound, None, 0.005, 0.01, 0.1, 16, 4, 9, {"fp32": 2e-3}, 0.7, (), (), front
    )


@pytest.mark.parametrize("bound", [0.01, 5.0, None])
def test_points_lie_inside_and_the_built_one_is_marked(bound: float | None) -> None:
    root = ElementTree.fromstring(svg(report(bound).to_dict()))
    left, top, width, height = map(float, root.attrib["viewBox"].split())
    circles = [e for e in root.iter() if e.tag.endswith("circle")]
    places = [(float(c.attrib["cx"]), float(c.attrib["cy"])) for c in circles]
    assert all(left < x < width and top < y < height for x, y in places)
    assert places == sorted(places, reverse=True)  # faster to the left, less accurate upwards
    assert [c.attrib["r"] for c in circles] == ["4", "6", "4"]
    text = " ".join(e.text or "" for e in root.iter())
    assert "drop of m<1>.py:f" in text
    assert ("allowed: 0.01" in text) == (bound == 0.01)


def test_a_front_without_losses_has_a_picture() -> None:
    alone = (FrontPoint("1 x fp32", 1e-3, 0.0, True),)
    assert "<circle" in svg(report(0.01, alone).to_dict())


def test_labels_do_not_cover_each_other() -> None:
    near = FrontPoint("2 x fp32, 1 x int8", 1.21e-3, 0.0041, False)
    root = ElementTree.fromstring(svg(report(0.01, (FRONT[0], near, *FRONT[1:])).to_dict()))
    labels = [e.text for e in root.iter() if e.tag.endswith("}text")]
    assert sum(e.tag.endswith("circle") for e in root.iter()) == 4
    assert "1 x fp32, 2 x int8" in labels, "what was built"
    assert near.label not in labels
    assert {"3 x fp32", "3 x int8"} < set(labels)
