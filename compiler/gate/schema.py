"""The keys of ``burnish.toml``, and what their values may be."""

from __future__ import annotations

import glob
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from burnish.bench import PEERS, STATISTICS
from burnish.errors import BurnishError, TargetUnavailableError, UsageError
from burnish.gate import config
from burnish.gate.fields import (
    WRONG,
    Field,
    Problems,
    array,
    choice,
    converted,
    mapping,
    number,
    table,
    text,
    whole,
)
from burnish.gate.precision import precision_fields
from burnish.gate.units import parse_size
from burnish.options import PRECISIONS, DimSpec, parse_input_shapes

#: What a ratio of times can be taken to.
AGAINST = (*PEERS, config.BASELINE)
#: Precisions that a share of the kernels can be demanded of.
_ATTESTED = tuple(name for name in PRECISIONS if name != "auto")

_LIMIT = number(0)
_SHARE = number(0, 1)
_RATIO = number(0, above=True)
_ACCURACY: dict[str, Field] = {
    **dict.fromkeys(("atol", "rtol", "max-abs", "max-mean-abs", "max-rel", "max-rms"), _LIMIT),
    "min-cosine": number(-1, 1),
    "min-psnr": number(),
    "min-top1": _SHARE,
}
_OUTPUTS = mapping(table(_ACCURACY))


def _target(spec: Any, where: str, problems: Problems) -> Any:
    """A target that burnish knows; whether it can be built here is the row's business."""
    from burnish.backends.registry import resolve_target

    if text(spec, where, problems) is WRONG:
        return WRONG
    try:
        resolve_target(spec)
    except TargetUnavailableError:
        return spec
    except BurnishError as error:
        return problems.add(where, f"{error.message} ({error.hint})")
    return spec


def _input_shapes(items: Any, where: str, problems: Problems) -> Any:
    spelled = array(text)(items, where, problems)
    if spelled is WRONG:
        return WRONG
    try:
        return parse_input_shapes(spelled)
    except UsageError as error:
        return problems.add(where, f"{error.message} ({error.hint})")


def _drawn_shapes(items: Any, where: str, problems: Problems) -> Any:
    shapes: Mapping[str, tuple[DimSpec, ...]] | Any = _input_shapes(items, where, problems)
    if shapes is WRONG:
        return WRONG
    if any(not isinstance(dim, int) for dims in shapes.values() for dim in dims):
        return problems.add(where, "shapes of random inputs have to be numbers: x:1x3x224x224")
    return shapes


_DRAWN = table({"samples": whole(1), "seed": whole(0), "shapes": _drawn_shapes})


def _inputs(folder: Path, value: Any, where: str, problems: Problems) -> Any:
    """One entry of ``inputs``: files, ``script.py:function`` or a table of what to draw."""
    if isinstance(value, dict):
        found = _DRAWN(value, where, problems)
        return found if found is WRONG else config.DrawnInputs(**found)
    if text(value, where, problems) is WRONG:
        return WRONG
    script, colon, function = value.rpartition(":")
    if colon and script.endswith(".py"):
        path = folder / script
        if not path.is_file():
            return problems.add(where, f"no such file: {path}")
        if not function.isidentifier():
            return problems.add(where, f"{function!r} is not the name of a function")
        return config.ScriptInputs(path, function)
    paths = sorted(glob.glob(str(folder / value)))
    if not paths:
        return problems.add(where, f"no such file: {folder / value}")
    wrong = [path for path in paths if not path.endswith(".npz")]
    if wrong:
        return problems.add(where, f"neither .npz nor script.py:function: {wrong[0]}")
    return config.FileInputs(tuple(map(Path, paths)))


def _file(folder: Path, value: Any, where: str, problems: Problems) -> Any:
    if text(value, where, problems) is WRONG:
        return WRONG
    path = folder / value
    return path if path.is_file() else problems.add(where, f"no such file: {path}")


def _folder(folder: Path, value: Any, where: str, problems: Problems) -> Any:
    return WRONG if text(value, where, problems) is WRONG else folder / value


def _model_fields(folder: Path) -> dict[str, Field]:
    """Keys of ``[defaults]``, and of ``[[model]]`` beside its name and path."""
    size = converted(parse_size, str, int)
    accuracy: dict[str, Field] = {**_ACCURACY, "outputs": _OUTPUTS}
    return {
        "targets": array(_target),
        "precisions": array(choice(PRECISIONS)),
        "threads": whole(1),
        "opt-level": whole(0, 3),
        "skip-passes": array(text, empty=True),
        "input-shapes": _input_shapes,
        **precision_fields(folder),
        "inputs": array(partial(_inputs, folder)),
        "accuracy": table(accuracy),
        "latency": table({"max-ratio": mapping(_RATIO, AGAINST)}),
        "size": table({"max-bytes": size, "max-ratio": _RATIO}),
        "memory": table({"max-compile": size, "max-run": size}),
        "placement": table(
            {
                "min-share": mapping(_SHARE, _ATTESTED),
                "min-storage": mapping(_SHARE, _ATTESTED),
                "min-operations": mapping(_SHARE, _ATTESTED),
                "devices": array(text),
                "forbid-notes": array(text),
            }
        ),
    }


def document(folder: Path) -> Field:
    """The whole file; paths in it are relative to ``folder``."""
    model = _model_fields(folder)
    # Rows are named by what they were called where they are listed.
    when = {**model, "targets": array(text), "precisions": array(text)}
    model["when"] = array(table(when))
    named: dict[str, Field] = {"name": text, "path": partial(_file, folder), **model}
    return table(
        {
            "check": table(
                {
                    "baseline": partial(_folder, folder),
                    "inconclusive": choice(("pass", "fail")),
                    "unrunnable": choice(("fail", "skip")),
                }
            ),
            "measure": table(
                {
                    "confidence": number(0.5, 1, below=True),
                    "time-budget": number(0, above=True),
                    "repeats": whole(1),
                    "statistic": choice(STATISTICS),
                    "warmup": whole(1),
                    "seed": whole(0),
                }
            ),
            "defaults": table(model),
            "model": array(table(named, required=("path",))),
        }
    )
