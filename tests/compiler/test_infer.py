"""Shape inference: expected types, the sizes that onnxruntime sees, contents, guards, errors."""

from __future__ import annotations

import numpy as np
import pytest

from burnish.errors import ModelError, ShapeError
from burnish.importers import load
from burnish.ir import Builder, Graph, TensorType, Value, sym
from burnish.ir.infer import guards, infer_node
from tests.support.roundtrip import check, model

SIZES = {"N": 3, "S": 7, "T": 10}

# name: (graph, types of its outputs). Checked at SIZES against onnxruntime too.
TYPES = {
    "broadcast": (
        "g (float[N,1,4] x, float[S,1] y) => (float[A,B,C] z) { z = Add(x, y) }",
        ["float32[N,S,4]"],
    ),
    "broadcast-fixed-wins": (
        "g (float[N,S] x, float[3,S] y) => (float[A,B] z) { z = Mul(x, y) }",
        ["float32[3,S]"],
    ),
    "compare": ("g (float[N] x) => (bool[A] y) { y = Less(x, x) }", ["bool[N]"]),
    "cast": ("g (float[N] x) => (int64[A] y) { y = Cast<to=7>(x) }", ["int64[N]"]),
    "matmul": (
        "g (float[N,1,S,4] x, float[5,4,T] y) => (float[A,B,C,D] z) { z = MatMul(x, y) }",
        ["float32[N,5,S,T]"],
    ),
    "matmul-vectors": (
        "g (float[4] x, float[N,4,S] y) => (float[A,B] z) { z = MatMul(x, y) }",
        ["float32[N,S]"],
    ),
    "matmul-dot": ("g (float[4] x, float[4] y) => (float z) { z = MatMul(x, y) }", ["float32[]"]),
    "gemm": (
        "g (float[4,N] x, float[S,4] y) => (float[A,B] z) { z = Gemm<transA=1,transB=1>(x, y) }",
        ["float32[N,S]"],
    ),
    "einsum": (
        """g (float[N,S,4] x, float[N,T,4] y) => (float[A,B,C] z)
        { z = Einsum<equation="bij,bkj->bik">(x, y) }""",
        ["float32[N,S,T]"],
    ),
    "einsum-implicit": (
        'g (float[N,4] x, float[4,S] y) => (float[A,B] z) { z = Einsum<equation="ij,jk">(x, y) }',
        ["float32[N,S]"],
    ),
    "conv": (
        """g (float[N,4,S,T] x, float[6,2,3,3] w) => (float[A,B,C,D] y)
        { y = Conv<group=2,strides=[2,1],pads=[1,0,1,2],dilations=[1,2]>(x, w) }""",
        ["float32[N,6,(S + 1)//2,T - 2]"],
    ),
    "conv-same": (
        """g (float[N,1,S] x, float[2,1,4] w) => (float[A,B,C] y)
        { y = Conv<auto_pad="SAME_UPPER",strides=[2]>(x, w) }""",
        ["float32[N,2,(S + 1)//2]"],
    ),
    "conv-transpose": (
        """g (float[N,2,S] x, float[2,3,4] w) => (float[A,B,C] y)
        { y = ConvTranspose<strides=[3],pads=[1,1],output_padding=[1]>(x, w) }""",
        ["float32[N,3,3*S]"],
    ),
    "max-pool-ceil": (
        """g (float[N,2,S] x) => (float[A,B,C] y)
        { y = MaxPool<kernel_shape=[3],strides=[2],ceil_mode=1>(x) }""",
        ["float32[N,2,min((S + 1)//2, S//2)]"],
    ),
    "average-pool": (
        """g (float[N,2,S] x) => (float[A,B,C] y)
        { y = AveragePool<kernel_shape=[2],strides=[2]>(x) }""",
        ["float32[N,2,S//2]"],
    ),
    "global-pool": (
        "g (float[N,2,S,T] x) => (float[A,B,C,D] y) { y = GlobalAveragePool(x) }",
        ["float32[N,2,1,1]"],
    ),
    "reshape-minus-one": (
        """g (float[N,S,4] x) => (float[A,B] y) <int64[2] s = {-1, 8}>
        { a = Concat<axis=2>(x, x) y = Reshape(a, s) }""",
        ["float32[N*S,8]"],
    ),
    "reshape-zero": (
        "g (float[N,S,4] x) => (float[A,B] y) <int64[2] s = {0, -1}> { y = Reshape(x, s) }",
        ["float32[N,4*S]"],
    ),
    "reshape-heads": (
        """g (float[N,S,12] x) => (float[A,B,C,D] y)
        <int64 i = {0}, int64 j = {1}, int64[1] zero = {0}, int64[1] h = {3}, int64[1] d = {4}> {
            s = Shape(x) n = Gather(s, i) t = Gather(s, j)
            n1 = Unsqueeze(n, zero) t1 = Unsqueeze(t, zero)
            target = Concat<axis=0>(n1, t1, h, d)
            y = Reshape(x, target)
        }""",
        ["float32[N,S,3,4]"],
    ),
    "reshape-merge": (
        """g (float[N,S,4] x) => (float[A,B] y)
        <int64[1] minus = {-1}, int64[1] zero = {0}, int64[1] two = {2}, int64[1] three = {3}> {
            s = Shape(x) head = Slice(s, zero, two, zero) n = ReduceProd<keepdims=1>(head)
            last = Slice(s, two, three, zero)
            target = Concat<axis=0>(n, last)
            y = Reshape(x, target)
        }""",
        ["float32[N*S,4]"],
    ),
    "flatten": ("g (float[N,2,S] x) => (float[A,B] y) { y = Flatten(x) }", ["float32[N,2*S]"]),
    "squeeze": (
        "g (float[N,1,S] x) => (float[A,B] y) <int64[1] a = {1}> { y = Squeeze(x, a) }",
        ["float32[N,S]"],
    ),
    "transpose": (
        "g (float[N,2,S] x) => (float[A,B,C] y) { y = Transpose<perm=[2,0,1]>(x) }",
        ["float32[S,N,2]"],
    ),
    "concat": (
        "g (float[N,S] x, float[N,4] y) => (float[A,B] z) { z = Concat<axis=-1>(x, y, x) }",
        ["float32[N,2*S + 4]"],
    ),
    "split-symbolic": (
        """g (float[N,T] x) => (float[A,B] a, float[A,C] b)
        { a, b = Split<axis=1,num_outputs=2>(x) }""",
        ["float32[N,(T + 1)//2]", "float32[N,-((T + 1)//2) + T]"],
    ),
    "slice": (
        """g (float[N,S] x) => (float[A,B] y)
        <int64[2] b = {1, 0}, int64[2] e = {9223372036854775807, -1}, int64[2] a = {0, 1},
         int64[2] st = {1, 2}> { y = Slice(x, b, e, a, st) }""",
        ["float32[max(0, N - 1),S//2]"],
    ),
    "slice-reverse": (
        """g (float[N] x) => (float[A] y)
        <int64[1] b = {-1}, int64[1] e = {-9223372036854775808}, int64[1] a = {0},
         int64[1] st = {-1}> { y = Slice(x, b, e, a, st) }""",
        ["float32[N]"],
    ),
    "slice-by-shape": (
        """g (float[1,512] table, float[N,S] x) => (float[A,B] y)
        <int64[1] zero = {0}, int64[1] one = {1}> {
            s = Shape<start=1>(x) y = Slice(table, zero, s, one)
        }""",
        ["float32[1,min(512, S)]"],
    ),
    "gather": (
        "g (float[9,4] x, int64[N,S] i) => (float[A,B,C] y) { y = Gather(x, i) }",
        ["float32[N,S,4]"],
    ),
    "gather-nd": (
        "g (float[9,9,4] x, int64[N,2] i) => (float[A,B] y) { y = GatherND(x, i) }",
        ["float32[N,4]"],
    ),
    "expand": (
        """g (float[N,1] x, float[S] y) => (float[A,B] z)
        { n = Shape<end=1>(x) s = Shape(y) t = Concat<axis=0>(n, s) z = Expand(x, t) }""",
        ["float32[N,S]"],
    ),
    "tile": (
        "g (float[N,2] x) => (float[A,B] y) <int64[2] r = {3, 2}> { y = Tile(x, r) }",
        ["float32[3*N,4]"],
    ),
    "pad": (
        "g (float[N,S] x) => (float[A,B] y) <int64[4] p = {0, 1, 2, -3}> { y = Pad(x, p) }",
        ["float32[N + 2,S - 2]"],
    ),
    "pad-torch": (
        # What torch writes for F.pad: widths reversed and reordered as a rank-2 tensor.
        """g (float[N,S] x) => (float[A,B] y)
        <int64[2] widths = {1, 2}, int64[1] n = {2}, int64[2] pairs = {-1, 2}, int64[1] last = {-1},
         int64[1] far = {-9223372036854775807}, int64[1] zero = {0}, int64[1] minus = {-1}> {
            z = ConstantOfShape<value=int64[1] {0}>(n)
            all = Concat<axis=0>(widths, z) two = Reshape(all, pairs)
            back = Slice(two, last, far, zero, last) t = Transpose<perm=[1,0]>(back)
            flat = Reshape(t, minus) p = Cast<to=7>(flat)
            y = Pad<mode="reflect">(x, p)
        }""",
        ["float32[N,S + 3]"],
    ),
    "range": (
        """g (float[N,S] x) => (int64[A] y) <int64 zero = {0}, int64 one = {1}>
        { s = Shape(x) n = Gather(s, one) y = Range(zero, n, one) }""",
        ["int64[S]"],
    ),
    "constant-of-shape": (
        "g (float[N,S] x) => (float[A,B] y) { s = Shape(x) y = ConstantOfShape(s) }",
        ["float32[N,S]"],
    ),
    "where-decided": (
        # How torch writes expand(-1, n): Where(shape == -1, ones, shape).
        """g (float[N,1] x) => (float[A,B] y)
        <int64[2] want = {-1, 5}, int64[2] ones = {1, 1}, int64 minus = {-1}>
        { c = Equal(want, minus) t = Where(c, ones, want) y = Expand(x, t) }""",
        ["float32[N,5]"],
    ),
    "resize-scales": (
        """g (float[N,1,S,T] x) => (float[A,B,C,D] y) <float[4] s = {1.0, 1.0, 2.0, 0.5}>
        { y = Resize<coordinate_transformation_mode="asymmetric">(x, , s) }""",
        ["float32[N,1,2*S,T//2]"],
    ),
    "resize-sizes": (
        """g (float[N,1,S] x, float[T] y) => (float[A,B,C] z) {
            head = Shape<end=2>(x) n = Shape(y) t = Concat<axis=0>(head, n)
            z = Resize(x, , , t)
        }""",
        ["float32[N,1,T]"],
    ),
    "depth-to-space": (
        "g (float[N,8,S,T] x) => (float[A,B,C,D] y) { y = DepthToSpace<blocksize=2>(x) }",
        ["float32[N,2,2*S,2*T]"],
    ),
    "top-k": (
        """g (float[N,9] x) => (float[A,B] v, int64[A,B] i) <int64[1] k = {4}>
        { v, i = TopK(x, k) }""",
        ["float32[N,4]", "int64[N,4]"],
    ),
    "arg-max": (
        "g (float[N,S] x) => (int64[A] y) { y = ArgMax<axis=1,keepdims=0>(x) }",
        ["int64[N]"],
    ),
    "reduce": (
        """g (float[N,S,T] x) => (float[A,B] y) <int64[1] a = {-2}>
        { y = ReduceMean<keepdims=0>(x, a) }""",
        ["float32[N,T]"],
    ),
    "layer-norm": (
        """g (float[N,S,4] x, float[4] g) => (float[A,B,C] y, float[A,B,D] m)
        { y, m = LayerNormalization(x, g) }""",
        ["float32[N,S,4]", "float32[N,S,1]"],
    ),
    "lstm": (
        """g (float[S,N,3] x, float[2,16,3] w, float[2,16,4] r)
        => (float[A,B,C,D] y, float[B,C,D] h, float[B,C,D] c)
        { y, h, c = LSTM<hidden_size=4,direction="bidirectional">(x, w, r) }""",
        ["float32[S,2,N,4]", "float32[2,N,4]", "float32[2,N,4]"],
    ),
    "gru": (
        """g (float[S,N,3] x, float[1,12,3] w, float[1,12,4] r) => (float[A,B,C,D] y)
        { y = GRU<hidden_size=4>(x, w, r) }""",
        ["float32[S,1,N,4]"],
    ),
    "attention": (
        """g (float[N,S,8] q, float[N,T,8] k, float[N,T,8] v) => (float[A,B,C] y)
        { y = Attention<q_num_heads=2,kv_num_heads=2>(q, k, v) }""",
        ["float32[N,S,8]"],
    ),
    "one-hot": (
        """g (int64[N,S] x) => (float[A,B,C] y) <int64 d = {5}, float[2] v = {0.5, 1.5}>
        { y = OneHot<axis=1>(x, d, v) }""",
        ["float32[N,5,S]"],
    ),
    "non-zero": ("g (float[N,S] x) => (int64[A,B] y) { y = NonZero(x) }", ["int64[2,?]"]),
    "quantize": (
        """g (float[N] x) => (uint8[A] y, float s, uint8 z)
        { y, s, z = DynamicQuantizeLinear(x) }""",
        ["uint8[N]", "float32[]", "uint8[]"],
    ),
    "if-agreed": (
        """g (float[N,S] x, bool c) => (float[A,B] y) {
            y = If(c) <then_branch = t () => (float[A,B] a) { a = Neg(x) },
                       else_branch = e () => (float[A,B] b) { b = Concat<axis=1>(x) }>
        }""",
        ["float32[N,S]"],
    ),
    "if-different": (
        """g (float[N,S] x, bool c) => (float[A,B] y) {
            y = If(c) <then_branch = t () => (float[A,B] a) { a = Neg(x) },
                       else_branch = e () => (float[A,B] b) { b = Concat<axis=1>(x, x) }>
        }""",
        ["float32[N,?]"],
    ),
    "if-decided": (
        # A condition on the rank is known, whatever the sizes are.
        """g (float[N,S] x) => (float[A,B] y) <int64 two = {2}> {
            s = Shape(x) r = Size(s) c = Equal(r, two)
            y = If(c) <then_branch = t () => (float[A,B] a) { a = Concat<axis=1>(x, x) },
                       else_branch = e () => (float[A,B] b) { b = Neg(x) }>
        }""",
        ["float32[N,2*S]"],
    ),
    "loop": (
        """g (float[N] x) => (float[A] y, float[B,A] all) <int64 trips = {4}, bool yes = {1}> {
            y, all = Loop(trips, , x) <body = b (int64 i, bool c, float[A] s)
                => (bool d, float[A] t, float[A] u)
                { d = Identity(c) t = Add(s, s) u = Neg(t) }>
        }""",
        ["float32[N]", "float32[4,N]"],
    ),
    "loop-growing": (
        """g (float[N] x) => (float[A] y) <int64 trips = {3}> {
            y = Loop(trips, , x) <body = b (int64 i, bool c, float[A] s) => (bool d, float[B] t)
                { d = Identity(c) t = Concat<axis=0>(s, s) }>
        }""",
        ["float32[?]"],
    ),
    "scan": (
        """g (float[4] h, float[S,4] x) => (float[A] y, float[B,A] all) {
            y, all = Scan(h, x) <num_scan_inputs = 1, body = b (float[A] s, float[A] e)
                => (float[A] t, float[A] u) { t = Add(s, e) u = Identity(t) }>
        }""",
        ["float32[4]", "float32[S,4]"],
    ),
    "by-onnx": (
        """g (float[N,2,S] x) => (float[A,B,C] y) { y = LpPool<kernel_shape=[2]>(x) }""",
        ["float32[N,2,S - 1]"],
    ),
}


@pytest.mark.parametrize("name", TYPES)
def test_types(name: str) -> None:
    text, expected = TYPES[name]
    graph = check(model(text), sizes=SIZES)
    assert [str(v.type) for v in graph.outputs] == expected


def test_sizes_that_meet_are_recorded() -> None:
    graph = load(
        model(
            """g (float[N,S] x, float[M,S] y, float[S,4] z) => (float[A,B] o)
            { a = Add(x, y) b = MatMul(a, z) p = Transpose(b) o = Concat<axis=0>(p, p) }"""
        )
    )
    assert [str(v.type) for v in graph.outputs] == ["float32[8,max(M, N)]"]
    (guard,) = guards(graph)
    assert str(guard) == "N == M (or one of them 1)"
    assert guard.node == "Add_0"
    assert guard.holds({"N": 4, "M": 1})
    assert guard.holds({"N": 4, "M": 4})
    assert not guard.holds({"N": 4, "M": 3})


def test_two_spellings_of_a_size_are_taken_as_equal_and_guarded() -> None:
    graph = load(
        model(
            """g (float[1,1,S] x) => (float[A,B,C] y) <float[3] up = {1.0, 1.0, 2.0}> {
                half = MaxPool<kernel_shape=[2],strides=[2]>(x)
                back = Resize<mode="nearest">(half, , up)
                y = Add(back, x)
            }"""
        )
    )
    assert str(graph.outputs[0].type) == "float32[1,1,S]"
    equal, room = sorted(guards(graph), key=lambda g: g.kind, reverse=True)
    assert (equal.kind, room.kind) == ("equal", "at_least")
    assert equal.holds({"S": 8})
    assert not equal.holds({"S": 9})
    assert room.holds({"S": 2})
    assert not room.holds({"S": 1})


def test_branches_that_may_not_run_demand_nothing() -> None:
    graph = load(
        model(
            """g (float[N] x, float[M] y, bool c) => (float[A] z) {
                z = If(c) <then_branch = t () => (float[A] a) { a = Add(x, y) },
                           else_branch = e () => (float[A] b) { b = Neg(x) }>
            }"""
        )
    )
    assert guards(graph) == ()


def test_forced_symbols_become_numbers() -> None:
    graph = load(
        model(
            """g (float[S,batch,3] x, float[1,1,4] h, float[1,12,3] w, float[1,12,4] r)
            => (float[A,B] y) {
                a, b = GRU<hidden_size=4>(x, w, r, , , h)
                y = Squeeze(b)
            }"""
        )
    )
    assert str(graph.inputs[0].type) == "float32[S,1,3]"
    assert str(graph.outputs[0].type) == "float32[4]"
    assert any("batch is always 1" in note for note in graph.notes)


ERRORS = {
    "broadcast": ("g (float[2,3] x, float[4] y) => (float[A,B] z) { z = Add(x, y) }", "broadcast"),
    "dtypes": ("g (float[2] x, int64[2] y) => (float[A] z) { z = Add(x, y) }", "int64"),
    "inner": ("g (float[2,3] x, float[4,5] y) => (float[A,B] z) { z = MatMul(x, y) }", "3 and 4"),
    "channels": (
        "g (float[1,3,8,8] x, float[4,2,3,3] w) => (float[A,B,C,D] y) { y = Conv(x, w) }",
        "channels: 3 and 2",
    ),
    "window": (
        "g (float[1,1,2] x) => (float[A,B,C] y) { y = MaxPool<kernel_shape=[3]>(x) }",
        "does not fit",
    ),
    "reshape": (
        "g (float[2,3] x) => (float[A,B] y) <int64[2] s = {4, 2}> { y = Reshape(x, s) }",
        "6 elements are not 8",
    ),
    "reshape-minus-one": (
        "g (float[2,3] x) => (float[A,B] y) <int64[2] s = {4, -1}> { y = Reshape(x, s) }",
        "not a multiple",
    ),
    "axis": ("g (float[2,3] x) => (float[A] y) { y = Concat<axis=2>(x, x) }", "axis 2"),
    "perm": ("g (float[2,3] x) => (float[A,B] y) { y = Transpose<perm=[0,0]>(x) }", "permutation"),
    "squeeze": (
        "g (float[2,3] x) => (float[A] y) <int64[1] a = {0}> { y = Squeeze(x, a) }",
        "squeezed axis 0: 2 and 1",
    ),
    "index": (
        "g (float[2,3] x) => (float[A] y) <int64 i = {2}> { y = Gather(x, i) }",
        "index 2 is out of range",
    ),
    "split": (
        """g (float[5] x) => (float[A] a, float[B] b) <int64[2] s = {2, 2}>
        { a, b = Split(x, s) }""",
        "sum of the parts: 4 and 5",
    ),
    "lstm": (
        """g (float[5,1,3] x, float[1,12,3] w, float[1,16,4] r) => (float[A,B,C,D] y)
        { y = LSTM<hidden_size=4>(x, w, r) }""",
        "gates of W: 12 and 16",
    ),
    "if-dtypes": (
        """g (float[2] x, bool c) => (float[A] y) {
            y = If(c) <then_branch = t () => (float[A] a) { a = Neg(x) },
                       else_branch = e () => (int64[A] b) { b = Cast<to=7>(x) }>
        }""",
        "the branches give float32 and int64",
    ),
}


@pytest.mark.parametrize("name", ERRORS)
def test_contradictions_name_the_node_and_the_shapes(name: str) -> None:
    text, message = ERRORS[name]
    proto = model(text)
    proto.graph.node[-1].name = "culprit"
    with pytest.raises(ShapeError, match=message) as caught:
        load(proto)
    assert caught.value.at == "culprit"
    assert caught.value.exit_code == ModelError.exit_code == 3


def test_builder_infers_at_once_and_reports_its_location() -> None:
    graph = Graph()
    x = graph.value("x", TensorType("float32", (sym("N"), 4)))
    graph.inputs.append(x)
    b = Builder(graph)
    y = b.op("Relu", b.op("MatMul", x, _weights(b)))
    assert str(y.type) == "float32[N,6]"
    with pytest.raises(ShapeError, match="inner dims"):
        b.op("MatMul", y, _weights(b))


def _weights(b: Builder) -> Value:
    return b.constant(np.ones((4, 6), np.float32), "w")


def test_inference_runs_again_after_a_change() -> None:
    graph = load(
        model("g (float[N,4] x) => (float[A,B] y) { a = Neg(x) y = Concat<axis=1>(a, a) }")
    )
    first, second = graph.nodes
    graph.inputs[0].type = TensorType("float32", (sym("N"), 5))
    infer_node(first)
    infer_node(second)
    assert str(graph.outputs[0].type) == "float32[N,10]"
