"""Keras models: with TensorFlow where it is installed, and how tf2onnx is called in any case."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import burnish
from burnish.errors import ModelError, TargetUnavailableError, UsageError

X = np.linspace(-1, 2, 10, dtype=np.float32).reshape(2, 5)


# --- without TensorFlow -----------------------------------------------------------------------


class Spec:
    """A tensor's shape, dtype and name: TensorSpec, KerasTensor and TensorFlow's dtype in one."""

    def __init__(self, shape: Any, dtype: Any = "float32", name: str = "") -> None:
        self.shape, self.dtype, self.name = shape, dtype, name
        self.as_numpy_dtype = np.float32


class FakeModel:
    """Doubles its input."""

    name = "doubling"
    inputs = (Spec((None, 5), "float32", "numbers"),)
    input = inputs[0]

    def __call__(self, value: Any, training: bool) -> Any:
        assert training is False
        return {"twice": value * 2} if isinstance(value, np.ndarray) else {"twice": value}


def doubling(function: Any, input_signature: Any, opset: int) -> tuple[onnx.ModelProto, None]:
    """What tf2onnx.convert.from_function returns."""
    (spec,) = input_signature
    assert list(spec.shape) == [None, 5]
    assert len(function(spec)) == 1
    dims = ["unk__1", 5]
    graph = helper.make_graph(
        # A value inside has the name that the output is to get.
        [
            helper.make_node("Identity", [spec.name], ["twice"]),
            helper.make_node("Add", ["twice", spec.name], ["Identity:0"]),
        ],
        "tf2onnx",
        [helper.make_tensor_value_info(spec.name, TensorProto.FLOAT, dims)],
        [helper.make_tensor_value_info("Identity:0", TensorProto.FLOAT, ["unk__2", 5])],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=8), None


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """Modules that look like keras, tensorflow and tf2onnx."""
    keras, tf, tf2onnx = (types.ModuleType(n) for n in ("keras", "tensorflow", "tf2onnx"))
    keras.Model = FakeModel
    keras.backend = types.SimpleNamespace(backend=lambda: "tensorflow")
    tf.nest = types.SimpleNamespace(
        flatten=lambda value: list(value.values()) if isinstance(value, dict) else [value],
        pack_sequence_as=lambda structure, flat: flat[0],
    )
    tf.TensorSpec, tf.as_dtype = Spec, lambda name: Spec((), name)
    tf.function, tf.constant, tf.__version__ = (lambda f: f), np.asarray, "9.9"
    tf2onnx.convert = types.SimpleNamespace(from_function=doubling)
    for module in (keras, tf, tf2onnx):
        module.__spec__ = importlib.util.spec_from_loader(module.__name__, None)
        monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.delitem(sys.modules, "burnish.frontends.keras_model", raising=False)
    return types.SimpleNamespace(keras=keras, tf2onnx=tf2onnx)


def test_conversion_check_and_comparison(fake: types.SimpleNamespace) -> None:
    model: Any = FakeModel()
    with burnish.compile(model, threads=1, check=True) as compiled:
        assert [(i.name, list(i.shape)) for i in compiled.get_inputs()] == [
            ("numbers", ["batch", 5])
        ]
        assert [o.name for o in compiled.get_outputs()] == ["twice"]
        np.testing.assert_allclose(compiled.run(None, {"numbers": X})[0], 2 * X, rtol=1e-6)
        assert compiled.manifest.verification is not None
        assert "TensorFlow 9.9" in compiled.manifest.verification.reference
        assert burnish.compare(compiled, model, X)
        assert burnish.compare(compiled, model, [X, X[:1]])
        assert burnish.compare(compiled, model)
        with pytest.raises(UsageError, match="2 inputs for the 1"):
            burnish.compare(compiled, model, {"a": X, "b": X})


def test_what_tf2onnx_says(fake: types.SimpleNamespace) -> None:
    def fail(*_: object, **__: object) -> None:
        raise KeyError("no such operator\nand much more")

    fake.tf2onnx.convert.from_function = fail
    model: Any = FakeModel()
    with pytest.raises(ModelError, match="KeyError: 'no such operator") as error:
        burnish.compile(model)
    assert error.value.at == "Keras model doubling"


def test_tf2onnx_is_missing(fake: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "tf2onnx")
    if importlib.util.find_spec("tf2onnx") is not None:
        monkeypatch.setitem(sys.modules, "tf2onnx", None)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: name != "tf2onnx" or None)
    model: Any = FakeModel()
    with pytest.raises(TargetUnavailableError, match="tf2onnx is not installed") as error:
        burnish.compile(model)
    assert (error.value.hint, error.value.exit_code) == ("pip install 'burnish[tensorflow]'", 5)


def test_wrong_use(fake: types.SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    model: Any = FakeModel()
    with pytest.raises(UsageError, match="declares its dynamic dims itself"):
        burnish.compile(model, dynamic_shapes={"numbers": {0: "n"}})
    monkeypatch.setattr(FakeModel, "inputs", None)
    with pytest.raises(UsageError, match="needs example inputs"):
        burnish.compile(model)
    fake.keras.backend.backend = lambda: "jax"
    with pytest.raises(UsageError, match="on jax cannot be compiled"):
        burnish.compile(model)


# --- with TensorFlow --------------------------------------------------------------------------


@pytest.fixture
def keras() -> Any:
    pytest.importorskip("tensorflow")
    pytest.importorskip("tf2onnx")
    found = pytest.importorskip("keras")
    if found.backend.backend() != "tensorflow":
        pytest.skip("keras does not run on TensorFlow here")
    sys.modules.pop("burnish.frontends.keras_model", None)
    return found


def checked(model: Any, **options: Any) -> burnish.CompiledModel:
    compiled = burnish.compile(model, threads=1, check=True, **options)
    report = burnish.compare(compiled, model, seed=3)
    report.raise_if_failed()
    assert all(output.scale > 1e-3 for output in report.outputs)
    return compiled


@pytest.mark.slow
def test_functional(keras: Any) -> None:
    keras.utils.set_random_seed(0)
    image, more = keras.Input((8, 8, 1), name="image"), keras.Input((3,), name="more")
    x = keras.layers.Conv2D(4, 3, activation="relu")(image)
    x = keras.layers.Dropout(0.5)(keras.layers.BatchNormalization()(x))
    x = keras.layers.Concatenate()([keras.layers.Flatten()(x), more])
    outputs = {"logits": keras.layers.Dense(10)(x), "aux": keras.layers.Dense(2)(x)}
    model = keras.Model([image, more], outputs)
    compiled = checked(model)
    assert [i.name for i in compiled.get_inputs()] == ["image", "more"]
    assert [o.name for o in compiled.get_outputs()] == ["aux", "logits"]
    rng = np.random.default_rng(0)
    draw = rng.standard_normal
    assert burnish.compare(compiled, model, (draw((5, 8, 8, 1)), draw((5, 3))))


@pytest.mark.slow
def test_sequential_with_text(keras: Any) -> None:
    keras.utils.set_random_seed(0)
    layers = keras.layers
    ids = keras.Input((None,), dtype="int32", name="ids")
    model = keras.Sequential([ids, layers.Embedding(50, 8), layers.LSTM(6), layers.Dense(3)])
    compiled = checked(model)
    for shape in ((1, 4), (3, 9)):
        assert burnish.compare(compiled, model, np.arange(np.prod(shape)).reshape(shape))


@pytest.mark.slow
def test_subclass(keras: Any, tmp_path: Path) -> None:
    class Model(keras.Model):
        def __init__(self) -> None:
            super().__init__()
            self.dense = keras.layers.Dense(3)

        def call(self, x: Any, training: bool = False) -> Any:
            return self.dense(x), x

    model = Model()
    with pytest.raises(UsageError, match="needs example inputs"):
        burnish.compile(model)
    compiled = checked(model, example_inputs=X)
    assert [o.name for o in compiled.get_outputs()] == ["output_0", "output_1"]
    assert burnish.compare(compiled, model, X[:1])
