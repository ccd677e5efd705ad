"""The ARM backend's table of cores, its errors, and what LLVM makes of its kernels."""

from __future__ import annotations

import json
import platform
import re
from pathlib import Path

import onnx
import pytest
from tvm.target import Target
from tvm.target.codegen import llvm_get_cpu_features

from burnish.artifact import cross_compiler
from burnish.backends.arm import ARM
from burnish.backends.arm.cores import CORES, Core
from burnish.backends.registry import resolve_target
from burnish.cli.main import main
from burnish.errors import TargetUnavailableError, UsageError
from burnish.report.doctor import checks
from tests.support.onnx_text import parse

cross = pytest.mark.skipif(platform.machine() == "aarch64", reason="cross-building")

#: LLVM's features that bring instructions which it uses by itself, and their names in the kernel's
#: arch/arm64/kernel/cpuinfo.c. The rest are of the system, of the schedule, or for intrinsics only.
HWCAPS = {
    "fp-armv8": ("fp",),
    "neon": ("asimd",),
    "crc": ("crc32",),
    "lse": ("atomics",),
    "lse2": ("uscat",),
    "rdm": ("asimdrdm",),
    "fullfp16": ("fphp", "asimdhp"),
    "fp16fml": ("asimdfhm",),
    "dotprod": ("asimddp",),
    "rcpc": ("lrcpc",),
    "rcpc-immo": ("ilrcpc",),
    "rcpc3": ("lrcpc3",),
    "jsconv": ("jscvt",),
    "complxnum": ("fcma",),
    "flagm": ("flagm",),
    "altnzcv": ("flagm2",),
    "fptoint": ("frint",),
    "i8mm": ("i8mm",),
    "bf16": ("bf16",),
    "aes": ("aes", "pmull"),
    "sha2": ("sha1", "sha2"),
    "sha3": ("sha3", "sha512"),
    "sm4": ("sm3", "sm4"),
    "sve": ("sve",),
    "sve2": ("sve2",),
    "sve-bitperm": ("svebitperm",),
    "sme": ("sme",),
    "cssc": ("cssc",),
    "mops": ("mops",),
}


@pytest.mark.parametrize("core", CORES.values(), ids=CORES)
def test_features_are_what_llvm_may_use(core: Core) -> None:
    """Less would be an illegal instruction, more a refusal for nothing."""
    allowed = set(map(str, llvm_get_cpu_features(Target(core.target()))))
    expected = {name for feature in allowed for name in HWCAPS.get(feature, ())}
    assert set(core.features) == expected


def test_every_feature_is_known() -> None:
    """What a new LLVM adds to a core has to be looked at."""
    harmless = re.compile(
        r"v\d\.?\d?a|.*(fuse|fusion|slow|fast|expensive|sched|opt|cost|interleave|tune|maximize).*|"
        r"a\d+|neoverse\w+|use-.*|no-.*|avoid-.*|el2vmsa|el3|ete|trbe|spe|perfmon|pan|pan-rwv|ras|"
        r"lor|vh|uaops|CONTEXTIDREL2|am|ccdp|ccidx|ccpp|dit|mpam|nv|pauth|rand|sel2|ssbs|tlb-rmi|"
        r"tracev8.4|bti|fpac|mte|predres|sb|specrestrict"
    )
    for core in CORES.values():
        allowed = set(map(str, llvm_get_cpu_features(Target(core.target()))))
        unknown = {f for f in allowed if f not in HWCAPS and not harmless.fullmatch(f)}
        assert not unknown, core.name


@pytest.mark.parametrize("spec", ARM.specs)
def test_every_spelling_resolves(spec: str) -> None:
    try:
        cross_compiler("aarch64")
    except TargetUnavailableError as error:
        pytest.skip(str(error))
    target = resolve_target(spec)
    assert (target.spec, target.machine, target.isa.lanes) == (spec, "aarch64", 4)
    assert target.features == target.isa.features
    assert dict(target.tvm) == target.isa.target


def test_a_core_that_nobody_knows() -> None:
    with pytest.raises(UsageError, match="unknown ARM core 'cortex-m0'") as error:
        resolve_target("arm:cortex-m0")
    assert "arm:neoverse-n1" in str(error.value.hint)


@cross
def test_no_cross_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        TargetUnavailableError, match="aarch64-linux-gnu-g\\+\\+ was not found"
    ) as e:
        resolve_target("arm")
    assert e.value.exit_code == 5
    assert "apt install g++-aarch64-linux-gnu" in str(e.value.hint)


@cross
def test_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit codes, and what to install, before anything is compiled."""
    model = tmp_path / "m.onnx"
    onnx.save(parse("m (float[2] x) => (float[2] y) { y = Neg(x) }"), model)
    command = ["compile", str(model), "-o", str(tmp_path / "m.burnish"), "--target"]
    assert main([*command, "arm:m0"]) == 2
    assert "one of: arm:generic, " in capsys.readouterr().err
    monkeypatch.setenv("PATH", "/nowhere")
    assert main([*command, "arm"]) == 5
    assert "hint: install it (Debian, Ubuntu: apt install g++-aarch64-linux-gnu)" in (
        capsys.readouterr().err
    )
    assert main(["runner", str(tmp_path / "bundle"), "--target", "arm"]) == 5
    assert not (tmp_path / "bundle").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["m.onnx"]


@cross
def test_doctor_and_targets_say_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    (row,) = [row for row in checks() if row.name == "target arm"]
    assert not row.ok
    assert not row.required
    assert "apt install g++-aarch64-linux-gnu" in row.fix
    assert main(["targets", "--json", "-"]) == 0
    rows = {row["target"]: row for row in json.loads(capsys.readouterr().out)["targets"]}
    assert not rows["arm:neoverse-n1"]["builds"]
    assert "cross compiler" in rows["arm:neoverse-n1"]["why"]


def test_x86_on_an_arm_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """The other way round it is the same."""
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(TargetUnavailableError, match=r"x86_64-linux-gnu-g\+\+ was not") as error:
        resolve_target("x86-64-v3")
    assert "apt install g++-x86-64-linux-gnu" in str(error.value.hint)
    assert resolve_target("arm").linker is None
