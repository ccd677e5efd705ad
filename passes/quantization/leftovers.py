"""Products of quantized tensors that stay in floating point, each with its reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from burnish.ir import Graph, Node, Value
from burnish.passes.base import Pass, PassContext
from burnish.passes.patterns import NoMatch
from burnish.passes.quantization.imported import ExpandQLinearConv, ExpandQLinearMatMul
from burnish.passes.quantization.integer import MakeQConv, MakeQMatMul, dequantizer
from burnish.passes.quantization.plan import MOVES
from burnish.passes.quantization.sums import MakeSumsOfConv, MakeSumsOfProduct
from burnish.passes.quantization.transposed import MakeQConvTranspose
from burnish.passes.rewrite import Rule, apply_rule

#: What would have taken each product, or why nothing does.
_RULES: dict[str, Rule] = {
    "Conv": MakeQConv(),
    "ConvTranspose": MakeQConvTranspose(),
    "Gemm": MakeQMatMul(),
    "MatMul": MakeQMatMul(),
    "QLinearConv": ExpandQLinearConv(),
    "QLinearMatMul": ExpandQLinearMatMul(),
    "ConvInteger": MakeSumsOfConv(),
    "MatMulInteger": MakeSumsOfProduct(),
}
#: Their weights in 8 bits are read as float32.
_RECURRENT = ("GRU", "LSTM", "RNN")
#: Products of two activations, which are made later than others.
_LATE = ("MatMul", "burnish::BatchMatMul", "burnish::Attention")
_BETWEEN_ACTIVATIONS = "an operand is not quantized, or there are different numbers of matrices"
_ATTENTION = "its scores, its weights or its values are not quantized"


@dataclass(frozen=True)
class QuantizedLeftovers(Pass):
    """Say which products of quantized tensors compute in floating point, and why.

    Before: DequantizeLinear -> Conv, of a form that integer products do not take.
    After: the same; the report and the manifest have the reason.
    Keeps: everything.
    Numerics: exact.

    Attributes:
        late: Whether it looks at products of two activations, after attention was fused, and not
            at all others, before constant weights are folded.
    """

    name = "quantized-leftovers"
    late: bool = False

    def run(self, graph: Graph, ctx: PassContext) -> bool:
        """Ask the rules."""
        found: Counter[tuple[str, str]] = Counter()
        for node in list(graph.walk()):
            reason = _between_activations(node) if self.late else _reason(node)
            if reason:
                found[node.op, reason] += 1
                ctx.keep(node, reason)
        for (op, reason), count in found.most_common():
            ctx.note(f"{count} x {op} of quantized tensors in floating point: {reason}")
        return False


def _reason(node: Node) -> str:
    """Why a product with constant weights is no integer one; empty if it is none of these."""
    if node.key == "burnish::MatMulNBits" and _restored(node.required(0)):
        # Its weights are read as they are stored, but what they are multiplied with is float32.
        found = dequantizer(node.required(0))
        return found.reason if isinstance(found, NoMatch) else ""
    if node.key in _RECURRENT:
        read = [part for index in range(3) for part in _parts(node.required(index))]
        return "recurrent operators have no integer kernel" if any(map(_restored, read)) else ""
    rule = _RULES.get(node.key)
    if rule is None:
        return ""
    if node.key in ("Conv", "ConvTranspose", "Gemm", "MatMul"):
        data, weights = node.required(0), node.required(1)
        if not (_restored(data) or _restored(weights)):
            return ""
        if not (_constant(weights) or _constant(data)):
            return ""
        if not _restored(data):
            return "its activation is not quantized"
    refused = apply_rule(rule, node)
    return refused.reason if isinstance(refused, NoMatch) else ""


def _between_activations(node: Node) -> str:
    if node.key not in _LATE:
        return ""
    restored = [v for v in node.inputs[:3] if v is not None and _restored(v)]
    for value in restored:
        found = dequantizer(value)
        direct = value.producer is not None and value.producer.key == "DequantizeLinear"
        if direct and isinstance(found, NoMatch):
            return found.reason
    if not restored:
        return ""
    return _ATTENTION if node.op == "Attention" else _BETWEEN_ACTIVATIONS


def _restored(value: Value) -> bool:
    """Whether a value is dequantized, perhaps moved after that."""
    node = value.producer
    while node is not None and not node.domain and node.op in MOVES and node.op != "Concat":
        node = node.required(0).producer
    return node is not None and node.key == "DequantizeLinear"


def _parts(value: Value) -> list[Value]:
    """What a value is concatenated from: the weights of two directions are."""
    node = value.producer
    if node is None or node.key != "Concat":
        return [value]
    return [part for part in node.inputs if part is not None]


def _constant(value: Value) -> bool:
    """Whether a value is a constant, or one that is dequantized."""
    node = value.producer
    return value.is_const or (
        node is not None and node.key == "DequantizeLinear" and node.required(0).is_const
    )
