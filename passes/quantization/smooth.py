"""Moves outliers of activations into weights before both are quantized (SmoothQuant)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from burnish.ir import Builder, Graph, Location, Node, Value
from burnish.passes.base import Numerics, Pass, PassContext, counted
from burnish.passes.quantization.compensate import multiplies_last_axis
from burnish.passes.quantization.outliers import Spread, best_factors, smoothing_factors
from burnish.passes.quantization.plan import ACTIVATIONS
from burnish.passes.quantization.selection import Selection

VIA = "smooth-quant"
_NORMS = frozenset({"LayerNormalization", "RMSNormalization"})
#: What computes its result element by element: a Mul behind it is computed where it is.
_ELEMENTWISE = ACTIVATIONS | {"Add", "Div", "Erf", "Mul", "Pow", "Sub"}
#: A Mul is worth its place if the expected error falls below this share.
_WORTH_A_MUL = 0.8


@dataclass(frozen=True)
class SmoothQuant(Pass):
    """Divide normalized activations by a factor of each channel that their weights take over.

    With a given ``alpha`` by SmoothQuant's formula; else each activation by the factors whose
    expected error is least (:mod:`burnish.passes.quantization.outliers`), which may be none. Then
    what an activation function gives is divided too, by a Mul, where that pays.

    Before: LayerNormalization(x, scale, bias) -> MatMul(weights).
    After: LayerNormalization(x, scale / s, bias / s) -> MatMul(weights * s); where something else
        reads the activation too, LayerNormalization -> Mul(1 / s) -> MatMul(weights * s).
    Keeps: products that do not read a normalization over the last axis with a constant scale, or
        the affine of constants that a decomposed one ends with (nor, without a given alpha, what
        is computed element by element), and those that lose nothing to outliers.
    Numerics: reassociates.

    Attributes:
        alpha: How much of the outliers the weights take, in [0, 1]; None: what is best for each.
        spreads: The channels of the last axis on calibration data, by name of the value.
        selection: Which products.
    """

    name = "smooth-quant"
    numerics = Numerics.REASSOCIATES
    alpha: float | None = 0.5
    spreads: Mapping[str, Spread] = field(default_factory=dict)
    selection: Selection = field(default_factory=Selection)

    @property
    def spec(self) -> str:
        """The name with what was chosen, not with all that was measured."""
        return f"{self.name}{{alpha={'best' if self.alpha is None else self.alpha}}}"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Scale activations and weights."""
        found, kept = smoothable(graph, self.selection, self.alpha)
        products = absorbed = activations = 0
        for value, readers in found.items():
            factor, why = self._factor(value, readers)
            if factor is None:
                kept[why] += len(readers)
                continue
            with ctx.visiting(readers[0]):
                absorbed += divide(graph, value, readers, factor)
                for node in readers:
                    multiply_rows(graph, node, factor)
            activations += 1
            products += len(readers)
        line = (
            f"smooth-quant: {products} products behind {activations} activations smoothed "
            f"({absorbed} in the normalization, {activations - absorbed} by a Mul), "
            f"{kept.total()} products left"
        )
        if kept:
            line += f"; {counted(kept)}"
        ctx.note(line)
        return bool(activations)

    def _factor(self, value: Value, readers: list[Node]) -> tuple[NDArray[np.float64] | None, str]:
        """[channels] to divide an activation by; None with the reason if it had better stay."""
        spread = self.spreads[value.name]
        if not np.isfinite(spread.largest).all():
            return None, "its input has no finite range"
        weights = [rows_of(node).astype(np.float64) for node in readers]
        if self.alpha is not None:
            rows = np.max([np.abs(matrix).max(axis=1) for matrix in weights], axis=0)
            return smoothing_factors(spread.largest, rows, self.alpha), ""
        factor, share = best_factors(spread, weights)
        worth = 1.0 if absorbs(value, readers) else _WORTH_A_MUL
        return (factor, "") if share < worth else (None, "its input has no outliers that matter")


def smoothable(
    graph: Graph, selection: Selection, alpha: float | None = None
) -> tuple[dict[Value, list[Node]], Counter[str]]:
    """Activations that can be smoothed.

    Args:
        graph: Plain ONNX operators.
        selection: Which products.
        alpha: As :class:`SmoothQuant` takes it: a given one is for normalizations alone.

    Returns:
        Each activation with the products that read it, and why other products stay as they are.
    """
    found: dict[Value, list[Node]] = {}
    kept: Counter[str] = Counter()
    for node in graph.nodes:
        if node.domain or not multiplies_last_axis(node) or selection.refuses(node):
            continue
        value = node.required(0)
        if value.dtype != "float32":
            continue
        if _scale_and_bias(value) is None and not (alpha is None and _elementwise(value)):
            maker = value.producer.op if value.producer is not None else "the model's input"
            kept[f"its input comes from {maker}"] += 1
        else:
            found.setdefault(value, []).append(node)
    return found, kept


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


def _elementwise(value: Value) -> bool:
    """Whether a Mul of a value costs no pass over memory."""
    node = value.producer
    return node is not None and not node.domain and node.op in _ELEMENTWISE


def _constant_index(node: Node) -> int | None:
    return next((i for i in (1, 0) if node.required(i).is_const), None)


def _per_channel(node: Node, index: int, value: Value) -> bool:
    constant, channels = node.required(index), value.shape[-1]
    return constant.is_const and constant.shape == (channels,)


def rows_of(node: Node) -> NDArray[np.float32]:
    """Weights [input channels, output channels] of a MatMul or Gemm."""
    weights = node.required(1).array
    return weights.T if node.int_attr("transB") else weights


def absorbs(value: Value, readers: list[Node]) -> bool:
    """Whether constants that make an activation can be divided instead of it."""
    only = not value.is_output and set(value.users()) <= set(readers)
    return only and _scale_and_bias(value) is not None


def divide(graph: Graph, value: Value, readers: list[Node], factor: NDArray[np.float64]) -> bool:
    """Divide what the products read; returns whether the normalization itself does it."""
    producer = value.producer
    assert producer is not None
    b = Builder(graph, Location(producer.location.names, (VIA,)))
    if absorbs(value, readers):
        for node, index in _scale_and_bias(value) or ():
            constant = node.required(index)
            scaled = (constant.array / factor).astype(np.float32)
            node.set_input(index, b.constant(scaled, f"{constant.name}_smoothed"))
        return True
    inverse = b.constant((1 / factor).astype(np.float32), f"{value.name}_smoothing")
    smoothed = b.op("Mul", value, inverse)
    for node in readers:
        node.set_input(0, smoothed)
    return False


def multiply_rows(graph: Graph, node: Node, factor: NDArray[np.float64]) -> None:
    """Multiply the rows of a product's weights."""
    weights = node.required(1)
    by = factor[None, :] if node.int_attr("transB") else factor[:, None]
    scaled = (weights.array * by).astype(np.float32)
    node.set_input(1, graph.constant(scaled, f"{weights.name}_smoothed"))
