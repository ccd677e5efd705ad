"""onnxruntime's products and tables with weights in 4 or 8 bits, which are kept so.

The forms follow onnxruntime's ``docs/ContribOperators.md``, com.microsoft::MatMulNBits and
com.microsoft::GatherBlockQuantized.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from burnish.errors import ModelError
from burnish.importers.upgrade import upgrade
from burnish.importers.upgrade_contrib import ALWAYS, MICROSOFT, replace_node
from burnish.ir.builder import Builder
from burnish.ir.graph import Attr, Node, Value
from burnish.ir.types import BY_NAME, to_numpy

_TYPES = {4: "uint4", 8: "uint8"}


@upgrade("MatMulNBits", until=ALWAYS, domain=MICROSOFT)
def matmul_nbits(b: Builder, node: Node) -> None:
    """(A, B, scales, zero_points?, g_idx?, bias?); float16 activations compute in float32."""
    bits, k, n = node.int_attr("bits", 4), node.int_attr("K"), node.int_attr("N")
    if bits not in _TYPES:
        raise ModelError(f"MatMulNBits with weights in {bits} bits", hint="4 and 8 are supported")
    if node.input(4) is not None:
        raise ModelError(
            "MatMulNBits with g_idx, whose rows of weights are in another order",
            hint="quantize without desc_act / act_order",
        )
    size, dtype = node.int_attr("block_size"), to_numpy(_TYPES[bits])
    blocks = -(-k // size)
    packed = _constant(node, 1, "weights").view(np.uint8).reshape(n, blocks, -1)
    codes = _numbers(packed, bits, size).reshape(n, -1)[:, :k]
    scale = _constant(node, 2, "scales").reshape(n, blocks).astype(np.float32)
    zero = _zero_points(node, bits, (n, blocks))
    name = node.required(1).name
    x = _single(b, node.required(0))
    inputs = [
        x,
        b.constant(np.ascontiguousarray(codes.T.astype(dtype)), name),
        b.constant(np.ascontiguousarray(scale.T), f"{name}_scale"),
        b.constant(np.ascontiguousarray(zero.T.astype(dtype)), f"{name}_zero_point"),
    ]
    level = node.int_attr("accuracy_level")
    attrs: dict[str, Attr] = {"block_size": size, "accuracy_level": level, "postops": ()}
    y = b.node("MatMulNBits", inputs, attrs, domain="burnish", name=node.name).output
    bias = node.input(5)
    if bias is not None:
        y = b.op("Add", y, _single(b, bias))
    if node.required(0).dtype != "float32":
        y = b.op("Cast", y, to=BY_NAME[node.required(0).dtype].onnx)
    replace_node(b, node, [y])


@upgrade("GatherBlockQuantized", until=ALWAYS, domain=MICROSOFT)
def gather_block_quantized(b: Builder, node: Node) -> None:
    """(data, indices, scales, zero_points?): rows are gathered as they are stored, a byte each."""
    data, indices, bits = node.required(0), node.required(1), node.int_attr("bits", 4)
    array, zero = _constant(node, 0, "table"), node.input(3)
    gathered = node.int_attr("gather_axis") % array.ndim
    blocked = node.int_attr("quantize_axis", 1) % array.ndim
    if gathered == blocked:
        raise ModelError("GatherBlockQuantized that gathers along its blocks has no standard form")
    scales = _constant(node, 2, "scales")
    parameters: list[NDArray[Any]] = [scales]
    if data.dtype == "uint8":
        if bits not in _TYPES:
            raise ModelError(f"GatherBlockQuantized with {bits} bits", hint="4 and 8 are supported")
        array = _numbers(array, bits, data.array.shape[-1] * (8 // bits))
        middle = np.full(scales.shape, 2 ** (bits - 1), np.uint8)
        given = None if zero is None else _constant(node, 3, "zero points")
        parameters.append(middle if given is None else _numbers(given, bits, scales.shape[-1]))
    elif data.dtype in ("int4", "uint4"):
        wide = np.int8 if data.dtype == "int4" else np.uint8
        array = array.astype(wide)
        if zero is not None:
            parameters.append(_constant(node, 3, "zero points").astype(wide))
    else:
        raise ModelError(f"GatherBlockQuantized of {data.dtype}", hint="store it in 4 or 8 bits")
    if indices.t.rank is None:
        raise ModelError("GatherBlockQuantized with indices of an unknown rank")
    axis = blocked if blocked < gathered else blocked - 1 + indices.t.rank
    parts = [b.constant(x, data.name) for x in (array, *parameters)]
    rows = [b.op("Gather", part, indices, axis=gathered) for part in parts]
    size = node.int_attr("block_size", 128)
    y = b.op("DequantizeLinear", *rows, axis=axis, block_size=size, name=node.name)
    replace_node(b, node, [y])


def _single(b: Builder, value: Value) -> Value:
    """In float32."""
    return value if value.dtype == "float32" else b.op("Cast", value, to=BY_NAME["float32"].onnx)


def _constant(node: Node, index: int, what: str) -> NDArray[Any]:
    value = node.required(index)
    if not value.is_const:
        raise ModelError(f"{node.op} whose {what} are computed while the model runs")
    return np.ascontiguousarray(value.array)


def _numbers(packed: NDArray[np.uint8], bits: int, count: int) -> NDArray[np.uint8]:
    """The last axis unpacked; in 4 bits, the low half of a byte comes first."""
    if bits == 4:
        packed = np.stack([packed & 15, packed >> 4], axis=-1).reshape(*packed.shape[:-1], -1)
    return packed[..., :count]


def _zero_points(node: Node, bits: int, shape: tuple[int, int]) -> NDArray[Any]:
    """[N, blocks]; the middle of the type if there are none."""
    value = node.input(3)
    if value is None:
        return np.full(shape, 2 ** (bits - 1), np.uint8)
    array = _constant(node, 3, "zero points")
    if array.dtype == np.uint8:
        return _numbers(array.reshape(shape[0], -1), bits, shape[1])
    whole = np.rint(array.astype(np.float32))
    if np.any(whole != array) or whole.min() < 0 or whole.max() >= 2**bits:
        raise ModelError(
            f"MatMulNBits with zero points that are no codes of {bits} bits",
            hint="store them as uint8",
        )
    return whole.reshape(shape)
