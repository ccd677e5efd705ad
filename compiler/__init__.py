"""burnish: a graph-level optimizing compiler for ONNX models."""
