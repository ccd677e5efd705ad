"""Scaled dot-product attention, reading its operands where they lie."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from burnish.backends.base import KernelRule, Refused
from burnish.backends.cpu.rules.attention import Operand, operand_of
from burnish.backends.cuda.attention import (
    STEP,
    AttentionSpec,
    Place,
    probabilities,
    scores,
    weighted,
)
from burnish.backends.cuda.rules.common import FLOATS, refuse_mixed
from burnish.backends.cuda.rules.matmul import engine
from burnish.ir import Dim, Node, TensorType, Value
from burnish.ir.dims import ceildiv, equal, mul, product
from burnish.lowering.context import CallShapes, Lowered, NodeContext


def _accepts(node: Node) -> Refused | None:
    for value in node.inputs[:3]:
        assert value is not None
        if len(value.shape) != 3 or not isinstance(value.shape[-1], int):
            return Refused("queries, keys and values are not [batch, length, heads * width]")
    mask = node.input(3)
    if mask is not None:
        if mask.dtype not in (*FLOATS, "bool") or len(mask.shape) != 4:
            return Refused(f"no kernel for a mask {mask.type}")
        full = _score_dims(node)
        if not all(equal(m, 1) or equal(m, d) for m, d in zip(mask.shape, full, strict=True)):
            return Refused("the mask may broadcast at run time")
    return refuse_mixed(node, 3)


def _score_dims(node: Node) -> tuple[Dim, ...]:
    q, k = node.required(0), node.required(1)
    return (q.shape[0], node.int_attr("num_heads"), q.shape[1], k.shape[1])


@dataclass(frozen=True)
class _Call:
    """An attention and its operands.

    Attributes:
        ctx: Where it is lowered.
        node: The composite.
        places: Tensor, first column and columns of queries, keys and values.
        counts: Heads of each.
        dims: Dims of the scores.
        padded: Length of a row of probabilities.
    """

    ctx: NodeContext
    node: Node
    places: tuple[Operand, ...]
    counts: tuple[int, ...]
    dims: tuple[Dim, ...]
    padded: Dim

    @property
    def mask(self) -> Value | None:
        """The mask."""
        return self.node.input(3)

    @property
    def dtype(self) -> str:
        """Element type of everything but the scores and the mask."""
        return self.node.output.dtype

    @property
    def together(self) -> bool:
        """Whether queries and keys lie in one tensor."""
        return self.places[0].value is self.places[1].value

    def width(self, index: int) -> int:
        """Columns of a head of the queries, keys or values."""
        columns = self.node.required(index).shape[-1]
        assert isinstance(columns, int)
        return columns // self.counts[index]

    def spec(self, shapes: CallShapes, mask_shape: tuple[Any, ...] = ()) -> AttentionSpec:
        """The attention over a kernel's own variables."""
        node, mask = self.node, self.mask
        q, k, v = (
            Place(
                shapes.expr(node.required(i).shape[1]),
                self.counts[i],
                self.width(i),
                place.offset,
                place.total,
            )
            for i, place in enumerate(self.places)
        )
        return AttentionSpec(
            batch=shapes.expr(self.dims[0]),
            q=q,
            k=k,
            v=v,
            dtype=self.dtype,
            scale=node.float_attr("scale", 1.0),
            padded=shapes.expr(self.padded),
            mask="" if mask is None else "bool" if mask.dtype == "bool" else "float",
            mask_shape=mask_shape,
            mask_dtype=mask.dtype if mask is not None else "float32",
            causal=bool(node.int_attr("causal")),
            nan_to_zero=bool(node.int_attr("nan_to_zero")),
        )

    def kernel(
        self,
        name: str,
        build: Callable[[CallShapes], Any],
        inputs: Sequence[Lowered],
        output: TensorType,
        flops: Dim,
        detail: str,
    ) -> Lowered:
        """Call one of the three kernels."""
        node, mask = self.node, self.mask
        layout = tuple((p.offset, p.total) for p in self.places)
        widths = tuple(self.width(i) for i in range(3))
        options = ("causal", "nan_to_zero")
        key = (
            self.counts,
            widths,
            layout,
            self.together,
            node.float_attr("scale", 1.0),
            *(node.int_attr(option) for option in options),
            None if mask is None else mask.dtype,
        )
        extra = (*self.dims, self.padded)
        (result,) = self.ctx.call(
            name, key, build, inputs, [output], flops=flops, detail=detail, extra_dims=extra
        )
        return result


def _emit(ctx: NodeContext, node: Node) -> None:
    heads, kv_heads = node.int_attr("num_heads"), node.int_attr("kv_num_heads")
    dims = _score_dims(node)
    padded = mul(ceildiv(dims[3], STEP), STEP)
    places = tuple(operand_of(node.required(i)) for i in range(3))
    call = _Call(ctx, node, places, (heads, kv_heads, kv_heads), dims, padded)
    sources = [ctx.tensor(p.value) for p in places]
    found = call.kernel(
        "attention_scores",
        lambda s: scores(ctx.isa, call.spec(s), s.inputs[0], call.together),
        sources[:1] if call.together else sources[:2],
        TensorType("float32", dims),
        product([*dims, 2 * call.width(0)]),
        f"{engine(call.dtype)}, float32 scores",
    )
    mask = call.mask
    weights = call.kernel(
        "attention_probabilities",
        lambda s: probabilities(call.spec(s, s.inputs[1] if mask is not None else ())),
        [found] if mask is None else [found, ctx.tensor(mask)],
        TensorType(call.dtype, (*dims[:3], padded)),
        0,
        "a warp for each row",
    )
    result = call.kernel(
        "attention_values",
        lambda s: weighted(ctx.isa, call.spec(s), s.inputs[1]),
        [weights, sources[2]],
        node.output.t,
        product([*dims, 2 * call.width(2)]),
        engine(call.dtype),
    )
    ctx.set(result)


ATTENTION = KernelRule("burnish::Attention", _accepts, _emit)
