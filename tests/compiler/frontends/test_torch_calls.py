from __future__ import annotations

import collections
import dataclasses
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from burnish.errors import ModelError, UsageError  # noqa: E402
from burnish.frontends.torch_calls import Call, outputs_by_name, to_numpy  # noqa: E402


class Taker(torch.nn.Module):
    def forward(self, x: Any, pair: Any = None, *more: Any, scale: Any = 1.0) -> Any:
        return x


X = torch.arange(6.0).reshape(2, 3) + 1


def names(inputs: Any) -> list[str]:
    return list(Call.of(Taker(), inputs).tensors())


def test_names_are_those_of_the_parameters() -> None:
    assert names(X) == ["x"]
    assert names((X, [X, {"k": X}])) == ["x", "pair_0", "pair_1_k"]
    assert names((X, X, X, X)) == ["x", "pair", "more_0", "more_1"]
    assert names({"scale": X, "x": X}) == ["scale", "x"]
    assert names((X, None)) == ["x"]
    # What would be two inputs of one name gets another one.
    assert names({"x": {"0_0": X, "0": [X]}}) == ["x_0_0", "x_0_0_1"]


def test_a_dict_at_the_end_is_an_argument() -> None:
    call = Call.of(Taker(), (X, {"k": X}))
    assert (len(call.args), list(call.kwargs)) == (1, ["pair"])
    assert list(call.tensors()) == ["x", "pair_k"]


@pytest.mark.parametrize(
    "inputs", [X, (X, [X, None]), (X, {"k": X}), {"x": X, "scale": X}, (X, X, X)]
)
def test_a_call_can_be_made_again(inputs: Any) -> None:
    call = Call.of(Taker(), inputs)
    again = Call.of(Taker(), call.inputs())
    assert list(again.tensors()) == list(call.tensors())


def test_arrays_become_tensors_and_nothing_is_shared() -> None:
    array, tensor = np.ones((2, 3), np.float32), X.clone().requires_grad_()
    call = Call.of(Taker(), (array, tensor))
    array[:] = 7
    with torch.no_grad():
        tensor.fill_(7)
    assert float(call.args[0].max()) == 1
    assert torch.equal(call.args[1], X)
    assert not call.args[1].requires_grad


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ([X], "cannot be a list"),
        ({"x": X, "y": X}, "unexpected keyword argument 'y'"),
        ((), "missing a required argument: 'x'"),
        ((3, "text"), "no tensor"),
    ],
)
def test_wrong_inputs(inputs: Any, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        Call.of(Taker(), inputs)


def test_drawn_inputs_are_like_the_example() -> None:
    ids = torch.tensor([[3, 9, 4], [7, 3, 5]])
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    call = Call.of(Taker(), (X * 100, [ids, mask, mask.bool(), X.half(), torch.zeros(4)]))
    drawn = call.drawn(0)
    image, (tokens, kept, flags, half, zeros) = drawn.args
    assert abs(float(image.mean()) - 350) < 300
    assert not torch.equal(image, call.args[0])
    assert image.shape == (2, 3)
    assert set(tokens.flatten().tolist()) <= {3, 4, 5, 7, 9}
    assert not torch.equal(tokens, ids)
    assert torch.equal(kept, mask)
    assert torch.equal(flags, mask.bool())
    assert half.dtype == torch.float16
    assert zeros.count_nonzero() == 4
    assert torch.equal(call.drawn(0).args[0], image)
    assert not torch.equal(call.drawn(1).args[0], image)


def test_outputs_by_name() -> None:
    @dataclasses.dataclass
    class Result:
        logits: Any
        hidden: Any

    torch.export.register_dataclass(Result)
    pair = collections.namedtuple("pair", "mean deviation")
    assert list(outputs_by_name(X)) == ["output"]
    assert list(outputs_by_name((X, [X, X]))) == ["output_0", "output_1_0", "output_1_1"]
    assert list(outputs_by_name({"logits": X, "loss": None})) == ["logits"]
    assert list(outputs_by_name(Result(X, (X, X)))) == ["logits", "hidden_0", "hidden_1"]
    assert list(outputs_by_name(pair(X, X))) == ["mean", "deviation"]


@pytest.mark.parametrize(
    ("result", "says"),
    [({"n": 3, "y": X}, "n is of type int"), (None, "nothing"), ((X, Taker()), "of type Taker")],
)
def test_other_things_than_tensors_are_refused(result: Any, says: str) -> None:
    with pytest.raises(ModelError, match=says) as error:
        outputs_by_name(result)
    assert "register_dataclass" in str(error.value.hint)


def test_bfloat16_survives() -> None:
    array = to_numpy(X.bfloat16())
    assert array.dtype.name == "bfloat16"
    np.testing.assert_array_equal(array.astype(np.float32), X.numpy())
