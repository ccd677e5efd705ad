"""Lowering rules, one module a family of operators."""
