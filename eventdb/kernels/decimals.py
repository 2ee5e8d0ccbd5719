"""Numbers stored as multiples: of a power of ten (doubles) or of a common factor (integers)."""

from __future__ import annotations

import numpy as np

from eventdb.kernels.jit import njit


@njit
def divide(numbers, scale, out):  # type: ignore[no-untyped-def]
    """out[i] = numbers[i] / scale, correctly rounded: what reading the decimal text gives."""
    for i in range(len(out)):
        out[i] = np.float64(numbers[i]) / scale


@njit
def rescale(values, factor, base):  # type: ignore[no-untyped-def]
    """values[i] = values[i] * factor + base, modulo 2**64."""
    for i in range(len(values)):
        values[i] = values[i] * factor + base


def warm() -> None:
    """Compiles or loads the kernels of this file, so that no query does."""
    numbers = np.zeros(1, np.int64)
    numbers.flags.writeable = False
    divide(numbers, 1.0, np.zeros(1, np.float64))
    rescale(np.zeros(1, np.uint64), np.uint64(1), np.uint64(0))
