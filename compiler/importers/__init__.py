"""Importers: from model files to the IR."""

from __future__ import annotations

from burnish.importers.onnx_model import load

__all__ = ["load"]
