"""One calibration sample: arrays by input name, checked against what the model declares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from burnish.check.inputs import InputRange
from burnish.errors import CalibrationError

Array = NDArray[Any]
#: Arrays by input name.
Sample = dict[str, Array]

#: What data loaders of training frameworks add to the inputs of a model.
_LABELS = frozenset({"label", "labels", "label_ids", "target", "targets"})


def named(item: Any, inputs: Sequence[InputRange], where: str) -> Sample:
    """What a source yields as arrays by input name.

    Args:
        item: A mapping by input name; or one array or tensor for a model of one input; or a tuple
            or list of them in the order of the inputs, after which labels may follow.
        inputs: The model's inputs.
        where: How messages call the item.

    Raises:
        CalibrationError: Names or number of the arrays are not those of the model.
    """
    names = [i.name for i in inputs]
    if isinstance(item, Mapping):
        arrays = {str(name): value for name, value in item.items()}
    elif isinstance(item, (list, tuple)):
        if len(item) < len(names):
            raise CalibrationError(
                f"{where} has {len(item)} arrays, the model has {len(names)} inputs",
                hint=f"yield a dict with {', '.join(names)}",
            )
        arrays = dict(zip(names, item, strict=False))
    elif len(names) == 1:
        arrays = {names[0]: item}
    else:
        raise CalibrationError(
            f"{where} is one array, the model has {len(names)} inputs",
            hint=f"yield a dict with {', '.join(names)}",
        )
    missing = [name for name in names if name not in arrays]
    unknown = sorted(set(arrays) - set(names) - _LABELS)
    if missing or unknown:
        what = f"has no array for input {missing[0]!r}" if missing else f"names {unknown[0]!r}"
        raise CalibrationError(
            f"{where} {what}", hint=f"the inputs of the model are {', '.join(names)}"
        )
    return {name: _as_array(arrays[name]) for name in names}


def _as_array(value: Any) -> Array:
    """A NumPy array of an array or a tensor of a training framework."""
    if hasattr(value, "detach"):
        value = value.detach().cpu()
    return np.asarray(value)


def split(sample: Sample, inputs: Sequence[InputRange], where: str) -> Iterator[Sample]:
    """Samples of the model's shape, of arrays that may hold several of them along a first axis.

    An array [N, ...] is N/B samples for an input [B, ...] of a fixed batch B, and N samples for an
    input of one axis less.

    Raises:
        CalibrationError: A shape or type does not fit, a number is not finite, or the arrays hold
            different numbers of samples.
    """
    counts = {i.name: _count(sample[i.name], i, where) for i in inputs}
    several = {name: count for name, count in counts.items() if count}
    if not several:
        yield sample
        return
    if len(set(several.values())) > 1 or len(several) < len(counts):
        found = ", ".join(f"{name}: {count or 1}" for name, count in counts.items())
        raise CalibrationError(f"{where} holds different numbers of samples by input ({found})")
    for index in range(next(iter(several.values()))):
        yield {i.name: _part(sample[i.name], i, index) for i in inputs}


def _count(array: Array, entry: InputRange, where: str) -> int:
    """How many samples an array holds; 0 if it is one as it is."""
    at = f"{where}, input {entry.name!r}"
    if array.dtype != entry.dtype:
        raise CalibrationError(
            f"{at} is {array.dtype}, the model takes {entry.dtype}",
            hint=f"convert it: array.astype('{entry.dtype}')",
        )
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        kind = "NaN" if np.isnan(array).any() else "infinite numbers"
        raise CalibrationError(f"{at} holds {kind}", hint="leave such samples out")
    if array.size == 0:
        raise CalibrationError(f"{at} is empty: shape {array.shape}")
    shape = entry.shape
    if _fits(array.shape, shape):
        return 0
    if _fits(array.shape[1:], shape):
        return int(array.shape[0])
    batch = shape[0] if shape else None
    if isinstance(batch, int) and _fits(array.shape[1:], shape[1:]) and array.shape:
        count, rest = divmod(array.shape[0], batch)
        if count and not rest:
            return int(count)
    spelled = ", ".join("?" if d is None else str(d) for d in shape)
    raise CalibrationError(
        f"{at} has shape {list(array.shape)}, the model takes [{spelled}]",
        hint="or several samples along a first axis",
    )


def _fits(shape: tuple[int, ...], declared: tuple[int | str | None, ...]) -> bool:
    return len(shape) == len(declared) and all(
        not isinstance(d, int) or d == n for n, d in zip(shape, declared, strict=True)
    )


def _part(array: Array, entry: InputRange, index: int) -> Array:
    if array.ndim == len(entry.shape) + 1:
        whole: Array = array[index]
        return whole
    batch = entry.shape[0]
    assert isinstance(batch, int)
    part: Array = array[index * batch : (index + 1) * batch]
    return part
