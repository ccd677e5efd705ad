"""Many small models compiled as one: a case is a graph, and its outputs are judged by themselves.

Starting a compiler for each of fifty cases would take most of the time of a test. The graphs are
written in ONNX's text syntax; a value that is declared without data and that no node makes is a
weight and gets seeded random data.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

from burnish.check.metrics import compare_output
from burnish.check.reference import Reference
from burnish.check.result import OutputComparison
from burnish.driver import compile_artifact
from burnish.options import CompileOptions
from burnish.requests import CompileReport, CompileRequest
from burnish.runtime import load

OPSET = 23


@dataclass(frozen=True)
class Case:
    """One small graph.

    Attributes:
        text: ``(inputs) => (outputs) <weights> { nodes }``.
        operators: Operators and composites that it is compiled to, in any order.
        sizes: Sizes of its symbolic dims at run time.
        feeds: Inputs at run time; others are standard normal.
        weights: Weights with data of their own.
        note: What the compiler says of it, if it says something.
    """

    text: str
    operators: tuple[str, ...] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
    feeds: Mapping[str, np.ndarray] = field(default_factory=dict)
    weights: Mapping[str, np.ndarray] = field(default_factory=dict)
    note: str = ""


def model_of(case: Case, name: str, rng: np.random.Generator) -> onnx.ModelProto:
    """The case as a model of its own, every name in it starting with ``name``."""
    header = f'<ir_version: 10, opset_import: ["": {OPSET}]>\n'
    model = onnx.parser.parse_model(f"{header}g {case.text}")
    graph = model.graph
    made = {output for node in graph.node for output in node.output}
    for info in list(graph.value_info):
        if info.name in made:
            continue
        shape = [d.dim_value for d in info.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        data = case.weights.get(info.name)
        if data is None:
            fan = max(int(np.prod(shape[1:])), 1) if len(shape) > 1 else 1
            data = (rng.standard_normal(shape) / np.sqrt(fan)).astype(dtype)
        graph.initializer.append(numpy_helper.from_array(data, info.name))
        graph.value_info.remove(info)
    for info in (*graph.input, *graph.output):
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param = f"{name}_{dim.dim_param}"
    _rename(graph, f"{name}/")
    return model


def _rename(graph: onnx.GraphProto, prefix: str) -> None:
    """Put ``prefix`` before all names; onnx.compose forgets what branches take from outside."""
    for item in (*graph.input, *graph.output, *graph.initializer, *graph.value_info):
        item.name = prefix + item.name
    for index, node in enumerate(graph.node):
        node.name = f"{prefix}{node.op_type}{index}"
        for names in (node.input, node.output):
            renamed = [prefix + n if n else "" for n in names]
            del names[:]
            names.extend(renamed)
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _rename(attribute.g, prefix)


def feeds_of(
    case: Case, name: str, model: onnx.ModelProto, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Inputs for a case at its sizes."""
    feeds = {}
    for info in model.graph.input:
        local = info.name.removeprefix(f"{name}/")
        if local in case.feeds:
            feeds[info.name] = case.feeds[local]
            continue
        shape = [
            case.sizes[d.dim_param.removeprefix(f"{name}_")] if d.dim_param else d.dim_value
            for d in info.type.tensor_type.shape.dim
        ]
        kind = onnx.helper.tensor_dtype_to_np_dtype(info.type.tensor_type.elem_type)
        feeds[info.name] = rng.standard_normal(shape).astype(kind)
    return feeds


def merge(models: Mapping[str, onnx.ModelProto]) -> onnx.ModelProto:
    """The graphs side by side."""
    first = next(iter(models.values()))
    merged = onnx.ModelProto(ir_version=first.ir_version)
    merged.opset_import.extend(first.opset_import)
    merged.graph.name = "bundle"
    for model in models.values():
        for kind in ("input", "output", "node", "initializer"):
            getattr(merged.graph, kind).extend(getattr(model.graph, kind))
    return merged


def compile_here(
    model: onnx.ModelProto,
    folder: Path,
    loader: Callable[[Path, int], Any] = load,
    **options: Any,
) -> tuple[Any, CompileReport]:
    """Compile without a worker, so that many tests share one process and its imports.

    Returns:
        What ``loader`` makes of the artifact and the number of threads: a CompiledModel, or what
        has the same methods; and the report.
    """
    output = folder / "model.burnish"
    request = CompileRequest(
        model.SerializeToString(), str(output), CompileOptions(**options), overwrite=True
    )
    report = compile_artifact(request)
    return loader(output, options.get("threads", 1)), report


class Bundle:
    """Cases compiled together, and what they give beside onnxruntime."""

    def __init__(
        self,
        cases: Mapping[str, Case],
        seed: int = 0,
        loader: Callable[[Path, int], Any] = load,
        **options: Any,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.cases = cases
        models = {name: model_of(case, name, rng) for name, case in cases.items()}
        self.model = merge(models)
        feeds: dict[str, np.ndarray] = {}
        for name, case in cases.items():
            feeds |= feeds_of(case, name, models[name], rng)
        with Reference(self.model, threads=1) as reference:
            names = [o.name for o in reference.get_outputs()]
            self.expected = dict(zip(names, reference.run(None, feeds), strict=True))
        with tempfile.TemporaryDirectory(prefix="bundle-") as folder:
            compiled, self.report = compile_here(self.model, Path(folder), loader, **options)
            with compiled:
                outputs = [o.name for o in compiled.get_outputs()]
                self.found = dict(zip(outputs, compiled.run(None, feeds), strict=True))
                self.nodes = compiled.manifest.nodes

    def outputs(self, name: str) -> list[OutputComparison]:
        """The outputs of a case, compared as those of one operation."""
        return [
            compare_output(key, 0, self.found.get(key), wanted, numerics="approximates")
            for key, wanted in self.expected.items()
            if key.startswith(f"{name}/")
        ]

    def operators(self, name: str) -> list[str]:
        """The operators and composites that a case was compiled to."""
        return [n.op for n in self.nodes if any(s.startswith(f"{name}/") for s in n.nodes)]

    def check(self, name: str) -> None:
        """Assert that a case computes what onnxruntime does, with the kernels it should use."""
        case = self.cases[name]
        for output in self.outputs(name):
            assert output.passed, f"{output.name}: {output.reason}"
            assert output.scale > 1e-3 or output.dtype == "bool", f"{output.name} is all but zero"
        if case.operators:
            found = sorted(self.operators(name))
            assert found == sorted(case.operators), f"compiled to {found}"
        notes = [note for note in self.report.notes if f"{name}/" in note]
        assert bool(notes) == bool(case.note), notes
        if case.note:
            assert case.note in notes[0], notes[0]
