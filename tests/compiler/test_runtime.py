"""Loading and running artifacts: results, inputs, outputs, errors, and what a process pays."""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tvm import relax, tirx

from burnish.artifact import TensorInfo, weight_from_array, write_artifact
from burnish.errors import (
    ArtifactError,
    InputFileError,
    InvalidInputError,
    RunError,
    UsageError,
)
from burnish.runtime import CompiledModel, default_threads, load
from tests.support import handmade


@pytest.fixture(scope="module")
def affine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return handmade.affine_artifact(tmp_path_factory.mktemp("affine") / "affine.burnish")


@pytest.fixture
def model(affine: Path) -> Iterator[CompiledModel]:
    with load(affine, threads=1) as loaded:
        yield loaded


@pytest.fixture(scope="module")
def passes_through(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """No kernel: returns its inputs, the first one twice, and its weight."""
    n = tirx.Var("n", "int64")
    m = tirx.Var("m", "int64")
    params = [
        ("a", (n, m), "float32"),
        ("b", (m,), "uint16"),  # as code sees bfloat16
        ("flag", (), "bool"),
        ("ids", (2, n), "int64"),
        ("w", (3,), "float16"),
    ]
    mod = handmade.module(params, lambda builder, kernels, a, b, f, i, w: [a, b, f, i, a, w])
    folder = tmp_path_factory.mktemp("through")
    handmade.compile_library(mod, folder / "model.so")
    weight = weight_from_array("w", np.array([1.5, -2, 3], np.float16))
    inputs = [
        TensorInfo("a", "float32", ("n", "m")),
        TensorInfo("b", "bfloat16", ("m",)),
        TensorInfo("flag", "bool", ()),
        TensorInfo("ids", "int64", (2, "n")),
    ]
    outputs = [
        *(TensorInfo(f"{i.name}_out", i.dtype, i.shape) for i in inputs),
        TensorInfo("again", "float32", ("n", "m")),
        TensorInfo("w_out", "float16", (3,)),
    ]
    path = folder / "through.burnish"
    write_artifact(
        path, handmade.manifest(inputs, outputs, [weight.info]), folder / "model.so", [weight]
    )
    return path


def rows(count: int, seed: int = 0) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).standard_normal((count, 16), dtype=np.float32)


def feeds() -> dict[str, Any]:
    import ml_dtypes

    return {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3) - 2.5,
        "b": np.array([0.5, -3, 1e30], ml_dtypes.bfloat16),
        "flag": np.array(True),
        "ids": np.array([[1, -2], [2**40, 7]]),
    }


class TestResults:
    @pytest.mark.parametrize("count", [1, 2, 7, 1000, 0])
    @pytest.mark.parametrize("threads", [1, 2, 3])
    def test_any_size_of_a_symbolic_dim(self, affine: Path, count: int, threads: int) -> None:
        with load(affine, threads=threads) as model:
            x = rows(count)
            (y,) = model.run(None, {"x": x})
            np.testing.assert_allclose(y, handmade.affine_reference(x), rtol=1e-6)
            assert y.dtype == np.float32

    def test_every_dtype_and_rank_passes_through(self, passes_through: Path) -> None:
        model = load(passes_through)
        given = feeds()
        outputs = model(**given)
        for name in ("a", "b", "flag", "ids"):
            assert outputs[f"{name}_out"].dtype == given[name].dtype
            np.testing.assert_array_equal(outputs[f"{name}_out"], given[name])
        np.testing.assert_array_equal(outputs["again"], given["a"])
        np.testing.assert_array_equal(outputs["w_out"], np.array([1.5, -2, 3], np.float16))

    def test_outputs_are_the_callers_own(self, passes_through: Path) -> None:
        model = load(passes_through)
        given = feeds()
        outputs = model(**given)
        kept = {name: np.array(value) for name, value in given.items()}
        for value in outputs.values():
            value[...] = 0
        for name, value in kept.items():
            np.testing.assert_array_equal(given[name], value)
        again = model(**given)
        np.testing.assert_array_equal(again["w_out"], np.array([1.5, -2, 3], np.float16))
        outputs["a_out"][...] = 9
        assert not np.any(outputs["again"] == 9)

    def test_outputs_outlive_the_model_and_later_runs(self, affine: Path) -> None:
        model = load(affine, threads=1)
        inputs = [rows(5, seed) for seed in range(20)]
        outputs = [model.run(None, {"x": x})[0] for x in inputs]
        model.close()
        del model
        for x, y in zip(inputs, outputs, strict=True):
            np.testing.assert_allclose(y, handmade.affine_reference(x), rtol=1e-6)

    def test_run_selects_outputs_by_name(self, passes_through: Path) -> None:
        model = load(passes_through)
        ids, a = model.run(["ids_out", "a_out"], feeds())
        assert ids.shape == (2, 2)
        assert a.shape == (2, 3)
        with pytest.raises(InvalidInputError, match="no output 'ids'"):
            model.run(["ids"], feeds())

    def test_profile_names_the_kernels(self, model: CompiledModel) -> None:
        calls = model.profile({"x": rows(1000)})
        kernels = [call for call in calls if call.name == "affine"]
        assert len(kernels) == 2
        assert all(call.duration_us > 0 for call in kernels)
        assert kernels[0].start_us + kernels[0].duration_us <= kernels[1].start_us
        assert len(model.profile({"x": rows(3)})) == len(calls)
        np.testing.assert_allclose(
            model.run(None, {"x": rows(3)})[0], handmade.affine_reference(rows(3)), rtol=1e-6
        )


class TestDescription:
    def test_arguments_are_described_as_onnxruntime_does(self, passes_through: Path) -> None:
        model = load(passes_through)
        found = [(i.name, i.type, i.shape) for i in model.get_inputs()]
        assert found == [
            ("a", "tensor(float)", ["n", "m"]),
            ("b", "tensor(bfloat16)", ["m"]),
            ("flag", "tensor(bool)", []),
            ("ids", "tensor(int64)", [2, "n"]),
        ]
        assert [o.name for o in model.get_outputs()][-2:] == ["again", "w_out"]
        assert model.manifest.target == handmade.TARGET

    def test_threads(self, affine: Path) -> None:
        model = load(affine)
        assert model.threads == default_threads() >= 1
        model.threads = 3
        assert model.threads == 3
        for wrong in (0, -1, 1.5, True, "2"):
            with pytest.raises(UsageError, match="positive integer"):
                model.threads = wrong  # type: ignore[assignment]


class TestInputs:
    def test_views_are_copied_and_the_result_is_right(self, model: CompiledModel) -> None:
        x = rows(12)
        raw = np.zeros(x.nbytes + 4, np.uint8)
        misaligned = raw[1 : 1 + x.nbytes].view(np.float32).reshape(x.shape)
        misaligned[...] = x
        assert not misaligned.flags.aligned
        read_only = x.copy()
        read_only.flags.writeable = False
        variants = [
            np.asfortranarray(x),
            np.ascontiguousarray(x[::-1])[::-1],
            misaligned,
            read_only,
            x.astype(">f4"),
            x.tolist() and np.array(x.tolist(), np.float32),
        ]
        for variant in variants:
            (y,) = model.run(None, {"x": variant})
            np.testing.assert_allclose(y, handmade.affine_reference(x), rtol=1e-6)

    def test_four_byte_alignment_is_enough_without_a_copy(self, model: CompiledModel) -> None:
        raw = np.zeros(12 * 16 + 16, np.float32)
        x = rows(12)
        for shift in range(16):
            view = raw[shift : shift + x.size].reshape(x.shape)
            view[...] = x
            (y,) = model.run(None, {"x": view})
            np.testing.assert_allclose(y, handmade.affine_reference(x), rtol=1e-6)

    def test_torch_tensors_in_and_out(self, affine: Path, passes_through: Path) -> None:
        torch = pytest.importorskip("torch")
        model = load(affine, threads=1)
        x = rows(6)
        tensor = torch.from_numpy(x).requires_grad_()
        y = model(x=tensor)["y"]
        assert isinstance(y, torch.Tensor)
        np.testing.assert_allclose(y.numpy(), handmade.affine_reference(x), rtol=1e-6)
        transposed = torch.from_numpy(np.ascontiguousarray(x.T)).T
        (again,) = model.run(None, {"x": transposed})
        np.testing.assert_array_equal(again, y.numpy())
        given = {name: value for name, value in feeds().items() if name != "b"}
        bf16 = torch.tensor([0.5, -3, 1e30], dtype=torch.bfloat16)
        outputs = load(passes_through)(**given, b=bf16)
        assert torch.equal(outputs["b_out"], bf16)

    def test_numpy_outputs_go_on_through_dlpack_without_a_copy(self, model: CompiledModel) -> None:
        y = model(x=rows(4))["y"]
        shared = np.from_dlpack(y)
        assert shared.__array_interface__["data"][0] == y.__array_interface__["data"][0]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"a": None}, r"missing: 'a'"),
            ({"extra": np.ones(1)}, r"unknown: 'extra'"),
            ({"a": np.ones((2, 3))}, r"'a' has a wrong dtype: expected float32, got float64"),
            ({"ids": np.ones((2, 2), np.int32)}, r"'ids' has a wrong dtype: expected int64"),
            ({"b": np.ones(3, np.uint16)}, r"'b' has a wrong dtype: expected bfloat16"),
            ({"a": np.ones((2, 3, 1), np.float32)}, r"'a' has a wrong rank: expected 2, got 3"),
            ({"ids": np.ones((3, 2), np.int64)}, r"'ids' .* axis 0: expected 2, got 3"),
            ({"ids": np.ones((2, 5), np.int64)}, r"'ids' .* axis 1: expected 2 \(n, as in 'a'\)"),
            ({"a": [[1, 2], [3]]}, r"'a' is no array"),
            ({"a": "text"}, r"'a' has a wrong dtype"),
            ({"a": object()}, r"'a' has a wrong dtype"),
        ],
    )
    def test_wrong_inputs(self, passes_through: Path, change: dict[str, Any], message: str) -> None:
        model = load(passes_through)
        given = {k: v for k, v in (feeds() | change).items() if v is not None}
        with pytest.raises(InvalidInputError, match=message) as caught:
            model.run(None, given)
        assert caught.value.at in given.keys() | {"a"}
        assert caught.value.exit_code == 4
        model.run(None, feeds())

    def test_bounds_of_a_symbolic_dim(self, affine: Path, tmp_path: Path) -> None:
        from dataclasses import replace

        weight = weight_from_array("w", handmade.WEIGHT)
        source = load(affine).manifest
        path = tmp_path / "bounded.burnish"
        bounded = replace(source, files={}, symbols={"n": (2, 8)})
        write_artifact(path, bounded, affine / "model.so", [weight])
        model = load(path)
        model.run(None, {"x": rows(8)})
        for count in (1, 9):
            with pytest.raises(InvalidInputError, match=r"\(n\): expected 2 to 8"):
                model.run(None, {"x": rows(count)})


class TestFailures:
    def test_a_failing_run_is_a_run_error_and_the_model_still_works(self, tmp_path: Path) -> None:
        # The library wants b to have twice as many elements as a; the manifest does not say so.
        n = tirx.Var("n", "int64")
        params = [("a", (n,), "float32"), ("b", (n * 2,), "float32")]
        mod = handmade.module(params, lambda builder, kernels, a, b: [b])
        handmade.compile_library(mod, tmp_path / "model.so")
        inputs = [TensorInfo("a", "float32", ("n",)), TensorInfo("b", "float32", ("m",))]
        outputs = [TensorInfo("c", "float32", ("m",))]
        path = tmp_path / "double.burnish"
        write_artifact(path, handmade.manifest(inputs, outputs), tmp_path / "model.so", [])
        model = load(path)
        good = {"a": np.ones(2, np.float32), "b": np.arange(4, dtype=np.float32)}
        bad = good | {"b": np.ones(5, np.float32)}
        for _ in range(3):
            np.testing.assert_array_equal(model.run(None, good)[0], good["b"])
            with pytest.raises(RunError, match="match_cast"):
                model.run(None, bad)

    def test_a_closed_model(self, affine: Path) -> None:
        model = load(affine)
        model.close()
        model.close()
        with pytest.raises(RunError, match="closed"):
            model.run(None, {"x": rows(1)})

    def test_no_such_artifact(self, tmp_path: Path) -> None:
        with pytest.raises(InputFileError, match="no such file"):
            load(tmp_path / "absent.burnish")
        with pytest.raises(ArtifactError, match=r"no manifest\.json"):
            load(tmp_path)


class TestMemory:
    def test_memory_does_not_grow_with_the_number_of_sizes(self, model: CompiledModel) -> None:
        largest = 4096
        for _ in range(3):
            model.run(None, {"x": rows(largest)})
        before = model.memory
        for count in range(1, largest, 37):
            model.run(None, {"x": rows(count)})
        # One set of blocks for every size, as TVM's allocator keeps, would be 50 times as much.
        assert model.memory <= 3 * before

    def test_the_same_size_needs_no_new_memory(self, model: CompiledModel) -> None:
        seen = set()
        for i in range(300):
            outputs = model.run(None, {"x": rows(1000)})
            del outputs
            if i > 2:
                seen.add(model.memory)
        assert len(seen) == 1

    def test_unused_memory_is_given_back(self, model: CompiledModel) -> None:
        model.run(None, {"x": rows(100_000)})
        before = model.memory
        for _ in range(300):
            model.run(None, {"x": rows(10)})
        assert model.memory < before / 100

    def test_save_and_load(self, model: CompiledModel, tmp_path: Path) -> None:
        saved = model.save(tmp_path / "copy.burnish")
        for name in ("manifest.json", "model.so", "weights.safetensors"):
            assert (saved / name).read_bytes() == (model.path / name).read_bytes()
        (y,) = load(saved).run(None, {"x": rows(2)})
        np.testing.assert_allclose(y, handmade.affine_reference(rows(2)), rtol=1e-6)
        with pytest.raises(InputFileError, match="exists"):
            model.save(saved)
        model.save(saved, overwrite=True)


_FRESH = """
import sys, time
start = time.perf_counter()
import burnish.runtime
import numpy as np
model = burnish.runtime.load(sys.argv[1], threads=2)
model.run(None, {"x": np.ones((3, 16), np.float32)})
print(time.perf_counter() - start)
for name in ("tvm", "tvm_ffi", "onnx", "onnxruntime", "torch"):
    assert name not in sys.modules, name
loaded = open("/proc/self/maps").read()
assert "libtvm_runtime" in loaded
assert "libtvm_compiler" not in loaded
"""


def test_a_fresh_process_runs_a_small_model_in_half_a_second(affine: Path) -> None:
    best = 1e9
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", _FRESH, str(affine)], check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Processor time, which is the wall time of an idle machine: others may be using this one.
        spent = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
        best = min(best, spent)
        if best < 0.4:
            break
    assert best < 0.5


def test_a_call_costs_microseconds(affine: Path) -> None:
    model = load(affine, threads=1)
    given = {"x": rows(1)}
    best = 1e9
    for _ in range(3000):
        begin = time.perf_counter()
        model.run(None, given)
        best = min(best, time.perf_counter() - begin)
    # Two kernels; 6 µs where this was written.
    assert best < 30e-6


@pytest.mark.timing
@pytest.mark.slow
def test_a_model_of_berts_size_loads_in_a_third_of_a_second(tmp_path: Path) -> None:
    count, size = 200, 550_000
    n = tirx.Var("n", "int64")
    params = [("x", (n,), "float32"), *((f"w{i}", (size,), "float32") for i in range(count))]

    def body(builder: Any, kernels: Any, x: relax.Var, *weights: relax.Var) -> list[Any]:
        return [x, weights[-1]]

    handmade.compile_library(handmade.module(params, body), tmp_path / "model.so")
    values = np.random.default_rng(0).standard_normal(size, dtype=np.float32)
    weights = [weight_from_array(f"w{i}", values) for i in range(count)]
    path = tmp_path / "large.burnish"
    described = handmade.manifest(
        [TensorInfo("x", "float32", ("n",))],
        [TensorInfo("y", "float32", ("n",)), TensorInfo("w", "float32", (size,))],
        [w.info for w in weights],
    )
    write_artifact(path, described, tmp_path / "model.so", weights)
    best = 1e9
    for _ in range(5):
        begin = time.perf_counter()
        model = load(path)
        best = min(best, time.perf_counter() - begin)
    np.testing.assert_array_equal(model.run(None, {"x": values[:2]})[1], values)
    assert best < 0.3
    load(path, verify=True)
