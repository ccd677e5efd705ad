"""Which nodes a user wants to be quantized."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx

from burnish.errors import UsageError
from burnish.ir import Graph, Node

#: Operators that multiply; all else that is quantized lies between them.
PRODUCTS = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Selection:
    """Names and kinds of nodes, called as in onnxruntime, ModelOpt and NNCF.

    Attributes:
        op_types_to_quantize: Operators of :data:`PRODUCTS` to quantize.
        op_types_to_exclude: Operators to leave.
        nodes_to_quantize: Names of the only nodes to quantize, or regular expressions that match
            whole names; empty for all.
        nodes_to_exclude: Names or regular expressions of nodes to leave.
        matmul_const_b_only: Leave matrix products of two activations, as those of attention are.
        quantize_residuals: Quantize both terms of a residual sum, as runtimes need it that add in 8
            bits; else the product before it adds the other term to what it has not rounded yet.
        held: Why single nodes are left, by name: what a search for the best precisions decided.
    """

    op_types_to_quantize: tuple[str, ...] = PRODUCTS
    op_types_to_exclude: tuple[str, ...] = ()
    nodes_to_quantize: tuple[str, ...] = ()
    nodes_to_exclude: tuple[str, ...] = ()
    matmul_const_b_only: bool = True
    quantize_residuals: bool = False
    held: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for op in self.op_types_to_quantize:
            if op not in PRODUCTS:
                raise UsageError(
                    f"{op} is no operator that can be quantized",
                    hint=f"choose from {', '.join(PRODUCTS)}",
                )
        for pattern in (*self.nodes_to_quantize, *self.nodes_to_exclude):
            try:
                re.compile(pattern)
            except re.error as error:
                raise UsageError(
                    f"neither a node's name nor a regular expression: {pattern!r} ({error})"
                ) from None

    def refuses(self, node: Node) -> str:
        """Why a node is left as it is; empty if it is wanted."""
        if node.op not in self.op_types_to_quantize:
            return f"{node.op} is not among the operators to quantize"
        names = node.location.names or (node.name,)
        if reason := next((self.held[name] for name in names if name in self.held), ""):
            return reason
        if reason := self.excludes(node):
            return reason
        if self.nodes_to_quantize and not any(_matches(p, names) for p in self.nodes_to_quantize):
            return "not among the nodes to quantize"
        return ""

    def excludes(self, node: Node) -> str:
        """Why a node was excluded by the user; empty if it was not."""
        if node.op in self.op_types_to_exclude:
            return f"{node.op} is excluded"
        names = node.location.names or (node.name,)
        matching = next((p for p in self.nodes_to_exclude if _matches(p, names)), "")
        return f"excluded by {matching!r}" if matching else ""

    def check(self, graph: Graph) -> None:
        """Refuse names that nothing has: a misspelled exclusion would be silently ignored.

        Args:
            graph: The model, as it was imported.

        Raises:
            UsageError: A pattern matches no node of the graph, or an operator is neither one of its
                operators nor one of ONNX.
        """
        operators = {node.op for node in graph.walk()}
        for op in self.op_types_to_exclude:
            if op not in operators and not onnx.defs.has(op):
                raise UsageError(
                    f"there is no operator {op!r}",
                    hint=f"the model has {', '.join(sorted(operators))}",
                )
        names = [name for node in graph.walk() for name in node.location.names or (node.name,)]
        for pattern in (*self.nodes_to_quantize, *self.nodes_to_exclude):
            if not _matches(pattern, names):
                raise UsageError(
                    f"no node is called {pattern!r}, nor does one match it",
                    hint="burnish inspect MODEL --text prints the names",
                )


#: Why a product is left that comes quantized.
QUANTIZED_ALREADY = "its weights are quantized already"


def comes_quantized(node: Node) -> bool:
    """Whether a product reads constants through a DequantizeLinear, and views of its result."""
    value = node.input(1)
    while value is not None and value.producer is not None:
        if value.producer.key == "DequantizeLinear":
            return value.producer.required(0).is_const
        if value.producer.key not in ("Transpose", "Reshape", "Squeeze", "Unsqueeze"):
            return False
        value = value.producer.input(0)
    return False


def _matches(pattern: str, names: tuple[str, ...] | list[str]) -> bool:
    return pattern in names or any(re.fullmatch(pattern, name) for name in names)
