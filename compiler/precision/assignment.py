"""Which precision each product of a model has: the one form in which passes are told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from burnish.ir import Graph
from burnish.options import INTEGERS
from burnish.passes.quantization import Selection


@dataclass(frozen=True)
class Assignment:
    """Precisions by original node name. ``fp16``, ``bf16`` and ``int8`` are constant assignments.

    Attributes:
        storage: What all else than products of 8 bits is stored in: ``fp32``, ``fp16``, ``bf16``.
        default: Precision of products that are not named: a storage, ``int8`` or ``int4``.
        nodes: Precision of others, by name.
        reasons: Why these have it, by name.
    """

    storage: str = "fp32"
    default: str = "fp32"
    nodes: Mapping[str, str] = field(default_factory=dict)
    reasons: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def constant(precision: str) -> Assignment:
        """The assignment of a precision that is the same for the whole model."""
        return Assignment("fp32" if precision in INTEGERS else precision, precision)

    def excluding(self, graph: Graph, selection: Selection) -> Assignment:
        """The assignment with nodes in fp32 that the user excludes.

        Args:
            graph: The model, as it was imported.
            selection: What is excluded.

        Raises:
            UsageError: A name matches no node.
        """
        selection.check(graph)
        reasons = {
            name: reason
            for node in graph.walk()
            if (reason := selection.excludes(node))
            for name in node.location.names or (node.name,)
        }
        return replace(
            self,
            nodes={**self.nodes, **dict.fromkeys(reasons, "fp32")},
            reasons={**self.reasons, **reasons},
        )

    def has(self, precision: str) -> bool:
        """Whether any product may have a precision."""
        return precision == self.default or precision in self.nodes.values()

    def held(self, precision: str) -> dict[str, str]:
        """Names of products that must not have a precision, with the reason."""
        return {
            name: self.reasons.get(name, f"{given} was chosen")
            for name, given in self.nodes.items()
            if given != precision
        }

    @property
    def high(self) -> dict[str, str]:
        """Names of nodes that stay in fp32 where all else is stored in 16 bits."""
        return {
            name: self.reasons.get(name, "fp32 was chosen")
            for name, given in self.nodes.items()
            if given == "fp32"
        }

    def asked(self, excluded: Mapping[str, str]) -> Iterator[tuple[str, Mapping[str, str]]]:
        """Precisions that products are asked to have, each with those that need not have it.

        Args:
            excluded: Products that were not asked to have 8 or 4 bits, by original name.
        """
        if self.has("int8") or self.has("int4"):
            yield "int8", excluded
        if self.storage != "fp32" and self.has(self.storage):
            yield self.storage, self.held(self.storage)
