"""Does a pass change what the model computes? Every stage runs beside the unmodified model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from burnish.check.inputs import draw_inputs
from burnish.check.metrics import compare_output
from burnish.check.reference import Feeds, Model, Reference
from burnish.check.tolerances import Numerics
from burnish.errors import InvalidInputError, ModelError, PassError
from burnish.passes.base import Numerics as PassNumerics

if TYPE_CHECKING:
    from burnish.ir import Graph
    from burnish.passes.base import Pass

#: Sizes tried for symbolic dims when a model refuses the inputs that were drawn for it.
TRIED_SIZES = (16, 128, 512)


@dataclass(frozen=True)
class Declared:
    """What is known of an input: its name, and its shape with symbols by name."""

    name: str
    shape: tuple[int | str | None, ...]


def candidates(
    model: Model,
    declared: Sequence[Any],
    bounds: Mapping[str, tuple[int, int]] | None = None,
    sizes: Sequence[int] = TRIED_SIZES,
) -> Iterator[dict[str, Any]]:
    """Inputs to try in turn, with other sizes of the symbolic dims each time.

    Args:
        model: The unmodified model.
        declared: Name and shape of every input, as far as more is known than the model says.
        bounds: Least and greatest size of symbols in ``declared``.
        sizes: Sizes to try.
    """
    limits = bounds or {}
    symbolic = any(not isinstance(dim, int) for arg in declared for dim in arg.shape)
    for size in sizes if symbolic else sizes[:1]:
        fixed = {s: min(max(size, low), high) for s, (low, high) in limits.items()}
        like = [Declared(a.name, tuple(fixed.get(str(d), d) for d in a.shape)) for a in declared]
        yield draw_inputs(model, like=like, size=size)


class StageCheck:
    """Runs every stage of a graph on onnxruntime, with the inputs that the reference got.

    A pass that keeps every bit must reproduce the stage before it exactly; one that evaluates in
    another order is held to the tolerance of whole models against the unmodified model, since the
    roundings of all passes so far add up. After a pass that narrows tensors that is the tolerance
    of models in 16 bits.

    Args:
        model: The unmodified model: a file or a ModelProto.
        graph: The graph before the first pass.

    Raises:
        InvalidInputError: No inputs could be drawn that the model accepts.
        ModelError: onnxruntime does not load the model.
        PassError: The imported graph computes something else already.
    """

    def __init__(self, model: Model, graph: Graph) -> None:
        declared = [
            Declared(v.name, tuple(d if isinstance(d, int) else str(d) for d in v.shape))
            for v in graph.inputs
        ]
        with Reference(model, threads=1, prepack=False) as reference:
            self._feeds, self._expected = _first_accepted(
                reference, candidates(model, declared, graph.dim_bounds)
            )
        self._before = self._expected
        self._row: Numerics = "model"
        problem, self._before = self._compare(graph, self._expected, "model")
        if problem:
            raise PassError(
                f"the importer changes the results: {problem}",
                hint="this is a bug in burnish; please report it with the model",
            )

    def __call__(self, item: Pass, graph: Graph) -> str:
        """What is wrong with the results of the graph that a pass left; empty if nothing is."""
        if item.numerics is PassNumerics.NARROWS:
            self._row = _stored_row(item)
        if item.numerics is PassNumerics.EXACT:
            problem, found = self._compare(graph, self._before, "exact")
        else:
            problem, found = self._compare(graph, self._expected, self._row)
        self._before = found
        return problem

    def _compare(
        self, graph: Graph, expected: Mapping[str, Any], numerics: Numerics
    ) -> tuple[str, dict[str, Any]]:
        from burnish.export import to_model

        try:
            with Reference(to_model(graph, widened=True), threads=1, prepack=False) as stage:
                found = _run(stage, self._feeds)
        except (ModelError, InvalidInputError) as error:
            return f"the graph does not run on onnxruntime: {error.message}", {}
        lines = []
        for name, wanted in expected.items():
            output = compare_output(name, 0, found.get(name), wanted, None, None, numerics)
            if not output.passed:
                lines.append(f"output {name}: {output.reason}")
        return "; ".join(lines), found


def _stored_row(item: Pass) -> Numerics:
    return "bf16" if getattr(item, "dtype", "") == "bfloat16" else "fp16"


def _run(reference: Reference, feeds: Feeds) -> dict[str, Any]:
    taken = {arg.name for arg in reference.get_inputs()}
    names = [arg.name for arg in reference.get_outputs()]
    values = reference.run(None, {k: v for k, v in feeds.items() if k in taken})
    return dict(zip(names, values, strict=True))


def _first_accepted(
    reference: Reference, candidates: Iterator[dict[str, Any]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    refusal: InvalidInputError | None = None
    for feeds in candidates:
        try:
            return feeds, _run(reference, feeds)
        except InvalidInputError as error:
            refusal = error
    assert refusal is not None
    raise refusal
