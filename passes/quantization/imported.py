"""Models that come quantized: every tool's form becomes DequantizeLinear, product, QuantizeLinear.

::

    QLinearConv(x, w, b)          =  quantize(Conv(dequantize(x), dequantize(w), dequantize(b)))
    (Cast(w) - z) * s             =  dequantize(w, s, z),      w constant in 8 bits
    transpose(dequantize(w))      =  dequantize(transpose(w)), w constant
    gather(dequantize(w), i)      =  dequantize(gather(w, i))
    x @ dequantize(w, s, z)       =  x @ dequantize(w', s) - (x @ 1) * (s * z'),
                                     w' = w - 128 and z' = z - 128 for unsigned w
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from burnish.ir import Attr, Builder, Node, Value
from burnish.ir.linear_quantization import dequantize, quantize, scalar_parameter
from burnish.ir.types import to_numpy
from burnish.passes.base import Numerics
from burnish.passes.patterns import NoMatch, Tracer
from burnish.passes.quantization.asymmetric import SplitAsymmetricWeights, SplitDynamicProduct
from burnish.passes.rewrite import Replacement, RewritePass, Rule

_BYTES = ("int8", "uint8")


def _one_parameter(*values: Value | None) -> bool:
    """Whether scales and zero points are constants of one element, the scales in float32."""
    return all(
        v is None or (v.is_const and v.array.size == 1 and v.dtype in ("float32", *_BYTES))
        for v in values
    )


class ExpandQLinearConv(Rule):
    """QLinearConv => Conv between DequantizeLinear and QuantizeLinear."""

    name = "expand-qlinear-conv"
    numerics = Numerics.REASSOCIATES
    anchors = ("QLinearConv",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Write out the formula of ONNX QLinearConv-10."""
        x, w, bias = node.required(0), node.required(3), node.input(8)
        x_scale, w_scale = node.required(1), scalar_parameter(b, node.required(4))
        assert w_scale is not None
        if not _one_parameter(x_scale, node.input(2), node.required(6), node.input(7)):
            return NoMatch("scales or zero points are not one constant number", node)
        if not w_scale.is_const or w_scale.dtype != "float32":
            return NoMatch("the scale of the weights is not constant", node)
        inputs = [
            dequantize(b, x, x_scale, node.input(2)),
            dequantize(b, w, w_scale, node.input(5), 0),
        ]
        if bias is not None:
            unit = (x_scale.array.reshape(()) * w_scale.array).astype(np.float32)
            inputs.append(dequantize(b, bias, b.constant(unit, "bias_scale"), axis=0))
        y = b.node("Conv", inputs, node.attrs).output
        codes = quantize(b, y, node.required(6), node.input(7), node.output.dtype)
        return Replacement({node.output: codes}, (node,))


class ExpandQLinearMatMul(Rule):
    """QLinearMatMul => MatMul between DequantizeLinear and QuantizeLinear."""

    name = "expand-qlinear-matmul"
    numerics = Numerics.REASSOCIATES
    anchors = ("QLinearMatMul",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Write out the formula of ONNX QLinearMatMul-21."""
        scale, right = scalar_parameter(b, node.required(4)), node.required(3)
        assert scale is not None
        if not _one_parameter(*node.inputs[1:3], *node.inputs[6:8]):
            return NoMatch("scales or zero points are not one constant number", node)
        if not scale.is_const or scale.dtype != "float32" or scale.t.rank not in (0, 1):
            return NoMatch("the right operand has scales that are not constant", right)
        if node.output.dtype not in _BYTES:
            return NoMatch(f"the result is {node.output.dtype}", node)
        left = dequantize(b, node.required(0), node.required(1), node.input(2))
        if right.t.rank is None:
            return NoMatch("the right operand has an unknown rank", right)
        columns = dequantize(b, right, scale, node.input(5), right.t.rank - 1)
        y = b.op("MatMul", left, columns)
        codes = quantize(b, y, node.required(6), node.input(7), node.output.dtype)
        return Replacement({node.output: codes}, (node,))


def parameters_of(node: Node) -> tuple[NDArray[np.generic], NDArray[np.generic] | None] | NoMatch:
    """Constant scale and zero point of a QuantizeLinear or DequantizeLinear without blocks."""
    scale, zero = node.required(1), node.input(2)
    if not scale.is_const or not (zero is None or zero.is_const) or node.int_attr("block_size"):
        return NoMatch("scales are not constant, or of blocks", node)
    return scale.array, None if zero is None else zero.array


def along(array: NDArray[np.generic], rank: int, axis: int) -> NDArray[np.generic]:
    """Scales or zero points shaped to broadcast onto a tensor."""
    if array.size == 1:
        return array.reshape(())
    shape = [1] * rank
    shape[axis % rank] = -1
    return array.reshape(shape)


class DequantizeCastWeights(Rule):
    """Mul(Cast(w), scale) or Mul(Sub(Cast(w), zero), scale) => DequantizeLinear(w, scale, zero)."""

    name = "dequantize-cast-weights"
    numerics = Numerics.REASSOCIATES
    anchors = ("Mul",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Find the codes, and the axis that scales and zero points lie along."""
        for index in (0, 1):
            factor, scale = node.required(index), node.required(1 - index)
            found = _cast_codes(b, factor)
            if found is not None and scale.is_const:
                break
        else:
            return NoMatch("it does not scale constant codes", node)
        codes, zero, covered = found
        if not node.output.t.same_shape(codes.t):
            return NoMatch("the scale has more axes than the codes", node)
        parts = [_axis_of(v.array, codes.array.shape) for v in (scale, zero) if v is not None]
        if None in parts:
            return NoMatch("the scale lies along several axes", node)
        axes = {part for part in parts if part != -1}
        if len(axes) > 1:
            return NoMatch("scale and zero point lie along different axes", node)
        inputs = [codes, _parameter(b, scale, np.dtype(np.float32))]
        if zero is not None:
            point = zero.array.astype(to_numpy(codes.dtype))
            if not np.array_equal(point.astype(np.float64), zero.array.astype(np.float64)):
                return NoMatch("the zero point is no code", zero)
            inputs.append(_parameter(b, zero, point.dtype))
        axis = next((a for a in axes if a is not None), 0)
        inputs = _same_shapes(b, inputs, codes.array.shape[axis])
        y = b.op("DequantizeLinear", *inputs, axis=axis)
        return Replacement({node.output: y}, (*covered, node))


def _cast_codes(b: Builder, value: Value) -> tuple[Value, Value | None, tuple[Node, ...]] | None:
    """Constant codes behind a Cast to float32, with a zero point that is subtracted."""
    node = value.producer
    zero: Value | None = None
    covered: tuple[Node, ...] = ()
    if node is not None and node.key in ("Add", "Sub"):
        shift = node.required(1)
        if not shift.is_const or not node.output.t.same_shape(node.required(0).t):
            return None
        # The canonical form of a difference with a constant is a sum.
        zero = shift if node.op == "Sub" else b.constant(-shift.array, shift.name)
        covered, node = (node,), node.required(0).producer
    if node is None or node.key != "Cast" or node.output.dtype != "float32":
        return None
    codes = node.required(0)
    if not codes.is_const or codes.dtype not in _BYTES or codes.t.rank == 0:
        return None
    return codes, zero, (node, *covered)


def _axis_of(array: NDArray[np.generic], shape: tuple[int, ...]) -> int | None:
    """The axis that a broadcast operand lies along; -1 for one number, None for several."""
    lifted = (1,) * (len(shape) - array.ndim) + array.shape
    axes = [i for i, size in enumerate(lifted) if size != 1]
    return None if len(axes) > 1 else next(iter(axes), -1)


def _parameter(b: Builder, value: Value, dtype: np.dtype[np.generic]) -> Value:
    """A constant as scale or zero point: a scalar or of rank 1."""
    flat = value.array.astype(dtype).reshape(-1)
    return b.constant(flat.reshape(()) if flat.size == 1 else flat, value.name)


def _same_shapes(b: Builder, inputs: list[Value], channels: int) -> list[Value]:
    """Codes, scale and zero point, the last two of one shape."""
    if all(v.t.rank == 0 for v in inputs[1:]) or all(v.t.rank == 1 for v in inputs[1:]):
        return inputs
    wide = (np.broadcast_to(v.array, (channels,)) for v in inputs[1:])
    return [inputs[0], *(b.constant(np.array(a), "parameter") for a in wide)]


class MoveBeforeDequantize(Rule):
    """A view of dequantized constant codes => dequantized codes that are moved now."""

    name = "move-before-dequantize"
    anchors = ("Transpose", "Reshape", "Flatten", "Squeeze", "Unsqueeze")

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Move the codes, and the number of the axis of several scales along with them."""
        source = node.required(0).producer
        if source is None or source.key != "DequantizeLinear" or not source.required(0).is_const:
            return NoMatch("it does not move a dequantized constant", node)
        found = parameters_of(source)
        if isinstance(found, NoMatch):
            return found
        codes = source.required(0).array
        axis = source.int_attr("axis", 1) % codes.ndim if found[0].size > 1 else None
        if node.op == "Transpose":
            perm = node.ints_attr("perm", tuple(reversed(range(codes.ndim))))
            moved, to = codes.transpose(perm), None if axis is None else perm.index(axis)
        else:
            shape = node.output.t.shape
            if shape is None or not all(isinstance(d, int) for d in shape):
                return NoMatch("the new shape is not known", node)
            moved = codes.reshape(tuple(int(str(d)) for d in shape))
            to = None if axis is None else _same_axis(codes.shape, moved.shape, axis)
            if axis is not None and to is None:
                return NoMatch("the axis of the scales is merged or split", node)
        attrs: dict[str, Attr] = {} if to is None else {"axis": to}
        stored = b.constant(np.ascontiguousarray(moved), source.required(0).name)
        inputs = [stored, *source.inputs[1:]]
        y = b.node("DequantizeLinear", inputs, attrs).output
        return Replacement({node.output: y}, (source, node))


def _same_axis(before: tuple[int, ...], after: tuple[int, ...], axis: int) -> int | None:
    """Where an axis lies after a reshape that keeps it as it is."""
    outer = int(np.prod(before[:axis], dtype=np.int64))
    for index, size in enumerate(after):
        if size == before[axis] and int(np.prod(after[:index], dtype=np.int64)) == outer:
            return index
    return None


class GatherCodes(Rule):
    """Gather(dequantize(w), i) => dequantize(Gather(w, i)), w constant: tables of embeddings."""

    name = "gather-codes"
    anchors = ("Gather",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Gather what is stored, and the scales where each row has one."""
        source = node.required(0).producer
        if source is None or source.key != "DequantizeLinear" or not source.required(0).is_const:
            return NoMatch("it does not gather from a dequantized constant", node)
        if node.required(1).is_const:
            return NoMatch("the indices are constant", node)
        found = parameters_of(source)
        if isinstance(found, NoMatch):
            return found
        codes, indices = source.required(0), node.required(1)
        rank, at = codes.array.ndim, node.int_attr("axis") % codes.array.ndim
        if codes.dtype not in _BYTES or source.output.dtype != "float32":
            return NoMatch(f"the codes are {codes.dtype}", codes)
        picked = b.op("Gather", codes, indices, axis=at)
        if found[0].size == 1:
            y = b.op("DequantizeLinear", picked, *source.inputs[1:])
            return Replacement({node.output: y}, (source, node))
        axis = source.int_attr("axis", 1) % rank
        if axis != at:
            if indices.t.rank is None:
                return NoMatch("the indices have an unknown rank", indices)
            moved = axis if axis < at else axis - 1 + indices.t.rank
            y = b.op("DequantizeLinear", picked, *source.inputs[1:], axis=moved)
            return Replacement({node.output: y}, (source, node))
        real = b.op("Cast", picked, to=1)
        if found[1] is not None and found[1].any():
            zeros = _row_parameters(b, found[1].astype(np.float32), rank, axis)
            real = b.op("Sub", real, b.op("Gather", zeros, indices, axis=at))
        scales = _row_parameters(b, found[0], rank, axis)
        y = b.op("Mul", real, b.op("Gather", scales, indices, axis=at))
        return Replacement({node.output: y}, (source, node))


def _row_parameters(b: Builder, array: NDArray[np.generic], rank: int, axis: int) -> Value:
    return b.constant(np.asarray(along(array, rank, axis)), "parameters")


@dataclass(frozen=True)
class WeightForms(RewritePass):
    """Bring constant weights of 8 bits to one form.

    Before: codes -> Cast -> Mul; dequantized codes that are moved or gathered.
    After: DequantizeLinear of constant codes where they are used; tables of embeddings are read as
        they are stored.
    Keeps: scales that lie along several axes, or are not constant.
    Numerics: reassociates.
    """

    name = "weight-forms"
    numerics = Numerics.REASSOCIATES
    rules: ClassVar[tuple[Rule, ...]] = (
        DequantizeCastWeights(),
        MoveBeforeDequantize(),
        GatherCodes(),
    )


@dataclass(frozen=True)
class QuantizedForms(RewritePass):
    """Bring products of quantized tensors to the form that integer products are made of.

    Before: QLinearConv, QLinearMatMul; products of weights with any zero points.
    After: products of real numbers between DequantizeLinear and QuantizeLinear, their weights
        around zero.
    Keeps: operators whose scales are not constant.
    Numerics: reassociates.
    """

    name = "quantized-forms"
    numerics = Numerics.REASSOCIATES
    rules: ClassVar[tuple[Rule, ...]] = (
        ExpandQLinearConv(),
        ExpandQLinearMatMul(),
        SplitAsymmetricWeights(),
        SplitDynamicProduct(),
    )
