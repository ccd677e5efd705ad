"""Measures the values of a graph on calibration data, with onnxruntime, in bounded memory.

Every stage of a graph is an ONNX model, so any value of any stage can be measured: it becomes an
output of the model for the time being. One sample is run at a time, and values are measured in
groups that fit the bound together; each group takes a pass over the data. Of values inside If, Loop
and Scan only the extremes are measured.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from operator import length_hint
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from burnish.calibration.bodies import expose, extremes
from burnish.calibration.histogram import Histogram
from burnish.calibration.samples import Sample
from burnish.errors import CalibrationError, ModelError
from burnish.export import save
from burnish.ir import Graph, Value
from burnish.ir.dims import evaluate
from burnish.ir.types import to_numpy

#: Bytes of measured values that a run may hold.
MEMORY = 512 << 20
#: Taken for a size that only a run tells.
_UNKNOWN_SIZE = 64

#: Samples that may still come, where their number is not known.
_MORE = 32

#: Gets a value's name and its array for every sample; of a value inside control flow, only the
#: least and the largest number, and one that is not finite if there are any.
Observer = Callable[[str, Any], None]


def measure(
    graph: Graph,
    values: Sequence[Value],
    data: Iterable[Sample],
    *,
    memory: int = MEMORY,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, Histogram]:
    """Histograms of values of a graph over all samples.

    Args:
        graph: Any stage of a model; it is as before afterwards.
        values: Floating-point values that nodes make, or inputs; inside control flow, where only
            extremes are counted, float32.
        data: The samples.
        memory: Bytes of values that one run may hold.
        progress: Gets the runs done and those expected, as far as they are known.

    Returns:
        A histogram by name of the value.

    Raises:
        CalibrationError: A sample does not fit, or onnxruntime fails on it.
        ModelError: onnxruntime does not load the stage.
    """
    found = {value.name: Histogram() for value in values}
    observe(
        graph, values, data, lambda n, array: found[n].add(array), memory=memory, progress=progress
    )
    return found


def observe(
    graph: Graph,
    values: Sequence[Value],
    data: Iterable[Sample],
    observer: Observer,
    *,
    memory: int = MEMORY,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Hand every value of every sample to ``observer``; see :func:`measure`."""
    inputs = {value.name for value in graph.inputs}
    made = [value for value in values if value.name not in inputs and not is_inside(graph, value)]
    inside = [value.name for value in values if is_inside(graph, value)]
    given = [value.name for value in values if value.name in inputs]
    first: Sample | None = None
    runs, expected = 0, length_hint(data)
    groups: list[list[Value]] = [made]
    for index, sample in enumerate(data):
        if first is None:
            first = sample
            groups = group_values(made, _bindings(graph, sample), memory)
        for name in given:
            observer(name, sample[name])
        if index == 0:
            session = _Session(graph, groups[0], inside)
        session.run(sample, observer, index)
        runs += 1
        # Where nobody knows how many there are, some more are always to come.
        left = max(expected - runs, 0) if expected else _MORE
        progress(runs, (runs + left) * len(groups))
    samples = runs
    progress(runs, samples * len(groups))
    for group in groups[1:]:
        session = _Session(graph, group)
        for index, sample in enumerate(data):
            session.run(sample, observer, index)
            runs += 1
            progress(runs, samples * len(groups))


def is_inside(graph: Graph, value: Value) -> bool:
    """Whether a value belongs to a body of an If, Loop or Scan of a graph."""
    if value.producer is None:
        return value not in graph.inputs
    return value.producer.graph is not graph


def group_values(
    values: Sequence[Value], bindings: dict[str, int], memory: int
) -> list[list[Value]]:
    """Values in groups of at most ``memory`` bytes each, in order; at least one group."""
    groups: list[list[Value]] = [[]]
    held = 0
    for value in values:
        size = _nbytes(value, bindings)
        if groups[-1] and held + size > memory:
            groups.append([])
            held = 0
        groups[-1].append(value)
        held += size
    return groups


def _bindings(graph: Graph, sample: Sample) -> dict[str, int]:
    """Sizes of the symbols that the inputs of a sample fix."""
    found: dict[str, int] = {}
    for value in graph.inputs:
        for dim, size in zip(value.shape, sample[value.name].shape, strict=True):
            found.setdefault(str(dim), int(size))
    return found


def _nbytes(value: Value, bindings: dict[str, int]) -> int:
    size = to_numpy(value.dtype).itemsize
    for dim in value.shape:
        try:
            size *= evaluate(dim, bindings)
        except KeyError:
            size *= _UNKNOWN_SIZE
    return size


class _Session:
    """A graph on onnxruntime, with further outputs.

    Args:
        graph: The graph.
        values: Values of the graph itself.
        inside: Names of values of its bodies.
    """

    def __init__(self, graph: Graph, values: Sequence[Value], inside: Sequence[str] = ()) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        # Only what is fused away would be missing: values that are outputs stay.
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.log_severity_level = 4
        # The arena would keep the largest buffers of all samples.
        options.enable_cpu_mem_arena = False
        self._names = [value.name for value in values]
        self._rows: dict[str, str] = {}
        with tempfile.TemporaryDirectory(prefix="burnish-calibration-") as folder:
            path = Path(folder) / "stage.onnx"
            with _as_outputs(graph, values):
                save(graph, path)
            if inside:
                model = onnx.load(path, load_external_data=False)
                self._rows = expose(model, inside)
                path.write_bytes(model.SerializeToString())
            try:
                self._session = ort.InferenceSession(
                    str(path), options, providers=["CPUExecutionProvider"]
                )
            except Exception as error:  # onnxruntime's exceptions share no base class
                raise ModelError(f"onnxruntime does not load the model: {error}") from error

    def run(self, sample: Sample, observer: Observer, index: int) -> None:
        try:
            names = [*self._names, *self._rows.values()]
            arrays = self._session.run(names, dict(sample)) if names else []
        except Exception as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise CalibrationError(
                f"onnxruntime fails on calibration sample {index}: {lines[0]}"
            ) from error
        for name, array in zip(self._names, arrays, strict=False):
            observer(name, np.asarray(array))
        for name, row in zip(self._rows, arrays[len(self._names) :], strict=True):
            observer(name, extremes(row))


@contextmanager
def _as_outputs(graph: Graph, values: Sequence[Value]) -> Iterator[None]:
    """Let a graph have further outputs."""
    before = graph.outputs
    graph.set_outputs([*before, *(v for v in values if graph not in v.outputs_of)])
    try:
        yield
    finally:
        graph.set_outputs(before)
