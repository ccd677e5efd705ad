"""The callback in a tiny training by the Trainer of Hugging Face."""

from __future__ import annotations

import logging
import types
from pathlib import Path
from typing import Any

import pytest

for package in ("torch", "onnxscript", "transformers", "accelerate"):
    pytest.importorskip(package)

import torch  # noqa: E402
import transformers  # noqa: E402

import burnish  # noqa: E402
from burnish.errors import ModelError, TargetUnavailableError, UsageError  # noqa: E402
from burnish.integrations.huggingface import (  # noqa: E402
    BurnishCallback,
    dynamic_shapes_of,
    example_of,
)

pytestmark = pytest.mark.slow

METRICS = {
    *("max_abs_err", "latency_ms", "torch_latency_ms", "speedup", "size_mb", "compile_seconds"),
    "failures",
}


class Data(torch.utils.data.Dataset):
    """Random ids; the label tells whether the first one is odd."""

    def __len__(self) -> int:
        return 16

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        # As data that are augmented: every access draws.
        ids = torch.randint(3, 100, (9,))
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids[0] % 2}


def network() -> Any:
    config = transformers.BertConfig(
        vocab_size=100,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=4,
        intermediate_size=64,
    )
    torch.manual_seed(0)
    return transformers.BertForSequenceClassification(config)


def trainer(folder: Path, callbacks: Any = None, **options: Any) -> transformers.Trainer:
    arguments = transformers.TrainingArguments(
        str(folder),
        max_steps=4,
        save_steps=2,
        logging_steps=1,
        per_device_train_batch_size=4,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        seed=1,
        **options,
    )
    return transformers.Trainer(network(), arguments, train_dataset=Data(), callbacks=callbacks)


def losses(done: transformers.Trainer) -> list[float]:
    return [entry["loss"] for entry in done.state.log_history if "loss" in entry]


def logged(done: transformers.Trainer) -> list[dict[str, Any]]:
    return [entry for entry in done.state.log_history if "burnish/failures" in entry]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> list[float]:
    """Losses of the training without a callback."""
    done = trainer(tmp_path_factory.mktemp("plain"))
    done.train()
    return losses(done)


def test_training_with_the_callback(tmp_path: Path, plain: list[float]) -> None:
    training = trainer(tmp_path)
    callback = BurnishCallback(training, threads=1, timing_seconds=0.02)
    training.add_callback(callback)
    training.train()
    # Not disturbed: the same dropout, the same data, the same steps.
    assert losses(training) == plain
    entries = logged(training)
    assert [entry["step"] for entry in entries] == [2, 4]
    for entry in entries:
        assert {key.removeprefix("burnish/") for key in entry if "/" in key} == METRICS
        assert entry["burnish/max_abs_err"] < 1e-4
        assert entry["burnish/failures"] == 0
    assert (callback.failures, len(callback.results)) == (0, 2)
    path = tmp_path / "checkpoint-4" / "model.burnish"
    assert callback.results[-1].path == path
    with burnish.load(path, threads=1) as compiled:
        assert [(i.name, list(i.shape)) for i in compiled.get_inputs()] == [
            ("input_ids", ["batch", "sequence"]),
            ("attention_mask", ["batch", "sequence"]),
        ]
        assert [o.name for o in compiled.get_outputs()] == ["logits"]
        ids = torch.randint(3, 100, (3, 21))
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        assert burnish.compare(compiled, training.model, inputs)
    # The artifact is that of its step, not of the end.
    early = tmp_path / "checkpoint-2" / "model.burnish"
    report = burnish.compare(early, training.model, inputs, atol=0, rtol=0)
    assert report.outputs[0].max_abs > 1e-5


def test_failures_do_not_stop_the_training(
    tmp_path: Path, plain: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    callback = BurnishCallback(example_inputs={"input_ids": torch.ones(2, 3)}, threads=1)
    training = trainer(tmp_path, [callback])
    with caplog.at_level(logging.WARNING, logger="burnish"):
        training.train()
    assert losses(training) == plain
    # Without the Trainer, its log history gets the numbers.
    assert [(e["step"], e["burnish/failures"]) for e in logged(training)] == [(2, 1), (4, 2)]
    assert callback.failures == 2
    warnings = [r.getMessage() for r in caplog.records if r.name == "burnish"]
    assert len(warnings) == 2
    assert "checkpoint-2/model.burnish: usage error: the module fails on these" in warnings[0]
    assert not list(tmp_path.glob("*/model.burnish"))


def test_failures_stop_the_training_if_asked(tmp_path: Path) -> None:
    shapes = {"input_ids": {1: torch.export.Dim("text", max=4)}}
    callback = BurnishCallback(
        example_inputs={"input_ids": torch.ones(2, 9, dtype=torch.int64)},
        dynamic_shapes=shapes,
        stop_on_error=True,
    )
    training = trainer(tmp_path, [callback])
    with pytest.raises(ModelError, match="torch does not export"):
        training.train()
    assert training.state.global_step == 2
    assert callback.failures == 1


def test_mixed_precision_compiles_the_weights_as_they_are(tmp_path: Path) -> None:
    callback = BurnishCallback(threads=1, timing_seconds=0)
    training = trainer(tmp_path, [callback], bf16=True)
    training.train()
    assert callback.failures == 0
    path = callback.results[-1].path
    assert path is not None
    with burnish.load(path, threads=1) as compiled:
        assert [o.type for o in compiled.get_outputs()] == ["tensor(float)"]
    assert "latency_ms" not in callback.results[-1].metrics
    # Autocast is still what trains.
    assert "forward" in training.model.__dict__


def test_one_process_does_it(tmp_path: Path) -> None:
    callback = BurnishCallback()
    other = types.SimpleNamespace(is_world_process_zero=False)
    callback.on_save(None, other, None, model=network())
    assert callback.results == []


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"opt_level": 7}, UsageError),
        ({"speed": 3}, UsageError),
        ({"target": "z80"}, UsageError),
        ({"target": "arm:neoverse-n1"}, UsageError),
        ({"trainer": "me"}, UsageError),
    ],
)
def test_wrong_options_are_found_before_the_training(
    options: dict[str, Any], kind: type[Exception]
) -> None:
    with pytest.raises(kind):
        BurnishCallback(**options)


def test_example_without_labels() -> None:
    loader = torch.utils.data.DataLoader(Data())
    loader.collate_fn = transformers.default_data_collator
    model, state = network(), torch.get_rng_state()
    example = example_of(model, loader, ())
    assert torch.equal(torch.get_rng_state(), state)
    assert {k: tuple(v.shape) for k, v in example.items()} == {
        "input_ids": (2, 9),
        "attention_mask": (2, 9),
    }
    with pytest.raises(UsageError, match="nothing that forward takes"):
        example_of(torch.nn.Linear(2, 2), loader, ())
    with pytest.raises(UsageError, match="no example") as error:
        example_of(model, iter([1]), ())
    assert "example_inputs" in str(error.value.hint)


def test_dims_by_default() -> None:
    ids, image = torch.ones(2, 9, dtype=torch.int64), torch.ones(2, 3, 8, 8)
    example = {"input_ids": ids, "decoder_input_ids": ids, "pixel_values": image, "flag": False}
    assert dynamic_shapes_of(example) == {
        "input_ids": {0: "batch", 1: "sequence"},
        "decoder_input_ids": {0: "batch", 1: "target"},
        "pixel_values": {0: "batch"},
    }


def test_decoder_reads_shifted_labels() -> None:
    config = transformers.T5Config(
        vocab_size=100, d_model=16, d_kv=4, num_layers=1, num_heads=4, decoder_start_token_id=0
    )
    loader = torch.utils.data.DataLoader(Data())
    loader.collate_fn = lambda samples: {
        "input_ids": torch.stack([sample["input_ids"] for sample in samples]),
        "labels": torch.tensor([[7, 8, 9], [5, 6, 1]]),
    }
    example = example_of(transformers.T5ForConditionalGeneration(config), loader, ())
    assert example["decoder_input_ids"].tolist() == [[0, 7, 8], [0, 5, 6]]
    assert example["use_cache"] is False
    assert "labels" not in example


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.delitem(sys.modules, "burnish.integrations.huggingface")
    with pytest.raises(TargetUnavailableError, match="needs transformers") as error:
        importlib.import_module("burnish.integrations.huggingface")
    assert error.value.hint == "pip install 'burnish[transformers]'"
