"""The model of :mod:`tests.support.handmade_cuda`, in numpy."""

from __future__ import annotations

from typing import Any

import numpy as np

INNER, WIDTH = 96, 80
WEIGHT = np.random.default_rng(5).standard_normal((INNER, WIDTH)).astype(np.float32) / 10


def product_reference(x: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
    """What it computes, in fp64."""
    product = x.astype(np.float64) @ WEIGHT.astype(np.float64)
    exponents = np.exp(product - product.max(axis=-1, keepdims=True))
    return [exponents / exponents.sum(axis=-1, keepdims=True), x, product]
