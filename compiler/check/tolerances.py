"""The one table of numeric tolerances, by output dtype and what the computation may do to it.

An element passes if ``|d| <= atol * scale + rtol * |reference|``, where ``scale`` is the root mean
square of the reference tensor; the tensor passes if also ``rms(d) <= rms * scale``. Errors of a sum
are proportional to its terms and not to its result, so elements near zero carry the error of their
neighbours: a bound that is relative to each element alone would fail every correct program.

Where the numbers of ``model`` come from: two other fp32 programs against onnxruntime 1.31 without
optimizations, on 22 real networks with up to three sizes of inputs each.

=================================  ==================  ==================
program                            max error / scale   rms error / scale
=================================  ==================  ==================
onnxruntime, all optimizations     worst 6e-5, 1.5e-4  worst 1.4e-5, 5e-5
OpenVINO, fp32                     worst 1.8e-4        worst 1.8e-5, 5e-5
either, median network             5e-6                1e-6
=================================  ==================  ==================

The second of two numbers is a network that divides by the smallest logarithm of a spectrogram, on
noisy sound; on sound with gaps it multiplies one rounding by thousands and no two programs agree
better than 7e-3. The bounds are five times the first numbers and twice the second. The bound of the
mean error is what a silent loss of precision cannot pass: rounding the output alone to fp16 makes
it 2.0e-4, to bf16 1.6e-3, and each layer adds to that.

The numbers of ``fp16`` come from the same networks, stored in float16 and computed in float32 on
x86, against onnxruntime on the float32 originals.

=================================  ==================  ==================
network                            max error / scale   rms error / scale
=================================  ==================  ==================
worst                              7e-2, 4.7e-1        1.2e-2, 2.3e-2
median                             5e-3                1.3e-3
=================================  ==================  ==================

The second error of an element is of a text detector whose last sigmoid is so steep that pixels at
the edges of letters take any value; where an output has such edges, give ``atol``. The second mean
error is of a ResNet-50 of random weights that multiplies the rounding of its input by 14. The
bounds are three times the first number and twice the largest mean error.

The numbers of ``bf16`` come from the same networks, stored in bfloat16, products computed by
``vdpbf16ps`` and summed in float32.

=================================  ==================  ==================
network                            max error / scale   rms error / scale
=================================  ==================  ==================
worst of those that are trained    2.5e-1, 2.2         3.2e-2
worst of random weights            4.0e-1              1.1e-1
median                             4e-2                6e-3
=================================  ==================  ==================

Here too the second number is the text detector. A ResNet-50 and a MobileNetV2 of random weights
have the largest mean errors, 1.1e-1 and 8e-2; of trained networks it is a text classifier on a
line that it cannot read. The bounds follow by the same rule.

The numbers of ``int8`` come from networks that are quantized themselves, against onnxruntime on
these same networks. Sums are exact in both; but a number in the middle of two codes may go to
either, and what follows spreads that to the level of the noise of quantization, which is what two
runtimes of a quantized network differ by.

=================================  ==================  ==================
network                            max error / scale   rms error / scale
=================================  ==================  ==================
MiniLM                             5e-1                1.3e-1
ResNet-50 of random weights        1.3e-1              3.3e-2
PP-OCR's classifier, opennsfw      2e-2                2.1e-2
=================================  ==================  ==================

The bounds are twice the largest.

A network that was quantized is not equal to the one in float32, but like it: single elements may be
anything, the mean error of ``quantized`` is bounded by 0.3 of the scale, a cosine similarity of
about 0.95. MiniLM has 0.21 on random tokens, ResNet-50 of random weights 0.06, opennsfw 0.1,
PP-OCR's classifier 0.02. Whether that is good enough is for a metric of the user's to say
(``--precision auto``, ``burnish check``).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from burnish.errors import UsageError

Numerics = Literal[
    "exact", "reassociates", "approximates", "model", "fp16", "bf16", "int8", "quantized"
]
"""``exact``: the same bits. ``reassociates``: one operation sums in another order.
``approximates``: one operation uses polynomials for exp, erf, tanh. ``model``: a whole network.
``fp16``: a whole network whose tensors are stored in float16, against the one in float32.
``bf16``: the same of bfloat16.
``int8``: a whole network that is quantized itself.
``quantized``: a whole network that was quantized, against the one in float32."""

SCALE_FLOOR = 1e-6
"""Smallest scale: an output that is all but zero everywhere is not judged by its own noise."""


@dataclass(frozen=True)
class Tolerance:
    """How far an output may be from its reference.

    Attributes:
        atol: Bound of an element's error in units of the tensor's scale.
        rtol: Bound of an element's error relative to the element, added to the former.
        rms: Bound of the root-mean-square error in units of the scale; infinite: not checked.
    """

    atol: float
    rtol: float
    rms: float = float("inf")


EXACT = Tolerance(0.0, 0.0, 0.0)

_TABLE: dict[tuple[str, Numerics], Tolerance] = {
    ("float32", "exact"): EXACT,
    # Sums of up to 4096 products measured 3e-6; the bound leaves room for cancellation.
    ("float32", "reassociates"): Tolerance(2e-5, 2e-5, 5e-6),
    # Polynomials measured within 4 units in the last place, times the sum that follows.
    ("float32", "approximates"): Tolerance(5e-5, 5e-5, 1e-5),
    ("float32", "model"): Tolerance(1e-3, 1e-4, 1e-4),
    ("float32", "fp16"): Tolerance(2e-1, 1e-2, 5e-2),
    ("float32", "bf16"): Tolerance(1.2, 8e-2, 2.2e-1),
    ("float32", "int8"): Tolerance(1.0, 0.0, 2.6e-1),
    ("float32", "quantized"): Tolerance(float("inf"), 0.0, 3e-1),
    ("float16", "exact"): EXACT,
    # One operation that sums in float32 and rounds once: half a unit in the last place, 4.9e-4 of
    # the element, and a whole one where the reference rounds its sums as well.
    ("float16", "reassociates"): Tolerance(1e-3, 1e-3, 5e-4),
    ("float16", "approximates"): Tolerance(1e-3, 1e-3, 5e-4),
    ("float16", "model"): Tolerance(2e-1, 1e-2, 5e-2),
    ("float16", "fp16"): Tolerance(2e-1, 1e-2, 5e-2),
}
# fp64 is computed in fp64 or better judged: never worse than fp32.
_TABLE.update({("float64", n): t for (d, n), t in list(_TABLE.items()) if d == "float32"})


def tolerance(dtype: np.dtype[np.generic] | str, numerics: Numerics = "model") -> Tolerance:
    """The tolerance for an output of ``dtype`` computed under ``numerics``.

    Integers, booleans and strings are always exact.

    Raises:
        UsageError: The table has no row.
    """
    kind = np.dtype(dtype)
    if kind.kind in "iubOUST":
        return EXACT
    found = _TABLE.get((kind.name, numerics))
    if found is None:
        raise UsageError(
            f"there is no tolerance for {kind.name} outputs under '{numerics}'",
            hint="give atol and rtol explicitly",
        )
    return found
