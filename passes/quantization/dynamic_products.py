"""Integer products with scales that are computed in every run become composites.

::

    x, sx, zx = DynamicQuantizeLinear(data)
    Mul(Cast(MatMulInteger(x, w, zx, zw)), sx * sw)  =  burnish::QMatMul(x, w - zw, sx, zx, sw)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from burnish.ir import Attr, Builder, Node, Value
from burnish.passes.base import Numerics
from burnish.passes.patterns import NoMatch, Tracer
from burnish.passes.quantization.parameters import centered
from burnish.passes.rewrite import Replacement, Rule


def _factors(value: Value, nodes: list[Node]) -> list[Value]:
    """What is multiplied to ``value``; adds the products to ``nodes``."""
    node = value.producer
    if node is None or node.key != "Mul":
        return [value]
    nodes.append(node)
    return [f for v in node.inputs if v is not None for f in _factors(v, nodes)]


def _integer_product(value: Value) -> tuple[Node, Node] | None:
    """The Cast of a MatMulInteger, and that."""
    cast = value.producer
    if cast is None or cast.key != "Cast" or value.dtype != "float32":
        return None
    product = cast.required(0).producer
    return (cast, product) if product is not None and product.key == "MatMulInteger" else None


class MakeDynamicQMatMul(Rule):
    """Mul(Cast(MatMulInteger(x, w)), scales) => burnish::QMatMul."""

    name = "make-dynamic-qmatmul"
    numerics = Numerics.REASSOCIATES
    anchors = ("Mul",)

    def apply(self, node: Node, b: Builder, tracer: Tracer | None) -> Replacement | NoMatch:
        """Sort the factors into the product, one scale of the data and scales of the columns."""
        covered: list[Node] = []
        factors = _factors(node.output, covered)
        products = [found for f in factors if (found := _integer_product(f)) is not None]
        if len(products) != 1:
            return NoMatch("it does not scale one integer product", node)
        cast, product = products[0]
        if cast.output.single_user() is None or product.output.single_user() is None:
            return NoMatch("the sums are used elsewhere", product)
        weights = _weights(product)
        if isinstance(weights, NoMatch):
            return weights
        rest = [f for f in factors if f is not cast.output]
        data = [f for f in rest if not f.is_const]
        scale = _column_scale([f.array for f in rest if f.is_const], weights.shape[1])
        if scale is None:
            return NoMatch("a factor is neither one number nor one for each column", node)
        if len(data) > 1 or any(f.dtype != "float32" or f.shape != () for f in data):
            return NoMatch("the data has more than one scale", node)
        x, zero = product.required(0), product.input(2)
        if zero is not None and any(d != 1 for d in zero.shape):
            return NoMatch("the data has more than one zero point", node)
        one = b.constant(np.asarray(1.0, np.float32), "x_scale")
        none = b.constant(np.zeros((), np.dtype(x.dtype)), "x_zero_point")
        flat = none if zero is None else zero
        if flat.shape:
            flat = b.op("Reshape", flat, b.ints([]))
        core = [x, b.constant(weights, "weights"), data[0] if data else one, flat]
        core.append(b.constant(scale, "w_scale"))
        attrs: dict[str, Attr] = {"postops": (), "y_dtype": "float32"}
        made = b.node("QMatMul", core, attrs, domain="burnish")
        return Replacement({node.output: made.output}, (product, cast, *covered))


def _weights(product: Node) -> NDArray[np.int8] | NoMatch:
    x, w, zero = product.required(0), product.required(1), product.input(3)
    if not w.is_const or w.t.rank != 2 or not (zero is None or zero.is_const):
        return NoMatch("the weights are not a constant matrix", w)
    if x.t.rank in (None, 0, 1):
        return NoMatch("the data has no rows", x)
    values = centered(w.array, None if zero is None else zero.array, 1)
    if values is None:
        return NoMatch("the weights lie on one side of zero: they need 9 bits around it", w)
    return values


def _column_scale(factors: list[NDArray[np.float32]], n: int) -> NDArray[np.float32] | None:
    """The product of constant factors, a scalar or [n]; None if one is of another shape."""
    total = np.ones((), np.float32)
    for factor in factors:
        if factor.dtype != np.float32 or factor.size not in (1, n):
            return None
        if factor.size == n and n > 1 and factor.shape[-1] != n:
            return None
        total = total * (factor.reshape(()) if factor.size == 1 else factor.reshape(n))
    return total
