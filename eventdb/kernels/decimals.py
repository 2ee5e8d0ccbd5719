"""Doubles stored as decimal integers, back as doubles."""

from __future__ import annotations

import numpy as np

from eventdb.kernels.jit import njit


@njit
def divide(numbers, scale, out):  # type: ignore[no-untyped-def]
    """out[i] = numbers[i] / scale, correctly rounded: what reading the decimal text gives."""
    for i in range(len(out)):
        out[i] = np.float64(numbers[i]) / scale


def warm() -> None:
    """Compiles or loads the kernel of this file, so that no query does."""
    numbers = np.zeros(1, np.int64)
    numbers.flags.writeable = False
    divide(numbers, 1.0, np.zeros(1, np.float64))
