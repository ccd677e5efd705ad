"""Products of activations in floating point with weights in 8 or 4 bits."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.ir.builder import Builder
from burnish.ir.composites import define
from burnish.ir.definitions.epilogue import apply_postops
from burnish.ir.graph import Node, Value

#: Inputs before the operands of post-ops: x, w, w_scale, w_zero_point.
CORE = 4


@define("MatMulNBits")
def matmul_nbits(b: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Value]:
    """``MatMulNBits(x, w, w_scale, w_zero_point, *operands)``, after onnxruntime's operator.

    ``x`` [..., K] in float32 times a constant ``w`` [K, N] in int8, uint8, int4 or uint4, whose
    ``block_size`` neighbouring rows share a row of ``w_scale`` and ``w_zero_point``, both
    [ceil(K / block_size), N] (ONNX DequantizeLinear-25). ``accuracy_level`` is the least precision
    of ``x`` in the product, as in com.microsoft::MatMulNBits: 4 allows 8 bits, others do not.
    Post-ops on [..., N].
    """
    x, w, scale, zero, *operands = inputs
    size = node.int_attr("block_size")
    weights = b.op("DequantizeLinear", w, scale, zero, axis=0, block_size=size)
    return [apply_postops(b, node, b.op("MatMul", x, weights), operands)]
