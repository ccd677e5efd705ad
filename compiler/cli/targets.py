"""``burnish targets``."""

from __future__ import annotations

from typing import Any

import click

from burnish.cli.common import emit_json, json_option
from burnish.errors import TargetUnavailableError


@click.command("targets")
@json_option
def command(json_path: str | None) -> int:
    """List the targets that can be compiled for, and which this machine can run."""
    from burnish.artifact import unfit
    from burnish.backends.registry import backends
    from burnish.runtime import missing_device

    rows: list[dict[str, Any]] = []
    for backend in backends():
        for spec, text in backend.specs.items():
            try:
                target = backend.resolve(spec)
            except TargetUnavailableError as error:
                rows.append(
                    {
                        "target": spec,
                        "about": text,
                        "builds": False,
                        "precisions": [],
                        "runs_here": False,
                        "why": error.message,
                    }
                )
                continue
            why = unfit(target.info) or missing_device(target.info)
            rows.append(
                {
                    "target": spec,
                    "about": text,
                    "builds": True,
                    "precisions": list(target.precisions),
                    "runs_here": not why,
                    "why": why,
                }
            )
    if json_path:
        emit_json({"schema_version": 1, "targets": rows}, json_path)
        return 0
    from rich.console import Console
    from rich.table import Table

    table = Table("target", "compiles", "runs here", "precisions", "about")
    for row in rows:
        about = (
            f"{row['about']} ({row['why']})" if row["why"] and row["builds"] else str(row["about"])
        )
        table.add_row(
            str(row["target"]),
            *("yes" if row[k] else "no" for k in ("builds", "runs_here")),
            " ".join(row["precisions"]),
            about,
        )
    Console().print(table)
    return 0
