"""NonMaxSuppression."""

from __future__ import annotations

from tvm import tirx

from burnish.backends.cpu import tir
from burnish.backends.cpu.tir import Tensor
from burnish.ir.infer.run_time import DOMAIN
from burnish.lowering.kernel_context import KernelContext
from burnish.lowering.ops.common import const, select
from burnish.lowering.registry import kernel_rule
from burnish.lowering.te_context import Prim, int64

_FREE, _GONE = 0, 1


def _corners(boxes: Tensor, at: Prim, centered: bool) -> tuple[Prim, Prim, Prim, Prim]:
    """Lower and upper bound of both axes of a box."""
    a, b, c, d = (tir.let(boxes.load(at + k)) for k in range(4))
    half = const(0.5, "float32")
    if centered:
        return a - c * half, a + c * half, b - d * half, b + d * half
    return tirx.min(a, c), tirx.max(a, c), tirx.min(b, d), tirx.max(b, d)


def _overlap(boxes: Tensor, first: Prim, second: Prim, centered: bool) -> Prim:
    """Intersection over union of two boxes; 0 where they do not meet or have no area."""
    zero = const(0, "float32")
    one, two = ([tir.let(v) for v in _corners(boxes, at, centered)] for at in (first, second))
    sides = [
        tir.let(tirx.max(tirx.min(one[k + 1], two[k + 1]) - tirx.max(one[k], two[k]), zero))
        for k in (0, 2)
    ]
    common = tir.let(sides[0] * sides[1])
    areas = [tir.let((box[1] - box[0]) * (box[3] - box[2])) for box in (one, two)]
    union = tir.let(areas[0] + areas[1] - common)
    valid = tirx.And(common > zero, tirx.And(areas[0] > zero, areas[1] > zero))
    return select(valid, common / select(union > zero, union, const(1, "float32")), zero)


def _scalar(tensor: Tensor | None, default: float, dtype: str) -> Prim:
    return const(default, dtype) if tensor is None else tir.let(tensor.load(0))


@kernel_rule("SelectBoxes", domain=DOMAIN)
def select_boxes(
    ctx: KernelContext,
    boxes: Tensor,
    scores: Tensor,
    max_output_boxes_per_class: Tensor | None = None,
    iou_threshold: Tensor | None = None,
    score_threshold: Tensor | None = None,
    *,
    center_point_box: int = 0,
) -> None:
    """The rows of NonMaxSuppression-11 and their number.

    Of each class the best free box is taken, and boxes that overlap it are free no more; of equal
    scores the first box counts.
    """
    rows, number, state = (ctx.output(i) for i in range(3))
    batches, classes, count = scores.shape
    limit = _scalar(max_output_boxes_per_class, 0, "int64")
    most = _scalar(iou_threshold, 0, "float32")
    found, taken = tir.local(1, "int64"), tir.local(1, "int64")
    best, value = tir.local(1, "int64"), tir.local(1, "float32")
    tir.store(found, 0, int64(0))
    with tir.serial(batches) as batch, tir.serial(classes) as kind:
        base = (batch * classes + kind) * count
        tir.store(taken, 0, int64(0))
        tir.store(best, 0, int64(0))
        with tir.serial(count) as i:
            state.store(i, int64(_FREE))
            if score_threshold is not None:
                low = scores.load(base + i) <= score_threshold.load(0)
                with tir.when(low):
                    state.store(i, int64(_GONE))
        # After the last box that is free, nothing is best, and nothing more is done.
        with (
            tir.serial(count),
            tir.when(tirx.And(tir.load(best, 0) >= int64(0), tir.load(taken, 0) < limit)),
        ):
            tir.store(best, 0, int64(-1))
            with tir.serial(count) as i, tir.when(state.load(i).equal(int64(_FREE))):
                score = tir.let(scores.load(base + i))
                better = tirx.Or(tir.load(best, 0) < int64(0), score > tir.load(value, 0))
                with tir.when(better):
                    tir.store(best, 0, tir.i64(i))
                    tir.store(value, 0, score)
            with tir.when(tir.load(best, 0) >= int64(0)):
                box, row = tir.hold(tir.load(best, 0)), tir.hold(tir.load(found, 0))
                for column, entry in enumerate((batch, kind, box)):
                    rows.store(row * int64(3) + int64(column), tir.i64(entry))
                tir.store(found, 0, row + int64(1))
                tir.store(taken, 0, tir.load(taken, 0) + int64(1))
                state.store(box, int64(_GONE))
                first = batch * count
                with tir.serial(count) as i, tir.when(state.load(i).equal(int64(_FREE))):
                    overlap = _overlap(
                        boxes, (first + box) * 4, (first + i) * 4, bool(center_point_box)
                    )
                    with tir.when(overlap > most):
                        state.store(i, int64(_GONE))
    number.store(0, tir.load(found, 0))
