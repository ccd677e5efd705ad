"""The table of older forms of ONNX's own operators."""

from __future__ import annotations

import numpy as np

from burnish.errors import ModelError, ShapeError
from burnish.importers.upgrade import CANONICAL_OPSET, upgrade
from burnish.ir import dims
from burnish.ir.builder import Builder
from burnish.ir.graph import Attr, Node, Value
from burnish.ir.infer import elements
from burnish.ir.types import to_numpy

#: For rows that check a form of every version.
ALWAYS = CANONICAL_OPSET + 1


def attribute_to_input(b: Builder, node: Node, name: str, index: int) -> None:
    """Turn a list-of-integers attribute into constant input ``index``."""
    value = node.attrs.pop(name, None)
    if value is not None:
        set_input(node, index, b.ints(_ints(value), name))


def set_input(node: Node, index: int, value: Value | None) -> None:
    """Set an input that may lie beyond those that a node has."""
    inputs = list(node.inputs)
    inputs += [None] * (index + 1 - len(inputs))
    inputs[index] = value
    node.set_inputs(inputs)


def _ints(value: Attr) -> list[int]:
    if not isinstance(value, tuple):
        raise ModelError("a list of integers is expected")
    return [int(v) for v in value]


def _scalar_like(b: Builder, node: Node, value: float, name: str) -> Value:
    """A scalar constant with the dtype of the first input."""
    type = node.required(0).type
    return b.constant(np.asarray(value, to_numpy(type.dtype if type else "float32")), name)


@upgrade("Squeeze", "Unsqueeze", "ReduceSum", until=13)
@upgrade("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", until=18)
@upgrade("ReduceMean", "ReduceMin", "ReduceProd", "ReduceSumSquare", until=18)
def axes_as_input(b: Builder, node: Node) -> None:
    """``axes`` was an attribute."""
    attribute_to_input(b, node, "axes", 1)


@upgrade("Slice", until=10)
def slice_9(b: Builder, node: Node) -> None:
    """All parameters were attributes."""
    for index, name in enumerate(("starts", "ends", "axes"), start=1):
        attribute_to_input(b, node, name, index)


@upgrade("Split", until=13)
def split_12(b: Builder, node: Node) -> None:
    """``split`` was an attribute."""
    attribute_to_input(b, node, "split", 1)


@upgrade("Split", until=18)
def split_17(b: Builder, node: Node) -> None:
    """Equal parts need ``num_outputs`` since 18, and had to be equal before."""
    if node.input(1) is not None:
        return
    node.set_inputs(node.inputs[:1])
    node.attrs["num_outputs"] = len(node.outputs)
    source = node.required(0).type
    if source is not None and source.shape is not None:
        size = source.shape[node.int_attr("axis", 0)]
        if isinstance(size, int) and size % len(node.outputs):
            raise ShapeError(f"size {size} cannot be split into {len(node.outputs)} equal parts")


@upgrade("TopK", until=10)
def top_k_9(b: Builder, node: Node) -> None:
    """``k`` was an attribute."""
    set_input(node, 1, b.ints([node.int_attr("k")], "k"))
    node.attrs.pop("k", None)


@upgrade("Clip", until=11)
def clip_10(b: Builder, node: Node) -> None:
    """Bounds were attributes."""
    for index, name in ((1, "min"), (2, "max")):
        if name in node.attrs:
            bound = _scalar_like(b, node, node.float_attr(name), name)
            set_input(node, index, bound)
            del node.attrs[name]


@upgrade("Pad", until=11)
def pad_10(b: Builder, node: Node) -> None:
    """Pads and value were attributes."""
    value = node.float_attr("value")
    node.attrs.pop("value", None)
    attribute_to_input(b, node, "pads", 1)
    if node.str_attr("mode", "constant") == "constant" and value:
        set_input(node, 2, _scalar_like(b, node, value, "pad_value"))


@upgrade("Dropout", until=12)
def dropout_11(b: Builder, node: Node) -> None:
    """The ratio was an attribute; without training it has no effect."""
    node.attrs.pop("ratio", None)


@upgrade("Dropout", until=ALWAYS)
def dropout(b: Builder, node: Node) -> None:
    """Inference only."""
    mode = node.input(2)
    if mode is not None and (not mode.is_const or bool(mode.array)):
        raise ModelError("Dropout in training mode", hint="export the model for inference")
    node.set_inputs(node.inputs[:1])
    node.attrs.pop("seed", None)


@upgrade("BatchNormalization", until=9)
def batch_normalization_8(b: Builder, node: Node) -> None:
    """``spatial`` = 0 normalised every position by its own statistics."""
    if node.int_attr("spatial", 1) != 1:
        raise ModelError("BatchNormalization with spatial=0 is not supported")
    node.attrs.pop("spatial", None)


@upgrade("BatchNormalization", until=ALWAYS)
def batch_normalization(b: Builder, node: Node) -> None:
    """Inference only: one output."""
    if node.int_attr("training_mode"):
        raise ModelError(
            "BatchNormalization in training mode", hint="export the model for inference"
        )
    for value in node.outputs[1:]:
        if value is not None and (value.uses or value.outputs_of):
            raise ModelError("BatchNormalization whose statistics are used")
    node.outputs = node.outputs[:1]
    node.attrs.pop("training_mode", None)
    node.attrs.pop("momentum", None)


@upgrade("Softmax", "LogSoftmax", "Hardmax", until=13)
def softmax_12(b: Builder, node: Node) -> list[Node]:
    """The input was coerced to two dims around ``axis``, 1 by default."""
    x = node.required(0)
    axis = node.int_attr("axis", 1)
    rank = x.type.rank if x.type is not None else None
    if rank is not None:
        if not -rank <= axis <= rank:
            raise ShapeError(f"axis {axis} is out of range for rank {rank}")
        axis = axis + rank if axis < 0 else axis
        shape = x.t.dims
        # One axis of the coerced block is more than 1 wide: normalising over it is the same.
        wide = [i for i in range(axis, rank) if shape[i] != 1]
        if axis < rank and len(wide) <= 1:
            node.attrs["axis"] = wide[0] if wide else axis
            return []
    node.attrs["axis"] = -1
    node.set_inputs([b.op("Flatten", x, axis=axis), *node.inputs[1:]])
    result = node.output
    flat = b.graph.value(f"{result.name}_flat")
    node.outputs[0], flat.producer = flat, node
    back = Node("Reshape", [flat, b.op("Shape", x)], [result], location=node.location)
    return [b.graph.append(back)]


@upgrade("Scatter", until=11)
def scatter(b: Builder, node: Node) -> None:
    """Renamed."""
    node.op = "ScatterElements"


@upgrade("Upsample", until=10)
def upsample(b: Builder, node: Node) -> None:
    """Upsample 7 (scales as attribute) and 9 (as input) became Resize."""
    scales = node.attrs.pop("scales", None)
    if scales is not None:
        if not isinstance(scales, tuple):
            raise ModelError("scales are no list")
        array = np.asarray([float(s) for s in scales], np.float32)
        set_input(node, 1, b.constant(array, "scales"))
    _resize_10(node)


@upgrade("Resize", until=11)
def resize_10(b: Builder, node: Node) -> None:
    """Resize 10 had no coordinate modes and no roi."""
    _resize_10(node)


def _resize_10(node: Node) -> None:
    scales = node.required(1)
    node.op = "Resize"
    node.set_inputs([node.required(0), None, scales])
    node.attrs["coordinate_transformation_mode"] = "asymmetric"
    mode = node.str_attr("mode", "nearest")
    if mode == "bilinear":
        node.attrs["mode"] = "linear"
    if mode != "nearest":
        return
    # onnxruntime rounds up where it shrinks, and down where it enlarges.
    shrinks = (
        {bool(s < 1) for s in scales.array.reshape(-1) if s != 1} if scales.is_const else {False}
    )
    if len(shrinks) > 1:
        raise ModelError("Resize 10 that enlarges one axis and shrinks another")
    node.attrs["nearest_mode"] = "ceil" if shrinks == {True} else "floor"


@upgrade("Resize", until=13)
def resize_12(b: Builder, node: Node) -> None:
    """``tf_half_pixel_for_nn`` was dropped; half_pixel that rounds half up equals it for floor."""
    if node.str_attr("coordinate_transformation_mode", "half_pixel") != "tf_half_pixel_for_nn":
        return
    if node.str_attr("nearest_mode", "round_prefer_floor") != "floor":
        raise ModelError("Resize with tf_half_pixel_for_nn and another nearest_mode than floor")
    node.attrs["coordinate_transformation_mode"] = "half_pixel"
    node.attrs["nearest_mode"] = "round_prefer_ceil"


@upgrade("Resize", until=ALWAYS)
def resize(b: Builder, node: Node) -> None:
    """Empty roi, scales and sizes stand for none."""
    inputs = list(node.inputs)
    for index, value in enumerate(inputs[1:], start=1):
        if value is not None and value.is_const and dims.static_product(value.t.dims) == 0:
            inputs[index] = None
    if node.str_attr("coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize":
        inputs[1] = None
    while inputs and inputs[-1] is None:
        inputs.pop()
    node.set_inputs(inputs)


@upgrade("GroupNormalization", until=21)
def group_normalization_18(b: Builder, node: Node) -> None:
    """Scale and bias were one number a group."""
    groups = node.int_attr("num_groups")
    source = node.required(0).type
    if source is None or source.shape is None or not isinstance(source.shape[1], int):
        raise ModelError("GroupNormalization 18 over an unknown number of channels")
    if groups < 1 or source.shape[1] % groups:
        raise ShapeError(f"{source.shape[1]} channels are not a multiple of {groups} groups")
    each = source.shape[1] // groups
    for index in (1, 2):
        value = node.required(index)
        if value.is_const:
            spread = b.constant(np.repeat(value.array, each), value.name)
        else:
            column = b.op("Unsqueeze", value, b.ints([1]))
            spread = b.op("Reshape", b.op("Expand", column, b.ints([groups, each])), b.ints([-1]))
        node.set_input(index, spread)


@upgrade("DFT", until=20)
def dft_17(b: Builder, node: Node) -> None:
    """``axis`` was an attribute, 1 by default."""
    axis = node.int_attr("axis", 1)
    node.attrs.pop("axis", None)
    set_input(node, 2, b.ints(axis, "axis"))


@upgrade("GridSample", until=20)
def grid_sample_16(b: Builder, node: Node) -> None:
    """Modes were renamed."""
    names = {"bilinear": "linear", "bicubic": "cubic"}
    mode = node.str_attr("mode", "bilinear")
    node.attrs["mode"] = names.get(mode, mode)


@upgrade("RoiAlign", until=16)
def roi_align_10(b: Builder, node: Node) -> None:
    """The default coordinates changed."""
    node.attrs["coordinate_transformation_mode"] = "output_half_pixel"


@upgrade("OptionalGetElement", "OptionalHasElement", until=ALWAYS)
def optional_of_tensor(b: Builder, node: Node) -> None:
    """Since 18 they take tensors too, which are always there."""
    value = node.input(0)
    if value is None or value.type is None:
        return
    if node.op == "OptionalGetElement":
        node.op = "Identity"
        return
    b.graph.replace_uses(node.output, b.constant(np.asarray(True), node.output.name))
    b.graph.remove(node)


@upgrade("Scan", until=9)
def scan_8(b: Builder, node: Node) -> None:
    """Scan 8 works on batches with own lengths."""
    raise ModelError("Scan of opset 8 is not supported", hint="export with opset 9 or later")


@upgrade("Squeeze", "Unsqueeze", until=ALWAYS)
def scalar_axes(b: Builder, node: Node) -> None:
    """Scalar axes, which onnxruntime takes, become a list of one."""
    axes = node.input(1)
    if axes is not None and axes.is_const and axes.t.rank == 0:
        node.set_input(1, b.ints(list(elements(axes) or ()), axes.name))  # type: ignore[arg-type]
