"""Shape inference: types, and the contents of small integer tensors, as expressions over symbols.

One rule an operator, registered by :func:`infer`. A rule reads the types (and constants, and
:attr:`~burnish.ir.graph.Value.content`) of the node's inputs and returns the types of its outputs.
"""

from __future__ import annotations

from burnish.ir.infer.registry import InferContext, infer, infer_graph, infer_node

__all__ = ["InferContext", "infer", "infer_graph", "infer_node"]
