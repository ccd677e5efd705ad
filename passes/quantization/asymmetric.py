"""Weights of 8 bits whose zero points leave less than int8 on one side.

``w - z`` needs 9 bits there. With ``w' = w - 128`` and ``z' = z - 128`` of unsigned weights,

``sum(x * (w - z)) = sum(x * w') - z' * sum(x)``:

a product with int8 weights, and one that sums the data, with ones as its weights.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from burnish.ir import Attr, Builder, Node, Value
from burnish.ir.types import BY_NAME
from burnish.passes.base import Numerics
from burnish.passes.patterns import NoMatch, Tracer
from burnish.passes.quantization.parameters import centered
from burnish.passes.rewrite import Replacement, Rule


def split(
    codes: NDArray[np.integer], zero: NDArray[np.integer]
) -> tuple[NDArray[np.int8], NDArray[np.int64]]:
    """Weights in int8 and what is still to be taken off: ``codes - zero == w - z``."""
    middle = 128 if codes.dtype == np.uint8 else 0
    return (codes.astype(np.int16) - middle).astype(np.int8), zero.astype(np.int64) - middle


def zero_point(codes: NDArray[np.integer], zero: Value | None) -> NDArray[np.integer]:
    """Constant zero points [1] or [channels] of ``codes``; 0 if none are given."""
    return np.zeros(1, codes.dtype) if zero is None else zero.array.reshape(-1)


class SplitAsymmetricWeights(Rule):
    """product(x, dequantize(w, s, z)) => product(x, dequantize(w', s)) - sums(x) * (s * z')."""

    name = "split-asymmetric-weights"
    numerics = Numerics.REASSOCIATES
    anchors = ("Conv", "Gemm", "MatMul")

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Make both products; integer kernels take them then."""
        x, weights = node.required(0), node.required(1).producer
        data = x.producer
        if data is None or data.key != "DequantizeLinear" or data.required(0).is_const:
            return NoMatch("the data is not quantized", x)
        if weights is None or weights.key != "DequantizeLinear":
            return NoMatch("the weights are not dequantized", node)
        codes, scale, zero = weights.required(0), weights.required(1), weights.input(2)
        if not (codes.is_const and scale.is_const and (zero is None or zero.is_const)):
            return NoMatch("the weights are not constant", weights)
        if codes.dtype not in ("int8", "uint8") or weights.int_attr("block_size"):
            return NoMatch("the weights are not 8 bits with a scale for each channel", weights)
        axis = 0 if node.op == "Conv" or node.int_attr("transB") else 1
        point = zero_point(codes.array, zero)
        several = scale.array.size > 1
        if several and weights.int_attr("axis", 1) % codes.array.ndim != axis:
            return NoMatch("the scales do not lie along the output channels", weights)
        if centered(codes.array, point, axis) is not None:
            return NoMatch("the weights fit int8 around zero", weights)
        if node.op != "Conv" and (codes.t.rank != 2 or node.int_attr("transA")):
            return NoMatch("it is no product of rows and columns", node)
        values, rest = split(codes.array, point)
        attrs: dict[str, Attr] = {"axis": axis} if several else {}
        w = b.node("DequantizeLinear", [b.constant(values, codes.name), scale], attrs).output
        main = b.node(node.op, [x, w, *node.inputs[2:]], node.attrs).output
        # One number for each channel, even if all are the same: a post-op of the product takes it.
        factor = np.zeros(codes.array.shape[axis], np.float32)
        alpha = node.float_attr("alpha", 1.0)
        factor -= alpha * scale.array.astype(np.float64).reshape(-1) * rest
        y = b.op("Add", main, b.op("Mul", _sums(b, node, codes), _factor(b, node, factor)))
        return Replacement({node.output: y}, (node,))


def _sums(b: Builder, node: Node, codes: Value) -> Value:
    """What the product of ``node`` is with ones as its weights: one channel, or one for each."""
    x, shape = node.required(0), codes.array.shape
    one = b.constant(np.asarray(1.0, np.float32), "one")
    if node.op == "Conv":
        count = shape[0] if node.int_attr("group", 1) > 1 else 1
        ones = b.constant(np.ones((count, *shape[1:]), np.int8), "ones")
        return b.node("Conv", [x, b.op("DequantizeLinear", ones, one)], node.attrs).output
    depth = shape[1] if node.int_attr("transB") else shape[0]
    ones = b.constant(np.ones((depth, 1), np.int8), "ones")
    return b.op("MatMul", x, b.op("DequantizeLinear", ones, one))


def _factor(b: Builder, node: Node, factor: NDArray[np.float32]) -> Value:
    """One number for each output channel, as the result of ``node`` broadcasts it."""
    if node.op == "Conv":
        factor = factor.reshape(-1, *(1,) * (len(node.output.shape) - 2))
    return b.constant(factor, "zero_point_scale")


class SplitDynamicProduct(Rule):
    """MatMulInteger(x, w, zx, z) * (sx * s) => the same of w', less MatMulInteger(x, 1) * s * z'.

    It is a rule of its own, since products are not dequantized here, but scaled.
    """

    name = "split-dynamic-product"
    numerics = Numerics.REASSOCIATES
    anchors = ("Mul",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Make both products, each with the scale of the data right behind it."""
        for index in (0, 1):
            cast = node.required(index).producer
            product = None if cast is None or cast.key != "Cast" else cast.required(0).producer
            if product is not None and product.key == "MatMulInteger":
                break
        else:
            return NoMatch("it does not scale an integer product", node)
        assert cast is not None
        weights, zero = product.required(1), product.input(3)
        constant = weights.is_const and (zero is None or zero.is_const)
        if not constant or weights.t.rank != 2:
            return NoMatch("the weights are not a constant matrix", product)
        point = zero_point(weights.array, zero)
        if point.size not in (1, weights.array.shape[1]):
            return NoMatch("the weights have zero points of other axes", product)
        if centered(weights.array, point, 1) is not None:
            return NoMatch("the weights fit int8 around zero", product)
        scales = _scales(node.required(1 - index))
        if scales is None:
            return NoMatch("it is not scaled by one number and constants", node)
        data, factors = scales
        values, rest = split(weights.array, point)
        ones = np.ones((values.shape[0], 1), np.int8)

        def scaled(codes: NDArray[np.int8], factor: NDArray[np.float64]) -> Value:
            sums = b.op("MatMulInteger", product.required(0), b.constant(codes, weights.name),
                        product.input(2))  # fmt: skip
            real = b.op("Cast", sums, to=BY_NAME["float32"].onnx)
            real = real if data is None else b.op("Mul", real, data)
            return b.op("Mul", real, b.constant(factor.astype(np.float32), "scale"))

        units = factors.astype(np.float64)
        y = b.op("Sub", scaled(values, units), scaled(ones, units * rest))
        return Replacement({node.output: y}, (product, cast, node))


def _scales(value: Value) -> tuple[Value | None, NDArray[np.generic]] | None:
    """One number that is computed, and constants: a scalar or [channels] in all."""
    node = value.producer
    factors = [value]
    if not value.is_const and node is not None and node.key == "Mul":
        factors = [node.required(0), node.required(1)]
    constant: NDArray[np.generic] = np.ones((), np.float32)
    data: Value | None = None
    for factor in factors:
        if factor.is_const:
            constant = constant * factor.array
        elif data is not None or any(d != 1 for d in factor.shape):
            return None
        else:
            data = factor
    if constant.ndim > 1 or (data is not None and data.t.rank not in (0, 1)):
        return None
    return data, constant
