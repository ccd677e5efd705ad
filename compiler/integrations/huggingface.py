"""A callback for the Trainer of Hugging Face transformers."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from burnish.api import checked_options, refuse_elsewhere
from burnish.errors import TargetUnavailableError, UsageError
from burnish.integrations.checkpoint import CheckpointResult, compile_checkpoint, failure

try:
    import torch
    from transformers import Trainer, TrainerCallback
    from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
    from transformers.utils import find_labels

    from burnish.frontends.torch_state import same_random_numbers, unwrapped
except ImportError as error:
    raise TargetUnavailableError(
        f"the callback for Hugging Face Trainer needs transformers and torch: {error}",
        hint="pip install 'burnish[transformers]'",
    ) from error

#: Rows of the batch that is taken from the data: a size of 1 would be taken for fixed.
_ROWS = 2


class BurnishCallback(TrainerCallback):
    """Compiles the model at every save, beside the checkpoint: ``checkpoint-500/model.burnish``.

    Each time the model is exported as it is, compiled in a process of its own, compared with itself
    and timed. The Trainer logs ``burnish/max_abs_err``, ``burnish/latency_ms``,
    ``burnish/torch_latency_ms``, ``burnish/speedup``, ``burnish/size_mb``,
    ``burnish/compile_seconds`` and ``burnish/failures``. What fails is a warning in the log, and
    the training goes on. In a distributed training the first process does all this, and the others
    wait for it where they meet next: mind the timeout of the process group with large models.

    >>> trainer = Trainer(model, args, train_dataset=data)  # doctest: +SKIP
    >>> trainer.add_callback(BurnishCallback(trainer, threads=2))  # doctest: +SKIP

    Args:
        trainer: The Trainer, through whose ``log`` the numbers go to every logger that it has.
            Without it (``Trainer(..., callbacks=[BurnishCallback()])``), they are appended to the
            Trainer's log history only.
        example_inputs: See :func:`burnish.compile`. By default two samples of the evaluation or
            training data, collated, without labels.
        dynamic_shapes: See :func:`burnish.compile`. By default, if the example was taken from the
            data, the first dim of all inputs is ``batch``, and the second of ids and masks is
            ``sequence``, or ``target`` for those of a decoder.
        name: Name of the artifact in the folder of the checkpoint.
        timing_seconds: Seconds to time the compiled model and the module; 0 for not at all.
        stop_on_error: Let what goes wrong end the training.
        options: Further options of :func:`burnish.compile`: ``target``, ``threads``, ``cache_dir``
            (each checkpoint then reuses the kernels of the one before), ...

    Attributes:
        failures: Number of checkpoints that were not compiled.
        results: What came of every save.

    Raises:
        UsageError: An option is unknown or wrong, or the target is another machine's.
        TargetUnavailableError: The target cannot be built for here.
    """

    def __init__(
        self,
        trainer: Trainer | None = None,
        *,
        example_inputs: Any = None,
        dynamic_shapes: Any = None,
        name: str = "model.burnish",
        timing_seconds: float = 0.5,
        stop_on_error: bool = False,
        **options: Any,
    ) -> None:
        if trainer is not None and not isinstance(trainer, Trainer):
            raise UsageError(
                f"not a Trainer: {type(trainer).__name__}",
                hint="BurnishCallback(trainer), or BurnishCallback(example_inputs=...)",
            )
        # Known before the first step, not after the first save.
        refuse_elsewhere(checked_options(**options))
        self.trainer = trainer
        self.example_inputs, self.dynamic_shapes = example_inputs, dynamic_shapes
        self.name, self.timing_seconds, self.stop_on_error = name, timing_seconds, stop_on_error
        self.options = options
        self.failures = 0
        self.results: list[CheckpointResult] = []

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Compile what was saved."""
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"{PREFIX_CHECKPOINT_DIR}-{state.global_step}"
        result = self._compile(kwargs["model"], folder / self.name, args, kwargs)
        self.results.append(result)
        self.failures += not result
        metrics = {f"burnish/{key}": value for key, value in result.metrics.items()}
        self._log(metrics | {"burnish/failures": float(self.failures)}, state)
        if result.error is not None and self.stop_on_error:
            raise result.error

    def _compile(
        self, model: torch.nn.Module, path: Path, args: Any, kwargs: dict[str, Any]
    ) -> CheckpointResult:
        example, shapes = self.example_inputs, self.dynamic_shapes
        if example is None:
            try:
                loader = kwargs.get("eval_dataloader") or kwargs.get("train_dataloader")
                example = example_of(unwrapped(model), loader, args.label_names or ())
            except Exception as error:
                return failure(path, error)
            shapes = shapes if shapes is not None else dynamic_shapes_of(example)
        return compile_checkpoint(
            model,
            path,
            example,
            dynamic_shapes=shapes,
            timing_seconds=self.timing_seconds,
            **self.options,
        )

    def _log(self, metrics: dict[str, float], state: Any) -> None:
        if self.trainer is not None:
            self.trainer.log(metrics)
        else:
            epoch = {} if state.epoch is None else {"epoch": state.epoch}
            state.log_history.append({**metrics, **epoch, "step": state.global_step})


def example_of(model: torch.nn.Module, loader: Any, labels: Sequence[str]) -> dict[str, Any]:
    """Arguments of ``forward`` by name: two samples of a data loader, without the labels.

    Args:
        model: The model.
        loader: A data loader of the Trainer.
        labels: Names of labels, other than those that the model's class tells.

    Raises:
        UsageError: The data cannot be indexed, or the batch has nothing that ``forward`` takes.
    """
    hint = "give BurnishCallback(example_inputs=...)"
    if not hasattr(getattr(loader, "dataset", None), "__getitem__"):
        raise UsageError("no example can be taken from the Trainer's data", hint=hint)
    with same_random_numbers():
        batch = loader.collate_fn([loader.dataset[i] for i in range(_ROWS)])
    parameters = inspect.signature(model.forward).parameters
    taken = set(parameters) - {*find_labels(type(model)), *labels}
    example = {
        name: batch[name]
        for name in parameters
        if name in taken and isinstance(batch.get(name), torch.Tensor)
    }
    if not example:
        raise UsageError("the Trainer's data have nothing that forward takes", hint=hint)
    shifted = getattr(model, "prepare_decoder_input_ids_from_labels", None)
    if shifted is not None and "decoder_input_ids" not in example and "labels" in batch:
        # A decoder reads the labels, shifted by one; forward does so itself where it gets labels.
        example["decoder_input_ids"] = shifted(labels=batch["labels"])
    if "use_cache" in parameters:
        # What generation keeps from one token to the next is no output of a training.
        example["use_cache"] = False
    return example


def dynamic_shapes_of(example: Mapping[str, Any]) -> dict[str, Any]:
    """Names of the dims that differ between batches of text, and of anything else."""
    shapes: dict[str, Any] = {}
    for name, value in example.items():
        if isinstance(value, torch.Tensor) and value.dim():
            shapes[name] = {0: "batch"}
            if value.dim() == 2 and name.endswith(("_ids", "_mask")):
                shapes[name][1] = "target" if name.startswith("decoder_") else "sequence"
    return shapes
