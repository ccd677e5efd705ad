"""The whole of ``--precision auto``; runs in a process of its own, and compiles in others."""

from __future__ import annotations

import contextlib
import math
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from burnish.artifact import copy_artifact, read_manifest
from burnish.attestation import operation_shares
from burnish.auto.evaluation import Evaluator, reference_outputs
from burnish.auto.metric import Arrays, Loss, Metric
from burnish.auto.regions import find_regions, region_of_nodes
from burnish.auto.result import AutoReport, FrontPoint, RegionChoice
from burnish.auto.search import ORDER, Levels, Search, TurnedBack
from burnish.auto.timing import BuildTimes, time_builds
from burnish.backends.registry import resolve_target
from burnish.bench.profile import input_sizes
from burnish.calibration.data import open_data
from burnish.calibration.samples import Sample
from burnish.check import RecordedCase, RecordedReference
from burnish.check.inputs import input_ranges
from burnish.driver import import_model, reference_model
from burnish.errors import AccuracyError, CalibrationError, UsageError
from burnish.passes.base import PassContext
from burnish.precision.assignment import Assignment
from burnish.precision.options import Budget, QuantizeOptions
from burnish.precision.quantize import (
    Measured,
    NothingQuantizedError,
    excluded,
    model_inputs,
    prepare,
    quantize_graph,
)
from burnish.precision.split import SplitSamples
from burnish.requests import CompileReport, CompileRequest
from burnish.runtime import load
from burnish.worker import report, run_in_worker

#: One sample of so many is held out, at most so many in all.
_EVERY, _HELD = 4, 32
#: Samples that are needed, and samples that are evaluated on.
_NEEDED, _CHOSEN_ON = 8, 16
#: Regions at most; each takes an evaluation.
_REGIONS = 18
#: Builds that are judged at most before all goes back to fp32.
_TRIES = 3
#: The loss of a build that is only timed.
_UNKNOWN = Loss(math.nan, math.nan, math.nan)


def compile_auto(request: CompileRequest) -> CompileReport:
    """Find the fastest precisions within a budget, and compile with them.

    Raises:
        AccuracyError: Not even fp32 is within the budget; nothing is written.
        CalibrationError: There are too few samples, or they do not fit the model.
        UsageError: The model has no products, or an option is wrong.
    """
    with tempfile.TemporaryDirectory(prefix="burnish-auto-") as folder:
        return _Auto(request, Path(folder)).run()


@dataclass(frozen=True)
class _Build:
    """An artifact, and what it loses on the samples that were held out."""

    levels: Levels
    path: Path
    report: CompileReport
    loss: Loss


class _Auto:
    def __init__(self, request: CompileRequest, folder: Path) -> None:
        self.request, self.folder, self.options = request, folder, request.options
        self.budget = self.options.budget or Budget()
        self.how = self.options.quantization or QuantizeOptions()
        if self.how.weights_only is not None:
            raise UsageError(
                "--weights-only chooses the precision that auto is to find",
                hint="use --allow-int4 with auto, or --precision int8 with --weights-only",
            )
        self.metric = Metric(self.budget)
        self.reference = reference_model(request.model)
        self.measured = Measured()

    def run(self) -> CompileReport:
        """Measure, search, build, judge."""
        started = time.perf_counter()
        self._measure()
        self._time()
        search = self._search()
        report("judge", 0, 1)
        final = self._final(search)
        copy_artifact(final.path, Path(self.request.output), overwrite=self.request.overwrite)
        found = self._describe(search, final)
        notes = [f"auto: {line}" for line in _lines(found)]
        return replace(
            final.report,
            output=self.request.output,
            seconds={"search": round(time.perf_counter() - started, 4)},
            notes=(*final.report.notes, *notes),
            precision=found.to_dict(),
        )

    # --- what is known before anything is chosen -----------------------------------------------

    def _measure(self) -> None:
        """Ranges of the model's values, its regions, and the samples of both kinds."""
        graph, _ = import_model(self.request.model, self.options)
        # What the user excludes is not stored in 16 bits either.
        self.excluded = Assignment().excluding(graph, self.how.selection)
        inputs = model_inputs(graph, input_ranges(self.reference))
        source, count = self.options.calibration_data, self.options.calibration_samples
        data = SplitSamples(open_data(source, inputs, count=count), _EVERY, _HELD)
        self.chosen_on = _spread(data, _CHOSEN_ON)
        self.held = data.held
        total = data.measured + len(self.held)
        if total < _NEEDED:
            raise CalibrationError(
                f"precision auto needs {_NEEDED} samples, some to choose with, others to judge by; "
                f"there {'is' if total == 1 else 'are'} {total}",
                hint="give more; where the batch is symbolic, an array is one sample",
            )
        context = PassContext()
        prepare(graph, context)
        most = max(1, min(_REGIONS, self.budget.max_evals - 10))
        left = excluded(graph, self.how.selection)
        self.regions = find_regions(graph, left, most)
        if not self.regions:
            raise UsageError(
                "there are no products to choose precisions for",
                hint="compile with --precision fp32",
            )
        self.region_of = region_of_nodes(graph, self.regions)
        quantize_graph(graph, data, self.how, context, measured=self.measured, progress=report)
        self.wanted = reference_outputs(self.reference, self.held)
        self.metric.check(self.wanted, self.held, self.budget)

    def _time(self) -> None:
        """Build the model in every precision that the target has, and time them in turns."""
        target = resolve_target(self.options.target)
        offered = [p for p in ORDER if p in target.precisions and p != "int4"]
        if self.budget.allow_int4:
            offered.append("int4")
        self.builds: dict[str, _Build] = {}
        self.unfit: list[str] = []
        for index, precision in enumerate(offered):
            report("build to time", index, len(offered))
            levels = (precision,) * len(self.regions)
            try:
                self.builds[precision] = self._build(levels, f"all-{precision}", judge=False)
            except NothingQuantizedError as error:
                self.unfit.append(f"the whole model: no {precision}: {error.message}")
        report("time", 0, 1)
        self.times = self._timed({name: build.path for name, build in self.builds.items()})

    def _timed(self, builds: dict[str, Path]) -> dict[str, BuildTimes]:
        sample, threads = self.chosen_on[0], self.options.threads
        return time_builds(builds, sample, self.region_of, len(self.regions), threads)

    # --- choice --------------------------------------------------------------------------------

    def _search(self) -> Search:
        evaluator = Evaluator(
            self.request.model,
            self.reference,
            self.options,
            self.measured,
            self.metric,
            self.chosen_on,
            # Those that are left judge what is built, and the model in 16 bits.
            max(1, self.budget.max_evals - _TRIES - ("bf16" in self.times)),
        )

        def evaluate(levels: Levels) -> Loss:
            report("evaluate", self.budget.max_evals - evaluator.left, self.budget.max_evals)
            return evaluator(self._assignment(levels))

        self.evaluator = evaluator
        search = Search(
            {name: times.regions for name, times in self.times.items()},
            evaluate,
            lambda: evaluator.left,
            self.budget,
            self.times["fp32"].rest,
        )
        self.proposed = search.run()
        return search

    def _final(self, search: Search) -> _Build:
        """The fastest build that the samples which were held out find within the budget."""
        self.judged = 0
        found: list[_Build] = []
        levels: Levels | None = self.proposed
        while levels is not None and self.judged < _TRIES and set(levels) != {"fp32"}:
            self.judged += 1
            with contextlib.suppress(AccuracyError):  # beyond what is like the model at all
                build = self._build(levels, f"try-{self.judged}", search=search)
                if build.loss.within(self.budget):
                    found.append(build)
                    break
            levels = search.back_off()
        found.append(self._plain())
        found += self._sixteen(search, found)
        names = {f"{index}": build.path for index, build in enumerate(found)}
        self.calls = {name: times.seconds for name, times in self._timed(names).items()}
        # Of one session, unlike those of the first builds.
        self.seconds = {_short(build.levels): self.calls[str(i)] for i, build in enumerate(found)}
        best = min(range(len(found)), key=lambda index: self.calls[str(index)])
        self.slower = [(found[i], self.calls[str(i)]) for i in range(len(found)) if i < best]
        if found[best].path in {build.path for build in self.builds.values()}:
            # What was timed was not checked, and does not say why nothing is lower.
            return self._build(found[best].levels, "best", search=search)
        return found[best]

    def _sixteen(self, search: Search, found: list[_Build]) -> list[_Build]:
        """The build in 16 bits, judged: a mixture pays for its borders, this has none."""
        build = self.builds.get("bf16")
        if build is None or any(set(other.levels) == {"bf16"} for other in found):
            return []
        if self.evaluator.left < 1 or not search.point(build.levels).loss.within(self.budget):
            return []
        self.judged += 1
        judged = replace(build, loss=self._judge(build.path))
        return [judged] if judged.loss.within(self.budget) else []

    def _plain(self) -> _Build:
        """The build in fp32, judged."""
        build = self.builds["fp32"]
        loss = self._judge(build.path)
        if not loss.within(self.budget):
            raise AccuracyError(
                f"not even fp32 is within the budget: {self._spelled(loss)}",
                hint="allow more with --max-drop or --atol, or check the metric",
            )
        return replace(build, loss=loss)

    def _spelled(self, loss: Loss) -> str:
        return (
            f"{self.budget.metric} drops by {loss.drop:.3g}, where {self.budget.bound:g} is "
            f"allowed, the largest error is {loss.error:.3g} of the scale"
        )

    def _build(
        self, levels: Levels, name: str, *, judge: bool = True, search: Search | None = None
    ) -> _Build:
        """Compile an assignment, and judge it on what was held out."""
        path = self.folder / f"{name}.burnish"
        cases = tuple(
            RecordedCase(dict(sample), dict(outputs))
            for sample, outputs in zip(self.held, self.wanted, strict=True)
        )
        options = replace(
            self.options,
            check=self.options.check and judge,
            strict=self.options.strict and judge,
            tune=self.options.tune and judge,
            dump_ir=self.options.dump_ir if judge else None,
        )
        nested = replace(
            self.request,
            options=options,
            output=str(path),
            overwrite=False,
            reference=RecordedReference(self.request.name, "the model", cases),
            assignment=self._assignment(levels, search),
            measured=self.measured,
        )
        made = run_in_worker("burnish.driver:compile_artifact", nested)
        loss = self._judge(path) if judge else _UNKNOWN
        return _Build(levels, path, made, loss)

    def _judge(self, path: Path) -> Loss:
        found: list[Arrays] = []
        with load(path, threads=self.options.threads) as model:
            names = [output.name for output in model.get_outputs()]
            found += [dict(zip(names, model.run(None, s), strict=True)) for s in self.held]
        return self.metric.loss(found, self.wanted, self.held)

    def _assignment(self, levels: Levels, search: Search | None = None) -> Assignment:
        nodes, reasons = dict(self.excluded.nodes), dict(self.excluded.reasons)
        for index, (region, precision) in enumerate(zip(self.regions, levels, strict=True)):
            nodes.update(dict.fromkeys(region.nodes, precision))
            if search is not None and (why := _why(search, index, precision)):
                reasons.update(dict.fromkeys(region.nodes, why))
        storage = "bf16" if "bf16" in levels else "fp32"
        return Assignment(storage, "fp32", nodes, reasons)

    # --- report --------------------------------------------------------------------------------

    def _describe(self, search: Search, final: _Build) -> AutoReport:
        regions = tuple(
            RegionChoice(
                region.name,
                region.nodes,
                final.levels[i],
                _why(search, i, final.levels[i]),
                search.sensitivity.get(i),
                {name: times.regions[i] for name, times in self.times.items()},
            )
            for i, region in enumerate(self.regions)
        )
        bound, manifest = self.budget.bound, read_manifest(final.path)
        shares = operation_shares(manifest.nodes, input_sizes(manifest, self.chosen_on[0]))
        return AutoReport(
            metric=self.budget.metric,
            bound=bound if math.isfinite(bound) else None,
            atol=self.budget.atol,
            drop=final.loss.drop,
            worst=final.loss.worst,
            error=final.loss.error,
            chosen_on=len(self.chosen_on),
            judged_on=len(self.held),
            evaluations=len(search.points) + self.judged,
            seconds={**self.seconds, "auto": min(self.calls.values())},
            below_fp32=1.0 - shares.get("fp32", 0.0),
            regions=regions,
            turned_back=self._turned_back(search),
            front=tuple(
                FrontPoint(
                    _label(point.levels),
                    point.seconds,
                    point.loss.drop,
                    point.levels == final.levels,
                )
                for point in search.front(final.levels, final.loss)
            ),
        )

    def _turned_back(self, search: Search) -> tuple[str, ...]:
        lines = list(self.unfit)
        lines += [f"{self.regions[t.region].name}: {_slower(t)}" for t in search.turned_back]
        for build, seconds in self.slower:
            lines.append(
                f"the whole model: {_label(build.levels)} takes {seconds * 1e3:.4g} ms, what was "
                f"built {min(self.calls.values()) * 1e3:.4g} ms"
            )
        return tuple(lines)


def _spread(data: Iterable[Sample], most: int) -> list[Sample]:
    """Some of the samples, from all over the data, however many there are."""
    found: list[Sample] = []
    stride = 1
    for index, sample in enumerate(data):
        if index % stride == 0:
            found.append(sample)
        if len(found) == 2 * most:
            found, stride = found[::2], 2 * stride
    return [found[i * len(found) // most] for i in range(most)] if len(found) > most else found


def _slower(item: TurnedBack) -> str:
    return (
        f"{item.precision} takes {item.seconds * 1e6:.0f} us, {item.higher} "
        f"{item.higher_seconds * 1e6:.0f} us"
    )


def _why(search: Search, region: int, precision: str) -> str:
    """Why a region has no lower precision than the one it has."""
    lower = [t for t in search.turned_back if t.region == region]
    passed = {t.precision for t in lower}
    offered = [p for p in ORDER if p in search.times]
    for candidate in offered[offered.index(precision) + 1 :]:
        if candidate not in passed:
            added = search.sensitivity.get(region)
            cost = "" if added is None else f": {candidate} adds {added:.3g} to the drop"
            return f"the budget leaves it in {precision}{cost}"
    return "; ".join(_slower(t) for t in lower if ORDER.index(t.precision) > ORDER.index(precision))


def _label(levels: Sequence[str]) -> str:
    counts = Counter(levels)
    return ", ".join(f"{counts[p]} x {p}" for p in ORDER if counts[p])


def _short(levels: Levels) -> str:
    """The precision of a build that has one, or ``auto``."""
    return levels[0] if len(set(levels)) == 1 else "auto"


def _lines(found: AutoReport) -> list[str]:
    """What the report says of it in words."""
    return [
        f"{found.metric} drops by {found.drop:.3g} on {found.judged_on} samples that nothing was "
        f"chosen with (worst {found.worst:.3g}), after {found.evaluations} evaluations; "
        f"{found.below_fp32:.1%} of the operations of products are below fp32",
    ]
