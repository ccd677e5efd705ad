"""``burnish run``."""

from __future__ import annotations

import os
from collections.abc import Mapping

import click

from burnish.cli.common import load_npz, pick_model, save_npz, threads_option


def _count(results: Mapping[str, object]) -> str:
    return f"{len(results)} output" + ("s" if len(results) != 1 else "")


@click.command("run")
@click.argument("artifact", required=False)
@click.option("-m", "--model", "model_option", help="The artifact, instead of ARTIFACT.")
@click.option("--inputs", metavar="IN.npz", required=True, help="Arrays by input name.")
@click.option("--outputs", metavar="OUT.npz", help="Where to write the outputs.")
@click.option("--overwrite", is_flag=True, help="Replace OUT.npz.")
@threads_option
def command(
    artifact: str | None,
    model_option: str | None,
    inputs: str,
    outputs: str | None,
    overwrite: bool,
    threads: int | None,
) -> int:
    """Run ARTIFACT once on inputs from a file."""
    from burnish.errors import InputFileError
    from burnish.runtime import load

    path = pick_model(artifact, model_option, "ARTIFACT")
    feeds = load_npz(inputs)
    if outputs and os.path.exists(outputs) and not overwrite:
        raise InputFileError("the output path exists", at=outputs, hint="add --overwrite")
    with load(path, threads=threads) as model:
        names = [o.name for o in model.get_outputs()]
        results = dict(zip(names, model.run(None, feeds), strict=True))
    if outputs is None:
        for name, array in results.items():
            click.echo(f"{name}: {array.dtype}{list(array.shape)} mean {array.mean():.6g}")
        return 0
    save_npz(outputs, results)
    click.echo(f"{_count(results)}: {outputs}")
    return 0
