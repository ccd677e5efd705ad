"""What a kernel rule sees: its node, and the kernel that is being built."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from burnish.lowering.te_context import TeContext

if TYPE_CHECKING:
    # A backend hands in its own builder; the table imports no backend.
    from burnish.backends.cpu.tir import KernelBuilder, Tensor


@dataclass(frozen=True)
class KernelContext(TeContext):
    """A :class:`TeContext` inside ``with kernel(...)``.

    Attributes:
        builder: The kernel being built.
        outputs: Its outputs; None for those that nobody asked for.
    """

    builder: KernelBuilder = field(kw_only=True)
    outputs: tuple[Tensor | None, ...] = field(kw_only=True)

    def output(self, index: int = 0) -> Tensor:
        """An output that is asked for."""
        tensor = self.outputs[index]
        assert tensor is not None
        return tensor
