"""Moves outliers of activations into weights before both are quantized (SmoothQuant)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from burnish.ir import Builder, Graph, Location, Node, Value
from burnish.passes.base import Numerics, Pass, PassContext
from burnish.passes.quantization.selection import Selection

VIA = "smooth-quant"
#: Factors below it come from channels that are nearly zero on all samples.
_LEAST = 1e-5
_NORMS = frozenset({"LayerNormalization", "RMSNormalization"})


@dataclass(frozen=True)
class SmoothQuant(Pass):
    """Divide normalized activations by a factor of each channel that their weights take over.

    ``s_j = max|x_j|^alpha / max|w_j|^(1 - alpha)`` (G. Xiao et al., *SmoothQuant*, 2022, eq. 4),
    over the rows of all products that read the activation.

    Before: LayerNormalization(x, scale, bias) -> MatMul(weights).
    After: LayerNormalization(x, scale / s, bias / s) -> MatMul(weights * s); where something else
        reads the activation too, LayerNormalization -> Mul(1 / s) -> MatMul(weights * s).
    Keeps: products that do not read a normalization over the last axis with a constant scale, or
        the affine of constants that a decomposed one ends with.
    Numerics: reassociates.

    Attributes:
        alpha: How much of the outliers the weights take, in [0, 1].
        largest: Largest magnitude of each channel of the last axis, by name of the value, on
            calibration data.
        selection: Which products.
    """

    name = "smooth-quant"
    numerics = Numerics.REASSOCIATES
    alpha: float = 0.5
    largest: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)
    selection: Selection = field(default_factory=Selection)

    @property
    def spec(self) -> str:
        """The name with what was chosen, not with all that was measured."""
        return f"{self.name}{{alpha={self.alpha}}}"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Scale activations and weights."""
        found, kept = smoothable(graph, self.selection)
        products = absorbed = 0
        for value in list(found):
            if not np.isfinite(self.largest[value.name]).all():
                kept["its input has no finite range"] += len(found.pop(value))
        for value, readers in found.items():
            factor = _factors(self.largest[value.name], readers, self.alpha)
            with ctx.visiting(readers[0]):
                absorbed += _divide(graph, value, readers, factor)
                for node in readers:
                    _multiply_rows(graph, node, factor)
            products += len(readers)
        line = (
            f"smooth-quant: {products} products behind {len(found)} activations smoothed "
            f"({absorbed} in the normalization, {len(found) - absorbed} by a Mul), "
            f"{kept.total()} products left"
        )
        if kept:
            line += "; " + "; ".join(f"{n} x {cause}" for cause, n in kept.most_common())
        ctx.note(line)
        return bool(found)


def smoothable(graph: Graph, selection: Selection) -> tuple[dict[Value, list[Node]], Counter[str]]:
    """Activations that can be smoothed.

    Returns:
        Each activation with the products that read it, and why other products stay as they are.
    """
    found: dict[Value, list[Node]] = {}
    kept: Counter[str] = Counter()
    for node in graph.nodes:
        if node.domain or node.op not in ("MatMul", "Gemm") or selection.refuses(node):
            continue
        if not _reads_matrix(node):
            continue
        value = node.required(0)
        if _scale_and_bias(value) is None:
            maker = value.producer.op if value.producer is not None else "the model's input"
            kept[f"its input comes from {maker}"] += 1
        else:
            found.setdefault(value, []).append(node)
    return found, kept


def _reads_matrix(node: Node) -> bool:
    """Whether a product multiplies the last axis of an activation with a constant matrix."""
    value, weights = node.required(0), node.required(1)
    plain = not value.is_const and weights.is_const and weights.t.rank == 2
    return plain and value.dtype == "float32" and not node.int_attr("transA")


def _scale_and_bias(value: Value) -> list[tuple[Node, int]] | None:
    """Where the constants are that scale and shift an activation's channels; None if nowhere."""
    node = value.producer
    if node is None or node.domain:
        return None
    if node.op in _NORMS:
        last = node.int_attr("axis", -1) in (-1, len(value.shape) - 1)
        places = [(node, i) for i in (1, 2) if node.input(i) is not None]
        if not last or node.output is not value:
            return None
    elif node.op in ("Add", "Mul"):
        places = _affine(node)
    else:
        return None
    return places if places and all(_per_channel(n, i, value) for n, i in places) else None


def _affine(node: Node) -> list[tuple[Node, int]]:
    """The constants of ``Mul(x, scale)`` or ``Add(Mul(x, scale), bias)``."""
    index = _constant_index(node)
    if index is None or node.op == "Mul":
        return [] if index is None else [(node, index)]
    before = node.required(1 - index)
    scale = before.producer
    if scale is None or scale.domain or scale.op != "Mul" or before.single_user() is not node:
        return []
    inner = _constant_index(scale)
    return [] if inner is None else [(scale, inner), (node, index)]


def _constant_index(node: Node) -> int | None:
    return next((i for i in (1, 0) if node.required(i).is_const), None)


def _per_channel(node: Node, index: int, value: Value) -> bool:
    constant, channels = node.required(index), value.shape[-1]
    return constant.is_const and constant.shape == (channels,)


def _factors(
    largest: NDArray[np.float64], readers: list[Node], alpha: float
) -> NDArray[np.float64]:
    """[channels] factors; 1 for channels of zeros."""
    rows = np.max([np.abs(_rows(n)).max(axis=1) for n in readers], axis=0).astype(np.float64)
    usable = (largest > 0) & (rows > 0)
    x, w = np.where(usable, largest, 1.0), np.where(usable, rows, 1.0)
    factor: NDArray[np.float64] = np.maximum(x**alpha / w ** (1 - alpha), _LEAST)
    return np.where(usable, factor, 1.0)


def _rows(node: Node) -> NDArray[np.float32]:
    """A product's weights [input channels, output channels]."""
    weights = node.required(1).array
    return weights.T if node.int_attr("transB") else weights


def _divide(graph: Graph, value: Value, readers: list[Node], factor: NDArray[np.float64]) -> bool:
    """Divide what the products read; returns whether the normalization itself does it."""
    places = _scale_and_bias(value)
    assert places is not None
    b = Builder(graph, Location(places[-1][0].location.names, (VIA,)))
    if not value.is_output and set(value.users()) <= set(readers):
        for node, index in places:
            constant = node.required(index)
            scaled = (constant.array / factor).astype(np.float32)
            node.set_input(index, b.constant(scaled, f"{constant.name}_smoothed"))
        return True
    inverse = b.constant((1 / factor).astype(np.float32), f"{value.name}_smoothing")
    smoothed = b.op("Mul", value, inverse)
    for node in readers:
        node.set_input(0, smoothed)
    return False


def _multiply_rows(graph: Graph, node: Node, factor: NDArray[np.float64]) -> None:
    weights = node.required(1)
    by = factor[None, :] if node.int_attr("transB") else factor[:, None]
    scaled = (weights.array * by).astype(np.float32)
    node.set_input(1, graph.constant(scaled, f"{weights.name}_smoothed"))
