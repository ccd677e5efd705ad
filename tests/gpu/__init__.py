"""Checks that need an NVIDIA GPU: here if there is one, or carried to a bare machine that has one.

``python -m tests.gpu.pack DIR`` makes a folder that such a machine needs no more than;
``DIR/run.sh`` there compares with onnxruntime's results, times every model and kernel, and writes a
table and JSON.
"""
