"""Kernel rules: which nodes the CPU templates take, and how they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from burnish.backends.base import KernelRule
from burnish.backends.cpu.rules.attention import ATTENTION
from burnish.backends.cpu.rules.attention_int8 import ATTENTION_INT8
from burnish.backends.cpu.rules.concat import CONCAT
from burnish.backends.cpu.rules.conv import CONV
from burnish.backends.cpu.rules.conv_transpose import CONV_TRANSPOSE
from burnish.backends.cpu.rules.matmul import MATMUL_RULES
from burnish.backends.cpu.rules.movement import MOVEMENT_RULES
from burnish.backends.cpu.rules.nbits import MATMUL_NBITS
from burnish.backends.cpu.rules.pool import POOL_RULES
from burnish.backends.cpu.rules.quantized import QUANTIZED_RULES
from burnish.backends.cpu.rules.quantized_batch import QUANTIZED_BATCH
from burnish.backends.cpu.rules.recurrent import RECURRENT_RULES
from burnish.backends.cpu.rules.rows import ROW_RULES
from burnish.lowering.tactics import ByTactics, Source

RULES: dict[str, KernelRule] = {
    rule.key: rule
    for rule in (
        ATTENTION,
        ATTENTION_INT8,
        CONCAT,
        CONV,
        CONV_TRANSPOSE,
        MATMUL_NBITS,
        QUANTIZED_BATCH,
        *MATMUL_RULES,
        *MOVEMENT_RULES,
        *POOL_RULES,
        *QUANTIZED_RULES,
        *RECURRENT_RULES,
        *ROW_RULES,
    )
}


def rules_with(more: Mapping[str, Sequence[Source]]) -> dict[str, KernelRule]:
    """The rules, with further tactics by composite."""
    rules = dict(RULES)
    for key, sources in more.items():
        emit = rules[key].emit
        if not isinstance(emit, ByTactics):
            raise TypeError(f"the rule of {key} has no tactics")
        rules[key] = replace(rules[key], emit=emit.plus(*sources))
    return rules
