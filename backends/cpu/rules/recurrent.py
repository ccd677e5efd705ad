"""LSTM, GRU and RNN: one kernel for all time steps."""

from __future__ import annotations

from typing import Any

from burnish.backends.base import KernelRule, Refused
from burnish.backends.cpu.recurrent import recurrent
from burnish.backends.cpu.recurrent_spec import (
    GATES,
    Kind,
    RecurrentSpec,
    pack_peepholes,
    pack_recurrent_bias,
    pack_recurrent_weights,
    supported_activations,
)
from burnish.backends.cpu.rules.common import refuse_dtype
from burnish.ir import Dim, Node
from burnish.ir.dims import product
from burnish.lowering.context import CallShapes, Lowered, NodeContext

#: Positions of the ONNX inputs.
_W, _R, _B, _LENGTHS, _INITIAL_H, _INITIAL_C, _P = range(1, 8)


def _kind(node: Node) -> Kind:
    kinds: dict[str, Kind] = {"LSTM": "LSTM", "GRU": "GRU", "RNN": "RNN"}
    return kinds[node.op]


def _directions(node: Node) -> int:
    return 2 if node.str_attr("direction", "forward") == "bidirectional" else 1


def _accepts(node: Node) -> Refused | None:
    for index in (_W, _R, _B, _P):
        value = node.input(index)
        if value is not None and not value.is_const:
            return Refused("the weights are not constant")
    if not supported_activations(_kind(node), node.strs_attr("activations"), _directions(node)):
        return Refused("no kernel for these activations")
    for name in ("clip", "activation_alpha", "activation_beta"):
        if name in node.attrs:
            return Refused(f"no kernel with {name}")
    if node.int_attr("input_forget"):
        return Refused("no kernel with input_forget")
    for index in (0, _INITIAL_H, _INITIAL_C):
        value = node.input(index)
        if value is not None and value.dtype != "float32":
            return Refused(f"no kernel for {value.dtype}")
    return refuse_dtype(node, 1, dtypes=("float32",)) if node.outputs[0] is not None else None


def _weights(ctx: NodeContext, node: Node) -> list[Lowered]:
    """Packed W, R, B and P, as far as the node has them."""
    isa, kind = ctx.isa, _kind(node)
    reset = bool(node.int_attr("linear_before_reset"))
    packed = []
    for index in (_W, _R):
        pack = lambda a: pack_recurrent_weights(a, kind, isa)  # noqa: E731
        packed.append(ctx.weight(node.required(index), ("recurrent", kind, isa.lanes), pack))
    bias, peepholes = node.input(_B), node.input(_P)
    if bias is not None:
        form = ("recurrent-bias", kind, reset, isa.lanes)
        packed.append(ctx.weight(bias, form, lambda a: pack_recurrent_bias(a, kind, reset, isa)))
    if peepholes is not None:
        packed.append(
            ctx.weight(peepholes, ("peepholes", isa.lanes), lambda a: pack_peepholes(a, isa))
        )
    return packed


def _emit(ctx: NodeContext, node: Node) -> None:
    x = ctx.tensor(node.required(0))
    hidden, features = node.required(_R).shape[2], x.dims[2]
    assert isinstance(hidden, int)
    assert isinstance(features, int)
    layout = 1 if node.int_attr("layout") else 0
    states = [node.input(i) for i in (_LENGTHS, _INITIAL_H, _INITIAL_C)]
    outputs = tuple(i < len(node.outputs) and node.outputs[i] is not None for i in range(3))
    has = [v is not None for v in states]
    options: dict[str, Any] = {
        "kind": node.op,
        "inputs": features,
        "hidden": hidden,
        "direction": node.str_attr("direction", "forward"),
        "bias": node.input(_B) is not None,
        "sequence_lens": has[0],
        "initial_h": has[1],
        "initial_c": has[2],
        "peepholes": node.input(_P) is not None,
        "linear_before_reset": bool(node.int_attr("linear_before_reset")),
        "layout": layout,
        "outputs": outputs,
    }

    def build(shapes: CallShapes) -> Any:
        first, second = shapes.inputs[0][:2]
        length, batch = (first, second) if layout == 0 else (second, first)
        return recurrent(ctx.isa, RecurrentSpec(length=length, batch=batch, **options))

    inputs = [x, *_weights(ctx, node), *(ctx.tensor(v) for v in states if v is not None)]
    types = [v.t for v in node.outputs if v is not None]
    per_step = 2 * _directions(node) * GATES[_kind(node)] * hidden * (features + hidden)
    flops: Dim = product([x.dims[0], x.dims[1], per_step])
    ctx.set(*ctx.call(node.op.lower(), tuple(options.items()), build, inputs, types, flops=flops))


RECURRENT_RULES = tuple(KernelRule(op, _accepts, _emit) for op in GATES)
