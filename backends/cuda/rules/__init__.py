"""The kernel rules of the CUDA backend."""

from __future__ import annotations

from burnish.backends.base import KernelRule
from burnish.backends.cuda.rules.attention import ATTENTION
from burnish.backends.cuda.rules.conv import CONV, POOL_RULES
from burnish.backends.cuda.rules.matmul import MATMUL_RULES
from burnish.backends.cuda.rules.reduce import REDUCE_RULES
from burnish.backends.cuda.rules.rows import ROW_RULES

RULES: dict[str, KernelRule] = {
    rule.key: rule
    for rule in (*MATMUL_RULES, ATTENTION, CONV, *POOL_RULES, *ROW_RULES, *REDUCE_RULES)
}
