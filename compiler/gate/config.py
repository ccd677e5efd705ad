"""``burnish.toml``: what is checked, and what is demanded of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeAlias

from burnish.bench.ratio import RatioPlan
from burnish.options import DimSpec

#: What limits call the artifact of an earlier state, beside the peers.
BASELINE = "baseline"


@dataclass(frozen=True)
class FileInputs:
    """Inputs from ``.npz`` files, one sample each."""

    paths: tuple[Path, ...]


@dataclass(frozen=True)
class ScriptInputs:
    """Inputs from a function of a Python file, which yields samples or returns one.

    Attributes:
        path: The file.
        function: Its name; it is called without arguments.
    """

    path: Path
    function: str


@dataclass(frozen=True)
class DrawnInputs:
    """Random inputs of the kinds that the model shows, see :func:`burnish.check.draw_inputs`.

    Attributes:
        samples: How many; the seed grows by one from each to the next.
        seed: Of the first.
        shapes: Shapes by input name, where the model leaves them open.
    """

    samples: int = 1
    seed: int = 0
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


InputSource: TypeAlias = FileInputs | ScriptInputs | DrawnInputs


@dataclass(frozen=True)
class AccuracyLimits:
    """What an output has to keep; None is not checked.

    Attributes:
        atol: Bound of an element's error in units of the output's root mean square.
        rtol: Bound of an element's error relative to the element, added to the former.
        max_abs: Bound of the largest error.
        max_mean_abs: Bound of the mean error.
        max_rel: Bound of the largest relative error.
        max_rms: Bound of the root-mean-square error.
        min_cosine: Least cosine similarity.
        min_psnr: Least peak signal-to-noise ratio, in dB.
        min_top1: Least share of rows (along the last axis) whose largest element is at the same
            place, over all samples.
    """

    atol: float | None = None
    rtol: float | None = None
    max_abs: float | None = None
    max_mean_abs: float | None = None
    max_rel: float | None = None
    max_rms: float | None = None
    min_cosine: float | None = None
    min_psnr: float | None = None
    min_top1: float | None = None

    @property
    def given(self) -> bool:
        """Whether anything is demanded; otherwise the table of tolerances holds."""
        return any(getattr(self, item.name) is not None for item in fields(self))


@dataclass(frozen=True)
class AccuracyGate:
    """Limits of all outputs, and of single ones in their place."""

    limits: AccuracyLimits = field(default_factory=AccuracyLimits)
    outputs: Mapping[str, AccuracyLimits] = field(default_factory=dict)

    def of(self, output: str) -> AccuracyLimits:
        """The limits of an output."""
        return self.outputs.get(output, self.limits)


@dataclass(frozen=True)
class LatencyGate:
    """Largest ratios of the model's time to a peer's, by peer; ``baseline`` is one."""

    max_ratio: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class SizeGate:
    """Largest artifact: in bytes, and in units of the baseline's."""

    max_bytes: int | None = None
    max_ratio: float | None = None


@dataclass(frozen=True)
class MemoryGate:
    """Largest peak of resident memory in bytes: of the compiler, and of a process that runs."""

    max_compile: int | None = None
    max_run: int | None = None


@dataclass(frozen=True)
class PlacementGate:
    """What the artifact has to attest.

    Attributes:
        min_share: Least share, of the kernels that compute, of those that do it in a precision.
        min_storage: Least share of the same whose results are stored in a precision.
        min_operations: Least share, of the operations of convolutions and matrix products, of
            those in a precision.
        devices: Where kernels may run; empty for anywhere.
        forbid_notes: Patterns (``*`` stands for anything) that no note of the compiler may match.
    """

    min_share: Mapping[str, float] = field(default_factory=dict)
    min_storage: Mapping[str, float] = field(default_factory=dict)
    min_operations: Mapping[str, float] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    forbid_notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ModelSpec:
    """One model, and what is demanded of an artifact that is made of it.

    Attributes:
        name: What reports call it.
        path: The ONNX file.
        threads: Threads of a call; None for all CPUs that the process may use.
        opt_level: Optimization level.
        skip_passes: Passes to leave out.
        input_shapes: As the ``--input-shapes`` of ``burnish compile``.
        calibration_data: Samples that precisions below fp32 are measured on, as the
            ``--calibration-data`` of ``burnish compile``.
        calibration_samples: How many of them are taken; None for all.
        strict: Whether a product in a higher precision than what was asked for is an error.
        quantization: Options of ``int8`` and ``auto``, by the names of Python.
        budget: Options of ``auto``, likewise.
        inputs: Where samples come from; the first sample is also what is timed.
        accuracy: Limits of errors.
        latency: Limits of times.
        size: Limits of the artifact's size.
        memory: Limits of memory.
        placement: Demands on precision and placement.
    """

    name: str
    path: Path
    threads: int | None = None
    opt_level: int = 3
    skip_passes: tuple[str, ...] = ()
    input_shapes: Mapping[str, tuple[DimSpec, ...]] = field(default_factory=dict)
    calibration_data: str | None = None
    calibration_samples: int | None = None
    strict: bool = False
    quantization: Mapping[str, Any] = field(default_factory=dict)
    budget: Mapping[str, Any] = field(default_factory=dict)
    inputs: tuple[InputSource, ...] = (DrawnInputs(),)
    accuracy: AccuracyGate = field(default_factory=AccuracyGate)
    latency: LatencyGate = field(default_factory=LatencyGate)
    size: SizeGate = field(default_factory=SizeGate)
    memory: MemoryGate = field(default_factory=MemoryGate)
    placement: PlacementGate = field(default_factory=PlacementGate)


@dataclass(frozen=True)
class Row:
    """One model for one target at one precision, and what is demanded of it there."""

    model: ModelSpec
    target: str
    precision: str

    @property
    def name(self) -> str:
        """The name in reports and, with safe characters only, of the artifact."""
        return f"{self.model.name}-{self.target}-{self.precision}"

    @property
    def file_name(self) -> str:
        """The name of the artifact in folders of artifacts."""
        safe = "".join(c if c.isalnum() or c in "-_.+" else "_" for c in self.name)
        return f"{safe}.burnish"


@dataclass(frozen=True)
class GateConfig:
    """A whole configuration.

    Attributes:
        path: The file that it was read from.
        rows: What is checked, in the order of the file: models x targets x precisions.
        baseline: Folder of the artifacts that ratios to a baseline are about.
        fail_on_inconclusive: Whether a latency that the noise left undecided fails.
        skip_unrunnable: Whether checks that this machine cannot make (an artifact for another
            CPU) are skipped, where they fail otherwise.
        measure: How ratios of times are measured.
    """

    path: Path
    rows: tuple[Row, ...]
    baseline: Path | None = None
    fail_on_inconclusive: bool = False
    skip_unrunnable: bool = False
    measure: RatioPlan = field(default_factory=RatioPlan)
