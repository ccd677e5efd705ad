"""Symbolic dims: exact against Python's integers, canonical, and stable in their text form."""

from __future__ import annotations

import random

import pytest

from burnish.ir import dims
from burnish.ir.dims import UNKNOWN, Dim, Expr, equal, parse_dim, sym

B, S, P = sym("batch"), sym("sequence"), sym("p2o.DynamicDimension.0")

TEXTS = {
    "0": dims.sub(S, S),
    "sequence": S,
    "2*sequence + 1": S + S + 1,
    "batch*sequence": S * B,
    "sequence - 1": S - 1,
    "-sequence + 3": dims.sub(3, S),
    "4*batch*sequence + 2*batch": (S * 2 + 1) * (B * 2),
    "sequence//2": S // 2,
    "(sequence + 1)//2": (S + 1) // 2,
    "2*((sequence + 1)//2)": ((S + 1) // 2) * 2,
    "sequence%4": S % 4,
    "max(batch, sequence)": dims.maximum(S, B),
    "min(512, sequence)": dims.minimum(S, 512),
    "p2o.DynamicDimension.0 + 1": P + 1,
    "batch//sequence": B // S,
}


@pytest.mark.parametrize("text", TEXTS)
def test_text_form(text: str) -> None:
    assert str(TEXTS[text]) == text
    assert equal(parse_dim(text), TEXTS[text])


# Left and right are the same for every size, and must be the same object of thought.
EQUAL = [
    (S * 4 // 4, S),
    ((S * 4 + 3) // 4, S),
    ((S * 6 + 9) // 3, S * 2 + 3),
    ((S + 5) // 2, (S + 1) // 2 + 2),
    (((S + 1) // 2 + 1) // 2, (S + 3) // 4),
    ((((S + 1) // 2 + 1) // 2 + 1) // 2, (S + 7) // 8),
    (S * B * 12 // (B * 4), S * 3),
    ((S * 4 + 6) % 4, 2),
    (S * B % S, 0),
    (dims.maximum(S + 3, S), S + 3),
    (dims.minimum(S + 3, S), S),
    (dims.maximum(0, S), S),
    (dims.maximum(B, S), dims.maximum(S, B)),
    (dims.ceildiv(S, 2), (S + 1) // 2),
    (dims.product([B, 2, S, 3]), S * B * 6),
]


@pytest.mark.parametrize(("left", "right"), EQUAL, ids=str)
def test_equal_expressions_have_one_form(left: Dim, right: Dim) -> None:
    assert equal(left, right)
    assert str(left) == str(right)
    assert hash(left) == hash(right)


def _random(rng: random.Random, depth: int) -> tuple[Dim, str]:
    """A random dim and Python source of the same number."""
    if depth == 0:
        name = rng.choice("abc")
        number = rng.randint(1, 9)
        return rng.choice([(sym(name), name), (number, str(number))])
    (x, xs), (y, ys) = _random(rng, depth - 1), _random(rng, depth - 1)
    number = rng.randint(1, 9)
    op = rng.choice(["+", "-", "*", "//", "%", "max", "min", "ceil"])
    if op in ("max", "min"):
        return (dims.maximum if op == "max" else dims.minimum)(x, y), f"{op}({xs}, {ys})"
    if op == "//":
        return dims.floordiv(x, number), f"(({xs}) // {number})"
    if op == "%":
        return dims.mod(x, number), f"(({xs}) % {number})"
    if op == "ceil":
        return dims.ceildiv(x, number), f"(-(-({xs}) // {number}))"
    fn = {"+": dims.add, "-": dims.sub, "*": dims.mul}[op]
    return fn(x, y), f"(({xs}) {op} ({ys}))"


def test_arithmetic_is_that_of_integers() -> None:
    rng = random.Random(7)
    symbolic = 0
    for _ in range(1500):
        dim, source = _random(rng, rng.randint(1, 4))
        assert not isinstance(dim, float)
        for _ in range(4):
            sizes = {name: rng.randint(0, 50) for name in "abc"}
            expected = eval(source, {"max": max, "min": min}, dict(sizes))
            assert dims.evaluate(dim, sizes) == expected, (source, str(dim), sizes)
        if isinstance(dim, Expr):
            symbolic += 1
            assert equal(parse_dim(str(dim)), dim), str(dim)
            assert dims.symbols(dim) <= set("abc")
    assert symbolic > 800


def test_substitution_renames_and_fixes() -> None:
    dim = (S + 1) // 2 + B * S
    assert str(dims.substitute(dim, {"sequence": sym("t")})) == "batch*t + (t + 1)//2"
    assert dims.substitute(dim, {"sequence": 7, "batch": 2}) == 18
    assert str(dims.substitute(dim, {"sequence": B * 2})) == str(B * B * 2 + B)


def test_unknown_equals_nothing_and_spreads() -> None:
    assert not equal(UNKNOWN, UNKNOWN)
    assert not equal(UNKNOWN, 1)
    assert dims.add(UNKNOWN, 1) is UNKNOWN
    assert dims.mul(UNKNOWN, S) is UNKNOWN
    assert dims.mul(UNKNOWN, 0) == 0
    assert dims.maximum(UNKNOWN, S) is UNKNOWN
    assert dims.substitute(UNKNOWN, {"sequence": 1}) is UNKNOWN


def test_what_cannot_be_evaluated() -> None:
    with pytest.raises(KeyError, match="unbound"):
        dims.evaluate(S + 1, {"batch": 2})
    with pytest.raises(KeyError):
        dims.evaluate(UNKNOWN, {})
    with pytest.raises(ZeroDivisionError):
        dims.floordiv(S, 0)


@pytest.mark.parametrize("text", ["", "+", "a b", "2*", "(a", "a)", "max(a)", "a $ b", "1.5"])
def test_text_that_is_no_dim(text: str) -> None:
    with pytest.raises(ValueError, match="not a dimension"):
        parse_dim(text)


def test_static_product() -> None:
    assert dims.static_product([2, 3, 4]) == 24
    assert dims.static_product([]) == 1
    assert dims.static_product([2, S]) is None
