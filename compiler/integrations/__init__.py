"""Compiling while a model is trained: at every checkpoint, without disturbing the training."""

from burnish.integrations.checkpoint import CheckpointResult, compile_checkpoint

__all__ = ["CheckpointResult", "compile_checkpoint"]
