"""The gates on what is known without running: size, memory, precision and placement."""

from __future__ import annotations

import fnmatch
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from burnish.artifact import Manifest, NodeInfo
from burnish.attestation import operation_shares
from burnish.gate.config import PlacementGate, SizeGate
from burnish.gate.result import CheckResult, listed
from burnish.gate.units import format_size
from burnish.lowering.precision import is_product

#: Precisions of kernels that compute; others (indices, sizes) are named by their element type.
_COMPUTE = frozenset({"fp64", "fp32", "bf16", "fp16", "int8"})


def artifact_size(artifact: Path) -> int:
    """Bytes of all files of an artifact."""
    return sum(file.stat().st_size for file in artifact.rglob("*") if file.is_file())


def check_size(gate: SizeGate, artifact: Path, baseline: Path | None) -> list[CheckResult]:
    """The artifact's size against a number of bytes, and against the baseline's."""
    size, results = artifact_size(artifact), []
    if gate.max_bytes is not None:
        results.append(check_bytes("size", "", size, gate.max_bytes))
    if gate.max_ratio is not None and baseline is not None:
        before = artifact_size(baseline)
        ratio = size / before
        reason = ""
        if ratio > gate.max_ratio:
            reason = (
                f"{format_size(size)}, {ratio:.3f} times the {format_size(before)} of the "
                f"baseline, where {gate.max_ratio:g} is allowed"
            )
        results.append(
            CheckResult.judged(
                "size",
                "/ baseline",
                reason,
                f"{ratio:.3f} ({format_size(size)})",
                f"<= {gate.max_ratio:g}",
                bytes=size,
                baseline_bytes=before,
                ratio=ratio,
            )
        )
    return results


def check_bytes(gate: str, subject: str, found: int, limit: int) -> CheckResult:
    """A number of bytes against its limit; 0 is one that could not be measured."""
    reason = ""
    if not found:
        reason = "this system does not tell the peak memory of a process"
    elif found > limit:
        reason = f"{format_size(found)} ({found} bytes), where {format_size(limit)} is allowed"
    return CheckResult.judged(
        "size" if gate == "size" else "memory",
        subject,
        reason,
        format_size(found),
        f"<= {format_size(limit)}",
        bytes=found,
        limit_bytes=limit,
    )


def check_placement(gate: PlacementGate, manifest: Manifest) -> list[CheckResult]:
    """What the artifact attests of its kernels."""
    kernels = [node for node in manifest.nodes if node.kernel]
    computing = [node for node in kernels if node.precision in _COMPUTE]
    results = [_share("precision", p, least, computing) for p, least in gate.min_share.items()]
    results += [_share("storage", p, least, computing) for p, least in gate.min_storage.items()]
    results += [_operations(p, least, kernels) for p, least in gate.min_operations.items()]
    if gate.devices:
        results.append(_devices(gate.devices, kernels))
    return results


def _share(
    attribute: str, precision: str, least: float, kernels: Sequence[NodeInfo]
) -> CheckResult:
    """The share of the kernels that compute in a precision, or store their results in it."""
    counts = Counter(getattr(node, attribute) for node in kernels)
    share = counts[precision] / len(kernels) if kernels else 0.0
    others = [node for node in kernels if getattr(node, attribute) != precision]
    verb = "compute" if attribute == "precision" else "store"
    reason = ""
    if share < least:
        found = [f"{_origin(n)} ({getattr(n, attribute)}{_because(n)})" for n in others]
        reason = (
            f"{counts[precision]} of {len(kernels)} kernels {verb} in {precision}; "
            f"others: {listed(found)}"
        )
    return CheckResult.judged(
        "precision",
        f"{verb} {precision}",
        reason,
        f"{share:.1%} of {len(kernels)} kernels",
        f">= {least:.1%}",
        share=share,
        kernels=dict(counts),
    )


def _operations(precision: str, least: float, kernels: Sequence[NodeInfo]) -> CheckResult:
    """The share of the operations of products in a precision."""
    shares = operation_shares(kernels)
    share = shares.get(precision, 0.0)
    others = [n for n in kernels if is_product(n.op) and n.precision != precision]
    reason = ""
    if share < least:
        found = listed([f"{_origin(n)} ({n.precision}{_because(n)})" for n in others])
        reason = f"{share:.1%} of the operations of products are in {precision}; others: {found}"
    return CheckResult.judged(
        "precision",
        f"operations {precision}",
        reason,
        f"{share:.1%} of the operations of products",
        f">= {least:.1%}",
        share=share,
        shares=shares,
    )


def _because(node: NodeInfo) -> str:
    return f": {node.reason}" if node.reason else ""


def _devices(allowed: Sequence[str], kernels: Sequence[NodeInfo]) -> CheckResult:
    counts = Counter(node.placement for node in kernels)
    strays = [node for node in kernels if node.placement not in allowed]
    found = ", ".join(f"{count} on {name}" for name, count in sorted(counts.items()))
    reason = f"elsewhere: {listed([f'{_origin(n)} ({n.placement})' for n in strays])}"
    return CheckResult.judged(
        "placement",
        "devices",
        reason if strays else "",
        found,
        ", ".join(allowed),
        kernels=dict(counts),
    )


def check_notes(patterns: Sequence[str], notes: Sequence[str]) -> CheckResult:
    """That no note of the compiler matches a pattern."""
    # "*" around, so that a pattern may be a part of a line.
    found = [n for n in notes if any(fnmatch.fnmatchcase(n, f"*{p}*") for p in patterns)]
    return CheckResult.judged(
        "placement",
        "notes",
        listed(found, "; "),
        f"{len(found)} of {len(notes)} notes",
        "none of " + ", ".join(map(repr, patterns)),
        notes=found,
    )


def _origin(node: NodeInfo) -> str:
    return node.nodes[0] if node.nodes else node.name
