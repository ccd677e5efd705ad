"""Which products get one precision together, and which nodes' times belong to them."""

from __future__ import annotations

from burnish.auto.regions import find_regions, names_of, region_of_nodes
from burnish.ir import Graph
from tests.support.golden import parse

#: Two blocks: two products of one kind that read x, then a product of another kind.
TEXT = """g (float[4,8] x) => (float[4,8] y)
<float[8,8] q0, float[8,8] k0, float[8,16] w0, float[16,8] v0,
 float[8,8] q1, float[8,8] k1, float[8,16] w1, float[16,8] v1> {
    a = MatMul(x, q0)
    b = MatMul(x, k0)
    c = Add(a, b)
    d = MatMul(c, w0)
    e = Relu(d)
    f = MatMul(e, v0)
    h = MatMul(f, q1)
    i = MatMul(f, k1)
    j = Add(h, i)
    k = MatMul(j, w1)
    l = Relu(k)
    m = MatMul(l, v1)
    y = Softmax(m)
}"""


def by_output(graph: Graph) -> dict[str, str]:
    """Name of each node by the value it makes."""
    return {node.output.name: names_of(node)[0] for node in graph.nodes}


def members(graph: Graph, most: int, left: dict[str, str] | None = None) -> list[set[str]]:
    outputs = {name: output for output, name in by_output(graph).items()}
    found = find_regions(graph, left or {}, most)
    return [{outputs[name] for name in region.nodes} for region in found]


def test_products_that_read_one_value_stay_together() -> None:
    graph = parse(TEXT)
    assert members(graph, 18) == [{"a", "b"}, {"d"}, {"f"}, {"h", "i"}, {"k"}, {"m"}]


def test_one_kind_at_neighbouring_depths_shares_a_region() -> None:
    assert members(parse(TEXT), 3) == [{"a", "b", "h", "i"}, {"d", "k"}, {"f", "m"}]
    assert members(parse(TEXT), 4) == [{"a", "b"}, {"d", "k"}, {"f", "m"}, {"h", "i"}]


def test_depth_alone_counts_where_there_are_more_kinds_than_regions() -> None:
    assert members(parse(TEXT), 2) == [{"a", "b", "d", "f"}, {"h", "i", "k", "m"}]
    assert len(members(parse(TEXT), 1)) == 1


def test_what_is_left_is_in_no_region() -> None:
    graph = parse(TEXT)
    left = {by_output(graph)[name]: "excluded" for name in "adkm"}
    assert members(graph, 18, left) == [{"b"}, {"f"}, {"h", "i"}]


def test_a_node_belongs_to_the_product_that_it_feeds() -> None:
    graph = parse(TEXT)
    regions = find_regions(graph, {}, 18)
    found, names = region_of_nodes(graph, regions), by_output(graph)
    assert [found[names[n]] for n in "abcdefhijklmy"] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 5]


def test_queries_keys_and_values_of_any_width_stay_together() -> None:
    graph = parse("""g (float[4,8] x) => (float[4,8] a, float[4,2] b, float[4,8] d)
    <float[8,8] q, float[8,2] k, float[8,2] v, float[2,8] o> {
        a = MatMul(x, q)
        b = MatMul(x, k)
        c = MatMul(x, v)
        d = MatMul(c, o)
    }""")
    assert members(graph, 18) == [{"a", "b", "c"}, {"d"}]


def test_products_inside_control_flow_have_regions() -> None:
    graph = parse(
        """g (float[4,8] x, bool c) => (float[4,8] y) <float[8,8] w, float[8,16] v> {
        a = MatMul(x, w)
        y = If (c) <then_branch = t () => (float[4,8] p) { d = MatMul(x, v) p = Slice(d, z, e, o) },
                    else_branch = s () => (float[4,8] q) { r = Neg(x) q = MatMul(r, w) }>
    }""".replace(
            "float[8,16] v", "float[8,16] v, int64[1] z = {0}, int64[1] e = {8}, int64[1] o = {1}"
        )
    )
    nodes = {node.output.name: names_of(node)[0] for node in graph.walk()}
    regions = find_regions(graph, {}, 18)
    assert [region.nodes for region in regions] == [(nodes[n],) for n in "adq"]
    of = region_of_nodes(graph, regions)
    assert [of[nodes[n]] for n in "adqr"] == [0, 1, 2, 2]
