"""What ``burnish inspect`` shows of models and artifacts."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from burnish.options import CompileOptions, parse_input_shapes


def _imported(path: str, input_shapes: tuple[str, ...], optimized: bool) -> tuple[Any, list[str]]:
    from burnish.driver import import_model, optimize

    options = CompileOptions(input_shapes=parse_input_shapes(input_shapes))
    graph, notes = import_model(path, options)
    if optimized:
        for record in optimize(graph, options, None, model=path):
            notes += record.notes
    return graph, notes


def describe_model(
    path: str, input_shapes: tuple[str, ...], optimized: bool, target: str | None
) -> dict[str, Any]:
    """A model as plain data; with a target, also what cannot be compiled for it and why."""
    from burnish.driver import histogram

    graph, notes = _imported(path, input_shapes, optimized or target is not None)
    data: dict[str, Any] = {
        "schema_version": 1,
        "model": path,
        "inputs": [{"name": v.name, "type": str(v.type)} for v in graph.inputs],
        "outputs": [{"name": v.name, "type": str(v.type)} for v in graph.outputs],
        "nodes": len(list(graph.walk())),
        "operators": histogram(graph),
        "weight_bytes": sum(v.const.nbytes for v in graph.constants()),
        "notes": notes,
    }
    if target is not None:
        from burnish.worker import run_in_worker

        # Kernel rules need TVM, which stays out of this process.
        data["target"] = target
        data["unsupported"] = run_in_worker(
            "burnish.report.inspect:unsupported", path, input_shapes, target
        )
    return data


def unsupported(path: str, input_shapes: tuple[str, ...], target: str) -> str:
    """Which nodes of a model cannot be compiled, and why; empty if all can."""
    from burnish.backends.registry import resolve_target
    from burnish.driver import prepare
    from burnish.errors import UnsupportedOpError

    graph, _ = _imported(path, input_shapes, True)
    try:
        prepare(graph, resolve_target(target))
    except UnsupportedOpError as error:
        return str(error)
    return ""


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


def print_model(data: dict[str, Any]) -> None:
    """Print what :func:`describe_model` found."""
    console = Console(highlight=False)
    for kind in ("inputs", "outputs"):
        for value in data[kind]:
            console.print(f"{kind[:-1]} {value['name']}: {value['type']}", markup=False)
    console.print(f"{data['nodes']} nodes, {data['weight_bytes'] / 1e6:.1f} MB of constants")
    table = Table("operator", "count")
    for name, count in data["operators"].items():
        table.add_row(name, str(count))
    console.print(table)
    for note in data["notes"]:
        console.print(f"note: {note}", markup=False)
    if "unsupported" in data:
        text = data["unsupported"] or f"every node compiles for {data['target']}"
        console.print(text, markup=False)


def print_artifact(data: dict[str, Any]) -> None:
    """Print a manifest."""
    console = Console(highlight=False)
    target = data["target"]
    console.print(f"{data['path']}: {data['model_name']}, {target['name']} ({target['isa']})")
    for kind in ("inputs", "outputs"):
        for value in data[kind]:
            shape = ",".join(map(str, value["shape"]))
            console.print(f"{kind[:-1]} {value['name']}: {value['dtype']}[{shape}]", markup=False)
    if data["verification"]:
        console.print(f"verified against {data['verification']['reference']}", markup=False)
    table = Table("operation", "precision", "kernel", "original nodes")
    for node in data["nodes"]:
        names = node["nodes"]
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        table.add_row(node["op"], node["precision"], node["kernel"], shown)
    console.print(table)
