"""ONNX's own shape inference, for operators without a rule here."""

from __future__ import annotations

from collections.abc import Sequence

from burnish.ir.dims import UNKNOWN, Dim, parse_dim
from burnish.ir.graph import Node
from burnish.ir.infer.registry import Result
from burnish.ir.types import BY_NAME, BY_ONNX, TensorType


def infer_by_onnx(node: Node) -> Sequence[Result]:
    """Types of the outputs by ``onnx.shape_inference`` for this one node.

    Symbolic dims pass through as ``dim_param``; what ONNX makes up is UNKNOWN. Returns nothing
    when ONNX does not know the operator.
    """
    import onnx
    from onnx import shape_inference

    from burnish.ir.proto import attribute_protos, type_proto

    version = node.graph.opset.get("", 25) if node.graph is not None else 25
    try:
        schema = onnx.defs.get_schema(node.op, version, node.domain)
    except onnx.defs.SchemaError:
        return ()
    if any(True for _ in node.subgraphs()):
        return ()
    proto = onnx.NodeProto(op_type=node.op, domain=node.domain, name=node.name)
    proto.input.extend("" if v is None else v.name for v in node.inputs)
    proto.output.extend("" if v is None else v.name for v in node.outputs)
    proto.attribute.extend(attribute_protos(node.attrs))
    types = {v.name: type_proto(v.t) for v in node.inputs if v is not None}
    data = {
        v.name: onnx.numpy_helper.from_array(v.array, v.name)
        for v in node.inputs
        if v is not None and v.const is not None and v.const.nbytes <= 4096
    }
    imports = [onnx.helper.make_opsetid("", version)]
    try:
        found = shape_inference.infer_node_outputs(
            schema, proto, types, data, opset_imports=imports, ir_version=10
        )
    except onnx.shape_inference.InferenceError:
        return ()
    return [_type(found.get(v.name)) if v is not None else None for v in node.outputs]


def _type(proto: object) -> TensorType | None:
    tensor = getattr(proto, "tensor_type", None)
    if tensor is None or tensor.elem_type not in BY_ONNX:
        return None
    dtype = BY_ONNX[tensor.elem_type].name
    assert dtype in BY_NAME
    if not tensor.HasField("shape"):
        return TensorType(dtype, None)
    return TensorType(dtype, tuple(_dim(d) for d in tensor.shape.dim))


def _dim(proto: object) -> Dim:
    if proto.HasField("dim_value"):  # type: ignore[attr-defined]
        return int(proto.dim_value)  # type: ignore[attr-defined]
    text: str = proto.dim_param  # type: ignore[attr-defined]
    if not text or text.startswith("unk__"):
        return UNKNOWN
    try:
        return parse_dim(text)
    except ValueError:
        return UNKNOWN
