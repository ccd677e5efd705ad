"""The artifact's format, its writer and every way in which reading or writing it can fail."""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import tvm

from burnish.artifact import (
    ArtifactWriter,
    FileInfo,
    Manifest,
    NodeInfo,
    OutputCheck,
    PassInfo,
    TargetInfo,
    TensorInfo,
    Verification,
    Weight,
    check_destination,
    is_artifact,
    link_module,
    open_artifact,
    read_manifest,
    weight_from_array,
    write_artifact,
)
from burnish.artifact.cpu import cpu_features, parse_cpuinfo
from burnish.artifact.link import quiet_tvm
from burnish.artifact.weights import ALIGNMENT, read_header, write_weights
from burnish.errors import (
    ArtifactError,
    BurnishError,
    CompileError,
    InputFileError,
    TargetUnavailableError,
)
from burnish.runtime import load
from tests.support import handmade


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return handmade.affine_artifact(tmp_path_factory.mktemp("original") / "a.burnish")


@pytest.fixture
def artifact(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "a.burnish"))


def full_manifest() -> Manifest:
    return Manifest(
        model_name="größe",
        model_sha256="ab" * 32,
        target=TargetInfo("x86", "avx512", "x86_64", ("avx512f", "fma"), "x86-64-v4"),
        inputs=(TensorInfo("x", "float32", ("batch", 3, None, 8)),),
        outputs=(TensorInfo("y", "bfloat16", ()),),
        weights=(TensorInfo("w", "int8", (4, 16)),),
        nodes=(NodeInfo("y", "burnish::Conv", "fp32", "cpu", "conv_1", ("/conv1/Conv", "bn")),),
        passes=(PassInfo("canonicalize", 10, 8),),
        options={"opt_level": "2"},
        tools={"burnish": "0.1.0"},
        symbols={"batch": (1, 64)},
        verification=Verification(
            "onnxruntime", True, (OutputCheck("y", 1e-7, math.inf, "t", True),)
        ),
        files={"model.so": FileInfo(10, "cd" * 32)},
    )


class TestManifest:
    def test_text_and_back(self) -> None:
        text = full_manifest().to_json()
        assert Manifest.from_json(text) == full_manifest()
        assert Manifest.from_json(text).to_json() == text
        assert next(iter(json.loads(text))) == "schema_version"

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda m: m.pop("schema_version"), "no schema_version"),
            (lambda m: m.update(schema_version=99), "schema version 99, this burnish reads 4"),
            (lambda m: m.pop("inputs"), "no field 'inputs'"),
            (lambda m: m.update(unheard=1), "unknown field 'unheard'"),
            (lambda m: m["inputs"][0].update(dtype="float31"), "unknown element type 'float31'"),
            (lambda m: m["inputs"][0].update(shape=[1.5]), r"inputs\[0\]\.shape\[0\]"),
            (lambda m: m["inputs"][0].update(shape=7), "shape is not a list"),
            (lambda m: m["inputs"][0].update(shape=[True]), r"shape\[0\] has the wrong type"),
            (lambda m: m.update(target=None), "target is not an object"),
            (lambda m: m.update(nodes={}), "nodes is not a list"),
            (lambda m: m.update(options=[1]), "options is not an object"),
            (lambda m: m.update(symbols={"n": [1]}), "1 entries instead of 2"),
            (lambda m: m.update(model_sha256=5), "model_sha256 is 5, not of type str"),
            (lambda m: m.update(verification=3), "verification has the wrong type"),
        ],
    )
    def test_damage_is_named(self, change: Callable[[Any], Any], message: str) -> None:
        values = json.loads(full_manifest().to_json())
        change(values)
        with pytest.raises(ArtifactError, match=message):
            Manifest.from_json(json.dumps(values))

    @pytest.mark.parametrize("text", ["", "{", "[]", "null", '"x"'])
    def test_what_is_no_manifest(self, text: str) -> None:
        with pytest.raises(ArtifactError) as caught:
            Manifest.from_json(text, at="manifest.json")
        assert caught.value.at == "manifest.json"


class TestWeights:
    def test_aligned_and_readable_by_safetensors(self, tmp_path: Path) -> None:
        import ml_dtypes

        generator = np.random.default_rng(0)
        arrays = {
            "a": generator.standard_normal((3, 5)).astype(np.float32),
            "empty": np.zeros((0, 4), np.float32),
            "b": generator.integers(-9, 9, (7,), np.int8),
            "c": np.array(2.5),
            "flags": np.array([True, False, True]),
            "half": generator.standard_normal((2, 33)).astype(np.float16),
            "brain": generator.standard_normal(9).astype(ml_dtypes.bfloat16),
            "übung": generator.integers(0, 9, (64,), np.uint8),
        }
        path = tmp_path / "weights.safetensors"
        info = write_weights(path, [weight_from_array(n, a) for n, a in arrays.items()])
        assert info.size == path.stat().st_size
        assert info.size % ALIGNMENT == 0
        loaded = safetensors.numpy.load_file(path)
        header = read_header(path).tensors
        assert list(header) == list(arrays)
        content = path.read_bytes()
        for name, array in arrays.items():
            dtype, shape, offset = header[name]
            assert offset % ALIGNMENT == 0
            assert (dtype, shape) == (array.dtype.name, array.shape)
            assert content[offset : offset + array.nbytes] == array.tobytes()
            np.testing.assert_array_equal(loaded[name], array)

    def test_data_is_made_one_at_a_time(self, tmp_path: Path) -> None:
        alive: set[int] = set()
        most = 0

        def make(value: int) -> Callable[[], Any]:
            def data() -> Any:
                nonlocal most
                array = np.full(1000, value)
                alive.add(value)
                most = max(most, len(alive))
                weakref.finalize(array, alive.remove, value)
                return array

            return data

        weights = [Weight(f"w{i}", "int64", (1000,), make(i)) for i in range(5)]
        write_weights(tmp_path / "w", weights)
        assert most == 1
        loaded = safetensors.numpy.load_file(tmp_path / "w")
        assert [loaded[f"w{i}"][7] for i in range(5)] == list(range(5))

    def test_strided_data_is_written_in_order(self, tmp_path: Path) -> None:
        array = np.arange(12, dtype=np.int32).reshape(3, 4).T
        write_weights(tmp_path / "w", [weight_from_array("w", array)])
        np.testing.assert_array_equal(safetensors.numpy.load_file(tmp_path / "w")["w"], array)

    def test_refused(self, tmp_path: Path) -> None:
        one = weight_from_array("w", np.ones(3))
        with pytest.raises(ValueError, match="taken"):
            write_weights(tmp_path / "w", [one, one])
        with pytest.raises(ValueError, match="12 bytes, not 24"):
            write_weights(tmp_path / "w", [replace(one, dtype="float32")])

    def test_no_weights(self, tmp_path: Path) -> None:
        write_weights(tmp_path / "w", [])
        assert read_header(tmp_path / "w").tensors == {}


class TestReading:
    def test_whole_artifacts(self, artifact: Path) -> None:
        assert is_artifact(artifact)
        assert not is_artifact(artifact.parent)
        opened = open_artifact(artifact, verify=True)
        assert opened.offsets == (open_artifact(artifact).offsets[0],)
        assert opened.offsets[0] % ALIGNMENT == 0
        assert read_manifest(artifact) == opened.manifest

    @pytest.mark.parametrize(
        ("name", "damage", "message"),
        [
            ("model.so", lambda b: b[:-1], "model.so has .* bytes instead of"),
            ("model.so", lambda b: bytes([b[0] ^ 1]) + b[1:], "model.so was changed"),
            ("model.so", None, "no model.so"),
            ("weights.safetensors", lambda b: b[:-64], "has .* bytes instead of"),
            ("weights.safetensors", lambda b: b[:-1] + b"\1", "weights.safetensors was changed"),
            ("weights.safetensors", lambda b: b.replace(b"F32", b"I32"), "was changed"),
            ("weights.safetensors", lambda b: b"\xff" * len(b), "weights file is truncated"),
            ("weights.safetensors", lambda b: b[:8] + b"x" * (len(b) - 8), "cannot be read"),
            ("weights.safetensors", None, "no weights.safetensors"),
            ("manifest.json", lambda b: b[:100], "not valid JSON"),
            ("manifest.json", lambda b: b"\xff" + b, "cannot be read"),
            ("manifest.json", None, "no manifest.json"),
        ],
    )
    def test_damage_is_found_before_code_is_loaded(
        self, artifact: Path, name: str, damage: Callable[[bytes], bytes] | None, message: str
    ) -> None:
        file = artifact / name
        if damage is None:
            file.unlink()
        else:
            file.write_bytes(damage(file.read_bytes()))
        with pytest.raises(ArtifactError, match=message) as caught:
            load(artifact)
        assert caught.value.exit_code == 2
        assert caught.value.at is not None

    def test_a_flipped_bit_inside_a_large_tensor_needs_the_full_check(self, tmp_path: Path) -> None:
        library = tmp_path / "model.so"
        library.write_bytes(b"not loaded here")
        weight = weight_from_array("w", np.arange(10_000, dtype=np.float32))
        path = tmp_path / "a.burnish"
        write_artifact(path, handmade.manifest([], [], [weight.info]), library, [weight])
        file = path / "weights.safetensors"
        content = bytearray(file.read_bytes())
        content[20_000] ^= 1
        file.write_bytes(content)
        open_artifact(path)
        with pytest.raises(ArtifactError, match="was changed"):
            open_artifact(path, verify=True)

    def test_a_manifest_that_does_not_fit_the_weights(self, artifact: Path) -> None:
        manifest = read_manifest(artifact)
        wrong = replace(manifest, weights=(TensorInfo("w", "float32", (8,)),))
        (artifact / "manifest.json").write_text(wrong.to_json())
        with pytest.raises(ArtifactError, match="disagree about 'w'"):
            load(artifact)

    @pytest.mark.parametrize(
        ("target", "message"),
        [
            (TargetInfo("x86", "future", "x86_64", ("sse2", "avx4096")), "lacks .*: avx4096"),
            (
                TargetInfo("arm", "neon", "sparc", ("asimd",)),
                "it is for sparc, and this machine is",
            ),
        ],
    )
    def test_another_machine(self, artifact: Path, target: TargetInfo, message: str) -> None:
        manifest = replace(read_manifest(artifact), target=target)
        (artifact / "manifest.json").write_text(manifest.to_json())
        with pytest.raises(ArtifactError, match=message) as caught:
            load(artifact)
        assert "avx4096" not in str(caught.value) or "sse2" not in str(caught.value)

    def test_cpuinfo(self) -> None:
        assert parse_cpuinfo("processor: 0\nflags\t\t: fpu sse2 avx512f\n") == {
            "fpu",
            "sse2",
            "avx512f",
        }
        assert parse_cpuinfo("Features : fp asimd\n") == {"fp", "asimd"}
        assert parse_cpuinfo("") == frozenset()
        assert "sse2" in cpu_features()


class TestWriting:
    def test_nothing_is_left_beside_it(self, original: Path) -> None:
        assert [p.name for p in original.parent.iterdir()] == ["a.burnish"]
        names = sorted(p.name for p in original.iterdir())
        assert names == ["manifest.json", "model.so", "weights.safetensors"]

    def test_permissions_follow_the_umask(self, original: Path) -> None:
        mask = os.umask(0)
        os.umask(mask)
        assert original.stat().st_mode & 0o777 == 0o777 & ~mask
        assert (original / "manifest.json").stat().st_mode & 0o777 == 0o666 & ~mask

    def test_existing_paths(self, artifact: Path, tmp_path: Path) -> None:
        with pytest.raises(InputFileError, match="exists"):
            check_destination(artifact)
        check_destination(artifact, overwrite=True)
        for name, make in (("file", Path.touch), ("folder", Path.mkdir)):
            make(tmp_path / name)
            with pytest.raises(InputFileError, match="not an artifact"):
                check_destination(tmp_path / name, overwrite=True)
        (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
        with pytest.raises(InputFileError, match="exists"):
            check_destination(tmp_path / "dangling")

    @pytest.mark.parametrize(
        ("path", "hint"), [("missing/a.burnish", "create the folder"), ("file/a.burnish", "file")]
    )
    def test_bad_parents(self, tmp_path: Path, path: str, hint: str) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(InputFileError) as caught:
            check_destination(tmp_path / path)
        assert hint in str(caught.value.hint)

    def test_overwriting_replaces_the_whole_artifact(self, artifact: Path) -> None:
        (artifact / "extra").touch()
        library = artifact.parent / "model.so"
        shutil.copyfile(artifact / "model.so", library)
        weight = weight_from_array("w", handmade.WEIGHT * 2)
        manifest = replace(read_manifest(artifact), files={})
        write_artifact(artifact, manifest, library, [weight], overwrite=True)
        assert not (artifact / "extra").exists()
        x = np.ones((1, 16), np.float32)
        expected = (x * handmade.WEIGHT * 2 + 1) * handmade.WEIGHT * 2 + 1
        np.testing.assert_allclose(load(artifact).run(None, {"x": x})[0], expected, rtol=1e-6)
        assert sorted(p.name for p in artifact.parent.iterdir()) == ["a.burnish", "model.so"]

    @pytest.mark.parametrize(
        ("error", "raised"),
        [
            (OSError(errno.ENOSPC, "full"), InputFileError),
            (OSError(errno.EACCES, "no"), InputFileError),
            (KeyboardInterrupt(), KeyboardInterrupt),
            (ValueError("a bug"), ValueError),
        ],
    )
    def test_failures_leave_nothing(
        self, original: Path, tmp_path: Path, error: BaseException, raised: type[BaseException]
    ) -> None:
        def fail() -> Any:
            raise error

        weights = [
            weight_from_array("a", np.ones(100)),
            Weight("b", "float32", (4,), fail),
        ]
        with pytest.raises(raised) as caught:
            write_artifact(
                tmp_path / "a.burnish", handmade.manifest([], []), original / "model.so", weights
            )
        assert list(tmp_path.iterdir()) == []
        if isinstance(caught.value, BurnishError):
            assert caught.value.exit_code == 2
            assert caught.value.hint

    def test_a_disk_that_fails_when_it_is_flushed(
        self, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        flushed = []

        def fail(path: Path) -> None:
            flushed.append(path.name)
            if path.name == "weights.safetensors":
                raise OSError(errno.EIO, "bad block")

        monkeypatch.setattr("burnish.artifact.writer._flush", fail)
        weight = weight_from_array("w", handmade.WEIGHT)
        with pytest.raises(InputFileError, match="Input/output error"):
            write_artifact(
                tmp_path / "a.burnish", handmade.manifest([], []), original / "model.so", [weight]
            )
        assert flushed == ["weights.safetensors"]
        assert list(tmp_path.iterdir()) == []

    def test_a_really_full_disk(self, original: Path, tmp_path: Path) -> None:
        # /dev/full fails every write with ENOSPC, at the latest when the file is flushed.
        with ArtifactWriter(tmp_path / "a.burnish") as writer:
            (writer.folder / "weights.safetensors").symlink_to("/dev/full")
            with pytest.raises(InputFileError, match="No space left") as caught:
                writer.write_weights([weight_from_array("w", np.ones(100_000))])
            assert "space" in str(caught.value.hint)
        assert list(tmp_path.iterdir()) == []

    def test_unfinished_artifacts_disappear(self, tmp_path: Path) -> None:
        with ArtifactWriter(tmp_path / "a.burnish") as writer:
            writer.write_weights([])
            with pytest.raises(RuntimeError, match="no library"):
                writer.finish(handmade.manifest([], []))
        assert list(tmp_path.iterdir()) == []


class TestDeterminism:
    def test_linking_twice_gives_the_same_bytes(self, tmp_path: Path) -> None:
        for name in ("one.so", "two.so"):
            n = tvm.tirx.Var("n", "int64")
            mod = handmade.module(
                [("x", (n, 16), "float32"), ("w", (16,), "float32")],
                lambda builder, kernels, x, w: [
                    handmade.call(builder, kernels["affine"], [x, w], x.ty.shape),
                    handmade.call(builder, kernels["other"], [x, w], x.ty.shape),
                ],
                [(k, handmade.affine_kernel(k)) for k in ("affine", "other")],
            )
            handmade.compile_library(mod, tmp_path / name)
        one, two = ((tmp_path / name).read_bytes() for name in ("one.so", "two.so"))
        assert one == two
        assert b"/tmp" not in one

    def test_writing_twice_gives_the_same_bytes(self, tmp_path: Path) -> None:
        for name in ("a", "b"):
            handmade.affine_artifact(tmp_path / name)
        for file in (tmp_path / "a").iterdir():
            assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()

    def test_failing_linkers(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        class Executable:
            def export_library(self, path: str, fcompile: Any, workspace_dir: str) -> None:
                os.write(2, b"Warning: Scope Saving:global\nsomething else\n")
                fcompile(path, [workspace_dir + "/absent.o"])

        with pytest.raises(CompileError, match="linking") as failed:
            link_module(Executable(), tmp_path / "model.so")
        assert "absent.o" in str(failed.value.hint)
        linker = tmp_path / "ld"
        linker.write_text(
            "#!/bin/sh\necho 'final link failed: No space left on device' >&2\nexit 1"
        )
        linker.chmod(0o755)
        monkeypatch.setenv("CXX", f"{linker} -m64")
        with pytest.raises(InputFileError, match="disk is full"):
            link_module(Executable(), tmp_path / "model.so")

    def test_only_known_noise_is_held_back(self, capfd: pytest.CaptureFixture[str]) -> None:
        with quiet_tvm():
            os.write(2, b"[10:00] executable.cc:276: Warning: Scope Saving:global\nimportant\n")
        assert capfd.readouterr().err == "important\n"

    def test_a_missing_linker(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CXX", "no-such-compiler")
        with pytest.raises(TargetUnavailableError, match="no-such-compiler was not found") as e:
            link_module(None, tmp_path / "model.so")
        assert e.value.exit_code == 5
        assert "apt install g++" in str(e.value.hint)
