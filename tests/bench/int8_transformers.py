"""Transformers in 8 bits beside the limit: ``python -m tests.bench.int8_transformers``.

Products at their shapes, with the scale of the data known and computed in every run, and attention.
The limit is the rate of integer dot products that ``burnish doctor --roofline`` measures. Products
read bytes and write bytes, those with ``Gelu`` through it; attention counts the operations of its
two products, between which a softmax is computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from burnish.artifact import cpu_features
from burnish.backends.cpu.attention_int8 import Attention8Spec, Bytes, attention_int8
from burnish.backends.cpu.attention_spec import AttentionSpec, merged_heads
from burnish.backends.cpu.conv import ConvSpec
from burnish.backends.cpu.dynamic import DynamicSpec, column_sums, dynamic_matmul
from burnish.backends.cpu.epilogue import pack_channel
from burnish.backends.cpu.isa import ISAS, Isa
from burnish.backends.cpu.quantized import QuantizedSpec, pack_affine, pack_codes, quantized_conv
from burnish.bench.roofline import measure_roofline
from burnish.ir.postops import parse_postops
from tests.bench.avx2 import Case, Share, measure, show

#: Rows, depth, columns and post-ops.
PRODUCTS: dict[str, tuple[int, int, int, tuple[str, ...]]] = {
    "128x768x768": (128, 768, 768, ()),
    "128x768x3072": (128, 768, 3072, ()),
    "128x768x3072 Gelu": (128, 768, 3072, ("Gelu",)),
    "128x3072x768": (128, 3072, 768, ()),
    "128x384x384": (128, 384, 384, ()),
    "128x384x1536 Gelu": (128, 384, 1536, ("Gelu",)),
    "512x768x768": (512, 768, 768, ()),
    "512x768x3072": (512, 768, 3072, ()),
    "512x512x512": (512, 512, 512, ()),
}
#: Those that are measured with the scale of each call as well, into float32.
DYNAMIC = ("128x768x768", "128x3072x768")
#: Length, heads and width.
ATTENTION: dict[str, tuple[int, int, int]] = {
    "12x128x64": (128, 12, 64),
    "12x128x32": (128, 12, 32),
    "12x197x64": (197, 12, 64),
    "12x512x64": (512, 12, 64),
}


def product(isa: Isa, name: str) -> Case:
    """A static product."""
    rows, k, n, postops = PRODUCTS[name]
    rng = np.random.default_rng(1)
    conv = ConvSpec(1, 1, rows, k, n, (1, 1), postops=parse_postops(list(postops)))
    spec = QuantizedSpec(conv, "uint8", 128, "uint8", 0.03, 120)
    x = rng.integers(0, 256, (1, 1, rows, k)).astype(np.uint8)
    w = rng.integers(-127, 128, (n, k, 1, 1)).astype(np.int8)
    scale = np.full(n, 1e-4 / k**0.5, np.float32)
    constants = [pack_codes(w, spec, isa), *pack_affine(w, scale, None, spec, isa)]
    y = np.zeros((1, 1, rows, n), np.uint8)
    return Case(quantized_conv(isa, spec), 2 * rows * k * n, [x, *constants, y])


def dynamic(isa: Isa, name: str) -> Case:
    """A product by the scale of each call."""
    rows, k, n, _ = PRODUCTS[name]
    rng = np.random.default_rng(1)
    spec = DynamicSpec(rows, k, n)
    x = rng.integers(0, 256, (rows, k)).astype(np.uint8)
    w = rng.integers(-127, 128, (k, n)).astype(np.int8)
    packed = pack_codes(w.T.reshape(n, k, 1, 1), spec.product, isa)
    constants = [packed, pack_channel(np.full(n, 1e-4), isa), column_sums(w, isa)]
    parameters = [np.asarray(0.01, np.float32), np.asarray(131, np.uint8)]
    y = np.zeros((rows, n), np.float32)
    return Case(dynamic_matmul(isa, spec), 2 * rows * k * n, [x, *constants, *parameters, y])


def attention(isa: Isa, name: str) -> Case:
    """Attention of one batch."""
    length, heads, width = ATTENTION[name]
    rng = np.random.default_rng(1)
    shape = (1, length, heads * width)
    places = [merged_heads(i, length, heads, width) for i in range(3)]
    base = AttentionSpec(
        1, length, length, heads, heads, width, width, (shape,) * 3, *places, scale=width**-0.5
    )
    stored = [Bytes("uint8", 0.02, zero) for zero in (129, 126, 130)]
    y = Bytes("uint8", 0.02, 127)
    spec = Attention8Spec(base, ("uint8",) * 3, *stored, 1 / 255, 255, y)
    codes = [rng.integers(0, 256, shape).astype(np.uint8) for _ in range(3)]
    operations = 4 * length * length * heads * width
    return Case(attention_int8(isa, spec), operations, [*codes, np.zeros(shape, np.uint8)])


def cases(isa: Isa) -> dict[str, Case]:
    """All of them."""
    found = {name: product(isa, name) for name in PRODUCTS}
    found |= {f"{name} dynamic": dynamic(isa, name) for name in DYNAMIC}
    return found | {f"attention {name}": attention(isa, name) for name in ATTENTION}


def best_isa() -> Isa:
    """The best instruction set of this CPU that has integer dot products."""
    return next(i for i in ISAS.values() if i.dot8 and not set(i.features) - cpu_features())


def shares(names: Sequence[str] = (), seconds: float = 0.3) -> list[Share]:
    """Measure kernels on one core (``TVM_NUM_THREADS=1``); all if none is named."""
    known = cases(best_isa())
    before = measure_roofline(1).rates["int8"]
    found = measure({name: known[name] for name in names or known}, best_isa(), seconds)
    limit = max(before, measure_roofline(1).rates["int8"])
    return [replace(share, limit=limit) for share in found]


if __name__ == "__main__":
    show(shares(seconds=1.0))
