"""How nodes whose result has sizes that depend on data are rewritten; see :mod:`.dynamic`."""

from __future__ import annotations

from collections.abc import Callable

from burnish.ir import UNKNOWN, Attr, Builder, Node, Value
from burnish.ir.infer.common import elements, length
from burnish.ir.infer.run_time import DOMAIN
from burnish.ir.types import BY_NAME
from burnish.lowering.dynamic import Namer, Rewrite

#: By operator.
RULES: dict[str, Rewrite] = {}


def _rule(*ops: str) -> Callable[[Rewrite], Rewrite]:
    def register(rewrite: Rewrite) -> Rewrite:
        for op in ops:
            if op in RULES:
                raise ValueError(f"two rewrites of {op}")
            RULES[op] = rewrite
        return rewrite

    return register


# --- helpers -------------------------------------------------------------------------------------


def _unknown(value: Value | None) -> bool:
    """Whether an operand is there whose elements are known at run time only."""
    if value is None or value.is_const:
        return False
    found = elements(value)
    return found is None or any(d is UNKNOWN for d in found)


def _has_unknown_output(node: Node) -> bool:
    shapes = [v.t.shape for v in node.outputs if v is not None]
    return any(s is not None and any(d is UNKNOWN for d in s) for s in shapes)


def _short(value: Value | None) -> bool:
    """Whether an operand is absent, a scalar, or a list of known length."""
    return value is None or value.t.rank == 0 or length(value) is not None


def _int64(b: Builder, value: Value) -> Value:
    return value if value.dtype == "int64" else b.op("Cast", value, to=BY_NAME["int64"].onnx)


def _run_time(b: Builder, op: str, *inputs: Value | None, **attrs: Attr) -> Value:
    return b.node(op, inputs, attrs, domain=DOMAIN).output


def _shape(b: Builder, x: Value) -> Value:
    """The sizes of a tensor as an operand whose elements have names."""
    return b.op("Shape", x)


def _as_before(b: Builder, node: Node, inputs: list[Value | None]) -> list[Value | None]:
    """The node with other operands."""
    made = b.node(node.op, inputs, dict(node.attrs), outputs=len(node.outputs), domain=node.domain)
    asked = zip(made.outputs, node.outputs, strict=True)
    made.outputs = [new if old is not None else None for new, old in asked]
    return list(made.outputs)


# --- operands whose elements are sizes -----------------------------------------------------------

_SIZE_OPERANDS = {
    "AffineGrid": (1,),
    "CenterCropPad": (1,),
    "Col2Im": (1, 2),
    "ConstantOfShape": (0,),
    "DFT": (1,),
    "Expand": (1,),
    "MaxUnpool": (2,),
    "MelWeightMatrix": (0, 1),
    "OneHot": (1,),
    "STFT": (1, 3),
    "Split": (1,),
    "Tile": (1,),
    "TopK": (1,),
    "HannWindow": (0,),
    "HammingWindow": (0,),
    "BlackmanWindow": (0,),
}


@_rule(*_SIZE_OPERANDS)
def _bind_operands(namer: Namer, b: Builder, node: Node) -> list[Value | None] | None:
    """Read the sizes; the operator stays."""
    wanted = [i for i in _SIZE_OPERANDS[node.op] if _unknown(node.input(i))]
    if not wanted or not all(_short(node.input(i)) for i in wanted):
        return None
    inputs = list(node.inputs)
    for index in wanted:
        inputs[index] = namer.bind(b, _int64(b, node.required(index)), node.op)
    return _as_before(b, node, inputs)


# --- shapes that follow from operands ------------------------------------------------------------


@_rule("Reshape")
def _reshape(namer: Namer, b: Builder, node: Node) -> list[Value | None] | None:
    x, shape = node.required(0), node.required(1)
    if not _has_unknown_output(node) or not _short(shape) or x.t.rank is None:
        return None
    sizes = _run_time(b, "ReshapeSizes", _shape(b, x), shape, allowzero=node.int_attr("allowzero"))
    return [b.op("Reshape", x, namer.bind(b, sizes, "reshape"), allowzero=1)]


@_rule("Squeeze", "Unsqueeze")
def _squeeze(namer: Namer, b: Builder, node: Node) -> list[Value | None] | None:
    x, axes = node.required(0), node.input(1)
    if axes is None or not _unknown(axes) or not _short(axes) or x.t.rank is None:
        return None
    sizes = namer.bind(b, _run_time(b, f"{node.op}Sizes", _shape(b, x), axes), node.op)
    return [b.op("Reshape", x, sizes, allowzero=1)]


@_rule("Slice")
def _slice(namer: Namer, b: Builder, node: Node) -> list[Value | None] | None:
    x = node.required(0)
    bounds = [_int64(b, v) if v is not None else None for v in node.inputs[1:]]
    late = any(_unknown(v) for v in node.inputs[3:])
    if not (late or _has_unknown_output(node)) or not all(map(_short, node.inputs[1:])):
        return None
    if x.t.rank is None:
        return None
    made = b.node("SliceBounds", [_shape(b, x), *bounds], outputs=3, domain=DOMAIN)
    starts, steps, sizes = made.outputs
    assert sizes is not None
    return [_run_time(b, "Slice", x, starts, steps, namer.bind(b, sizes, "slice"))]


@_rule("Pad")
def _pad(namer: Namer, b: Builder, node: Node) -> list[Value | None] | None:
    x, pads, axes = node.required(0), node.required(1), node.input(3)
    late = _unknown(axes)
    if not (late or _has_unknown_output(node)) or x.t.rank is None:
        return None
    if not _short(pads) or not _short(axes):
        return None
    mode = node.str_attr("mode", "constant")
    made = b.node("PadBounds", [_shape(b, x), pads, axes], {"mode": mode}, outputs=2, domain=DOMAIN)
    full, sizes = made.outputs
    assert sizes is not None
    size = namer.bind(b, sizes, "pad")
    return [_run_time(b, "Pad", x, full, node.input(2), None, size, mode=mode)]


@_rule("Range")
def _range(namer: Namer, b: Builder, node: Node) -> list[Value | None] | None:
    if not _has_unknown_output(node):
        return None
    operands = [node.required(i) for i in range(3)]
    size = namer.bind(b, _run_time(b, "RangeSize", *operands), "range")
    return [_run_time(b, "Range", *operands, size)]


@_rule("Resize")
def _resize(namer: Namer, b: Builder, node: Node) -> list[Value | None] | None:
    x = node.required(0)
    if not _has_unknown_output(node) or x.t.rank is None:
        return None
    operands = [node.input(i) for i in (1, 2, 3)]
    if not all(map(_short, operands)):
        return None
    attrs = dict(node.attrs)
    sizes = b.node("ResizeSizes", [_shape(b, x), *operands], attrs, domain=DOMAIN).output
    size = namer.bind(b, sizes, "resize")
    inputs = [x, *operands, size]
    if node.int_attr("antialias") and node.str_attr("mode", "nearest") != "nearest":
        names = ("axes", "keep_aspect_ratio_policy", "mode")
        how = {name: attrs[name] for name in names if name in attrs}
        taps = b.node("ResizeTaps", [_shape(b, x), *operands[1:]], how, domain=DOMAIN).output
        inputs.append(namer.bind(b, taps, "taps"))
    return [b.node("Resize", inputs, attrs, domain=DOMAIN).output]


# --- axes that are known at run time only --------------------------------------------------------

_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare"),
)


@_rule(*_REDUCTIONS)
def _reduce(namer: Namer, b: Builder, node: Node) -> list[Value | None] | None:
    """A reduction of the odd axes of a view that has the listed axes there."""
    x, axes = node.required(0), node.input(1)
    if axes is None or not _unknown(axes) or x.t.rank is None:
        return None
    count = length(axes)
    if count is None:
        return None
    if count == 0:
        return _as_before(b, node, [x, b.ints([])])
    sizes = _run_time(b, "AxisSizes", _shape(b, x), axes)
    view = b.op("Reshape", x, namer.bind(b, sizes, "axis"), allowzero=1)
    odd = b.ints([2 * i + 1 for i in range(x.t.rank)], "axes")
    kept = b.op(node.op, view, odd, keepdims=0)
    if node.int_attr("keepdims", 1):
        return [kept]
    final = namer.bind(b, _run_time(b, "KeptSizes", _shape(b, x), axes), "kept")
    return [b.op("Reshape", kept, final, allowzero=1)]


@_rule("CumSum", "CumProd")
def _cumulate(namer: Namer, b: Builder, node: Node) -> list[Value | None] | None:
    """The middle axis of a view with three."""
    x, axis = node.required(0), node.required(1)
    if not _unknown(axis) or x.t.rank is None:
        return None
    sizes = namer.bind(b, _run_time(b, "AroundSizes", _shape(b, x), axis), "around")
    view = b.op("Reshape", x, sizes, allowzero=1)
    made = b.node(node.op, [view, b.ints(1, "axis")], dict(node.attrs)).output
    return [b.op("Reshape", made, _shape(b, x), allowzero=1)]


# --- as many as there are ------------------------------------------------------------------------


@_rule("NonZero")
def _non_zero(namer: Namer, b: Builder, node: Node) -> list[Value | None] | None:
    x = node.required(0)
    if x.t.rank is None:
        return None
    count = namer.bind(b, _run_time(b, "CountNonZero", x), "nonzero")
    return [_run_time(b, "NonZero", x, count)]


@_rule("Compress")
def _compress(namer: Namer, b: Builder, node: Node) -> list[Value | None] | None:
    """The slices at the places where the condition holds."""
    x, condition = node.required(0), node.required(1)
    if x.t.rank is None:
        return None
    where = b.op("Squeeze", b.op("NonZero", condition), b.ints([0], "axes"))
    if "axis" not in node.attrs:
        x = b.op("Reshape", x, b.ints([-1], "shape"))
    return [b.op("Gather", x, where, axis=node.int_attr("axis", 0))]


@_rule("Unique")
def _unique(namer: Namer, b: Builder, node: Node) -> list[Value | None] | None:
    x = node.required(0)
    if x.t.rank is None:
        return None
    attrs = dict(node.attrs)
    ranks, number, *_ = b.node("UniqueRanks", [x], attrs, outputs=4, domain=DOMAIN).outputs
    assert number is not None
    attrs.pop("sorted", None)
    count = namer.bind(b, number, "unique")
    return b.node("Unique", [x, ranks, count], attrs, outputs=4, domain=DOMAIN).outputs


@_rule("NonMaxSuppression")
def _non_max_suppression(namer: Namer, b: Builder, node: Node) -> list[Value | None] | None:
    if node.required(0).t.rank != 3 or node.required(1).t.rank != 3:
        return None
    made = b.node("SelectBoxes", node.inputs, dict(node.attrs), outputs=3, domain=DOMAIN)
    rows, number, _ = made.outputs
    assert number is not None
    count = namer.bind(b, number, "selected")
    return [b.op("Slice", rows, b.ints([0]), count, b.ints([0], "axes"))]
