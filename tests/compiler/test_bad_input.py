"""Whatever is wrong is one clear error: what, where, how to fix it; no traceback, no leftovers.

Every row of the tables is tried on the command line and, where there is one, through the API.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest

import burnish
from burnish.cli.main import main
from tests.support import bad_models as bad

Build = Callable[[Path], Path]


@dataclass(frozen=True)
class Row:
    """One thing that is wrong.

    Attributes:
        build: Writes the model.
        code: Exit code.
        says: What the message contains.
        where: What it points at.
    """

    build: Build
    code: int
    says: tuple[str, ...]
    where: str = "model.onnx"


MODELS = {
    "truncated": Row(bad.truncated, 2, ("not an ONNX model",)),
    "empty": Row(bad.empty, 2, ("not an ONNX model",)),
    "text": Row(bad.text_file, 2, ("not an ONNX model",)),
    "picture": Row(bad.picture, 2, ("not an ONNX model",)),
    "graph without model": Row(bad.bare_graph, 2, ("not an ONNX model",)),
    "external data missing": Row(bad.missing_data, 2, ("external data",), "weights.bin"),
    "external data above": Row(bad.data_above, 3, ("external data", "leaves the folder"), "../"),
    "external data above by detour": Row(
        bad.data_above_by_detour, 3, ("external data", "leaves the folder"), "inner/.."
    ),
    "external data absolute": Row(bad.absolute_data, 3, ("external data", "leaves"), "/"),
    "external data behind a link": Row(
        bad.linked_data, 3, ("external data", "link out of"), "weights.bin"
    ),
    "external data in a linked folder": Row(
        bad.data_in_linked_folder, 3, ("external data", "link out of"), "inner"
    ),
    "external data too short": Row(bad.short_data, 2, ("external data", "16"), "weights.bin"),
    "cyclic": Row(bad.cyclic, 3, ("cycl",), "Add"),
    "undefined value": Row(bad.undefined_value, 3, ("nowhere",), "Add"),
    "value written twice": Row(bad.written_twice, 3, ("y",), "Exp"),
    "mixed types": Row(bad.mixed_types, 3, ("tensor(float)", "tensor(int64)"), "Add"),
    "wrong shapes": Row(bad.wrong_shapes, 3, ("3", "5"), "MatMul"),
    "unknown operators": Row(
        bad.unknown_operators, 3, ("2 nodes", "Frobnicate", "Twiddle", "acme"), "Twiddle_2"
    ),
    "operator of no opset": Row(bad.operator_of_no_opset, 3, ("Reluu",), "Reluu"),
    "future opset": Row(bad.future_opset, 3, ("999",), "999"),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "work"
    path.mkdir()
    return path


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing may be written to the current folder either; test_nothing_is_left looks there."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")


def listing(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


def fails(
    capfd: pytest.CaptureFixture[str], folder: Path, code: int, says: tuple[str, ...], *args: object
) -> str:
    """Run a command that has to fail as told, and leave nothing; returns what it said."""
    before = listing(folder.parent)
    found = main([str(arg) for arg in args])
    out, err = capfd.readouterr()
    assert found == code, err
    assert "Traceback" not in err
    assert "internal error" not in err
    assert out == ""
    for text in says:
        assert text.lower() in err.lower(), err
    assert listing(folder.parent) == before
    return err


@pytest.mark.parametrize("name", MODELS)
def test_model_on_the_command_line(
    name: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    row = MODELS[name]
    path = row.build(folder)
    err = fails(capfd, folder, row.code, row.says, "compile", path, "-o", folder / "out.burnish")
    assert row.where in err
    assert err.count("hint: ") == 1, "one error, with a way out"


@pytest.mark.parametrize("name", MODELS)
def test_model_through_the_api(name: str, folder: Path) -> None:
    row = MODELS[name]
    path = row.build(folder)
    before = listing(folder.parent)
    with pytest.raises(burnish.BurnishError) as error:
        burnish.compile(path)
    assert error.value.exit_code == row.code
    for text in row.says:
        assert text.lower() in str(error.value).lower()
    assert error.value.hint
    assert listing(folder.parent) == before


def occupied_by_a_file(folder: Path) -> Path:
    (folder / "out.burnish").write_text("mine")
    return folder / "out.burnish"


def occupied_by_a_folder(folder: Path) -> Path:
    (folder / "out.burnish").mkdir()
    (folder / "out.burnish" / "notes.txt").write_text("mine")
    return folder / "out.burnish"


def missing_parent(folder: Path) -> Path:
    return folder / "no" / "such" / "out.burnish"


def below_a_file(folder: Path) -> Path:
    (folder / "file").write_text("mine")
    return folder / "file" / "out.burnish"


def unwritable(folder: Path) -> Path:
    if os.geteuid() == 0:
        return Path("/proc/out.burnish")  # which refuses root as well
    locked = folder / "locked"
    locked.mkdir(mode=0o500)
    return locked / "out.burnish"


OUTPUTS = {
    "a file is there": (occupied_by_a_file, ("exists",)),
    "a folder is there": (occupied_by_a_folder, ("exists",)),
    "no parent": (missing_parent, ("create the folder",)),
    "below a file": (below_a_file, ("is a file",)),
    "unwritable": (unwritable, ("cannot write",)),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_output_path(name: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    build, says = OUTPUTS[name]
    model, output = bad.good(folder), build(folder)
    err = fails(capfd, folder, 2, says, "compile", model, "-o", output)
    assert "out.burnish" in err
    assert "hint: " in err


@pytest.mark.parametrize("name", ["a file is there", "a folder is there", "no parent"])
def test_output_path_of_optimize(
    name: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    model, output = bad.good(folder), OUTPUTS[name][0](folder)
    err = fails(capfd, folder, 2, (), "optimize", model, output)
    assert "out.burnish" in err


USAGE = {
    "no model": (("compile",), 2, ("MODEL",)),
    "no such file": (("compile", "no.onnx"), 2, ("no.onnx",)),
    "a folder as model": (("compile", "."), 2, ("folder",)),
    "unknown command": (("compyle", "m.onnx"), 2, ("compyle",)),
    "unknown option": (("compile", "{model}", "--frob"), 2, ("--frob",)),
    "unknown target": (("compile", "{model}", "--target", "z80"), 2, ("z80", "x86")),
    "target of another version": (("compile", "{model}", "--target", "cuda"), 5, ("cuda",)),
    "unknown precision": (("compile", "{model}", "--precision", "fp12"), 2, ("fp12",)),
    "no threads": (("compile", "{model}", "--threads", "0"), 2, ("--threads",)),
    "shape that is none": (("compile", "{model}", "--input-shapes", "x"), 2, ("x",)),
    "shape of no input": (("compile", "{model}", "--input-shapes", "q:1x4"), 2, ("q", "x")),
    "shape that contradicts": (("compile", "{model}", "--input-shapes", "x:1x5"), 2, ("5", "4")),
    "unknown pass": (("compile", "{model}", "--skip-pass", "frob"), 2, ("frob",)),
    "tolerance that is none": (("compare", "{model}", "{model}", "--atol", "-1"), 2, ("--atol",)),
    "inputs missing": (("compare", "{model}", "{model}", "--inputs", "no.npz"), 2, ("no.npz",)),
    "unknown peer": (("bench", "{model}", "--against", "abacus"), 2, ("abacus", "onnxruntime")),
    "no artifact": (("run", "no.burnish", "--inputs", "no.npz"), 2, ("no.burnish",)),
    "model instead of artifact": (("run", "{model}", "--inputs", "{inputs}"), 2, ("artifact",)),
}


@pytest.mark.parametrize("name", USAGE)
def test_usage(name: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    args, code, says = USAGE[name]
    model, inputs = bad.good(folder), folder / "in.npz"
    np.savez(inputs, x=np.ones((2, 4), np.float32))
    filled = [arg.format(model=model, inputs=inputs) for arg in args]
    fails(capfd, folder, code, says, *filled)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("artifact")
    with burnish.compile(bad.good(folder)) as model:
        return model.save(folder / "good.burnish")


X = np.ones((2, 4), np.float32)
INPUTS: dict[str, tuple[dict[str, np.ndarray], tuple[str, ...]]] = {
    "wrong name": ({"z": X}, ("missing: 'x'", "unknown: 'z'")),
    "missing": ({}, ("missing: 'x'",)),
    "one too many": ({"x": X, "z": X}, ("unknown: 'z'",)),
    "wrong rank": ({"x": X[0]}, ("rank", "expected 2, got 1")),
    "wrong size": ({"x": X[:, :3]}, ("axis 1", "expected 4, got 3")),
    "wrong dtype": ({"x": X.astype(np.float64)}, ("float32", "float64")),
    "integers": ({"x": X.astype(np.int64)}, ("float32", "int64")),
    "text": ({"x": np.array([["a"] * 4])}, ("float32", "U1")),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_of_a_run(
    name: str, artifact: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    feeds, says = INPUTS[name]
    with burnish.load(artifact) as model:
        with pytest.raises(burnish.BurnishError) as error:
            model.run(None, feeds)
        assert error.value.exit_code == 4
        assert error.value.hint
        assert all(text in str(error.value) for text in says)
        assert model.run(None, {"x": X})[0].shape == (2, 4), "the model still works"
    if not feeds:
        return  # an archive of nothing is refused as such
    np.savez(folder / "in.npz", **feeds)
    outputs = folder / "out.npz"
    fails(
        capfd, folder, 4, says, "run", artifact, "--inputs", folder / "in.npz", "--outputs", outputs
    )


def test_unknown_output(artifact: Path) -> None:
    with (
        burnish.load(artifact) as model,
        pytest.raises(burnish.BurnishError, match="no output 'q'") as error,
    ):
        model.run(["q"], {"x": X})
    assert "'y'" in str(error.value.hint)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 damaged", b"text"])
def test_inputs_file_that_is_damaged(
    content: bytes, artifact: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = folder / "in.npz"
    path.write_bytes(content)
    fails(capfd, folder, 2, ("in.npz",), "run", artifact, "--inputs", path)


def test_outputs_file_that_exists(
    artifact: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    np.savez(folder / "in.npz", x=X)
    taken = folder / "out.npz"
    taken.write_text("mine")
    args = ("run", artifact, "--inputs", folder / "in.npz", "--outputs", taken)
    fails(capfd, folder, 2, ("exists", "out.npz"), *args)
    assert taken.read_text() == "mine"


def test_artifact_that_is_damaged(
    artifact: Path, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    np.savez(folder / "in.npz", x=X)
    with burnish.load(artifact) as model:
        for file in ("manifest.json", "model.so"):
            copy = model.save(folder / f"{file}.burnish")
            content = (copy / file).read_bytes()
            (copy / file).write_bytes(content[: len(content) // 2])
            err = fails(capfd, folder, 2, (), "run", copy, "--inputs", folder / "in.npz")
            assert f"{file}.burnish" in err


def heavy(folder: Path) -> Path:
    """A model with 32 MB of weights."""
    model = onnx.parser.parse_model(
        bad.HEADER + "g (float[n, 2048] x) => (float[n, 4096] y) { y = MatMul(x, w) }"
    )
    weights = np.random.default_rng(0).standard_normal((2048, 4096)).astype(np.float32)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weights, "w"))
    path = folder / "heavy.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def small_disk(folder: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    disk = folder / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(disk)]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here; test_file_size_limit stands in")
    try:
        yield disk
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def cli(*args: object, **options: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "burnish", *map(str, args)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,  # type: ignore[call-overload]
    )


def test_full_disk(folder: Path, small_disk: Path) -> None:
    process = cli("compile", heavy(folder), "-o", small_disk / "out.burnish")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2, err
    assert "No space left" in err
    assert "hint: free some space" in err
    assert "Traceback" not in err
    assert out == ""
    assert list(small_disk.iterdir()) == []


def test_file_size_limit(folder: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    model = heavy(folder)
    process = cli("compile", model, "-o", folder / "out.burnish", preexec_fn=limit)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 2, err
    assert "File too large" in err
    assert "Traceback" not in err
    assert out == ""
    assert listing(folder) == {"heavy.onnx"}


def children(pid: int) -> set[int]:
    """Processes that descend from ``pid``."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended meanwhile
        parents[int(stat.parent.name)] = int(fields[1])
    found, fresh = set(), {pid}
    while fresh:
        fresh = {child for child, parent in parents.items() if parent in fresh} - found
        found |= fresh
    return found


@pytest.mark.parametrize("to_group", [True, False], ids=["terminal", "kill"])
def test_interrupt_in_the_middle(folder: Path, to_group: bool) -> None:
    process = cli("compile", heavy(folder), "-o", folder / "out.burnish")
    deadline = time.monotonic() + 120
    # The artifact's temporary folder shows that the worker is at work.
    while not any(name.endswith(".tmp") for name in listing(folder)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    workers = children(process.pid)
    assert workers
    if to_group:
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does
    else:
        process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert err.strip() == "interrupted"
    assert out == ""
    assert listing(folder) == {"heavy.onnx"}
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
