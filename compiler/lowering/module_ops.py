"""Operators that the module lowering treats by itself."""

from __future__ import annotations

#: Operators that only give a tensor another shape.
VIEWS = frozenset({"Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity"})
#: Lowered when somebody asks for an output, since some kernels read their input through strides.
LAZY = frozenset({"Split"})
