"""How a model is quantized. Plain data, checked when it is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from burnish.calibration.histogram import Histogram
from burnish.calibration.thresholds import PERCENTILE, threshold
from burnish.errors import UsageError
from burnish.options import DimSpec
from burnish.passes.quantization import Selection
from burnish.passes.quantization.parameters import LIMITS
from burnish.passes.quantization.weights import BITS, BLOCK_SIZES, FORMATS


@dataclass(frozen=True)
class QuantizeOptions:
    """How a model is quantized; names as in onnxruntime, ModelOpt and NNCF.

    Attributes:
        selection: Which nodes.
        calibration_method: ``minmax``, ``percentile``, ``entropy`` or ``mse``.
        percentile: Share of the numbers within a range, in percent, for ``percentile``.
        calibration_samples: Samples to take; None for all there are.
        activation_type: ``uint8`` or ``int8``.
        symmetric: Whether the middle of the activations' type represents 0; with ``weights_only``,
            that of the weights' type.
        per_channel: Whether each output channel of weights has its own scale.
        bias_correction: Take from biases what rounded weights add to the mean of each output
            channel on the calibration data.
        smooth_quant: Share of the outliers of normalized activations that weights take over, in
            [0, 1]; None: they stay.
        equalize: Even the ranges of channels out between convolutions.
        weights_only: ``int8`` or ``int4``: store weights of matrix products in blocks of this type
            and leave activations; None quantizes activations too.
        block_size: Rows of a block, with ``weights_only``; None for 32.
        weight_format: How weights are read, with ``weights_only``: ``dequantize``
            (DequantizeLinear of ONNX, the default) or ``matmulnbits`` (onnxruntime's operator).
        input_shapes: Input name to dims, as in :class:`burnish.options.CompileOptions`.
        min_cosine: Least cosine similarity of every output with the model's; None: not checked.
    """

    selection: Selection = field(default_factory=Selection)
    calibration_method: str = "minmax"
    percentile: float = PERCENTILE
    calibration_samples: int | None = None
    activation_type: str = "uint8"
    symmetric: bool = False
    per_channel: bool = True
    bias_correction: bool = False
    smooth_quant: float | None = None
    equalize: bool = False
    weights_only: str | None = None
    block_size: int | None = None
    weight_format: str | None = None
    input_shapes: Mapping[str, tuple[DimSpec, ...]] = field(default_factory=dict)
    min_cosine: float | None = None

    def __post_init__(self) -> None:
        if self.activation_type not in LIMITS:
            raise UsageError(
                f"activations cannot be {self.activation_type}", hint=f"one of: {', '.join(LIMITS)}"
            )
        if self.min_cosine is not None and not -1 <= self.min_cosine <= 1:
            raise UsageError(f"a cosine lies in [-1, 1], not {self.min_cosine}")
        if self.smooth_quant is not None and not 0 <= self.smooth_quant <= 1:
            raise UsageError(f"--smooth-quant takes a share in [0, 1], not {self.smooth_quant}")
        self._check_weights()
        # What is wrong with the method is said before minutes of measuring.
        threshold(Histogram(), self.calibration_method, percentile=self.percentile)

    @property
    def corrections(self) -> list[str]:
        """Options that need calibration data."""
        wanted = {
            "--bias-correction": self.bias_correction,
            "--smooth-quant": self.smooth_quant is not None,
            "--equalize": self.equalize,
        }
        return [option for option, given in wanted.items() if given]

    def _check_weights(self) -> None:
        if self.weights_only is None:
            given = {"--block-size": self.block_size, "--format": self.weight_format}
            if alone := [option for option, value in given.items() if value is not None]:
                raise UsageError(f"{alone[0]} is of use with --weights-only only")
            return
        if self.corrections:
            raise UsageError(
                f"{self.corrections[0]} corrects 8-bit activations, --weights-only leaves them",
                hint="choose one of the two",
            )
        for value, known, what in (
            (self.weights_only, BITS, "type of weights"),
            (self.block_size or 32, BLOCK_SIZES, "block size"),
            (self.weight_format or FORMATS[0], FORMATS, "format of weights"),
        ):
            if value not in known:
                raise UsageError(
                    f"{value} is no {what}", hint=f"one of: {', '.join(map(str, known))}"
                )
