"""Channels last, regions of layout-agnostic operators, and the transposes that remain."""

# ruff: noqa: E501 (graphs are easier to read unbroken)

from __future__ import annotations

import pytest

from burnish.ir import Dim, sym
from burnish.passes.axes import Block, aligned_blocks, compose, elements_of, inverse, is_view
from burnish.passes.base import Numerics, PassContext
from burnish.passes.layout.nhwc import ChannelsLast, ViewTransposes
from burnish.passes.patterns import Tracer
from tests.support import golden
from tests.support.refusals import reasons

ATTRS = "strides=[1,1], pads=[1,1,1,1], dilations=[1,1], group=1"
X = "g (float[N,4,H,W] x) => (float[N,8,H,W] y)"
W = "float[8,4,3,3] w, float[8,8,3,3] w2, float[8] b"
LAST, FIRST = "perm=[0,2,3,1]", "perm=[0,3,1,2]"


def conv(result: str, x: str, w: str = "w", *rest: str, fmt: str = "NCHW", posts: str = "") -> str:
    quoted = ", ".join(f'"{p}"' for p in posts.split())
    inputs = ", ".join([x, w, *rest])
    return f'{result} = burnish.Conv<data_format="{fmt}", {ATTRS}, postops: strings = [{quoted}]>({inputs})'


def nhwc(result: str, x: str, w: str = "w", *rest: str, posts: str = "") -> str:
    return conv(result, x, w, *rest, fmt="NHWC", posts=posts)


def test_transposes_remain_at_the_ends_only() -> None:
    golden.check(
        ChannelsLast(),
        f"{X} <{W}> {{ {conv('a', 'x')} r = Relu(a) {conv('c', 'r', 'w2')} s = Add(c, r) t = Sigmoid(s) y = Mul(t, s) }}",
        f"{X} <{W}> {{ p = Transpose<{LAST}>(x) {nhwc('a', 'p')} r = Relu(a) {nhwc('c', 'r', 'w2')} s = Add(c, r) t = Sigmoid(s) m = Mul(t, s) y = Transpose<{FIRST}>(m) }}",
        numerics=Numerics.REASSOCIATES,
    )


def test_full_operands_are_transposed() -> None:
    head = "g (float[N,4,H,W] x, float[N,8,H,W] r) => (float[N,8,H,W] y)"
    golden.check(
        ChannelsLast(),
        f"{head} <{W}> {{ {conv('y', 'x', 'w', 'b', 'r', posts='Add:channel Add:full')} }}",
        f"{head} <{W}> {{ p = Transpose<{LAST}>(x) q = Transpose<{LAST}>(r) {nhwc('a', 'p', 'w', 'b', 'q', posts='Add:channel Add:full')} y = Transpose<{FIRST}>(a) }}",
        numerics=Numerics.REASSOCIATES,
    )


POOLS = [
    ("MaxPool<kernel_shape=[2,2], strides=[2,2], ceil_mode=1>", "burnish.MaxPool<data_format=\"NHWC\", kernel_shape=[2,2], strides=[2,2], pads=[0,0,0,0], dilations=[1,1], ceil_mode=1, postops: strings = []>"),
    ("AveragePool<kernel_shape=[3,3], pads=[1,1,1,1], count_include_pad=1>", "burnish.AveragePool<data_format=\"NHWC\", kernel_shape=[3,3], strides=[1,1], pads=[1,1,1,1], dilations=[1,1], ceil_mode=0, count_include_pad=1, postops: strings = []>"),
    ("GlobalAveragePool", "burnish.GlobalAveragePool<data_format=\"NHWC\", postops: strings = []>"),
    ("GlobalMaxPool", "burnish.GlobalMaxPool<data_format=\"NHWC\", postops: strings = []>"),
]  # fmt: skip


@pytest.mark.parametrize(("before", "after"), POOLS)
def test_pools(before: str, after: str) -> None:
    head = "g (float[2,4,5,6] x) => (float[A,B,C,D] y)"
    golden.check(
        ChannelsLast(),
        f"{head} {{ y = {before}(x) }}",
        f"{head} {{ p = Transpose<{LAST}>(x) q = {after}(p) y = Transpose<{FIRST}>(q) }}",
        numerics=Numerics.REASSOCIATES,
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("g (float[2,4,5,6] x) => (float[A,B,C,D] y, int64[E,F,G,H] i) { y, i = MaxPool<kernel_shape=[2,2]>(x) }", "the indices are used"),
        ('g (float[2,4,5,6] x) => (float[A,B,C,D] y) { y = MaxPool<kernel_shape=[2,2], auto_pad="SAME_UPPER">(x) }', "the padding depends on the input size"),
    ],
)  # fmt: skip
def test_pools_that_stay(text: str, reason: str) -> None:
    assert reason in reasons(ChannelsLast(), "pool-to-nhwc", text)


#: Operators between two convolutions: (constants, NCHW, NHWC).
AGNOSTIC = {
    "constants are permuted": ("float[8,1,1] k", "t = Mul(a, k)", "float[1,1,1,8] k", "t = Mul(a, k)"),
    "scalars stay": ("float[1] k", "t = Mul(a, k)", "float[1] k", "t = Mul(a, k)"),
    "concat": ("float[1,1,1,1] k", "s = Relu(a) u = Concat<axis=1>(a, s) t = Slice(u, z, e, o)", "float k", "s = Relu(a) u = Concat<axis=3>(a, s) t = Slice(u, z, e, three)"),
    "split": ("float k", "p, q = Split<axis=1, num_outputs=2>(a) t = Concat<axis=1>(q, p)", "float k", "p, q = Split<axis=3, num_outputs=2>(a) t = Concat<axis=3>(q, p)"),
    "pad": ("int64[8] k={0,0,1,0,0,0,0,2}", "t = Pad(a, k)", "int64[8] k={0,1,0,0,0,0,2,0}", "t = Pad(a, k)"),
    "pad some axes": ("int64[2] k={1,2}", "t = Pad(a, k, , two)", "int64[8] k={0,1,0,0,0,2,0,0}", "t = Pad(a, k)"),
    "resize": ("float[4] k={1,1,2,3}", 't = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor">(a, , k)', "float[4] k={1,2,3,1}", 't = Resize<mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor", axes=[0,1,2,3]>(a, , k)'),
    "softmax": ("float k", "t = Softmax<axis=1>(a)", "float k", "t = Softmax<axis=3>(a)"),
    "reduction": ("float k", "m = ReduceMean(a, o) t = Sub(a, m)", "float k", "m = ReduceMean(a, three) t = Sub(a, m)"),
    "tile": ("int64[4] k={1,1,2,3}", "t = Tile(a, k)", "int64[4] k={1,2,3,1}", "t = Tile(a, k)"),
    "where": ("float k", "c = Greater(a, k) n = Neg(a) t = Where(c, a, n)", "float k", "c = Greater(a, k) n = Neg(a) t = Where(c, a, n)"),
}  # fmt: skip
SMALL = "int64[1] z={0}, int64[1] e={8}, int64[1] o={1}, int64[1] three={3}, int64[1] two={2}"


@pytest.mark.parametrize("name", AGNOSTIC)
def test_regions(name: str) -> None:
    before_constants, before, after_constants, after = AGNOSTIC[name]
    head = "g (float[2,4,5,6] x) => (float[A,B,C,D] y)"
    golden.check(
        ChannelsLast(),
        f"{head} <{W}, {SMALL}, {before_constants}> {{ {conv('a', 'x')} {before} {conv('y', 't', 'w2')} }}",
        f"{head} <{W}, {SMALL}, {after_constants}> {{ i = Transpose<{LAST}>(x) {nhwc('a', 'i')} {after} {nhwc('j', 't', 'w2')} y = Transpose<{FIRST}>(j) }}",
        numerics=Numerics.REASSOCIATES,
    )


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("y = ReduceMax<keepdims=0>(a, hw)", "y = ReduceMax<keepdims=0>(a, last)"),
        ("m = Gather<axis=2>(a, two) y = Gather<axis=2>(m, two)", "m = Gather<axis=1>(a, two) y = Gather<axis=1>(m, two)"),
    ],
)  # fmt: skip
def test_dropped_axes_end_a_region(before: str, after: str) -> None:
    head = "g (float[2,4,5,6] x) => (float[A,B] y)"
    constants = "int64[2] hw={2,3}, int64[2] last={1,2}, int64 two={2}"
    golden.check(
        ChannelsLast(),
        f"{head} <{W}, {constants}> {{ {conv('a', 'x')} {before} }}",
        f"{head} <{W}, {constants}> {{ i = Transpose<{LAST}>(x) {nhwc('a', 'i')} {after} }}",
        numerics=Numerics.REASSOCIATES,
    )


def test_transposes_of_the_model_cancel() -> None:
    head = "g (float[N,H,W,4] x) => (float[N,H,W,8] y)"
    golden.check(
        ChannelsLast(),
        f"{head} <{W}> {{ t = Transpose<{FIRST}>(x) {conv('a', 't')} r = Relu(a) y = Transpose<{LAST}>(r) }}",
        f"{head} <{W}> {{ {nhwc('a', 'x')} y = Relu(a) }}",
        numerics=Numerics.REASSOCIATES,
    )


def test_one_spatial_axis_and_a_transposed_sequence() -> None:
    attrs = "strides=[2], pads=[1,1], dilations=[1], group=1"
    head = "g (float[N,6,4] x) => (float[N,3,8] y)"
    golden.check(
        ChannelsLast(),
        f'{head} <float[8,4,3] w, float[3,8] k> {{ t = Transpose<perm=[0,2,1]>(x) a = burnish.Conv<data_format="NCW", {attrs}, postops: strings = []>(t, w) u = Transpose<perm=[0,2,1]>(a) y = Add(u, k) }}',
        f'{head} <float[8,4,3] w, float[3,8] k> {{ a = burnish.Conv<data_format="NWC", {attrs}, postops: strings = []>(x, w) y = Add(a, k) }}',
        numerics=Numerics.REASSOCIATES,
    )


def test_a_region_that_gains_nothing_stays() -> None:
    text = "g (float[2,4,5] x) => (float[2,5,4] y, float[2,4,5] z) { z = Relu(x) y = Transpose<perm=[0,2,1]>(z) }"
    golden.check(ChannelsLast(), text, None)


def test_flattened_rows_go_into_the_weights() -> None:
    head = "g (float[N,3,2,4] x) => (float[N,5] y)"
    shape = "int64[2] s={0,24}"
    graph = golden.check(
        ChannelsLast(),
        f"{head} <float[24,5] w, {shape}> {{ t = Transpose<{FIRST}>(x) f = Reshape(t, s) y = burnish.MatMul<postops: strings = []>(f, w) }}",
        f"{head} <float[24,5] w, {shape}> {{ f = Reshape(x, s) y = burnish.MatMul<postops: strings = []>(f, w) }}",
        numerics=Numerics.REASSOCIATES,
    )
    assert len(graph.nodes) == 2


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ("t = Transpose<perm=[1,0,2,3]>(x) f = Reshape(t, s) y = burnish.MatMul<P>(f, w)", "the batch is transposed, or a merged axis is not static"),
        ("t = Transpose<perm=[0,3,1,2]>(x) f = Reshape(t, s) a = burnish.MatMul<P>(f, w) c = burnish.MatMul<P>(k, w) y = Add(a, c)", "the weights are shared: permuting would copy them"),
        ("t = Relu(x) f = Reshape(t, s) y = burnish.MatMul<P>(f, w)", "what is flattened is not transposed"),
        ("y = burnish.MatMul<P>(k, w)", "the input is not flattened"),
    ],
)  # fmt: skip
def test_flattened_rows_that_stay(body: str, reason: str) -> None:
    body = body.replace("<P>", "<postops: strings = []>")
    text = f"g (float[3,3,2,4] x, float[3,24] k) => (float[3,5] y) <float[24,5] w, int64[2] s={{3,24}}> {{ {body} }}"
    assert reason in reasons(ChannelsLast(), "permute-weight-rows", text)


def test_a_reshape_of_whole_blocks_lets_transposes_pass() -> None:
    head = "g (float[N,3,4,8] x) => (float[N,12,8] y)"
    golden.check(
        ChannelsLast(),
        f"{head} <int64[3] s={{0,8,12}}> {{ t = Transpose<{FIRST}>(x) f = Reshape(t, s) y = Transpose<perm=[0,2,1]>(f) }}",
        f"{head} <int64[3] s={{0,12,8}}> {{ y = Reshape(x, s) }}",
    )


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        ("{2,96,1}", "the reshape merges axes that the transpose tears apart"),
        ("{2,24,4}", "the reshape merges axes that the transpose tears apart"),
    ],
)
def test_a_reshape_that_tears_blocks_stops_them(shape: str, reason: str) -> None:
    text = f"g (float[2,3,4,8] x) => (float[A,B,C] y) <int64[3] s={shape}> {{ t = Transpose<perm=[0,3,1,2]>(x) f = Reshape(t, s) u = Transpose<perm=[0,2,1]>(f) y = Relu(u) }}"
    assert reason in reasons(ChannelsLast(), "swap-transpose-reshape", text)


def test_views() -> None:
    golden.check(
        ViewTransposes(),
        "g (float[N,1,1,8] x) => (float[N,8,1,1] y) { y = Transpose<perm=[0,3,1,2]>(x) }",
        "g (float[N,1,1,8] x) => (float[N,8,1,1] y) <int64[4] s={*}> { y = Reshape(x, s) }".replace("{*}", "{0,8,1,1}"),
    )  # fmt: skip
    golden.check(
        ViewTransposes(),
        "g (float[N,H,W,1] x) => (float[N,1,H,W] y) { y = Transpose<perm=[0,3,1,2]>(x) }",
        "g (float[N,H,W,1] x) => (float[N,1,H,W] y) <int64[1] a={3}, int64[1] c={1}> { s = Squeeze(x, a) y = Unsqueeze(s, c) }",
    )
    text = "g (float[N,2,1,8] x) => (float[N,8,2,1] y) { y = Transpose<perm=[0,3,1,2]>(x) }"
    assert "axes of other sizes than 1 move" in reasons(
        ViewTransposes(), "transpose-to-reshape", text
    )


def test_permutations() -> None:
    assert compose((0, 2, 3, 1), (0, 3, 1, 2)) == (0, 1, 2, 3)
    assert inverse((0, 3, 1, 2)) == (0, 2, 3, 1)
    assert is_view((sym("n"), 1, 7, 1), (0, 2, 3, 1))
    assert not is_view((sym("n"), 2, 7, 1), (0, 2, 1, 3))


@pytest.mark.parametrize(
    ("before", "after", "blocks"),
    [
        ((2, 3, 4), (2, 12), [([0], [0]), ([1, 2], [1])]),
        ((sym("n"), 12, 5), (sym("n"), 3, 4, 5), [([0], [0]), ([1], [1, 2]), ([2], [3])]),
        ((6, 4), (4, 6), [([0, 1], [0, 1])]),
        ((2, 3), (2, 3, 1, 1), [([0], [0]), ([1], [1, 2, 3])]),
        ((sym("n"), 4), (sym("m"), 4), None),
    ],
)
def test_blocks(
    before: tuple[Dim, ...], after: tuple[Dim, ...], blocks: list[Block] | None
) -> None:
    assert aligned_blocks(before, after) == blocks


def test_operators_on_rows_let_transposes_of_the_other_axes_pass() -> None:
    head = "g (float[N,S,4] x, float[S,N,8] r) => (float[N,S,8] y)"
    constants = "float[4,8] w, float[8] s, float[8] c"
    golden.check(
        ChannelsLast(),
        f"{head} <{constants}> {{ t = Transpose<perm=[1,0,2]>(x) m = burnish.MatMul<postops=[\"Add:full\"]>(t, w, r) n = LayerNormalization(m, s, c) u = Relu(n) v = Transpose<perm=[1,0,2]>(u) y = Exp(v) }}",
        f"{head} <{constants}> {{ q = Transpose<perm=[1,0,2]>(r) m = burnish.MatMul<postops=[\"Add:full\"]>(x, w, q) n = LayerNormalization(m, s, c) u = Relu(n) y = Exp(u) }}",
        numerics=Numerics.REASSOCIATES,
    )  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        # The last axis of a row must stay the last.
        "t = Transpose<perm=[0,2,1]>(x) m = burnish.MatMul<P>(t, w) y = Transpose<perm=[0,2,1]>(m)",
        "t = Transpose<perm=[0,2,1]>(x) m = LayerNormalization<axis=1>(t, s) y = Transpose<perm=[0,2,1]>(m)",
    ],
)
def test_rows_that_stay(body: str) -> None:
    body = body.replace("<P>", "<postops: strings = []>")
    text = f"g (float[2,4,5] x) => (float[A,B,C] y) <float[4,8] w, float[5,4] s> {{ {body} }}"
    golden.check(ChannelsLast(), text, None, numerics=Numerics.REASSOCIATES)


def test_packed_projections_become_a_split() -> None:
    head = "g (float[2,5,4] x) => (float[5,2,8] y)"
    before = (
        "t = Transpose<perm=[1,0,2]>(x) m = burnish.MatMul<postops: strings = []>(t, w) r = Reshape(m, s5) p = Transpose<perm=[3,1,2,0,4]>(r) "
        "f = Reshape(p, s4) a = Gather<axis=0>(f, zero) b = Gather<axis=0>(f, one) y = Sub(a, b)"
    )
    # The input is smaller than the result, so the transpose stays with it.
    after = (
        "t = Transpose<perm=[1,0,2]>(x) m = burnish.MatMul<postops: strings = []>(t, w) "
        "a, b, c = Split<axis=2>(m, sizes) y = Sub(a, b)"
    )
    constants = "float[4,24] w, int64[5] s5={1,5,2,3,8}, int64[4] s4={3,5,2,8}, int64 zero={0}, int64 one={1}, int64[3] sizes={8,8,8}"
    golden.check(
        ChannelsLast(),
        f"{head} <{constants}> {{ {before} }}",
        f"{head} <{constants}> {{ {after} }}",
        numerics=Numerics.REASSOCIATES,
    )


def test_heads_that_are_split_and_merged_around_a_transpose() -> None:
    golden.check(
        ChannelsLast(),
        "g (float[5,2,8] x) => (float[2,5,8] y) <int64[4] s={5,2,4,2}, int64[3] m={2,5,8}> { a = Reshape(x, s) t = Transpose<perm=[1,0,2,3]>(a) y = Reshape(t, m) }",
        "g (float[5,2,8] x) => (float[2,5,8] y) { y = Transpose<perm=[1,0,2]>(x) }",
    )


@pytest.mark.parametrize(
    ("rule", "body", "reason"),
    [
        ("undo-split-around-transpose", "a = Reshape(x, s) t = Transpose<perm=[1,2,0,3]>(a) y = Reshape(t, m)", "the transpose tears the parts of an axis apart"),
        ("undo-split-around-transpose", "a = Reshape(x, s) t = Transpose<perm=[1,0,2,3]>(a) y = Reshape(t, odd)", "the second reshape does not undo the first"),
        ("undo-split-around-transpose", "a = Reshape(x, mixed) t = Transpose<perm=[1,0,2,3]>(a) y = Reshape(t, m)", "the first reshape does more than split axes"),
        ("undo-split-around-transpose", "a = Exp(x) t = Transpose<perm=[1,0,2]>(a) y = Reshape(t, m)", "what is transposed is not reshaped"),
        ("swap-transpose-squeeze", "t = Transpose<perm=[1,0,2]>(x) y = Reshape(t, odd)", "no axis is dropped"),
        ("swap-transpose-squeeze", "t = Transpose<perm=[1,0,2]>(x) u = Reshape(t, two) y = Unsqueeze(u, zero)", "other axes than those of size 1 change"),
        ("select-to-split", "a = Reshape(x, s) b = Gather<axis=0>(a, i) y = Relu(b)", "it is used by others than constant selections"),
        ("select-to-split", "a = Reshape(x, odd) y = Relu(a)", "the reshape does not split the last axis"),
    ],
)  # fmt: skip
def test_reshapes_that_stay(rule: str, body: str, reason: str) -> None:
    constants = "int64[4] s={5,2,4,2}, int64[3] m={2,5,8}, int64[3] odd={5,4,4}, int64[4] mixed={2,5,2,4}, int64[2] two={10,8}, int64[1] zero={0}, int64 i={1}"
    text = f"g (float[5,2,8] x) => (float[A,B,C] y) <{constants}> {{ {body} }}"
    graph = golden.parse(text)
    tracer = Tracer(rule)
    golden.apply(ChannelsLast(), graph, PassContext(options={"tracer": tracer}))
    assert reason in [miss.reason for miss in tracer.misses]


TRANSPOSED = "dilations=[1,1], group=1, output_padding=[0,0]"


def test_transposed_convolutions_without_overlap_are_products() -> None:
    head = "g (float[N,H,W,3] x) => (float[N,A,B,8] y)"
    golden.check(
        ChannelsLast(),
        f'{head} <float[3,8,2,2] w, float[8] c> {{ t = Transpose<{FIRST}>(x) d = burnish.ConvTranspose<data_format="NCHW", strides=[2,2], pads=[0,0,0,0], {TRANSPOSED}, postops=["Add:channel", "Relu"]>(t, w, c) y = Transpose<{LAST}>(d) }}',
        f'{head} <float[3,32] w, float[32] c> {{ m = burnish.MatMul<postops=["Add:channel", "Relu"]>(x, w, c) f = Transpose<{FIRST}>(m) d = DepthToSpace<blocksize=2, mode="DCR">(f) y = Transpose<{LAST}>(d) }}',
    )  # fmt: skip


def test_few_columns_get_their_postops_later() -> None:
    head = "g (float[N,H,W,3] x) => (float[N,1,A,B] y)"
    golden.check(
        ChannelsLast(),
        f'{head} <float[3,1,2,2] w, float[1] c> {{ t = Transpose<{FIRST}>(x) y = burnish.ConvTranspose<data_format="NCHW", strides=[2,2], pads=[0,0,0,0], {TRANSPOSED}, postops=["Add:scalar", "Sigmoid"]>(t, w, c) }}',
        f"{head} <float[3,4] w, float[1] c> {{ m = burnish.MatMul<postops: strings = []>(x, w) f = Transpose<{FIRST}>(m) d = DepthToSpace<blocksize=2, mode=\"DCR\">(f) a = Add(d, c) y = Sigmoid(a) }}",
    )  # fmt: skip


def test_transposed_convolution_of_a_sequence() -> None:
    head = "g (float[N,L,3] x) => (float[N,A,8] y)"
    golden.check(
        ChannelsLast(),
        f'{head} <float[3,8,4] w> {{ t = Transpose<perm=[0,2,1]>(x) d = burnish.ConvTranspose<data_format="NCW", strides=[4], pads=[0,0], dilations=[1], group=1, output_padding=[0], postops: strings = []>(t, w) y = Transpose<perm=[0,2,1]>(d) }}',
        f"{head} <float[3,32] w, int64[3] s={{0,-1,8}}> {{ m = burnish.MatMul<postops: strings = []>(x, w) y = Reshape(m, s) }}",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kernel", "attrs", "reason"),
    [
        ("3,3", "strides=[2,2], pads=[0,0,0,0], dilations=[1,1], group=1, output_padding=[0,0]", "the strides are not the kernel's size"),
        ("2,3", "strides=[2,3], pads=[0,0,0,0], dilations=[1,1], group=1, output_padding=[0,0]", "the kernel is not square"),
        ("2,2", "strides=[2,2], pads=[1,1,0,0], dilations=[1,1], group=1, output_padding=[0,0]", "the result is padded"),
        ("2,2", "strides=[2,2], pads=[0,0,0,0], dilations=[2,2], group=1, output_padding=[0,0]", "it is dilated"),
        ("2,2", "strides=[2,2], pads=[0,0,0,0], dilations=[1,1], group=2, output_padding=[0,0]", "it has groups"),
    ],
)  # fmt: skip
def test_transposed_convolutions_that_stay(kernel: str, attrs: str, reason: str) -> None:
    text = f'g (float[2,4,5,6] x) => (float[A,B,C,D] y) <float[4,8,{kernel}] w> {{ y = burnish.ConvTranspose<data_format="NCHW", {attrs}, postops: strings = []>(x, w) }}'
    graph = golden.parse(text)
    tracer = Tracer("conv-transpose-to-matmul")
    golden.apply(ChannelsLast(), graph, PassContext(options={"tracer": tracer}))
    assert reason in [miss.reason for miss in tracer.misses]
    assert [n.key for n in graph.nodes].count("burnish::ConvTranspose") == 1


def test_blocks_keep_full_operands_out() -> None:
    text = f'g (float[2,4,5,6] x, float[2,8,10,12] r) => (float[2,8,10,12] y) <float[4,8,2,2] w> {{ y = burnish.ConvTranspose<data_format="NCHW", strides=[2,2], pads=[0,0,0,0], {TRANSPOSED}, postops=["Add:full"]>(x, w, r) }}'
    graph = golden.parse(text)
    tracer = Tracer("conv-transpose-to-matmul")
    golden.apply(ChannelsLast(), graph, PassContext(options={"tracer": tracer}))
    assert "an operand of a post-op has the result's shape" in [m.reason for m in tracer.misses]


def test_costs_do_not_depend_on_the_order_of_axes() -> None:
    # The first axis of an operand is a function of two symbols. Guessed as a batch when it comes
    # first and as a length elsewhere, it was moved back and forth for ever.
    text = (
        "g (float[b, s, 8] x, float[b, 3, 8] z) => (float[n, 3, 8] y) "
        "<int64[3] t = {3, -1, 8}, float[8] g, float[8] c> "
        "{ m = Reshape(x, t)  u = Transpose<perm = [1, 0, 2]>(m)  a = Add(z, u) "
        "y = LayerNormalization(a, g, c) }"
    )
    graph = golden.parse(text)
    before = elements_of(graph.nodes[0].output)
    assert elements_of(graph.nodes[1].output) == before
    golden.apply(ChannelsLast(), graph)
    assert [n.op for n in graph.nodes].count("Transpose") <= 2
    feeds = golden.random_feeds(graph, {"b": 4, "s": 3})
    golden.assert_equal_results(golden.parse(text), graph, feeds, ChannelsLast.numerics)
