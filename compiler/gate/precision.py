"""The keys of ``burnish.toml`` about lower precisions, and what compilations make of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from burnish.errors import UsageError
from burnish.gate.config import Row
from burnish.gate.fields import WRONG, Field, Problems, boolean, suggest, text, whole
from burnish.options import INTEGERS, CompileOptions
from burnish.precision.options import take_budget, take_quantize_options

#: Options of quantization that 16 bits have a use for as well.
_EXCLUSIONS = ("op_types_to_exclude", "nodes_to_exclude")


def compile_options(row: Row) -> CompileOptions:
    """The options of a row's compilation; what its precision has no use for is left out.

    Raises:
        UsageError: They contradict each other, or something is missing.
    """
    model = row.model
    more: dict[str, Any] = {}
    if row.precision != "fp32":
        more = {
            "calibration_data": model.calibration_data,
            "calibration_samples": model.calibration_samples,
            "strict": model.strict,
        }
        chosen = dict(model.quantization)
        if row.precision not in INTEGERS:
            chosen = {name: value for name, value in chosen.items() if name in _EXCLUSIONS}
        more["quantization"] = take_quantize_options(chosen)
    if row.precision == "auto":
        more["budget"] = take_budget(dict(model.budget))
    return CompileOptions(
        target=row.target,
        precision=row.precision,
        threads=model.threads,
        input_shapes=model.input_shapes,
        opt_level=model.opt_level,
        skip_passes=model.skip_passes,
        **more,
    )


def precision_fields(folder: Path) -> dict[str, Field]:
    """Keys of a model and of the defaults; paths are relative to ``folder``."""
    return {
        "calibration-data": partial(_data, folder),
        "calibration-samples": whole(1),
        "strict": boolean,
        "quantization": partial(_options, take_quantize_options),
        "budget": partial(_budget, folder),
    }


def _data(folder: Path, value: Any, where: str, problems: Problems) -> Any:
    """A file, a folder, or ``script.py:function``."""
    if text(value, where, problems) is WRONG:
        return WRONG
    script, colon, function = value.rpartition(":")
    if colon and script.endswith(".py"):
        path = folder / script
        if not function.isidentifier():
            return problems.add(where, f"{function!r} is not the name of a function")
    else:
        path = folder / value
    return str(folder / value) if path.exists() else problems.add(where, f"no such file: {path}")


def _budget(folder: Path, value: Any, where: str, problems: Problems) -> Any:
    """What ``auto`` may lose; a metric's script lies beside the file."""
    found = _options(take_budget, value, where, problems)
    if found is not WRONG and ".py:" in found.get("metric", ""):
        found["metric"] = str(folder / found["metric"])
    return found


def _options(
    take: Callable[[dict[str, Any]], Any], value: Any, where: str, problems: Problems
) -> Any:
    """A table of options, called as those of the command line."""
    if not isinstance(value, dict):
        return problems.add(where, "has to be a table")
    found = {key.replace("-", "_"): entry for key, entry in value.items()}
    left = dict(found)
    try:
        take(left)
    except UsageError as error:
        return problems.add(
            where, f"{error.message} ({error.hint})" if error.hint else error.message
        )
    except (TypeError, AttributeError) as error:
        return problems.add(where, f"a value is of the wrong type: {error}")
    if left:
        known = [key for key in value if key.replace("-", "_") not in left]
        wrong = next(key for key in value if key.replace("-", "_") in left)
        return problems.add(where, f"unknown key '{wrong}'{suggest(wrong, known)}")
    return found
