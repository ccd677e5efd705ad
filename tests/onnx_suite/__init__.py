"""The ONNX backend suite: every case of the installed onnx, compiled, run and judged strictly."""
