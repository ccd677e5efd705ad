"""What ``burnish inspect`` shows of models and artifacts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.markup import escape
from rich.table import Table

from burnish.artifact import ONLY_TACTIC
from burnish.errors import UsageError, first_few
from burnish.options import CompileOptions, parse_input_shapes
from burnish.report.console import print_counts, print_line, print_table

#: Nodes and near misses that an explanation lists.
_SHOWN, _MISSES = 5, 10

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from burnish.passes.base import PassContext


def _imported(
    path: str,
    input_shapes: tuple[str, ...],
    optimized: bool,
    context: PassContext | None = None,
) -> tuple[Any, list[str]]:
    from burnish.driver import import_model, optimize

    options = CompileOptions(input_shapes=parse_input_shapes(input_shapes))
    graph, notes = import_model(path, options)
    if optimized:
        for record in optimize(graph, options, model=path, context=context):
            notes += record.notes
    return graph, notes


def describe_model(path: str, input_shapes: tuple[str, ...], optimized: bool) -> dict[str, Any]:
    """A model as plain data."""
    return _describe(path, *_imported(path, input_shapes, optimized))


def describe_support(
    path: str, input_shapes: tuple[str, ...], target: str, precision: str
) -> dict[str, Any]:
    """A model after all passes, and what of it cannot be compiled for a target and why.

    Kernel rules need TVM: call it by :func:`burnish.worker.run_in_worker`.

    Raises:
        UsageError: No such target or precision, or the target lacks the precision.
        ModelError: The model is invalid.
    """
    from burnish.backends.registry import resolve_target
    from burnish.driver import optimize, read_graph
    from burnish.errors import UnsupportedOpError
    from burnish.importers.untyped import untyped_operators
    from burnish.lowering.prepare import prepare
    from burnish.lowering.support import known_nowhere

    shapes = parse_input_shapes(input_shapes)
    options = CompileOptions(target=target, precision=precision, input_shapes=shapes)
    machine = resolve_target(target, precision)
    graph = read_graph(path, options)
    unsupported: Mapping[tuple[str, str], Sequence[str]] = {}
    if untyped_operators(graph):
        # No pass can work on values without types: there is no optimized graph to describe.
        data: dict[str, Any] = {"schema_version": 1, "model": path}
        unsupported = known_nowhere(graph, machine.backend.rules())
    else:
        notes = list(graph.notes)
        for record in optimize(graph, options, model=path, target=machine):
            notes += record.notes
        data = _describe(path, graph, notes)
        try:
            prepare(graph, machine)
        except UnsupportedOpError as error:
            unsupported = error.operators
    listed = [
        {"operator": op, "reason": reason, "nodes": list(names)}
        for (op, reason), names in sorted(unsupported.items())
    ]
    return data | {"target": machine.spec, "precision": precision, "unsupported": listed}


def _describe(path: str, graph: Any, notes: list[str]) -> dict[str, Any]:
    from burnish.driver import histogram

    return {
        "schema_version": 1,
        "model": path,
        "inputs": [{"name": v.name, "type": str(v.type)} for v in graph.inputs],
        "outputs": [{"name": v.name, "type": str(v.type)} for v in graph.outputs],
        "nodes": len(list(graph.walk())),
        "operators": histogram(graph),
        "weight_bytes": sum(v.const.nbytes for v in graph.constants()),
        "notes": notes,
    }


def explain_rule(path: str, rule: str, input_shapes: tuple[str, ...]) -> dict[str, Any]:
    """Where a rewrite rule applied to a model, and where it nearly did.

    Raises:
        UsageError: There is no such rule.
    """
    from burnish.passes.base import PassContext
    from burnish.passes.patterns import Tracer

    known = rule_names()
    if rule not in known:
        raise UsageError(
            f"no rewrite rule is called {rule!r}", hint=f"the rules are {', '.join(known)}"
        )
    tracer = Tracer(rule)
    graph, _ = _imported(path, input_shapes, True, PassContext(options={"tracer": tracer}))
    applied = [node for node in graph.walk() if rule in node.location.via]
    # What the rule made itself looks like what it looks for.
    misses = [
        miss
        for miss in tracer.nearest(limit=len(tracer.misses))
        if rule not in miss.at.partition(" via ")[2].split(", ")
    ]
    return {
        "schema_version": 1,
        "model": path,
        "rule": rule,
        "applied": [{"node": node.key, "names": list(node.location.names)} for node in applied],
        "near_misses": [{"at": miss.at, "reason": miss.reason} for miss in misses[:_MISSES]],
    }


def rule_names() -> list[str]:
    """Names of all rewrite rules, sorted."""
    from burnish.passes.catalogue import all_rules

    return sorted({rule.name for rule in all_rules()})


def describe_artifact(path: str) -> dict[str, Any]:
    """An artifact's manifest as plain data."""
    import json

    from burnish.artifact import read_manifest

    data: dict[str, Any] = json.loads(read_manifest(path).to_json())
    data["path"] = path
    return data


def graph_text(path: str, input_shapes: tuple[str, ...], optimized: bool) -> str:
    """A model in ONNX text syntax."""
    from burnish.ir.text import graph_text as text

    return text(_imported(path, input_shapes, optimized)[0])


def print_explanation(data: dict[str, Any]) -> None:
    """Print what :func:`explain_rule` found."""
    applied, misses = data["applied"], data["near_misses"]
    print_line(f"{data['rule']} had a part in {len(applied)} nodes of the result")
    for node in applied[:_SHOWN]:
        print_line(f"  {node['node']} from {', '.join(node['names'])}")
    if len(applied) > _SHOWN:
        print_line(f"  and {len(applied) - _SHOWN} more")
    print_line("nearest misses, the nearest first:" if misses else "no near misses")
    for miss in misses:
        print_line(f"  {miss['at']}: {miss['reason']}")


def print_model(data: dict[str, Any]) -> None:
    """Print what :func:`describe_model` found."""
    if "operators" in data:
        for kind in ("inputs", "outputs"):
            for value in data[kind]:
                print_line(f"{kind[:-1]} {value['name']}: {value['type']}")
        print_line(f"{data['nodes']} nodes, {data['weight_bytes'] / 1e6:.1f} MB of constants")
        print_counts(("operator", "count"), list(data["operators"].items()))
        for note in data["notes"]:
            print_line(f"note: {note}")
    if "unsupported" in data:
        _print_support(data)


def _print_support(data: dict[str, Any]) -> None:
    what = f"{data['target']} at {data['precision']}"
    rows = data["unsupported"]
    if not rows:
        print_line(f"every node compiles for {what}")
        return
    count = sum(len(row["nodes"]) for row in rows)
    print_line(f"{count} node{'s' if count > 1 else ''} cannot be compiled for {what}:")
    for row in rows:
        names = first_few(row["nodes"])
        print_line(f"  {len(row['nodes'])} x {row['operator']}: {row['reason']} ({names})")


def print_artifact(data: dict[str, Any]) -> None:
    """Print a manifest."""
    target = data["target"]
    print_line(f"{data['path']}: {data['model_name']}, {target['name']} ({target['isa']})")
    for kind in ("inputs", "outputs"):
        for value in data[kind]:
            shape = ",".join(map(str, value["shape"]))
            print_line(f"{kind[:-1]} {value['name']}: {value['dtype']}[{shape}]")
    verification = data["verification"]
    if verification:
        print_line(f"verified against {verification['reference']}")
    table = Table("operation", "precision", "stored in", "kernel", "original nodes")
    for node in data["nodes"]:
        kernel = ", ".join(filter(None, (node["kernel"], node["tactic"] or node["detail"])))
        names = escape(first_few(node["nodes"]))
        table.add_row(node["op"], node["precision"], node["storage"], escape(kernel), names)
    print_table(table)
    choices = [n for n in data["nodes"] if n["tactic"] and not n["why"].startswith(ONLY_TACTIC)]
    for choice in dict.fromkeys(f"{n['kernel']}: {n['tactic']} ({n['why']})" for n in choices):
        print_line(f"tactic of {escape(choice)}")
    for node in data["nodes"]:
        if node["reason"]:
            where = escape(", ".join(node["nodes"][:3]) or node["name"])
            print_line(f"in fp32: {node['op']} ({where}): {node['reason']}")
