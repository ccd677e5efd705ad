"""Small models in ONNX's text syntax."""

from __future__ import annotations

import onnx
import onnx.checker
import onnx.parser


def parse(graph: str, *, opset: int = 17) -> onnx.ModelProto:
    """A checked model of ``graph`` (``name (inputs) => (outputs) { nodes }``)."""
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": {opset}]>\n{graph}')
    onnx.checker.check_model(model, full_check=True)
    return model
