"""Samples: the inputs that a model is checked and timed on."""

from __future__ import annotations

import importlib.util
import inspect
import itertools
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burnish.check import draw_inputs, load_inputs
from burnish.errors import UsageError
from burnish.gate.config import DrawnInputs, FileInputs, InputSource, ScriptInputs

Feeds = dict[str, NDArray[Any]]

#: Samples that are taken of a function that never stops.
MOST_SAMPLES = 1000


def samples(
    sources: Sequence[InputSource], model: Path, declared: Sequence[Any] = ()
) -> Iterator[Feeds]:
    """All samples of a model, one after the other.

    Args:
        sources: Where they come from.
        model: The ONNX file, which random inputs are drawn for.
        declared: What the compiled model says of its inputs (name, shape).

    Yields:
        Arrays by input name.

    Raises:
        InputFileError: A file is no ``.npz``.
        UsageError: A function is missing, fails, or yields something else; or an input cannot be
            drawn.
    """
    for source in sources:
        if isinstance(source, FileInputs):
            yield from map(load_inputs, source.paths)
        elif isinstance(source, ScriptInputs):
            yield from _generated(source)
        else:
            yield from _drawn(source, model, declared)


def first_sample(
    sources: Sequence[InputSource], model: Path, declared: Sequence[Any] = ()
) -> Feeds:
    """The first of :func:`samples`, which is what is timed; the arguments and errors are alike."""
    return next(samples(sources, model, declared))


def _drawn(source: DrawnInputs, model: Path, declared: Sequence[Any]) -> Iterator[Feeds]:
    for i in range(source.samples):
        yield draw_inputs(model, shapes=source.shapes, seed=source.seed + i, like=declared)


def _generated(source: ScriptInputs) -> Iterator[Feeds]:
    where = f"{source.path}:{source.function}"
    function = load_function(source)
    try:
        made = function()
    except Exception as error:
        raise _failed(where, error) from error
    if isinstance(made, Mapping):
        made = [made]
    if not isinstance(made, Iterable):
        raise UsageError(
            f"it returned {type(made).__name__}", at=where, hint="yield arrays by input name"
        )
    iterator, count = iter(made), 0
    for count in itertools.count():
        try:
            sample = next(iterator, None)
        except Exception as error:
            raise _failed(where, error) from error
        if sample is None:
            break
        if count == MOST_SAMPLES:
            raise UsageError(f"it yields more than {MOST_SAMPLES} samples", at=where)
        yield _checked(sample, where)
    if not count:
        raise UsageError("it yields no samples", at=where)


def load_function(source: ScriptInputs) -> Callable[[], Any]:
    """The function of a script, which may import what lies beside it.

    Raises:
        UsageError: The script fails, or has no such function without parameters.
    """
    where = f"{source.path}:{source.function}"
    name = f"burnish_inputs_{source.path.stem}"
    spec = importlib.util.spec_from_file_location(name, source.path)
    if spec is None or spec.loader is None:
        raise UsageError("not a Python file", at=str(source.path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look it up
    sys.path.insert(0, str(source.path.parent.resolve()))
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise _failed(where, error) from error
    finally:
        del sys.path[0]
    function = getattr(module, source.function, None)
    if not callable(function):
        names = [n for n, v in vars(module).items() if inspect.isfunction(v) and n[0] != "_"]
        raise UsageError(
            f"the script has no function {source.function!r}",
            at=str(source.path),
            hint=f"its functions are {', '.join(names)}" if names else None,
        )
    found: Callable[[], Any] = function
    return found


def _failed(where: str, error: Exception) -> UsageError:
    frame = error.__traceback__
    line = 0
    while frame is not None:
        if frame.tb_frame.f_code.co_filename == where.rpartition(":")[0]:
            line = frame.tb_lineno
        frame = frame.tb_next
    place = f" in line {line}" if line else ""
    return UsageError(f"it fails{place}: {type(error).__name__}: {error}", at=where)


def _checked(sample: Any, where: str) -> Feeds:
    if not isinstance(sample, Mapping) or not sample:
        raise UsageError(
            f"it yields {type(sample).__name__}, not arrays by input name",
            at=where,
            hint="yield dictionaries: {'x': numpy array}",
        )
    return {str(name): np.asarray(value) for name, value in sample.items()}
