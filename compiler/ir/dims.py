"""Symbolic dimensions: ``Dim = int | Expr | UNKNOWN`` with exact integer arithmetic.

An :class:`Expr` is a polynomial with integer coefficients over *atoms*: named symbols
(``batch``, ``sequence``) and opaque calls (``floordiv``, ``mod``, ``max``, ``min``) of expressions.
Polynomials are kept in a canonical form, so two expressions are equal exactly when their canonical
forms are. All symbols stand for non-negative integers.

:data:`UNKNOWN` is a dimension of which nothing is known. It equals nothing, itself included:
compare dims with :func:`equal`, never with ``==``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import total_ordering
from typing import Final, TypeAlias


@total_ordering
@dataclass(frozen=True)
class Call:
    """An opaque atom: ``fn`` applied to two dims; ``fn`` is floordiv, mod, max or min."""

    fn: str
    a: int | Expr
    b: int | Expr

    def __str__(self) -> str:
        if self.fn in ("max", "min"):
            return f"{self.fn}({self.a}, {self.b})"
        sign = "//" if self.fn == "floordiv" else "%"
        return f"{_wrap(self.a)}{sign}{_wrap(self.b)}"

    def __lt__(self, other: object) -> bool:
        return str(self) < str(other)


Atom: TypeAlias = str | Call
Monomial: TypeAlias = tuple[Atom, ...]


def _wrap(d: int | Expr) -> str:
    text = str(d)
    return text if isinstance(d, int) or text.isidentifier() else f"({text})"


@dataclass(frozen=True)
class Expr:
    """A canonical polynomial: sorted ``(monomial, coefficient)`` pairs, never a constant."""

    terms: tuple[tuple[Monomial, int], ...]

    def __str__(self) -> str:
        if len(self.terms) == 1 and self.terms[0][1] == 1 and len(self.terms[0][0]) == 1:
            return str(self.terms[0][0][0])
        parts: list[str] = []
        for mono, coeff in self.terms:
            alone = coeff == 1 and len(mono) == 1
            factors = [
                str(a) if isinstance(a, str) or alone or a.fn in ("max", "min") else f"({a})"
                for a in mono
            ]
            if abs(coeff) != 1 or not mono:
                factors.insert(0, str(abs(coeff)))
            text = "*".join(factors)
            if parts:
                parts.append((" - " if coeff < 0 else " + ") + text)
            else:
                parts.append(("-" if coeff < 0 else "") + text)
        return "".join(parts)

    __repr__ = __str__

    def __add__(self, other: Dim) -> Dim:
        return add(self, other)

    def __radd__(self, other: Dim) -> Dim:
        return add(other, self)

    def __sub__(self, other: Dim) -> Dim:
        return sub(self, other)

    def __rsub__(self, other: Dim) -> Dim:
        return sub(other, self)

    def __mul__(self, other: Dim) -> Dim:
        return mul(self, other)

    def __rmul__(self, other: Dim) -> Dim:
        return mul(other, self)

    def __floordiv__(self, other: Dim) -> Dim:
        return floordiv(self, other)

    def __mod__(self, other: Dim) -> Dim:
        return mod(self, other)


class _Unknown:
    """The type of :data:`UNKNOWN`."""

    def __repr__(self) -> str:
        return "?"

    def __eq__(self, other: object) -> bool:
        return False

    def __hash__(self) -> int:
        return id(self)


UNKNOWN: Final = _Unknown()
Dim: TypeAlias = int | Expr | _Unknown


def sym(name: str) -> Expr:
    """The symbol called ``name``."""
    return Expr((((name,), 1),))


def _terms(d: int | Expr) -> dict[Monomial, int]:
    if isinstance(d, Expr):
        return dict(d.terms)
    return {(): d} if d else {}


def _key(mono: Monomial) -> tuple[int, list[str]]:
    return (-len(mono), [str(a) for a in mono])


def _make(terms: Mapping[Monomial, int]) -> int | Expr:
    kept = {m: c for m, c in terms.items() if c}
    if not kept:
        return 0
    if len(kept) == 1 and () in kept:
        return kept[()]
    return Expr(tuple(sorted(kept.items(), key=lambda item: _key(item[0]))))


def add(a: Dim, b: Dim) -> Dim:
    """``a + b``."""
    if isinstance(a, _Unknown) or isinstance(b, _Unknown):
        return UNKNOWN
    terms = _terms(a)
    for mono, coeff in _terms(b).items():
        terms[mono] = terms.get(mono, 0) + coeff
    return _make(terms)


def sub(a: Dim, b: Dim) -> Dim:
    """``a - b``."""
    return add(a, mul(b, -1))


def mul(a: Dim, b: Dim) -> Dim:
    """``a * b``."""
    if isinstance(a, _Unknown) or isinstance(b, _Unknown):
        return 0 if (isinstance(a, int) and a == 0) or (isinstance(b, int) and b == 0) else UNKNOWN
    terms: dict[Monomial, int] = {}
    for m1, c1 in _terms(a).items():
        for m2, c2 in _terms(b).items():
            mono = tuple(sorted(m1 + m2, key=str))
            terms[mono] = terms.get(mono, 0) + c1 * c2
    return _make(terms)


def _divide_exactly(a: int | Expr, b: int | Expr) -> int | Expr | None:
    """``a / b`` if it is a polynomial for every value of the symbols, else None; b is one term."""
    divisor = _terms(b)
    if len(divisor) != 1:
        return 1 if a == b else None
    ((mono_b, coeff_b),) = divisor.items()
    result: dict[Monomial, int] = {}
    for mono, coeff in _terms(a).items():
        rest = list(mono)
        for atom in mono_b:
            if atom not in rest:
                return None
            rest.remove(atom)
        if coeff % coeff_b:
            return None
        result[tuple(rest)] = coeff // coeff_b
    return _make(result)


def floordiv(a: Dim, b: Dim) -> Dim:
    """``a // b`` (towards minus infinity); ``b`` must not be 0."""
    if isinstance(a, _Unknown) or isinstance(b, _Unknown):
        return UNKNOWN
    if isinstance(b, int) and b == 0:
        raise ZeroDivisionError("a dimension divided by 0")
    if isinstance(a, int) and isinstance(b, int):
        return a // b
    exact = _divide_exactly(a, b)
    if exact is not None:
        return exact
    if isinstance(b, int) and b > 0:
        # Terms divisible by b leave the quotient: (4*s + 3) // 4 == s.
        whole = {m: c // b for m, c in _terms(a).items() if c % b == 0}
        rest = {m: c for m, c in _terms(a).items() if c % b}
        if set(rest) <= {()}:
            return add(_make(whole), rest.get((), 0) // b)
        if whole:
            return add(_make(whole), floordiv(_make(rest), b))
        # ((s + 1) // 2 + 1) // 2 == (s + 3) // 4, since floors nest.
        nested = _single_quotient(rest)
        if nested is not None:
            inner, offset = nested
            return floordiv(add(inner.a, mul(inner.b, offset)), mul(inner.b, b))
        # (s + 5) // 2 == (s + 1) // 2 + 2 keeps one spelling for equal expressions.
        offset = rest.get((), 0)
        if offset >= b or offset < 0:
            rest[()] = offset % b
            return add(floordiv(_make(rest), b), offset // b)
    return Expr((((Call("floordiv", a, b),), 1),))


def _single_quotient(terms: Mapping[Monomial, int]) -> tuple[Call, int] | None:
    """``(q, c)`` when the terms are ``q + c``, with a quotient q by a number and a number c."""
    offset = terms.get((), 0)
    found = [(mono, coeff) for mono, coeff in terms.items() if mono]
    if len(found) != 1 or found[0][1] != 1 or len(found[0][0]) != 1:
        return None
    atom = found[0][0][0]
    if isinstance(atom, str) or atom.fn != "floordiv" or not isinstance(atom.b, int):
        return None
    return (atom, offset) if atom.b > 0 else None


def ceildiv(a: Dim, b: Dim) -> Dim:
    """``ceil(a / b)`` for positive ``b``."""
    return floordiv(add(a, sub(b, 1)), b)


def mod(a: Dim, b: Dim) -> Dim:
    """``a % b`` with the sign of ``b``, as Python."""
    if isinstance(a, _Unknown) or isinstance(b, _Unknown):
        return UNKNOWN
    if isinstance(a, int) and isinstance(b, int):
        return a % b
    if _divide_exactly(a, b) is not None:
        return 0
    if isinstance(b, int):
        rest = _make({m: c % b for m, c in _terms(a).items()})
        if isinstance(rest, int):
            return rest % b
        return Expr((((Call("mod", rest, b),), 1),))
    return Expr((((Call("mod", a, b),), 1),))


def lower_bound(d: Dim, least: int = 0) -> int | None:
    """A number that a dim is never below when all symbols are at least ``least``, if known."""
    if isinstance(d, int):
        return d
    if not isinstance(d, Expr):
        return None
    total = 0
    for mono, coeff in d.terms:
        bounds = [least if isinstance(atom, str) else _call_bound(atom, least) for atom in mono]
        if mono and (coeff < 0 or any(b is None or b < 0 for b in bounds)):
            return None
        total += coeff * math.prod(b for b in bounds if b is not None)
    return total


def _call_bound(call: Call, least: int) -> int | None:
    a, b = lower_bound(call.a, least), lower_bound(call.b, least)
    if call.fn == "max":
        return max((x for x in (a, b) if x is not None), default=None)
    if call.fn == "min":
        return None if a is None or b is None else min(a, b)
    if not isinstance(call.b, int) or call.b <= 0:
        return 0 if a is not None and b is not None and a >= 0 and b > 0 else None
    if call.fn == "mod":
        return 0
    return None if a is None else a // call.b


def nonnegative(d: Dim, least: int = 0) -> bool:
    """Whether a dim is known to be at least 0 when every symbol is at least ``least``."""
    bound = lower_bound(d, least)
    return bound is not None and bound >= 0


def _extreme(fn: str, a: Dim, b: Dim) -> Dim:
    if isinstance(a, _Unknown) or isinstance(b, _Unknown):
        return UNKNOWN
    if isinstance(a, int) and isinstance(b, int):
        return max(a, b) if fn == "max" else min(a, b)
    if a == b:
        return a
    for larger, smaller in ((a, b), (b, a)):
        if nonnegative(sub(larger, smaller)):  # s + 3 against s
            return larger if fn == "max" else smaller
    first, second = sorted((a, b), key=str)
    return Expr((((Call(fn, first, second),), 1),))


def maximum(a: Dim, b: Dim) -> Dim:
    """``max(a, b)``."""
    return _extreme("max", a, b)


def minimum(a: Dim, b: Dim) -> Dim:
    """``min(a, b)``."""
    return _extreme("min", a, b)


def product(dims: Iterable[Dim]) -> Dim:
    """The product of dims; 1 for none."""
    result: Dim = 1
    for d in dims:
        result = mul(result, d)
    return result


def equal(a: Dim, b: Dim) -> bool:
    """Whether two dims are known to be equal for every value of the symbols."""
    if isinstance(a, _Unknown) or isinstance(b, _Unknown):
        return False
    return a == b


def is_static(d: Dim) -> bool:
    """Whether a dim is a number."""
    return isinstance(d, int)


def symbols(d: Dim) -> frozenset[str]:
    """Names of the symbols in a dim."""
    if not isinstance(d, Expr):
        return frozenset()
    names: set[str] = set()
    for mono, _ in d.terms:
        for atom in mono:
            if isinstance(atom, str):
                names.add(atom)
            else:
                names |= symbols(atom.a) | symbols(atom.b)
    return frozenset(names)


_FUNCTIONS: Final = {"floordiv": floordiv, "mod": mod, "max": maximum, "min": minimum}


def substitute(d: Dim, bindings: Mapping[str, Dim]) -> Dim:
    """Replace symbols; symbols without a binding stay."""
    if not isinstance(d, Expr):
        return d
    total: Dim = 0
    for mono, coeff in d.terms:
        term: Dim = coeff
        for atom in mono:
            if isinstance(atom, str):
                term = mul(term, bindings.get(atom, sym(atom)))
            else:
                a, b = substitute(atom.a, bindings), substitute(atom.b, bindings)
                term = mul(term, _FUNCTIONS[atom.fn](a, b))
        total = add(total, term)
    return total


def evaluate(d: Dim, bindings: Mapping[str, int]) -> int:
    """The number that a dim has under ``bindings``.

    Raises:
        KeyError: A symbol has no binding, or the dim is UNKNOWN.
    """
    value = substitute(d, bindings)
    if not isinstance(value, int):
        raise KeyError(f"dimension {d} has unbound symbols")
    return value


_TOKEN = re.compile(r"\s*(?:(\d+)|([A-Za-z_][\w.]*)|(//|[-+*%(),]))")


class _Parser:
    """Recursive descent over the text form that ``str(Expr)`` writes."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[str] = []
        pos = 0
        stripped = text.rstrip()
        while pos < len(stripped):
            match = _TOKEN.match(stripped, pos)
            if not match:
                raise ValueError(f"not a dimension: {text!r}")
            self.tokens.append(match.group(0).strip())
            pos = match.end()
        self.pos = 0

    def peek(self) -> str:
        return self.tokens[self.pos] if self.pos < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise ValueError(f"not a dimension: {self.text!r}")
        self.pos += 1
        return token

    def sum(self) -> Dim:
        sign = -1 if self.peek() == "-" and self.take() else 1
        value = mul(self.term(), sign)
        while self.peek() in ("+", "-"):
            sign = 1 if self.take() == "+" else -1
            value = add(value, mul(self.term(), sign))
        return value

    def term(self) -> Dim:
        value = self.atom()
        while self.peek() in ("*", "//", "%"):
            op = {"*": mul, "//": floordiv, "%": mod}[self.take()]
            value = op(value, self.atom())
        return value

    def atom(self) -> Dim:
        token = self.take()
        if token == "(":
            value = self.sum()
            self.take(")")
            return value
        if token.isdigit():
            return int(token)
        if token in ("max", "min") and self.peek() == "(":
            self.take("(")
            a = self.sum()
            self.take(",")
            b = self.sum()
            self.take(")")
            return _extreme(token, a, b)
        if not (token[0].isalpha() or token[0] == "_"):
            raise ValueError(f"not a dimension: {self.text!r}")
        return sym(token)


def parse_dim(text: str) -> Dim:
    """Parse ``"2*sequence + 1"``; raises ValueError when the text is no dimension."""
    parser = _Parser(text)
    value = parser.sum()
    if parser.peek():
        raise ValueError(f"not a dimension: {text!r}")
    return value


def static_product(dims: Iterable[Dim]) -> int | None:
    """The product as a number, or None when a dim is not static."""
    numbers = list(dims)
    return (
        math.prod(d for d in numbers if isinstance(d, int))
        if all(map(is_static, numbers))
        else None
    )
