"""Scaled dot-product attention, reading its operands where they lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from burnish.backends.base import KernelRule, Refused
from burnish.backends.cpu.attention import FEW_QUERIES, attention
from burnish.backends.cpu.attention_bf16 import PairBlocks, multiplies_pairs
from burnish.backends.cpu.attention_spec import AttentionSpec, merged_heads
from burnish.backends.cpu.rules.common import refuse_dtype
from burnish.ir import Dim, Node, Value
from burnish.ir.dims import product
from burnish.lowering.context import CallShapes, Lowered, NodeContext


@dataclass(frozen=True)
class Operand:
    """Where queries, keys or values lie: columns of a [batch, length, total] tensor."""

    value: Value
    offset: int
    total: int


def operand_of(value: Value) -> Operand:
    """The tensor that a Split on the last axis took the value from, or the value itself."""
    width = value.shape[-1]
    assert isinstance(width, int)
    split = value.producer
    if split is None or split.key != "Split":
        return Operand(value, 0, width)
    source = split.required(0)
    total = source.shape[-1]
    rank = len(source.shape)
    if split.int_attr("axis") % rank != rank - 1 or not isinstance(total, int):
        return Operand(value, 0, width)
    offset = 0
    for output in split.outputs:
        if output is value:
            return Operand(source, offset, total)
        size = output.shape[-1] if output is not None else None
        if not isinstance(size, int):
            break
        offset += size
    return Operand(value, 0, width)


def refuse_shapes(node: Node) -> Refused | None:
    """Refuse operands that are no flat heads, and masks of another rank."""
    for value in node.inputs[:3]:
        assert value is not None
        if len(value.shape) != 3 or not isinstance(value.shape[-1], int):
            return Refused("queries, keys and values are not [batch, length, heads * width]")
    mask = node.input(3)
    if mask is not None and len(mask.shape) != 4:
        return Refused(f"no kernel for a mask {mask.type}")
    return None


def _accepts(node: Node) -> Refused | None:
    mask = node.input(3)
    if mask is not None and mask.dtype not in (node.output.dtype, "float32", "bool"):
        return Refused(f"no kernel for a mask {mask.type}")
    return refuse_shapes(node) or refuse_dtype(node, 3)


@dataclass(frozen=True)
class AttentionCall:
    """An attention with its operands where they lie.

    Attributes:
        node: The node.
        operands: Queries, keys and values.
        sources: The tensors that they are parts of, each once.
        inputs: Those, and the mask.
        widths: Width of a head of each operand.
        kind: Of the mask.
    """

    node: Node
    operands: tuple[Operand, ...]
    sources: tuple[Value, ...]
    inputs: tuple[Lowered, ...]
    widths: tuple[int, ...]
    kind: Literal["", "float", "bool"]

    @classmethod
    def of(cls, ctx: NodeContext, node: Node) -> AttentionCall:
        """The call of a node."""
        values = [node.required(i) for i in range(3)]
        heads, kv_heads = node.int_attr("num_heads"), node.int_attr("kv_num_heads")
        operands = tuple(operand_of(value) for value in values)
        sources = tuple(dict.fromkeys(o.value for o in operands))
        mask = node.input(3)
        inputs = [ctx.tensor(s) for s in sources]
        kind: Literal["", "float", "bool"] = ""
        if mask is not None:
            inputs.append(ctx.tensor(mask))
            kind = "bool" if mask.dtype == "bool" else "float"
        each = zip(values, (heads, kv_heads, kv_heads), strict=True)
        widths = tuple(int(x.shape[-1]) // n for x, n in each)  # type: ignore[arg-type]
        return cls(node, operands, sources, tuple(inputs), widths, kind)

    def spec(self, shapes: CallShapes) -> AttentionSpec:
        """What is computed, for shapes over the kernel's variables."""
        node, (q, k, _) = self.node, self.node.inputs[:3]
        assert q is not None
        assert k is not None
        mask = node.input(3)
        queries, keys = shapes.expr(q.shape[1]), shapes.expr(k.shape[1])
        heads, kv_heads = node.int_attr("num_heads"), node.int_attr("kv_num_heads")
        lengths, counts = (queries, keys, keys), (heads, kv_heads, kv_heads)
        places = [
            merged_heads(self.sources.index(o.value), length, n, width, o.total, o.offset)
            for o, length, n, width in zip(self.operands, lengths, counts, self.widths, strict=True)
        ]
        return AttentionSpec(
            batch=shapes.expr(q.shape[0]),
            queries=queries,
            keys=keys,
            heads=heads,
            kv_heads=kv_heads,
            width=self.widths[0],
            value_width=self.widths[2],
            arguments=tuple(shapes.inputs[: len(self.sources)]),
            q=places[0],
            k=places[1],
            v=places[2],
            scale=node.float_attr("scale", 1.0),
            mask=self.kind,
            mask_shape=shapes.inputs[-1] if mask is not None else (),
            causal=bool(node.int_attr("causal")),
            nan_to_zero=bool(node.int_attr("nan_to_zero")),
            dtype=q.dtype,
            mask_dtype="float32" if mask is not None and mask.dtype == "float32" else None,
        )

    @property
    def key(self) -> tuple[Any, ...]:
        """All that the kernel depends on, but shapes and types."""
        node = self.node
        layout = tuple((self.sources.index(o.value), o.offset, o.total) for o in self.operands)
        names = ("num_heads", "kv_num_heads", "causal", "nan_to_zero")
        numbers = tuple(node.int_attr(name) for name in names)
        return (numbers, node.float_attr("scale", 1.0), self.widths, layout, self.kind)

    @property
    def flops(self) -> Dim:
        """Operations of both products."""
        q, k = self.node.required(0), self.node.required(1)
        each = 2 * self.node.int_attr("num_heads") * (self.widths[0] + self.widths[2])
        return product([q.shape[0], q.shape[1], k.shape[1], each])


def _emit(ctx: NodeContext, node: Node) -> None:
    call = AttentionCall.of(ctx, node)
    steps = [step for o in call.operands[:2] for step in (o.total, o.offset)]
    pairs = multiplies_pairs(ctx.isa, node.required(0).dtype, (call.widths[0], *steps))
    queries = node.output.shape[1]
    few = isinstance(queries, int) and queries <= FEW_QUERIES
    ctx.computes = "bfloat16" if pairs and not few else "float32"

    def build(shapes: CallShapes) -> Any:
        return attention(ctx.isa, call.spec(shapes), blocks=PairBlocks if pairs else None)

    ctx.set(*ctx.call("attention", call.key, build, call.inputs, [node.output.t], flops=call.flops))


ATTENTION = KernelRule("burnish::Attention", _accepts, _emit)
