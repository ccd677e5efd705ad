"""onnxruntime's contributed operators (domain ``com.microsoft``) as standard ONNX.

They appear in models that onnxruntime's transformer optimizer wrote. The forms follow
onnxruntime's ``docs/ContribOperators.md``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from burnish.errors import ModelError
from burnish.importers.upgrade import CANONICAL_OPSET, upgrade
from burnish.ir.builder import Builder
from burnish.ir.graph import Node, Value
from burnish.ir.types import to_numpy

MICROSOFT = "com.microsoft"
ALWAYS = CANONICAL_OPSET + 1


def replace_node(b: Builder, node: Node, results: Sequence[Value | None]) -> None:
    """Put values in the place of the outputs; an output beyond them must be unused."""
    for index, old in enumerate(node.outputs):
        if old is None:
            continue
        new = results[index] if index < len(results) else None
        if new is not None:
            b.graph.replace_uses(old, new)
        elif old.uses or old.outputs_of:
            raise ModelError(f"output {index} is used, which has no standard form")
    b.graph.remove(node)


def optional_add(b: Builder, x: Value, bias: Value | None) -> Value:
    """The sum, or x where there is none."""
    return x if bias is None else b.op("Add", x, bias)


@upgrade("Gelu", until=ALWAYS, domain=MICROSOFT)
def gelu(b: Builder, node: Node) -> None:
    """The erf form."""
    replace_node(b, node, [b.op("Gelu", node.required(0), name=node.name)])


@upgrade("BiasGelu", until=ALWAYS, domain=MICROSOFT)
def bias_gelu(b: Builder, node: Node) -> None:
    """Gelu(x + bias)."""
    biased = b.op("Add", node.required(0), node.required(1))
    replace_node(b, node, [b.op("Gelu", biased, name=node.name)])


@upgrade("FastGelu", until=ALWAYS, domain=MICROSOFT)
def fast_gelu(b: Builder, node: Node) -> None:
    """The tanh form of Gelu(x + bias)."""
    biased = optional_add(b, node.required(0), node.input(1))
    replace_node(b, node, [b.op("Gelu", biased, name=node.name, approximate="tanh")])


@upgrade("QuickGelu", until=ALWAYS, domain=MICROSOFT)
def quick_gelu(b: Builder, node: Node) -> None:
    """X * Sigmoid(alpha * x)."""
    alpha = node.float_attr("alpha", 1.702)
    replace_node(b, node, [b.op("Swish", node.required(0), name=node.name, alpha=alpha)])


@upgrade("LayerNormalization", until=ALWAYS, domain=MICROSOFT)
def layer_normalization(b: Builder, node: Node) -> None:
    """The form before it became an ONNX operator."""
    node.domain = ""


def _rms(b: Builder, x: Value, scale: Value, node: Node, axis: int) -> Value:
    epsilon = node.float_attr("epsilon", 1e-5)
    return b.op("RMSNormalization", x, scale, name=node.name, axis=axis, epsilon=epsilon)


@upgrade("SimplifiedLayerNormalization", until=ALWAYS, domain="")
@upgrade("SimplifiedLayerNormalization", until=ALWAYS, domain=MICROSOFT)
def simplified_layer_normalization(b: Builder, node: Node) -> None:
    """RMSNormalization; onnxruntime has it in both domains."""
    axis = node.int_attr("axis", -1)
    replace_node(b, node, [_rms(b, node.required(0), node.required(1), node, axis)])


@upgrade("SkipLayerNormalization", until=ALWAYS, domain=MICROSOFT)
def skip_layer_normalization(b: Builder, node: Node) -> None:
    """(input, skip, gamma, beta?, bias?): LayerNormalization of the sum, and the sum."""
    total = b.op("Add", node.required(0), node.required(1))
    total = optional_add(b, total, node.input(4))
    gamma, beta = node.required(2), node.input(3)
    epsilon = node.float_attr("epsilon", 1e-12)
    inputs = [total, gamma] if beta is None else [total, gamma, beta]
    y = b.op("LayerNormalization", *inputs, name=node.name, axis=-1, epsilon=epsilon)
    replace_node(b, node, [y, None, None, total])


@upgrade("SkipSimplifiedLayerNormalization", until=ALWAYS, domain=MICROSOFT)
def skip_simplified_layer_normalization(b: Builder, node: Node) -> None:
    """(input, skip, gamma, bias?): RMSNormalization of the sum, and the sum."""
    total = b.op("Add", node.required(0), node.required(1))
    total = optional_add(b, total, node.input(3))
    node.attrs.setdefault("epsilon", 1e-12)
    y = _rms(b, total, node.required(2), node, -1)
    replace_node(b, node, [y, None, None, total])


@upgrade("FusedMatMul", until=ALWAYS, domain=MICROSOFT)
def fused_matmul(b: Builder, node: Node) -> None:
    """Alpha * A' @ B', with the last two axes of each transposed on demand."""
    if node.int_attr("transBatchA") or node.int_attr("transBatchB"):
        raise ModelError("FusedMatMul with transposed batch axes has no standard form")
    operands = []
    for index, flag in enumerate(("transA", "transB")):
        value = node.required(index)
        if node.int_attr(flag):
            rank = value.t.rank
            if rank is None or rank < 2:
                raise ModelError(f"FusedMatMul with {flag} needs a known rank of 2 or more")
            perm = (*range(rank - 2), rank - 1, rank - 2)
            value = b.op("Transpose", value, perm=perm)
        operands.append(value)
    y = b.op("MatMul", *operands, name=node.name)
    alpha = node.float_attr("alpha", 1.0)
    if alpha != 1:
        y = b.op("Mul", y, b.constant(np.asarray(alpha, to_numpy(y.dtype)), "alpha"))
    replace_node(b, node, [y])


#: Attributes that ``activation_params`` stand for.
_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "Relu": (),
    "Tanh": (),
    "Sigmoid": (),
    "HardSwish": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
}


def _activated(b: Builder, node: Node, y: Value) -> Value:
    kind = node.str_attr("activation")
    raw = node.attrs.get("activation_params", ())
    params = tuple(float(p) for p in raw) if isinstance(raw, tuple) else ()
    if not kind:
        return y
    if kind == "Clip":
        bounds = [b.constant(np.asarray(p, to_numpy(y.dtype)), "bound") for p in params]
        return b.op("Clip", y, *bounds)
    if kind not in _ACTIVATIONS:
        raise ModelError(f"unknown fused activation {kind!r}")
    attrs = dict(zip(_ACTIVATIONS[kind], params, strict=False))
    return b.node(kind, [y], dict(attrs)).output


@upgrade("FusedConv", until=ALWAYS, domain=MICROSOFT)
def fused_conv(b: Builder, node: Node) -> None:
    """activation(Conv(x, w, b) + z)."""
    own = ("activation", "activation_params")
    attrs = {k: v for k, v in node.attrs.items() if k not in own}
    inputs = list(node.inputs[:3])
    y = b.node("Conv", inputs, attrs, name=node.name).output
    y = optional_add(b, y, node.input(3))
    replace_node(b, node, [_activated(b, node, y)])


@upgrade("FusedGemm", until=ALWAYS, domain=MICROSOFT)
def fused_gemm(b: Builder, node: Node) -> None:
    """activation(Gemm(a, b, c))."""
    for old, new in (("activation_alpha", 0), ("activation_beta", 1)):
        if old in node.attrs:
            params = node.attrs.get("activation_params", ())
            assert isinstance(params, tuple)
            assert len(params) == new
            node.attrs["activation_params"] = (*params, node.float_attr(old))
    own = ("activation", "activation_params", "activation_alpha", "activation_beta")
    attrs = {k: v for k, v in node.attrs.items() if not k.startswith(own)}
    y = b.node("Gemm", node.inputs, attrs, name=node.name).output
    replace_node(b, node, [_activated(b, node, y)])


@upgrade("QuantizeLinear", "DequantizeLinear", until=ALWAYS, domain=MICROSOFT)
def quantize(b: Builder, node: Node) -> None:
    """The same operators, with more dtypes than ONNX had then."""
    node.domain = ""
