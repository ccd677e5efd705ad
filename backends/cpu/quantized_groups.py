"""Convolutions of 8 bits in many narrow groups as ones in fewer, wider groups.

A dot product adds up four channels of a group, and a vector holds results of one group: groups of
one to three channels, or of few results, leave most of both empty. Neighbours become one group,
whose weights between what does not belong together are 0.
"""

from __future__ import annotations

from math import prod

import numpy as np

from burnish.backends.cpu.conv import ConvSpec
from burnish.backends.cpu.dot8 import PACK
from burnish.backends.cpu.isa import Isa
from burnish.backends.cpu.quantized import Codes8

#: Vectors of dot products that take as long as copying a byte of a group to where words begin.
_COPIED = 2.0


def merged_groups(conv: ConvSpec, isa: Isa) -> int:
    """How many neighbouring groups become one: what takes the fewest dot products and copies.

    Args:
        conv: The convolution as the model has it.
        isa: The instruction set.
    """
    ic, oc = conv.ic // conv.groups, conv.oc // conv.groups

    def cost(count: int) -> float:
        groups, words = conv.groups // count, -(-count * ic // PACK)
        dots = prod(conv.kernel) * groups * -(-count * oc // isa.lanes) * words
        copied = conv.ic * prod(conv.strides) if count * ic % PACK else 0
        return dots + _COPIED * copied

    counts = (n for n in range(1, conv.groups + 1) if conv.groups % n == 0)
    return min(counts, key=lambda n: (cost(n), -n))


def merge_filters(w: Codes8, groups: int, count: int) -> Codes8:
    """Weights [OC, IC/groups, KH, KW] of a convolution whose groups are ``count`` times as wide."""
    oc, ic, *window = w.shape
    if count == 1:
        return w
    wide = np.zeros((groups // count, count, oc // groups, count, ic, *window), w.dtype)
    each = np.arange(count)
    parts = w.reshape(groups // count, count, oc // groups, ic, *window)
    # Two index arrays apart from each other come first in the result.
    wide[:, each, :, each] = parts.swapaxes(0, 1)
    return wide.reshape(oc, count * ic, *window)
