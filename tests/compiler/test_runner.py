"""``burnish_run`` and the C interface for artifacts, on this machine."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from burnish.artifact import SCHEMA_VERSION, read_manifest
from burnish.artifact.dtypes import DATA_TYPES
from burnish.backends.registry import resolve_target
from burnish.cli.main import main
from burnish.driver import compile_artifact
from burnish.options import CompileOptions
from burnish.requests import CompileRequest
from burnish.runtime.runner import SOURCES
from tests.models.store import cache_dir
from tests.support.onnx_text import parse
from tests.support.qemu import runner

pytestmark = pytest.mark.slow  # the program is built once for each state of its sources

MODEL = """
m (float[n, 4] x, float[m, 4] y, int64[2] k) => (float[p, 4] sum, int64[2] twice)
<float[4, 4] w = {1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 5, 7, 2, 4, 6, 9}>
{
  a = MatMul(x, w)
  sum = Add(a, y)
  twice = Add(k, k)
}
"""


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runner") / "model.burnish"
    compile_artifact(CompileRequest(parse(MODEL).SerializeToString(), str(path), CompileOptions()))
    return path


@pytest.fixture
def damaged(artifact: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(artifact, tmp_path / "damaged.burnish"))


def call(*arguments: Any) -> subprocess.CompletedProcess[str]:
    command = [str(runner()), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def inputs(folder: Path, **arrays: np.ndarray) -> list[str]:
    """Save arrays and name them as arguments."""
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    return [f"{name}={folder / name}.npy" for name in arrays]


def feeds(n: int = 3, m: int = 3) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.standard_normal((n, 4), np.float32),
        "y": rng.standard_normal((m, 4), np.float32),
        "k": np.array([5, -7]),
    }


def refused(done: subprocess.CompletedProcess[str], code: int, message: str) -> None:
    """One line on stderr, nothing on stdout."""
    assert done.returncode == code, done
    assert re.search(message, done.stderr), done.stderr
    assert done.stderr.startswith("burnish_run: ")
    assert done.stderr.count("\n") == 1
    assert not done.stdout


@pytest.mark.parametrize(("n", "m"), [(3, 3), (1, 5), (4, 1)])
def test_runs(artifact: Path, tmp_path: Path, n: int, m: int) -> None:
    given = feeds(n, m)
    done = call(artifact, *inputs(tmp_path, **given), "-o", tmp_path, "--threads", 2)
    assert done.returncode == 0, done.stderr
    load, run, *files = done.stdout.splitlines()
    assert re.fullmatch(r"load [\d.]+ ms", load)
    assert re.fullmatch(r"run  [\d.]+ ms", run)
    assert files == [f"{name} -> {tmp_path}/{name}.npy" for name in ("sum", "twice")]
    w = np.array([1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 5, 7, 2, 4, 6, 9], np.float32).reshape(4, 4)
    found = np.load(tmp_path / "sum.npy")
    np.testing.assert_allclose(found, given["x"] @ w + given["y"], rtol=1e-5, atol=1e-5)
    assert np.load(tmp_path / "twice.npy").tolist() == [10, -14]


def test_times_as_json(artifact: Path, tmp_path: Path) -> None:
    done = call(artifact, *inputs(tmp_path, **feeds()), "--repeat", 3, "--json")
    times = json.loads(done.stdout)
    assert times["load_ms"] > 0
    assert len(times["run_ms"]) == 3
    assert times["outputs"] == {}


def test_output_names_that_are_no_file_names(tmp_path: Path) -> None:
    """They say where they went."""
    model = parse("m (float[2] x) => (float[2] a, float[2] b) { a = Neg(x) b = Exp(x) }")
    names = ['../a/"b:0', '../a/"b\t0']
    for value, name in zip(model.graph.output, names, strict=True):
        value.name = name
    for node, name in zip(model.graph.node, names, strict=True):
        node.output[0] = name
    path = tmp_path / "model.burnish"
    compile_artifact(CompileRequest(model.SerializeToString(), str(path), CompileOptions()))
    x = np.array([1, 2], np.float32)
    done = call(path, *inputs(tmp_path, x=x), "-o", tmp_path, "--json")
    written = json.loads(done.stdout)["outputs"]
    assert list(written) == names
    assert [written[name] for name in names] == [
        f"{tmp_path}/_.._a__b_0.npy",
        f"{tmp_path}/_.._a__b_0_.npy",
    ]
    assert np.load(written[names[0]]).tolist() == [-1, -2]
    np.testing.assert_allclose(np.load(written[names[1]]), np.exp(x), rtol=1e-5)


def test_the_same_tables_as_in_python() -> None:
    header = (SOURCES / "burnish_runtime.h").read_text()
    assert f"#define BURNISH_SCHEMA_VERSION {SCHEMA_VERSION}\n" in header
    rows = re.findall(
        r'\{"(\w+)", (?:"(\w+)"|nullptr), \{kDL(\w+), (\d+), 1\}\}',
        (SOURCES / "manifest.cc").read_text(),
    )
    codes = {"Int": 0, "UInt": 1, "Float": 2, "Bfloat": 4, "Complex": 5, "Bool": 6}
    expected = [(r.name, r.safetensors, r.code, r.bits) for r in DATA_TYPES.values()]
    assert [(name, safe, codes[code], int(bits)) for name, safe, code, bits in rows] == expected


BAD_ARGUMENTS = {
    "no model": ([], "no model given"),
    "unknown option": (["m", "--fast"], "unknown option --fast"),
    "no value": (["m", "--threads"], "--threads wants a value"),
    "no number": (["m", "--threads", "two"], "--threads wants a number of at least 1, not 'two'"),
    "no threads": (["m", "--threads", "0"], "at least 1"),
    "no input": (["m", "x.npy"], "not an input: 'x.npy'; write NAME=FILE.npy"),
    "twice": (["m", "x=a", "x=b"], "'x' is given twice"),
    "missing": (["/nowhere/m.burnish"], "no such file or folder: /nowhere/m.burnish"),
    "no artifact": (["/"], "not an artifact, it has no manifest.json"),
}


@pytest.mark.parametrize("name", BAD_ARGUMENTS)
def test_bad_arguments(name: str) -> None:
    arguments, message = BAD_ARGUMENTS[name]
    refused(call(*arguments), 2, message)


def test_help() -> None:
    done = call("--help")
    assert done.returncode == 0
    assert done.stdout.startswith("usage: burnish_run MODEL.burnish [NAME=FILE.npy ...]")


BAD_INPUTS: dict[str, tuple[dict[str, Any], int, str]] = {
    "missing": ({"k": None}, 2, r"no file for the input 'k'; the model takes x\[n, 4\], y\[m, 4\]"),
    "unknown": ({"z": np.ones(2)}, 2, "the model has no input 'z'"),
    "dtype": ({"x": np.ones((3, 4))}, 2, "elements of type <f8 instead of <f4"),
    "rank": ({"x": np.ones(4, np.float32)}, 4, "'x' has a wrong rank: 1; the model takes x: float"),
    "size": ({"x": np.ones((3, 5), np.float32)}, 4, "'x' has a wrong size of axis 1: 5"),
    "fixed": ({"k": np.ones(3, np.int64)}, 4, "'k' has a wrong size of axis 0: 3"),
    "condition": ({"y": np.ones((2, 4), np.float32)}, 4, "sizes do not fit.*3 and 2"),
    "order": ({"x": np.asfortranarray(np.ones((3, 4), np.float32))}, 2, "Fortran order"),
}


@pytest.mark.parametrize("name", BAD_INPUTS)
def test_bad_inputs(artifact: Path, tmp_path: Path, name: str) -> None:
    changes, code, message = BAD_INPUTS[name]
    given = {k: v for k, v in (feeds() | changes).items() if v is not None}
    refused(call(artifact, *inputs(tmp_path, **given)), code, message)


@pytest.mark.parametrize("size", [0, 5, 9, 40, 127, 150])
def test_truncated_input(artifact: Path, tmp_path: Path, size: int) -> None:
    arguments = inputs(tmp_path, **feeds())
    file = tmp_path / "x.npy"
    file.write_bytes(file.read_bytes()[:size])
    message = "is no .npy file|is truncated|bytes of data instead of 48"
    refused(call(artifact, *arguments), 2, message)


def test_unwritable_output(artifact: Path, tmp_path: Path) -> None:
    done = call(artifact, *inputs(tmp_path, **feeds()), "-o", tmp_path / "absent")
    refused(done, 2, "sum.npy cannot be written")


def edit(**changes: Any) -> Callable[[Path], None]:
    """Change fields of the manifest."""

    def apply(path: Path) -> None:
        file = path / "manifest.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return apply


def write(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    """Change the bytes of a file."""

    def apply(path: Path) -> None:
        (path / name).write_bytes(change((path / name).read_bytes()))

    return apply


def flip(at: int) -> Callable[[bytes], bytes]:
    return lambda b: b[:at] + bytes([b[at] ^ 1]) + b[at + 1 :]


def machine(**changes: Any) -> Callable[[Path], None]:
    def apply(path: Path) -> None:
        target = json.loads((path / "manifest.json").read_text())["target"]
        edit(target=target | changes)(path)

    return apply


WEIGHTS, LIBRARY, MANIFEST = "weights.safetensors", "model.so", "manifest.json"
DAMAGES: dict[str, tuple[Callable[[Path], None], int, str]] = {
    "schema": (edit(schema_version=1), 2, "has schema version 1, this runtime reads"),
    "no JSON": (write(MANIFEST, lambda b: b[:200]), 2, "is not valid JSON"),
    "nested": (write(MANIFEST, lambda b: b"[" * 300000), 2, "nested too deeply"),
    "empty": (write(MANIFEST, lambda b: b""), 2, "is not valid JSON"),
    "a list": (write(MANIFEST, lambda b: b"[1]"), 2, "is not an object"),
    "inputs": (edit(inputs=[{"name": "x"}]), 2, r"inputs\[0\] has no field 'dtype'"),
    "dtype": (edit(outputs=[{"name": "x", "dtype": "f4", "shape": []}]), 2, "is no element type"),
    "shape": (edit(weights=[{"name": "x", "dtype": "int8", "shape": [-1]}]), 2, "is negative"),
    "bounds": (edit(symbols={"n": [1]}), 2, "symbols.n is no pair of bounds"),
    "files": (edit(files={}), 2, "the artifact has no model.so"),
    "machine": (machine(machine="riscv64"), 2, "was compiled for riscv64, this machine is"),
    "features": (machine(features=["avx1024"]), 2, r"this CPU lacks .*: avx1024"),
    "device": (machine(device="tpu"), 5, "the device tpu, which this runtime does not have"),
    "library gone": (lambda p: (p / LIBRARY).unlink(), 2, "the artifact has no model.so"),
    "library short": (write(LIBRARY, lambda b: b[:-1]), 2, "model.so has .* bytes instead of"),
    "library changed": (write(LIBRARY, flip(5000)), 2, "model.so was changed after it was written"),
    "weights gone": (lambda p: (p / WEIGHTS).unlink(), 2, "the artifact has no weights"),
    "weights changed": (
        write(WEIGHTS, lambda b: flip(len(b) - 64)(b)),
        2,
        "weights.safetensors was changed",
    ),
    "weights' header": (write(WEIGHTS, flip(7)), 2, "the weights file is truncated"),
    "weights' JSON": (write(WEIGHTS, flip(8)), 2, "header of the weights file is not valid JSON"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_artifact(damaged: Path, tmp_path: Path, name: str) -> None:
    spoil, code, message = DAMAGES[name]
    spoil(damaged)
    refused(call(damaged, *inputs(tmp_path, **feeds())), code, message)


def test_no_change_of_the_manifest_crashes(damaged: Path, tmp_path: Path) -> None:
    """Truncated and with flipped bits, at many places."""
    arguments = inputs(tmp_path, **feeds())
    file = damaged / MANIFEST
    content = file.read_bytes()
    end = content.index(b'"passes"')
    rng = np.random.default_rng(0)
    codes = set()
    for at in rng.integers(0, end, 60).tolist():
        file.write_bytes(flip(at)(content) if at % 2 else content[:at])
        done = call(damaged, *arguments)
        codes.add(done.returncode)
        assert done.returncode in (0, 2, 4, 5), (at, done)
    assert 2 in codes


C_PROGRAM = """
#include <stdio.h>
#include "burnish_runtime.h"
int main(int argc, char** argv) {
  BurnishModel* model;
  int status = burnish_model_load(argv[argc - 1], 0, &model);
  if (status != BURNISH_OK) { puts(burnish_last_error()); return status; }
  const BurnishTensorInfo* x = burnish_model_inputs(model);
  printf("%d %d %s %s %d %d %d\\n", burnish_model_num_inputs(model),
         burnish_model_num_outputs(model), x->name, x->dims[0], (int)x->shape[0],
         (int)x->shape[1], x->dtype.bits);
  float data[8] = {1, 2, 3, 4, 5, 6, 7, 8}, y[4] = {0.5f, 0, 0, 0};
  int64_t k[2] = {1, 2}, shapes[] = {2, 4, 1, 4, 2};
  int32_t ranks[] = {2, 2, 1};
  const void* inputs[] = {data, y, k};
  BurnishTensor outputs[2];
  status = burnish_model_run(model, inputs, ranks, shapes, 1, outputs);
  if (status != BURNISH_OK) { puts(burnish_last_error()); return status; }
  printf("%g %d\\n", ((float*)outputs[0].data)[0], (int)((int64_t*)outputs[1].data)[1]);
  for (int i = 0; i < 2; ++i) burnish_tensor_release(outputs[i].handle);
  burnish_model_free(model);
  return 0;
}
"""


def test_c_program(artifact: Path, tmp_path: Path) -> None:
    """The folder is enough to write one against: a header and a library, in C."""
    folder = runner().parent
    (tmp_path / "main.c").write_text(C_PROGRAM)
    program = tmp_path / "main"
    command = ["gcc", "-Wall", "-Werror", tmp_path / "main.c", "-o", program, f"-I{folder}"]
    command += [f"-L{folder}", "-lburnish_runtime", f"-Wl,-rpath,{folder}"]
    subprocess.run([*command, f"-Wl,-rpath-link,{folder}"], check=True)
    done = subprocess.run([program, artifact], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done
    # 1*1 + 2*5 + 3*1 + 4*2 + 0.5
    assert done.stdout == "3 2 x n -1 4 32\n22.5 4\n"


def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The folder that the command makes works from elsewhere."""
    assert main(["runner", str(tmp_path / "new" / "folder"), "--target", "nowhere"]) == 2
    assert not (tmp_path / "new").exists()
    capsys.readouterr()
    assert main(["runner", str(tmp_path / "a"), "--cache-dir", str(cache_dir())]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/a/burnish_run\n"
    moved = shutil.move(tmp_path / "a", tmp_path / "b")
    found = {path.name for path in Path(moved).iterdir()}
    assert found == {
        "burnish_run",
        "burnish_runtime.h",
        "libburnish_runtime.so",
        "libtvm_ffi.so",
        "libtvm_runtime.so",
    }
    done = subprocess.run([Path(moved, "burnish_run"), "--help"], env={}, check=False)
    assert done.returncode == 0


def test_reads_what_python_wrote(artifact: Path) -> None:
    """The test's own artifact has what the checks are about."""
    manifest = read_manifest(artifact)
    assert manifest.weights
    assert manifest.conditions
    assert manifest.files[WEIGHTS].quick


def test_sizes_and_branches_that_depend_on_data(tmp_path: Path) -> None:
    """The virtual machine finds what it calls for them without Python."""
    model = parse(
        """
        m (float[n, 3] x, bool flag) => (int64[2, k] where, float[n, 3] y)
        {
          where = NonZero(x)
          y = If(flag) <
            then_branch = t () => (float[n, 3] a) { a = Neg(x) },
            else_branch = e () => (float[n, 3] b) { b = Abs(x) }
          >
        }
        """
    )
    path = tmp_path / "model.burnish"
    compile_artifact(CompileRequest(model.SerializeToString(), str(path), CompileOptions()))
    x = np.array([[0, -1.5, 2], [3, 0, 0]], np.float32)
    for flag in (True, False):
        files = inputs(tmp_path, x=x, flag=np.array(flag))
        done = call(path, *files, "-o", tmp_path)
        assert done.returncode == 0, done.stderr
        assert np.load(tmp_path / "where.npy").tolist() == [[0, 0, 1], [1, 2, 0]]
        np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), -x if flag else abs(x))


@pytest.fixture(scope="module")
def with_onednn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An artifact with an operation of oneDNN."""
    if (missing := resolve_target("x86").backend.libraries["onednn"]()) is not None:
        pytest.skip(str(missing))
    path = tmp_path_factory.mktemp("onednn") / "model.burnish"
    text = "m (float[n, 4] x) => (float[n, 4] y) <float[4, 4] w> { y = MatMul(x, w) }"
    model = parse(text.replace("w>", "w = {1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 5, 7, 2, 4, 6, 9}>"))
    options = CompileOptions(library="onednn")
    compile_artifact(CompileRequest(model.SerializeToString(), str(path), options))
    assert read_manifest(path).libraries == ("onednn",)
    return path


def test_a_library_that_is_not_beside_the_program(with_onednn: Path, tmp_path: Path) -> None:
    done = call(with_onednn, *inputs(tmp_path, x=np.ones((2, 4), np.float32)))
    refused(done, 5, "compiled with oneDNN, which cannot be loaded .*--library onednn")


def test_a_folder_with_onednn(
    with_onednn: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    assert main(["runner", str(folder), "--library", "onednn"]) == 0
    x = np.random.default_rng(2).standard_normal((200, 4), np.float32)
    command = [folder / "burnish_run", with_onednn, *inputs(tmp_path, x=x), "-o", tmp_path]
    subprocess.run([*map(str, command), "--threads", "2"], check=True, env={})
    w = np.array([1, 2, 3, 4, 5, 6, 7, 8, 1, 3, 5, 7, 2, 4, 6, 9], np.float32).reshape(4, 4)
    np.testing.assert_allclose(np.load(tmp_path / "y.npy"), x @ w, rtol=1e-5, atol=1e-4)
