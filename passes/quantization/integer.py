"""Products between DequantizeLinear and QuantizeLinear become integer composites.

::

    Conv(dequantize(x), dequantize(w), b)  =  burnish::QConv(x, w, ..., b; Add:channel)
    quantize(burnish::QConv(...))          =  burnish::QConv(...; y_dtype)
    quantize(burnish::AddLayerNorm(...))   =  burnish::QAddLayerNorm(...; y_dtype)
    quantize(move(burnish::QConv(...)))    =  move(burnish::QConv(...; y_dtype))
    move(dequantize(x))                    =  dequantize(move(x))
    quantize(dequantize(x))                =  x, if both have the same parameters
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from burnish.ir import Attr, Builder, Node, PostOp, Value, parse_postops
from burnish.ir.definitions.convolution import channels_first_format
from burnish.ir.definitions.quantized import AVERAGES, CORE
from burnish.ir.postops import operands
from burnish.passes.base import Numerics
from burnish.passes.fusion.conv_norm import spatial_attrs
from burnish.passes.patterns import NoMatch, Tracer
from burnish.passes.patterns import scalar as scalar_of
from burnish.passes.quantization.dynamic_products import MakeDynamicQMatMul
from burnish.passes.quantization.parameters import Parameters, centered
from burnish.passes.quantization.plan import MOVES
from burnish.passes.rewrite import Replacement, RewritePass, Rule

_TYPES = ("uint8", "int8")
_PRODUCTS = ("burnish::QConv", "burnish::QMatMul")
#: What may store 8 bits.
_STORING = (*_PRODUCTS, *AVERAGES, "burnish::QAttention")
#: Movements of one tensor that rounding may come before: they neither choose nor repeat elements.
_PERMUTING = (
    "DepthToSpace",
    "Flatten",
    "Reshape",
    "Squeeze",
    "SpaceToDepth",
    "Transpose",
    "Unsqueeze",
)


def parameters(node: Node) -> Parameters | NoMatch:
    """Scale and zero point of a QuantizeLinear or DequantizeLinear with one of each, constant."""
    scale, zero = node.required(1), node.input(2)
    if not scale.is_const or scale.array.size != 1 or not (zero is None or zero.is_const):
        return NoMatch("it has more than one scale, or one that is not constant", node)
    coded = node.required(0) if node.op == "DequantizeLinear" else node.output
    if coded.dtype not in _TYPES:
        return NoMatch(f"the type is {coded.dtype}", node)
    if scale.dtype != "float32":
        return NoMatch(f"the scale is {scale.dtype}", node)
    number = 0 if zero is None else int(zero.array.reshape(()))
    return Parameters(float(scale.array.reshape(())), number, coded.dtype)


def dequantizer(value: Value) -> tuple[Node, Parameters] | NoMatch:
    """The DequantizeLinear that makes a value of 8 bits that are computed."""
    node = value.producer
    if node is None or node.key != "DequantizeLinear" or node.required(0).is_const:
        return NoMatch("it is not dequantized", value)
    found = parameters(node)
    return found if isinstance(found, NoMatch) else (node, found)


def weights_of(value: Value, axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]] | NoMatch:
    """Constant weights in int8 around zero, and their scale: a scalar or one for each channel.

    Args:
        value: What a product reads.
        axis: The axis of output channels.
    """
    node = value.producer
    if node is None or node.key != "DequantizeLinear":
        return NoMatch("the weights are not dequantized", value)
    coded, scale, zero = node.required(0), node.required(1), node.input(2)
    if not (coded.is_const and scale.is_const and (zero is None or zero.is_const)):
        return NoMatch("the weights are not constant", node)
    if coded.dtype not in _TYPES or scale.dtype != "float32" or node.int_attr("block_size"):
        return NoMatch("the weights are not 8 bits with float32 scales", node)
    factors = scale.array
    if factors.size == 1:
        factors = factors.reshape(())
    elif factors.ndim != 1 or node.int_attr("axis", 1) % coded.array.ndim != axis:
        return NoMatch("the weights' scales do not lie along the output channels", node)
    values = centered(coded.array, None if zero is None else zero.array, axis)
    if values is None:
        return NoMatch("the weights lie on one side of zero: they need 9 bits around it", node)
    return values, factors


def core_inputs(
    b: Builder, x: Node, at: Parameters, w: NDArray[Any], scale: NDArray[Any]
) -> list[Value]:
    """The inputs of a quantized product before those of post-ops."""
    zero = np.asarray(at.zero, np.dtype(at.dtype))
    return [
        x.required(0),
        b.constant(w, "weights"),
        b.constant(np.asarray(at.scale, np.float32), "x_scale"),
        b.constant(zero, "x_zero_point"),
        b.constant(scale, "w_scale"),
    ]


def _constant(value: Value | None) -> NDArray[Any] | None:
    """A constant, which may be dequantized (a bias in int32)."""
    if value is None or value.is_const:
        return None if value is None else value.array
    node = value.producer
    if node is None or node.key != "DequantizeLinear":
        return None
    coded, scale, zero = node.required(0), node.required(1), node.input(2)
    if not (coded.is_const and scale.is_const and (zero is None or zero.is_const)):
        return None
    shift = 0 if zero is None else zero.array.astype(np.int64)
    made: NDArray[Any] = (coded.array.astype(np.int64) - shift).astype(np.float32) * scale.array
    return made


def known_bias(node: Node) -> NDArray[np.float32] | NoMatch | None:
    """The bias of a convolution, [channels]; None if it has none."""
    bias = _constant(node.input(2))
    if node.input(2) is not None and (bias is None or bias.ndim != 1):
        return NoMatch("the bias is not constant", node)
    return None if bias is None else bias.astype(np.float32)


def image_rank(node: Node) -> int | NoMatch:
    """The rank of an image that integer kernels take: one or two axes, known padding."""
    rank = node.required(0).t.rank
    if rank not in (3, 4):
        return NoMatch("it has not 1 or 2 spatial axes", node)
    if node.str_attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return NoMatch("the padding depends on the input size", node)
    return rank


class MakeQConv(Rule):
    """Conv of dequantized data and weights => burnish::QConv."""

    name = "make-qconv"
    numerics = Numerics.REASSOCIATES
    anchors = ("Conv",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Take the stored tensors."""
        data = dequantizer(node.required(0))
        if isinstance(data, NoMatch):
            return data
        weights = weights_of(node.required(1), 0)
        if isinstance(weights, NoMatch):
            return weights
        rank = image_rank(node)
        if isinstance(rank, NoMatch):
            return rank
        bias = known_bias(node)
        if isinstance(bias, NoMatch):
            return bias
        inputs = core_inputs(b, *data, *weights)
        attrs: dict[str, Attr] = {"data_format": channels_first_format(rank), "y_dtype": "float32"}
        attrs |= spatial_attrs(node, rank)
        attrs["postops"] = () if bias is None else ("Add:channel",)
        if bias is not None:
            inputs.append(b.constant(bias, "bias"))
        made = b.node("QConv", inputs, attrs, domain="burnish")
        return Replacement({node.output: made.output}, (node,))


class MakeQMatMul(Rule):
    """MatMul or Gemm of dequantized data and a dequantized constant matrix => burnish::QMatMul."""

    name = "make-qmatmul"
    numerics = Numerics.REASSOCIATES
    anchors = ("MatMul", "Gemm")

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Take the stored tensors; Gemm's C becomes a post-op."""
        data = dequantizer(node.required(0))
        if isinstance(data, NoMatch):
            return data
        w = node.required(1)
        if w.t.rank != 2 or node.required(0).t.rank in (None, 1):
            return NoMatch("the weights are not a matrix", w)
        turned = bool(node.int_attr("transB"))
        weights = weights_of(w, 0 if turned else 1)
        if isinstance(weights, NoMatch):
            return weights
        if node.int_attr("transA"):
            return NoMatch("the left operand is transposed", node)
        values, scale = weights
        scale = (scale * np.float32(node.float_attr("alpha", 1.0))).astype(np.float32)
        inputs = core_inputs(b, *data, np.ascontiguousarray(values.T) if turned else values, scale)
        attrs: dict[str, Attr] = {"postops": (), "y_dtype": "float32"}
        y = b.node("QMatMul", inputs, attrs, domain="burnish").output
        addend, beta = node.input(2), node.float_attr("beta", 1.0)
        if addend is not None and beta != 0.0:
            bias = _constant(addend)
            if bias is None and beta != 1.0:
                return NoMatch("C is scaled and not constant", node)
            if bias is not None:
                addend = b.constant((bias * np.float32(beta)).astype(np.float32), "bias")
            y = b.op("Add", y, addend)
        return Replacement({node.output: y}, (node,))


class SinkDequantize(Rule):
    """move(dequantize(x)) => dequantize(move(x)); Concat if all of its inputs agree, Split."""

    name = "sink-dequantize"
    anchors = tuple(MOVES)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Move what is stored."""
        results = [v for v in node.outputs if v is not None]
        if node.domain or (len(results) != 1 and node.op != "Split"):
            return NoMatch("it has several results", node)
        indices = MOVES[node.op] or tuple(range(len(node.inputs)))
        found = [dequantizer(node.required(i)) for i in indices]
        sources: list[Node] = []
        for item in found:
            if isinstance(item, NoMatch):
                return item
            if item[1] != found[0][1]:  # type: ignore[index]
                return NoMatch("the inputs have different parameters", node)
            sources.append(item[0])
        inputs = list(node.inputs)
        for index, source in zip(indices, sources, strict=True):
            inputs[index] = source.required(0)
        first = found[0]
        assert not isinstance(first, NoMatch)
        if node.op == "Pad" and node.str_attr("mode", "constant") == "constant":
            if node.input(2) is not None and scalar_of(node.input(2)) != 0.0:
                return NoMatch("the padding is not zeros", node)
            zero = b.constant(np.asarray(first[1].zero, np.dtype(first[1].dtype)), "zero_point")
            inputs = [*inputs[:2], zero, *inputs[3:]]
        moved = b.node(node.op, inputs, node.attrs, outputs=len(node.outputs))
        values = {
            old: b.op("DequantizeLinear", new, *sources[0].inputs[1:])
            for old, new in zip(node.outputs, moved.outputs, strict=True)
            if old is not None
        }
        return Replacement(values, (node,))


class CancelQuantize(Rule):
    """quantize(dequantize(x)) => x, if both have the same parameters."""

    name = "cancel-quantize"
    anchors = ("QuantizeLinear",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Every number that 8 bits represent is rounded to itself."""
        source = dequantizer(node.required(0))
        if isinstance(source, NoMatch):
            return source
        if parameters(node) != source[1]:
            return NoMatch("the parameters differ", node)
        return Replacement({node.output: source[0].required(0)}, (node,))


class AbsorbQuantize(Rule):
    """quantize(product) => a product that stores 8 bits."""

    name = "absorb-quantize"
    anchors = ("QuantizeLinear",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """The product stores what the QuantizeLinear makes."""
        product = node.required(0).producer
        if product is None or product.key not in _STORING or product.graph is not node.graph:
            return NoMatch("what is quantized is no quantized product", node)
        if product.str_attr("y_dtype") != "float32":
            return NoMatch("it stores 8 bits already", product)
        found = parameters(node)
        if isinstance(found, NoMatch):
            return found
        if product.output.single_user() is None:
            return NoMatch("the result is used elsewhere", product)
        made = b.node(product.op, product.inputs, _storing(product, found), domain="burnish")
        return Replacement({node.output: made.output}, (product, node))


def _storing(node: Node, at: Parameters) -> dict[str, Attr]:
    """The attributes of a composite that stores its result in 8 bits."""
    stored: dict[str, Attr] = {"y_dtype": at.dtype, "y_scale": at.scale, "y_zero_point": at.zero}
    return {**node.attrs, **stored}


class QuantizeNorm(Rule):
    """quantize(AddLayerNorm(...)) => a normalization that stores 8 bits, beside float32 if used."""

    name = "quantize-norm"
    anchors = ("QuantizeLinear",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """The normalization stores what the QuantizeLinear makes."""
        norm = node.required(0).producer
        if norm is None or norm.key != "burnish::AddLayerNorm" or norm.graph is not node.graph:
            return NoMatch("what is quantized is no normalized sum", node)
        if norm.output.dtype != "float32":
            return NoMatch(f"it is computed in {norm.output.dtype}", norm)
        found = parameters(node)
        if isinstance(found, NoMatch):
            return found
        attrs = _storing(norm, found)
        old = [node.output, *norm.outputs]
        made = b.node("QAddLayerNorm", norm.inputs, attrs, domain="burnish", outputs=len(old))
        pairs = zip(old, made.outputs, strict=True)
        values = {v: new for v, new in pairs if v is not None and new is not None}
        return Replacement(values, (norm, node))


class RaiseQuantize(Rule):
    """quantize(move(product)) => move(quantize(product)), if elements only change their places."""

    name = "raise-quantize"
    anchors = ("QuantizeLinear",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Round right behind the product, which stores 8 bits then."""
        move = node.required(0).producer
        if move is None or move.domain or move.op not in _PERMUTING:
            return NoMatch("what is quantized is not moved before", node)
        product = move.required(0).producer
        if product is None or product.key not in _STORING or product.graph is not node.graph:
            return NoMatch("what is moved is no quantized product", move)
        if product.str_attr("y_dtype") != "float32":
            return NoMatch("it stores 8 bits already", product)
        if product.output.single_user() is None or move.output.single_user() is None:
            return NoMatch("the result is used elsewhere", product)
        found = parameters(node)
        if isinstance(found, NoMatch):
            return found
        codes = b.node("QuantizeLinear", [product.output, *node.inputs[1:]], node.attrs).output
        moved = b.node(move.op, [codes, *move.inputs[1:]], move.attrs).output
        return Replacement({node.output: moved}, (move, node))


class AbsorbDequantize(Rule):
    """A full operand of a product's post-op that is dequantized => a quantized operand."""

    name = "absorb-dequantize"
    anchors = _PRODUCTS

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Read the residual as it is stored."""
        posts, rest = list(parse_postops(node.strs_attr("postops"))), list(node.inputs[CORE:])
        places = [i for i, p in enumerate(posts) if p.operand]
        for place, index in zip(places, range(len(operands(posts))), strict=True):
            value = rest[index]
            if posts[place].operand != "full" or value is None or value.is_const:
                continue
            found = dequantizer(value)
            if isinstance(found, NoMatch):
                continue
            source, at = found
            posts[place] = PostOp(posts[place].op, "quantized", (at.scale, float(at.zero)))
            rest[index] = source.required(0)
            attrs: dict[str, Attr] = {**node.attrs, "postops": tuple(p.encode() for p in posts)}
            made = b.node(node.op, [*node.inputs[:CORE], *rest], attrs, domain="burnish")
            return Replacement({node.output: made.output}, (node,))
        return NoMatch("no operand is dequantized", node)


@dataclass(frozen=True)
class IntegerProducts(RewritePass):
    """Let products of quantized tensors compute in integers.

    Before: DequantizeLinear -> Conv or MatMul with dequantized weights, pools and reshapes between;
        DynamicQuantizeLinear -> MatMulInteger -> Cast -> Mul.
    After: burnish::QConv and burnish::QMatMul on what is stored; pools and reshapes of 8 bits.
    Keeps: products with several scales of the data, weights that need 9 bits around zero, or
        scales that do not lie along the output channels.
    Numerics: reassociates (sums are exact int32, scaled once).
    """

    name = "integer-products"
    numerics = Numerics.REASSOCIATES
    rules: ClassVar[tuple[Rule, ...]] = (
        SinkDequantize(),
        CancelQuantize(),
        MakeQConv(),
        MakeQMatMul(),
        MakeDynamicQMatMul(),
    )


@dataclass(frozen=True)
class IntegerResults(RewritePass):
    """Let quantized products read residuals and store results in 8 bits.

    Before: burnish::QConv (float32) -> QuantizeLinear, or views and transposes in between.
    After: burnish::QConv that stores 8 bits; residuals are read as they are stored.
        burnish::QAddLayerNorm, which also stores float32 where it is used.
    Keeps: other results that are used in float32 as well.
    Numerics: reassociates.
    """

    name = "integer-results"
    numerics = Numerics.REASSOCIATES
    rules: ClassVar[tuple[Rule, ...]] = (
        AbsorbDequantize(),
        RaiseQuantize(),
        AbsorbQuantize(),
        QuantizeNorm(),
        SinkDequantize(),
        CancelQuantize(),
    )
