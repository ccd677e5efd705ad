"""What kind of work an operator is: the table that fusion and layout passes decide by."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from burnish.ir.graph import Node


class Kind(enum.Enum):
    """How an output element depends on the inputs."""

    #: On the elements at the same place of its inputs, after broadcasting.
    ELEMENTWISE = "elementwise"
    #: On one element at another place: a pure index map.
    MOVEMENT = "movement"
    #: The same elements in the same order under another shape.
    VIEW = "view"
    #: On nothing but its own index and a few scalars.
    GENERATOR = "generator"
    #: On many elements.
    OTHER = "other"


@dataclass(frozen=True)
class OpInfo:
    """One row.

    Attributes:
        kind: How outputs depend on inputs.
        cost: Vector instructions for one element, roughly; 0 when it only moves or renames.
    """

    kind: Kind
    cost: int = 1


def _rows(kind: Kind, cost: int, names: str) -> dict[str, OpInfo]:
    return {name: OpInfo(kind, cost) for name in names.split()}


_OTHER: Final = OpInfo(Kind.OTHER, 100)

#: By operator of the ONNX domain at the canonical opset.
OPS: Final[dict[str, OpInfo]] = {
    **_rows(
        Kind.ELEMENTWISE,
        1,
        "Abs Add And BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Cast Ceil Clip Div Equal "
        "Floor Greater GreaterOrEqual HardSigmoid HardSwish IsInf IsNaN LeakyRelu Less LessOrEqual "
        "Max Mean Min Mul Neg Not Or PRelu Reciprocal Relu Round Shrink Sign Sqrt Sub Sum "
        "ThresholdedRelu Where Xor",
    ),
    **_rows(
        Kind.ELEMENTWISE,
        12,
        "Acos Acosh Asin Asinh Atan Atanh Celu Cos Cosh Elu Erf Exp Gelu Log Mish Mod Pow Selu "
        "Sigmoid Sin Sinh Softplus Softsign Swish Tan Tanh",
    ),
    **_rows(Kind.MOVEMENT, 0, "Concat Expand Pad Slice Tile Transpose Split SpaceToDepth"),
    **_rows(Kind.MOVEMENT, 0, "DepthToSpace Gather GatherElements GatherND Resize"),
    **_rows(Kind.VIEW, 0, "Flatten Identity Reshape Squeeze Unsqueeze"),
    **_rows(Kind.GENERATOR, 1, "ConstantOfShape EyeLike Range"),
}


def info(node: Node) -> OpInfo:
    """The row of a node; composites and foreign operators are OTHER."""
    return _OTHER if node.domain else OPS.get(node.op, _OTHER)


#: Inputs that a node reads as if they were attributes: their elements shape the computation.
ATTRIBUTE_INPUTS: Final[dict[str, frozenset[int]]] = {
    "ConstantOfShape": frozenset({0}),
    "Expand": frozenset({1}),
    "Pad": frozenset({1, 3}),
    "Range": frozenset({0, 1, 2}),
    "Reshape": frozenset({1}),
    "Resize": frozenset({1, 2, 3}),
    "Slice": frozenset({1, 2, 3, 4}),
    "Split": frozenset({1}),
    "Squeeze": frozenset({1}),
    "Tile": frozenset({1}),
    "Unsqueeze": frozenset({1}),
}


def attribute_inputs(node: Node) -> frozenset[int]:
    """Positions of the inputs of a node that are read as if they were attributes."""
    return frozenset() if node.domain else ATTRIBUTE_INPUTS.get(node.op, frozenset())


def is_elementwise(node: Node) -> bool:
    """Whether each output element depends on the input elements at its own place."""
    return info(node).kind is Kind.ELEMENTWISE


def is_view(node: Node) -> bool:
    """Whether the output has the input's elements in the same order."""
    return info(node).kind is Kind.VIEW
