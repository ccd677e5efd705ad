from __future__ import annotations

import logging
import random

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from burnish.errors import UsageError  # noqa: E402
from burnish.frontends import torch_state  # noqa: E402
from burnish.frontends.torch_state import evaluating, on_cpu, quiet, unwrapped  # noqa: E402


def net() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout(0.5)
    )


def test_everything_is_as_it_was() -> None:
    module = net().train()
    module[1].eval()
    module(torch.randn(3, 4)).sum().backward()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    gradients = [parameter.grad.clone() for parameter in module.parameters()]
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002  # what users have
    torch.manual_seed(1)
    expected = random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    torch.manual_seed(1)
    fastpath = torch.backends.mha.get_fastpath_enabled()
    with torch.autocast("cpu", dtype=torch.bfloat16), evaluating(module):
        assert not any(part.training for part in module.modules())
        assert not torch.is_grad_enabled()
        assert module(torch.randn(3, 4)).dtype == torch.float32
        assert not torch.backends.mha.get_fastpath_enabled()
        random.random(), np.random.rand(), torch.rand(1)  # noqa: NPY002
    assert (random.random(), np.random.rand(), torch.rand(1)) == expected  # noqa: NPY002
    assert [part.training for part in module.modules()] == [True, True, False, True]
    assert torch.is_grad_enabled()
    assert torch.backends.mha.get_fastpath_enabled() == fastpath
    for name, value in module.state_dict().items():
        assert torch.equal(value, before[name])
    for parameter, gradient in zip(module.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)


def test_state_returns_after_an_error() -> None:
    module = net().train()
    state = torch.get_rng_state()

    def fail() -> None:
        with evaluating(module):
            torch.rand(1)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert module.training
    assert torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), state)


def test_train_that_does_more_is_called() -> None:
    class Merging(torch.nn.Linear):
        merged = False

        def train(self, mode: bool = True) -> Merging:
            self.merged = not mode
            return super().train(mode)

    module = Merging(2, 2)
    with evaluating(module):
        assert module.merged
    assert not module.merged
    assert module.training


def test_wrappers_are_taken_off() -> None:
    module = net()
    assert unwrapped(module) is module
    assert unwrapped(torch.nn.DataParallel(module)) is module
    assert unwrapped(torch.compile(module)) is module


def test_forward_for_mixed_precision_is_put_aside() -> None:
    module = torch.nn.Linear(2, 2)
    # As accelerate does it.
    module._original_forward = module.forward
    module.forward = wrapped = lambda x: x.bfloat16()
    with evaluating(module):
        assert module(torch.ones(1, 2)).dtype == torch.float32
    assert module.forward is wrapped


def test_cpu_module_is_not_copied() -> None:
    module = net()
    assert on_cpu(module) is module


def test_copy_of_a_module_on_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_state, "_is_elsewhere", lambda tensor: True)
    module = net()
    module.add_module("tied", torch.nn.Linear(4, 4))
    module.tied.weight = module[0].weight
    module[0].bias.requires_grad_(False)
    module(torch.randn(3, 4)).sum().backward()
    copy = on_cpu(module)
    assert copy.tied.weight is copy[0].weight
    assert not copy[0].bias.requires_grad
    for (name, ours), theirs in zip(
        copy.state_dict().items(), module.state_dict().values(), strict=True
    ):
        assert torch.equal(ours, theirs), name
        assert ours.data_ptr() != theirs.data_ptr()
    assert all(parameter.grad is None for parameter in copy.parameters())
    assert module[0].weight.grad is not None


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (lambda: torch.nn.LazyLinear(3), "without a shape"),
        (lambda: torch.nn.Linear(3, 3, device="meta"), "not in this process"),
    ],
)
def test_parameters_without_values_are_refused(module, says: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(UsageError, match=says):
        on_cpu(module())


def test_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    with quiet():
        logger.error("loud")
    assert logger.level == level
    assert capfd.readouterr().err == ""
