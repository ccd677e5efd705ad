"""Golden tests of passes: graphs before and after in ONNX's text syntax.

Write canonical operators (opset 25). The header may be left out. Constants are initializers::

    g (float[batch, 4] x) => (float[batch, 4] y)
    <float[4] w, float two = {2}> {
        t = Mul(x, w)
        y = Mul(t, two)
    }

A constant that is declared without a value (``w``) gets seeded random data; in the graph *after*,
it stands for any data of its type. Names of inner values, of nodes and of constants do not matter,
nor does the order of nodes. Composites are written with their domain: ``y = burnish.MatMul(x, w)``.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence

import ml_dtypes  # noqa: F401  (registers the small float types with numpy)
import numpy as np
import onnx
import onnx.parser

from burnish.ir import Attr, Constant, Dim, Expr, Graph, Node, TensorType, Value, sym
from burnish.ir.dims import evaluate, parse_dim, symbols
from burnish.ir.infer import infer_graph
from burnish.ir.types import BY_ONNX, FLOATS, to_numpy
from burnish.ir.verify import verify
from burnish.passes.base import Numerics, Pass, PassContext
from burnish.passes.manager import clean, fingerprint

HEADER = '<ir_version: 11, opset_import: ["": 25, "burnish": 1, "com.microsoft": 1]>\n'

#: (rtol, atol) relative to the largest magnitude of the output, by what the rewrite may do.
TOLERANCE = {
    Numerics.EXACT: (0.0, 0.0),
    Numerics.REASSOCIATES: (2e-5, 2e-6),
    Numerics.APPROXIMATES: (1e-3, 1e-4),
    # A few roundings to 11 bits, of terms as large as the largest result.
    Numerics.NARROWS: (1e-3, 2e-3),
}


class OpenConstantError(Exception):
    """The constant of an expected graph has no data: any will do."""


def parse(text: str, seed: int = 0) -> Graph:
    """A typed graph from ONNX text; see the module's docstring."""
    graph = _read(text, np.random.default_rng(seed))
    infer_graph(graph)
    verify(graph)
    return graph


def check(
    item: Pass,
    before: str,
    after: str | None,
    *,
    sizes: Mapping[str, int] | None = None,
    feeds: Mapping[str, np.ndarray] | None = None,
    seed: int = 0,
    numerics: Numerics | None = None,
    run: bool = True,
) -> Graph:
    """Check a pass on one graph and return the result.

    Checks that the result is ``after`` (None: that nothing changes), that ``run`` tells the truth
    about it, that the result is valid, that a second run changes nothing, and that onnxruntime
    computes the same before and after, up to the tolerance of the pass's numerics.

    Args:
        item: The pass.
        before: The graph before, as text.
        after: The graph after, as text; None when it must stay as it is.
        sizes: Sizes of symbolic dims at run time; 2, 3, 4, ... in order of names otherwise.
        feeds: Inputs at run time by name; random ones otherwise.
        seed: For constants and inputs.
        numerics: Instead of the pass's own.
        run: False skips the comparison with onnxruntime.
    """
    graph = parse(before, seed)
    reference = parse(before, seed)
    changed = apply(item, graph)
    assert changed == (after is not None), f"{item.name} reports changed={changed}\n{show(graph)}"
    if after is not None:
        assert_same(graph, after)
    assert not apply(item, graph), f"{item.name} is not idempotent\n{show(graph)}"
    if run:
        given = dict(feeds) if feeds is not None else random_feeds(reference, sizes, seed)
        assert_equal_results(reference, graph, given, numerics or item.numerics)
    return graph


def apply(item: Pass, graph: Graph, ctx: PassContext | None = None) -> bool:
    """Run one pass, clean up, verify, and check that it tells the truth about having changed."""
    before = fingerprint(graph)
    changed = item.run(graph, ctx or PassContext())
    if changed:
        clean(graph)
    verify(graph)
    assert changed == (fingerprint(graph) != before), f"{item.name} reports changed={changed}"
    return changed


def assert_same(graph: Graph, text: str) -> None:
    """Assert that a graph has the structure that the text describes."""
    expected = show(_read(text, None)).splitlines()
    actual = show(graph).splitlines()
    same = len(expected) == len(actual) and all(map(_matches, expected, actual))
    if not same:
        difference = difflib.unified_diff(expected, actual, "expected", "actual", lineterm="", n=99)
        raise AssertionError("the graphs differ\n" + "\n".join(difference))


def assert_equal_results(
    before: Graph, after: Graph, feeds: Mapping[str, np.ndarray], numerics: Numerics
) -> None:
    """Assert that onnxruntime computes the same for two graphs with the same inputs."""
    rtol, atol = TOLERANCE[numerics]
    wanted, got = run_graph(before, feeds), run_graph(after, feeds)
    assert [v.name for v in before.outputs] == [v.name for v in after.outputs]
    for value, w, g in zip(before.outputs, wanted, got, strict=True):
        assert w.dtype == g.dtype, f"{value.name}: {w.dtype} became {g.dtype}"
        assert w.shape == g.shape, f"{value.name}: {w.shape} became {g.shape}"
        finite = w[np.isfinite(w)] if w.dtype.kind == "f" else np.ones(1)
        scale = float(np.max(np.abs(finite), initial=0.0))
        if numerics is Numerics.EXACT or w.dtype.kind != "f":
            np.testing.assert_array_equal(g, w, err_msg=value.name)
        else:
            np.testing.assert_allclose(g, w, rtol, atol * scale, err_msg=value.name)


def run_graph(graph: Graph, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """Run a graph on onnxruntime without optimizations."""
    import onnxruntime as ort

    from burnish.export import to_model

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    # onnxruntime would not round results of 16 bits, or has no kernels.
    model = to_model(graph, widened=True)
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = {i.name for i in session.get_inputs()}
    results: list[np.ndarray] = session.run(None, {k: v for k, v in feeds.items() if k in names})
    return results


def random_feeds(
    graph: Graph, sizes: Mapping[str, int] | None = None, seed: int = 0
) -> dict[str, np.ndarray]:
    """Random inputs for a graph; floats are normal, integers are in [1, 5)."""
    rng = np.random.default_rng(seed + 1)
    names = sorted({s for v in graph.inputs for d in v.shape for s in symbols(d)})
    bound = {name: index + 2 for index, name in enumerate(names)} | dict(sizes or {})
    return {
        v.name: random_array(rng, v.dtype, [_size(d, bound) for d in v.shape]) for v in graph.inputs
    }


def _size(dim: Dim, sizes: Mapping[str, int]) -> int:
    return evaluate(dim, sizes) if isinstance(dim, (int, Expr)) else 3


def random_array(rng: np.random.Generator, dtype: str, shape: Sequence[int]) -> np.ndarray:
    """Random data without zeros."""
    if dtype in FLOATS:
        return rng.standard_normal(tuple(shape)).astype(to_numpy(dtype))
    if dtype == "bool":
        return rng.integers(0, 2, tuple(shape)).astype(bool)
    return rng.integers(1, 5, tuple(shape)).astype(to_numpy(dtype))


def _matches(expected: str, actual: str) -> bool:
    """Whether two lines are equal; ``{*}`` in the expected line stands for any data."""
    pattern = re.escape(expected).replace(r"\{\*\}", r"\{[^}]*\}")
    return re.fullmatch(pattern, actual) is not None


def show(graph: Graph) -> str:
    """The graph in a form that does not depend on names or on the order of nodes."""
    lines: list[str] = []
    _show(graph, {}, lines, "")
    return "\n".join(lines)


def _show(graph: Graph, names: dict[Value, str], lines: list[str], indent: str) -> None:
    names = dict(names)
    for index, value in enumerate(graph.inputs):
        names[value] = value.name if graph.parent is None else f"%{graph.name}{index}"
    head = ", ".join(
        f"{v.type} {names[v]}" if graph.parent is None else names[v] for v in graph.inputs
    )
    lines.append(f"{indent}({head})")
    done: set[Node] = set()

    def visit(value: Value) -> str:
        if value.const is not None:
            return _constant(value.const)
        producer = value.producer
        if producer is not None and producer.graph is graph and producer not in done:
            done.add(producer)
            inputs = ", ".join("" if v is None else visit(v) for v in producer.inputs)
            inputs = inputs.rstrip(", ")
            for index, out in enumerate(producer.outputs):
                if out is not None:
                    names[out] = f"%{len(names)}" + (f"_{index}" if index else "")
            results = ", ".join("_" if v is None else names[v] for v in producer.outputs)
            attrs = [
                f"{k}={_attribute(v)}"
                for k, v in sorted(producer.attrs.items())
                if not isinstance(v, Graph)
            ]
            lines.append(f"{indent}{results} = {producer.key}<{', '.join(attrs)}>({inputs})")
            for key, attr in sorted(producer.attrs.items()):
                if isinstance(attr, Graph):
                    lines.append(f"{indent}  {key}:")
                    _show(attr, names, lines, indent + "    ")
        return names.get(value, f"<undefined {value.name}>")

    for value in graph.outputs:
        name = visit(value)
        lines.append(f"{indent}=> {value.name if graph.parent is None else ''} {name}")
    lines += [f"{indent}dead: {node.key}" for node in graph.nodes if node not in done]


def _attribute(attr: Attr) -> str:
    if isinstance(attr, Constant):
        return _constant(attr)
    if isinstance(attr, tuple):
        return f"[{', '.join(map(_scalar, attr))}]"
    return _scalar(attr)


def _constant(const: Constant) -> str:
    try:
        elements = const.array.reshape(-1).tolist()
    except OpenConstantError:
        return f"{const.type}{{*}}"
    return f"{const.type}{{{', '.join(map(_scalar, elements))}}}"


def _scalar(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _read(text: str, rng: np.random.Generator | None) -> Graph:
    """ONNX text to an untyped graph; without ``rng``, data that are not given stay open."""
    text = text.strip()
    model = onnx.parser.parse_model(text if text.startswith("<") else HEADER + text)
    graph = Graph(model.graph.name)
    graph.opset = {entry.domain: entry.version for entry in model.opset_import}
    _fill(graph, model.graph, {}, rng)
    return graph


def _fill(
    graph: Graph,
    proto: onnx.GraphProto,
    outer: Mapping[str, Value],
    rng: np.random.Generator | None,
) -> None:
    scope = dict(outer)
    for info in proto.input:
        value = Value(graph.reserve(info.name), _type(info))
        graph.inputs.append(value)
        scope[info.name] = value
    for tensor in proto.initializer:
        scope[tensor.name] = graph.constant(onnx.numpy_helper.to_array(tensor), tensor.name)
    made = dict.fromkeys(name for node in proto.node for name in node.output)
    outputs = {info.name for info in proto.output}
    for info in proto.value_info:
        if info.name not in made and info.name not in scope:
            type = _type(info)
            scope[info.name] = graph.constant(_open_constant(type, rng), info.name)
    for name in made:
        if graph.parent is None or name in outputs:
            scope.setdefault(name, Value(graph.unique_name(name)))
        else:
            scope[name] = Value(graph.unique_name(name))
    for node in proto.node:
        inputs = [scope[name] if name else None for name in node.input]
        results = [scope[name] if name else None for name in node.output]
        attrs = {a.name: _read_attribute(a, graph, scope, rng) for a in node.attribute}
        graph.append(Node(node.op_type, inputs, results, attrs, domain=node.domain, name=node.name))
    for info in proto.output:
        if graph.parent is None and scope[info.name].type is None:
            scope[info.name].type = _type(info)
    graph.set_outputs([scope[info.name] for info in proto.output])


def _open_constant(type: TensorType, rng: np.random.Generator | None) -> Constant:
    if rng is not None:
        return Constant(random_array(rng, type.dtype, [_size(d, {}) for d in type.dims]))

    def unavailable() -> np.ndarray:
        raise OpenConstantError

    return Constant(unavailable, type)


def _type(info: onnx.ValueInfoProto) -> TensorType:
    tensor = info.type.tensor_type
    dims: list[Dim] = [
        parse_dim(d.dim_param)
        if d.dim_param
        else d.dim_value
        if d.HasField("dim_value")
        else sym(f"{info.name}_{i}")
        for i, d in enumerate(tensor.shape.dim)
    ]
    return TensorType(BY_ONNX[tensor.elem_type].name, tuple(dims))


def _read_attribute(
    proto: onnx.AttributeProto,
    graph: Graph,
    scope: Mapping[str, Value],
    rng: np.random.Generator | None,
) -> Attr:
    if proto.type == onnx.AttributeProto.GRAPH:
        inner = Graph(proto.g.name or proto.name, parent=graph)
        _fill(inner, proto.g, scope, rng)
        return inner
    value = onnx.helper.get_attribute_value(proto)
    if proto.type == onnx.AttributeProto.TENSOR:
        return Constant(onnx.numpy_helper.to_array(value))
    if proto.type == onnx.AttributeProto.STRING:
        text: str = value.decode()
        return text
    if proto.type == onnx.AttributeProto.STRINGS:
        return tuple(item.decode() for item in value)
    result: Attr = tuple(value) if isinstance(value, list) else value
    return result
