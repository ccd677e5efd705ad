"""Single operators against onnxruntime or onnx.reference: many kernels in one module build."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx.reference
import onnxruntime as ort
import tvm
from onnx import helper, numpy_helper

from burnish.artifact import cpu_features
from burnish.backends.cpu.codegen import build_kernels
from burnish.backends.cpu.isa import ISAS, Isa
from burnish.backends.cpu.rules.node_kernel import node_kernel
from burnish.backends.te_table import NodeKernel
from burnish.ir import Graph, Node, TensorType, Value
from burnish.ir.dims import evaluate, parse_dim
from burnish.ir.graph import Constant
from burnish.ir.infer import infer_node
from burnish.ir.types import BY_NAME, from_numpy
from burnish.lowering import registry
from burnish.lowering.te_context import Symbols

OPSET = 25


@dataclass
class Case:
    """One node and its inputs.

    Attributes:
        op: Operator.
        inputs: Arrays; None for an optional input that is left out.
        attrs: Attributes as onnx.helper takes them.
        const: Inputs that are constants of the model.
        dims: Symbolic shapes: input index to dims such as ``["n", 4]``.
        outputs: Number of outputs.
        rtol: Relative tolerance.
        atol: Absolute tolerance.
        reference: "ort" or "onnx" (onnx.reference, where onnxruntime has no kernel or is wrong).
        expected: Results to use instead of a reference.
        id: Shown in the test's name.
    """

    op: str
    inputs: Sequence[np.ndarray | None]
    attrs: dict[str, Any] = field(default_factory=dict)
    const: Sequence[int] = ()
    dims: dict[int, Sequence[int | str]] = field(default_factory=dict)
    outputs: int = 1
    rtol: float = 2e-6
    atol: float = 2e-6
    reference: str = "ort"
    expected: Sequence[np.ndarray] | None = None
    id: str = ""

    def label(self) -> str:
        shapes = "_".join("x".join(map(str, a.shape)) or "s" for a in self.inputs if a is not None)
        dtype = next((str(a.dtype) for a in self.inputs if a is not None), "")
        return "-".join(filter(None, [self.op, self.id, dtype, shapes]))


def model_of(case: Case) -> onnx.ModelProto:
    names = [f"x{i}" if a is not None else "" for i, a in enumerate(case.inputs)]
    outputs = [f"y{i}" for i in range(case.outputs)]
    node = helper.make_node(case.op, names, outputs, name="node", **case.attrs)
    graph_inputs, initializers = [], []
    for i, array in enumerate(case.inputs):
        if array is None:
            continue
        if i in case.const:
            initializers.append(numpy_helper.from_array(array, names[i]))
        else:
            shape = list(case.dims.get(i, array.shape))
            kind = BY_NAME[from_numpy(array.dtype)].onnx
            graph_inputs.append(helper.make_tensor_value_info(names[i], kind, shape))
    graph = helper.make_graph(
        [node],
        "case",
        graph_inputs,
        [onnx.ValueInfoProto(name=name) for name in outputs],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=11)
    return model


def reference_of(case: Case) -> list[np.ndarray]:
    if case.expected is not None:
        return list(case.expected)
    model = model_of(case)
    feeds = {f"x{i}": a for i, a in enumerate(case.inputs) if a is not None and i not in case.const}
    if case.reference == "onnx":
        return [np.asarray(r) for r in onnx.reference.ReferenceEvaluator(model).run(None, feeds)]
    model = onnx.shape_inference.infer_shapes(model)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def _attr(value: Any) -> Any:
    if isinstance(value, onnx.TensorProto):
        return Constant(numpy_helper.to_array(value))
    return tuple(value) if isinstance(value, list) else value


def node_of(case: Case) -> Node:
    graph = Graph("case")
    graph.opset = {"": OPSET}
    inputs: list[Value | None] = []
    for i, array in enumerate(case.inputs):
        if array is None:
            inputs.append(None)
        elif i in case.const:
            inputs.append(graph.constant(array, f"x{i}"))
        else:
            shape = tuple(
                d if isinstance(d, int) else parse_dim(d) for d in case.dims.get(i, array.shape)
            )
            value = graph.value(f"x{i}", TensorType(from_numpy(array.dtype), shape))
            graph.inputs.append(value)
            inputs.append(value)
    outputs: list[Value | None] = [graph.value(f"y{i}") for i in range(case.outputs)]
    attrs = {k: _attr(v) for k, v in case.attrs.items()}
    node = graph.append(Node(case.op, inputs, outputs, attrs, name="node"))
    infer_node(node)
    return node


@dataclass
class Built:
    """The compiled kernels of many cases."""

    module: Any
    kernels: list[tuple[Case, Node, NodeKernel] | Exception]

    def run(self, index: int) -> list[np.ndarray]:
        entry = self.kernels[index]
        if isinstance(entry, Exception):
            raise entry
        case, node, built = entry
        arrays = dict(zip(node.inputs, case.inputs, strict=True))
        bound: dict[str, int] = {}
        for value, array in arrays.items():
            if value is not None and array is not None:
                for dim, size in zip(value.shape, array.shape, strict=True):
                    if not isinstance(dim, int) and str(dim).isidentifier():
                        bound[str(dim)] = size
        outputs = [
            np.full([evaluate(d, bound) for d in v.shape], 77, BY_NAME[v.dtype].numpy)
            for v in built.outputs
        ]
        inputs = [arrays[v] for v in built.inputs]
        tensors = [tvm.runtime.tensor(np.array(a, order="C")) for a in (*inputs, *outputs)]
        scalars = [bound[v.name] for v in built.kernel.scalars]
        self.module[f"case{index}"](*tensors, *scalars)
        return [t.numpy() for t in tensors[len(inputs) :]]


def build(cases: Sequence[Case], isa: Isa | None = None) -> Built:
    """Compile the kernels of all cases in one module."""
    isa = isa or next(i for i in ISAS.values() if cpu_features() >= set(i.features))
    kernels: list[Any] = []
    functions: dict[str, Any] = {}
    for index, case in enumerate(cases):
        try:
            node = node_of(case)
            reason = registry.supported(node)
            if reason is not None:
                raise NotImplementedError(reason)
            built = node_kernel(node, f"case{index}", isa, Symbols())
            functions[f"case{index}"] = built.kernel.func.with_attr(
                "global_symbol", f"case{index}"
            ).without_attr("is_private")
            kernels.append((case, node, built))
        except Exception as error:
            kernels.append(error)
    module = build_kernels(tvm.IRModule(functions), dict(isa.target))
    return Built(module, kernels)


def check(built: Built, index: int, case: Case) -> None:
    """Run one case and compare it with the reference."""
    results = built.run(index)
    for result, expected in zip(results, reference_of(case), strict=True):
        expected = np.asarray(expected)
        assert result.dtype == expected.dtype
        assert result.shape == expected.shape
        if result.dtype.kind in "biu":
            np.testing.assert_array_equal(result, expected)
        else:
            np.testing.assert_allclose(
                result.astype(np.float64), expected.astype(np.float64), case.rtol, case.atol
            )


__all__ = ["ISAS", "Case", "build", "check"]
