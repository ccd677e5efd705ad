"""Elementary functions as polynomials, for float32 vectors of any width and scalars.

LLVM calls the C library once per lane for these, which is eight times slower. Range reduction and
coefficients follow Cephes (exp, log, sin, cos: S. Moshier, *Methods and Programs for Mathematical
Functions*) and Eigen (tanh, erf: rational minimax). The relative or absolute error is about 1e-6
or better over the whole range; infinities and NaN come out as in NumPy, except that results below
the smallest normal number are flushed to 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from burnish.backends.cpu.tir import Expr, constant, lanes_of, let, select, with_lanes

#: Adding it to |x| < 2**22 rounds x to an integer, which the low bits of the sum then hold.
ROUND = 12582912.0  # 1.5 * 2**23


def _c(value: float, like: Expr) -> Expr:
    return constant(value, lanes_of(like))


def _int(value: int, like: Expr) -> Expr:
    return constant(value, lanes_of(like), "int32")


def _bits(x: Expr) -> Expr:
    return T.reinterpret(with_lanes("int32", lanes_of(x)), x)


def _float(bits: Expr) -> Expr:
    return T.reinterpret(with_lanes("float32", lanes_of(bits)), bits)


def _rounded(x: Expr, scale: float) -> tuple[Expr, Expr]:
    """``round(x * scale)`` as a float, and as the low bits of an int32; for results < 2**22."""
    shifted = let(x * _c(scale, x) + _c(ROUND, x))
    return let(shifted - _c(ROUND, x)), let(_bits(shifted))


def _horner(x: Expr, coefficients: Sequence[float]) -> Expr:
    """Polynomial in ``x``, highest power first."""
    p = _c(coefficients[0], x)
    for c in coefficients[1:]:
        p = p * x + _c(c, x)
    return p


def clip(x: Expr, low: float, high: float) -> Expr:
    """``x`` within [low, high]; keeps NaN."""
    # With the constant first, the comparison is false and gives x where x is NaN: that is what
    # one instruction of x86 does, in this order of its operands only.
    return tirx.Min(_c(high, x), tirx.Max(_c(low, x), x))


def _clamp(x: Expr, low: float, high: float) -> Expr:
    return let(clip(x, low, high))


def exp(x: Expr) -> Expr:
    """e**x; results below 1.2e-38 are 0."""
    x = let(x)
    lowest = -87.33654
    v = _clamp(x, lowest, 89.0)
    n, bits = _rounded(v, 1.44269504088896341)
    f = let(v - n * _c(0.693359375, v))
    f = let(f - n * _c(-2.12194440e-4, v))
    p = _horner(
        f,
        (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
         5.0000001201e-1),
    )  # fmt: skip
    p = let(p * (f * f) + f + _c(1.0, f))
    # 2**n as 2 * 2**(n-1), so that n = 128 is in range and overflows to infinity in the product.
    power = _float(T.shift_left(bits + _int(126, v), _int(23, v)))
    y = let((p + p) * power)
    return let(select(x < _c(lowest, x), _c(0.0, x), y))


def exp2_of_negative(x: Expr) -> Expr:
    """2**x for x <= 0; results below 1.2e-38 are 0 or as small.

    Half the operations of :func:`exp`: there is nothing to do for overflow, and the exponent of
    the smallest results is 0 by itself.
    """
    # The exponent's bias is in the number that rounds; -127 has the biased exponent 0, that is 0.0.
    bias = ROUND + 127.0
    v = let(tirx.Max(_c(-127.0, x), x))
    shifted = let(v + _c(bias, v))
    f = let(v - (shifted - _c(bias, v)))
    p = _horner(
        f,
        (1.3276472049638e-3, 9.6755413846388e-3, 5.5507132737581e-2, 2.4022119722917e-1,
         6.9314696706433e-1, 1.0000000716549),
    )  # fmt: skip
    return let(p * _float(T.shift_left(_bits(shifted), _int(23, v))))


def log(x: Expr) -> Expr:
    """Natural logarithm: -inf at 0, NaN below."""
    x = let(x)
    tiny = x < _c(1.17549435e-38, x)
    v = let(select(tiny, x * _c(8388608.0, x), x))
    bits = let(_bits(v))
    # Mantissa in [sqrt(1/2), sqrt(2)) and its exponent.
    e = let(T.shift_right(bits - _int(0x3F3504F3, v), _int(23, v)))
    m = let(_float(bits - T.shift_left(e, _int(23, v))) - _c(1.0, v))
    n = let(T.cast(e, with_lanes("float32", lanes_of(v))) - select(tiny, _c(23.0, v), _c(0.0, v)))
    z = let(m * m)
    p = _horner(
        m,
        (7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
         -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1),
    )  # fmt: skip
    y = let(p * m * z + n * _c(-2.12194440e-4, v) - z * _c(0.5, v))
    y = let(m + y + n * _c(0.693359375, v))
    y = let(select(x < _c(math.inf, x), y, x))
    below = let(select(tirx.EQ(x, _c(0.0, x)), _c(-math.inf, x), _c(math.nan, x)))
    return let(select(x > _c(0.0, x), y, below))


def erf(x: Expr) -> Expr:
    """Gauss error function."""
    v = _clamp(x, -3.832506856900711, 3.832506856900711)
    z = let(v * v)
    p = _horner(
        z,
        (-2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06,
         -5.69250639462346e-05, -7.34990630326855e-04, -2.95459980854025e-03,
         -1.60960333262415e-02),
    )  # fmt: skip
    q = _horner(
        z,
        (-1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03,
         -7.37332916720468e-03, -1.42647390514189e-02),
    )  # fmt: skip
    return let((v * p) / q)


def tanh(x: Expr) -> Expr:
    """Hyperbolic tangent."""
    v = _clamp(x, -7.90531110763549805, 7.90531110763549805)
    z = let(v * v)
    p = _horner(
        z,
        (-2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11,
         5.12229709037114e-08, 1.48572235717979e-05, 6.37261928875436e-04,
         4.89352455891786e-03),
    )  # fmt: skip
    q = _horner(
        z, (1.19825839466702e-06, 1.18534705686654e-04, 2.26843463243900e-03, 4.89352518554385e-03)
    )
    return let((v * p) / q)


def sigmoid(x: Expr) -> Expr:
    """1 / (1 + e**-x)."""
    return let(_c(1.0, x) / (_c(1.0, x) + exp(_c(0.0, x) - x)))


def silu(x: Expr) -> Expr:
    """X * sigmoid(x), also called swish."""
    x = let(x)
    return let(x * sigmoid(x))


def gelu(x: Expr) -> Expr:
    """x/2 * (1 + erf(x / sqrt(2))) (ONNX Gelu-20, approximate="none")."""
    x = let(x)
    return let(x * _c(0.5, x) * (_c(1.0, x) + erf(x * _c(math.sqrt(0.5), x))))


def gelu_tanh(x: Expr) -> Expr:
    """x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x**3))) (ONNX Gelu-20, approximate="tanh")."""
    x = let(x)
    inner = let(x + _c(0.044715, x) * (x * x * x))
    return let(x * _c(0.5, x) * (_c(1.0, x) + tanh(inner * _c(math.sqrt(2 / math.pi), x))))


def softplus(x: Expr) -> Expr:
    """log(1 + e**x), without overflow."""
    x = let(x)
    zero = _c(0.0, x)
    return let(select(x < zero, zero, x) + log(_c(1.0, x) + exp(zero - tirx.abs(x))))


def mish(x: Expr) -> Expr:
    """X * tanh(softplus(x)) (ONNX Mish-18)."""
    x = let(x)
    # tanh(log(1+e)) = (e^2 + 2e) / (e^2 + 2e + 2); beyond x = 20 it is 1 in float32.
    e = exp(select(x > _c(20.0, x), _c(20.0, x), x))
    n = let(e * (e + _c(2.0, x)))
    return let(x * (n / (n + _c(2.0, x))))


def elu(x: Expr, alpha: float = 1.0) -> Expr:
    """X, or alpha * (e**x - 1) below 0."""
    x = let(x)
    return let(select(x < _c(0.0, x), _c(alpha, x) * (exp(x) - _c(1.0, x)), x))


def relu(x: Expr) -> Expr:
    """max(x, 0); keeps NaN."""
    return tirx.Max(_c(0.0, x), x)


def leaky_relu(x: Expr, alpha: float) -> Expr:
    """X, or alpha * x below 0."""
    x = let(x)
    return let(select(x < _c(0.0, x), x * _c(alpha, x), x))


def hard_sigmoid(x: Expr, alpha: float = 1 / 6, beta: float = 0.5) -> Expr:
    """max(0, min(1, alpha * x + beta))."""
    return clip(x * _c(alpha, x) + _c(beta, x), 0.0, 1.0)


def hard_swish(x: Expr) -> Expr:
    """X * hard_sigmoid(x) (ONNX HardSwish-14)."""
    x = let(x)
    return x * hard_sigmoid(x)


def reciprocal(x: Expr) -> Expr:
    """1 / x."""
    return _c(1.0, x) / x


def _sincos(x: Expr, quarter: int) -> Expr:
    """sin(x + quarter * pi/2), for |x| up to about 1e5."""
    x = let(x)
    n, bits = _rounded(x, 2 / math.pi)
    # pi/2 in four parts, whose products with n are exact or below the last bit of the result.
    r = x
    for part in (1.5703125, 4.837512969970703125e-4, 7.549789948768648e-8, 1.2543e-15):
        r = let(r - n * _c(part, x))
    q = let(bits + _int(quarter, x))
    z = let(r * r)
    s = let(_horner(z, (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)) * z * r + r)
    c = _horner(z, (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2))
    c = let(c * z * z - z * _c(0.5, x) + _c(1.0, x))
    odd = tirx.bitwise_and(q, _int(1, x)) == _int(1, x)
    sign = T.shift_left(tirx.bitwise_and(q, _int(2, x)), _int(30, x))
    return let(_float(tirx.bitwise_xor(_bits(select(odd, c, s)), sign)))


def sin(x: Expr) -> Expr:
    """Sine; the absolute error grows beyond |x| = 1e5."""
    return _sincos(x, 0)


def cos(x: Expr) -> Expr:
    """Cosine; the absolute error grows beyond |x| = 1e5."""
    return _sincos(x, 1)


#: Unary functions by ONNX operator (or post-op) name; float parameters follow the operand, in the
#: order of the ONNX attributes.
UNARY: dict[str, Callable[..., Expr]] = {
    "Abs": tirx.abs,
    "Clip": clip,
    "Cos": cos,
    "Elu": elu,
    "Erf": erf,
    "Exp": exp,
    "Gelu": gelu,
    "GeluTanh": gelu_tanh,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": hard_swish,
    "LeakyRelu": leaky_relu,
    "Log": log,
    "Mish": mish,
    "Neg": lambda x: _c(0.0, x) - x,
    "Reciprocal": reciprocal,
    "Relu": relu,
    "Sigmoid": sigmoid,
    "Silu": silu,
    "Sin": sin,
    "Softplus": softplus,
    "Sqrt": tirx.sqrt,
    "Tanh": tanh,
}

#: Functions so long that a template must not repeat them for every register of its tile.
LONG = frozenset(
    {"Cos", "Elu", "Erf", "Exp", "Gelu", "GeluTanh", "Log", "Mish", "Sigmoid", "Silu", "Sin",
     "Softplus", "Tanh"}
)  # fmt: skip
