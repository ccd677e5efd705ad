"""What an assignment of precisions loses, measured on onnxruntime before anything is built."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from burnish.auto.metric import Arrays, Loss, Metric
from burnish.calibration.samples import Sample
from burnish.check.reference import Model, Reference
from burnish.driver import import_model
from burnish.export import save
from burnish.options import CompileOptions
from burnish.passes.base import PassContext
from burnish.passes.manager import PassManager
from burnish.passes.precision import FORMATS, MixedPrecision
from burnish.precision.assignment import Assignment
from burnish.precision.build import lower_products
from burnish.precision.quantize import Measured, prepare


def reference_outputs(model: Model, samples: Sequence[Sample]) -> list[Arrays]:
    """What the unmodified model computes, by name, for each sample."""
    with Reference(model) as session:
        names = [output.name for output in session.get_outputs()]
        return [dict(zip(names, session.run(names, s), strict=True)) for s in samples]


class Evaluator:
    """Measures losses of assignments on a few samples, each assignment once.

    The graph that a build would start from runs on onnxruntime: products of 8 bits between
    QuantizeLinear and DequantizeLinear, tensors of 16 bits behind Casts.

    Args:
        model: The model: a path or its bytes.
        reference: The same for onnxruntime.
        options: Of the compilation.
        measured: Ranges of its values.
        metric: What is lost.
        samples: What to evaluate on.
        evaluations: How many may be made.
    """

    def __init__(
        self,
        model: str | bytes,
        reference: Model,
        options: CompileOptions,
        measured: Measured,
        metric: Metric,
        samples: Sequence[Sample],
        evaluations: int,
    ) -> None:
        self._model, self._reference, self._options = model, reference, options
        self._measured, self._metric, self._samples = measured, metric, samples
        self._wanted = reference_outputs(reference, samples)
        self._known: dict[tuple[object, ...], Loss] = {}
        #: Evaluations that may still be made.
        self.left = evaluations

    def __call__(self, assignment: Assignment) -> Loss:
        """The loss of an assignment."""
        key = (assignment.storage, *sorted(assignment.nodes.items()))
        if key not in self._known:
            self.left -= 1
            self._known[key] = self._measure(assignment)
        return self._known[key]

    def _measure(self, assignment: Assignment) -> Loss:
        graph, _ = import_model(self._model, self._options)
        context = PassContext()
        if assignment.has("int8") or assignment.has("int4"):
            lower_products(
                graph,
                self._reference,
                self._options,
                assignment,
                context,
                measured=self._measured,
            )
        else:
            prepare(graph, context)
        if assignment.storage != "fp32":
            dtype = FORMATS[assignment.storage].dtype
            PassManager([MixedPrecision(dtype, assignment.high)]).run(graph, context)
        with tempfile.TemporaryDirectory(prefix="burnish-auto-") as folder:
            path = Path(folder) / "candidate.onnx"
            save(graph, path, widened=True)
            del graph
            found = reference_outputs(path, self._samples)
        return self._metric.loss(found, self._wanted, self._samples)
