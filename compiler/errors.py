"""Every error that burnish raises on purpose, with its exit code.

A :class:`BurnishError` says what went wrong, where (the original node or file) and how to fix it.
The command line prints it without a traceback and exits with :attr:`BurnishError.exit_code`.
Anything else that escapes is a bug in burnish.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import ClassVar


def first_few(names: Sequence[str], count: int = 3) -> str:
    """``a, b, c and 5 more``: names for a message that has to stay readable."""
    more = len(names) - count
    return ", ".join(names[:count]) + (f" and {more} more" if more > 0 else "")


def counted(number: int, noun: str) -> str:
    """``1 sample``, ``2 samples``."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


class BurnishError(Exception):
    """Base of all deliberate errors.

    Args:
        message: What is wrong, in one sentence.
        at: Where: an original node name, a file, an input name.
        hint: What the user can do about it.
    """

    exit_code: ClassVar[int] = 4
    title: ClassVar[str] = "error"
    #: The hint where the place that raises has none of its own.
    default_hint: ClassVar[str | None] = None

    def __init__(self, message: str, *, at: str | None = None, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.at = at
        self.hint = hint or self.default_hint

    def __str__(self) -> str:
        lines = [self.message]
        if self.at:
            lines.append(f"  at: {self.at}")
        if self.hint:
            lines.append(f"hint: {self.hint}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        # Errors cross the boundary of the compile worker.
        return (_rebuild, (type(self), self.message, self.at, self.hint))


def _rebuild(
    cls: type[BurnishError], message: str, at: str | None, hint: str | None
) -> BurnishError:
    return cls(message, at=at, hint=hint)


class UsageError(BurnishError):
    """A wrong option, argument or configuration value."""

    exit_code = 2
    title = "usage error"


class InputFileError(BurnishError):
    """An input or output file that is missing, unreadable, damaged or in the way."""

    exit_code = 2
    title = "file error"


class ModelError(BurnishError):
    """The model cannot be imported: it is damaged, ill-typed, cyclic or of an unknown form."""

    exit_code = 3
    title = "model error"
    default_hint = "export it again; onnx.checker.check_model(path, full_check=True) may say more"


class UnsupportedOpError(ModelError):
    """Operators without a lowering; lists all of them, never only the first.

    Attributes:
        operators: Names of the nodes by operator and reason; empty in another process than the one
            that raised.
    """

    title = "unsupported operators"
    operators: Mapping[tuple[str, str], Sequence[str]] = MappingProxyType({})
    default_hint = "onnx.utils.extract_model(...) cuts out the part that can be compiled"


class ShapeError(ModelError):
    """Shapes or dtypes of a node's inputs contradict its operator."""

    title = "shape error"


class VerifyError(BurnishError):
    """The IR breaks one of its invariants: a bug in the pass that ran last."""

    title = "invalid IR"


class PassError(BurnishError):
    """A pass failed; names the pass, the node, and the command that reproduces it."""

    title = "pass error"


class LoweringError(BurnishError):
    """A supported node could not be lowered to a kernel."""

    title = "lowering error"


class CompileError(BurnishError):
    """Code generation, linking or the compile worker failed."""

    title = "compile error"


class InvalidInputError(BurnishError):
    """A run-time input with a wrong name, shape or dtype."""

    title = "invalid input"


class CalibrationError(InvalidInputError):
    """Calibration samples that do not fit the model, or are too few."""

    exit_code = 2
    title = "calibration data"


class RunError(BurnishError):
    """A compiled model failed while it ran."""

    title = "run error"


class ArtifactError(BurnishError):
    """An artifact that is damaged, of another schema, or built for another machine."""

    exit_code = 2
    title = "artifact error"


class TargetUnavailableError(BurnishError):
    """A known target, library, device or precision that is not available here."""

    exit_code = 5
    title = "target unavailable"


class AccuracyError(BurnishError):
    """Outputs differ from the reference by more than the tolerance."""

    exit_code = 10
    title = "accuracy gate failed"


class LatencyError(BurnishError):
    """The latency gate failed."""

    exit_code = 11
    title = "latency gate failed"


class SizeError(BurnishError):
    """The size or memory gate failed."""

    exit_code = 12
    title = "size gate failed"


class PrecisionError(BurnishError):
    """The precision or placement gate failed."""

    exit_code = 13
    title = "precision gate failed"
