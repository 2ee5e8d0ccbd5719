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


@njit
def steps(rows, values, step, base, factor, offset, out):  # type: ignore[no-untyped-def]
    """out = factor * (what `accumulate` makes of values[k] in rows[k] and `step` in all other rows) + offset, modulo
    2**64; -1 unless the rows ascend and lie in `out`, else 0."""
    total = base * factor + offset
    slope = step * factor
    at = np.int64(0)
    for k in range(len(rows) + 1):
        row = np.int64(rows[k]) if k < len(rows) else np.int64(len(out))
        if row < at or row > len(out) or (k < len(rows) and row == len(out)):
            return -1
        between = out[at:row]
        if slope == 0:
            for i in range(len(between)):
                between[i] = total
        else:
            for i in range(len(between)):
                between[i] = total + slope * np.uint64(i + 1)
            total += slope * np.uint64(len(between))
        if k < len(rows):
            total += values[k] * factor
            out[row] = total
            at = row + 1
    return 0


def warm() -> None:
    """Compiles or loads the kernels of this file, so that no query does."""
    one, rows, values = np.uint64(1), np.zeros(1, np.int32), np.zeros(1, np.uint64)
    rows.flags.writeable = values.flags.writeable = False
    accumulate(np.zeros(1, np.uint64), one)
    steps(rows, values, one, one, one, one, np.zeros(1, np.uint64))
