"""The same module gives the same code in every process."""

from __future__ import annotations

from typing import Any

import pytest
import tvm
from tvm import relax, tirx

from burnish.backends.determinism import loads, order_shape_functions
from burnish.errors import LoweringError
from burnish.worker import run_in_worker


def shape_module(dims: int) -> Any:
    """``main`` reshapes its input to ``dims`` sizes that are all computed from ``n``."""
    n = tirx.Var("n", "int64")
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((n, 60), "float32"))
    with builder.function("main", [x]):
        with builder.dataflow():
            results = [
                builder.emit(relax.op.zeros(relax.ShapeExpr([n * (k + 2), n + k]), "float32"))
                for k in range(dims)
            ]
            output = builder.emit_output(relax.Tuple(results))
        builder.emit_func_output(output)
    phases = [
        relax.transform.LegalizeOps(),
        relax.transform.RemovePurityChecking(),
        relax.transform.CallTIRRewrite(),
        relax.transform.LowerAllocTensor(),
        relax.transform.LowerRuntimeBuiltin(),
        relax.transform.ComputePrimValue(),
        relax.transform.VMShapeLower(),
    ]
    return tvm.transform.Sequential(phases)(builder.get())


def shape_functions(mod: Any) -> dict[str, Any]:
    return {
        str(var.name_hint): func
        for var, func in mod.functions.items()
        if str(var.name_hint).startswith("shape_func")
    }


def lowered_text() -> list[str]:
    mod = order_shape_functions(shape_module(30))
    return [func.script() for _, func in sorted(shape_functions(mod).items())]


def test_shape_functions_are_sorted_and_keep_their_statements() -> None:
    def statements(mod: Any) -> list[str]:
        return [str(s) for f in shape_functions(mod).values() for s in f.body.seq]

    mod = shape_module(30)
    before = statements(mod)
    assert len(before) > 30
    ordered = order_shape_functions(mod)
    assert sorted(statements(ordered)) == sorted(before)
    for func in shape_functions(ordered).values():
        indices = [int(store.indices[0]) for store in func.body.seq]
        assert indices == sorted(indices)


def test_every_process_gives_the_same_shape_functions() -> None:
    texts = [run_in_worker(f"{__name__}:lowered_text") for _ in range(4)]
    assert texts[0]
    assert all(text == texts[0] for text in texts)


def test_dependent_statements_are_refused() -> None:
    dims = tirx.decl_buffer((3,), "int64")

    def index(i: int) -> Any:
        return tirx.IntImm("int64", i)

    first = tirx.BufferStore(dims, tirx.BufferLoad(dims, [index(0)]) + 1, [index(1)])
    second = tirx.BufferStore(dims, tirx.BufferLoad(dims, [index(1)]) * 2, [index(2)])
    assert [int(load.indices[0]) for load in loads(second.value)] == [1]
    func = tirx.PrimFunc([dims], tirx.SeqStmt([first, second]))
    func = func.with_attr("tirx.is_host_func", True)
    with pytest.raises(LoweringError, match="depend on each other"):
        order_shape_functions(tvm.IRModule({"shape_func": func}))
