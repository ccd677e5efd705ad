"""A comparison as a table."""

from __future__ import annotations

import math

from rich import box
from rich.table import Table
from rich.text import Text

from burnish.check.result import ComparisonReport, OutputComparison
from burnish.report.console import print_table


def comparison_table(report: ComparisonReport) -> Table:
    """One row for each output; tolerances and what is wrong stand below."""
    table = Table(
        title=f"{report.subject} against {report.reference}",
        title_justify="left",
        caption=_notes(report),
        caption_justify="left",
        caption_style="",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("output", overflow="fold")
    for name in ("abs error\nmax, mean", "rel error\nmax, mean", "cosine", "PSNR dB"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("verdict", no_wrap=True)
    for output in report.outputs:
        case = f" (inputs {output.case})" if len(report.cases) > 1 else ""
        shape = "x".join(map(str, output.shape)) or "scalar"
        label = f"{output.name}{case}\n{output.dtype} {shape}"
        verdict = Text("equal", "green") if output.passed else Text("DIFFERS", "bold red")
        table.add_row(label, *_numbers(output), verdict)
    return table


def print_comparison(report: ComparisonReport) -> None:
    """Print the table to stdout."""
    print_table(comparison_table(report))


def _numbers(output: OutputComparison) -> list[str]:
    if output.worst is None:
        return ["", "", "", ""]
    return [
        f"{output.max_abs:.1e}\n{output.mean_abs:.1e}",
        f"{output.max_rel:.1e}\n{output.mean_rel:.1e}",
        f"{output.cosine:.6f}",
        f"{output.psnr:.0f}" if math.isfinite(output.psnr) else "inf",
    ]


def _notes(report: ComparisonReport) -> Text:
    lines = [f"tolerance: {text}" for text in dict.fromkeys(map(_tolerance, report.outputs))]
    notes = Text("\n".join(lines))
    for output in report.outputs:
        if not output.passed:
            notes.append(f"\n{output.name}: {output.reason}", "red")
    return notes


def _tolerance(output: OutputComparison) -> str:
    if output.atol == output.rtol == 0:
        return f"{output.dtype} exactly"
    if math.isinf(output.atol):
        return f"{output.dtype} rms(error) <= {output.rms_tol:g} rms(y)"
    text = f"{output.dtype} |error| <= {output.atol:g} rms(y) + {output.rtol:g} |y|"
    return (
        text if math.isinf(output.rms_tol) else f"{text}, rms(error) <= {output.rms_tol:g} rms(y)"
    )
