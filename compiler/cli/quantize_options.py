"""Options of commands that quantize, defined once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click
from click.core import ParameterSource


class Share(click.ParamType[Any]):
    """A number, or ``auto``."""

    name = "share"

    def convert(self, value: Any, param: Any, ctx: Any) -> float | str:
        """The number, or the word."""
        if value == "auto":
            return "auto"
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor auto", param, ctx)


F = TypeVar("F", bound=Callable[..., Any])

_CALIBRATION = (
    click.option(
        "--calibration-data",
        metavar="F.npz|DIR|script.py:fn",
        help="Samples: arrays by input name, a folder of such files, or a function that yields "
        "them. Without it, products of constant weights are quantized by the range of each call.",
    ),
    click.option(
        "--calibration-samples", type=click.IntRange(min=1), help="Take this many samples."
    ),
)

_EXCLUSIONS = (
    click.option(
        "--op-types-to-exclude", multiple=True, metavar="OP", help="Leave these operators."
    ),
    click.option(
        "--nodes-to-exclude",
        multiple=True,
        metavar="NAME",
        help="Leave these; regular expressions.",
    ),
)

_HOW = (
    click.option(
        "--calibration-method",
        type=click.Choice(["minmax", "percentile", "entropy", "mse"]),
        default="minmax",
        show_default=True,
        help="How ranges follow from what was measured.",
    ),
    click.option(
        "--percentile",
        type=float,
        default=99.99,
        show_default=True,
        help="Share within the range, %.",
    ),
    click.option(
        "--activation-type",
        type=click.Choice(["uint8", "int8"]),
        default="uint8",
        show_default=True,
        help="Type of activations.",
    ),
    click.option(
        "--symmetric",
        is_flag=True,
        help="Let the middle of that type (of the weights' type with --weights-only) represent 0.",
    ),
    click.option(
        "--per-channel/--per-tensor",
        default=True,
        show_default=True,
        help="One scale for each output channel of weights, or one for all.",
    ),
    click.option(
        "--bias-correction",
        is_flag=True,
        help="Take from biases what rounded weights add to the mean of each output channel.",
    ),
    click.option(
        "--smooth-quant",
        type=Share(),
        metavar="ALPHA|auto",
        help="Move this share (0..1, typically 0.5) of the outliers of normalized activations into "
        "the weights of the matrix products that read them; auto: what loses least for each, "
        "behind activation functions too.",
    ),
    click.option(
        "--equalize",
        is_flag=True,
        help="Even the ranges of channels out between convolutions, for depthwise networks.",
    ),
    click.option(
        "--gptq",
        is_flag=True,
        help="Round weights of matrix products so that later rows make up for what earlier ones "
        "lose on the calibration data; takes minutes for large models.",
    ),
    click.option(
        "--weights-only",
        type=click.Choice(["int8", "int4"]),
        help="Store constant weights of matrix products in blocks of this type; leave activations. "
        "Needs no calibration data; --weight-method says what they are good for.",
    ),
    click.option(
        "--block-size",
        type=int,
        metavar="ROWS",
        help="Rows that share a scale with --weights-only: 16, 32, 64, 128 or 256.  [default: 32]",
    ),
    click.option(
        "--weight-method",
        type=click.Choice(["rtn", "awq"]),
        help="How --weights-only rounds: rtn to the nearest; awq so that the products lose least "
        "on the calibration data.  [default: awq with --calibration-data, else rtn]",
    ),
    click.option(
        "--format",
        "weight_format",
        type=click.Choice(["dequantize", "matmulnbits"]),
        help="How --weights-only weights are read: by ONNX's DequantizeLinear with block_size, or "
        "by onnxruntime's com.microsoft::MatMulNBits.  [default: dequantize]",
    ),
    click.option(
        "--op-types-to-quantize", multiple=True, metavar="OP", help="Only these operators."
    ),
    click.option(
        "--nodes-to-quantize",
        multiple=True,
        metavar="NAME",
        help="Only these; regular expressions.",
    ),
    *_EXCLUSIONS,
    click.option(
        "--matmul-const-b-only/--matmul-all",
        default=True,
        show_default=True,
        help="Leave matrix products of two activations (attention), or quantize them too.",
    ),
    click.option(
        "--quantize-residuals",
        is_flag=True,
        help="Quantize both terms of residual sums, for runtimes that add in 8 bits.",
    ),
)


def calibration_options(function: F) -> F:
    """``--calibration-data`` and how much of it is taken."""
    for option in reversed(_CALIBRATION):
        function = option(function)
    return function


def exclusion_options(function: F) -> F:
    """Which nodes are left in a higher precision."""
    for option in reversed(_EXCLUSIONS):
        function = option(function)
    return function


def quantize_options(function: F) -> F:
    """How a model is quantized."""
    for option in reversed(_HOW):
        function = option(function)
    return function


_BUDGET = (
    click.option(
        "--max-drop",
        type=float,
        help="With --precision auto: the most that --metric may lose on average on samples that "
        "nothing was chosen with.  [default: 0.01]",
    ),
    click.option(
        "--atol",
        type=float,
        help="With --precision auto: the largest error of any element on them, in units of the "
        "output's root mean square.",
    ),
    click.option(
        "--metric",
        metavar="cosine|l2|top1|script.py:fn",
        help="With --precision auto: what is lost; a function gets the outputs, those of the "
        "model and the inputs, by name, and returns a score.  [default: cosine]",
    ),
    click.option(
        "--max-evals",
        type=int,
        help="With --precision auto: ways to assign precisions that may be evaluated.  "
        "[default: 32]",
    ),
    click.option(
        "--allow-int4",
        is_flag=True,
        help="With --precision auto: let weights of matrix products have 4 bits.",
    ),
)


def budget_options(function: F) -> F:
    """What ``--precision auto`` may lose, and how long it may look."""
    for option in reversed(_BUDGET):
        function = option(function)
    return function


def drop_defaults(values: dict[str, Any]) -> None:
    """Remove options of quantization and of the budget that the command line does not give.

    So that an option that is of no use can be told from one that was not given.
    """
    from dataclasses import fields

    from burnish.passes.quantization import Selection
    from burnish.precision.options import Budget, QuantizeOptions

    context = click.get_current_context()
    for item in (*fields(Selection), *fields(QuantizeOptions), *fields(Budget)):
        source = context.get_parameter_source(item.name)
        if item.name in values and source is ParameterSource.DEFAULT:
            del values[item.name]
