"""A comparison as a table."""

from __future__ import annotations

import math

from rich.console import Console
from rich.table import Table
from rich.text import Text

from burnish.check.result import ComparisonReport, OutputComparison


def comparison_table(report: ComparisonReport) -> Table:
    """One row for each output, failures with their reason."""
    table = Table(title=f"{report.subject} against {report.reference}", title_justify="left")
    table.add_column("output", overflow="fold")
    if len(report.cases) > 1:
        table.add_column("inputs", justify="right")
    table.add_column("shape")
    for name in ("max abs", "mean abs", "max rel", "mean rel", "cosine", "PSNR"):
        table.add_column(name, justify="right")
    table.add_column("tolerance")
    table.add_column("verdict", overflow="fold")
    for output in report.outputs:
        cells = [output.name]
        if len(report.cases) > 1:
            cells.append(str(output.case))
        table.add_row(*cells, *_numbers(output), _verdict(output))
    return table


def _numbers(output: OutputComparison) -> list[str]:
    shape = f"{output.dtype} {'x'.join(map(str, output.shape)) or 'scalar'}"
    if output.worst is None:
        return [shape, "-", "-", "-", "-", "-", "-", "-"]
    return [
        shape,
        f"{output.max_abs:.2e}",
        f"{output.mean_abs:.2e}",
        f"{output.max_rel:.2e}",
        f"{output.mean_rel:.2e}",
        f"{output.cosine:.6f}",
        f"{output.psnr:.0f} dB" if math.isfinite(output.psnr) else "equal",
        _tolerance(output),
    ]


def _tolerance(output: OutputComparison) -> str:
    if output.atol == output.rtol == 0:
        return "exact"
    text = f"{output.atol:g} x {output.scale:.3g} + {output.rtol:g} |y|"
    return text if math.isinf(output.rms_tol) else f"{text}, rms {output.rms_tol:g}"


def _verdict(output: OutputComparison) -> Text:
    if output.passed:
        return Text("equal", style="green")
    return Text(f"DIFFERS: {output.reason}", style="bold red")


def print_comparison(report: ComparisonReport) -> None:
    """Print the table to stdout."""
    Console().print(comparison_table(report))
