"""The manifest of an artifact: what it needs, what it takes and gives, and what was done to it.

A tree of frozen dataclasses with one JSON form. Reading checks every field's presence and type, so
that the code behind it may rely on them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from burnish.artifact.dtypes import DATA_TYPES
from burnish.errors import ArtifactError

#: Grows with every change that older or newer code would misread.
SCHEMA_VERSION = 4
#: Why a tactic was taken where there was nothing to choose.
ONLY_TACTIC = "the only tactic"

#: Names of the files of an artifact.
MANIFEST_NAME = "manifest.json"
LIBRARY_NAME = "model.so"
WEIGHTS_NAME = "weights.safetensors"

#: A dimension: its size, the name (or arithmetic expression) of a symbolic one, None if unknown.
Dim = int | str | None


@dataclass(frozen=True)
class TensorInfo:
    """An input, output or weight: name, dtype (a key of ``DATA_TYPES``) and shape."""

    name: str
    dtype: str
    shape: tuple[Dim, ...]

    def __post_init__(self) -> None:
        if self.dtype not in DATA_TYPES:
            raise ArtifactError(f"unknown element type {self.dtype!r}", at=self.name)


@dataclass(frozen=True)
class Condition:
    """What the model demands of the sizes of its symbolic dims.

    Attributes:
        kind: ``equal``, ``broadcast`` (equal, or one of the two is 1) or ``at_least``.
        left: A dim, as text.
        right: The other.
        node: Original name of the node that demands it.
    """

    kind: str
    left: str
    right: str
    node: str


@dataclass(frozen=True)
class TargetInfo:
    """What the code was compiled for.

    Attributes:
        name: The target as the user named it (``x86``).
        isa: The row of the instruction-set table (``avx512``).
        machine: Machine name as ``platform.machine()`` gives it (``x86_64``).
        features: CPU flags, spelled as in /proc/cpuinfo, without which the code must not be run.
        mcpu: The CPU model that LLVM generated code for.
        device: Where the kernels run: ``cpu`` or ``cuda``.
    """

    name: str
    isa: str
    machine: str
    features: tuple[str, ...]
    mcpu: str = ""
    device: str = "cpu"


@dataclass(frozen=True)
class NodeInfo:
    """One operation of the compiled graph: the attestation of where and how it runs.

    Attributes:
        name: Name of the node in the optimized graph.
        op: Its operator, with the domain unless it is ONNX's own (``burnish::Conv``, ``Reshape``).
        precision: What it computes in (``fp32``, ``int8``, or a dtype where nothing is computed).
            Sums of 16-bit products are always fp32.
        placement: Where it runs (``cpu``, ``cuda``).
        kernel: Its function in the library, as it appears in profiles; empty if it is only a view.
        nodes: Names of the nodes of the user's model that it came from.
        storage: What its result lies in, which may be narrower than what it computes in.
        reason: Why it is in fp32, where a lower precision was asked for.
        detail: How the kernel does it (tile, tensor cores).
        tactic: Which of the ways to compute a composite was taken (``winograd-f2``); empty where
            there is one only.
        why: Why it was taken: estimated costs, or what was measured.
        flops: Operations of a call, multiply-adds as two: a number, or an expression of symbolic
            dims. 0 where nothing is counted.
        nbytes: Bytes that a call reads and writes, each operand once: likewise.
        weights: What its weights lie in (``int8``, ``int4``), where that is narrower than what it
            computes in.
    """

    name: str
    op: str
    precision: str
    placement: str
    kernel: str
    nodes: tuple[str, ...]
    storage: str = ""
    reason: str = ""
    detail: str = ""
    tactic: str = ""
    why: str = ""
    flops: str = "0"
    nbytes: str = "0"
    weights: str = ""


@dataclass(frozen=True)
class PassInfo:
    """One pass that ran, in order, with the number of nodes before and after it."""

    name: str
    nodes_before: int
    nodes_after: int


@dataclass(frozen=True)
class OutputCheck:
    """How far one output was from the reference when the artifact was verified."""

    name: str
    max_abs: float
    max_rel: float
    tolerance: str
    passed: bool


@dataclass(frozen=True)
class Verification:
    """The comparison with the reference that was made when the artifact was built.

    Attributes:
        reference: What it was compared with, e.g. ``onnxruntime 1.31.1, optimizations disabled``.
        passed: The verdict over all outputs.
        outputs: Each output's errors.
    """

    reference: str
    passed: bool
    outputs: tuple[OutputCheck, ...] = ()


@dataclass(frozen=True)
class FileInfo:
    """A file of the artifact.

    Attributes:
        size: Bytes.
        sha256: Of the whole file.
        quick: For large files, a SHA-256 of parts of it, that is checked at every loading: see
            :func:`burnish.artifact.weights.quick_digest`. Empty for a file that is read whole.
    """

    size: int
    sha256: str
    quick: str = ""


@dataclass(frozen=True)
class Manifest:
    """Everything that is known of a compiled model, besides its code and its weights' values.

    Attributes:
        model_name: The graph's name.
        model_sha256: Of the model file that was compiled, external data included.
        target: What it was compiled for.
        inputs: In the order of ``main``'s leading arguments.
        outputs: In the order of the tuple that ``main`` returns.
        weights: In the order of ``main``'s trailing arguments; shapes are of the packed data.
        nodes: The compiled operations in the order of execution.
        libraries: Libraries whose operations the model calls (``onednn``): it needs them to run.
        passes: The passes that ran.
        options: The options that decided what was built, by name.
        tools: Versions of the tools that built it, by name.
        symbols: Bounds (inclusive) of symbolic dims, where the user gave some.
        conditions: What else the sizes must satisfy.
        verification: The result of the check against the reference; None if it was not made.
        files: Size and hashes of the other files, by name; filled in by the writer.
        schema_version: Version of this format.
    """

    model_name: str
    model_sha256: str
    target: TargetInfo
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    weights: tuple[TensorInfo, ...] = ()
    nodes: tuple[NodeInfo, ...] = ()
    libraries: tuple[str, ...] = ()
    passes: tuple[PassInfo, ...] = ()
    options: dict[str, str] = field(default_factory=dict)
    tools: dict[str, str] = field(default_factory=dict)
    symbols: dict[str, tuple[int, int]] = field(default_factory=dict)
    conditions: tuple[Condition, ...] = ()
    verification: Verification | None = None
    files: dict[str, FileInfo] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION

    def to_json(self) -> str:
        """The manifest as text; equal manifests give equal text."""
        values = {"schema_version": self.schema_version} | _plain(self)
        return json.dumps(values, indent=1, ensure_ascii=False, allow_nan=False) + "\n"

    @staticmethod
    def from_json(text: str, *, at: str | None = None) -> Manifest:
        """Read a manifest.

        Args:
            text: What :meth:`to_json` wrote.
            at: The file, for messages.

        Raises:
            ArtifactError: It is no manifest, is damaged, or has another schema version.
        """
        damaged = "compile the model again: the artifact is damaged"
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ArtifactError(
                f"the manifest is not valid JSON: {error}", at=at, hint=damaged
            ) from None
        if not isinstance(values, dict) or "schema_version" not in values:
            raise ArtifactError("the manifest has no schema_version", at=at, hint=damaged)
        version = values["schema_version"]
        if version != SCHEMA_VERSION:
            raise ArtifactError(
                f"the artifact has schema version {version}, this burnish reads {SCHEMA_VERSION}",
                at=at,
                hint="load it with the burnish that compiled it, or compile the model again",
            )
        try:
            return cast(Manifest, _decode(Manifest, values, "manifest"))
        except _DecodeError as error:
            raise ArtifactError(str(error), at=at, hint=damaged) from None


class _DecodeError(Exception):
    """A value of the wrong type; the message says where."""


def _plain(value: Any) -> Any:
    """Dataclasses and tuples to dicts and lists."""
    if dataclasses.is_dataclass(value):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    if isinstance(value, Mapping):
        return {key: _plain(value[key]) for key in sorted(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)  # JSON has no spelling for it
    return value


@functools.cache
def _fields(cls: type) -> tuple[dict[str, Any], frozenset[str]]:
    """Types of a dataclass's fields, and the names of those without a default."""
    hints = typing.get_type_hints(cls)
    missing = dataclasses.MISSING
    required = frozenset(
        f.name
        for f in dataclasses.fields(cls)
        if f.default is missing and f.default_factory is missing
    )
    return hints, required


def _decode(kind: Any, value: Any, where: str) -> Any:
    """``value`` from JSON as ``kind``: a dataclass, tuple, dict, union or scalar type."""
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return _decode_dataclass(kind, value, where)
    origin = typing.get_origin(kind)
    if origin is tuple:
        return _decode_tuple(typing.get_args(kind), value, where)
    if origin is dict:
        if not isinstance(value, dict):
            raise _DecodeError(f"{where} is not an object")
        item = typing.get_args(kind)[1]
        return {key: _decode(item, entry, f"{where}.{key}") for key, entry in value.items()}
    if origin in (types.UnionType, typing.Union):
        return _decode_union(typing.get_args(kind), value, where)
    if kind is float and (type(value) is int or value in ("inf", "-inf", "nan")):
        return float(value)
    if type(value) is not kind:
        raise _DecodeError(f"{where} is {value!r:.60}, not of type {kind.__name__}")
    return value


def _decode_dataclass(kind: type, value: Any, where: str) -> Any:
    if not isinstance(value, dict):
        raise _DecodeError(f"{where} is not an object")
    hints, required = _fields(kind)
    for name in required:
        if name not in value:
            raise _DecodeError(f"{where} has no field {name!r}")
    # Unknown fields are an error: a typing mistake must not turn into a default.
    for name in value:
        if name not in hints:
            raise _DecodeError(f"{where} has an unknown field {name!r}")
    return kind(**{n: _decode(hints[n], entry, f"{where}.{n}") for n, entry in value.items()})


def _decode_tuple(kinds: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise _DecodeError(f"{where} is not a list")
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        return tuple(_decode(kinds[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(value) != len(kinds):
        raise _DecodeError(f"{where} has {len(value)} entries instead of {len(kinds)}")
    return tuple(
        _decode(k, v, f"{where}[{i}]") for i, (k, v) in enumerate(zip(kinds, value, strict=True))
    )


def _decode_union(kinds: tuple[Any, ...], value: Any, where: str) -> Any:
    for kind in kinds:
        if kind is type(None):
            if value is None:
                return None
        elif dataclasses.is_dataclass(kind):
            if isinstance(value, dict):
                return _decode(kind, value, where)
        elif type(value) is kind:
            return value
    raise _DecodeError(f"{where} has the wrong type: {value!r:.60}")
