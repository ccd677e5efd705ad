"""What ``burnish compile --precision auto`` prints and writes of its search."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from burnish.auto.picture import svg
from burnish.errors import InputFileError, UsageError
from burnish.report.console import print_counts, print_line

#: Regions that are turned back and listed unless more is asked for.
_LISTED = 8


def print_precision(found: Mapping[str, Any], *, verbose: bool = False) -> None:
    """Print the front, what was turned back and, if asked for, all regions.

    Args:
        found: An ``AutoReport`` as plain data.
        verbose: List all regions.
    """
    rows = [
        (
            point["label"],
            f"{point['seconds'] * 1e3:.4g}",
            f"{point['drop']:.3g}",
            "built" if point["chosen"] else "",
        )
        for point in found["front"]
    ]
    print_counts(("regions", "ms of kernels", f"drop of {found['metric']}", ""), rows)
    whole = ", ".join(f"{name} {s * 1e3:.4g} ms" for name, s in found["seconds"].items())
    print_line(f"whole model, timed in turns: {whole}")
    turned = found["turned_back"]
    for line in turned if verbose else turned[:_LISTED]:
        print_line(f"turned back: {line}")
    if not verbose and len(turned) > _LISTED:
        print_line(f"turned back: {len(turned) - _LISTED} more (--verbose lists them)")
    if verbose:
        regions = [
            (
                region["name"],
                region["precision"],
                "" if region["sensitivity"] is None else f"{region['sensitivity']:.3g}",
                " ".join(f"{p} {s * 1e6:.0f}" for p, s in region["seconds"].items()),
                region["reason"],
            )
            for region in found["regions"]
        ]
        print_counts(("region", "precision", "adds to the drop", "us", "why not lower"), regions)


def write_precision(found: Mapping[str, Any], paths: Sequence[str]) -> None:
    """Write the search as JSON or as a picture, as the names of the files end.

    Raises:
        InputFileError: A file cannot be written.
    """
    for path in paths:
        text = svg(found) if path.endswith(".svg") else json.dumps(found, indent=2) + "\n"
        try:
            Path(path).write_text(text, encoding="utf-8")
        except OSError as error:
            raise InputFileError(f"cannot write the report: {error.strerror}", at=path) from error


def check_report_paths(paths: Sequence[str], precision: str) -> None:
    """Refuse reports that cannot be made, before anything is measured.

    Raises:
        UsageError: A name ends otherwise, or there is no search to report.
    """
    for path in paths:
        if not path.endswith((".json", ".svg")):
            raise UsageError(
                "a report is JSON or a picture", at=path, hint="name it F.json or F.svg"
            )
    if paths and precision != "auto":
        raise UsageError(
            "--report is about the search of --precision auto", hint="add --precision auto"
        )
