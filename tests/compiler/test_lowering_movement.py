"""Data movement rules against onnxruntime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

from tests.support.node_kernels import Built, Case, build, check

RNG = np.random.default_rng(11)
INT_MAX, INT_MIN = np.iinfo(np.int64).max, np.iinfo(np.int64).min


def floats(*shape: int) -> np.ndarray:
    return RNG.uniform(-4, 4, shape).astype("float32")


def ints(*shape: int, low: int = -9, high: int = 9, dtype: str = "int64") -> np.ndarray:
    return RNG.integers(low, high, shape).astype(dtype)


def i64(*values: int) -> np.ndarray:
    return np.array(values, "int64")


def layout_cases() -> list[Case]:
    x = floats(2, 3, 4, 5)
    return [
        Case("Transpose", [x]),
        Case("Transpose", [x], {"perm": [0, 2, 3, 1]}, dims={0: ["n", 3, "h", "w"]}),
        Case("Transpose", [floats(3, 0)]),
        Case("Transpose", [ints(3, 4) > 0], {"perm": [1, 0]}),
        Case("Concat", [x, floats(2, 1, 4, 5), floats(2, 2, 4, 5)], {"axis": 1}),
        Case("Concat", [x, floats(2, 3, 4, 2)], {"axis": -1}),
        Case("Concat", [x, x], {"axis": 2}, dims={0: ["n", 3, "h", 5], 1: ["n", 3, "k", 5]}),
        Case("Concat", [floats(2, 0), floats(2, 3), floats(2, 0)], {"axis": 1}, id="empty"),
        Case("Concat", [floats(2, 0), floats(2, 0)], {"axis": 1}, id="all-empty"),
        Case("Concat", [i64(5)] * 3, {"axis": 0}),
        Case("Split", [x], {"axis": 2, "num_outputs": 2}, outputs=2),
        Case("Split", [floats(2, 7)], {"axis": 1, "num_outputs": 3}, outputs=3, id="uneven"),
        Case("Split", [floats(2, 7), i64(2, 0, 5)], {"axis": -1}, const=[1], outputs=3),
        Case("Split", [x], {"axis": 2, "num_outputs": 2}, outputs=2, dims={0: ["n", 3, 4, 5]}),
        Case("Split", [x, i64(1, 2)], {"axis": 1}, const=[1], outputs=2, dims={0: ["n", 3, 4, 5]}),
        Case("Expand", [floats(3, 1), i64(2, 1, 6)], const=[1]),
        Case("Expand", [floats(), i64(2, 3)], const=[1], id="rank0"),
        Case("Expand", [floats(3, 4), i64(4)], const=[1], dims={0: ["n", 4]}, id="shorter"),
        Case("Tile", [floats(2, 3), i64(2, 3)], const=[1]),
        Case("Tile", [floats(2, 3), i64(1, 2)], const=[1], dims={0: ["n", "m"]}),
        Case("DepthToSpace", [floats(2, 8, 3, 5)], {"blocksize": 2}),
        Case("DepthToSpace", [floats(2, 8, 3, 5)], {"blocksize": 2, "mode": "CRD"}),
        Case("SpaceToDepth", [floats(2, 3, 4, 6)], {"blocksize": 2}, dims={0: ["n", 3, "h", 6]}),
        Case("ReverseSequence", [floats(5, 3, 2), i64(1, 5, 3)]),
        Case("ReverseSequence", [floats(3, 5), i64(1, 5, 3)], {"batch_axis": 0, "time_axis": 1}),
        Case("Reshape", [x, i64(0, -1, 10)], const=[1]),
        Case("Reshape", [floats(0, 3, 4), i64(3, 4, 0)], {"allowzero": 1}, const=[1]),
        Case("Tile", [floats(2, 0), i64(2, 3)], const=[1], id="empty"),
        Case("Tile", [floats(2, 3, 4, 5), i64(7, 6, 4, 2)], const=[1]),
        Case("Flatten", [x], {"axis": 2}),
        Case("Squeeze", [floats(1, 3, 1, 2), i64(0, -2)], const=[1]),
        Case("Unsqueeze", [floats(3, 2), i64(0, -1)], const=[1]),
        Case("Dropout", [floats(3, 4)], outputs=2),
        Case("Identity", [ints(3, 4, dtype="int8")]),
    ]


def slice_cases() -> list[Case]:
    x = floats(5, 6, 7)
    rows = [
        ((1,), (4,), (0,), (1,)), ((-3,), (-1,), (1,), None), ((-100,), (100,), (2,), None),
        ((4,), (INT_MIN,), (0,), (-1,)), ((-1,), (INT_MIN,), (1,), (-2,)),
        ((100,), (-100,), (1,), (-1,)), ((0, 1), (INT_MAX, INT_MAX), (0, -1), (2, 3)),
        ((3,), (1,), (0,), (1,)), ((1, 2, 3), (4, 5, 6), None, None), ((-2,), (2,), (1,), (-1,)),
    ]  # fmt: skip
    cases = []
    for starts, ends, axes, steps in rows:
        inputs = [x, i64(*starts), i64(*ends)]
        inputs.append(None if axes is None else i64(*axes))
        inputs.append(None if steps is None else i64(*steps))
        const = [i for i in range(1, 5) if inputs[i] is not None]
        while inputs[-1] is None:
            inputs.pop()
        cases.append(Case("Slice", inputs, const=const, id=f"{starts}{ends}{axes}{steps}"))
        if starts == (3,):
            continue
        symbolic = Case("Slice", inputs, const=const, dims={0: ["a", "b", "c"]})
        symbolic.id = f"symbolic{starts}{ends}{axes}{steps}"
        cases.append(symbolic)
    return cases


def pad_cases() -> list[Case]:
    x = floats(3, 4, 5)
    pads = i64(1, 0, 2, 0, 1, 3)
    cases = [
        Case("Pad", [x, pads, np.float32(1.5)], const=[1]),
        Case("Pad", [x, pads, np.float32(1.5)], const=[1, 2], dims={0: ["n", "h", "w"]}),
        Case("Pad", [x, pads], const=[1], id="zero"),
        Case("Pad", [x, i64(-1, 0, 2, 1, -2, -1)], const=[1], id="negative"),
        Case("Pad", [x, i64(1, 2, 0, 3), np.float32(2), i64(-1, 0)], const=[1, 3], id="axes"),
        Case("Pad", [ints(3, 4), i64(1, 1, 0, 0), i64(7).reshape(())], const=[1]),
        Case("Pad", [floats(4), i64(2, 2)], {"mode": "reflect"}, const=[1]),
    ]
    for mode in ("edge", "reflect", "wrap"):
        cases += [
            Case("Pad", [x, pads], {"mode": mode}, const=[1], dims=dims, id=mode)
            for dims in ({}, {0: ["n", "h", "w"]})
        ]
        cases.append(
            Case("Pad", [x, i64(-1, 1, 1, 1, 0, -1)], {"mode": mode}, const=[1], id=f"{mode}-neg")
        )
    return cases


def gather_cases() -> list[Case]:
    x = floats(4, 5, 6)
    index = ints(2, 3, low=-5, high=5)
    return [
        Case("Gather", [x, index], {"axis": 1}),
        Case("Gather", [x, ints(3, low=-4, high=4, dtype="int32")], dims={0: ["n", 5, 6]}),
        Case("Gather", [x, i64(-1).reshape(())], {"axis": -1}, const=[1], id="last"),
        Case("Gather", [x, i64(2).reshape(())], {"axis": 1}, const=[1], id="scalar"),
        Case("Gather", [x, i64(-1)], {"axis": 0}, const=[1], dims={0: ["n", 5, 6]}),
        Case("Gather", [floats(7), i64(3).reshape(())], id="rank0"),
        Case("Gather", [ints(7, 2), index[0] % 7]),
        Case("Gather", [x, ints(0, low=0)], id="empty"),
        Case("GatherElements", [x, ints(2, 5, 3, low=-4, high=4)]),
        Case("GatherElements", [x, ints(4, 5, 9, low=-6, high=6)], {"axis": -1}),
        Case("GatherND", [x, ints(3, 2, low=-4, high=4)]),
        Case("GatherND", [x, ints(3, 2, 3, low=-4, high=4)]),
        Case("GatherND", [x, ints(4, 2, 1, low=-5, high=5)], {"batch_dims": 1}),
        Case("GatherND", [x, ints(4, 5, 1, low=-6, high=6)], {"batch_dims": 2}),
        Case(
            "GatherND",
            [x, ints(4, 2, 1, low=-5, high=5)],
            {"batch_dims": 1},
            dims={0: ["n", 5, 6], 1: ["n", 2, 1]},
        ),
    ]


def generator_cases() -> list[Case]:
    fill = helper.make_tensor("value", TensorProto.INT64, [1], [7])
    half = helper.make_tensor("value", TensorProto.FLOAT, [1], [2.5])
    square = floats(2, 5, 6)
    f32 = [np.float32(v).reshape(()) for v in (1.5, 7.0, 0.75)]
    integers = [i64(v).reshape(()) for v in (10, -3, -4)]
    return [
        Case("Shape", [square], dims={0: ["n", 5, "m"]}),
        Case("Shape", [square], {"start": 1}, dims={0: ["n", 5, "m"]}),
        Case("Shape", [square], {"start": -2, "end": -1}, dims={0: ["n", 5, "m"]}),
        Case("Shape", [floats()], id="rank0"),
        Case("Size", [square], dims={0: ["n", 5, "m"]}),
        Case("ConstantOfShape", [i64(2, 3)], const=[0]),
        Case("ConstantOfShape", [i64(2, 3)], {"value": fill}, const=[0]),
        Case("ConstantOfShape", [i64(2, 0)], {"value": half}, const=[0], id="empty"),
        Case("ConstantOfShape", [np.array([], "int64")], {"value": half}, const=[0], id="rank0"),
        Case("Range", f32, const=[0, 1, 2]),
        Case("Range", integers, const=[0, 1, 2]),
        Case("EyeLike", [floats(4, 6)]),
        Case("EyeLike", [floats(4, 6)], {"k": -1, "dtype": TensorProto.INT32}),
        Case("EyeLike", [floats(4, 6)], {"k": 2, "dtype": TensorProto.DOUBLE}),
        Case("Trilu", [square]),
        Case("Trilu", [square], {"upper": 0}),
        Case("Trilu", [square, i64(-1).reshape(())], const=[1]),
        Case("Trilu", [square, i64(2).reshape(())], {"upper": 0}),
        Case("Trilu", [ints(3, 3), i64(1).reshape(())], {"upper": 1}),
        Case(
            "OneHot",
            [ints(2, 3, low=-6, high=6), i64(5).reshape(()), np.float32([0.5, 2])],
            const=[1],
        ),
        Case(
            "OneHot",
            [ints(2, 3, low=0, high=5), i64(5).reshape(()), i64(3, 9)],
            {"axis": 0},
            const=[1],
        ),
        Case(
            "OneHot",
            [np.float32([0, 4, -2, 7]), i64(5).reshape(()), np.float32([0, 1])],
            {"axis": 1},
            const=[1],
            reference="onnx",
        ),
    ]


CASES = [*layout_cases(), *slice_cases(), *pad_cases(), *gather_cases(), *generator_cases()]
for _case in CASES:
    _case.inputs = [None if a is None else np.asarray(a) for a in _case.inputs]


@pytest.fixture(scope="module")
def built() -> Built:
    return build(CASES)


@pytest.mark.parametrize("index", range(len(CASES)), ids=[c.label() for c in CASES])
def test_rule_equals_reference(built: Built, index: int) -> None:
    check(built, index, CASES[index])
