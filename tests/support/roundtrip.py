"""The importer and the exporter against onnxruntime: its results, and the sizes that it sees."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort

from burnish.export import to_model
from burnish.importers import load
from burnish.ir import Graph
from burnish.ir.dims import UNKNOWN, Expr, evaluate
from burnish.ir.infer import guards
from burnish.ir.types import to_numpy

Feeds = Mapping[str, np.ndarray]


def model(
    text: str, opset: int = 25, *, ir_version: int = 10, imports: str = ""
) -> onnx.ModelProto:
    """A model from ONNX's text syntax, unchecked."""
    header = f'<ir_version: {ir_version}, opset_import: ["" : {opset}{imports}]>\n'
    return onnx.parser.parse_model(header + text)


def run(proto: onnx.ModelProto, feeds: Feeds) -> list[np.ndarray]:
    """The model's outputs by onnxruntime without optimizations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, dict(feeds))


def random_feeds(graph: Graph, sizes: Mapping[str, int], seed: int = 0) -> dict[str, np.ndarray]:
    """Inputs for a graph: normal floats, integers from 1 to 3, both bools; never all zeros."""
    rng = np.random.default_rng(seed)
    feeds = {}
    for value in graph.inputs:
        shape = tuple(evaluate(d, sizes) for d in value.shape)
        dtype = to_numpy(value.dtype)
        if dtype.kind == "f":
            feeds[value.name] = rng.standard_normal(shape).astype(dtype)
        elif dtype.kind == "b":
            feeds[value.name] = rng.integers(0, 2, shape).astype(dtype)
        else:
            feeds[value.name] = rng.integers(1, 4, shape).astype(dtype)
    return feeds


def check(
    proto: onnx.ModelProto,
    *,
    sizes: Mapping[str, int] | None = None,
    feeds: Feeds | None = None,
    rtol: float = 1e-6,
    seed: int = 0,
) -> Graph:
    """Import and export a model; returns its graph.

    Checks that onnxruntime computes the same from both, and that every inferred size and content
    is what it sees at these sizes.
    """
    graph = load(proto)
    sizes = dict(sizes or {})
    feeds = random_feeds(graph, sizes, seed) if feeds is None else feeds
    for expected, found in zip(run(proto, feeds), run(to_model(graph), feeds), strict=True):
        assert found.dtype == expected.dtype
        assert found.shape == expected.shape
        if expected.dtype == object:
            assert (found == expected).all()
        else:
            np.testing.assert_allclose(found, expected, rtol=rtol, atol=rtol)
    check_dims(graph, feeds, sizes)
    return graph


def check_dims(graph: Graph, feeds: Feeds, sizes: Mapping[str, int]) -> None:
    """Check the types and contents of all values of the main graph against a run."""
    for guard in guards(graph):
        assert guard.holds(sizes), guard
    exported = to_model(graph)
    names = {o.name for o in exported.graph.output}
    values = {v.name: v for n in graph.nodes for v in n.outputs if v is not None}
    for name in values:
        if name not in names:
            exported.graph.output.append(onnx.ValueInfoProto(name=name))
    found = dict(zip([o.name for o in exported.graph.output], run(exported, feeds), strict=True))
    for name, value in values.items():
        array = found[name]
        assert value.dtype == ("string" if array.dtype == object else str(array.dtype)), name
        if value.t.shape is None:
            continue
        assert len(value.shape) == array.ndim, f"{name}: {value.type} is {array.shape}"
        for d, size in zip(value.shape, array.shape, strict=True):
            if isinstance(d, (int, Expr)):
                assert evaluate(d, sizes) == size, f"{name}: {value.type} is {array.shape}"
        for d, element in zip(
            value.content or (), array.reshape(-1), strict=value.content is not None
        ):
            if d is not UNKNOWN:
                assert evaluate(d, sizes) == int(element), f"{name}: {value.content} is {array}"
