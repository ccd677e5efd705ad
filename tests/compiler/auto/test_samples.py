"""Which samples are chosen with, and which judge."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from burnish.auto.run import _spread
from burnish.calibration.samples import Sample
from burnish.precision.split import SplitSamples


class Numbers:
    """Samples that are numbers; can be gone through again."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __iter__(self) -> Iterator[Sample]:
        return ({"x": np.array([float(i)])} for i in range(self.count))


def numbers(samples: list[Sample]) -> list[int]:
    return [int(sample["x"][0]) for sample in samples]


@pytest.mark.parametrize("count", [8, 15, 33, 500])
def test_what_judges_is_never_measured(count: int) -> None:
    data = SplitSamples(Numbers(count), 4, 32)
    measured = numbers(list(data))
    held = numbers(data.held)
    assert sorted(measured + held) == list(range(count))
    assert len(held) == min(32, count // 4)
    assert numbers(list(data)) == measured
    assert numbers(data.held) == held


@pytest.mark.parametrize("count", [3, 16, 17, 40, 512])
def test_samples_are_chosen_from_all_over_the_data(count: int) -> None:
    chosen = numbers(_spread(Numbers(count), 16))
    assert len(chosen) == min(16, count)
    assert chosen == sorted(set(chosen))
    assert chosen[-1] >= count * 0.8 - 1
