"""What every backend reads of composites: post-ops, and the conditions that all kernels have."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from burnish.backends.base import KernelRule, Refused
from burnish.ir import Node, PostOp, Value, parse_postops
from burnish.ir.dims import equal
from burnish.lowering.context import Lowered, NodeContext

Kind = Literal["layer", "rms"]


def postops_of(node: Node) -> tuple[PostOp, ...]:
    """The post-ops of a composite."""
    return parse_postops(node.strs_attr("postops"))


def postops_key(postops: Sequence[PostOp]) -> tuple[str, ...]:
    """Post-ops as part of a kernel's key."""
    return tuple(p.encode() for p in postops)


def refuse_matrix(node: Node) -> Refused | None:
    """Refuse products whose weights are no constant matrix."""
    weights = node.required(1)
    if not weights.is_const or len(weights.shape) != 2:
        return Refused("the weights are not a constant matrix")
    return None


def refuse_batches(node: Node) -> Refused | None:
    """Refuse products of two computed operands in forms that no template has."""
    a, b = node.required(0), node.required(1)
    if node.int_attr("transA"):
        return Refused("the left operand is transposed")
    if len(a.shape) < 2 or len(b.shape) < 2:
        return Refused("an operand is a vector")
    for x, y in zip(a.shape[-3::-1], b.shape[-3::-1], strict=False):
        if not (equal(x, y) or equal(x, 1) or equal(y, 1)):
            return Refused("the batch dimensions may broadcast at run time")
    return None


@dataclass(frozen=True)
class NormForm:
    """A normalization over the last axis.

    Attributes:
        kind: With the mean subtracted, or without.
        skip: Whether a residual is added first (``burnish::AddLayerNorm``).
    """

    kind: Kind
    skip: bool

    @property
    def affine(self) -> int:
        """How many inputs scale and shift: RMSNormalization has a scale only."""
        return 2 if self.kind == "layer" else 1

    @property
    def core(self) -> int:
        """Inputs before the operands of post-ops."""
        return 1 + self.skip + self.affine


def refuse_norm(node: Node, form: NormForm) -> Refused | None:
    """Refuse normalizations over anything but rows of a known width."""
    x = node.required(0)
    width = x.shape[-1] if x.shape else None
    if not isinstance(width, int):
        return Refused("the size of the last axis is not known")
    if not form.skip:
        if node.int_attr("axis", -1) % len(x.shape) != len(x.shape) - 1:
            return Refused("it normalizes over more than the last axis")
        if any(v is not None for v in node.outputs[1:]):
            return Refused("mean or deviation is an output")
    elif not x.t.same_shape(node.required(1).t):
        return Refused("the residual is broadcast")
    if not all(_is_row(node.input(i), width) for i in range(1 + form.skip, form.core)):
        return Refused("scale or bias is not of the size of the last axis")
    return None


def _is_row(value: Value | None, width: object) -> bool:
    return value is None or (len(value.shape) == 1 and value.shape[0] == width)


@dataclass(frozen=True)
class NormCall:
    """What a normalization is called with.

    Attributes:
        tensors: x, the residual, scale and bias, as far as they are there.
        width: Elements of a row.
        epsilon: Added to the variance.
        scale: Whether there is a scale.
        bias: Whether there is a bias.
        postops: Post-ops of the result.
    """

    tensors: tuple[Lowered, ...]
    width: int
    epsilon: float
    scale: bool
    bias: bool
    postops: tuple[PostOp, ...]

    def name_and_key(self, form: NormForm, outputs: int) -> tuple[str, tuple[Hashable, ...]]:
        """The kernel's name, and what its code depends on besides shapes and dtypes."""
        name = f"{'add_' if form.skip else ''}{form.kind}_norm"
        key = (self.epsilon, self.scale, self.bias, outputs, postops_key(self.postops))
        return name, key


def norm_call(ctx: NodeContext, node: Node, form: NormForm) -> NormCall:
    """Lower the inputs of a normalization that :func:`refuse_norm` let through."""
    tensors = [ctx.tensor(node.required(i)) for i in range(1 + form.skip)]
    width = tensors[0].dims[-1]
    assert isinstance(width, int)
    present = [node.input(i) for i in range(1 + form.skip, form.core)]
    tensors += [ctx.tensor(v) for v in present if v is not None]
    return NormCall(
        tuple(tensors),
        width,
        node.float_attr("epsilon", 1e-5),
        present[0] is not None,
        len(present) > 1 and present[1] is not None,
        postops_of(node) if form.skip else (),
    )


#: Says whether a backend takes a normalization, and emits it.
NormAccepts: TypeAlias = "Callable[[Node, NormForm], Refused | None]"
NormEmit: TypeAlias = "Callable[[NodeContext, Node, NormForm], None]"

_NORMS = {
    "LayerNormalization": NormForm("layer", False),
    "RMSNormalization": NormForm("rms", False),
    "burnish::AddLayerNorm": NormForm("layer", True),
    "burnish::AddRMSNorm": NormForm("rms", True),
}


def norm_rules(accepts: NormAccepts, emit: NormEmit) -> tuple[KernelRule, ...]:
    """One rule for each operator and composite that normalizes rows."""

    def rule(key: str, form: NormForm) -> KernelRule:
        return KernelRule(
            key, lambda node: accepts(node, form), lambda ctx, node: emit(ctx, node, form)
        )

    return tuple(rule(key, form) for key, form in _NORMS.items())
