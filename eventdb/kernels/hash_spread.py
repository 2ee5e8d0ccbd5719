"""The multiplier of the join tables' hash; on its own, so that writing a pipeline's text imports no Numba."""

SPREAD = 0x9E3779B97F4A7C15
"""Odd; the high bits of key * SPREAD are the key's hash (Fibonacci hashing)."""
