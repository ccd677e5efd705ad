"""Reading ``burnish.toml``: everything that is wrong with it is said at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from burnish.bench import RatioPlan
from burnish.errors import InputFileError, UsageError
from burnish.gate import config
from burnish.gate.fields import Problems, join
from burnish.gate.schema import document

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_TARGETS = ("x86",)
_PRECISIONS = ("fp32",)
#: Keys that choose rows, and say nothing of them.
_CHOICE = frozenset({"targets", "precisions", "when"})


def load_config(path: str | os.PathLike[str]) -> config.GateConfig:
    """Read and check a configuration; paths in it are relative to its folder.

    Raises:
        InputFileError: It is missing or no TOML.
        UsageError: Lists everything that is wrong in it.
    """
    where = Path(path)
    try:
        written = tomllib.loads(where.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputFileError(
            "no such file", at=str(where), hint="burnish check --init MODEL.onnx writes one"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputFileError(f"it cannot be read: {error}", at=str(where)) from None
    except tomllib.TOMLDecodeError as error:
        raise InputFileError(f"not a TOML file: {error}", at=str(where)) from None
    problems = Problems()
    found = document(where.parent)(written, "", problems)
    if "model" not in written:
        problems.add("", "there is no [[model]]: nothing would be checked")
    rows: list[config.Row] = []
    if not problems.lines:
        for index, model in enumerate(found["model"]):
            rows += _rows(found.get("defaults", {}), model, f"model[{index}]", problems)
        _check_names(rows, problems)
    if problems.lines:
        count = len(problems.lines)
        raise UsageError(
            f"{count} error{'s' if count > 1 else ''} in {where}",
            at="\n      ".join(problems.lines),
            hint="burnish check NEW.toml --init MODEL.onnx writes a file that describes all keys",
        )
    check = found.get("check", {})
    return config.GateConfig(
        path=where,
        rows=tuple(rows),
        baseline=check.get("baseline"),
        fail_on_inconclusive=check.get("inconclusive") == "fail",
        skip_unrunnable=check.get("unrunnable") == "skip",
        measure=RatioPlan(**_arguments(found.get("measure", {}))),
    )


def _merged(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """``over`` on top of ``base``, key by key in the tables of the gates."""
    result = dict(base)
    for key, value in over.items():
        if key in _GATES and key in result:
            result[key] = _merged(result[key], value)
        else:
            result[key] = value
    return result


def _arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    return {key.replace("-", "_"): value for key, value in values.items()}


def _accuracy(values: Mapping[str, Any]) -> config.AccuracyGate:
    common = {key: value for key, value in values.items() if key != "outputs"}
    return config.AccuracyGate(
        config.AccuracyLimits(**_arguments(common)),
        {
            # What is said of one output replaces what is said of all.
            name: config.AccuracyLimits(**_arguments(limits))
            for name, limits in values.get("outputs", {}).items()
        },
    )


_GATES: dict[str, Any] = {
    "accuracy": _accuracy,
    "latency": lambda values: config.LatencyGate(**_arguments(values)),
    "size": lambda values: config.SizeGate(**_arguments(values)),
    "memory": lambda values: config.MemoryGate(**_arguments(values)),
    "placement": lambda values: config.PlacementGate(**_arguments(values)),
}


def _rows(
    defaults: Mapping[str, Any], model: Mapping[str, Any], place: str, problems: Problems
) -> list[config.Row]:
    """The rows of a model, each with what ``when`` says of its target and precision."""
    common = _merged(defaults, model)
    rows, used = [], set()
    for target in common.get("targets", _TARGETS):
        for precision in common.get("precisions", _PRECISIONS):
            values: Mapping[str, Any] = {}
            for source in (defaults, model):
                values = _merged(values, source)
                for index, case in enumerate(source.get("when", ())):
                    if _holds(case, target, precision):
                        values = _merged(values, case)
                        used.add((id(source), index))
            rows.append(config.Row(_spec(values), target, precision))
    for index in range(len(model.get("when", ()))):
        if (id(model), index) not in used:
            problems.add(f"{place}.when[{index}]", "no row has such a target and precision")
    return rows


def _holds(case: Mapping[str, Any], target: str, precision: str) -> bool:
    return target in case.get("targets", (target,)) and precision in case.get(
        "precisions", (precision,)
    )


def _spec(values: Mapping[str, Any]) -> config.ModelSpec:
    built = {
        key: _GATES[key](value) if key in _GATES else value
        for key, value in values.items()
        if key not in _CHOICE
    }
    built.setdefault("name", values["path"].stem)
    return config.ModelSpec(**_arguments(built))


def _check_names(rows: Sequence[config.Row], problems: Problems) -> None:
    """Two artifacts of one name would overwrite each other."""
    first: dict[str, config.Row] = {}
    for row in rows:
        other = first.setdefault(row.file_name, row)
        if other is not row:
            text = f"two rows would be called {row.name}; give one of the models another name"
            problems.add(join("model", "name"), text)
