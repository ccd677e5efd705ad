"""Concatenations that kernels write their results into."""

from __future__ import annotations

import pytest

from tests.support.bundle import Bundle, Case

W = (
    "float[24,16,1,1] w1, float[20,16,3,3] w3, float[7,16,5,5] w5, float[24,16,1,1] w7, "
    "float[24,16,1,1] w8, float[16,1,3,3] d, float[8,{n},1,1] v"
)


def case(total: int, nodes: str, x: str = "n,16,9,h") -> Case:
    """Branches from ``x`` that end in ``c``, of ``total`` channels, and a convolution of that."""
    return Case(
        f"(float[{x}] x) => (float[a,b,e,f] y) <{W.format(n=total)}> {{ {nodes} y = Conv(c, v) }}",
        sizes={"n": 2, "h": 13},
    )


ONE = "p = Conv(x, w1) a = Relu(p) "
THREE = "q = Conv<pads=[2,2,2,2], dilations=[2,2]>(x, w3) b = Sigmoid(q) "
DENSE = "q = Conv<pads=[1,1,1,1]>(x, w3) b = Sigmoid(q) "
FEW = "e = Conv<pads=[2,2,2,2]>(x, w5) "
DEPTH = "f = Conv<pads=[1,1,1,1], group=16>(x, d) g = Clip(f) "
CASES = {
    "two": case(44, ONE + THREE + "c = Concat<axis=1>(a, b)"),
    "other_order": case(44, ONE + THREE + "c = Concat<axis=1>(b, a)"),
    "static": case(44, ONE + THREE + "c = Concat<axis=1>(a, b)", "1,16,9,13"),
    "dense": case(44, ONE + DENSE + "c = Concat<axis=1>(a, b)"),
    "static_dense": case(44, ONE + DENSE + "c = Concat<axis=1>(b, a)", "1,16,9,13"),
    "three": case(60, ONE + THREE + DEPTH + "c = Concat<axis=1>(g, a, b)"),
    "of_one_that_is_read": case(60, ONE + THREE + "c = Concat<axis=1>(a, b, x)"),
    "of_few_filters": case(31, ONE + FEW + "c = Concat<axis=1>(e, a)"),
    "twice_the_same": case(48, ONE + "c = Concat<axis=1>(a, a)"),
    "of_a_pool": case(
        40, ONE + "m = MaxPool<kernel_shape=[3,3], pads=[1,1,1,1]>(x) c = Concat<axis=1>(m, a)"
    ),
    "residual": case(
        48,
        ONE + "q = Conv(x, w7) s = Conv(x, w8) t = Add(s, q) c = Concat<axis=1>(a, t)",
    ),
    "of_concats": case(
        68, ONE + THREE + "i = Concat<axis=1>(a, b) j = Conv(x, w7) c = Concat<axis=1>(i, j)"
    ),
    "one_axis": Case(
        "(float[n,16,15] x) => (float[a,b,e] y) <float[24,16,1] w, float[12,16,3] u, "
        "float[5,36,1] v> { p = Conv(x, w) q = Conv<pads=[1,1]>(x, u) c = Concat<axis=1>(p, q) "
        "y = Conv(c, v) }",
        sizes={"n": 2},
    ),
}


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return Bundle(CASES, library="none")


@pytest.mark.parametrize("name", CASES)
def test_computes_the_same(name: str, bundle: Bundle) -> None:
    bundle.check(name)


#: Inputs of the concatenation that are copied into it: kernels wrote the others there. Whether the
#: transforms of dense 3x3 filters can is up to their plan.
COPIED = {"of_one_that_is_read": 1, "of_few_filters": 1}


@pytest.mark.parametrize("name", [n for n in CASES if "dense" not in n and n != "twice_the_same"])
def test_what_is_copied(name: str, bundle: Bundle) -> None:
    nodes = [n for n in bundle.nodes if any(s.startswith(f"{name}/") for s in n.nodes)]
    families = [n.kernel.rpartition("_")[0] for n in nodes if n.kernel]
    assert families.count("scatter") == COPIED.get(name, 0)
    assert not any("concat" in family for family in families)
