"""Warp matrix fragments: 16x16x16 products on tensor cores, accumulated in float32.

``nvcuda::wmma`` of the CUDA C++ Programming Guide, as TVM's intrinsics name it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tvm import tirx
from tvm.tirx.script import builder as T  # noqa: N812

from burnish.backends.cuda.tir import Expr, Index, i32

#: Rows, columns and depth of a fragment.
SIZE = 16
_ELEMENTS = SIZE * SIZE


@dataclass(frozen=True)
class Fragments:
    """An array of fragments of one role in a warp's registers."""

    data: Any

    @classmethod
    def operand(cls, count: int, role: Literal["matrix_a", "matrix_b"]) -> Fragments:
        """Left (``matrix_a``) or right operands, float16."""
        return cls(T.alloc_buffer((count * _ELEMENTS,), "float16", scope=f"wmma.{role}").data)

    @classmethod
    def accumulator(cls, count: int) -> Fragments:
        """Sums, float32."""
        buffer = T.alloc_buffer((count * _ELEMENTS,), "float32", scope="wmma.accumulator")
        return cls(buffer.data)

    def clear(self, index: Index) -> None:
        """Set a fragment to zero."""
        zero = tirx.const(0.0, "float32")
        T.evaluate(T.tvm_fill_fragment(self.data, SIZE, SIZE, SIZE, i32(index), zero))

    def load(
        self, index: Index, buffer: Any, offset: Expr, stride: int, transposed: bool = False
    ) -> None:
        """Read a fragment from shared memory; its address is a multiple of 32 bytes."""
        layout = "col_major" if transposed else "row_major"
        source = tirx.address_of(buffer[offset])
        T.evaluate(
            T.tvm_load_matrix_sync(self.data, SIZE, SIZE, SIZE, i32(index), source, stride, layout)
        )

    def store(self, index: Index, buffer: Any, offset: Expr, stride: int) -> None:
        """Write a fragment to shared memory, row-major."""
        target = tirx.address_of(buffer[offset])
        T.evaluate(
            T.tvm_store_matrix_sync(
                self.data, SIZE, SIZE, SIZE, i32(index), target, stride, "row_major"
            )
        )


def multiply_add(
    total: Fragments, at: Index, left: Fragments, i: Index, right: Fragments, j: Index
) -> None:
    """``total[at] += left[i] @ right[j]``."""
    T.evaluate(
        T.tvm_mma_sync(
            total.data, i32(at), left.data, i32(i), right.data, i32(j), total.data, i32(at)
        )
    )
