"""``burnish runner``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command("runner")
@click.argument("folder", metavar="DIR")
@click.option(
    "--target", default="x86", show_default=True, help="What the artifacts were compiled for."
)
@click.option(
    "--library",
    type=click.Choice(["onednn"]),
    multiple=True,
    help="Add a library that artifacts were compiled with: see 'burnish inspect'.",
)
@click.option(
    "--cache-dir",
    metavar="DIR",
    help="Where TVM's libraries for other machines are kept; default: ~/.cache/burnish.",
)
def command(folder: str, target: str, library: tuple[str, ...], cache_dir: str | None) -> int:
    """Build burnish_run, which runs artifacts without Python, and put it into DIR.

    DIR then has all that a machine of the target needs besides the artifact: copy both there and
    run 'DIR/burnish_run MODEL.burnish NAME=FILE.npy -o OUT'.
    """
    from burnish.backends.registry import resolve_target
    from burnish.runtime.runner import build_runner

    chosen = resolve_target(target)
    cache = Path(cache_dir) if cache_dir else None
    program = build_runner(
        folder, machine=chosen.machine, device=chosen.device, libraries=library, cache=cache
    )
    click.echo(str(program))
    return 0
