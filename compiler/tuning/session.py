"""How a compilation chooses tactics: by the cost table, by a timing cache, or by tuning first."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.cache.store import TIMING_NAME
from burnish.check.inputs import draw_inputs
from burnish.check.stages import Declared, candidates
from burnish.errors import CompileError
from burnish.lowering.tactics import CostTable
from burnish.options import CompileOptions
from burnish.runtime.library import default_threads
from burnish.runtime.runner import default_cache
from burnish.tuning.choosers import Measured
from burnish.tuning.ledger import Ledger
from burnish.tuning.result import TuningReport, problems_of
from burnish.tuning.timings import TimingCache, environment
from burnish.tuning.trial import TrialBuilder
from burnish.tuning.tuner import Tuner

if TYPE_CHECKING:
    from burnish.backends.base import Target
    from burnish.cache import KernelCache
    from burnish.check.reference import Model
    from burnish.ir import Graph

#: Sizes to measure with of symbolic dims that are neither in front nor of a picture, in turn.
_SIZES = (128, 16, 512)
#: Problems that an error lists.
_LISTED = 8


@dataclass
class Selection:
    """The chooser of a compilation, and what to say of it.

    Attributes:
        chooser: Takes the tactics.
        report: What the tuning found, if there was one.
        notes: Lines for the user.
        others: What else the timing cache has entries for: other machines, threads or versions.
    """

    chooser: CostTable | Measured
    report: TuningReport | None = None
    notes: list[str] = field(default_factory=list)
    others: tuple[str, ...] = ()


@dataclass
class Tuned:
    """What :func:`select` tunes.

    Attributes:
        graph: The prepared graph.
        target: What it is built for: this machine.
        model: The unmodified model; inputs are drawn for it.
        kernels: The compilation's cache of kernels; None for one that lasts as long as the tuning.
        progress: Gets the share that is done, from 0 to 1.
    """

    graph: Graph
    target: Target
    model: Model
    kernels: KernelCache | None
    progress: Callable[[float], None]


def timing_path(options: CompileOptions) -> Path | None:
    """The file of measured times that a compilation reads, and writes if it tunes."""
    if options.cache_dir is not None:
        return Path(options.cache_dir) / TIMING_NAME
    return default_cache() / TIMING_NAME if options.tune else None


def select(options: CompileOptions, make: Callable[[], Tuned]) -> Selection:
    """The chooser that the options ask for; tunes first if they do.

    Args:
        options: ``tune``, ``tune_seconds``, ``cache_dir``, ``library`` and ``threads`` count.
        make: Makes what is tuned, if it comes to that.

    Raises:
        InputFileError: The timing cache cannot be read or written, or the disk is full.
        InvalidInputError: The model accepts none of the inputs that were drawn.
    """
    table = CostTable(options.library)
    path = timing_path(options)
    if path is None:
        return Selection(table)
    threads = options.threads or default_threads()
    cache = TimingCache(path, environment(threads))
    notes = []
    if cache.damage:
        notes.append(f"the timing cache is damaged and counts as empty: {cache.damage}: {path}")
    report = _tune(options, cache, table, make()) if options.tune else None
    return Selection(Measured(cache.entries, table), report, notes, cache.others)


def _tune(
    options: CompileOptions, cache: TimingCache, table: CostTable, subject: Tuned
) -> TuningReport:
    cache.check_writable()
    draws = _draws(options, subject)
    ledger = Ledger(table, cache.entries, sizes_of(subject.graph, draws[0]))
    with tempfile.TemporaryDirectory(prefix="burnish-tune-") as folder:
        builder = TrialBuilder(
            subject.graph,
            subject.target,
            options.threads,
            draws,
            subject.kernels or _temporary_kernels(folder, subject.target),
        )
        tuner = Tuner(builder, ledger, options.tune_seconds, subject.progress)
        tuner.run()
    cache.merge(ledger.entries())
    return TuningReport(
        seconds=round(tuner.elapsed, 2),
        budget=options.tune_seconds,
        sizes=ledger.sizes,
        environment=cache.where,
        cache=str(cache.path),
        rounds=tuner.rounds,
        problems=problems_of(ledger.records.values()),
        table_ms=tuner.table_ms,
        tuned_ms=tuner.tuned_ms,
        verdict=tuner.verdict,
        reverted=tuner.reverted,
    )


def _draws(options: CompileOptions, subject: Tuned) -> list[dict[str, Any]]:
    """Inputs to measure with, the first that the model accepts."""
    declared = [
        Declared(v.name, tuple(d if isinstance(d, int) else str(d) for d in v.shape))
        for v in subject.graph.inputs
    ]
    if options.tune_shapes:
        return [draw_inputs(subject.model, shapes=options.tune_shapes, like=declared)]
    return list(candidates(subject.model, declared, subject.graph.dim_bounds, _SIZES))


def sizes_of(graph: Graph, feeds: Mapping[str, Any]) -> str:
    """Shapes of the inputs that have symbolic dims, as ``--tune-shapes`` takes them."""
    symbolic = [v.name for v in graph.inputs if not all(isinstance(d, int) for d in v.shape)]
    return " ".join(f"{name}:{'x'.join(map(str, feeds[name].shape))}" for name in symbolic)


def _temporary_kernels(folder: str, target: Target) -> Any:
    from burnish.backends.toolchain import kernel_cache

    return kernel_cache(folder, target)


def conclude(selection: Selection, options: CompileOptions) -> list[str]:
    """Lines for the user, when every choice was made.

    Raises:
        CompileError: ``error_on_cache_miss``, and a choice among several tactics was not measured;
            the first are listed.
    """
    chooser = selection.chooser
    if isinstance(chooser, CostTable):
        return selection.notes
    total = len(chooser.hits) + len(chooser.misses)
    if chooser.misses and options.error_on_cache_miss:
        raise _miss_error(chooser, selection, options)
    if not total or (options.tune and not chooser.misses):
        return selection.notes
    line = f"tuned: {len(chooser.hits)} of {total} problems from the timing cache"
    if chooser.misses and not options.tune:
        line += "; the cost table chose for the others (--tune measures them)"
    return [*selection.notes, line]


def _miss_error(chooser: Measured, selection: Selection, options: CompileOptions) -> CompileError:
    total = len(chooser.misses) + len(chooser.hits)
    listed = [f"  {key}: {', '.join(names)}" for key, names in chooser.misses.items()]
    unlisted = len(listed) - _LISTED
    lines = [
        f"{len(chooser.misses)} of {total} problems with several tactics are not in the timing "
        "cache:",
        *listed[:_LISTED],
        *([f"  and {unlisted} more"] if unlisted > 0 else []),
        *selection.notes,
        *(f"the timing cache has entries for: {where}" for where in selection.others),
    ]
    folder = f" --cache-dir {options.cache_dir}" if options.cache_dir is not None else ""
    return CompileError(
        "\n".join(lines),
        at=str(timing_path(options)),
        hint=f"burnish compile MODEL --tune{folder} fills it, for "
        f"{environment(options.threads or default_threads())}",
    )
