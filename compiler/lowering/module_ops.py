"""Operators that the module lowering treats by itself."""

from __future__ import annotations

from burnish.ir import UNKNOWN, Node
from burnish.ir.infer.run_time import DOMAIN

#: Operators that only give a tensor another shape.
VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
#: Operators that hold subgraphs, which become functions.
CONTROL = frozenset({"If", "Loop"})
#: Reads sizes on the host.
BIND = f"{DOMAIN}::Bind"
#: Lowered when somebody asks for an output, since some kernels read their input through strides,
#: or only the elements' names are wanted.
LAZY = frozenset({"Split", "Shape"})


def is_native(node: Node, host_sizes: bool) -> bool:
    """Whether the module lowering takes a node without asking the backend.

    Args:
        node: Any node.
        host_sizes: Whether the host can read what kernels write while a model runs.
    """
    if node.key == BIND:
        return True
    if node.key not in VIEWS | CONTROL or (node.key == "Loop" and not host_sizes):
        return False
    types = [v.type for v in node.outputs if v is not None]
    shapes = [t.shape if t is not None else None for t in types]
    return all(s is not None and all(d is not UNKNOWN for d in s) for s in shapes)
