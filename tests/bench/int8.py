"""Quantized models beside their peers: ``python -m tests.bench.int8 [MODEL ...]``.

Each model is quantized as ``burnish quantize`` does; burnish, onnxruntime (all optimizations) and
OpenVINO run the same Q/DQ model in turns. With ``--nncf PYTHON``, an interpreter that has NNCF and
OpenVINO, OpenVINO also runs what NNCF makes of the model. Prints the shortest time of each, the
time of the fastest peer over burnish's, the share of the measured int8 peak that the operations of
the model take, and how similar the results are to onnxruntime's on the Q/DQ model, as it stands,
and to those of the model before.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

import burnish
from burnish.bench.profile import profile
from burnish.bench.roofline import measure_roofline
from burnish.bench.runners import BurnishRunner, Runner, peer
from burnish.bench.timing import measure
from burnish.check.metrics import cosine
from burnish.passes.quantization import Selection
from burnish.quantization import QuantizeOptions, quantize_model
from tests.bench.balance import balance
from tests.bench.limits import markdown
from tests.models import ALL, feeds, model_path

MODELS = ("resnet50", "mobilenetv2", "bert", "minilm")
TRANSFORMERS = ("bert", "minilm", "vit", "t5_encoder", "whisper_encoder", "gpt2_prefill")
BALANCED = ("mobilenetv2",)
"""Models whose random weights let activations vanish."""

GEOMEAN, LEAST = 1.3, 1.05
"""What the fastest peer's time over burnish's is to be: over all models, and for each."""


@dataclass(frozen=True)
class Row:
    """One model.

    Attributes:
        model: Its name.
        ms: Shortest time of a call, by program; burnish is the first.
        ratio: The fastest peer's over burnish's.
        share: Of the int8 peak, for all operations of the model.
        cosine: Least similarity to onnxruntime's results on the Q/DQ model.
        cosine_before: Least similarity to the results of the model before.
    """

    model: str
    ms: dict[str, float]
    ratio: float
    share: float
    cosine: float
    cosine_before: float

    def line(self) -> str:
        """A row of a table in Markdown."""
        times = " | ".join(f"{ms:.3f}" for ms in self.ms.values())
        return (
            f"| {self.model} | {times} | {self.ratio:.2f} | {self.share:.1%} "
            f"| {self.cosine:.5f} | {self.cosine_before:.5f} |"
        )


def prepared(
    name: str, folder: Path, samples: int, nncf: str | None, attention: bool
) -> dict[str, Path]:
    """The files of a model, made where they are missing: model, Q/DQ model, artifact, NNCF's."""
    data = folder / f"{name}-samples"
    if not data.exists():
        data.mkdir()
        for seed in range(samples):
            np.savez(data / f"{seed:03}.npz", **feeds(ALL[name], seed=seed))
    files = {"model": model_path(name)}
    if name in BALANCED:
        files["model"] = folder / f"{name}-balanced.onnx"
        if not files["model"].exists():
            balance(model_path(name), files["model"], feeds(ALL[name], seed=0))
    files["quantized"] = folder / f"{name}-int8.onnx"
    if not files["quantized"].exists():
        quantize_model(str(files["model"]), str(files["quantized"]), str(data))
    # What burnish runs; with attention in 8 bits, peers would be slower than without.
    files["own"] = files["quantized"]
    if attention and name in TRANSFORMERS:
        files["own"] = folder / f"{name}-attention-int8.onnx"
        if not files["own"].exists():
            how = QuantizeOptions(selection=Selection(matmul_const_b_only=False))
            quantize_model(str(files["model"]), str(files["own"]), str(data), how)
    files["artifact"] = files["own"].with_suffix(".burnish")
    if not files["artifact"].exists():
        compiled = burnish.compile(str(files["own"]), target="x86", threads=1)
        compiled.save(str(files["artifact"]))
        compiled.close()
    if nncf is not None:
        files["nncf"] = folder / f"{name}-nncf.xml"
        if not files["nncf"].exists():
            script = Path(__file__).with_name("nncf_quantize.py")
            command = [nncf, str(script), str(files["model"]), str(data), str(files["nncf"])]
            command += ["--transformer"] if name in TRANSFORMERS else []
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return files


def time_model(name: str, files: dict[str, Path], threads: int, duration: float) -> Row:
    """Time the programs in turns, and compare what they compute."""
    inputs = feeds(ALL[name], seed=1000)
    peak = measure_roofline(threads).rates["int8"]
    with burnish.load(files["artifact"], threads=threads) as compiled:
        runners: list[Runner] = [BurnishRunner(compiled)]
        runners += [peer(p, files["quantized"], threads) for p in ("onnxruntime", "openvino")]
        if "nncf" in files:
            other = peer("openvino", files["nncf"], threads)
            other.name = "openvino (NNCF)"  # type: ignore[misc]
            runners.append(other)
        timings = measure(runners, inputs, duration=duration).timings
        operations = sum(step.flops or 0 for step in profile(compiled, inputs, runs=5).steps)
        results = compiled.run(None, inputs)
    ms = {t.runner: min(t.samples) * 1e3 for t in timings}
    mine, *others = ms.values()
    alike = [_alike(results, _reference(files[kind], inputs)) for kind in ("own", "model")]
    return Row(name, ms, min(others) / mine, operations / (mine / 1e3) / peak, *alike)


def _reference(path: Path, inputs: Any) -> list[Any]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, dict(inputs)))


def _alike(found: list[Any], wanted: list[Any]) -> float:
    return min(cosine(a, b) for a, b in zip(found, wanted, strict=True))


def table(rows: list[Row], threads: int) -> str:
    """All rows as a table in Markdown, and what is beyond a limit."""
    titles = ["model", *rows[0].ms, "ratio", "of the peak", "cosine to Q/DQ", "cosine to fp32"]
    mean = math.exp(sum(math.log(row.ratio) for row in rows) / len(rows))
    beyond = [f"{r.model} {r.ratio:.2f}x (limit {LEAST}x)" for r in rows if r.ratio < LEAST]
    if mean < GEOMEAN:
        beyond.append(f"geometric mean {mean:.2f}x (limit {GEOMEAN}x)")
    outcome = f"Geometric mean of the fastest peer / burnish: **{mean:.2f}**."
    return markdown(threads, titles, [row.line() for row in rows], outcome, beyond)


def main() -> int:
    """Measure, print; 1 with ``--check`` if something is beyond a limit."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.int8",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--duration", type=float, default=3.0, help="seconds of calls of each")
    parser.add_argument("--samples", type=int, default=8, help="for calibration")
    parser.add_argument("--nncf", metavar="PYTHON", help="an interpreter that has NNCF")
    parser.add_argument(
        "--attention",
        action="store_true",
        help="quantize attention of transformers for burnish (--matmul-all); peers, which that "
        "makes slower, run the model without",
    )
    parser.add_argument("--files", type=Path, help="use and keep what is made in this folder")
    parser.add_argument("--prepare", action="store_true", help="make the files only")
    parser.add_argument("--json", action="store_true", help="a line for each model")
    parser.add_argument("--check", action="store_true", help="exit 1 beyond a limit")
    options = parser.parse_args()
    if unknown := set(options.models) - set(ALL):
        parser.error(f"no such model: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="burnish-int8-") as temporary:
        folder = options.files or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = {
            name: prepared(name, folder, options.samples, options.nncf, options.attention)
            for name in options.models
        }
        if options.prepare:
            return 0
        rows = [
            time_model(name, files, options.threads, options.duration)
            for name, files in found.items()
        ]
    text = table(rows, options.threads)
    print(*(json.dumps(asdict(row)) for row in rows), sep="\n") if options.json else print(text)
    return int(options.check and not text.endswith("nothing."))


if __name__ == "__main__":
    sys.exit(main())
