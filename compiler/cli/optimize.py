"""``burnish optimize``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from burnish.cli.common import emit_json, json_option, pick_model

if TYPE_CHECKING:
    from burnish.passes.manager import PassRecord


@click.command("optimize")
@click.argument("model", metavar="IN", required=False)
@click.argument("output", metavar="OUT", required=False)
@click.option(
    "-O",
    "opt_level",
    type=click.IntRange(0, 3),
    default=1,
    show_default=True,
    help="1 writes plain ONNX; 2 and 3 fuse as well, composites become local functions.",
)
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    help="fp32, or fp16 or bf16 for a model whose tensors have 16 bits where that is safe.",
)
@click.option(
    "--input-shapes",
    multiple=True,
    metavar="NAME:1x3x224x224",
    help="Fix, name or bound (1..8) dims of an input.",
)
@click.option("--skip-pass", multiple=True, metavar="NAME", help="Leave a pass out.")
@click.option("--only-pass", multiple=True, metavar="NAME", help="Run only these passes.")
@click.option("--list-passes", is_flag=True, help="List the passes of the level and stop.")
@click.option("--dump-ir", metavar="DIR", help="Write every stage to DIR.")
@click.option("--verify-ir", is_flag=True, help="Check the IR before and after every pass.")
@click.option("--verify-passes", is_flag=True, help="Compare with onnxruntime after every pass.")
@click.option("--overwrite", is_flag=True, help="Replace OUT.")
@json_option
def command(
    model: str | None,
    output: str | None,
    opt_level: int,
    precision: str,
    input_shapes: tuple[str, ...],
    skip_pass: tuple[str, ...],
    only_pass: tuple[str, ...],
    list_passes: bool,
    dump_ir: str | None,
    verify_ir: bool,
    verify_passes: bool,
    overwrite: bool,
    json_path: str | None,
) -> int:
    """Rewrite the ONNX model IN and write it to OUT, for any runtime."""
    import os

    from burnish.driver import histogram, import_model, optimize
    from burnish.errors import InputFileError, UsageError
    from burnish.export import save
    from burnish.options import CompileOptions, parse_input_shapes
    from burnish.passes.manager import pass_names
    from burnish.passes.pipelines import pipeline

    options = CompileOptions(
        input_shapes=parse_input_shapes(input_shapes),
        opt_level=opt_level,
        precision=precision,
        skip_passes=skip_pass,
        dump_ir=dump_ir,
        verify_ir=verify_ir,
        verify_passes=verify_passes,
    )
    if list_passes:
        click.echo("\n".join(pass_names(pipeline(opt_level, precision=options.precision))))
        return 0
    path = pick_model(model, None, "IN")
    if output is None:
        raise UsageError("missing argument OUT", hint="burnish optimize IN OUT")
    if os.path.exists(output) and not overwrite:
        raise InputFileError("the output path exists", at=output, hint="add --overwrite")
    graph, notes = import_model(path, options)
    before = histogram(graph)
    records = optimize(graph, options, model=path, source=path, only=only_pass)
    save(graph, output)
    notes += [note for record in records for note in record.notes]
    result = _result(before, histogram(graph), records, notes)
    if json_path:
        emit_json(result, json_path)
        return 0
    click.echo(f"{result['nodes_before']} nodes -> {result['nodes_after']} nodes: {output}")
    for note in notes:
        click.echo(f"note: {note}")
    return 0


def _result(
    before: dict[str, int], after: dict[str, int], records: list[PassRecord], notes: list[str]
) -> dict[str, Any]:
    return {
        "schema_version": 1,
        "nodes_before": sum(before.values()),
        "nodes_after": sum(after.values()),
        "operators": after,
        "passes": [
            {"name": r.name, "before": r.nodes_before, "after": r.nodes_after, "seconds": r.seconds}
            for r in records
            if r.changed
        ],
        "notes": notes,
    }
