"""Inputs of the right kind for a model, seeded, and never zeros: zeros hide bugs.

Kinds:
    normal: Standard normal.
    image: A normalised picture: smooth structure and noise, roughly within ±2.
    pixels: The same in units of 8-bit pixels with the mean subtracted.
    text: Pages of dark text: the text detector answers anything else with nothing but zeros.
    ids: Uniform integers below ``high``; the first element is ``high - 1``.
    mask: Ones with padding at the end of each row but the first.
    audio: Two tones and noise, another pitch for each row.
    music: The same with much noise: a network that takes logarithms of a spectrum and divides by
        the smallest multiplies every rounding by thousands where the sound has gaps.
    state: A recurrent state within ±1.
    rate: The sampling rate, 16000 unless the size says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from tests.models.registry import InputSpec, Size, ZooModel
from tests.models.text import page

Array = NDArray[np.generic]
Shape = tuple[int, ...]


def feeds(model: ZooModel, size: Size | None = None, *, seed: int = 0) -> dict[str, Array]:
    """Draw one set of inputs of ``model`` at ``size`` (default: the one that is benchmarked)."""
    size = model.bench if size is None else size
    rng = np.random.default_rng(seed)
    return {name: _draw(spec, size, rng) for name, spec in model.inputs.items()}


def _draw(spec: InputSpec, size: Size, rng: np.random.Generator) -> Array:
    shape = tuple(size[dim] if isinstance(dim, str) else dim for dim in spec.shape)
    if spec.kind == "ids":
        values = rng.integers(0, spec.high, shape)
        values.flat[0] = spec.high - 1
        return values.astype(spec.dtype)
    if spec.kind == "rate":
        return np.array(size.get("rate", 16000), spec.dtype)
    return _KINDS[spec.kind](shape, rng).astype(spec.dtype)


def _normal(shape: Shape, rng: np.random.Generator) -> Array:
    return rng.standard_normal(shape)


def _image(shape: Shape, rng: np.random.Generator) -> Array:
    rows, columns = np.meshgrid(*(np.arange(n) for n in shape[-2:]), indexing="ij")
    phase = rng.uniform(0, 6, shape[:-2])[..., None, None]
    return np.sin(rows / 9.0 + phase) * np.cos(columns / 13.0) + 0.5 * rng.standard_normal(shape)


def _pixels(shape: Shape, rng: np.random.Generator) -> Array:
    planes = _image((shape[0], shape[3], *shape[1:3]), rng)
    return 50.0 * np.moveaxis(planes.astype(np.float64), 1, 3)


def _text(shape: Shape, rng: np.random.Generator) -> Array:
    height, width = shape[2:]
    scale = max(1, min(4, height // 16))
    rows = range(scale, max(height - 7 * scale, scale + 1), 14 * scale)

    def picture() -> Array:
        words = ["".join(rng.choice(list("ABCDEFGHKLMNPRSTUXYZ2345679"), 5)) for _ in rows]
        lines = [
            (top, int(rng.integers(width // 8)), scale, word)
            for top, word in zip(rows, words, strict=True)
        ]
        return page(height, width, lines) + 0.02 * rng.standard_normal((3, height, width))

    return np.stack([picture() for _ in range(shape[0])])


def _mask(shape: Shape, rng: np.random.Generator) -> Array:
    lengths = rng.integers(1, shape[-1] + 1, shape[:-1])
    lengths.flat[0] = shape[-1]
    return (np.arange(shape[-1]) < lengths[..., None]).astype(np.int64)


def _audio(shape: Shape, rng: np.random.Generator) -> Array:
    rows, samples = shape[0], int(np.prod(shape[1:]))
    time = np.arange(samples) / 16000
    pitch = rng.uniform(150, 600, (rows, 1))
    tones = 0.3 * np.sin(2 * np.pi * pitch * time) + 0.1 * np.sin(2 * np.pi * 3.1 * pitch * time)
    return (tones + 0.02 * rng.standard_normal((rows, samples))).reshape(shape)


def _music(shape: Shape, rng: np.random.Generator) -> Array:
    return _audio(shape, rng) + 0.3 * rng.standard_normal(shape)


def _state(shape: Shape, rng: np.random.Generator) -> Array:
    return np.tanh(rng.standard_normal(shape))


_KINDS: dict[str, Callable[[Shape, np.random.Generator], Array]] = {
    "normal": _normal,
    "image": _image,
    "pixels": _pixels,
    "text": _text,
    "mask": _mask,
    "audio": _audio,
    "music": _music,
    "state": _state,
}
