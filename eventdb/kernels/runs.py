"""Runs of equal values, spelled out."""

from __future__ import annotations

import numpy as np

from eventdb.kernels.jit import njit


@njit
def expand(values, lengths, out):  # type: ignore[no-untyped-def]
    """out = each value as often as its length says; -1 if that is not exactly len(out) values, else 0."""
    at = np.int64(0)
    for i in range(len(values)):
        stop = at + np.int64(lengths[i])
        if stop < at or stop > len(out):
            return -1
        out[at:stop] = values[i]
        at = stop
    return 0 if at == len(out) else -1


def warm() -> None:
    """Compiles or loads the kernel of this file, so that no query does."""
    for dtype in (np.int64, np.int32):
        values, lengths = np.zeros(1, dtype), np.zeros(1, np.int32)
        values.flags.writeable = lengths.flags.writeable = False
        expand(values, lengths, np.zeros(0, dtype))
