"""Options of a compilation, validated once at the edge."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from burnish.errors import UsageError

if TYPE_CHECKING:
    from burnish.precision.options import Budget, QuantizeOptions

#: A dim of ``--input-shapes``: a number, a symbol's name, or bounds of a symbolic dim.
DimSpec: TypeAlias = int | str | tuple[int, int]

#: Precisions that are the same for the whole model.
STORAGES = ("fp32", "fp16", "bf16")
PRECISIONS = (*STORAGES, "int8", "auto")
#: Those in which products compute with integers.
INTEGERS = ("int8", "auto")
#: Whose kernels may be taken besides the generated ones.
LIBRARIES = ("auto", "none", "onednn")
#: Seconds that the measurements of ``--tune`` may take.
TUNE_SECONDS = 60.0


@dataclass(frozen=True)
class CompileOptions:
    """What ``burnish compile`` can be told.

    Attributes:
        target: Target spelling.
        precision: ``fp32``, or ``fp16`` or ``bf16``: tensors are stored in 16 bits and computed
            with as the target does, sums always in fp32; ``int8``: products of 8-bit tensors, all
            else in fp32; ``auto``: what a budget allows and measurements show to be faster.
        threads: Threads per call of the compiled model; None means all that the process may use.
        input_shapes: Input name to dims: numbers fix, names rename, pairs bound a dim.
        opt_level: 0 no rewriting beyond what lowering needs, 1 folding and simplification, 2 and
            3 fusion and layout as well.
        skip_passes: Names of passes to leave out.
        verify_ir: Check the IR's invariants before and after every pass.
        verify_passes: Compare the model with onnxruntime after every pass.
        dump_ir: Folder that gets every stage as an ONNX model and as text.
        check: Compare the compiled model with its reference before the artifact is finished: with
            the model on onnxruntime, or with the torch or Keras model that it was exported from.
        library: Whose operations are taken besides generated kernels: ``auto`` for what the cost
            table or a measurement says, ``none``, or the name of a library (``onednn``) whose
            operations are taken wherever it has one.
        max_fold_growth: Bytes by which constant folding may grow the model.
        cache_dir: Folder that keeps compiled kernels and artifacts, and gives them back when
            nothing that they depend on has changed; it is made if it is missing. It may take 10 GiB
            or what the environment variable ``BURNISH_CACHE_SIZE`` says (``500MB``). Choices of
            tactics that were measured for this machine are taken from it.
        tune: Measure the tactics of the model's composites on this machine before it is built, and
            keep the times in ``cache_dir``; by default in the user's cache folder.
        tune_seconds: Time that the measurements may take; a build that was begun is finished.
        tune_shapes: Input name to shape: sizes of symbolic dims that are measured with. By default
            1 in front, 224 in pictures, and 128 elsewhere.
        calibration_data: Samples of real inputs, which all but ``fp32`` measure ranges on: an
            ``.npz`` file, a folder of them, ``script.py:function``, or what
            :func:`burnish.calibration.open_data` takes besides. Without them, ``int8`` quantizes
            products of constant weights by the range of each call.
        calibration_samples: Samples to take of them; None for all there are.
        quantization: How ``int8`` and ``auto`` quantize; None for the defaults.
        budget: What ``auto`` may lose; None for the defaults.
        strict: Fail where a product computes in a higher precision than what was asked for, unless
            it was excluded by an option or by the budget.
        error_on_cache_miss: Refuse to build what has a choice of tactics that was not measured:
            equal timing caches then make equal artifacts.
    """

    target: str = "x86"
    precision: str = "fp32"
    threads: int | None = None
    input_shapes: Mapping[str, tuple[DimSpec, ...]] = field(default_factory=dict)
    opt_level: int = 3
    skip_passes: tuple[str, ...] = ()
    verify_ir: bool = False
    verify_passes: bool = False
    dump_ir: str | None = None
    check: bool = False
    library: str = "auto"
    max_fold_growth: int = 1 << 20
    cache_dir: str | os.PathLike[str] | None = None
    tune: bool = False
    tune_seconds: float = TUNE_SECONDS
    tune_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    calibration_data: Any = None
    calibration_samples: int | None = None
    quantization: QuantizeOptions | None = None
    budget: Budget | None = None
    strict: bool = False
    error_on_cache_miss: bool = False

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"unknown precision {self.precision!r}", hint=f"one of: {', '.join(PRECISIONS)}"
            )
        self._check_precision()
        if self.library not in LIBRARIES:
            raise UsageError(
                f"unknown library {self.library!r}", hint=f"one of: {', '.join(LIBRARIES)}"
            )
        if self.threads is not None and self.threads < 1:
            raise UsageError(f"threads must be at least 1, got {self.threads}")
        if self.opt_level not in range(4):
            raise UsageError(f"optimization level must be 0 to 3, got {self.opt_level}")
        if not 0 < self.tune_seconds < math.inf:
            raise UsageError(f"the time for tuning must be positive, got {self.tune_seconds} s")
        if self.error_on_cache_miss and self.cache_dir is None and not self.tune:
            raise UsageError(
                "there is no timing cache that could lack something",
                hint="name its folder with --cache-dir (cache_dir)",
            )

    def _check_precision(self) -> None:
        """Refuse what the precision has no use for, or lacks."""
        given = {
            "calibration data": (self.calibration_data is not None, PRECISIONS[1:]),
            "an option of quantization": (self._quantizes(), INTEGERS),
            "an exclusion of nodes": (self.quantization is not None, PRECISIONS[1:]),
            "a budget": (self.budget is not None, ("auto",)),
            "--strict": (self.strict, PRECISIONS[1:]),
        }
        for what, (is_given, precisions) in given.items():
            if is_given and self.precision not in precisions:
                raise UsageError(
                    f"{what} is of no use with precision {self.precision}",
                    hint=f"add --precision {' or '.join(precisions)}",
                )
        if self.calibration_samples is not None and self.calibration_data is None:
            raise no_samples()
        if self.precision in INTEGERS and self.opt_level < 2:
            raise UsageError(
                f"precision {self.precision} needs optimization level 2 or 3: products of integers "
                f"are composites, level {self.opt_level} has none",
            )
        if self.precision == "auto" and self.calibration_data is None:
            raise UsageError(
                "precision auto measures on samples of real inputs",
                hint="give them with --calibration-data",
            )

    def _quantizes(self) -> bool:
        """Whether options of quantization say more than which nodes are left."""
        how = self.quantization
        return how is not None and not how.only_excludes

    def to_dict(self) -> dict[str, Any]:
        """As plain data, for the manifest."""
        return asdict(self)


def no_samples() -> UsageError:
    """The error of a number of samples where there are none."""
    return UsageError(
        "there are no calibration samples to take a number of",
        hint="give them with --calibration-data",
    )


def parse_input_shapes(items: tuple[str, ...]) -> dict[str, tuple[DimSpec, ...]]:
    """Parse ``x:1x3x224x224``; ``,`` and brackets work too, ``1..8`` bounds, a name renames.

    Raises:
        UsageError: An item is not of that form.
    """
    shapes: dict[str, tuple[DimSpec, ...]] = {}
    for item in items:
        name, colon, text = item.rpartition(":")
        if not colon or not name:
            raise UsageError(
                f"not an input shape: {item!r}", hint="write NAME:1x3x224x224, NAME:batchx3x1..640"
            )
        text = text.strip("[]() ")
        parts = [p.strip() for p in text.split(",")] if "," in text else _split_x(text)
        shapes[name] = tuple(_dim_spec(p, item) for p in parts if p)
    return shapes


def spell_input_shapes(shapes: Mapping[str, tuple[DimSpec, ...]]) -> list[str]:
    """The arguments that :func:`parse_input_shapes` reads as ``shapes``."""

    def spell(dim: DimSpec) -> str:
        return f"{dim[0]}..{dim[1]}" if isinstance(dim, tuple) else str(dim)

    return [f"--input-shapes {name}:{','.join(map(spell, dims))}" for name, dims in shapes.items()]


def _split_x(text: str) -> list[str]:
    # "batchx3x224": an x between a digit (or the end of a name) and what follows.
    parts: list[str] = []
    current = ""
    for i, ch in enumerate(text):
        after = text[i + 1 : i + 2]
        if ch == "x" and current and after and (after.isdigit() or current[-1].isdigit()):
            parts.append(current)
            current = ""
        else:
            current += ch
    return [*parts, current]


def _dim_spec(text: str, item: str) -> DimSpec:
    low, dots, high = text.partition("..")
    if dots and low.isdigit() and high.isdigit():
        if int(low) > int(high):
            raise UsageError(f"empty range {text!r} in {item!r}")
        return (int(low), int(high))
    if text.isdigit():
        return int(text)
    if text.isidentifier():
        return text
    raise UsageError(f"not a dimension: {text!r} in {item!r}")
