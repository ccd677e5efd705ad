"""Pooling in either data format."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from burnish.ir.builder import Builder
from burnish.ir.composites import define
from burnish.ir.definitions.convolution import is_channels_last, run_channels_first
from burnish.ir.definitions.epilogue import apply_postops
from burnish.ir.graph import Node, Value

#: Attributes by operator; those of ONNX MaxPool-22, AveragePool-22, GlobalAveragePool-22.
POOL_ATTRS: dict[str, tuple[str, ...]] = {
    "MaxPool": ("kernel_shape", "strides", "pads", "dilations", "ceil_mode"),
    "AveragePool": (
        "kernel_shape",
        "strides",
        "pads",
        "dilations",
        "ceil_mode",
        "count_include_pad",
    ),
    "GlobalAveragePool": (),
    "GlobalMaxPool": (),
}


def _definition(op: str) -> Callable[[Builder, Node, Sequence[Value | None]], list[Value]]:
    def pool(b: Builder, node: Node, inputs: Sequence[Value | None]) -> list[Value]:
        x, *operands = inputs
        assert x is not None
        y = run_channels_first(b, node, x, op, [], POOL_ATTRS[op])
        return [apply_postops(b, node, y, operands, -1 if is_channels_last(node) else 1)]

    pool.__doc__ = f"``{op}(x)`` with ``data_format``; one output (no indices)."
    return pool


for _op in POOL_ATTRS:
    define(_op)(_definition(_op))
