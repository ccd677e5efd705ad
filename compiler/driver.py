"""The whole way of a model, from file to artifact. Runs inside the compile worker.

Nothing here is called by the process that the user started: an abort inside LLVM or TVM must not
end it. See :mod:`burnish.worker`.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import time
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish import __version__
from burnish.errors import InvalidInputError
from burnish.options import STORAGES, CompileOptions, spell_input_shapes
from burnish.precision.assignment import Assignment
from burnish.requests import CompileReport, CompileRequest, Progress
from burnish.worker import report, without_torch

if TYPE_CHECKING:
    from burnish.artifact import Manifest
    from burnish.backends.base import Target
    from burnish.cache import KernelCache
    from burnish.check import ComparisonReport, Numerics
    from burnish.ir import Graph
    from burnish.lowering.module import ModuleLowering
    from burnish.passes.base import PassContext
    from burnish.passes.manager import PassRecord
    from burnish.passes.precision import Measure
    from burnish.precision.build import Lowered
    from burnish.runtime import CompiledModel
    from burnish.tuning import TuningReport


@dataclass
class _Clock:
    """Wall time by phase, and progress."""

    progress: Progress
    seconds: dict[str, float] = field(default_factory=dict)
    phase: str = ""
    since: float = 0.0

    def start(self, phase: str, total: int = 1) -> None:
        self.stop()
        self.phase, self.since = phase, time.perf_counter()
        self.progress(phase, 0, total)

    def stop(self) -> None:
        if self.phase:
            took = time.perf_counter() - self.since
            self.seconds[self.phase] = round(self.seconds.get(self.phase, 0.0) + took, 4)
            self.phase = ""


def compile_artifact(request: CompileRequest) -> CompileReport:
    """Compile a model into an artifact; progress goes to :func:`burnish.worker.report`.

    Raises:
        BurnishError: Whatever went wrong; nothing is left at the output.
    """
    from burnish.artifact import ArtifactWriter
    from burnish.attestation import check_strict, emulation, summary
    from burnish.backends.registry import resolve_target
    from burnish.backends.toolchain import kernel_cache
    from burnish.importers.files import data_files
    from burnish.passes.base import PassContext

    options = request.options
    target = resolve_target(options.target, options.precision)
    clock = _Clock(report)
    with ArtifactWriter(request.output, overwrite=request.overwrite) as writer:
        context = PassContext()
        graph, order, records, notes, lowered = _optimized(request, target, clock, context)
        cache = kernel_cache(options.cache_dir, target)
        lowering, executable, tuning = _build(request, graph, target, clock, notes, cache)
        clock.start("link")
        _write_code(executable, lowering, writer, target)
        manifest = _manifest(request, target, graph, records, lowering, order, context.kept)
        if options.precision != "fp32":
            notes += [summary(manifest.nodes), *emulation(target, options.precision)]
        if options.strict:
            how = options.quantization
            weights = (how.weights_only or "") if how is not None else ""
            for precision, others in lowered.assignment.asked(lowered.excluded):
                check_strict(manifest.nodes, precision, others, weights)
        nodes, kernels = histogram(graph), sum(lowering.kernels.counts.values())
        weight_bytes = sum(w.nbytes for w in lowering.weights)
        # The reference loads the whole model once more: what it came from has to go before.
        del graph, lowering, executable
        gc.collect()
        comparison = None
        if options.check:
            clock.start("check")
            manifest, comparison = _checked(request, manifest, writer, notes, lowered)
        clock.start("write")
        writer.finish(manifest)
        clock.stop()
    return CompileReport(
        output=request.output,
        target=target.spec,
        seconds=clock.seconds,
        passes=tuple(records),
        notes=tuple(dict.fromkeys(notes)),
        nodes=nodes,
        kernels=kernels,
        weight_bytes=weight_bytes,
        peak_memory_bytes=peak_memory(),
        comparison=comparison,
        kept=context.kept,
        data_files=tuple(data_files(request.model)),
        **(cache.counts() if cache is not None else {}),
        tuning=tuning.to_dict() if tuning is not None else None,
    )


def _optimized(
    request: CompileRequest, target: Target, clock: _Clock, context: PassContext
) -> tuple[Graph, dict[str, int], list[PassRecord], list[str], Lowered]:
    """The graph that is built, the order of the model's nodes, what the passes did, and notes."""
    from burnish.backends.registry import check_library
    from burnish.export import to_model
    from burnish.precision.build import Lowered, lower_products
    from burnish.precision.judge import judge_elsewhere
    from burnish.precision.ranges import MeasuredRanges

    options, assignment = request.options, request.precisions
    clock.start("import")
    graph, notes = import_model(request.model, options)
    order = original_order(graph)
    if options.precision in STORAGES and options.quantization is not None:
        assignment = assignment.excluding(graph, options.quantization.selection)
    lowered, source = Lowered(excluded=assignment.held("int8")), request.model
    if assignment.has("int8") or assignment.has("int4"):
        clock.start("quantize")
        lowered = lower_products(
            graph,
            reference_model(source),
            options,
            assignment,
            context,
            measured=request.measured,
            progress=clock.progress,
        )
        if options.verify_passes:
            # What the passes are held to is the quantized model, which is no secret of theirs.
            source = to_model(graph).SerializeToString()
    lowered.assignment, ranges = assignment, None
    if assignment.storage != "fp32" and request.measured is None:
        ranges = MeasuredRanges.of(graph, reference_model(request.model), options, clock.progress)
    clock.start("optimize")
    records = lowered.records + optimize(
        graph,
        options,
        request.name,
        source,
        target=target,
        assignment=assignment,
        measure=ranges,
        progress=clock.progress,
        context=context,
    )
    if ranges is not None and not lowered.samples:
        lowered.samples, lowered.note = ranges.samples.for_judgement()
    if options.check and options.precision in STORAGES[1:]:
        judge_elsewhere(graph, reference_model(request.model), target.info, options, lowered, notes)
    notes += [note for record in records for note in record.notes]
    notes += check_library(target, options.library)
    return graph, order, records, notes, lowered


def peak_memory() -> int:
    """The most memory that this process has held since it was started, in bytes."""
    # getrusage would tell the peak of the process that forked this one, if that was higher.
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return 0


def import_model(model: str | bytes, options: CompileOptions) -> tuple[Graph, list[str]]:
    """Read a model into the IR; returns the graph and the importer's notes.

    Raises:
        UnsupportedOpError: Lists the operators that nothing is known of.
    """
    graph = read_graph(model, options)
    _refuse_unknown(graph)
    return graph, list(graph.notes)


def read_graph(model: str | bytes, options: CompileOptions) -> Graph:
    """Read a model into the IR, operators that nothing is known of included."""
    from burnish.importers.onnx_model import load

    if isinstance(model, bytes):
        import onnx

        source: Any = onnx.load_from_string(model)
    else:
        source = model
    return load(source, input_shapes=dict(options.input_shapes) or None)


def _refuse_unknown(graph: Graph) -> None:
    """Refuse operators that nothing is known of: no pass can work on values without types.

    Raises:
        UnsupportedOpError: Lists all of them.
    """
    from burnish.importers.untyped import untyped_operators

    found = untyped_operators(graph)
    if found:
        # It imports TVM, for which nobody has to wait who only rewrites a model.
        from burnish.lowering.registry import unsupported_error

        raise unsupported_error(found)


def optimize(
    graph: Graph,
    options: CompileOptions,
    model: str = "model.onnx",
    source: str | bytes | None = None,
    *,
    target: Target | None = None,
    assignment: Assignment | None = None,
    measure: Measure | None = None,
    only: tuple[str, ...] = (),
    progress: Progress = lambda *_: None,
    context: PassContext | None = None,
) -> list[PassRecord]:
    """Run the pass pipeline of an optimization level on a graph.

    Args:
        graph: Changed in place.
        options: Level, passes to skip, checks and dumps.
        model: What the model is called in messages.
        source: The unmodified model; ``verify_passes`` compares with it.
        target: What the graph is built for; None for a graph that stays ONNX.
        assignment: Precisions; None for those of the options.
        measure: Measures what 16 bits would have to hold.
        only: Names of the passes that run; empty for all.
        progress: Told of every pass.
        context: What the passes share.

    Raises:
        PassError: A pass failed, or changes the results.
    """
    from burnish.passes.manager import PassManager
    from burnish.passes.pipelines import pipeline

    precisions = assignment or Assignment.constant(options.precision)
    check = None
    if options.verify_passes and source is not None:
        from burnish.check.stages import StageCheck

        check = StageCheck(reference_model(source), graph)
    manager = PassManager(
        pipeline(
            options.opt_level,
            max_fold_growth=options.max_fold_growth,
            precision=precisions.storage,
            high=precisions.high,
            measure=measure,
            explicit=target is None,
            integers=target is not None and target.integers,
            weight_only=target is None or target.weight_only,
            short_products=target is not None and target.multiplies(precisions.storage),
        ),
        skip=options.skip_passes,
        only=only,
        verify_ir=options.verify_ir,
        dump_dir=Path(options.dump_ir) if options.dump_ir else None,
        model=model,
        arguments=[f"-O{options.opt_level}", *spell_input_shapes(options.input_shapes)],
        on_pass=lambda record: progress(f"optimize: {record.name}", 0, 1),
        check_results=check,
    )
    return manager.run(graph, context)


def _build(
    request: CompileRequest,
    graph: Graph,
    target: Target,
    clock: _Clock,
    notes: list[str],
    cache: KernelCache | None,
) -> tuple[ModuleLowering, Any, TuningReport | None]:
    # Importing TVM takes half a second; it is a phase of its own.
    clock.start("load compiler")
    with without_torch():
        from burnish.backends.pipeline import build_executable, lower_relax
        from burnish.lowering.module import ModuleLowering
        from burnish.lowering.prepare import prepare
        from burnish.tuning import Tuned, conclude, select

    options, progress = request.options, clock.progress
    clock.start("tune" if options.tune else "lower")
    notes += prepare(graph, target)
    selection = select(
        options,
        lambda: Tuned(
            graph,
            target,
            reference_model(request.model),
            cache,
            lambda share: progress("tune", round(share * 1000), 1000),
        ),
    )
    clock.start("lower")
    lowering = ModuleLowering(graph, target, selection.chooser)
    mod = lowering.run(lambda done, total: progress("lower", done, total))
    notes += conclude(selection, options)
    notes += target.backend.remarks(lowering.calls)
    if options.library in lowering.externals:
        notes += lowering.externals[options.library].notes()
    mod = lower_relax(mod, target)
    clock.start("generate code")
    executable = build_executable(mod, target, lambda i, n: progress("generate code", i, n), cache)
    notes += cache.store.notes if cache is not None else ()
    return lowering, executable, selection.report


def _write_code(executable: Any, lowering: ModuleLowering, writer: Any, target: Target) -> None:
    from burnish.artifact import Weight, link_module

    link_module(executable, writer.library_path, linker=target.linker)
    writer.write_weights([Weight(w.name, w.dtype, w.shape, w.data) for w in lowering.weights])


def histogram(graph: Graph) -> dict[str, int]:
    """Nodes by operator, most frequent first."""
    counts: dict[str, int] = {}
    for node in graph.walk():
        counts[node.key] = counts.get(node.key, 0) + 1
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def original_order(graph: Graph) -> dict[str, int]:
    """Position of every node of the model, by name."""
    order: dict[str, int] = {}
    for node in graph.walk():
        for name in node.location.names:
            order.setdefault(name, len(order))
    return order


def _manifest(
    request: CompileRequest,
    target: Target,
    graph: Graph,
    records: list[PassRecord],
    lowering: ModuleLowering,
    order: dict[str, int],
    kept: dict[str, str],
) -> Manifest:
    from burnish.artifact import Condition, Manifest, PassInfo, TensorInfo
    from burnish.attestation import node_infos

    def tensors(values: Any) -> tuple[TensorInfo, ...]:
        return tuple(
            TensorInfo(v.name, v.dtype, tuple(d if isinstance(d, int) else str(d) for d in v.shape))
            for v in values
        )

    return Manifest(
        model_name=graph.name,
        model_sha256=model_digest(request.model),
        target=target.info,
        inputs=tensors(graph.inputs),
        outputs=tensors(graph.outputs),
        weights=tuple(TensorInfo(w.name, w.dtype, w.shape) for w in lowering.weights),
        nodes=node_infos(lowering.calls, target, request.options.precision, kept, order),
        libraries=lowering.libraries,
        passes=tuple(PassInfo(r.name, r.nodes_before, r.nodes_after) for r in records if r.changed),
        options=_spelled(request.options),
        tools={"burnish": __version__}
        | {name: version(name) for name in ("apache-tvm", "onnx", "numpy")},
        symbols=dict(graph.dim_bounds),
        conditions=tuple(Condition(c.kind, str(c.a), str(c.b), c.node) for c in graph.conditions),
    )


def _spelled(options: CompileOptions) -> dict[str, str]:
    """Options as the manifest has them."""
    spelled = {k: str(v) for k, v in options.to_dict().items() if k not in TRANSIENT}
    if options.calibration_data is not None:
        spelled["calibration_sha256"] = calibration_digest(options)
    return spelled


def calibration_digest(options: CompileOptions) -> str:
    """SHA-256 of calibration data that are files; empty if there are none."""
    if options.calibration_data is None:
        return ""
    from burnish.precision.spool import files_digest

    return files_digest(options.calibration_data)


#: Options that do not change what is built, and where calibration data lie.
TRANSIENT = frozenset(
    {"dump_ir", "verify_ir", "check", "verify_passes", "cache_dir", "strict", "calibration_data"}
    | {"tune", "tune_seconds", "tune_shapes", "error_on_cache_miss"}
)


def model_digest(model: str | bytes) -> str:
    """SHA-256 of the model file, its external data included."""
    from burnish.importers.files import data_files

    digest = hashlib.sha256()
    if isinstance(model, bytes):
        digest.update(model)
        return digest.hexdigest()
    for path in (Path(model), *(Path(model).parent / name for name in data_files(model))):
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _checked(
    request: CompileRequest, manifest: Manifest, writer: Any, notes: list[str], lowered: Lowered
) -> tuple[Manifest, dict[str, Any] | None]:
    """Run the finished code and compare it with the reference before the artifact gets its name."""
    from burnish.artifact import OutputCheck, Verification, unfit
    from burnish.check import compare
    from burnish.precision.advice import advice
    from burnish.runtime import load, missing_device

    elsewhere = unfit(manifest.target) or missing_device(manifest.target)
    if elsewhere:
        notes.append(f"not compared with onnxruntime: {elsewhere}")
        return manifest, None
    numerics: Numerics | None = "quantized" if lowered.quantized else None
    with load(writer.preview(manifest), threads=request.options.threads) as model:
        comparison: ComparisonReport | None
        refusal = ""
        if lowered.samples:
            notes.append(lowered.note)
            reference = reference_model(request.model)
            comparison = compare(model, reference, lowered.samples, numerics=numerics)
        elif request.reference is not None:
            comparison = compare(model, request.reference, numerics=numerics)
        else:
            comparison, refusal = _compare_any(request, manifest, model, numerics)
    if comparison is None:
        # Sizes that a model insists on, but does not declare, cannot be guessed.
        notes.append(f"not compared: {refusal}; use burnish compare --inputs")
        return manifest, None
    outputs = tuple(
        OutputCheck(o.name, o.max_abs, o.max_rel, o.bounds, o.passed) for o in comparison.outputs
    )
    comparison.raise_if_failed(advice(request.options, quantized=lowered.quantized))
    verification = Verification(comparison.reference, True, outputs)
    return replace(manifest, verification=verification), comparison.to_dict()


def _compare_any(
    request: CompileRequest,
    manifest: Manifest,
    model: CompiledModel,
    numerics: Numerics | None,
) -> tuple[ComparisonReport | None, str]:
    """Compare on the first inputs that the model accepts; None and the reason if there are none."""
    from burnish.check import compare
    from burnish.check.stages import candidates

    source, refusal = reference_model(request.model), ""
    for inputs in candidates(source, model.get_inputs(), manifest.symbols):
        try:
            return compare(model, source, inputs, numerics=numerics), ""
        except InvalidInputError as error:
            refusal = error.message
    return None, refusal


def reference_model(model: str | bytes) -> Any:
    """The unmodified model, for comparisons."""
    if isinstance(model, str):
        return model
    import onnx

    return onnx.load_from_string(model)
