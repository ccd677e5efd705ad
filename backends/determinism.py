"""Putting in a fixed order what TVM emits in the order of addresses in memory."""

from __future__ import annotations

from typing import Any

import tvm
from tvm import tirx
from tvm.ir.expr import TensorLoad
from tvm_ffi import structural_walk

from burnish.errors import LoweringError


def order_shape_functions(mod: Any) -> Any:
    """Sort the statements of the functions that compute symbolic dims.

    ``VMShapeLower`` collects a function's dims in a hash map of pointers, so their order changes
    from one process to the next, and with it the machine code. Each statement stores one dim,
    computed from dims that were known before the call: any order is right.

    Raises:
        LoweringError: A shape function is not of this form.
    """
    for var, func in mod.functions.items():
        if not (isinstance(func, tirx.PrimFunc) and _is_shape_function(func)):
            continue
        body = func.body
        if isinstance(body, tirx.SeqStmt):
            mod.update_func(var, func.with_body(_sorted(body, var.name_hint)))
    return mod


def _is_shape_function(func: Any) -> bool:
    return func.attrs is not None and bool(func.attrs.get("tirx.is_host_func", False))


def loads(expr: Any) -> list[Any]:
    """Every load from a buffer in an expression."""
    found: list[Any] = []
    structural_walk(expr, (TensorLoad, found.append))
    return found


def _sorted(body: Any, name: str) -> Any:
    stores = list(body.seq)
    if not all(isinstance(s, tirx.BufferStore) and len(s.indices) == 1 for s in stores):
        raise LoweringError(f"the shape function {name} has an unexpected form")
    # The only buffer of a shape function is the array of dims.
    read = {int(load.indices[0]) for store in stores for load in loads(store.value)}
    written = {int(store.indices[0]) for store in stores}
    if read & written or len(written) != len(stores):
        raise LoweringError(f"the statements of the shape function {name} depend on each other")
    return tvm.tirx.SeqStmt(sorted(stores, key=lambda store: int(store.indices[0])))
