"""Options of commands that quantize, defined once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from burnish.precision.options import QuantizeOptions

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
        type=float,
        metavar="ALPHA",
        help="Move this share (0..1, typically 0.5) of the outliers of normalized activations into "
        "the weights of the matrix products that read them.",
    ),
    click.option(
        "--equalize",
        is_flag=True,
        help="Even the ranges of channels out between convolutions, for depthwise networks.",
    ),
    click.option(
        "--weights-only",
        type=click.Choice(["int8", "int4"]),
        help="Store constant weights of matrix products in blocks of this type; leave activations. "
        "Needs no calibration data (given, they are what the result is compared on).",
    ),
    click.option(
        "--block-size",
        type=int,
        metavar="ROWS",
        help="Rows that share a scale with --weights-only: 16, 32, 64, 128 or 256.  [default: 32]",
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
        "--op-types-to-exclude", multiple=True, metavar="OP", help="Leave these operators."
    ),
    click.option(
        "--nodes-to-quantize",
        multiple=True,
        metavar="NAME",
        help="Only these; regular expressions.",
    ),
    click.option(
        "--nodes-to-exclude",
        multiple=True,
        metavar="NAME",
        help="Leave these; regular expressions.",
    ),
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


def quantize_options(function: F) -> F:
    """How a model is quantized: what :func:`take_quantize_options` reads."""
    for option in reversed(_HOW):
        function = option(function)
    return function


def take_quantize_options(values: dict[str, Any], **more: Any) -> QuantizeOptions:
    """The options of :func:`quantize_options`; they are taken out of ``values``.

    Args:
        values: What click gave, by parameter.
        more: Further fields.

    Raises:
        UsageError: They contradict each other.
    """
    from dataclasses import fields

    from burnish.passes.quantization.selection import PRODUCTS, Selection
    from burnish.precision.options import QuantizeOptions

    chosen = {f.name: values.pop(f.name) for f in fields(Selection) if f.name in values}
    chosen["op_types_to_quantize"] = chosen["op_types_to_quantize"] or PRODUCTS
    how = {f.name: values.pop(f.name) for f in fields(QuantizeOptions) if f.name in values}
    return QuantizeOptions(selection=Selection(**chosen), **how, **more)
