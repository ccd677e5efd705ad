"""The oneDNN operations of a model, as the artifact stores them."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import tvm_ffi

from burnish.backends.x86.onednn.postops import Step
from burnish.runtime import onednn

#: oneDNN's names of the element types that its operations take.
DTYPES = {"float32": "f32", "bfloat16": "bf16", "uint8": "u8", "int8": "s8"}


@dataclass(frozen=True)
class Operation:
    """What one operation computes.

    Attributes:
        kind: ``matmul`` (constant weights), ``batch_matmul`` or ``conv``.
        source: Element type of the first operand, by oneDNN's name.
        weights: Of the second.
        result: Of the result and of a bias.
        bias: Whether the first operand after the weights is a bias.
        post_ops: What is done to the result.
        geometry: Sizes by name; which ones depends on the kind, see ``csrc/descriptor.h``.
        zero_point: The number that stands for 0 in the first operand.
    """

    kind: str
    source: str
    weights: str
    result: str
    bias: bool
    post_ops: tuple[Step, ...]
    geometry: dict[str, int | tuple[int, ...]]
    zero_point: int = 0

    def to_dict(self, name: str) -> dict[str, Any]:
        """As plain data for the native library."""
        fields = asdict(self)
        geometry = fields.pop("geometry")
        return {"name": name, **fields, "bias": int(self.bias), **geometry}


@dataclass
class Operations:
    """The operations of one model: a :class:`burnish.lowering.context.External`.

    Attributes:
        items: By name.
        refused: Why nodes have none, by name of the node.
    """

    items: dict[str, Operation] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """How many operations there are."""
        return len(self.items)

    def notes(self) -> list[str]:
        """How many operations there are, and why nodes have none."""
        reasons = Counter(self.refused.values())
        refused = ", ".join(f"{count} because: {reason}" for reason, count in reasons.items())
        return [f"oneDNN: {len(self.items)} operations" + (f"; not {refused}" if refused else "")]

    def add(self, operation: Operation) -> str:
        """Add an operation; returns the name to call it by."""
        name = f"onednn_{operation.kind}_{len(self.items) + 1}"
        self.items[name] = operation
        return name

    def module(self) -> Any:
        """The TVM module with the operations, to be linked to the kernels."""
        return _function("library")(_encode(self.items))


def implementation(operation: Operation, sizes: Sequence[int], isa: str) -> str:
    """What oneDNN takes for an operation of certain sizes: ``brgemm:avx512_core``.

    Args:
        operation: The operation.
        sizes: Rows of a matmul; batch, rows, depth and columns of a batch_matmul; images, height
            and width of a conv.
        isa: Name of the instruction set of the target.

    Returns:
        The implementation's name; empty if oneDNN has none.
    """
    if isa == "avx2":
        # Only the first call of a process can have an effect, which is before all others.
        _function("limit_to_avx2")()
    return str(_function("implementation")(_encode({"": operation}), tuple(sizes)))


def _encode(items: dict[str, Operation]) -> bytes:
    rows = [operation.to_dict(name) for name, operation in items.items()]
    return json.dumps(rows, separators=(",", ":")).encode()


def _function(name: str) -> Any:
    onednn.load()
    return tvm_ffi.get_global_func(f"burnish.onednn.{name}")
