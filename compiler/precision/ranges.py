"""Measures on calibration samples what a 16-bit type would have to hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from burnish.calibration.data import open_data
from burnish.calibration.measure import observe
from burnish.check.inputs import input_ranges
from burnish.passes.precision import Extent
from burnish.precision.quantize import Progress, model_inputs
from burnish.precision.split import EVERY, JUDGED, SplitSamples

if TYPE_CHECKING:
    from burnish.check.reference import Model
    from burnish.ir import Graph, Value
    from burnish.options import CompileOptions


class MeasuredRanges:
    """The ``measure`` of :class:`burnish.passes.precision.MixedPrecision`.

    Args:
        samples: Calibration samples; gone through once or, for large graphs, several times.
        progress: Gets (phase, done, total).
    """

    def __init__(self, samples: SplitSamples, progress: Progress = lambda *_: None) -> None:
        #: Some are held out: they judge the result.
        self.samples = samples
        self._progress = progress

    @staticmethod
    def of(
        graph: Graph, reference: Model, options: CompileOptions, progress: Progress
    ) -> MeasuredRanges | None:
        """What measures on the samples that the options name; None if they name none.

        Args:
            graph: As it was imported.
            reference: The model it was imported from.
            options: Where calibration samples come from.
            progress: Gets (phase, done, total).

        Raises:
            InputFileError: A file is missing or damaged.
            UsageError: It is no calibration data.
        """
        if options.calibration_data is None:
            return None
        inputs = model_inputs(graph, input_ranges(reference))
        data = open_data(options.calibration_data, inputs, count=options.calibration_samples)
        return MeasuredRanges(SplitSamples(data, EVERY, JUDGED), progress)

    def __call__(self, graph: Graph, values: Sequence[Value]) -> Mapping[str, Extent]:
        """Extents by name of the value, on all samples that are not held out.

        Values without a finite number on any of them are left out.

        Raises:
            CalibrationError: A sample does not fit the model, or onnxruntime fails on it.
        """
        found = {value.name: Extent() for value in values}

        def observer(name: str, array: Any) -> None:
            found[name].add(array)

        def report(done: int, total: int) -> None:
            self._progress("calibrate", done, total)

        observe(graph, values, self.samples, observer, progress=report)
        return {name: extent for name, extent in found.items() if extent.low <= extent.high}
