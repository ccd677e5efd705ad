"""Every model of the zoo, compiled, against onnxruntime on the unmodified model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import burnish
from tests.models import ALL, ZOO, feeds
from tests.support.compiled_zoo import CompiledZoo

pytestmark = [pytest.mark.models, pytest.mark.slow]


def test_zoo_is_complete() -> None:
    assert len(ZOO) == 22
    assert sum(model.trained for model in ZOO.values()) == 11
    symbolic = [m for m in ALL.values() if any(isinstance(d, str) for d in _dims(m.name))]
    assert all(len(model.sizes) == 3 for model in symbolic)


def _dims(name: str) -> list[int | str]:
    return [dim for spec in ALL[name].inputs.values() for dim in spec.shape]


@pytest.mark.parametrize("name", ALL)
def test_equal_to_onnxruntime(name: str, zoo_file: Path, compiled_zoo: CompiledZoo) -> None:
    model = ALL[name]
    inputs = [feeds(model, size, seed=seed) for seed, size in enumerate(model.sizes)]
    with compiled_zoo.load(name) as compiled:
        symbolic = {i.name for i in compiled.get_inputs() if not all_fixed(i.shape)}
        report = burnish.compare(compiled, zoo_file, inputs)
    report.raise_if_failed()
    assert symbolic == {
        name for name, spec in model.inputs.items() if any(isinstance(d, str) for d in spec.shape)
    }, "one artifact serves every size"
    for output in report.outputs:
        assert output.scale > 1e-3, f"{output.name} is all but zero: nothing was compared"
        assert output.rms <= model.noise * output.scale, (output.name, output.rms / output.scale)


def all_fixed(shape: list[int | str | None]) -> bool:
    return all(isinstance(dim, int) for dim in shape)


@pytest.mark.parametrize("name", ALL)
def test_threads_do_not_change_the_result(
    name: str, zoo_file: Path, compiled_zoo: CompiledZoo
) -> None:
    model = ALL[name]
    with compiled_zoo.load(name, threads=3) as compiled:
        report = burnish.compare(compiled, zoo_file, feeds(model, model.sizes[0], seed=9))
    report.raise_if_failed()


@pytest.mark.parametrize("name", ["minilm", "ppocr_cls", "silero_ifless"])
def test_calls_from_several_threads_at_once(
    name: str, zoo_file: Path, compiled_zoo: CompiledZoo
) -> None:
    model = ALL[name]
    inputs = [feeds(model, size, seed=s) for s in range(4) for size in model.sizes]
    with compiled_zoo.load(name) as compiled:
        alone = [compiled.run(None, one) for one in inputs]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda one: compiled.run(None, one), inputs))
    for first, second in zip(alone, together, strict=True):
        for a, b in zip(first, second, strict=True):
            assert np.array_equal(a, b)
