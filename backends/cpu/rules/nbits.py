"""Products with constant weights in 8 or 4 bits."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from burnish.backends.base import KernelRule, Refused
from burnish.backends.composites import postops_key, postops_of
from burnish.backends.cpu.nbits import matmul_nbits
from burnish.backends.cpu.nbits_dots import dots_nbits, quantize_blocks, takes
from burnish.backends.cpu.nbits_spec import NBitsSpec, pack_blocks, pack_codes
from burnish.backends.cpu.rules.common import lower_operands, refuse_operands
from burnish.ir import Node, TensorType, Value
from burnish.ir.definitions.weight_only import CORE
from burnish.ir.dims import product
from burnish.ir.types import BY_NAME
from burnish.lowering.context import CallShapes, Lowered, NodeContext

#: The accuracy level of com.microsoft::MatMulNBits that allows activations in 8 bits.
_ACTIVATIONS_8_BITS = 4


def _accepts(node: Node) -> Refused | None:
    x, w = node.required(0), node.required(1)
    for index, what in ((1, "weights"), (2, "weights' scale"), (3, "weights' zero point")):
        if not node.required(index).is_const:
            return Refused(f"the {what} is not constant")
    if x.dtype != "float32" or node.output.dtype != "float32":
        return Refused(f"no kernel for {x.dtype} with weights in {w.dtype}")
    size, rows = node.int_attr("block_size"), w.array.shape[0]
    if size < rows and size * BY_NAME[w.dtype].bits % 32:
        return Refused(f"its blocks have {size} rows")
    return refuse_operands(node, CORE)


def _around_zero(value: Value) -> npt.NDArray[np.int8]:
    """Codes or zero points, moved so that the middle of their type is 0."""
    middle = 2 ** (BY_NAME[value.dtype].bits - 1) if value.dtype.startswith("uint") else 0
    codes: npt.NDArray[np.int8] = (value.array.astype(np.int16) - middle).astype(np.int8)
    return codes


def _emit(ctx: NodeContext, node: Node) -> None:
    w, zero = node.required(1), node.required(3)
    k, n = w.array.shape
    bits, isa = BY_NAME[w.dtype].bits, ctx.isa
    block, symmetric = min(node.int_attr("block_size"), k), not _around_zero(zero).any()

    # The layout does not depend on the rows.
    stored = NBitsSpec((), k, n, bits, block, symmetric, postops_of(node))
    key = ("nbits", isa.lanes, block)
    weights = [
        ctx.weight(w, key, lambda _: pack_codes(_around_zero(w), stored, isa)),
        ctx.weight(node.required(2), key, lambda a: pack_blocks(a, stored, isa)),
    ]
    if not symmetric:
        pack = lambda _: pack_blocks(_around_zero(zero), stored, isa)  # noqa: E731
        weights.append(ctx.weight(zero, key, pack))
    inputs = [ctx.tensor(node.required(0))]
    family, template = "matmul_nbits", matmul_nbits
    ctx.computes = "float32"
    if node.int_attr("accuracy_level") == _ACTIVATIONS_8_BITS and takes(stored, isa):
        ctx.computes = "int8"
        inputs = _quantized(ctx, node, stored)
        family, template = "dots_nbits", dots_nbits

    def build(shapes: CallShapes) -> Any:
        return template(isa, replace(stored, lead=shapes.inputs[0][:-1]))

    ctx.set(
        *ctx.call(
            family,
            (k, n, bits, block, symmetric, postops_key(stored.postops)),
            build,
            [*inputs, *weights, *lower_operands(ctx, node, CORE)],
            [node.output.t],
            flops=product([*node.output.shape, 2 * k]),
            detail=f"{w.dtype} weights in blocks of {block}",
        )
    )


def _quantized(ctx: NodeContext, node: Node, spec: NBitsSpec) -> list[Lowered]:
    """The activation in 8 bits, with the scale and the sum of each block."""
    x = ctx.tensor(node.required(0))
    parameters = TensorType("float32", (*x.dims[:-1], spec.blocks))

    def build(shapes: CallShapes) -> Any:
        return quantize_blocks(ctx.isa, replace(spec, lead=shapes.inputs[0][:-1]))

    outputs = [TensorType("int8", x.dims), parameters, parameters]
    return list(ctx.call("quantize_blocks", (spec.k, spec.block), build, [x], outputs))


MATMUL_NBITS = KernelRule("burnish::MatMulNBits", _accepts, _emit)
