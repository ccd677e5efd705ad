"""Operators that work as well on permuted axes, and how each is written then.

An operator is *layout-agnostic* if permuting the axes of all its tensors alike only changes its
attributes. Every row of the table says which tensors those are, and rebuilds the node on tensors
that are stored permuted: ``stored = Transpose(value, q)``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from burnish.ir import Attr, Builder, Node, Value
from burnish.ir.definitions.quantized import CORE as QUANTIZED_CORE
from burnish.ir.opinfo import is_elementwise
from burnish.ir.postops import operands, parse_postops
from burnish.passes.axes import Perm, bytes_of, is_view, transposed
from burnish.passes.rows import has_rank, reshape


@dataclass(frozen=True)
class Rebuild:
    """What a row gets to rebuild a node.

    Attributes:
        node: The node.
        b: Builds the new nodes.
        stored: The stored value of each member input.
        q: How members are stored.
    """

    node: Node
    b: Builder
    stored: Mapping[Value, Value]
    q: Perm

    def axis(self, axis: int) -> int:
        """Where an axis of the original lies now."""
        return self.q.index(axis % len(self.q))

    def made(self, inputs: Sequence[Value | None], **attrs: Attr) -> list[Value | None]:
        """The node again with other inputs and some attributes changed."""
        node = self.node
        new = {**node.attrs, **attrs}
        made = self.b.node(node.op, inputs, new, outputs=len(node.outputs), domain=node.domain)
        return made.outputs


class Form(ABC):
    """How one family of operators behaves under a permutation."""

    @abstractmethod
    def inputs(self, node: Node) -> list[Value] | None:
        """The inputs that are permuted; None when this node cannot be rebuilt."""

    def outputs(self, node: Node) -> list[Value]:
        """The outputs that are permuted."""
        return [v for v in node.outputs if v is not None]

    def accepts(self, q: Perm) -> bool:
        """Whether the node can be rebuilt under ``q``."""
        return True

    def extra_cost(self, node: Node, q: Perm) -> int:
        """Bytes moved for operands and outputs that are no members."""
        return 0

    @abstractmethod
    def rebuild(self, r: Rebuild) -> list[Value | None]:
        """The outputs, permuted if they are members."""


def _constant_ints(value: Value | None) -> list[int] | None:
    """The elements of an optional constant; an absent one has none."""
    if value is None:
        return []
    return [int(v) for v in value.array.reshape(-1)] if value.is_const else None


class ElementwiseForm(Form):
    """Operands of full rank are members; constants are permuted, scalars stay."""

    def inputs(self, node: Node) -> list[Value] | None:
        """Run-time operands of the output's rank."""
        rank = node.output.t.rank
        if rank is None or any(v is not None and v.t.rank is None for v in node.inputs):
            return None
        if node.op == "PRelu" and not node.required(1).is_const:
            return None
        found = [v for v in node.inputs if v is not None and not v.is_const and v.t.rank == rank]
        loose = [v for v in node.inputs if v is not None and not v.is_const and v not in found]
        if any(v.t.rank != 0 and _lifted_shape(v, rank) is None for v in loose):
            return None
        return found

    def extra_cost(self, node: Node, q: Perm) -> int:
        """Operands of lower rank are lifted and transposed."""
        total = 0
        for value in node.inputs:
            if value is None or value.is_const or not 0 < len(value.shape) < len(q):
                continue
            shape = (1,) * (len(q) - len(value.shape)) + value.shape
            total += 0 if is_view(shape, q) else bytes_of(value)
        return total

    def rebuild(self, r: Rebuild) -> list[Value | None]:
        """The same operator on permuted operands."""
        return r.made([v if v is None else self._operand(r, v) for v in r.node.inputs])

    @staticmethod
    def _operand(r: Rebuild, value: Value) -> Value:
        rank = len(r.q)
        if value in r.stored:
            return r.stored[value]
        if value.is_const:
            if value.array.size == 1:
                return value
            lifted = value.array.reshape((1,) * (rank - value.array.ndim) + value.array.shape)
            return r.b.constant(np.ascontiguousarray(lifted.transpose(r.q)), value.name)
        if not value.shape:
            return value
        shape = (1,) * (rank - len(value.shape)) + value.shape
        raised = reshape(r.b, value, shape)
        assert raised is not None
        return transposed(r.b, raised, r.q)


def _lifted_shape(value: Value, rank: int) -> tuple[Any, ...] | None:
    """The shape with leading ones, if a Reshape with constants can make it."""
    symbolic = [d for d in value.shape if not isinstance(d, int)]
    return (1,) * (rank - len(value.shape)) + value.shape if len(symbolic) <= 1 else None


class AxisForm(Form):
    """The first input (all, for Concat) is a member; the attribute ``axis`` is remapped."""

    def __init__(self, default: int | None = None, *, all_inputs: bool = False) -> None:
        self.default = default
        self.all_inputs = all_inputs

    def inputs(self, node: Node) -> list[Value] | None:
        """The data."""
        data = node.inputs if self.all_inputs else node.inputs[:1]
        if node.op.startswith("Arg") and not node.int_attr("keepdims", 1):
            return None
        return [v for v in data if v is not None and not v.is_const]

    def rebuild(self, r: Rebuild) -> list[Value | None]:
        """The same operator along the axis where it lies now."""
        axis = r.node.int_attr("axis", -1 if self.default is None else self.default)
        inputs = list(r.node.inputs)
        for i, value in enumerate(inputs):
            if value is None or (i > 0 and not self.all_inputs):
                continue
            if value in r.stored:
                inputs[i] = r.stored[value]
            elif value.is_const:
                turned = np.ascontiguousarray(value.array.transpose(r.q))
                inputs[i] = r.b.constant(turned, value.name)
        return r.made(inputs, axis=r.axis(axis))


class ReduceForm(Form):
    """The data is a member; the result too, unless its reduced axes are dropped."""

    def inputs(self, node: Node) -> list[Value] | None:
        """The data, if the axes are constant."""
        axes = _constant_ints(node.input(1))
        if axes is None or (not axes and node.int_attr("noop_with_empty_axes")):
            return None
        return [node.required(0)]

    def outputs(self, node: Node) -> list[Value]:
        """The result with reduced axes of size 1."""
        return super().outputs(node) if node.int_attr("keepdims", 1) else []

    @staticmethod
    def _axes(node: Node) -> list[int]:
        rank = len(node.required(0).shape)
        found = _constant_ints(node.input(1)) or []
        return [a % rank for a in found] if found else list(range(rank))

    def _order(self, node: Node, q: Perm) -> Perm:
        """The permutation that puts the axes left of a permuted reduction in order."""
        reduced = self._axes(node)
        left = [axis for axis in q if axis not in reduced]
        return tuple(left.index(axis) for axis in sorted(left))

    def extra_cost(self, node: Node, q: Perm) -> int:
        """The axes left may have to be put in order."""
        if node.int_attr("keepdims", 1):
            return 0
        back = self._order(node, q)
        shape = [node.output.shape[i] for i in np.argsort(back)] if back else []
        return 0 if is_view(shape, back) else bytes_of(node.output)

    def rebuild(self, r: Rebuild) -> list[Value | None]:
        """The same reduction over the axes where they lie now."""
        node = r.node
        axes = r.b.ints(sorted(r.axis(a) for a in self._axes(node)))
        outputs = r.made([r.stored[node.required(0)], axes])
        if node.int_attr("keepdims", 1) or outputs[0] is None:
            return outputs
        return [transposed(r.b, outputs[0], self._order(node, r.q))]


class SliceForm(Form):
    """The data is a member; axes are spelled out and remapped."""

    def inputs(self, node: Node) -> list[Value] | None:
        """The data, if the axes are known."""
        known = _constant_ints(node.input(3)) is not None and node.required(1).t.static
        return [node.required(0)] if known else None

    def rebuild(self, r: Rebuild) -> list[Value | None]:
        """The same slice of the axes where they lie now."""
        starts = r.node.required(1)
        count = starts.shape[0]
        assert isinstance(count, int)
        axes = _constant_ints(r.node.input(3)) or list(range(count))
        remapped = r.b.ints([r.axis(a) for a in axes])
        rest = [starts, r.node.required(2), remapped, r.node.input(4)]
        inputs = [r.stored[r.node.required(0)], *rest]
        return r.made(inputs if inputs[-1] is not None else inputs[:-1])


class PadForm(Form):
    """The data is a member; pads are spelled out by axis."""

    def inputs(self, node: Node) -> list[Value] | None:
        """The data, if pads and axes are constant."""
        known = node.required(1).is_const and _constant_ints(node.input(3)) is not None
        return [node.required(0)] if known else None

    def rebuild(self, r: Rebuild) -> list[Value | None]:
        """The same pads of the axes where they lie now."""
        rank = len(r.q)
        amounts = _constant_ints(r.node.required(1)) or []
        axes = _constant_ints(r.node.input(3)) or list(range(rank))
        pads = np.zeros((2, rank), np.int64)
        for i, axis in enumerate(axes):
            pads[0, r.axis(axis)] = amounts[i]
            pads[1, r.axis(axis)] = amounts[i + len(axes)]
        inputs = [r.stored[r.node.required(0)], r.b.ints(pads.reshape(-1).tolist())]
        value = r.node.input(2)
        return r.made([*inputs, value] if value is not None else inputs)


class ResizeForm(Form):
    """The data is a member; scales or sizes are spelled out by axis."""

    def inputs(self, node: Node) -> list[Value] | None:
        """The data, if scales and sizes are constant and no region of interest is cropped."""
        roi, scales, sizes = (node.input(i) for i in (1, 2, 3))
        if roi is not None and (not roi.is_const or roi.array.size):
            return None
        if any(v is not None and not v.is_const for v in (scales, sizes)):
            return None
        if node.str_attr("keep_aspect_ratio_policy", "stretch") != "stretch":
            return None
        return [node.required(0)]

    def rebuild(self, r: Rebuild) -> list[Value | None]:
        """The same resizing of the axes where they lie now."""
        rank = len(r.q)
        axes = [a % rank for a in r.node.ints_attr("axes", tuple(range(rank)))]
        inputs: list[Value | None] = [r.stored[r.node.required(0)], None]
        for index in (2, 3):
            value = r.node.input(index)
            if value is None or value.array.size == 0:
                inputs.append(None)
                continue
            order = np.argsort([r.axis(a) for a in axes])
            inputs.append(r.b.constant(value.array.reshape(-1)[order], value.name))
        while inputs[-1] is None:
            inputs.pop()
        return r.made(inputs, axes=tuple(sorted(r.axis(a) for a in axes)))


class GatherForm(Form):
    """The data is a member; a constant index takes its axis away."""

    def inputs(self, node: Node) -> list[Value] | None:
        """The data, if the index is one constant."""
        index = node.required(1)
        return [node.required(0)] if index.is_const and index.t.rank == 0 else None

    def outputs(self, node: Node) -> list[Value]:
        """None: the axis is dropped."""
        return []

    @staticmethod
    def _order(node: Node, q: Perm) -> Perm:
        dropped = node.int_attr("axis") % len(q)
        left = [axis for axis in q if axis != dropped]
        return tuple(left.index(axis) for axis in sorted(left))

    def extra_cost(self, node: Node, q: Perm) -> int:
        """The axes left may have to be put in order."""
        back = self._order(node, q)
        shape = [node.output.shape[i] for i in np.argsort(back)]
        return 0 if is_view(shape, back) else bytes_of(node.output)

    def rebuild(self, r: Rebuild) -> list[Value | None]:
        """The same index into the axis where it lies now."""
        axis = r.axis(r.node.int_attr("axis"))
        outputs = r.made([r.stored[r.node.required(0)], r.node.required(1)], axis=axis)
        assert outputs[0] is not None
        return [transposed(r.b, outputs[0], self._order(r.node, r.q))]


class TileForm(Form):
    """The data is a member; the repeats are permuted."""

    def inputs(self, node: Node) -> list[Value] | None:
        """The data, if the repeats are constant."""
        return [node.required(0)] if node.required(1).is_const else None

    def rebuild(self, r: Rebuild) -> list[Value | None]:
        """The same repeats of the axes where they lie now."""
        repeats = r.node.required(1).array[list(r.q)]
        return r.made([r.stored[r.node.required(0)], r.b.constant(repeats)])


class CodeForm(Form):
    """Quantization by one scale: the data is a member."""

    def inputs(self, node: Node) -> list[Value] | None:
        """The data, if scale and zero point are scalars."""
        return [node.required(0)] if node.required(1).t.rank == 0 else None

    def rebuild(self, r: Rebuild) -> list[Value | None]:
        """The same scale and zero point."""
        return r.made([r.stored[r.node.required(0)], *r.node.inputs[1:]])


class DynamicCodeForm(Form):
    """DynamicQuantizeLinear: the data and its codes are members; scale and zero point stay."""

    def inputs(self, node: Node) -> list[Value] | None:
        """The data."""
        return [node.required(0)]

    def outputs(self, node: Node) -> list[Value]:
        """The codes."""
        return [] if node.outputs[0] is None else [node.outputs[0]]

    def rebuild(self, r: Rebuild) -> list[Value | None]:
        """The range of permuted data is the same."""
        return r.made([r.stored[r.node.required(0)]])


class RowForm(Form):
    """Row-wise composites and normalizations: all axes but the last may be permuted.

    ``count``: how many of the first inputs are members; full operands of post-ops are, too.
    """

    def __init__(self, count: int, core: int) -> None:
        self.count = count
        self.core = core

    def _positions(self, node: Node) -> list[int]:
        kinds = operands(parse_postops(node.strs_attr("postops")))
        full = [self.core + i for i, kind in enumerate(kinds) if kind in ("full", "quantized")]
        return [*range(self.count), *full]

    def inputs(self, node: Node) -> list[Value] | None:
        """The rows, if they are normalized or multiplied along the last axis."""
        members = [node.required(i) for i in self._positions(node)]
        last = len(members[0].shape) - 1
        if "axis" in node.attrs and node.int_attr("axis") % (last + 1) != last:
            return None
        return None if any(v.is_const for v in members) else members

    def accepts(self, q: Perm) -> bool:
        """The last axis stays the last."""
        return q[-1] == len(q) - 1

    def rebuild(self, r: Rebuild) -> list[Value | None]:
        """The same node on permuted rows."""
        inputs = list(r.node.inputs)
        for i in self._positions(r.node):
            inputs[i] = r.stored[r.node.required(i)]
        return r.made(inputs)


_ELEMENTWISE = ElementwiseForm()
_ROWS: dict[str, Form] = {
    "burnish::MatMul": RowForm(1, 2),
    "burnish::QMatMul": RowForm(1, QUANTIZED_CORE),
    "burnish::AddLayerNorm": RowForm(2, 4),
    "burnish::AddRMSNorm": RowForm(2, 3),
    "burnish::QAddLayerNorm": RowForm(2, 4),
    "LayerNormalization": RowForm(1, 3),
    "RMSNormalization": RowForm(1, 2),
}
_FORMS: dict[str, Form] = {
    "Concat": AxisForm(all_inputs=True),
    "Split": AxisForm(0),
    "Softmax": AxisForm(-1),
    "LogSoftmax": AxisForm(-1),
    "ArgMax": AxisForm(0),
    "ArgMin": AxisForm(0),
    "Slice": SliceForm(),
    "Pad": PadForm(),
    "Resize": ResizeForm(),
    "Tile": TileForm(),
    "Gather": GatherForm(),
    "DequantizeLinear": CodeForm(),
    "QuantizeLinear": CodeForm(),
    "DynamicQuantizeLinear": DynamicCodeForm(),
    **{
        name: ReduceForm()
        for name in (
            "ReduceMean",
            "ReduceSum",
            "ReduceMax",
            "ReduceMin",
            "ReduceProd",
            "ReduceL1",
            "ReduceL2",
            "ReduceSumSquare",
            "ReduceLogSum",
            "ReduceLogSumExp",
        )
    },
}


def form_of(node: Node, *, rows: bool = False) -> Form | None:
    """The row of a node, or None when the node is not layout-agnostic.

    Args:
        node: The node.
        rows: Whether operators on rows, which need the last axis last, count as agnostic.
    """
    values = (v for v in (*node.inputs, *node.outputs) if v is not None)
    if not all(map(has_rank, values)):
        return None
    form = _ROWS.get(node.key) if rows else None
    if form is None and not node.domain:
        form = _ELEMENTWISE if is_elementwise(node) else _FORMS.get(node.op)
    if form is None:
        return None
    members = form.inputs(node)
    if not members:
        return None
    rank = members[0].t.rank
    if rank is None or rank < 3 or any(v.t.rank != rank for v in members):
        return None
    return form if all(v.t.rank == rank for v in form.outputs(node)) else None
