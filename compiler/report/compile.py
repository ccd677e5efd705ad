"""What ``burnish compile`` prints."""

from __future__ import annotations

from burnish.report.console import print_counts, print_line
from burnish.report.precision import print_precision
from burnish.report.tuning import print_tuning
from burnish.requests import CompileReport


def print_report(report: CompileReport, *, verbose: bool = False) -> None:
    """Print a compile report to stdout."""
    total = sum(report.seconds.values())
    print_line(
        f"{report.output}: {report.target}, {sum(report.nodes.values())} nodes, "
        f"{report.kernels} kernels, {report.weight_bytes / 1e6:.1f} MB of weights, {total:.1f} s"
        + (" (from the cache: nothing has changed)" if report.cached else "")
    )
    if report.kernels_reused is not None and not report.cached:
        print_line(f"kernels: {report.kernels_reused} reused, {report.kernels_built} built")
    if report.tuning is not None and not report.cached:
        print_tuning(report.tuning, verbose=verbose)
    if report.precision is not None:
        print_precision(report.precision, verbose=verbose)
    if verbose:
        _print_details(report)
    for note in report.notes:
        print_line(f"note: {note}")
    if report.comparison is None:
        if not any("compared" in note for note in report.notes):
            print_line("not compared with onnxruntime (--no-check)")
        return
    outputs = report.comparison["outputs"]
    worst = max(outputs, key=lambda o: (o["max_abs"] or 0.0) / (o["scale"] or 1.0))
    count = f"{len(outputs)} output" + ("s" if len(outputs) != 1 else "")
    like = "equal to" if worst["atol"] is not None else "like"
    print_line(
        f"{like} onnxruntime within tolerance: {count}, largest error "
        f"{worst['max_abs']:.3g} at scale {worst['scale']:.3g} ({worst['name']}), least cosine "
        f"similarity {min(o['cosine'] for o in outputs):.6f}"
    )


def _print_details(report: CompileReport) -> None:
    phases = [(name, f"{seconds:.2f}") for name, seconds in report.seconds.items()]
    print_counts(("phase", "seconds"), phases)
    if report.peak_memory_bytes:
        print_line(f"peak memory of the compile worker: {report.peak_memory_bytes / 1e6:.0f} MB")
    passes = [
        (r.name, r.nodes_before, r.nodes_after, f"{r.seconds:.3f}")
        for r in report.passes
        if r.changed
    ]
    print_counts(("pass", "nodes before", "after", "seconds"), passes)
    print_counts(("operator", "count"), list(report.nodes.items()))
    kept = "kept in fp32" if report.precision is None else "kept higher"
    for name, reason in report.kept.items():
        print_line(f"{kept}: {name}: {reason}")
