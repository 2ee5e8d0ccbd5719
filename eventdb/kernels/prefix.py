"""Differences summed up, in place."""

from __future__ import annotations

import numpy as np

from eventdb.kernels.jit import njit


@njit
def accumulate(values, base):  # type: ignore[no-untyped-def]
    """values[i] = base + values[0] + ... + values[i], modulo 2**64."""
    total = base
    for i in range(len(values)):
        total += values[i]
        values[i] = total


def warm() -> None:
    """Compiles or loads the kernel of this file, so that no query does."""
    accumulate(np.zeros(1, np.uint64), np.uint64(0))
