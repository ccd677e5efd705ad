"""Narrow groups of convolutions of 8 bits become fewer, wider ones."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.backends.cpu.conv import ConvSpec
from burnish.backends.cpu.isa import AVX2, AVX512_VNNI
from burnish.backends.cpu.quantized_groups import merge_filters, merged_groups
from tests.support import reference


def grouped(groups: int, ic: int, oc: int, kernel: tuple[int, int] = (3, 3)) -> ConvSpec:
    """A convolution with so many channels in each group."""
    return ConvSpec(1, 9, 9, groups * ic, groups * oc, kernel, groups=groups)


@pytest.mark.parametrize(
    ("groups", "ic", "oc", "count"),
    [
        (1, 7, 5, 1),
        # Channels of a group fill words: vectors of results are filled.
        (32, 4, 4, 4),
        (32, 16, 16, 1),
        # Words of two times two or four times three channels.
        (16, 2, 16, 2),
        (32, 3, 3, 4),
        (8, 6, 6, 2),
        # Channels of each group are padded: more weights of 0 would cost more, or none fill words.
        (32, 3, 16, 1),
        (7, 6, 32, 1),
    ],
)
def test_groups_are_merged_to_fill_words_and_vectors(
    groups: int, ic: int, oc: int, count: int
) -> None:
    assert merged_groups(grouped(groups, ic, oc), AVX512_VNNI) == count


def test_narrower_vectors_are_filled_by_fewer_groups() -> None:
    assert merged_groups(grouped(32, 4, 4), AVX2) == 2


@pytest.mark.parametrize("count", [1, 2, 3, 6])
def test_merged_filters_mean_the_same(count: int) -> None:
    rng = np.random.default_rng(count)
    x = rng.integers(-9, 9, (1, 5, 6, 18)).astype(np.float64)
    w = rng.integers(-9, 9, (12, 3, 3, 2)).astype(np.int8)
    wide = merge_filters(w, 6, count)
    assert wide.shape == (12, 3 * count, 3, 2)
    pads, ones = (1, 0, 1, 1), (1, 1)
    want = reference.conv(x, w, ones, pads, ones, 6)
    np.testing.assert_array_equal(reference.conv(x, wide, ones, pads, ones, 6 // count), want)
    assert np.abs(want).max() > 0
