"""MatMulInteger and ConvInteger whose sums are read as they are become integer composites.

::

    sum((x - zx) * (w - zw)) = sum(x * w') - zx * sum(w') - z' * sum(x - zx),

with ``w' - z' = w - zw`` and ``w'`` in int8; terms whose zero points are 0 are left out, and a
constant ``zx`` goes into the composite. All is exact in int32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from burnish.ir import Attr, Builder, Node, Value
from burnish.ir.definitions.convolution import channels_first_format
from burnish.ir.linear_quantization import scalar_parameter
from burnish.ir.types import BY_NAME
from burnish.passes.fusion.conv_norm import spatial_attrs
from burnish.passes.patterns import NoMatch, Tracer
from burnish.passes.quantization.asymmetric import split, zero_point
from burnish.passes.quantization.integer import image_rank
from burnish.passes.quantization.parameters import centered
from burnish.passes.rewrite import Replacement, RewritePass, Rule

Codes = NDArray[np.int8]


@dataclass(frozen=True)
class _Operands:
    """What a product sums.

    Attributes:
        x: Codes of the data.
        zero: Their zero point as a scalar; None for 0.
        weights: In int8.
        rest: Zero point of ``weights``, a scalar or [channels]; None for 0.
    """

    x: Value
    zero: Value | None
    weights: Codes
    rest: NDArray[np.int64] | None

    @property
    def fixed(self) -> int | None:
        """The zero point of the data, if it is known."""
        if self.zero is None:
            return 0
        return int(self.zero.array) if self.zero.is_const else None


def _operands(b: Builder, node: Node, axis: int) -> _Operands | NoMatch:
    """Data and weights of a MatMulInteger or ConvInteger; ``axis`` is that of output channels."""
    x, w, w_zero = node.required(0), node.required(1), node.input(3)
    if not w.is_const or not (w_zero is None or w_zero.is_const):
        return NoMatch("the weights are not constant", w)
    zero = scalar_parameter(b, node.input(2))
    if zero is not None and zero.t.rank != 0:
        return NoMatch("the data has more than one zero point", node)
    point = zero_point(w.array, w_zero)
    if point.size not in (1, w.array.shape[axis]):
        return NoMatch("the weights have zero points of other axes", node)
    weights = centered(w.array, point, axis)
    if weights is not None:
        return _Operands(x, zero, weights, None)
    weights, rest = split(w.array, point)
    return _Operands(x, zero, weights, rest.reshape(()) if rest.size == 1 else rest)


def _product(
    b: Builder, op: str, found: _Operands, weights: Codes, attrs: dict[str, Attr]
) -> Value:
    """``sum((x - zx) * weights)`` with a constant ``zx``, ``sum(x * weights)`` otherwise."""
    one = b.constant(np.asarray(1.0, np.float32), "one")
    zero = b.constant(np.asarray(found.fixed or 0, np.dtype(found.x.dtype)), "x_zero_point")
    core = [found.x, b.constant(weights, "weights"), one, zero, one]
    attrs = {**attrs, "postops": (), "y_dtype": "int32"}
    return b.node(op, core, attrs, domain="burnish").output


def _shifted(b: Builder, sums: Value, found: _Operands, totals: NDArray[np.int64]) -> Value:
    """``sums - zx * totals`` if ``zx`` is known at run time only."""
    if found.fixed is not None:
        return sums
    assert found.zero is not None
    zero = b.op("Cast", found.zero, to=BY_NAME["int32"].onnx)
    return b.op("Sub", sums, b.op("Mul", b.constant(totals.astype(np.int32), "totals"), zero))


class MakeSumsOfProduct(Rule):
    """MatMulInteger => burnish::QMatMul that stores int32."""

    name = "make-sums-of-product"
    anchors = ("MatMulInteger",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Take the zero points off the sums."""
        if node.required(1).t.rank != 2 or node.required(0).t.rank in (None, 0, 1):
            return NoMatch("the weights are not a matrix", node)
        found = _operands(b, node, 1)
        if isinstance(found, NoMatch):
            return found

        def sums(weights: Codes) -> Value:
            made = _product(b, "QMatMul", found, weights, {})
            return _shifted(b, made, found, weights.astype(np.int64).sum(axis=0))

        y = sums(found.weights)
        if found.rest is not None:
            rest = b.constant(found.rest.astype(np.int32), "w_zero_point")
            rows = sums(np.ones((found.weights.shape[0], 1), np.int8))
            y = b.op("Sub", y, b.op("Mul", rows, rest))
        return Replacement({node.output: y}, (node,))


class MakeSumsOfConv(Rule):
    """ConvInteger => burnish::QConv that stores int32."""

    name = "make-sums-of-conv"
    anchors = ("ConvInteger",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Take the zero points off the sums; write padding out if its code is not known."""
        rank = image_rank(node)
        if isinstance(rank, NoMatch):
            return rank
        found = _operands(b, node, 0)
        if isinstance(found, NoMatch):
            return found
        group, channels = node.int_attr("group", 1), found.weights.shape[0]
        attrs: dict[str, Attr] = {"data_format": channels_first_format(rank)}
        attrs |= spatial_attrs(node, rank)
        pads = node.ints_attr("pads", (0,) * (2 * (rank - 2)))
        if found.fixed is None and any(pads):
            half = len(pads) // 2
            amounts = b.ints((0, 0, *pads[:half], 0, 0, *pads[half:]), "pads")
            padded = b.op("Pad", found.x, amounts, found.zero)
            found = _Operands(padded, found.zero, found.weights, found.rest)
            attrs["pads"] = (0,) * len(pads)
        column = (-1, *(1,) * (rank - 2))

        def sums(weights: Codes) -> Value:
            made = _product(b, "QConv", found, weights, attrs)
            totals = weights.astype(np.int64).reshape(weights.shape[0], -1).sum(axis=1)
            return _shifted(b, made, found, totals.reshape(column))

        y = sums(found.weights)
        if found.rest is not None:
            rest = b.constant(found.rest.astype(np.int32).reshape(column), "w_zero_point")
            ones = np.ones((channels if group > 1 else 1, *found.weights.shape[1:]), np.int8)
            y = b.op("Sub", y, b.op("Mul", sums(ones), rest))
        return Replacement({node.output: y}, (node,))


@dataclass(frozen=True)
class IntegerSums(RewritePass):
    """Let integer products with constant weights run on integer kernels.

    Before: MatMulInteger or ConvInteger, with zero points that are constant or computed.
    After: burnish::QMatMul or burnish::QConv that stores its sums, and int32 steps after it.
    Keeps: products without constant weights, or whose data has several zero points.
    Numerics: exact.
    """

    name = "integer-sums"
    rules: ClassVar[tuple[Rule, ...]] = (MakeSumsOfProduct(), MakeSumsOfConv())
