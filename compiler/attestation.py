"""What the manifest attests of every operation: where it runs, and in which precision."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from burnish.artifact import NodeInfo
from burnish.bench.profile import amount
from burnish.errors import PrecisionError, first_few
from burnish.lowering.precision import is_product
from burnish.options import INTEGERS

if TYPE_CHECKING:
    from burnish.backends.base import Target
    from burnish.lowering.context import KernelCall

#: Precisions by element type; other types (integers) are called by their own names.
PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16", "float64": "fp64"}

#: Products that an error names at most.
_LISTED = 20

#: Storage of activations; other types are sizes, indices and conditions.
_COUNTED = frozenset({*PRECISIONS.values(), "int8", "uint8"})

#: Why a node is in fp32 that no pass kept there on purpose.
_AT_BORDER = "what reads its result takes fp32"
#: The same where products alone have lower precisions.
_NO_PRODUCT = "only products have 8 bits, and what moves their operands"
_NO_KERNEL = "no integer kernel takes it"


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


def emulation(target: Target, precision: str) -> list[str]:
    """A line where the target lacks instructions for a precision that others have."""
    wider = target.computes.get("bfloat16") if precision == "bf16" else None
    if wider is None:
        return []
    line = f"{target.spec} does not multiply bf16: tensors are stored in bf16, computed in {wider}"
    return [line]


def summary(infos: Sequence[NodeInfo]) -> str:
    """How many kernels lie and compute in which precision, in one line."""
    pairs = Counter((i.storage, i.precision) for i in infos if i.kernel and i.storage in _COUNTED)
    parts = [
        f"{count} in {storage}" + (f" (computed in {precision})" if precision != storage else "")
        for (storage, precision), count in pairs.most_common()
    ]
    line = f"kernels store their results: {', '.join(parts)}"
    for kind, count in Counter(i.weights for i in infos if i.weights).most_common():
        line += f"; {count} read weights in {kind}"
    return line


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
    computed = wider or PRECISIONS.get(computes, computes)
    reason = ""
    if storage == "fp32" and computed != "int8":
        reason = _reason(call, nodes, precision, kept)
    return NodeInfo(
        name=call.outputs[0] if call.outputs else call.kernel,
        op=call.node,
        precision=computed,
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
        weights=call.weights,
    )


def _reason(call: KernelCall, nodes: Sequence[str], precision: str, kept: Mapping[str, str]) -> str:
    """Why an operation is in fp32."""
    if found := next((kept[name] for name in nodes if name in kept), ""):
        return found
    if precision == "fp32":
        return ""
    if precision not in INTEGERS:
        return _AT_BORDER
    if call.weights:
        return f"its weights alone are in {call.weights}"
    return _NO_KERNEL if is_product(call.node) else _NO_PRODUCT


def unmet(
    infos: Sequence[NodeInfo], precision: str, excluded: Mapping[str, str], weights: str = ""
) -> list[NodeInfo]:
    """Products that are in a higher precision than what was asked for.

    Args:
        infos: What is attested.
        precision: What was asked for; ``auto`` asks for 8 bits where it does not exclude a product.
        excluded: Products that were not asked for, by original name.
        weights: What weights alone were asked to be stored in; empty if not they alone.
    """
    return [
        info
        for info in infos
        if is_product(info.op)
        and not _reached(info, precision, weights)
        and not any(name in excluded for name in info.nodes)
    ]


def _reached(info: NodeInfo, precision: str, weights: str) -> bool:
    if precision in INTEGERS:
        # Four bits are never but for weights alone.
        return info.precision == "int8" or (
            info.weights != "" and info.weights in (weights, "int4")
        )
    # 16 bits may be for storage only, which is what the target has to offer then.
    return precision in (info.storage, info.precision)


def check_strict(
    infos: Sequence[NodeInfo], precision: str, excluded: Mapping[str, str], weights: str = ""
) -> None:
    """Refuse what does not have the precision that was asked for; see :func:`unmet`.

    Raises:
        PrecisionError: Names the products, and why.
    """
    found = unmet(infos, precision, excluded, weights)
    if not found:
        return
    lines = [f"{'+'.join(i.nodes) or i.name} ({i.op}, {i.precision}: {i.reason})" for i in found]
    products = sum(is_product(info.op) for info in infos)
    raise PrecisionError(
        f"{len(found)} of {products} products are not in {weights or precision}, "
        "as --strict demands",
        at="; ".join(lines) if len(lines) <= _LISTED else first_few(lines, _LISTED),
        hint="exclude them with --nodes-to-exclude, or leave --strict out",
    )


def operation_shares(
    infos: Sequence[NodeInfo], sizes: Mapping[str, int] = MappingProxyType({})
) -> dict[str, float]:
    """Shares of the operations of convolutions and matrix products, by precision.

    Args:
        infos: What is attested.
        sizes: Sizes of symbolic dims; products that depend on others count as the mean of those
            that do not.
    """
    counts = [(info, amount(info.flops, sizes)) for info in infos if is_product(info.op)]
    known = [count for _, count in counts if count]
    typical = sum(known) / len(known) if known else 1.0
    weights: dict[str, float] = {}
    for info, count in counts:
        weights[info.precision] = weights.get(info.precision, 0.0) + (count or typical)
    total = sum(weights.values())
    return {precision: share / total for precision, share in weights.items()}
