"""Calibration data that cannot be used: one clear error on the command line, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from burnish.cli.main import main
from burnish.export import save
from tests.support.golden import parse

NET = """g (float[1,8] x) => (float[1,4] y) <float[8,4] w, float[4] b> {
    p = MatMul(x, w)
    y = Add(p, b)
}"""


def rows(*shape: int) -> np.ndarray:
    """Standard normal float32."""
    return np.random.default_rng(3).standard_normal(shape, dtype=np.float32)


def with_value(value: float) -> np.ndarray:
    """Six samples of which one number is something else."""
    array = rows(6, 8)
    array[4, 5] = value
    return array


def npz(**arrays: np.ndarray) -> Callable[[Path], str]:
    """A file of arrays."""

    def make(folder: Path) -> str:
        np.savez(folder / "data.npz", **arrays)
        return str(folder / "data.npz")

    return make


def file(content: bytes, name: str = "data.npz") -> Callable[[Path], str]:
    """A file of any content."""

    def make(folder: Path) -> str:
        (folder / name).write_bytes(content)
        return str(folder / name)

    return make


def script(text: str, function: str = "samples") -> Callable[[Path], str]:
    """A function of a script."""
    return lambda folder: file(text.encode(), "data.py")(folder) + f":{function}"


def damaged(folder: Path) -> str:
    """An archive whose end is missing."""
    path = Path(npz(x=rows(64, 8))(folder))
    path.write_bytes(path.read_bytes()[:900])
    return str(path)


def broken_entry(folder: Path) -> str:
    """An archive with other bytes in the middle of an array."""
    path = Path(npz(x=rows(64, 8))(folder))
    content = bytearray(path.read_bytes())
    content[400:420] = bytes(20)
    path.write_bytes(content)
    return str(path)


def empty_folder(folder: Path) -> str:
    """A folder without samples."""
    (folder / "empty").mkdir()
    (folder / "empty" / "notes.txt").write_text("none yet")
    return str(folder / "empty")


def mixed_folder(folder: Path) -> str:
    """A folder with one file that does not fit."""
    (folder / "mixed").mkdir()
    np.save(folder / "mixed" / "a.npy", rows(1, 8))
    np.save(folder / "mixed" / "b.npy", rows(1, 9))
    return str(folder / "mixed")


PICKLED = np.array([{"x": 1}, None], object)
CASES: dict[str, tuple[Callable[[Path], str], str]] = {
    "no such file": (lambda folder: str(folder / "absent.npz"), "no such calibration data"),
    "no samples": (npz(x=rows(0, 8)), "is empty: shape (0, 8)"),
    "no arrays": (npz(), "has no array for input 'x'"),
    "wrong shape": (npz(x=rows(6, 9)), "shape [6, 9], the model takes [1, 8]"),
    "wrong name": (npz(z=rows(6, 8)), "has no array for input 'x'"),
    "unknown name": (npz(x=rows(6, 8), z=rows(6, 8)), "names 'z'"),
    "wrong type": (npz(x=rows(6, 8).astype(np.float64)), "float64, the model takes float32"),
    "nan": (npz(x=with_value(np.nan)), "holds NaN"),
    "infinity": (npz(x=with_value(-np.inf)), "holds infinite numbers"),
    "object array": (npz(x=PICKLED), "cannot be read: Object arrays cannot be loaded"),
    "not an archive": (file(b"samples: none\n"), "neither an .npz nor an .npy file"),
    "empty file": (file(b""), "neither an .npz nor an .npy file"),
    "damaged archive": (damaged, "cannot be read"),
    "damaged array": (broken_entry, "cannot be read"),
    "other kind of file": (file(b"1,2,3\n", "data.csv"), "neither an .npz nor an"),
    "empty folder": (empty_folder, "holds no .npz or .npy files"),
    "folder": (mixed_folder, "b.npy, input 'x' has shape [1, 9]"),
    "no script": (lambda folder: str(folder / "absent.py:samples"), "no such script"),
    "no function": (script("def other():\n    return []\n"), "has no function 'samples'"),
    "no function's name": (script("x = 1\n", ""), "has no function ''"),
    "script raises": (script("import no_such_module\n"), "No module named 'no_such_module'"),
    "not python": (script("def samples(:\n"), "SyntaxError"),
    "function raises": (script("def samples():\n    return 1 / 0\n"), "ZeroDivisionError"),
    "generator raises": (
        script("def samples():\n    yield from ()\n    raise OSError('disk')\n"),
        "OSError: disk",
    ),
    "function exits": (script("import sys\ndef samples():\n    sys.exit(3)\n"), "SystemExit"),
    "function gives nothing": (script("def samples():\n    return None\n"), "NoneType"),
    "function gives no samples": (script("def samples():\n    return []\n"), "holds no samples"),
    "items that are none": (script("def samples():\n    return ['a', 'b']\n"), "input 'x' is <U1"),
}


@pytest.mark.parametrize("case", CASES)
def test_each_is_one_clear_error(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make, message = CASES[case]
    save(parse(NET, seed=1), tmp_path / "net.onnx")
    output = tmp_path / "int8.onnx"
    code = main(
        ["quantize", str(tmp_path / "net.onnx"), str(output), "--calibration-data", make(tmp_path)]
    )
    errors = capsys.readouterr().err
    assert code == 2, errors
    assert message in errors
    assert len(errors.splitlines()) <= 3, "what, where, and a hint"
    assert "Traceback" not in errors
    assert not output.exists()


@pytest.mark.parametrize("asked", ["7", "0", "-1", "many"])
def test_fewer_samples_than_asked_for(
    asked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save(parse(NET, seed=1), tmp_path / "net.onnx")
    arguments = ["quantize", str(tmp_path / "net.onnx"), str(tmp_path / "int8.onnx")]
    data = npz(x=rows(6, 8))(tmp_path)
    arguments += ["--calibration-data", data, "--calibration-samples"]
    assert main([*arguments, asked]) == 2
    errors = capsys.readouterr().err
    assert ("holds 6 samples, 7 were asked for" if asked == "7" else asked) in errors
    assert not (tmp_path / "int8.onnx").exists()
    assert main([*arguments, "6"]) == 0


def test_compile_refuses_them_as_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(parse(NET, seed=1), tmp_path / "net.onnx")
    output = tmp_path / "net.burnish"
    data = npz(x=with_value(np.nan))(tmp_path)
    code = main(
        [
            *("compile", str(tmp_path / "net.onnx"), "-o", str(output)),
            *("--precision", "int8", "--calibration-data", data),
        ]
    )
    errors = capsys.readouterr().err
    assert code == 2, errors
    assert "holds NaN" in errors
    assert not output.exists()
