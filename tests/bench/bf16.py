"""Models in bf16 beside OpenVINO's and fp32: ``python -m tests.bench.bf16 [MODEL ...]``.

All run in one process and take turns; times are the shortest. ``fp32`` is burnish's build in fp32
whose convolutions are direct, which does as many multiplications as bf16: no Winograd, and no
kernels of a library. ``--kernels`` measures products, convolutions and attention alone, beside the
rate of bf16 dot products that ``burnish doctor --roofline`` measures.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import ml_dtypes
import numpy as np

import burnish
from burnish.backends.cpu import rules
from burnish.backends.cpu.attention import attention
from burnish.backends.cpu.attention_bf16 import PairBlocks
from burnish.backends.cpu.attention_spec import AttentionSpec, merged_heads
from burnish.backends.cpu.conv import ConvSpec, conv
from burnish.backends.cpu.gemm import GemmSpec, gemm
from burnish.backends.cpu.isa import AVX512_BF16
from burnish.backends.cpu.rules.conv import CONV, direct_tactics, dots_tactics
from burnish.bench.roofline import measure_roofline
from burnish.bench.runners import BurnishRunner, Runner, peer
from burnish.bench.timing import measure
from burnish.check.metrics import cosine
from burnish.driver import compile_artifact
from burnish.lowering.tactics import by_tactics
from burnish.options import CompileOptions
from burnish.requests import CompileRequest
from tests.bench.avx2 import Case, Share, operations, show
from tests.bench.avx2 import measure as measure_kernels
from tests.bench.limits import markdown
from tests.models import ALL, ZOO, feeds, model_path

PEER = "openvino-bf16"
GEOMEAN, LEAST = 1.15, 1.0
"""What OpenVINO's time over burnish's is to be: over all models, and for each."""

OVER_FP32 = {"resnet50": 1.85, "bert": 1.85, "vit": 1.85}
"""What the time in fp32 over that in bf16 is to be."""

_TITLES = (
    *("model", "burnish bf16", "burnish fp32", "OpenVINO bf16"),
    *("ratio", "fp32 / bf16", "cosine to fp32"),
)
_PAD = (1, 1, 1, 1)
SPECS: dict[str, GemmSpec | ConvSpec] = {
    "gemm 128x768x768": GemmSpec((128,), 768, 768),
    "gemm 128x768x3072": GemmSpec((128,), 768, 3072),
    "gemm 128x3072x768": GemmSpec((128,), 3072, 768),
    "gemm 128x4096x1024": GemmSpec((128,), 4096, 1024),
    "conv 3x3 64 to 64 at 56x56": ConvSpec(1, 56, 56, 64, 64, (3, 3), pads=_PAD),
    "conv 3x3 256 to 256 at 14x14": ConvSpec(1, 14, 14, 256, 256, (3, 3), pads=_PAD),
    "conv 3x3 512 to 512 at 7x7": ConvSpec(1, 7, 7, 512, 512, (3, 3), pads=_PAD),
    "conv 1x1 256 to 64 at 56x56": ConvSpec(1, 56, 56, 256, 64, (1, 1)),
    "conv 1x1 1024 to 256 at 14x14": ConvSpec(1, 14, 14, 1024, 256, (1, 1)),
}
#: Length, heads and width.
ATTENTION = {"12x128x64": (128, 12, 64), "12x197x64": (197, 12, 64), "6x1500x64": (1500, 6, 64)}


@dataclass(frozen=True)
class Row:
    """One model.

    Attributes:
        model: Its name.
        ms: Shortest time of a call: in bf16, in fp32, and OpenVINO's.
        ratio: OpenVINO's over burnish's.
        over_fp32: The time in fp32 over that in bf16.
        cosine: Least similarity of the results in bf16 to those in fp32.
    """

    model: str
    ms: tuple[float, float, float]
    ratio: float
    over_fp32: float
    cosine: float

    def line(self) -> str:
        """A row of a table in Markdown."""
        times = " | ".join(f"{ms:.3f}" for ms in self.ms)
        ratios = f"{self.ratio:.2f} | {self.over_fp32:.2f} | {self.cosine:.5f}"
        return f"| {self.model} | {times} | {ratios} |"


def prepared(name: str, folder: Path) -> dict[str, Path]:
    """The artifacts of a model by precision, made where they are missing."""
    files = {}
    direct = replace(CONV, emit=by_tactics(direct_tactics, dots_tactics))
    for precision, rule in (("bf16", CONV), ("fp32", direct)):
        files[precision] = folder / f"{name}-{precision}.burnish"
        if files[precision].exists():
            continue
        options = CompileOptions(precision=precision, library="none", threads=1, check=False)
        rules.RULES[CONV.key] = rule
        try:
            compile_artifact(CompileRequest(str(model_path(name)), str(files[precision]), options))
        finally:
            rules.RULES[CONV.key] = CONV
    return files


def time_model(name: str, files: dict[str, Path], threads: int, duration: float) -> Row:
    """Time the programs in turns."""
    inputs = feeds(ALL[name], seed=1)
    with (
        burnish.load(files["bf16"], threads=threads) as narrow,
        burnish.load(files["fp32"], threads=threads) as wide,
    ):
        other = BurnishRunner(wide)
        other.name = "burnish (fp32)"  # type: ignore[misc]
        runners: list[Runner] = [BurnishRunner(narrow), other]
        runners.append(peer(PEER, model_path(name), threads))
        timings = measure(runners, inputs, duration=duration).timings
        pairs = zip(narrow.run(None, inputs), wide.run(None, inputs), strict=True)
        alike = min(cosine(a, b) for a, b in pairs)
    mine, fp32, peers = (min(t.samples) * 1e3 for t in timings)
    return Row(name, (mine, fp32, peers), peers / mine, fp32 / mine, alike)


def table(rows: Sequence[Row], threads: int) -> str:
    """All rows as a table in Markdown, and what is beyond a limit."""
    mean = math.exp(sum(math.log(row.ratio) for row in rows) / len(rows))
    beyond = [f"{r.model} {r.ratio:.2f}x (limit {LEAST}x)" for r in rows if r.ratio < LEAST]
    beyond += [
        f"{r.model} {r.over_fp32:.2f}x of fp32 (limit {OVER_FP32[r.model]}x)"
        for r in rows
        if r.over_fp32 < OVER_FP32.get(r.model, 0)
    ]
    if mean < GEOMEAN:
        beyond.append(f"geometric mean {mean:.2f}x (limit {GEOMEAN}x)")
    outcome = f"Geometric mean of OpenVINO / burnish over {len(rows)} models: **{mean:.2f}**."
    return markdown(threads, _TITLES, [row.line() for row in rows], outcome, beyond)


def _drawn(rng: np.random.Generator, shape: Sequence[int]) -> np.ndarray:
    return rng.standard_normal(shape).astype(ml_dtypes.bfloat16).view(np.uint16)


def kernel_case(name: str) -> Case:
    """A kernel of :data:`SPECS`, or of :data:`ATTENTION` behind ``attention``."""
    rng = np.random.default_rng(1)
    if name in SPECS:
        spec = replace(SPECS[name], dtype="bfloat16")
        made = gemm(AVX512_BF16, spec) if isinstance(spec, GemmSpec) else conv(AVX512_BF16, spec)
        arguments = [_drawn(rng, [int(d) for d in p.shape]) for p in made.func.params]
        return Case(made, operations(spec), arguments)
    length, heads, width = ATTENTION[name.removeprefix("attention ")]
    shape = (1, length, heads * width)
    places = [merged_heads(i, length, heads, width) for i in range(3)]
    of = AttentionSpec(
        1, length, length, heads, heads, width, width, (shape,) * 3, *places,
        scale=width**-0.5, dtype="bfloat16", mask_dtype=None,
    )  # fmt: skip
    made = attention(AVX512_BF16, of, blocks=PairBlocks)
    return Case(made, 4 * length * length * heads * width, [_drawn(rng, shape) for _ in range(4)])


def kernel_names() -> list[str]:
    """All kernels that are measured."""
    return [*SPECS, *(f"attention {name}" for name in ATTENTION)]


def shares(names: Sequence[str], seconds: float = 0.3) -> list[Share]:
    """Measure kernels on one core (``TVM_NUM_THREADS=1``)."""
    before = measure_roofline(1).rates["bf16"]
    found = measure_kernels({name: kernel_case(name) for name in names}, AVX512_BF16, seconds)
    limit = max(before, measure_roofline(1).rates["bf16"])
    return [replace(share, limit=limit) for share in found]


def main() -> int:
    """Measure, print; 1 with ``--check`` if something is beyond a limit."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.bf16",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("models", nargs="*", default=list(ZOO), metavar="MODEL")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--duration", type=float, default=1.0, help="seconds of calls of each")
    parser.add_argument("--files", type=Path, help="use and keep what is made in this folder")
    parser.add_argument("--prepare", action="store_true", help="make the artifacts only")
    parser.add_argument("--kernels", action="store_true", help="measure kernels, not models")
    parser.add_argument("--json", action="store_true", help="a line for each model")
    parser.add_argument("--check", action="store_true", help="exit 1 beyond a limit")
    options = parser.parse_args()
    if options.kernels:
        show(shares(kernel_names(), 0.5))
        return 0
    if unknown := set(options.models) - set(ALL):
        parser.error(f"no such model: {', '.join(sorted(unknown))}")
    with tempfile.TemporaryDirectory(prefix="burnish-bf16-") as temporary:
        folder = options.files or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        found = {name: prepared(name, folder) for name in options.models}
        if options.prepare:
            return 0
        rows = [time_model(n, f, options.threads, options.duration) for n, f in found.items()]
    text = table(rows, options.threads)
    print(*(json.dumps(asdict(row)) for row in rows), sep="\n") if options.json else print(text)
    return int(options.check and not text.endswith("nothing."))


if __name__ == "__main__":
    sys.exit(main())
