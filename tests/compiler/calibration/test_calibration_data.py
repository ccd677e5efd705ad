"""Calibration samples from every kind of source, and what is wrong with bad ones."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from burnish.calibration import open_data
from burnish.calibration.samples import Sample
from burnish.check.inputs import InputRange
from burnish.errors import BurnishError, CalibrationError, InputFileError, UsageError

RNG = np.random.default_rng(3)
X = InputRange("x", np.dtype(np.float32), (1, 4))
IDS = InputRange("ids", np.dtype(np.int64), ("batch", "length"), high=9)


def floats(*shape: int) -> Any:
    """Standard normal float32."""
    return RNG.standard_normal(shape, dtype=np.float32)


def samples(source: Any, *inputs: InputRange, count: int | None = None) -> list[Sample]:
    """All samples of a source."""
    return list(open_data(source, inputs or (X,), count=count))


SEVERAL = floats(5, 4)


@pytest.mark.parametrize(
    "source",
    [
        [{"x": row[None]} for row in SEVERAL],
        [row[None] for row in SEVERAL],
        [(row[None], 7) for row in SEVERAL],
        [{"x": SEVERAL}],
        [{"x": SEVERAL[:, None]}],
        [{"x": SEVERAL[:3], "labels": 1}, {"x": SEVERAL[3:]}],
        (row[None] for row in SEVERAL),
    ],
    ids=["dicts", "arrays", "labelled", "batched", "stacked", "batches", "generator"],
)
def test_forms_of_samples(source: Any) -> None:
    data = open_data(source, (X,))
    for _ in range(2):  # also what can be read only once
        np.testing.assert_array_equal(np.concatenate([s["x"] for s in data]), SEVERAL)


class Reader:
    """As onnxruntime.quantization.CalibrationDataReader."""

    def __init__(self) -> None:
        self.rows = iter(SEVERAL)

    def get_next(self) -> dict[str, Any] | None:
        """The next sample."""
        row = next(self.rows, None)
        return None if row is None else {"x": row[None]}


def test_a_data_reader_of_onnxruntime_is_read_once_and_kept() -> None:
    data = open_data(Reader(), (X,), count=4)
    assert len(list(data)) == 4
    np.testing.assert_array_equal(np.concatenate([s["x"] for s in data]), SEVERAL[:4])


def test_a_torch_data_loader() -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    dataset = torch.utils.data.TensorDataset(torch.from_numpy(SEVERAL), torch.arange(5))
    data = open_data(torch.utils.data.DataLoader(dataset, batch_size=2), (X,))
    np.testing.assert_array_equal(np.concatenate([s["x"] for s in data]), SEVERAL)


def test_files_folders_and_functions(tmp_path: Path) -> None:
    np.savez(tmp_path / "b.npz", x=SEVERAL[2:])
    np.savez(tmp_path / "a.npz", x=SEVERAL[:2])
    script = tmp_path / "make.py"
    script.write_text(
        "import numpy as np\ndef data():\n"
        f"    yield {{'x': np.load(r'{tmp_path / 'a.npz'}')['x']}}\n"
        "def number():\n    return 3\ndef broken():\n    return 1 / 0\n"
    )
    assert len(samples(str(tmp_path / "b.npz"))) == 3
    found = samples(tmp_path)
    np.testing.assert_array_equal(np.concatenate([s["x"] for s in found]), SEVERAL)
    assert len(samples(f"{script}:data")) == 2
    with pytest.raises(UsageError, match=r"no calibration data: int(.|\n)*make.py:number"):
        samples(f"{script}:number")
    with pytest.raises(UsageError, match="ZeroDivisionError"):
        samples(f"{script}:broken")
    with pytest.raises(UsageError, match="has no function 'missing'"):
        samples(f"{script}:missing")
    with pytest.raises(UsageError, match="a script without its function"):
        samples(script)


def test_a_model_of_symbolic_batch_takes_batches_as_they_are() -> None:
    ids = RNG.integers(1, 9, (6, 3))
    (sample,) = samples([{"ids": ids}], IDS)
    assert sample["ids"].shape == (6, 3)


def spoiled(value: float) -> Any:
    """A sample with one number that is not finite."""
    array = floats(1, 4)
    array[0, 2] = value
    return [{"x": array}]


@pytest.mark.parametrize(
    ("source", "count", "message"),
    [
        ([], None, "the calibration data holds no samples"),
        ([{"x": floats(1, 4)}], 2, "holds 1 sample, 2 were asked for"),
        ([{"y": floats(1, 4)}], None, "sample 0 has no array for input 'x'"),
        ([{"x": floats(1, 4), "z": 1}], None, "sample 0 names 'z'"),
        ([{"x": floats(1, 5)}], None, r"input 'x' has shape \[1, 5\], the model takes \[1, 4\]"),
        ([{"x": floats(1, 4)}, {"x": floats(3)}], None, r"sample 1, input 'x' has shape \[3\]"),
        ([{"x": floats(0, 4)}], None, "is empty"),
        ([{"x": np.ones((1, 4))}], None, "is float64, the model takes float32"),
        (spoiled(np.nan), None, "sample 0, input 'x' holds NaN"),
        (spoiled(np.inf), None, "sample 0, input 'x' holds infinite numbers"),
        ([()], None, "sample 0 has 0 arrays, the model has 1 inputs"),
    ],
)
def test_bad_samples_are_named(source: Any, count: int | None, message: str) -> None:
    with pytest.raises(CalibrationError, match=message):
        samples(source, count=count)


def test_inputs_of_different_numbers_of_samples() -> None:
    two = [{"x": SEVERAL, "other": SEVERAL[:3]}]
    with pytest.raises(CalibrationError, match=r"different numbers of samples .*x: 5, other: 3"):
        samples(two, X, InputRange("other", np.dtype(np.float32), (1, 4)))
    with pytest.raises(CalibrationError, match="one array, the model has 2 inputs"):
        samples([floats(1, 4)], X, IDS)


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        ("absent.npz", InputFileError, "no such calibration data"),
        ("absent.py:data", InputFileError, "no such script"),
        (3.5, UsageError, "no calibration data: float"),
    ],
)
def test_what_is_no_source(source: Any, error: type[BurnishError], message: str) -> None:
    with pytest.raises(error, match=message):
        samples(source)


def test_damaged_and_empty_places(tmp_path: Path) -> None:
    with pytest.raises(InputFileError, match=r"holds no \.npz or \.npy files"):
        samples(tmp_path)
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 not an archive")
    with pytest.raises(InputFileError, match="cannot be read"):
        samples(tmp_path)
    with pytest.raises(UsageError, match="at least 1, not 0"):
        samples([SEVERAL[:1]], count=0)


def test_a_source_that_was_left_half_way_is_not_taken_for_all() -> None:
    def rows() -> Iterator[Any]:
        yield from SEVERAL[:, None]

    data = open_data(rows(), (X,))
    next(iter(data))
    with pytest.raises(UsageError, match="left half-way"):
        list(data)
