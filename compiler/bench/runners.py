"""What can be timed: a compiled model and its peers, all called the way their users call them.

Each takes a dictionary of NumPy arrays and returns NumPy arrays, and each uses the same number of
threads for one operator and runs one operator at a time.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from numpy.typing import NDArray

from burnish.errors import ModelError, TargetUnavailableError, UsageError

if TYPE_CHECKING:
    import onnx

    from burnish.runtime import CompiledModel

Feeds = Mapping[str, NDArray[Any]]
Call = Callable[[], object]
Model: TypeAlias = "str | Path | bytes | onnx.ModelProto"


class Runner(Protocol):
    """Something that runs a model."""

    @property
    def name(self) -> str:
        """Short name, unique within one measurement."""

    @property
    def version(self) -> str:
        """Version of the software."""

    @property
    def threads(self) -> int:
        """Threads of one call."""

    def prepare(self, feeds: Feeds) -> Call:
        """A function that runs the model once on ``feeds``."""


class BurnishRunner:
    """A compiled model, called ``name`` in reports."""

    def __init__(self, model: CompiledModel, name: str = "burnish") -> None:
        self.model, self.name = model, name
        self.version = model.manifest.tools.get("burnish", "unknown")

    @property
    def threads(self) -> int:
        """Threads of one call."""
        return self.model.threads

    def prepare(self, feeds: Feeds) -> Call:
        """A function that runs the model once on ``feeds``."""
        run, inputs = self.model.run, dict(feeds)
        return lambda: run(None, inputs)


class OnnxRuntimeRunner:
    """onnxruntime's CPU provider at its defaults: all graph optimizations.

    Its session may be called by any number of ``streams`` as it is.
    """

    name = "onnxruntime"

    def __init__(self, model: Model, threads: int, streams: int | None = None) -> None:
        import onnxruntime as ort

        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.version, self.threads = ort.__version__, threads
        try:
            self._session = ort.InferenceSession(
                _source(model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's exceptions share no base class
            raise ModelError(f"onnxruntime does not load the model: {error}") from error

    def prepare(self, feeds: Feeds) -> Call:
        """A function that runs the model once on ``feeds``."""
        run, inputs = self._session.run, dict(feeds)
        return lambda: run(None, inputs)


class OpenVinoRunner:
    """OpenVINO's CPU plugin, computing in fp32.

    With the latency hint; with the throughput hint for ``streams`` callers at once, each of which
    prepares a request of its own. (Requests called from the streams' threads gave 1.00 to 1.18
    times the rate of its ``AsyncInferQueue`` of as many or of twice as many requests.)
    """

    name = "openvino"
    _precision = "f32"

    def __init__(self, model: Model, threads: int, streams: int | None = None) -> None:
        try:
            import openvino
        except ImportError as error:
            raise TargetUnavailableError(
                "OpenVINO is not installed", hint="pip install 'burnish[openvino]'"
            ) from error
        self.version, self.threads = metadata.version("openvino"), threads
        source, core = _source(model), openvino.Core()
        options = {
            "PERFORMANCE_HINT": "LATENCY" if streams is None else "THROUGHPUT",
            "INFERENCE_NUM_THREADS": str(threads * (streams or 1)),
            "NUM_STREAMS": str(streams or 1),
            # The precision hint alone leaves two things below it: products with int8 weights round
            # their activations to int8, in groups of 32, and attention keeps its keys and values in
            # 8 bits.
            "INFERENCE_PRECISION_HINT": self._precision,
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
            "KV_CACHE_PRECISION": self._precision,
        }
        try:
            loaded = core.read_model(source if isinstance(source, str) else io.BytesIO(source))
            self._compiled = core.compile_model(loaded, "CPU", options)
        except RuntimeError as error:
            raise ModelError(f"OpenVINO does not load the model: {error}") from error

    def prepare(self, feeds: Feeds) -> Call:
        """A function that runs the model once on ``feeds``."""
        infer, inputs = self._compiled.create_infer_request().infer, dict(feeds)
        return lambda: infer(inputs, share_inputs=True)


class OpenVinoBf16Runner(OpenVinoRunner):
    """The same, where it may compute in bfloat16."""

    name = "openvino-bf16"
    _precision = "bf16"


PEERS: dict[str, Callable[[Model, int, int | None], Runner]] = {
    "onnxruntime": OnnxRuntimeRunner,
    "openvino": OpenVinoRunner,
    "openvino-bf16": OpenVinoBf16Runner,
}
"""What ``burnish bench --against`` knows."""


def peer(name: str, model: Model | None, threads: int, streams: int | None = None) -> Runner:
    """The peer ``name`` with ``model`` loaded.

    Args:
        name: Its name.
        model: The model.
        threads: Threads of a call.
        streams: For so many callers at once, each with that many threads; by default for one
            whose calls are to be as fast as they can.

    Raises:
        UsageError: There is no such peer, or no model for it.
        TargetUnavailableError: It is not installed.
        ModelError: It does not load the model.
    """
    if name not in PEERS:
        raise UsageError(f"unknown peer '{name}'", hint=f"choose from {', '.join(PEERS)}")
    if model is None:
        raise UsageError(
            f"{name} needs the ONNX model that the artifact was compiled from",
            hint="give the model as well, or compare with nothing",
        )
    return PEERS[name](model, threads, streams)


def _source(model: Model) -> str | bytes:
    if isinstance(model, (str, Path)):
        return str(model)
    if isinstance(model, bytes):
        return model
    content: bytes = model.SerializeToString()
    return content
