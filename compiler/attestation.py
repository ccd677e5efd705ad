"""What the manifest attests of every operation: where it runs, and in which precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from burnish.artifact import NodeInfo

if TYPE_CHECKING:
    from burnish.backends.base import Target
    from burnish.lowering.context import KernelCall

#: Precisions by element type; other types (integers) are called by their own names.
PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}

_FLOATS = frozenset(PRECISIONS.values())

#: Why a node is in fp32 that no pass kept there on purpose.
_AT_BORDER = "what reads its result takes fp32"


def node_infos(
    calls: Sequence[KernelCall],
    target: Target,
    precision: str,
    kept: Mapping[str, str],
    order: Mapping[str, int],
) -> tuple[NodeInfo, ...]:
    """One entry for every kernel call, in the order of execution.

    Args:
        calls: The kernel calls.
        target: What was built for; it says what 16-bit tensors are computed in.
        precision: What the user asked for.
        kept: Why nodes stay in fp32, by original name.
        order: Position of every node of the model, by name.
    """
    return tuple(_info(call, target, precision, kept, order) for call in calls)


def summary(infos: Sequence[NodeInfo]) -> str:
    """How many kernels lie and compute in which precision, in one line."""
    pairs = Counter((i.storage, i.precision) for i in infos if i.kernel and i.storage in _FLOATS)
    parts = [
        f"{count} in {storage}" + (f" (computed in {precision})" if precision != storage else "")
        for (storage, precision), count in pairs.most_common()
    ]
    return f"kernels store their results: {', '.join(parts)}"


def _info(
    call: KernelCall,
    target: Target,
    precision: str,
    kept: Mapping[str, str],
    order: Mapping[str, int],
) -> NodeInfo:
    nodes = tuple(sorted(call.names, key=lambda name: order.get(name, len(order))))
    storage = PRECISIONS.get(call.dtype, call.dtype)
    computes = call.computes or call.dtype
    # What only moves elements computes nothing, and so is no wider than what it moves.
    wider = target.computes.get(computes) if call.computes else None
    reason = ""
    if precision != "fp32" and storage == "fp32":
        reason = next((kept[name] for name in nodes if name in kept), _AT_BORDER)
    return NodeInfo(
        name=call.outputs[0] if call.outputs else call.kernel,
        op=call.node,
        precision=wider or PRECISIONS.get(computes, computes),
        placement=target.device,
        kernel=call.kernel,
        nodes=nodes,
        storage=storage,
        reason=reason,
        detail=call.detail,
        tactic=call.tactic,
        why=call.why,
        flops=str(call.flops),
        nbytes=str(call.nbytes),
    )
