"""Single nodes, types and tensors as ONNX protobufs, shared by export and inference."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import helper

from burnish.ir.dims import Expr
from burnish.ir.graph import Attr, Constant, Graph
from burnish.ir.types import BY_NAME, TensorType


def type_proto(type: TensorType) -> onnx.TypeProto:
    """A tensor type; symbolic dims become their text as ``dim_param``."""
    proto = onnx.TypeProto()
    proto.tensor_type.elem_type = BY_NAME[type.dtype].onnx
    if type.shape is not None:
        shape = proto.tensor_type.shape
        shape.SetInParent()
        for d in type.shape:
            dim = shape.dim.add()
            if isinstance(d, int):
                dim.dim_value = d
            elif isinstance(d, Expr):
                dim.dim_param = str(d)
    return proto


def type_text(type: TensorType) -> str:
    """The name of a tensor type in operator schemas: ``tensor(float)``."""
    return f"tensor({onnx.TensorProto.DataType.Name(BY_NAME[type.dtype].onnx).lower()})"


def tensor_proto(constant: Constant, name: str) -> onnx.TensorProto:
    """A constant with its data inside."""
    array = constant.array
    proto = onnx.TensorProto(name=name, data_type=BY_NAME[constant.type.dtype].onnx)
    proto.dims.extend(int(d) for d in array.shape)
    if constant.type.dtype == "string":
        proto.string_data.extend(
            s.encode() if isinstance(s, str) else bytes(s) for s in array.reshape(-1)
        )
    elif BY_NAME[constant.type.dtype].bits < 8:
        packed = onnx.numpy_helper.from_array(array, name)
        proto.raw_data = packed.raw_data
    else:
        proto.raw_data = np.ascontiguousarray(array).tobytes()
    return proto


_KINDS = {
    int: onnx.AttributeProto.INT,
    float: onnx.AttributeProto.FLOAT,
    str: onnx.AttributeProto.STRING,
    bytes: onnx.AttributeProto.STRING,
}
_LISTS = {
    onnx.AttributeProto.INT: onnx.AttributeProto.INTS,
    onnx.AttributeProto.FLOAT: onnx.AttributeProto.FLOATS,
    onnx.AttributeProto.STRING: onnx.AttributeProto.STRINGS,
}


def attribute_protos(
    attrs: Mapping[str, Attr], kinds: Mapping[str, int] | None = None
) -> list[onnx.AttributeProto]:
    """Attributes other than graphs, sorted by name.

    Args:
        attrs: Name to value; graphs are left out.
        kinds: Attribute types by name from the operator's schema. They decide where the Python
            value does not: a float given as ``1``, an empty list.
    """
    protos = []
    for name in sorted(attrs):
        value = attrs[name]
        if isinstance(value, Graph):
            continue
        kind = (kinds or {}).get(name)
        if isinstance(value, Constant):
            proto = onnx.AttributeProto(name=name, type=onnx.AttributeProto.TENSOR)
            proto.t.CopyFrom(tensor_proto(value, ""))
        else:
            proto = helper.make_attribute(
                name, _coerced(value, kind), attr_type=kind or _kind(value)
            )
        protos.append(proto)
    return protos


def _kind(value: Attr) -> int:
    if isinstance(value, tuple):
        if not value:
            return int(onnx.AttributeProto.INTS)
        kinds = {_kind(v) for v in value}
        # A tuple of both ints and floats is one of floats.
        kind = onnx.AttributeProto.FLOAT if len(kinds) > 1 else kinds.pop()
        return int(_LISTS[kind])
    if isinstance(value, bool):
        return int(onnx.AttributeProto.INT)
    return int(_KINDS[type(value)])


def _coerced(value: Attr, kind: int | None) -> object:
    kind = kind or _kind(value)
    if kind == onnx.AttributeProto.FLOAT:
        return float(value)  # type: ignore[arg-type]
    if kind == onnx.AttributeProto.FLOATS:
        return [float(v) for v in value]  # type: ignore[union-attr]
    return list(value) if isinstance(value, tuple) else value
