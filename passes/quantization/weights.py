"""The pass that stores weights of matrix products in 8 or 4 bits, by blocks of their rows."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from burnish.ir import Attr, Builder, Graph, Location, Node, Value
from burnish.passes.base import Numerics, Pass, PassContext
from burnish.passes.quantization.selection import Selection

VIA = "quantize-weights"
#: Bits by name of the type.
BITS = {"int8": 8, "int4": 4}
#: Rows of a block.
BLOCK_SIZES = (16, 32, 64, 128, 256)
#: How the model reads the weights.
FORMATS = ("dequantize", "matmulnbits")
_TYPES: dict[tuple[int, bool], np.dtype] = {
    (8, True): np.dtype(np.int8),
    (8, False): np.dtype(np.uint8),
    (4, True): np.dtype(ml_dtypes.int4),
    (4, False): np.dtype(ml_dtypes.uint4),
}
_LEAST_SCALE = 2.0**-60


@dataclass(frozen=True)
class Blocks:
    """Weights [K, N], each block of rows of a column with its own scale and zero point.

    Attributes:
        values: [K, N] uint8 in [0, 2^bits): symmetric ones around the middle.
        scale: [ceil(K / block), N] float32.
        zero: [ceil(K / block), N] uint8.
    """

    values: NDArray[np.uint8]
    scale: NDArray[np.float32]
    zero: NDArray[np.uint8]


def quantize_blocks(
    weights: NDArray[np.float32], bits: int, block: int, *, symmetric: bool
) -> Blocks:
    """Round weights to the nearest numbers of their block.

    Args:
        weights: [K, N]; K need not be a multiple of ``block``.
        bits: 4 or 8.
        block: Rows of a block.
        symmetric: Whether the middle represents 0 in all blocks.
    """
    rows, columns = weights.shape
    count = -(-rows // block)
    padded = np.zeros((count * block, columns), np.float32)
    padded[:rows] = weights
    blocks = padded.reshape(count, block, columns)
    most, middle = 2**bits - 1, 2 ** (bits - 1)
    # Zero is within the range: it pads the last block.
    low, high = np.minimum(blocks.min(axis=1), 0.0), np.maximum(blocks.max(axis=1), 0.0)
    if symmetric:
        scale = np.maximum(-low, high) / (middle - 1)
    else:
        scale = (high.astype(np.float64) - low) / most
    scale = np.where(scale > 0, np.maximum(scale, _LEAST_SCALE), 1.0).astype(np.float32)
    zero = np.full(scale.shape, middle, np.float32)
    if not symmetric:
        zero = np.clip(np.rint(-low / scale), 0, most)
    values = np.clip(np.rint(blocks / scale[:, None]) + zero[:, None], 0, most)
    flat = values.astype(np.uint8).reshape(-1, columns)[:rows]
    return Blocks(flat, scale, zero.astype(np.uint8))


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Store constant weights of matrix products in 8 or 4 bits; activations stay in float32.

    Before: MatMul(x, weights) with float32 weights [K, N].
    After: MatMul(x, DequantizeLinear(int4 weights, scales [K / block, N])) with ``block_size``
        (ONNX DequantizeLinear-21), or com.microsoft::MatMulNBits.
    Keeps: products that the selection excludes, of other types, without a constant matrix, or whose
        weights have fewer rows than a block, each with its reason.
    Numerics: quantizes: weights are rounded to 16 or 256 numbers over the range of their block.

    Attributes:
        dtype: A key of :data:`BITS`.
        block: Rows of a block, of :data:`BLOCK_SIZES`.
        symmetric: Whether the middle of the type represents 0.
        form: Of :data:`FORMATS`.
        selection: Which nodes.
    """

    name = "quantize-weights"
    numerics = Numerics.QUANTIZES
    dtype: str = "int4"
    block: int = 32
    symmetric: bool = False
    form: str = "dequantize"
    selection: Selection = field(default_factory=Selection)

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Replace the weights."""
        kept: Counter[str] = Counter()
        rewriter = _Rewriter(self)
        for node in list(graph.walk()):
            if node.domain or node.op not in self.selection.op_types_to_quantize:
                continue
            reason = self.selection.refuses(node) or self._unfit(node)
            if reason:
                kept[f"{node.op}: {reason}"] += 1
                ctx.kept.update(dict.fromkeys(node.location.names or (node.name,), reason))
                continue
            with ctx.visiting(node):
                rewriter.replace(node)
        line = (
            f"{self.dtype} weights in blocks of {self.block}: {rewriter.count} products, "
            f"{kept.total()} kept in fp32"
        )
        if kept:
            line += "; " + "; ".join(f"{n} x {cause}" for cause, n in kept.most_common())
        ctx.note(line)
        return rewriter.count > 0

    def _unfit(self, node: Node) -> str:
        if node.op not in ("MatMul", "Gemm"):
            return "its weights are not a matrix"
        left, right = node.required(0), node.required(1)
        if not right.is_const or left.is_const:
            return "its right operand is not constant"
        if right.t.rank != 2:
            return "its weights are not a matrix"
        if left.dtype != "float32":
            return f"it computes in {left.dtype}"
        if _matrix(node).shape[0] < self.block:
            return f"its weights have fewer than {self.block} rows"
        scaled = node.float_attr("alpha", 1.0) != 1.0 or node.float_attr("beta", 1.0) != 1.0
        if self.form == "matmulnbits" and (scaled or node.int_attr("transA")):
            return "MatMulNBits has no alpha, beta and transA"
        return ""


def _matrix(node: Node) -> NDArray[np.float32]:
    """Weights [K, N]."""
    weights = node.required(1).array
    return weights.T if node.int_attr("transB") else weights


class _Rewriter:
    def __init__(self, how: QuantizeWeights) -> None:
        self.how, self.bits = how, BITS[how.dtype]
        self.count = 0
        # Tied weights are stored once.
        self._weights: dict[tuple[Graph, int, int], Value] = {}

    def replace(self, node: Node) -> None:
        assert node.graph is not None
        self.count += 1
        b = Builder(node.graph, Location(node.location.names, (*node.location.via, VIA)))
        if self.how.form == "matmulnbits":
            self._product(b, node)
            return
        weights, axis = node.required(1), node.int_attr("transB")
        key = (node.graph, id(weights.const), axis)
        if key not in self._weights:
            self._weights[key] = self._dequantized(b, weights, self._blocks(node), axis)
        node.set_input(1, self._weights[key])

    def _blocks(self, node: Node) -> Blocks:
        how = self.how
        return quantize_blocks(_matrix(node), self.bits, how.block, symmetric=how.symmetric)

    def _dequantized(self, b: Builder, weights: Value, found: Blocks, axis: int) -> Value:
        symmetric = self.how.symmetric
        dtype, middle = _TYPES[self.bits, symmetric], 2 ** (self.bits - 1) if symmetric else 0

        def stored(array: NDArray[np.uint8]) -> NDArray[np.generic]:
            whole = (array.astype(np.int16) - middle).astype(dtype)
            return np.ascontiguousarray(whole.T if axis else whole)

        scale = np.ascontiguousarray(found.scale.T if axis else found.scale)
        inputs = [
            b.constant(stored(found.values), f"{weights.name}_quantized"),
            b.constant(scale, f"{weights.name}_scale"),
            b.constant(stored(found.zero), f"{weights.name}_zero_point"),
        ]
        attrs: dict[str, Attr] = {"axis": axis, "block_size": self.how.block}
        return b.node("DequantizeLinear", inputs, attrs).output

    def _product(self, b: Builder, node: Node) -> None:
        """The product as onnxruntime's own operator."""
        found, name = self._blocks(node), node.required(1).name
        rows, columns = found.values.shape
        inputs: list[Value | None] = [
            node.required(0),
            b.constant(self._packed(found.values), f"{name}_quantized"),
            b.constant(np.ascontiguousarray(found.scale.T).reshape(-1), f"{name}_scale"),
        ]
        if not self.how.symmetric:
            zero = _nibbles(found.zero.T) if self.bits == 4 else found.zero.T
            inputs.append(b.constant(np.ascontiguousarray(zero).reshape(-1), f"{name}_zero_point"))
        attrs: dict[str, Attr] = {"K": rows, "N": columns, "bits": self.bits}
        attrs["block_size"] = self.how.block
        graph, old = b.graph, node.output
        graph.opset.setdefault("com.microsoft", 1)
        result = Value(graph.unique_name(f"{old.name}_product"), old.type)
        graph.append(
            Node(
                "MatMulNBits", inputs, [result], attrs, domain="com.microsoft", location=b.location
            )
        )
        bias = node.input(2)
        graph.replace_uses(old, result if bias is None else b.op("Add", result, bias))

    def _packed(self, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """[N, blocks, bytes of a block]: two numbers a byte in 4 bits, the earlier one low."""
        rows, columns = values.shape
        count = -(-rows // self.how.block)
        padded = np.zeros((columns, count * self.how.block), np.uint8)
        padded[:, :rows] = values.T
        blocks = padded.reshape(columns, count, self.how.block)
        return _nibbles(blocks) if self.bits == 4 else blocks


def _nibbles(values: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Two numbers of the last axis in a byte, the earlier one low."""
    if values.shape[-1] % 2:
        values = np.concatenate([values, np.zeros((*values.shape[:-1], 1), np.uint8)], axis=-1)
    packed: NDArray[np.uint8] = values[..., ::2] + values[..., 1::2] * np.uint8(16)
    return packed
