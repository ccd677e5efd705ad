"""The table of forms of ONNX's operators before opset 7, as old exporters wrote them."""

from __future__ import annotations

import numpy as np
import onnx

from burnish.errors import ModelError, ShapeError
from burnish.importers.upgrade import upgrade
from burnish.importers.upgrade_rules import attribute_to_input, set_input
from burnish.ir.builder import Builder
from burnish.ir.graph import Node

_CONSUMING = (
    "Abs Add BatchNormalization Ceil Clip Div Dropout Elu Exp Floor HardSigmoid "
    "InstanceNormalization LeakyRelu Log Max Mean Min Mul Neg PRelu Reciprocal Relu Selu Sigmoid "
    "Sqrt Sub Sum Tanh"
)


@upgrade(*_CONSUMING.split(), until=6)
def consumed_inputs(b: Builder, node: Node) -> None:
    """A note to allocators; and Selu's constants had fewer digits."""
    node.attrs.pop("consumed_inputs", None)
    if node.op == "Selu":
        node.attrs.setdefault("alpha", 1.6732)
        node.attrs.setdefault("gamma", 1.0507)


@upgrade("Add", "And", "Div", "Equal", "Greater", "Less", "Mul", "Or", "Pow", "Sub", "Xor", until=7)
def broadcast_at_axis(b: Builder, node: Node) -> None:
    """The second operand's axes were those of the first from ``axis`` on, its last by default."""
    broadcast, axis = node.int_attr("broadcast"), node.attrs.pop("axis", None)
    node.attrs.pop("broadcast", None)
    left, right = node.required(0).t, node.required(1).t
    if left.rank is None or right.rank is None:
        raise ModelError("an operand of unknown rank, in a form before opset 7")
    if not broadcast:
        if left.rank != right.rank:
            raise ShapeError(f"{left} and {right} differ, and broadcast is not set")
        return
    if not isinstance(axis, int):
        return
    missing = left.rank - right.rank - (axis + left.rank if axis < 0 else axis)
    if missing < 0:
        raise ShapeError(f"{right} does not fit {left} from axis {axis} on")
    if missing:
        axes = list(range(right.rank, right.rank + missing))
        node.set_input(1, b.op("Unsqueeze", node.required(1), b.ints(axes)))


@upgrade("PRelu", until=7)
def prelu_6(b: Builder, node: Node) -> None:
    """The slopes were one for each channel, axis 1, or one for all."""
    x, slope = node.required(0).t, node.required(1).t
    if x.rank is None or slope.shape is None or len(slope.shape) > 1:
        raise ModelError("PRelu before opset 7 whose slope is no list")
    if slope.shape not in ((), (1,)) and x.rank > 2:
        axes = b.ints(list(range(1, x.rank - 1)))
        node.set_input(1, b.op("Unsqueeze", node.required(1), axes))


@upgrade("Gemm", until=7)
def gemm_6(b: Builder, node: Node) -> None:
    """Broadcasting of C had to be asked for."""
    node.attrs.pop("broadcast", None)


@upgrade("BatchNormalization", "Dropout", until=7)
def is_test(b: Builder, node: Node) -> None:
    """Training was the default."""
    if not node.int_attr("is_test"):
        raise ModelError("training mode (is_test=0)", hint="export the model for inference")
    del node.attrs["is_test"]


@upgrade("GRU", "LSTM", "RNN", until=7)
def output_sequence(b: Builder, node: Node) -> None:
    """Said whether the first output was wanted; outputs can be left out since."""
    node.attrs.pop("output_sequence", None)


@upgrade("Cast", until=6)
def cast_1(b: Builder, node: Node) -> None:
    """The type was given by its name."""
    name = node.str_attr("to")
    if name not in onnx.TensorProto.DataType.keys():  # noqa: SIM118  (no mapping)
        raise ModelError(f"Cast to the unknown type {name!r}")
    node.attrs["to"] = int(onnx.TensorProto.DataType.Value(name))


@upgrade("Reshape", until=5)
def reshape_1(b: Builder, node: Node) -> None:
    """The shape was an attribute."""
    node.attrs.pop("consumed_inputs", None)
    attribute_to_input(b, node, "shape", 1)


@upgrade("Concat", until=4)
def concat_1(b: Builder, node: Node) -> None:
    """The axis was 1 by default."""
    node.attrs.setdefault("axis", 1)


@upgrade("Pad", until=2)
def pad_1(b: Builder, node: Node) -> None:
    """``pads`` had another name."""
    node.attrs["pads"] = node.attrs.pop("paddings")


@upgrade("GlobalLpPool", "LpPool", until=2)
def whole_p(b: Builder, node: Node) -> None:
    """``p`` was a float."""
    p = node.float_attr("p", 2.0)
    if p != int(p):
        raise ModelError(f"a norm of order {p:g}")
    node.attrs["p"] = int(p)


@upgrade("Tile", until=6)
def tile_1(b: Builder, node: Node) -> None:
    """One axis was repeated."""
    x, count, axis = node.required(0), node.required(1), node.required(2)
    if not count.is_const or not axis.is_const or x.t.rank is None:
        raise ModelError("Tile of opset 1 whose number of copies is known at run time only")
    repeats = [1] * x.t.rank
    repeats[int(axis.array.reshape(()))] = int(count.array.reshape(()))
    node.set_inputs([x, b.ints(repeats, "repeats")])


@upgrade("Upsample", until=7)
def upsample_1(b: Builder, node: Node) -> None:
    """Only height and width could be scaled."""
    height, width = node.float_attr("height_scale"), node.float_attr("width_scale")
    del node.attrs["height_scale"], node.attrs["width_scale"]
    set_input(node, 1, b.constant(np.asarray([1, 1, height, width], np.float32), "scales"))
