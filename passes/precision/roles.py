"""What each operator does when its neighbours are stored in 16 bits: the table of the pass.

*Compute* operators read and write 16 bits and accumulate in float32 inside (products,
convolutions, normalizations, softmax, pooling). *Move* operators take the type of what they move.
*Glue* operators work element by element on float32 between Casts, which fuse into their kernels.
All else is *kept* in float32, with a reason.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import Final

from burnish.ir import Node
from burnish.ir.opinfo import Kind, info
from burnish.passes.precision.formats import Format


class Role(enum.Enum):
    """What an operator does."""

    COMPUTE = "compute"
    MOVE = "move"
    GLUE = "glue"
    KEEP = "keep"


@dataclass(frozen=True)
class Row:
    """One row of the table.

    Attributes:
        role: What the operator does.
        data: Positions of the inputs that carry data, None for all of them; the others (sizes,
            indices, scales of a Resize) keep their types.
        inside: For a compute operator, what it computes in float32 whatever it reads and writes.
        reason: For a kept operator, why; ``dtype`` and ``short`` of the format stand in braces.
    """

    role: Role
    data: frozenset[int] | None = None
    reason: str = ""
    inside: str = ""

    def carries(self, index: int) -> bool:
        """Whether an input carries data."""
        return self.data is None or index in self.data

    def why(self, stored: Format) -> str:
        """Why a kept operator is not stored in a format."""
        return self.reason.format(dtype=stored.dtype, short=stored.short)


def _rows(role: Role, names: str, *data: int, reason: str = "", inside: str = "") -> dict[str, Row]:
    row = Row(role, frozenset(data) if data else None, reason, inside)
    return dict.fromkeys(names.split(), row)


_RESULT = "its result {short}"

#: By operator key.
TABLE: Final[dict[str, Row]] = {
    **_rows(
        Role.COMPUTE,
        "burnish::Conv burnish::ConvTranspose burnish::MatMul burnish::BatchMatMul "
        "burnish::MaxPool burnish::GlobalMaxPool "
        "BatchNormalization Conv ConvTranspose Gemm GlobalMaxPool MatMul MaxPool",
    ),
    **_rows(
        Role.COMPUTE,
        "burnish::AddLayerNorm burnish::AddRMSNorm GroupNormalization InstanceNormalization "
        "LayerNormalization RMSNormalization",
        inside="means and squares are computed in float32",
    ),
    **_rows(
        Role.COMPUTE,
        "burnish::AveragePool burnish::GlobalAveragePool AveragePool GlobalAveragePool",
        inside="sums are computed in float32",
    ),
    **_rows(Role.COMPUTE, "Softmax", inside="exponentials and sums are computed in float32"),
    # Masks stay float32: the lowest 16-bit number may not be low enough to outweigh all scores.
    **_rows(Role.COMPUTE, "burnish::Attention", 0, 1, 2),
    **_rows(
        Role.MOVE,
        "Compress DepthToSpace Expand Flatten Gather GatherElements GatherND Identity ReduceMax "
        "ReduceMin Reshape Resize ReverseSequence Slice SpaceToDepth Split Squeeze Tile Transpose "
        "Trilu Unsqueeze",
        0,
    ),
    **_rows(Role.MOVE, "Concat"),
    **_rows(Role.MOVE, "Pad ScatterElements ScatterND", 0, 2),
    **_rows(
        Role.KEEP,
        "CumProd CumSum Einsum LpNormalization LpPool LRN MeanVarianceNormalization ReduceL1 "
        "ReduceL2 ReduceLogSum ReduceLogSumExp ReduceMean ReduceProd ReduceSum ReduceSumSquare Det",
        reason=_RESULT,
    ),
    **_rows(Role.KEEP, "LogSoftmax", reason="logarithms lose too many bits in {dtype}"),
    **_rows(
        Role.KEEP,
        "NegativeLogLikelihoodLoss SoftmaxCrossEntropyLoss",
        reason="a loss is a sum over the batch",
    ),
    **_rows(Role.KEEP, "LSTM GRU RNN", reason="the recurrent state is kept in float32"),
    **_rows(Role.KEEP, "If Loop Scan", reason="values of control flow keep their types"),
    **_rows(
        Role.KEEP,
        "DFT STFT MelWeightMatrix BlackmanWindow HammingWindow HannWindow",
        reason="spectra have a wide range",
    ),
}

#: Glue whose result easily leaves the range of float16, or tells apart arguments that bfloat16 does
#: not: it is stored in float32.
SENSITIVE: Final = frozenset({"Cosh", "Exp", "Pow", "Reciprocal", "Sinh", "Tan"})


def row_of(node: Node, *, explicit: bool = False) -> Row:
    """The row of a node; operators that the table does not name go by their kind.

    Args:
        node: The node.
        explicit: Whether Casts have to say what computes in float32, for runtimes that take the
            types of operands for those of sums.
    """
    found = TABLE.get(node.key)
    if found is not None:
        return Row(Role.GLUE, found.data, found.inside) if explicit and found.inside else found
    if info(node).kind in (Kind.ELEMENTWISE, Kind.GENERATOR):
        return Row(Role.GLUE)
    return Row(Role.KEEP, reason=f"no 16-bit form of {node.key}")


def sensitive(node: Node, stored: Format) -> str:
    """Why the result of a glue node is not stored in 16 bits; empty if it may be."""
    return _RESULT.format(short=stored.short) if node.key in SENSITIVE else ""
