"""Evaluation of nodes on constants, by onnxruntime without optimizations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from burnish.ir.graph import Constant, Graph, Node, Value
from burnish.ir.types import to_numpy

#: Operators whose results differ from run to run.
RANDOM = frozenset(
    {"Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform"}
    | {"RandomUniformLike"}
)
#: Dtypes that onnxruntime's Python interface cannot take or return as numpy arrays.
OPAQUE_DTYPES = frozenset(
    {"bfloat16", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz"}
    | {"uint4", "int4", "string", "complex64", "complex128"}
)
#: Those among them that it takes as constants of a model.
_ONLY_EMBEDDED = frozenset({"uint4", "int4"})
#: Larger constants are fed as inputs, so that they are not copied into a model.
_MAX_EMBEDDED = 1024


def can_evaluate(node: Node) -> bool:
    """Whether a node gives the same result every time, and onnxruntime can be asked for it."""
    if node.domain not in ("", "burnish") or (not node.domain and node.op in RANDOM):
        return False
    if any(True for _ in node.subgraphs()):
        return False
    if node.op == "Dropout" and node.input(2) is not None:
        return False

    def passes(value: Value | None, *, out: bool = False) -> bool:
        if value is None or (value.type is not None and value.dtype not in OPAQUE_DTYPES):
            return True
        return value.is_const and value.dtype in _ONLY_EMBEDDED and not out

    return all(map(passes, node.inputs)) and all(passes(v, out=True) for v in node.outputs)


def evaluate(nodes: Sequence[Node], wanted: Sequence[Value]) -> list[np.ndarray]:
    """Compute values from constants.

    Args:
        nodes: In topological order; each input is a constant or made by an earlier one.
        wanted: Outputs of the nodes.

    Returns:
        The arrays of ``wanted``.

    Raises:
        RuntimeError: onnxruntime rejects a node or fails in it.
    """
    import onnxruntime as ort

    from burnish.export import to_model

    graph, feeds = _closed_graph(nodes, wanted)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    # A graph is used once: an arena that grows and is kept would double the peak.
    options.enable_cpu_mem_arena = False
    try:
        session = ort.InferenceSession(
            to_model(graph).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        results = session.run([v.name for v in graph.outputs], feeds)
    except Exception as error:  # onnxruntime has no common base class
        raise RuntimeError(f"onnxruntime: {str(error).strip().splitlines()[0]}") from error
    return [
        np.asarray(array, dtype=to_numpy(value.dtype))
        for value, array in zip(wanted, results, strict=True)
    ]


def _closed_graph(
    nodes: Sequence[Node], wanted: Sequence[Value]
) -> tuple[Graph, dict[str, np.ndarray]]:
    """Copies of the nodes in a graph of their own; large constants become inputs."""
    graph = Graph("evaluate")
    graph.opset = dict(nodes[0].graph.root.opset) if nodes[0].graph is not None else {}
    copies: dict[Value, Value] = {}
    by_constant: dict[Constant, Value] = {}
    feeds: dict[str, np.ndarray] = {}

    def leaf(value: Value, const: Constant) -> Value:
        if const not in by_constant:
            if const.nbytes <= _MAX_EMBEDDED or value.dtype in _ONLY_EMBEDDED:
                by_constant[const] = graph.constant(const, "constant")
            else:
                made = graph.value("input", value.type)
                graph.inputs.append(made)
                feeds[made.name] = np.ascontiguousarray(const.array)
                by_constant[const] = made
        return by_constant[const]

    def copy(value: Value | None) -> Value | None:
        if value is None or value in copies:
            return copies[value] if value is not None else None
        if value.const is None:
            raise ValueError(f"{value.name} is not computed by these nodes")
        return leaf(value, value.const)

    for node in nodes:
        outputs: list[Value | None] = []
        for value in node.outputs:
            made = graph.value("value", value.type) if value is not None else None
            if value is not None and made is not None:
                copies[value] = made
            outputs.append(made)
        graph.append(
            Node(node.op, [copy(v) for v in node.inputs], outputs, node.attrs, domain=node.domain)
        )
    graph.set_outputs([copies[v] for v in wanted])
    return graph, feeds
