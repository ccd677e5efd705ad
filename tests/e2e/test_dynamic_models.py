"""Modules of torch whose shapes and control flow depend on data, as both exporters spell them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from burnish.check.reference import Reference
from burnish.driver import compile_artifact
from burnish.options import CompileOptions
from burnish.requests import CompileRequest
from burnish.runtime import load

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

pytestmark = pytest.mark.slow


class Experts(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Each row goes to the expert that its gate picks."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = torch.nn.Linear(8, 3)
        self.experts = torch.nn.ModuleList(
            torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 8))
            for _ in range(3)
        )

    def forward(self, x: Any) -> Any:
        choice = self.gate(x).argmax(-1)
        out = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            rows = torch.nonzero(choice == index)[:, 0]
            out = out.index_add(0, rows, expert(x[rows]))
        return out


class Selected(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Rows that a mask picks, and single elements above a bound."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 4)

    def forward(self, x: Any) -> Any:
        rows = x[x.sum(-1) > 0]
        where = torch.nonzero(x > 0.5)
        return torch.relu(self.linear(rows)), torch.softmax(x[where[:, 0], where[:, 1]], 0)


class Decoder(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A state that grows by a row in each iteration."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(8, 8)
        self.norm = torch.nn.LayerNorm(8)

    def forward(self, x: torch.Tensor, steps: int) -> tuple[torch.Tensor, torch.Tensor]:
        h = x[:, :1]
        for _ in range(steps):
            h = torch.cat([h, torch.tanh(self.norm(self.linear(h[:, -1:])))], 1)
        return h, torch.softmax(h @ h.transpose(1, 2), -1) @ h


class Residual(torch.nn.Module):  # type: ignore[misc, name-defined]
    """The same convolution again and again."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(4, 4, 3, padding=1)
        self.norm = torch.nn.BatchNorm2d(4)

    def forward(self, x: torch.Tensor, steps: int) -> torch.Tensor:
        for _ in range(steps):
            x = x + torch.relu(self.norm(self.conv(x)))
        return x


class Until(torch.nn.Module):  # type: ignore[misc, name-defined]
    """As often as the data want, then one of two shapes."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        while bool(x.sum() < 100.0):
            x = x * 1.5 + 0.1
        if bool(x[0] > 30):  # noqa: SIM108  (torch.jit.script takes statements)
            y = x[:2]
        else:
            y = torch.cat([x, x])
        return y


def floats(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


#: Module, whether it is scripted, exporters, and what it is called with.
ROWS: dict[str, tuple[Callable[[], Any], bool, tuple[bool, ...], list[tuple[Any, ...]]]] = {
    "experts": (Experts, False, (True, False), [(floats(s, 7, 8),) for s in range(3)]),
    "selected": (Selected, False, (True, False), [(floats(s, 6, 8),) for s in range(3)]),
    "decoder": (Decoder, True, (False,), [(floats(1, 1, 3, 8), 4), (floats(2, 2, 3, 8), 7)]),
    "residual": (
        Residual,
        True,
        (False,),
        [(floats(1, 1, 4, 6, 6), 3), (floats(2, 2, 4, 6, 6), 0)],
    ),
    "until": (Until, True, (False,), [(abs(floats(1, 4)),), (abs(floats(2, 9)),)]),
}
CASES = [(name, dynamo) for name, row in ROWS.items() for dynamo in row[2]]


def export(name: str, dynamo: bool, path: Path) -> Path:
    make, scripted, _, calls = ROWS[name]
    torch.manual_seed(0)
    module = make().eval()
    first, *rest = calls[0]
    arguments = (torch.from_numpy(first), *rest)
    names = ["x", "steps"][: len(arguments)]
    options: dict[str, Any] = {} if dynamo else {"opset_version": 17, "input_names": names}
    if scripted:
        module = torch.jit.script(module)
        options["dynamic_axes"] = {"x": {0: "n"}}
    torch.onnx.export(module, arguments, path, dynamo=dynamo, verbose=False, **options)
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "dynamo"), CASES, ids=str)
def test_equal_to_onnxruntime(name: str, dynamo: bool, tmp_path: Path) -> None:
    source = export(name, dynamo, tmp_path / "model.onnx")
    path = tmp_path / "model.burnish"
    compile_artifact(CompileRequest(str(source), str(path), CompileOptions(verify_ir=True)))
    with load(path, threads=2) as model, Reference(onnx.load(source), threads=1) as reference:
        for call in ROWS[name][3]:
            names = [i.name for i in model.get_inputs()]
            feeds = {key: np.asarray(value) for key, value in zip(names, call, strict=True)}
            wanted = reference.run(None, feeds)
            for found, expected in zip(model.run(None, feeds), wanted, strict=True):
                assert found.shape == expected.shape
                np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
