"""``python -m tests.gpu.pack DIR``: all that a bare GPU machine needs, under 60 MiB.

The folder holds artifacts, inputs, onnxruntime's results, the runtime libraries, the parts of
burnish that load a model, and the checks of :mod:`tests.gpu.measure`. ``DIR/run.sh`` on the machine
runs them all: it needs a driver, python3 with numpy and CUDA's runtime library, and compares the
speed with torch where that is installed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from burnish.check import tolerance
from burnish.driver import compile_artifact
from burnish.options import CompileOptions
from burnish.requests import CompileRequest
from burnish.runtime.runner import build_runner
from tests.gpu import compact
from tests.gpu.models import MODELS, GpuModel, reference

LIMIT_BYTES = 60 << 20
_HERE = Path(__file__).resolve().parent
_CHECKOUT = _HERE.parent.parent
_CHECKS = ("__init__.py", "compact.py", "measure.py", "peers.py")
_RUN = """#!/bin/sh
# Runs all checks. The exit code is 0 if every result is right; times are in results.json.
here=$(cd "$(dirname "$0")" && pwd)
cd "$here" || exit 1
# The packages look for the libraries in their own folders; they are the program's.
for file in tvm/lib/libtvm_runtime.so tvm/lib/libtvm_runtime_cuda.so tvm_ffi/lib/libtvm_ffi.so \\
    burnish/runtime/libburnish_runtime.so; do
  mkdir -p "python/$(dirname "$file")" && ln -sf "$here/bin/$(basename "$file")" "python/$file"
done
PYTHONPATH="$here/python" exec python3 -m tests.gpu.measure "$here" "$@"
"""


def main(*arguments: str) -> None:
    """Make the folder; without arguments, as the command line says."""
    options = _options(arguments)
    folder = Path(options.folder).resolve()
    folder.mkdir(parents=True)
    _copy_runtime(folder)
    cases = []
    for name in options.models.split(","):
        for precision in options.precisions.split(","):
            print(f"{name} {precision}", flush=True)
            cases.append(_add_case(folder, MODELS[name], precision, options.target))
    (folder / "cases.json").write_text(json.dumps(cases, indent=1))
    run = folder / "run.sh"
    run.write_text(_RUN)
    run.chmod(0o755)
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    print(f"{folder}: {size / 2**20:.1f} MiB; carry it to the machine and start run.sh")
    if size > LIMIT_BYTES:
        raise SystemExit(f"that is more than {LIMIT_BYTES >> 20} MiB: leave out some --models")


def _options(arguments: tuple[str, ...]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu.pack", description=__doc__)
    parser.add_argument("folder", help="folder to make; it must not exist")
    parser.add_argument("--target", default="cuda:sm_90", help="what to build for: %(default)s")
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--precisions", default="fp32,fp16")
    return parser.parse_args(arguments or None)


def _copy_runtime(folder: Path) -> None:
    """The program without Python, and the packages that load a model."""
    build_runner(folder / "bin", device="cuda")
    python = folder / "python"
    for package in ("tvm", "tvm_ffi"):
        (python / package).mkdir(parents=True)
        (python / package / "__init__.py").touch()  # not the real package, wherever that is
    compiler = _CHECKOUT / "compiler"
    only = shutil.ignore_patterns("__pycache__", "csrc", "*.so", "build.py", "runner.py")
    for part in ("runtime", "artifact"):
        shutil.copytree(compiler / part, python / "burnish" / part, ignore=only)
    for file in ("__init__.py", "errors.py", "worker.py"):
        shutil.copy2(compiler / file, python / "burnish")
    # Of the IR, loading a model needs the arithmetic of dims alone, and that needs no ml_dtypes.
    (python / "burnish" / "ir").mkdir()
    (python / "burnish" / "ir" / "__init__.py").touch()
    shutil.copy2(compiler / "ir" / "dims.py", python / "burnish" / "ir")
    checks = python / "tests" / "gpu"
    checks.mkdir(parents=True)
    (checks.parent / "__init__.py").touch()
    for file in _CHECKS:
        shutil.copy2(_HERE / file, checks)


def _add_case(folder: Path, model: GpuModel, precision: str, target: str) -> dict[str, Any]:
    """Compile a model, and keep inputs and what onnxruntime makes of them."""
    name = f"{model.name}-{precision}"
    place = folder / "models" / name
    place.mkdir(parents=True)
    source = place / "model.onnx"
    onnx.save(model.onnx(), source)
    artifact = place / "model.burnish"
    options = CompileOptions(target=target, precision=precision)
    compiled = compile_artifact(CompileRequest(str(source), str(artifact), options))
    inputs = [model.feeds(size, seed) for seed, size in enumerate(model.sizes)]
    expected = reference(source, inputs)
    for index, (feeds, results) in enumerate(zip(inputs, expected, strict=True)):
        np.savez_compressed(place / f"inputs{index}.npz", **feeds)  # type: ignore[arg-type]
        np.savez_compressed(place / f"expected{index}.npz", **results)  # type: ignore[arg-type]
    source.unlink()
    compact.shrink(artifact)
    bounds = {
        output: asdict(tolerance(data.dtype, "fp16" if precision == "fp16" else "model"))
        for output, data in expected[0].items()
    }
    return {
        "name": name,
        "model": model.name,
        "precision": precision,
        "target": compiled.target,
        "sizes": list(model.sizes),
        "bounds": bounds,
    }


def run(folder: Path, *arguments: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """Start the folder's run.sh here and return what it wrote.

    Raises:
        AssertionError: It failed; with the end of its output.
    """
    command = [str(folder / "run.sh"), *arguments]
    result = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    print(result.stdout)
    assert result.returncode == 0, (result.stdout + result.stderr)[-4000:]
    found: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return found


if __name__ == "__main__":
    main(*sys.argv[1:])
