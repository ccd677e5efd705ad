"""The intermediate representation: a small typed SSA graph with ONNX semantics."""

from __future__ import annotations

from burnish.ir import definitions
from burnish.ir.builder import Builder
from burnish.ir.dims import UNKNOWN, Dim, Expr, equal, sym
from burnish.ir.graph import Attr, Constant, Graph, Location, Node, Value
from burnish.ir.postops import PostOp, parse_postops
from burnish.ir.types import TensorType

# Importing the definitions registers the composites.
__all__ = [
    "UNKNOWN",
    "Attr",
    "Builder",
    "Constant",
    "Dim",
    "Expr",
    "Graph",
    "Location",
    "Node",
    "PostOp",
    "TensorType",
    "Value",
    "definitions",
    "equal",
    "parse_postops",
    "sym",
]
