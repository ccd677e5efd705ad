"""Attention of the zoo's models beside this core's limit: ``python -m tests.bench.attention``.

The operations are those of both products over all keys; causal ones leave out up to half of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from burnish.artifact import cpu_features
from burnish.backends.cpu.attention import attention
from burnish.backends.cpu.attention_spec import AttentionSpec, merged_heads
from burnish.backends.cpu.isa import AVX2, AVX512, Isa
from tests.bench.avx2 import Case, measure, show

#: Length, query heads, key heads, width, and what the spec has besides.
SHAPES: dict[str, tuple[int, int, int, int, dict[str, Any]]] = {
    "bert 12x128x64": (128, 12, 12, 64, {}),
    "bert 12x128x64, padding mask": (
        128, 12, 12, 64, {"mask": "float", "mask_shape": (1, 1, 1, 128)}
    ),
    "vit 12x197x64": (197, 12, 12, 64, {}),
    "whisper 6x1500x64": (1500, 6, 6, 64, {}),
    "minilm 12x128x32": (128, 12, 12, 32, {}),
    "gpt2 12x64x64, causal": (64, 12, 12, 64, {"causal": True}),
    "llama 8x64x64 on 4 key heads, causal": (64, 8, 4, 64, {"causal": True}),
    "4x512x64": (512, 4, 4, 64, {}),
    "2x2048x64": (2048, 2, 2, 64, {}),
    "2x2048x64, causal": (2048, 2, 2, 64, {"causal": True}),
}  # fmt: skip


def case(isa: Isa, name: str) -> Case:
    """Attention on merged projections, as the models have them."""
    length, heads, kv_heads, width, options = SHAPES[name]
    total = (heads + 2 * kv_heads) * width
    spec = AttentionSpec(
        1, length, length, heads, kv_heads, width, width, ((1, length, total),),
        merged_heads(0, length, heads, width, total),
        merged_heads(0, length, kv_heads, width, total, heads * width),
        merged_heads(0, length, kv_heads, width, total, (heads + kv_heads) * width),
        scale=width**-0.5, **options,
    )  # fmt: skip
    rng = np.random.default_rng(1)
    shapes = [*spec.arguments, *([spec.mask_shape] if spec.mask else [])]
    arrays = [rng.standard_normal(shape).astype("f4") for shape in shapes]
    arrays.append(np.full(spec.output_shape(), 7, "f4"))
    return Case(attention(isa, spec), 4 * length * length * heads * width, arrays)


if __name__ == "__main__":
    best = AVX2 if set(AVX512.features) - cpu_features() else AVX512
    show(measure({name: case(best, name) for name in SHAPES}, best, 0.7))
