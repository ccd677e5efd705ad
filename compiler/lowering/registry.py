"""The operator table: how every ONNX operator without a kernel template of its own is lowered.

A row is a *TE rule*, a pure function from ``te.Tensor``s to ``te.Tensor``s, or a *kernel rule*,
which writes an imperative TIR function for operators that tensor expressions cannot say (scatter,
sorting). Its signature is the operator's ONNX schema: positional parameters are inputs
(``None`` by default when optional), keyword-only parameters are attributes with ONNX's defaults.
Rows are for the canonical opset, keyed by domain and operator.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

from burnish.errors import UnsupportedOpError, first_few
from burnish.ir.dims import UNKNOWN
from burnish.ir.graph import Graph, Node
from burnish.ir.types import FLOATS, INTEGERS
from burnish.lowering.te_context import known_content

#: Element types that generated kernels compute with.
NATIVE: Final = FLOATS | INTEGERS | {"bool"}
REAL: Final = FLOATS | INTEGERS

_NONE: Final[frozenset[str]] = frozenset()

#: Why a node cannot be lowered, or None.
Check: TypeAlias = Callable[[Node], "str | None"]

REQUIRED: Final = inspect.Parameter.empty


@dataclass(frozen=True)
class Rule:
    """One row of the table.

    Attributes:
        op: Operator type.
        domain: Its domain.
        function: The rule; the first parameter is the context.
        kernel: A kernel rule (writes TIR) instead of a TE rule.
        attribute_inputs: Inputs that are read at compile time; not passed when they are known.
        run_time: Those among them that the rule also takes as tensors.
        dtypes: Element types of inputs and outputs that the rule handles.
        check: Further conditions.
        required: Number of inputs that must be present.
        inputs: Number of positional inputs.
        variadic: Whether any number of inputs may follow.
        attributes: Attribute names with their defaults, or :data:`REQUIRED`.
    """

    op: str
    domain: str
    function: Callable[..., Any]
    kernel: bool
    attribute_inputs: frozenset[int]
    run_time: frozenset[int]
    dtypes: frozenset[str]
    check: Check | None
    required: int
    inputs: int
    variadic: bool
    attributes: dict[str, Any] = field(hash=False)


_RULES: dict[tuple[str, str], Rule] = {}


def te_rule(
    *ops: str,
    domain: str = "",
    attribute_inputs: Iterable[int] = (),
    run_time: Iterable[int] = (),
    dtypes: Iterable[str] = NATIVE,
    check: Check | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a TE rule for operators; see :class:`Rule`."""
    return _register(ops, domain, False, attribute_inputs, run_time, dtypes, check)


def kernel_rule(
    *ops: str,
    domain: str = "",
    attribute_inputs: Iterable[int] = (),
    run_time: Iterable[int] = (),
    dtypes: Iterable[str] = NATIVE,
    check: Check | None = None,
    bits: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a kernel rule.

    Its context is a :class:`~burnish.lowering.kernel_context.KernelContext`; inputs arrive as the
    arguments of the kernel being built, outputs are ``ctx.outputs``, and it returns nothing. A rule
    takes bfloat16 only if it says so with ``bits``: it moves elements, which are uint16 then.
    """
    return _register(ops, domain, True, attribute_inputs, run_time, dtypes, check, bits)


def _register(
    ops: tuple[str, ...],
    domain: str,
    kernel: bool,
    attribute_inputs: Iterable[int],
    run_time: Iterable[int],
    dtypes: Iterable[str],
    check: Check | None,
    bits: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        parameters = list(inspect.signature(function).parameters.values())[1:]
        inputs = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        for op in ops:
            if (domain, op) in _RULES:
                raise ValueError(f"two lowering rules for {domain}::{op}")
            _RULES[domain, op] = Rule(
                op=op,
                domain=domain,
                function=function,
                kernel=kernel,
                attribute_inputs=frozenset(attribute_inputs),
                run_time=frozenset(run_time),
                dtypes=frozenset(dtypes) - (_NONE if bits or not kernel else {"bfloat16"}),
                check=check,
                required=sum(p.default is REQUIRED for p in inputs),
                inputs=len(inputs),
                variadic=any(p.kind is p.VAR_POSITIONAL for p in parameters),
                attributes={p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY},
            )
        return function

    return register


def rules() -> dict[tuple[str, str], Rule]:
    """The table by (domain, operator)."""
    package = importlib.import_module("burnish.lowering.ops")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"burnish.lowering.ops.{module.name}")
    return _RULES


def find(node: Node) -> Rule | None:
    """The row of a node's operator."""
    return rules().get((node.domain, node.op))


def attributes(rule: Rule, node: Node) -> dict[str, Any]:
    """Keyword arguments for a rule: the node's attributes; defaults are the rule's."""
    return {name: node.attrs[name] for name in rule.attributes if name in node.attrs}


def is_compile_time(rule: Rule, node: Node, index: int) -> bool:
    """Whether the rule reads an input at compile time, so that it is no kernel argument."""
    value = node.input(index)
    if value is None or index not in rule.attribute_inputs:
        return False
    return value.is_const or known_content(value) is not None


def supported(node: Node, sequential: bool = True, lacks: frozenset[str] = _NONE) -> str | None:
    """Why the table cannot lower a node; None if it can.

    Args:
        node: The node.
        sequential: Whether kernel rules count, which write sequential loops.
        lacks: Element types that the backend does not know.
    """
    rule = find(node)
    if node.key in ("If", "Loop", "Scan"):
        return _check_outputs(None, node) or "loops run on CPUs only"
    if rule is None:
        return "no lowering for this operator"
    if rule.kernel and not sequential:
        return "its kernel is a sequential loop, which this target does not run"
    return (
        _check_attributes(rule, node)
        or _check_known(node, lacks)
        or _check_inputs(rule, node)
        or _check_outputs(rule, node)
        or (rule.check(node) if rule.check else None)
    )


def _check_attributes(rule: Rule, node: Node) -> str | None:
    unknown = sorted(node.attrs.keys() - rule.attributes.keys())
    if unknown:
        return f"attribute {unknown[0]}"
    missing = [k for k, v in rule.attributes.items() if v is REQUIRED and k not in node.attrs]
    return f"attribute {missing[0]} is missing" if missing else None


def _check_known(node: Node, lacks: frozenset[str]) -> str | None:
    types = {v.dtype for v in (*node.inputs, *node.outputs) if v is not None and v.type is not None}
    return f"element type {min(types & lacks)}" if types & lacks else None


def _check_inputs(rule: Rule, node: Node) -> str | None:
    if len(node.inputs) > rule.inputs and not rule.variadic:
        return f"{len(node.inputs)} inputs"
    for index in range(rule.required):
        if node.input(index) is None:
            return f"input {index} is missing"
    for index, value in enumerate(node.inputs):
        if value is None:
            continue
        if value.type is None or value.type.rank is None:
            return f"unknown rank of input {index}"
        if value.dtype not in rule.dtypes and index not in rule.attribute_inputs:
            return f"element type {value.dtype}"
        if index in rule.attribute_inputs - rule.run_time and not is_compile_time(
            rule, node, index
        ):
            return f"input {index} is known at run time only"
    return None


def _check_outputs(rule: Rule | None, node: Node) -> str | None:
    for value in node.outputs:
        if value is None:
            continue
        if value.type is None or value.type.shape is None:
            return "unknown output shape"
        if any(d is UNKNOWN for d in value.shape):
            return "the output's shape depends on the data"
        if rule is not None and value.dtype not in rule.dtypes:
            return f"element type {value.dtype}"
    return None


def check(
    graph: Graph,
    also_supported: Callable[[Node], bool] = lambda node: False,
    sequential: bool = True,
    lacks: frozenset[str] = _NONE,
) -> None:
    """Find every node that cannot be lowered.

    Args:
        graph: The graph, subgraphs and elementwise bodies included.
        also_supported: Nodes that something else than the table lowers.
        sequential: Whether kernel rules count; see :func:`supported`.
        lacks: Element types that the backend does not know.

    Raises:
        UnsupportedOpError: Lists all of them, with counts and the original names.
    """
    found: dict[tuple[str, str], list[str]] = {}
    for node in _all_nodes(graph):
        if (node.domain, node.op) == ("burnish", "Elementwise") or also_supported(node):
            continue
        reason = supported(node, sequential, lacks)
        if reason is not None:
            names = node.location.names or (node.name,)
            found.setdefault((node.key, reason), []).append(", ".join(names))
    if found:
        raise unsupported_error(found)


def unsupported_error(found: dict[tuple[str, str], list[str]]) -> UnsupportedOpError:
    """The error for (operator, reason) -> names of the nodes."""
    count = sum(map(len, found.values()))
    lines = [f"{count} node{'s' if count > 1 else ''} cannot be lowered:"]
    for (key, reason), names in sorted(found.items()):
        lines.append(f"  {len(names)} x {key}: {reason} ({first_few(names)})")
    # Both go away where they only depend on shapes.
    dynamic = any("run time" in reason or "shape" in reason for _, reason in found)
    hint = "fix the shapes of the inputs with --input-shapes" if dynamic else None
    error = UnsupportedOpError("\n".join(lines), hint=hint)
    error.operators = found
    return error


def _all_nodes(graph: Graph) -> Iterable[Node]:
    for node in graph.walk():
        yield node
        body = node.attrs.get("body")
        if isinstance(body, Graph) and body.parent is None:
            yield from _all_nodes(body)
