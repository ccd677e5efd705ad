"""The latency gate: the ratio to a peer or to a baseline, measured in turns in one process."""

from __future__ import annotations

from collections.abc import Callable

import burnish.runtime
from burnish.bench import BurnishRunner, RatioPlan, Runner, measure_ratio, peer
from burnish.bench.ratio import RatioResult
from burnish.gate.config import BASELINE, Row
from burnish.gate.inputs import Feeds
from burnish.gate.result import EXIT_CODES, CheckResult
from burnish.runtime import default_threads
from burnish.worker import report


def check_latency(
    row: Row,
    artifact: str,
    feeds: Feeds,
    against: str,
    baseline: str | None,
    plan: RatioPlan,
    strict: bool,
) -> CheckResult:
    """Measure until the limit is decided or the time is over.

    Args:
        row: The row.
        artifact: What is judged.
        feeds: Inputs by name.
        against: A peer's name, or ``baseline``.
        baseline: The baseline's artifact.
        plan: How to measure.
        strict: Whether an undecided ratio fails.

    Raises:
        BurnishError: The peer is missing or fails.
    """
    limit = row.model.latency.max_ratio[against]
    threads = row.model.threads or default_threads()

    def compiled(path: str, name: str) -> Callable[[], Runner]:
        return lambda: BurnishRunner(burnish.runtime.load(path, threads=threads), name)

    def other() -> Runner:
        return peer(against, row.model.path, threads)

    result = measure_ratio(
        compiled(artifact, "burnish"),
        other if baseline is None else compiled(baseline, BASELINE),
        feeds,
        limit,
        plan,
        on_block=lambda blocks, seconds: report("time", round(seconds), round(plan.time_budget)),
    )
    return _judge(against, result, strict)


def _judge(against: str, result: RatioResult, strict: bool) -> CheckResult:
    verdict, plan = result.verdict, result.plan
    bounds = f"[{verdict.lower:.3f}, {verdict.upper:.3f}]"
    message, code = "", 0
    if verdict.decision == "failed":
        code = EXIT_CODES["latency"]
        message = (
            f"{verdict.ratio:.3f} times the time of {against}, at least {verdict.lower:.3f} with "
            f"{plan.confidence:.1%} confidence, where {result.limit:g} is allowed"
        )
    elif verdict.decision == "inconclusive":
        code = EXIT_CODES["latency"] if strict else 0
        message = (
            f"between {verdict.lower:.3f} and {verdict.upper:.3f} times the time of {against} "
            f"after {result.seconds:.0f} s: too noisy to decide about {result.limit:g}; "
            "raise measure.time-budget, or use a quieter machine"
        )
    sides = (result.subject, result.peer)
    times = ", ".join(f"{side.name} {side.median * 1e3:.4g} ms" for side in sides)
    return CheckResult(
        "latency",
        f"/ {against}",
        verdict.decision,
        f"{verdict.ratio:.3f} {bounds} ({times})",
        f"<= {result.limit:g}",
        message,
        code,
        result.to_dict(),
    )
