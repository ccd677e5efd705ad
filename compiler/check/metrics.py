"""The numbers that compare one array with its reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burnish.check.result import OutputComparison
from burnish.check.tolerances import SCALE_FLOOR, Numerics, Tolerance, tolerance

Array = NDArray[Any]
Float = NDArray[np.float64]


def compare_output(
    name: str,
    case: int,
    actual: Any | None,
    expected: Any,
    atol: float | None = None,
    rtol: float | None = None,
    numerics: Numerics = "model",
) -> OutputComparison:
    """Compare one output; ``atol`` or ``rtol`` given replace the table's bounds.

    NaN and infinities pass only where the reference has the same.
    """
    if actual is None:
        return OutputComparison.failed(name, case, "the compiled model has no such output")
    found, wanted = np.asarray(actual), np.asarray(expected)
    facts: dict[str, Any] = {"dtype": str(wanted.dtype), "shape": wanted.shape}
    if found.dtype != wanted.dtype:
        reason = f"dtype {found.dtype}, expected {wanted.dtype}"
        return OutputComparison.failed(name, case, reason, **facts)
    if found.shape != wanted.shape:
        reason = f"shape {list(found.shape)}, expected {list(wanted.shape)}"
        return OutputComparison.failed(name, case, reason, **facts)
    if wanted.dtype.kind in "OSU":
        return _compare_text(name, case, found, wanted, facts)
    if wanted.dtype.kind == "c":
        # Real and imaginary parts are numbers of their own.
        found, wanted = _parts(found), _parts(wanted)
    if atol is None and rtol is None:
        limit = tolerance(wanted.dtype, numerics)
    else:
        limit = Tolerance(atol or 0.0, rtol or 0.0)
    return _compare_numbers(name, case, found, wanted, limit, facts)


def _parts(values: Array) -> Array:
    return np.stack([values.real, values.imag])


def _compare_text(
    name: str, case: int, found: Array, wanted: Array, facts: dict[str, Any]
) -> OutputComparison:
    different = np.flatnonzero(found != wanted)
    if different.size:
        return OutputComparison.failed(name, case, f"{different.size} strings differ", **facts)
    return OutputComparison(name, case, True, elements=wanted.size, **facts)


def _compare_numbers(
    name: str, case: int, found: Array, wanted: Array, limit: Tolerance, facts: dict[str, Any]
) -> OutputComparison:
    got, ref = found.astype(np.float64).ravel(), wanted.astype(np.float64).ravel()
    facts |= {
        "elements": wanted.size,
        "atol": limit.atol,
        "rtol": limit.rtol,
        "rms_tol": limit.rms,
    }
    finite: NDArray[np.bool_] = np.isfinite(ref)
    special = _special_values(got, ref, finite)
    if special:
        return OutputComparison.failed(name, case, special, **facts)
    if not finite.all():
        got, ref = got[finite], ref[finite]
    if not ref.size:
        return OutputComparison(name, case, True, **facts)
    # 64-bit integers beyond 2**53 lose bits in float64, so equality is asked of the originals.
    equal = bool(np.array_equal(found, wanted, equal_nan=wanted.dtype.kind == "f"))
    error = np.abs(got - ref)
    scale = _rms(ref)
    unit = max(scale, SCALE_FLOOR)
    facts |= _statistics(got, ref, error, scale)
    at = int(error.argmax())
    index = np.unravel_index(int(np.flatnonzero(finite)[at]), wanted.shape)
    facts["worst"] = (tuple(int(i) for i in index), float(got[at]), float(ref[at]))
    reason = "" if equal else _verdict(error, ref, unit, facts["rms"], limit)
    return OutputComparison(name, case, not reason, reason, **facts)


def _special_values(got: Float, ref: Float, finite: NDArray[np.bool_]) -> str:
    """What is wrong with NaN and infinities, if anything is."""
    if np.isfinite(got).all() and finite.all():
        return ""
    for label, mine, theirs in (
        ("NaN", np.isnan(got), np.isnan(ref)),
        ("infinity", np.isposinf(got), np.isposinf(ref)),
        ("-infinity", np.isneginf(got), np.isneginf(ref)),
    ):
        extra, missing = int((mine & ~theirs).sum()), int((theirs & ~mine).sum())
        if extra:
            return f"{label} in {extra} places where the reference has none"
        if missing:
            return f"no {label} in {missing} places where the reference has it"
    return ""


def _statistics(got: Float, ref: Float, error: Float, scale: float) -> dict[str, float]:
    large = np.abs(ref) >= max(1e-3 * scale, np.finfo(np.float64).tiny)
    relative = error[large] / np.abs(ref[large])
    rms, peak = _rms(error), float(np.abs(ref).max())
    return {
        "scale": scale,
        "max_abs": float(error.max()),
        "mean_abs": float(error.mean()),
        "rms": rms,
        "max_rel": float(relative.max()) if relative.size else 0.0,
        "mean_rel": float(relative.mean()) if relative.size else 0.0,
        "cosine": cosine(got, ref),
        "psnr": _psnr(peak, rms),
    }


def cosine(got: Float, ref: Float) -> float:
    """Cosine similarity of two arrays of one shape; 1 for two that are all zeros."""
    got, ref = got.reshape(-1), ref.reshape(-1)
    norms = math.sqrt(float(got @ got)) * math.sqrt(float(ref @ ref))
    if not norms:
        return 0.0 if got.any() or ref.any() else 1.0
    return min(1.0, max(-1.0, float(got @ ref) / norms))


def _psnr(peak: float, rms: float) -> float:
    if not rms:
        return math.inf
    return 20 * math.log10(peak / rms) if peak else -math.inf


def _verdict(error: Float, ref: Float, unit: float, rms: float, limit: Tolerance) -> str:
    allowed = limit.atol * unit + limit.rtol * np.abs(ref)
    beyond = error > allowed
    if beyond.any():
        at = int((error - allowed).argmax())
        return (
            f"{int(beyond.sum())} of {error.size} elements beyond the tolerance, the worst by "
            f"{error[at]:.3g} where {allowed[at]:.3g} is allowed"
        )
    if rms > limit.rms * unit:
        return f"root-mean-square error {rms:.3g}, where {limit.rms * unit:.3g} is allowed"
    if limit.atol == limit.rtol == 0:
        return "values differ where they must be equal"
    return ""


def _rms(values: Float) -> float:
    # Scaled, so that squares neither overflow nor vanish.
    peak = float(np.abs(values).max())
    return peak * math.sqrt(float(np.mean((values / peak) ** 2))) if peak else 0.0
