"""MatMul, Gemm and Einsum as plain sums, for shapes and types that the GEMM template refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm import te

from burnish.errors import LoweringError
from burnish.ir.dims import Dim
from burnish.ir.graph import Node
from burnish.lowering.ops.common import cast, like, wide
from burnish.lowering.ops.reduction import reduced, sum_over
from burnish.lowering.registry import REAL, te_rule
from burnish.lowering.te_context import Prim, TeContext, broadcast_index

#: Reads one (widened, perhaps shifted) element of an operand.
Read = Callable[..., Prim]


def matmul(ctx: TeContext, a: Read, b: Read, first: int = 0, second: int = 1) -> te.Tensor:
    """The N-D product of two inputs, by NumPy's rules for 1-D operands and broadcasting.

    Args:
        ctx: Context; its first output is the product.
        a: Reads an element of the left operand.
        b: Reads an element of the right operand.
        first: Position of the left operand among the inputs.
        second: Position of the right operand.
    """
    a_dims, b_dims, out = ctx.in_dims(first), ctx.in_dims(second), ctx.out_dims()
    has_row, has_column = len(a_dims) > 1, len(b_dims) > 1
    batch = out[: len(out) - has_row - has_column]
    rank = len(out)

    def element(*at: Prim) -> Prim:
        *outer, k = at
        lead = outer[: len(batch)]
        row = outer[len(batch) : len(batch) + 1] if has_row else []
        column = outer[rank - 1 :] if has_column else []
        left = broadcast_index(ctx.symbols, a_dims[:-2], lead, batch)
        right = broadcast_index(ctx.symbols, b_dims[:-2], lead, batch)
        return a(*left, *row, k) * b(*right, k, *column)

    return reduced(ctx, [*out, a_dims[-1]], [rank], element, sum_over, name="product")


def finish(ctx: TeContext, stage: te.Tensor, after: Callable[..., Prim] | None = None) -> te.Tensor:
    """Cast a sum to the output's type, with ``after(value, *index)`` before."""
    dtype = ctx.out_type().dtype
    if after is None and str(stage.dtype) == dtype:
        return stage

    def body(*at: Prim) -> Prim:
        value = stage(*at)
        return cast(value if after is None else after(value, *at), dtype)

    return ctx.compute(body)


@te_rule("MatMul", dtypes=REAL)
def matmul_rule(ctx: TeContext, a: te.Tensor, b: te.Tensor) -> te.Tensor:
    """MatMul-13."""
    return finish(ctx, matmul(ctx, lambda *i: wide(a(*i)), lambda *i: wide(b(*i))))


@te_rule("Gemm", dtypes=REAL)
def gemm(
    ctx: TeContext,
    a: te.Tensor,
    b: te.Tensor,
    c: te.Tensor | None = None,
    *,
    alpha: float = 1.0,
    beta: float = 1.0,
    transA: int = 0,  # noqa: N803 - ONNX's name
    transB: int = 0,  # noqa: N803
) -> te.Tensor:
    """Gemm-13."""
    depth = ctx.in_dims(0)[0 if transA else 1]

    def element(row: Prim, column: Prim, k: Prim) -> Prim:
        left = a(k, row) if transA else a(row, k)
        right = b(column, k) if transB else b(k, column)
        return wide(left) * wide(right)

    product = reduced(ctx, [*ctx.out_dims(), depth], [2], element, sum_over, name="product")

    def after(value: Prim, *at: Prim) -> Prim:
        value = value if alpha == 1 else value * like(alpha, value)
        if c is None or beta == 0:
            return value
        bias = wide(c(*ctx.broadcast(2, at)))
        return value + (bias if beta == 1 else bias * like(beta, bias))

    return finish(ctx, product, None if alpha == 1 and c is None else after)


def _parse(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """Subscripts of operands and result, with one digit for each dim of an ellipsis.

    These dims count from the right: the last is 0.
    """
    text = equation.replace(" ", "")
    left, arrow, right = text.partition("->")
    terms = left.split(",")
    counts = [rank - len(t.replace("...", "")) for t, rank in zip(terms, ranks, strict=True)]
    fillers = ["".join(chr(ord("0") + i) for i in reversed(range(n))) for n in counts]
    operands = [t.replace("...", f) for t, f in zip(terms, fillers, strict=True)]
    longest = max(fillers, key=len) if "..." in left else ""
    if arrow:
        return operands, right.replace("...", longest)
    letters = "".join(operands)
    once = sorted(c for c in set(letters) if c.isalpha() and letters.count(c) == 1)
    return operands, longest + "".join(once)


def _einsum_form(node: Node) -> str | None:
    equation = node.str_attr("equation")
    count = equation.partition("->")[0].count(",") + 1
    return None if count == len(node.inputs) else f"equation {equation}"


@te_rule("Einsum", dtypes=REAL, check=_einsum_form)
def einsum(ctx: TeContext, *inputs: te.Tensor, equation: str) -> te.Tensor:
    """Einsum-12, as one sum over all letters that the result lacks."""
    ranks = [len(ctx.in_dims(i)) for i in range(len(inputs))]
    operands, result = _parse(equation, ranks)
    extents: dict[str, Dim] = {}
    for index, term in enumerate(operands):
        for letter, dim in zip(term, ctx.in_dims(index), strict=True):
            if extents.get(letter, 1) == 1:
                extents[letter] = dim
    summed = [c for c in extents if c not in result]
    letters = [*result, *summed]
    if len(set(letters)) != len(letters):
        raise LoweringError(f"einsum equation {equation!r} repeats a letter of its result")
    shape = [extents[c] for c in letters]

    def element(*at: Prim) -> Prim:
        position = dict(zip(letters, at, strict=True))
        value: Prim = None
        for index, (term, tensor) in enumerate(zip(operands, inputs, strict=True)):
            where = broadcast_index(
                ctx.symbols, ctx.in_dims(index), [position[c] for c in term],
                [extents[c] for c in term],
            )  # fmt: skip
            factor = wide(tensor(*where))
            value = factor if value is None else value * factor
        return value

    if not summed:
        return ctx.compute(lambda *at: cast(element(*at), ctx.out_type().dtype))
    axes = range(len(result), len(letters))
    return finish(ctx, reduced(ctx, shape, axes, element, sum_over, name="einsum"))
