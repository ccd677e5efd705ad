"""Builds of a model that are made to be measured, in a temporary folder."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from burnish.artifact import ArtifactWriter, Condition, Manifest, TensorInfo, Weight, link_module
from burnish.attestation import node_infos
from burnish.bench.profile import match_nodes
from burnish.errors import InvalidInputError
from burnish.lowering.tactics import Chooser
from burnish.runtime import CompiledModel, load

if TYPE_CHECKING:
    from burnish.artifact import NodeInfo
    from burnish.backends.base import Target
    from burnish.cache import KernelCache
    from burnish.ir import Graph


class LoadedTrial:
    """A build that is loaded, and the inputs that it runs on."""

    def __init__(self, model: CompiledModel, feeds: Mapping[str, Any]) -> None:
        self.model = model
        self.feeds = feeds
        self._matched: tuple[list[str], list[NodeInfo | None]] = [], []

    def profile(self) -> dict[str, float]:
        """Run once; microseconds of all kernels of a node by the reason of its choice."""
        calls = self.model.profile(self.feeds)
        names = [call.name for call in calls]
        if names != self._matched[0]:
            self._matched = names, match_nodes(names, self.model.manifest.nodes)
        times: dict[str, float] = {}
        for call, node in zip(calls, self._matched[1], strict=True):
            if node is not None and node.why.startswith("trial "):
                times[node.why] = times.get(node.why, 0.0) + call.duration_us
        return times

    def run(self) -> float:
        """Run once; seconds."""
        began = time.perf_counter()
        self.model.run(None, self.feeds)
        return time.perf_counter() - began


@dataclass
class TrialBuilder:
    """Builds a graph again and again, with other tactics.

    Attributes:
        graph: The prepared graph.
        target: What it is built for: this machine.
        threads: Threads of a call; None for all.
        inputs: Sets of inputs, of which the first is taken that the model accepts.
        kernels: Keeps the code of kernels from one build to the next.
    """

    graph: Graph
    target: Target
    threads: int | None
    inputs: Sequence[dict[str, Any]]
    kernels: KernelCache
    _feeds: dict[str, Any] = field(default_factory=dict)

    def lower(self, chooser: Chooser) -> Any:
        """Lower the graph with the tactics of a chooser."""
        from burnish.lowering.module import ModuleLowering

        lowering = ModuleLowering(self.graph, self.target, chooser)
        return lowering, lowering.run()

    @contextmanager
    def load(self, lowered: Any) -> Iterator[LoadedTrial]:
        """Generate the code, and load it.

        Raises:
            InputFileError: The disk is full.
            InvalidInputError: The model accepts none of the inputs.
        """
        from burnish.backends.pipeline import build_executable, lower_relax

        lowering, mod = lowered
        executable = build_executable(
            lower_relax(mod, self.target), self.target, cache=self.kernels
        )
        with (
            tempfile.TemporaryDirectory(prefix="burnish-tune-") as folder,
            ArtifactWriter(Path(folder) / "trial.burnish") as writer,
        ):
            link_module(executable, writer.library_path, linker=self.target.linker)
            weights = lowering.weights
            writer.write_weights([Weight(w.name, w.dtype, w.shape, w.data) for w in weights])
            with load(writer.preview(self._manifest(lowering)), threads=self.threads) as model:
                yield LoadedTrial(model, self._accepted(model))

    def _manifest(self, lowering: Any) -> Manifest:
        def tensors(values: Any) -> tuple[TensorInfo, ...]:
            dims = [tuple(d if isinstance(d, int) else str(d) for d in v.shape) for v in values]
            return tuple(
                TensorInfo(v.name, v.dtype, shape) for v, shape in zip(values, dims, strict=True)
            )

        return Manifest(
            model_name=self.graph.name,
            model_sha256="",
            target=self.target.info,
            inputs=tensors(self.graph.inputs),
            outputs=tensors(self.graph.outputs),
            weights=tensors(lowering.weights),
            nodes=node_infos(lowering.calls, self.target, "fp32", {}, {}),
            libraries=lowering.libraries,
            symbols=dict(self.graph.dim_bounds),
            conditions=tuple(
                Condition(c.kind, str(c.a), str(c.b), c.node) for c in self.graph.conditions
            ),
        )

    def _accepted(self, model: CompiledModel) -> dict[str, Any]:
        """Inputs that the model runs on: the same for every build."""
        refusal: InvalidInputError | None = None
        if not self._feeds:
            for feeds in self.inputs:
                try:
                    model.run(None, feeds)
                except InvalidInputError as error:
                    refusal = error
                    continue
                self._feeds = feeds
                break
            else:
                assert refusal is not None
                raise InvalidInputError(
                    f"the model accepts none of the inputs drawn to tune it: {refusal.message}",
                    at=refusal.at,
                    hint="name shapes that it accepts, of all inputs that depend on each other: "
                    "--tune-shapes NAME:1x128",
                )
        return self._feeds
