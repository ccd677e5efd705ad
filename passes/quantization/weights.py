"""The pass that stores weights of matrix products in 8 or 4 bits, by blocks of their rows."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from burnish.ir import Attr, Builder, Graph, Location, Node, Value
from burnish.passes.base import Numerics, Pass, PassContext, counted
from burnish.passes.quantization.balance import best_balance
from burnish.passes.quantization.selection import QUANTIZED_ALREADY, Selection, comes_quantized
from burnish.passes.quantization.smooth import absorbs, divide, multiply_rows, rows_of, smoothable

VIA = "quantize-weights"
#: Bits by name of the type.
BITS = {"int8": 8, "int4": 4}
#: Rows of a block.
BLOCK_SIZES = (16, 32, 64, 128, 256)
#: How weights are rounded: to the nearest, or by what they multiply.
METHODS = ("rtn", "awq")
#: How the model reads the weights.
FORMATS = ("dequantize", "matmulnbits")
_TYPES: dict[tuple[int, bool], np.dtype] = {
    (8, True): np.dtype(np.int8),
    (8, False): np.dtype(np.uint8),
    (4, True): np.dtype(ml_dtypes.int4),
    (4, False): np.dtype(ml_dtypes.uint4),
}
_LEAST_SCALE = 2.0**-60
_TINY = 1e-30
#: Shares of a block's range that are tried: beyond them, numbers are cut off.
_SHARES = tuple(1.0 - 0.05 * step for step in range(9))


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
    weights: NDArray[np.float32],
    bits: int,
    block: int,
    *,
    symmetric: bool,
    importance: NDArray[np.float64] | None = None,
) -> Blocks:
    """Round weights to the nearest numbers of their block.

    Args:
        weights: [K, N]; K need not be a multiple of ``block``.
        bits: 4 or 8.
        block: Rows of a block.
        symmetric: Whether the middle represents 0 in all blocks.
        importance: [K] weights of squared errors: the mean square of what each row multiplies.
            With them, the range of each block is the share of its whole range whose error is
            least; without, it is the whole range.
    """
    rows, columns = weights.shape
    count = -(-rows // block)
    padded = np.zeros((count * block, columns), np.float32)
    padded[:rows] = weights
    blocks = padded.reshape(count, block, columns)
    if importance is None:
        found = _rounded(blocks, bits, 1.0, symmetric=symmetric)
    else:
        heights = np.zeros(count * block, np.float32)
        heights[:rows] = importance / max(float(importance.max()), _TINY)
        heights = heights.reshape(count, block, 1)
        found = _searched(blocks, bits, heights, symmetric=symmetric)
    values, scale, zero = found
    flat = values.astype(np.uint8).reshape(-1, columns)[:rows]
    return Blocks(flat, scale, zero.astype(np.uint8))


def dequantized(blocks: Blocks, block: int) -> NDArray[np.float32]:
    """What blocks stand for, [K, N]."""
    rows = np.arange(blocks.values.shape[0]) // block
    centered = blocks.values - blocks.zero.astype(np.float32)[rows]
    real: NDArray[np.float32] = centered * blocks.scale[rows]
    return real


_Rounded: TypeAlias = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]


def _rounded(blocks: NDArray[np.float32], bits: int, share: float, *, symmetric: bool) -> _Rounded:
    """Codes, scales and zero points of blocks [count, rows, N] over a share of their range."""
    most, middle = 2**bits - 1, 2 ** (bits - 1)
    # Zero is within the range: it pads the last block.
    low = share * np.minimum(blocks.min(axis=1), 0.0)
    high = share * np.maximum(blocks.max(axis=1), 0.0)
    if symmetric:
        scale = np.maximum(-low, high) / (middle - 1)
    else:
        scale = (high.astype(np.float64) - low) / most
    scale = np.where(scale > 0, np.maximum(scale, _LEAST_SCALE), 1.0).astype(np.float32)
    zero = np.full(scale.shape, middle, np.float32)
    if not symmetric:
        zero = np.clip(np.rint(-low / scale), 0, most)
    values = np.clip(np.rint(blocks / scale[:, None]) + zero[:, None], 0, most)
    return values, scale, zero


def _searched(
    blocks: NDArray[np.float32], bits: int, heights: NDArray[np.float32], *, symmetric: bool
) -> _Rounded:
    """The rounding of each block that loses least, errors counted by ``heights``."""
    best, least = None, None
    for share in _SHARES:
        found = _fitted(blocks, heights, _rounded(blocks, bits, share, symmetric=symmetric))
        error = _error(blocks, heights, found)
        if best is None or least is None:
            best, least = found, error
            continue
        better = error < least
        least = np.where(better, error, least)
        values, scale, zero = best
        best = (
            np.where(better[:, None], found[0], values),
            np.where(better, found[1], scale),
            np.where(better, found[2], zero),
        )
    assert best is not None
    return best


def _fitted(blocks: NDArray[np.float32], heights: NDArray[np.float32], found: _Rounded) -> _Rounded:
    """The same codes with the scales of the least squared error."""
    values, scale, zero = found
    centered = values - zero[:, None]
    along = np.einsum("brn,brn->bn", heights * blocks, centered)
    length = np.einsum("brn,brn->bn", heights * centered, centered)
    usable = (length > 0) & (along > 0)
    fitted = np.where(usable, along / np.where(usable, length, 1.0), scale)
    return values, np.maximum(fitted, _LEAST_SCALE).astype(np.float32), zero


def _error(
    blocks: NDArray[np.float32], heights: NDArray[np.float32], found: _Rounded
) -> NDArray[np.float32]:
    """[count, N] weighted squared errors."""
    values, scale, zero = found
    off = (values - zero[:, None]) * scale[:, None] - blocks
    error: NDArray[np.float32] = np.einsum("brn,brn->bn", heights * off, off)
    return error


@dataclass(frozen=True)
class QuantizeWeights(Pass):
    """Store constant weights of matrix products in 8 or 4 bits; activations stay in float32.

    Before: MatMul(x, weights) with float32 weights [K, N].
    After: MatMul(x, DequantizeLinear(int4 weights, scales [K / block, N])) with ``block_size``
        (ONNX DequantizeLinear-21), or com.microsoft::MatMulNBits.
    Keeps: products that the selection excludes, of other types, without a constant matrix, or whose
        weights have fewer rows than a block, each with its reason.
    Numerics: quantizes: weights are rounded to 16 or 256 numbers over the range of their block, or
        over the part of it that loses least where it is known what they multiply.

    Attributes:
        dtype: A key of :data:`BITS`.
        block: Rows of a block, of :data:`BLOCK_SIZES`.
        symmetric: Whether the middle of the type represents 0.
        form: Of :data:`FORMATS`.
        selection: Which nodes.
        squares: Mean square of each channel that a product multiplies, by name of the value; for
            others, and if there are none, weights are rounded to the nearest.
    """

    name = "quantize-weights"
    numerics = Numerics.QUANTIZES
    dtype: str = "int4"
    block: int = 32
    symmetric: bool = False
    form: str = "dequantize"
    selection: Selection = field(default_factory=Selection)
    squares: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    @property
    def spec(self) -> str:
        """The name with what was chosen, not with all that was measured."""
        return f"{self.name}{{dtype={self.dtype},block={self.block}}}"

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Replace the weights."""
        kept: Counter[str] = Counter()
        rewriter = _Rewriter(self, balanced := self._balance(graph))
        for node in list(graph.walk()):
            if node.domain or node.op not in self.selection.op_types_to_quantize:
                continue
            reason = self.selection.refuses(node) or self.unfit(node)
            if reason:
                kept[f"{node.op}: {reason}"] += 1
                ctx.keep(node, reason)
                continue
            with ctx.visiting(node):
                rewriter.replace(node)
        line = (
            f"{self.dtype} weights in blocks of {self.block}: {rewriter.count} products, "
            f"{kept.total()} kept in fp32"
        )
        if self.squares:
            line += f"; {len(balanced)} normalized activations divided by what their weights take"
        if kept:
            line += f"; {counted(kept)}"
        ctx.note(line)
        return rewriter.count > 0

    def products(self, graph: Graph) -> list[Node]:
        """The main graph's products whose weights will be stored."""
        types, refuses = self.selection.op_types_to_quantize, self.selection.refuses
        nodes = (n for n in graph.nodes if not n.domain and n.op in types)
        return [n for n in nodes if not refuses(n) and not self.unfit(n)]

    def _balance(self, graph: Graph) -> dict[str, NDArray[np.float64]]:
        """Divide activations, where a normalization does it, by what their weights take over.

        Returns:
            The factors by name of the activation.
        """
        if not self.squares:
            return {}

        def rounding(matrix: NDArray[np.float32]) -> NDArray[np.float32]:
            blocks = quantize_blocks(matrix, self.bits, self.block, symmetric=self.symmetric)
            return dequantized(blocks, self.block)

        found: dict[str, NDArray[np.float64]] = {}
        for value, readers in smoothable(graph, self.selection, 0.5)[0].items():
            squares = self.squares.get(value.name)
            if squares is None or not absorbs(value, readers) or any(map(self.unfit, readers)):
                continue
            factor = best_balance(squares, [rows_of(node) for node in readers], rounding)
            if factor is not None:
                divide(graph, value, readers, factor)
                for node in readers:
                    multiply_rows(graph, node, factor)
                found[value.name] = factor
        return found

    @property
    def bits(self) -> int:
        """Bits of a weight."""
        return BITS[self.dtype]

    def unfit(self, node: Node) -> str:
        """Why a product cannot have its weights stored so; empty if it can."""
        if node.op not in ("MatMul", "Gemm"):
            return "its weights are not a matrix"
        if comes_quantized(node):
            return QUANTIZED_ALREADY
        left, right = node.required(0), node.required(1)
        if not right.is_const or left.is_const:
            return "its right operand is not constant"
        if right.t.rank != 2:
            return "its weights are not a matrix"
        if left.dtype != "float32":
            return f"it computes in {left.dtype}"
        if rows_of(node).shape[0] < self.block:
            return f"its weights have fewer than {self.block} rows"
        scaled = node.float_attr("alpha", 1.0) != 1.0 or node.float_attr("beta", 1.0) != 1.0
        if self.form == "matmulnbits" and (scaled or node.int_attr("transA")):
            return "MatMulNBits has no alpha, beta and transA"
        return ""


class _Rewriter:
    def __init__(self, how: QuantizeWeights, balanced: Mapping[str, NDArray[np.float64]]) -> None:
        self.how, self.bits, self.balanced = how, how.bits, balanced
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
        how, name = self.how, node.required(0).name
        squares = how.squares.get(name)
        if squares is not None:
            squares = squares / self.balanced.get(name, 1.0) ** 2
            squares = squares if np.isfinite(squares).all() else None
        return quantize_blocks(
            rows_of(node), self.bits, how.block, symmetric=how.symmetric, importance=squares
        )

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
