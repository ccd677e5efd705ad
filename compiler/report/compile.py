"""What ``burnish compile`` prints."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from burnish.driver import CompileReport


def print_report(report: CompileReport, *, verbose: bool = False) -> None:
    """Print a compile report to stdout."""
    console = Console(highlight=False)
    total = sum(report.seconds.values())
    console.print(
        f"[bold]{report.output}[/]: {report.target}, {sum(report.nodes.values())} nodes, "
        f"{report.kernels} kernels, {report.weight_bytes / 1e6:.1f} MB of weights, {total:.1f} s"
    )
    if verbose:
        _print_details(console, report)
    for note in report.notes:
        console.print(f"note: {note}", markup=False)
    if report.comparison is None:
        if not any("compared" in note for note in report.notes):
            console.print("not compared with onnxruntime (--no-check)")
        return
    outputs = report.comparison["outputs"]
    worst = max(outputs, key=lambda o: (o["max_abs"] or 0.0) / (o["scale"] or 1.0))
    console.print(
        f"equal to onnxruntime within tolerance: {len(outputs)} outputs, largest error "
        f"{worst['max_abs']:.3g} at scale {worst['scale']:.3g} ({worst['name']})",
        markup=False,
    )


def _print_details(console: Console, report: CompileReport) -> None:
    phases = Table("phase", "seconds")
    for name, seconds in report.seconds.items():
        phases.add_row(name, f"{seconds:.2f}")
    console.print(phases)
    passes = Table("pass", "nodes before", "after", "seconds")
    for record in report.passes:
        if record.changed:
            passes.add_row(
                record.name,
                str(record.nodes_before),
                str(record.nodes_after),
                f"{record.seconds:.3f}",
            )
    console.print(passes)
    operators = Table("operator", "count")
    for name, count in report.nodes.items():
        operators.add_row(name, str(count))
    console.print(operators)
