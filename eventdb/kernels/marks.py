"""The mark of a continuous query over several partitions, row by row: how far event time has come in all of them."""

from __future__ import annotations

from eventdb.kernels.jit import njit

LOWEST = -(1 << 63)
HIGHEST = (1 << 63) - 1
MARK, FIRST = 0, 1


@njit
def advance(sources, times, present, append_times, delays, idles, futures, watermarks, seen, state, marks):  # type: ignore[no-untyped-def]  # fmt: skip
    """marks[i] = the mark before row i; rows are in the order of their commits, all times int64 us.

    `sources` are numbers of partitions; `delays`, `idles` and `futures` are theirs (-1: not declared, but for delays).
    Goes on from, and leaves: `watermarks` (LOWEST before the first row), `seen` (append time of the last row, LOWEST:
    none yet), `state` = [the mark, the append time of the first row of all].
    """
    for i in range(len(sources)):
        marks[i] = state[MARK]
        source, now, time = sources[i], append_times[i], times[i]
        if state[FIRST] == LOWEST:
            state[FIRST] = now
        seen[source] = now
        ahead = futures[source] >= 0 and time > now and time - now > futures[source]
        if present[i] and not ahead:
            watermarks[source] = max(watermarks[source], max(time, LOWEST + delays[source]) - delays[source])
        least = HIGHEST
        for other in range(len(watermarks)):
            since = seen[other] if seen[other] != LOWEST else state[FIRST]
            if idles[other] < 0 or now - since <= idles[other]:
                least = min(least, watermarks[other])
        state[MARK] = max(state[MARK], least)
