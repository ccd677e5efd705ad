"""How near int8 convolutions come to the int8 peak: ``python -m tests.bench.int8_kernels``.

Times single kernels, with scale, bias, activation and rounding to 8 bits in them, on one thread
and on data that lies in the caches. Operations are those of the definition: taps that borders skip
count as done, so that a small image may be beyond 100 %. Depthwise convolutions are bound by other
instructions than dot products; their share says how many of those are in between.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from burnish.artifact import cpu_features
from burnish.backends.cpu.conv import ConvSpec
from burnish.backends.cpu.isa import AVX2, AVX512, AVX512_VNNI, Isa
from burnish.backends.cpu.quantized import (
    QuantizedSpec,
    is_bounded,
    pack_affine,
    pack_codes,
    quantized_conv,
)
from burnish.backends.cpu.quantized_depthwise import (
    pack_affine_taps,
    pack_taps,
    quantized_depthwise,
    takes,
)
from burnish.bench.roofline import measure_roofline
from burnish.ir.postops import parse_postops

#: Name; rows and columns, channels in and out, window; post-ops.
SHAPES: dict[str, tuple[int, int, int, int, tuple[str, ...]]] = {
    "3x3 64 to 64, 56x56": (56, 64, 64, 3, ("Relu",)),
    "3x3 128 to 128, 28x28": (28, 128, 128, 3, ("Relu",)),
    "3x3 256 to 256, 14x14": (14, 256, 256, 3, ("Relu",)),
    "3x3 512 to 512, 7x7": (7, 512, 512, 3, ("Relu",)),
    "1x1 256 to 64, 56x56": (56, 256, 64, 1, ("Relu",)),
    "1x1 64 to 256, 56x56": (56, 64, 256, 1, ("Relu",)),
    "1x1 1024 to 256, 14x14": (14, 1024, 256, 1, ("Relu",)),
    "1x1 256 to 1024, 14x14, residual": (
        14, 256, 1024, 1, ("Add:quantized:0.05:3.0", "Relu"),
    ),
    "depthwise 144, 56x56": (56, 144, 0, 3, ("Clip:0.0:6.0",)),
    "depthwise 384, 14x14": (14, 384, 0, 3, ("Clip:0.0:6.0",)),
}  # fmt: skip


def spec_of(name: str) -> QuantizedSpec:
    """The kernel of a shape; no output channels stand for one filter to a channel."""
    size, ic, oc, window, postops = SHAPES[name]
    posts = parse_postops(postops)
    pad = window // 2
    conv = ConvSpec(
        1, size, size, ic, oc or ic, (window, window), (1, 1), (pad, pad, pad, pad),
        groups=1 if oc else ic, postops=posts,
    )  # fmt: skip
    codes = tuple("uint8" for p in posts if p.operand)
    return QuantizedSpec(conv, "uint8", 0, "uint8", 0.05, 3, codes, bounded=True)


def arguments(spec: QuantizedSpec, isa: Isa) -> list[Any]:
    """Random inputs, and room for the result."""
    conv, rng = spec.conv, np.random.default_rng(0)
    x = rng.integers(0, 256, (1, conv.h, conv.w, conv.ic)).astype(np.uint8)
    w = rng.integers(-127, 128, (conv.oc, conv.ic // conv.groups, *conv.kernel)).astype(np.int8)
    scale, bias = np.full(conv.oc, 1e-4, np.float32), rng.standard_normal(conv.oc).astype("f4")
    assert is_bounded(w, scale, bias, spec)
    shape = (1, conv.oh, conv.ow, conv.oc)
    operands = [rng.integers(0, 256, shape).astype(np.uint8) for _ in spec.codes]
    if takes(spec, isa):
        constants = [pack_taps(w, spec, isa), *pack_affine_taps(w, scale, bias, spec, isa)]
    else:
        constants = [pack_codes(w, spec, isa), *pack_affine(w, scale, bias, spec, isa)]
    return [x, *constants, *operands, np.zeros(shape, np.uint8)]


def measure(names: Sequence[str], isa: Isa, runs: int) -> dict[str, float]:
    """The shortest time of each kernel, in seconds."""
    import tvm

    from tests.support.cpu_kernels import build

    specs = {f"k{i}": spec_of(name) for i, name in enumerate(names)}
    kernels = {
        key: (quantized_depthwise if takes(spec, isa) else quantized_conv)(isa, spec)
        for key, spec in specs.items()
    }
    library = build(kernels, isa)
    found = {}
    for name, (key, spec) in zip(names, specs.items(), strict=True):
        tensors = [tvm.runtime.tensor(array) for array in arguments(spec, isa)]
        kernel, times = library[key], []
        for _ in range(runs):
            begin = time.perf_counter()
            kernel(*tensors)
            times.append(time.perf_counter() - begin)
        found[name] = min(times)
    return found


def operations(spec: QuantizedSpec) -> int:
    """Operations of the definition, a multiply-add as two."""
    conv = spec.conv
    taps = conv.ic // conv.groups * conv.kernel[0] * conv.kernel[1]
    return int(2 * conv.oh * conv.ow * conv.oc * taps)


def main() -> None:
    """Print a table in Markdown."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.bench.int8_kernels",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("words", nargs="*", help="only kernels with one of these in their names")
    parser.add_argument("--runs", type=int, default=300)
    options = parser.parse_args()
    # Tasks of a kernel run one after the other, without a pool's threads to wake.
    os.environ.setdefault("TVM_NUM_THREADS", "1")
    names = [n for n in SHAPES if not options.words or any(w in n for w in options.words)]
    isa = next(i for i in (AVX512_VNNI, AVX512, AVX2) if set(i.features) <= cpu_features())
    before = measure_roofline(1).rates["int8"]
    times = measure(names, isa, options.runs)
    peak = max(before, measure_roofline(1).rates["int8"])
    print(f"{isa.name}, 1 thread, peak {peak / 1e9:.0f} GOP/s\n")
    print("| kernel | us | GOP/s | of the peak |\n|---|---:|---:|---:|")
    for name, seconds in times.items():
        rate = operations(spec_of(name)) / seconds
        print(f"| {name} | {seconds * 1e6:.1f} | {rate / 1e9:.0f} | {rate / peak:.1%} |")


if __name__ == "__main__":
    main()
