"""How a model is quantized. Plain data, checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np

from burnish.calibration.histogram import Histogram
from burnish.calibration.thresholds import PERCENTILE, threshold
from burnish.errors import UsageError
from burnish.options import DimSpec
from burnish.passes.quantization import Selection
from burnish.passes.quantization.parameters import LIMITS
from burnish.passes.quantization.weights import BITS, BLOCK_SIZES, FORMATS, METHODS

#: How ranges follow from what was measured, where the user does not say.
METHOD = "minmax"


@dataclass(frozen=True)
class QuantizeOptions:
    """How a model is quantized; names as in onnxruntime, ModelOpt and NNCF.

    Attributes:
        selection: Which nodes.
        calibration_method: ``minmax``, ``percentile``, ``entropy`` or ``mse``.
        percentile: Share of the numbers within a range, in percent; only ``percentile`` has one.
        calibration_samples: Samples to take; None for all there are.
        activation_type: ``uint8`` or ``int8``.
        symmetric: Whether the middle of the activations' type represents 0; with ``weights_only``,
            that of the weights' type.
        per_channel: Whether each output channel of weights has its own scale.
        bias_correction: Take from biases what rounded weights add to the mean of each output
            channel on the calibration data.
        smooth_quant: Share of the outliers of normalized activations that weights take over, in
            [0, 1]; ``auto``: for each activation, those after an activation function too, what
            loses least; None: they stay.
        equalize: Even the ranges of channels out between convolutions.
        gptq: Let later rows of weights of matrix products make up for what the rounding of earlier
            ones adds on the calibration data.
        weights_only: ``int8`` or ``int4``: store weights of matrix products in blocks of this type
            and leave activations; None quantizes activations too.
        block_size: Rows of a block, with ``weights_only``; None for 32.
        weight_method: How ``weights_only`` rounds: ``rtn`` to the nearest; ``awq`` by what weights
            multiply on the calibration data: ranges of blocks that lose least, and normalized
            activations divided by factors that weights take over. None: ``awq`` where there are
            data, else ``rtn``.
        weight_format: How weights are read, with ``weights_only``: ``dequantize``
            (DequantizeLinear of ONNX, the default) or ``matmulnbits`` (onnxruntime's operator).
        input_shapes: Input name to dims, as in :class:`burnish.options.CompileOptions`.
        min_cosine: Least cosine similarity of every output with the model's; None: not checked.
    """

    selection: Selection = field(default_factory=Selection)
    calibration_method: str = METHOD
    percentile: float = PERCENTILE
    calibration_samples: int | None = None
    activation_type: str = "uint8"
    symmetric: bool = False
    per_channel: bool = True
    bias_correction: bool = False
    smooth_quant: float | Literal["auto"] | None = None
    equalize: bool = False
    gptq: bool = False
    weights_only: str | None = None
    block_size: int | None = None
    weight_method: str | None = None
    weight_format: str | None = None
    input_shapes: Mapping[str, tuple[DimSpec, ...]] = field(default_factory=dict)
    min_cosine: float | None = None

    def __post_init__(self) -> None:
        if self.activation_type not in LIMITS:
            raise UsageError(
                f"activations cannot be {self.activation_type}", hint=f"one of: {', '.join(LIMITS)}"
            )
        similar = self.min_cosine
        if similar is not None and not (_is_number(similar) and -1 <= similar <= 1):
            raise UsageError(f"a cosine lies in [-1, 1], not {self.min_cosine}")
        share = self.smooth_quant
        if share not in (None, "auto") and not (
            isinstance(share, (int, float)) and 0 <= share <= 1
        ):
            raise UsageError(f"--smooth-quant takes a share in [0, 1] or auto, not {share}")
        self._check_method()
        self._check_weights()

    @property
    def only_excludes(self) -> bool:
        """Whether nothing is said but which nodes are left."""
        selection = Selection(
            op_types_to_exclude=self.selection.op_types_to_exclude,
            nodes_to_exclude=self.selection.nodes_to_exclude,
        )
        return self == QuantizeOptions(selection=selection)

    @property
    def measuring(self) -> list[str]:
        """Options that were given and need calibration data."""
        return self._of_activations() + ["--weight-method awq"] * (self.weight_method == "awq")

    def _of_activations(self) -> list[str]:
        """Options that were given and are about activations whose ranges are measured."""
        given = {
            "--calibration-method": self.calibration_method != METHOD,
            "--percentile": self.percentile != PERCENTILE,
            "--activation-type": self.activation_type != "uint8",
            # Weights in blocks may be symmetric as well.
            "--symmetric": self.symmetric and self.weights_only is None,
            "--bias-correction": self.bias_correction,
            "--smooth-quant": self.smooth_quant is not None,
            "--equalize": self.equalize,
            "--gptq": self.gptq,
            "--matmul-all": not self.selection.matmul_const_b_only,
            "--quantize-residuals": self.selection.quantize_residuals,
        }
        return [option for option, is_given in given.items() if is_given]

    def _check_method(self) -> None:
        if not _is_number(self.percentile):
            raise UsageError(f"--percentile takes a number, not {self.percentile!r}")
        # What is wrong with the method is said before minutes of measuring.
        threshold(Histogram(), self.calibration_method, percentile=self.percentile)
        if self.percentile != PERCENTILE and self.calibration_method != "percentile":
            raise UsageError(
                f"--percentile is of no use with --calibration-method {self.calibration_method}",
                hint="add --calibration-method percentile",
            )

    def _check_weights(self) -> None:
        if self.weights_only is None:
            given = {
                "--block-size": self.block_size,
                "--weight-method": self.weight_method,
                "--format": self.weight_format,
            }
            if alone := [option for option, value in given.items() if value is not None]:
                raise UsageError(f"{alone[0]} is of use with --weights-only only")
            return
        if activations := self._of_activations():
            raise UsageError(
                f"{activations[0]} is about 8-bit activations, --weights-only leaves them",
                hint="choose one of the two",
            )
        if not self.per_channel:
            raise UsageError(
                "--per-tensor contradicts --weights-only: each block of weights has its own scale",
                hint="choose one of the two",
            )
        for value, known, what in (
            (self.weights_only, BITS, "type of weights"),
            (self.block_size or 32, BLOCK_SIZES, "block size"),
            (self.weight_method or METHODS[0], METHODS, "method for weights"),
            (self.weight_format or FORMATS[0], FORMATS, "format of weights"),
        ):
            if value not in known:
                raise UsageError(
                    f"{value} is no {what}", hint=f"one of: {', '.join(map(str, known))}"
                )


#: Options that ``burnish compile`` has for all precisions, or not at all.
_NOT_HOW = frozenset({"selection", "calibration_samples", "input_shapes", "min_cosine"})
#: What drops are measured in; a function of a script is another.
METRICS = ("cosine", "l2", "top1")
#: What a model may lose where the user does not say.
MAX_DROP = 0.01


@dataclass(frozen=True)
class Budget:
    """What ``--precision auto`` may spend.

    Attributes:
        max_drop: Largest mean loss on samples that nothing was chosen with; None for 0.01, or for
            no bound where ``atol`` is given.
        atol: Largest error of any element on them, in units of its output's scale (root mean
            square); None: not bounded.
        metric: What a loss is: ``cosine`` (1 - similarity), ``l2`` (relative root mean square
            error), ``top1`` (share of rows whose largest element is elsewhere), or
            ``script.py:function``, which gets the outputs, the reference's outputs and the inputs,
            each by name, and returns a score: the reference's score less that of the outputs.
        max_evals: Ways to assign precisions that may be evaluated, the final one included.
        allow_int4: Whether weights of matrix products may have 4 bits.
    """

    max_drop: float | None = None
    atol: float | None = None
    metric: str = "cosine"
    max_evals: int = 32
    allow_int4: bool = False

    def __post_init__(self) -> None:
        for name, value in (("--max-drop", self.max_drop), ("--atol", self.atol)):
            if value is not None and not (_is_number(value) and 0 <= value < float("inf")):
                raise UsageError(f"{name} takes a number >= 0, not {value}")
        script, colon, _ = str(self.metric).rpartition(":")
        if self.metric not in METRICS and not (colon and script.endswith(".py")):
            raise UsageError(
                f"unknown metric {self.metric!r}",
                hint=f"one of {', '.join(METRICS)}, or script.py:function",
            )
        if not isinstance(self.max_evals, Integral) or self.max_evals < 4:
            raise UsageError(
                f"--max-evals {self.max_evals} leaves nothing to choose from",
                hint="a whole number, at least 4",
            )

    @property
    def bound(self) -> float:
        """The largest drop, infinite if there is none."""
        if self.max_drop is None:
            return MAX_DROP if self.atol is None else float("inf")
        return self.max_drop


def take_quantize_options(values: dict[str, Any], **more: Any) -> QuantizeOptions | None:
    """Options of quantization; they are taken out of ``values``.

    Args:
        values: Options by name, those of :class:`Selection` beside those of
            :class:`QuantizeOptions`.
        more: Further fields.

    Returns:
        The options; None if there are none of them.

    Raises:
        UsageError: They contradict each other.
    """
    names = [f.name for f in fields(Selection) if f.name != "held"]
    chosen = {name: values.pop(name) for name in names if name in values}
    for name, value in chosen.items():
        if not isinstance(value, bool):
            chosen[name] = _names(name, value)
    if not chosen.get("op_types_to_quantize", True):
        del chosen["op_types_to_quantize"]
    how = {
        f.name: values.pop(f.name)
        for f in fields(QuantizeOptions)
        if f.name in values and f.name not in _NOT_HOW
    }
    if not (chosen or how or more):
        return None
    return QuantizeOptions(selection=Selection(**chosen), **how, **more)


def _names(option: str, value: Any) -> tuple[str, ...]:
    """One name or several."""
    found = (value,) if isinstance(value, str) else tuple(value if np.iterable(value) else (value,))
    if wrong := [name for name in found if not isinstance(name, str)]:
        raise UsageError(f"{option} takes names, not {wrong[0]!r}")
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def take_budget(values: dict[str, Any]) -> Budget | None:
    """The budget's options, taken out of ``values``; None if there are none.

    Raises:
        UsageError: One of them is wrong.
    """
    found = {f.name: values.pop(f.name) for f in fields(Budget) if f.name in values}
    return Budget(**found) if found else None
