"""Evens the ranges of channels out between convolutions (cross-layer equalization)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from burnish.ir import Graph, Node
from burnish.passes.base import Numerics, Pass, PassContext, counted
from burnish.passes.patterns import scalar

#: Rounds over all pairs: channels of long chains are even after a few.
_ROUNDS = 20
#: No factor that changes a channel by less is worth another round.
_EVEN = 1e-3
#: Bounds of a factor in one round: channels of weights near zero say nothing.
_BOUND = 1e3
#: f(s x) = s f(x) for s > 0.
_HOMOGENEOUS = frozenset({"Relu", "LeakyRelu"})


@dataclass(frozen=True)
class Pair:
    """Two convolutions of which one reads the other, with at most an activation between them.

    Attributes:
        first: Its output channels are divided.
        second: Its input channels are multiplied.
        clip: The Clip between them; None for an activation that scales with its input.
    """

    first: Node
    second: Node
    clip: Node | None = None


@dataclass(frozen=True)
class Equalize(Pass):
    """Scale channels so that the weights before and after have equal ranges.

    Output channel i of the first weights is divided, input channel i of the second multiplied, by
    ``sqrt(max|W1_i| / max|W2_i|)`` (M. Nagel et al., *Data-free quantization through weight
    equalization and bias correction*, ICCV 2019, section 4.1), in rounds until all pairs are even.

    Before: Conv -> Relu -> Conv.
    After: the same, with other weights and biases.
    Keeps: pairs whose value between is read by others; Clip(0, h) where calibration data do not
        tell that a channel stays below h (it is scaled so far that it still does).
    Numerics: reassociates; through Clip it is exact only for numbers within what was measured.

    Attributes:
        largest: Largest magnitude of each channel (axis 1) of the outputs of Clip, by name.
    """

    name = "equalize"
    numerics = Numerics.REASSOCIATES
    largest: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def spec(self) -> str:
        """The name."""
        return self.name

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Scale the weights of all pairs."""
        pairs, kept = equalizable(graph)
        scaling = _Scaling(pairs, self.largest)
        for _ in range(_ROUNDS):
            if max([scaling.step(pair) for pair in pairs], default=0.0) < _EVEN:
                break
        scaling.store(graph)
        line = f"equalize: {len(pairs)} pairs of convolutions"
        if kept:
            line += f", left: {counted(kept)}"
        ctx.note(line)
        return bool(pairs)


def equalizable(graph: Graph) -> tuple[list[Pair], Counter[str]]:
    """Pairs to equalize, and why other convolutions that read a convolution are left."""
    pairs: list[Pair] = []
    kept: Counter[str] = Counter()
    for node in graph.nodes:
        if not _is_plain_conv(node):
            continue
        found = _pair(node)
        if isinstance(found, Pair):
            pairs.append(found)
        elif found:
            kept[found] += 1
    return pairs, kept


def _is_plain_conv(node: Node) -> bool:
    return node.key == "Conv" and node.required(1).is_const and node.output.dtype == "float32"


def _pair(second: Node) -> Pair | str:
    """The pair that a convolution is the second one of, or why there is none."""
    value, between = second.required(0), None
    node = value.producer
    if node is not None and node.key in (*_HOMOGENEOUS, "Clip"):
        between = node
        value = between.required(0)
        node = value.producer
    if node is None or not _is_plain_conv(node):
        return "" if between is None or node is None else f"{between.op} of {node.op}"
    if between is not None and between.op == "Clip" and not _limit(between):
        return "Clip from other bounds than 0 and a positive number"
    users = [value.single_user()] + ([] if between is None else [between.output.single_user()])
    if None in users:
        return "others read the value between"
    bias = node.input(2)
    if bias is not None and not bias.is_const:
        return "a bias that is not constant"
    return Pair(node, second, between if between is not None and between.op == "Clip" else None)


def _limit(clip: Node) -> float:
    """The upper bound of Clip(0, h); 0 if it is none."""
    low, high = clip.input(1), clip.input(2)
    if low is None or high is None or scalar(low) != 0.0:
        return 0.0
    return max(float(scalar(high) or 0.0), 0.0)


class _Scaling:
    """Weights and biases while they are scaled."""

    def __init__(self, pairs: list[Pair], largest: Mapping[str, NDArray[np.float64]]) -> None:
        self._weights: dict[Node, NDArray[np.float64]] = {}
        self._biases: dict[Node, NDArray[np.float64]] = {}
        self._reached: dict[Node, NDArray[np.float64]] = {}
        for pair in pairs:
            for node in (pair.first, pair.second):
                self._weights[node] = node.required(1).array.astype(np.float64)
            bias = pair.first.input(2)
            if bias is not None:
                self._biases[pair.first] = bias.array.astype(np.float64)
            if pair.clip is not None:
                self._reached[pair.clip] = largest[pair.clip.output.name].copy()

    def step(self, pair: Pair) -> float:
        """Scale one pair once; returns the largest change of a channel."""
        first, second = self._weights[pair.first], self._weights[pair.second]
        grouped = second.reshape(pair.second.int_attr("group", 1), -1, *second.shape[1:])
        before = np.abs(first).max(axis=(1, *range(2, first.ndim)))
        after = np.abs(grouped).max(axis=(1, *range(3, grouped.ndim))).reshape(-1)
        usable = (before > 0) & (after > 0)
        ratio = np.where(usable, before, 1.0) / np.where(usable, after, 1.0)
        factor = np.clip(np.sqrt(ratio), 1 / _BOUND, _BOUND)
        if pair.clip is not None:
            factor = self._within(pair.clip, factor)
        first /= factor.reshape(-1, *[1] * (first.ndim - 1))
        by = factor.reshape(grouped.shape[0], 1, grouped.shape[2], *[1] * (grouped.ndim - 3))
        self._weights[pair.second] = (grouped * by).reshape(second.shape)
        if pair.first in self._biases:
            self._biases[pair.first] /= factor
        return float(np.abs(np.log(factor)).max(initial=0.0))

    def _within(self, clip: Node, factor: NDArray[np.float64]) -> NDArray[np.float64]:
        """Factors that let no channel reach the upper bound that did not reach it before."""
        limit, reached = _limit(clip), self._reached[clip]
        bounded: NDArray[np.float64] = np.where(
            reached < limit, np.maximum(factor, reached / limit * (1 + 1e-6)), 1.0
        )
        self._reached[clip] = reached / bounded
        return bounded

    def store(self, graph: Graph) -> None:
        """Give the convolutions what came out."""
        for index, arrays in ((1, self._weights), (2, self._biases)):
            for node, array in arrays.items():
                name = f"{node.required(index).name}_equalized"
                node.set_input(index, graph.constant(array.astype(np.float32), name))
