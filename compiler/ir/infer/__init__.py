"""Shape inference: types, and the contents of small integer tensors, as expressions over symbols.

One rule an operator, registered by :func:`infer`. A rule reads the types (and constants, and
:attr:`~burnish.ir.graph.Value.content`) of the node's inputs and returns the types of its outputs.
"""

from __future__ import annotations

from burnish.ir.infer import (  # noqa: F401  (the imports register the rules)
    control,
    convolution,
    elementwise,
    generation,
    matrix,
    movement,
    reduce,
    reshape,
    run_time,
    signal,
)
from burnish.ir.infer.common import elements
from burnish.ir.infer.registry import (
    Guard,
    InferContext,
    guards,
    has_rule,
    infer,
    infer_graph,
    infer_node,
    node_guards,
    untyped,
)

__all__ = [
    "Guard",
    "InferContext",
    "elements",
    "guards",
    "has_rule",
    "infer",
    "infer_graph",
    "infer_node",
    "node_guards",
    "untyped",
]
