"""What a compilation is asked to do, and what it says it did. Plain data: both cross processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from burnish.options import CompileOptions
from burnish.precision.assignment import Assignment

if TYPE_CHECKING:
    from burnish.check import RecordedReference
    from burnish.passes.manager import PassRecord
    from burnish.precision.quantize import Measured

#: Called with (phase, done, total).
Progress: TypeAlias = "Callable[[str, int, int], None]"


@dataclass(frozen=True)
class CompileRequest:
    """What to compile.

    Attributes:
        model: Path of an ONNX file, or a serialized ModelProto.
        output: The artifact's folder.
        options: How.
        overwrite: Replace an artifact that is there.
        name: What the model is called in messages.
        reference: What the checks compare with; None for the model itself on onnxruntime.
        assignment: Precisions of single products; None for those of the options.
        measured: What was measured of the model's values before, instead of on calibration data.
    """

    model: str | bytes
    output: str
    options: CompileOptions
    overwrite: bool = False
    name: str = "model"
    reference: RecordedReference | None = None
    assignment: Assignment | None = None
    measured: Measured | None = None

    @property
    def precisions(self) -> Assignment:
        """Precisions of the products."""
        return self.assignment or Assignment.constant(self.options.precision)


@dataclass(frozen=True)
class CompileReport:
    """What was done.

    Attributes:
        output: The artifact.
        target: Canonical spelling of the target.
        seconds: Wall time by phase.
        passes: One record for each run of a pass.
        notes: Lines of the importer, the passes and the lowering for the user.
        nodes: Nodes of the optimized graph by operator.
        kernels: Number of distinct kernels.
        weight_bytes: Size of the packed weights.
        peak_memory_bytes: The most memory that the compile worker held, files that it maps
            included; 0 where the system does not tell.
        comparison: The comparison with the reference as plain data, if it was made.
        kept: Why nodes of the model stay higher than the lowest precision that was asked for.
        data_files: Files beside the model that hold its external data, by name.
        cached: Whether the artifact came whole from the compile cache; then ``seconds`` and
            ``peak_memory_bytes`` are this call's, and all else the compilation's that made it.
        kernels_reused: Kernels whose machine code came from the compile cache; None without one.
        kernels_built: The others.
        tuning: A :class:`~burnish.tuning.TuningReport` as plain data, if tactics were measured.
        precision: A :class:`~burnish.auto.result.AutoReport` as plain data, of ``auto``.
    """

    output: str
    target: str
    seconds: dict[str, float]
    passes: tuple[PassRecord, ...]
    notes: tuple[str, ...]
    nodes: dict[str, int]
    kernels: int
    weight_bytes: int
    peak_memory_bytes: int = 0
    comparison: dict[str, Any] | None = None
    kept: dict[str, str] = field(default_factory=dict)
    data_files: tuple[str, ...] = ()
    cached: bool = False
    kernels_reused: int | None = None
    kernels_built: int | None = None
    tuning: dict[str, Any] | None = None
    precision: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {"schema_version": 1, **asdict(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> CompileReport:
        """What :meth:`to_dict` of the same version of burnish made, before or after JSON."""
        from burnish.passes.manager import PassRecord

        fields = {name: value for name, value in values.items() if name != "schema_version"}
        for name in ("notes", "data_files"):
            fields[name] = tuple(fields[name])
        fields["passes"] = tuple(
            PassRecord(**{**record, "notes": tuple(record["notes"])}) for record in fields["passes"]
        )
        return cls(**fields)
