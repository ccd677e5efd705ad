"""Where the time of a compiled model goes, by the nodes of the user's own model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from burnish.artifact import Manifest, NodeInfo
from burnish.bench.roofline import Roofline
from burnish.bench.runners import Feeds
from burnish.errors import UsageError
from burnish.ir.dims import evaluate, parse_dim
from burnish.runtime import CompiledModel, KernelCall


@dataclass(frozen=True)
class Step:
    """One kernel call.

    Attributes:
        kernel: The kernel's function, as in the manifest.
        start_us: Microseconds from the begin of the run to the call, in the fastest run.
        seconds: Shortest time over all runs.
        node: What the manifest says of it; None for what the runtime calls besides kernels.
        flops: Operations, multiply-adds as two; None where a size is known to the run only.
        nbytes: Bytes read and written, each operand once; None likewise.
        limit: Least time on this machine, in seconds; None where it is not known.
    """

    kernel: str
    start_us: float
    seconds: float
    node: NodeInfo | None
    flops: int | None
    nbytes: int | None
    limit: float | None

    @property
    def share_of_limit(self) -> float | None:
        """How near the call comes to what the machine can do: 1 is all of it."""
        return self.limit / self.seconds if self.limit and self.seconds else None

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        node = self.node
        return {
            "kernel": self.kernel,
            "op": node.op if node else "",
            "precision": node.precision if node else "",
            "detail": node.detail if node else "",
            "nodes": list(node.nodes) if node else [],
            "us": self.seconds * 1e6,
            "gflops": _rate(self.flops, self.seconds),
            "gbytes": _rate(self.nbytes, self.seconds),
            "share_of_limit": self.share_of_limit,
        }


@dataclass(frozen=True)
class Profile:
    """The calls of a run.

    Attributes:
        model: The model's name.
        threads: Threads of a call.
        runs: Runs that were profiled.
        steps: The calls in the order of execution.
        roofline: What the machine can do at most; None on a device that was not measured.
    """

    model: str
    threads: int
    runs: int
    steps: tuple[Step, ...]
    roofline: Roofline | None

    @property
    def seconds(self) -> float:
        """Time in kernels: the sum of the shortest times."""
        return sum(step.seconds for step in self.steps)

    def to_dict(self) -> dict[str, Any]:
        """As plain JSON values."""
        return {
            "schema_version": 1,
            "model": self.model,
            "threads": self.threads,
            "runs": self.runs,
            "us": self.seconds * 1e6,
            "roofline": self.roofline.to_dict() if self.roofline else None,
            "calls": [step.to_dict() for step in self.steps],
        }

    def to_trace(self) -> dict[str, Any]:
        """The fastest run in the Chrome Trace Event format, for chrome://tracing and Perfetto."""
        return {
            "displayTimeUnit": "ns",
            "traceEvents": [
                {
                    "name": step.node.op if step.node else step.kernel,
                    "cat": "kernel",
                    "ph": "X",
                    "ts": step.start_us,
                    "dur": step.seconds * 1e6,
                    "pid": 0,
                    "tid": 0,
                    "args": step.to_dict(),
                }
                for step in self.steps
            ],
        }


def profile(
    compiled: CompiledModel, feeds: Feeds, *, runs: int = 20, roofline: Roofline | None = None
) -> Profile:
    """Time every kernel of a model.

    Args:
        compiled: The model.
        feeds: Inputs by name.
        runs: Runs of which the shortest time of each call counts; two more go before.
        roofline: What the machine can do at most with the model's threads.

    Raises:
        UsageError: ``runs`` is not positive.
        InvalidInputError: The inputs are not the model's.
        RunError: The model failed.
    """
    if runs < 1:
        raise UsageError(f"at least one run has to be profiled, not {runs}")
    for _ in range(2):
        compiled.profile(feeds)
    taken = [compiled.profile(feeds) for _ in range(runs)]
    # With the same inputs the calls are the same, unless the model draws random numbers.
    names = [call.name for call in taken[0]]
    taken = [calls for calls in taken if [call.name for call in calls] == names]
    fastest = min(taken, key=lambda calls: sum(call.duration_us for call in calls))
    seconds = [min(calls[i].duration_us for calls in taken) / 1e6 for i in range(len(names))]
    manifest = compiled.manifest
    sizes = input_sizes(manifest, feeds)
    steps = [
        _step(call, time, node, sizes, roofline)
        for call, time, node in zip(
            fastest, seconds, match_nodes(names, manifest.nodes), strict=True
        )
    ]
    return Profile(manifest.model_name, compiled.threads, runs, tuple(steps), roofline)


def match_nodes(kernels: Sequence[str], nodes: Sequence[NodeInfo]) -> list[NodeInfo | None]:
    """The node of each kernel call.

    Nodes are in the order of execution but for branches that were not taken and bodies that ran
    several times: each call is the next node, counted round, that has its kernel.
    """
    found: list[NodeInfo | None] = []
    at = 0
    for kernel in kernels:
        match = next(
            (i for i in (*range(at, len(nodes)), *range(at)) if nodes[i].kernel == kernel), None
        )
        found.append(None if match is None else nodes[match])
        at = at if match is None else match + 1
    return found


def _step(
    call: KernelCall,
    seconds: float,
    node: NodeInfo | None,
    sizes: Mapping[str, int],
    roofline: Roofline | None,
) -> Step:
    flops = amount(node.flops, sizes) if node else None
    nbytes = amount(node.nbytes, sizes) if node else None
    limit = None
    if roofline is not None and node is not None and flops is not None and nbytes is not None:
        limit = roofline.seconds(flops, nbytes, node.precision)
    return Step(call.name, call.start_us, seconds, node, flops, nbytes, limit)


def input_sizes(manifest: Manifest, feeds: Feeds) -> dict[str, int]:
    """Sizes of the symbolic dims that the inputs give."""
    return {
        dim: size
        for info in manifest.inputs
        for dim, size in zip(info.shape, np.shape(feeds[info.name]), strict=True)
        if isinstance(dim, str)
    }


def amount(text: str, sizes: Mapping[str, int]) -> int | None:
    """Operations or bytes as a manifest has them; None if a size is known while it runs only."""
    try:
        return evaluate(parse_dim(text), sizes)
    except (KeyError, ValueError):
        return None


def _rate(amount: int | None, seconds: float) -> float | None:
    return amount / seconds / 1e9 if amount and seconds else None
