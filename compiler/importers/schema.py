"""Nodes against the operator schemas of ONNX: counts, attributes, element types."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import onnx

from burnish.errors import ModelError, ShapeError
from burnish.ir.graph import Attr, Constant, Graph, Node
from burnish.ir.proto import type_text

_OPTION = onnx.defs.OpSchema.FormalParameterOption


@dataclass(frozen=True)
class _Parameter:
    name: str
    optional: bool
    variadic: bool
    homogeneous: bool
    type: str


@dataclass(frozen=True)
class _Schema:
    """What is needed of an OpSchema, decoded once.

    Attributes:
        inputs: Formal inputs.
        outputs: Largest number of outputs.
        attributes: Attribute type and whether it is required, by name.
        types: Allowed ``tensor(...)`` names by type variable, or by the type itself.
    """

    inputs: tuple[_Parameter, ...]
    outputs: int
    attributes: dict[str, tuple[str, bool]]
    types: dict[str, frozenset[str]]


@lru_cache(maxsize=2048)
def _schema(op: str, domain: str, version: int) -> _Schema | None:
    try:
        raw = onnx.defs.get_schema(op, version, domain)
    except onnx.defs.SchemaError:
        return None
    return _Schema(
        tuple(
            _Parameter(
                p.name,
                p.option == _OPTION.Optional,
                p.option == _OPTION.Variadic,
                bool(p.is_homogeneous),
                p.type_str,
            )
            for p in raw.inputs
        ),
        raw.max_output,
        {n: (a.type.name, a.required) for n, a in raw.attributes.items()},
        {c.type_param_str: frozenset(c.allowed_type_strs) for c in raw.type_constraints},
    )


def check_node(node: Node, version: int) -> None:
    """Check a node against its operator's schema; operators that ONNX does not know pass.

    Raises:
        ModelError: Missing or surplus inputs, outputs or attributes, or one of a wrong type.
        ShapeError: An element type that the operator does not take.
    """
    schema = _schema(node.op, node.domain, version)
    if schema is None:
        return
    problem = (
        _inputs_problem(node, schema)
        or (f"{len(node.outputs)} outputs" if len(node.outputs) > schema.outputs else None)
        or _attributes_problem(node, schema)
    )
    if problem:
        raise ModelError(f"{node.key} of opset {version}: {problem}", at=str(node.location))
    problem = _types_problem(node, schema)
    if problem:
        raise ShapeError(f"{node.key} of opset {version}: {problem}", at=str(node.location))


def _parameter(schema: _Schema, index: int) -> _Parameter | None:
    if index < len(schema.inputs):
        return schema.inputs[index]
    last = schema.inputs[-1] if schema.inputs else None
    return last if last is not None and last.variadic else None


def _inputs_problem(node: Node, schema: _Schema) -> str | None:
    for index, formal in enumerate(schema.inputs):
        if not formal.optional and not formal.variadic and node.input(index) is None:
            return f"input {index} ({formal.name}) is missing"
    for index, value in enumerate(node.inputs):
        if value is not None and _parameter(schema, index) is None:
            return f"{len(node.inputs)} inputs, at most {len(schema.inputs)} are allowed"
    return None


def _attributes_problem(node: Node, schema: _Schema) -> str | None:
    for name, (_, required) in schema.attributes.items():
        if required and name not in node.attrs:
            return f"attribute {name!r} is missing"
    for name, value in node.attrs.items():
        if name not in schema.attributes:
            return f"unknown attribute {name!r}"
        kind, _ = schema.attributes[name]
        if not _fits(value, kind):
            return f"attribute {name!r} is no {kind}"
    return None


def _fits(value: Attr, kind: str) -> bool:
    if kind.endswith("S") and isinstance(value, tuple):
        return all(_fits(v, kind[:-1]) for v in value)
    expected: dict[str, tuple[type, ...]] = {
        "FLOAT": (float, int),
        "INT": (int,),
        "STRING": (str, bytes),
        "TENSOR": (Constant,),
        "GRAPH": (Graph,),
    }
    return isinstance(value, expected.get(kind, (object,)))


def _types_problem(node: Node, schema: _Schema) -> str | None:
    bound: dict[str, str] = {}
    for index, value in enumerate(node.inputs):
        formal = _parameter(schema, index)
        if formal is None or value is None or value.type is None:
            continue
        found = type_text(value.type)
        if formal.type not in schema.types:
            if formal.type.startswith("tensor(") and formal.type != found:
                return f"input {index} ({formal.name}) is {found}, not {formal.type}"
            continue
        if found not in schema.types[formal.type]:
            return f"input {index} ({formal.name}) cannot be {found}"
        if formal.variadic and not formal.homogeneous:
            continue
        if bound.setdefault(formal.type, found) != found:
            return f"input {index} ({formal.name}) is {found}, but others are {bound[formal.type]}"
    return None
