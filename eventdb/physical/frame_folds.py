"""Folds over frames: sums, extremes and the like of stretches of sorted rows, without a step per row.

A fold has arrays with the state of each row and an operation that is associative. Frames that do not overlap are
reduced at once, frames that begin with their partition are running folds, and all others are put together from blocks
of 1, 2, 4, ... rows: log2(width) passes over all frames, never a difference of prefix sums, which loses digits and does
not undo infinities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eventdb.batch import Array
from eventdb.physical.frames import Pieces
from eventdb.physical.partitions import Partitions

_LONG = 512
"""Running folds go partition by partition where partitions are at least so long."""

State = list[Array]


@dataclass(slots=True)
class Fold:
    """One operation `apply` over `values`; `identity` changes nothing. `idempotent`: a row may be folded twice."""

    values: Array
    identity: Any
    apply: Any
    idempotent: bool = False

    @property
    def states(self) -> State:
        return [self.values]

    def empty(self, count: int) -> State:
        return [np.full(count, self.identity, dtype=self.values.dtype)]

    def combine(self, left: State, right: State) -> State:
        return [self.apply(left[0], right[0])]


@dataclass(slots=True)
class Moments:
    """Count, mean and sum of squared differences (Chan, Golub, LeVeque 1979)."""

    values: Array
    present: Array

    @property
    def states(self) -> State:
        n = self.present.astype(np.float64)
        return [
            n,
            np.where(self.present, self.values, 0.0),
            np.where(self.present & ~np.isfinite(self.values), np.nan, 0.0),
        ]

    def empty(self, count: int) -> State:
        return [np.zeros(count), np.zeros(count), np.zeros(count)]

    def combine(self, left: State, right: State) -> State:
        n, mean, squares = left
        added, other_mean, other_squares = right
        both = n + added
        share = added / np.maximum(both, 1.0)
        delta = other_mean - mean
        new_mean = np.where(n == 0, other_mean, np.where(added == 0, mean, mean + delta * share))
        change = np.where((n == 0) | (added == 0), 0.0, delta * delta * n * share)
        return [both, new_mean, squares + other_squares + change]


def fold_frames(fold: Fold | Moments, pieces: Pieces, partitions: Partitions) -> State:
    """The fold of each position's frame; the identity for frames without rows."""
    if len(pieces) == 1:
        low, high = pieces[0]
        if isinstance(fold, Fold):
            found = _disjoint(fold, low, high)
            if found is not None:
                return found
            if (low == partitions.start).all():
                return _running(fold, high, partitions)
            if fold.idempotent:
                return _overlapping(fold, low, high)
        return _blocks(fold, low, high)
    result = fold.empty(partitions.row_count)
    for low, high in pieces:
        result = fold.combine(result, _blocks(fold, low, high))
    return result


def _disjoint(fold: Fold, low: Array, high: Array) -> State | None:
    """Frames that are shared by neighbours and do not overlap otherwise (whole partitions, groups of peers)."""
    new = np.ones(len(low), dtype=bool)
    new[1:] = (low[1:] != low[:-1]) | (high[1:] != high[:-1])
    starts, stops = low[new], high[new]
    if (starts[1:] < stops[:-1]).any():
        return None
    result = fold.empty(len(starts))[0]
    some = np.flatnonzero(stops > starts)
    if len(some):
        edges = np.stack([starts[some], stops[some]], axis=1).ravel()
        if edges[-1] == len(fold.values):
            edges = edges[:-1]
        result[some] = fold.apply.reduceat(fold.values, edges)[::2]
    return [result[np.cumsum(new) - 1]]


def _running(fold: Fold, high: Array, partitions: Partitions) -> State:
    """Frames from the partition's start on: each is the running fold at its last row."""
    running = running_fold(fold, partitions.edges)
    result = fold.empty(len(high))[0]
    some = high > partitions.start
    result[some] = running[high[some] - 1]
    return [result]


def running_fold(fold: Fold, edges: Array) -> Array:
    """The fold of each row and those before it in its stretch [edges[i], edges[i + 1])."""
    result = fold.values.copy()
    lengths = np.diff(edges)
    for i in np.flatnonzero(lengths >= _LONG).tolist():
        start, stop = int(edges[i]), int(edges[i + 1])
        fold.apply.accumulate(fold.values[start:stop], out=result[start:stop])
    short = lengths < _LONG
    if short.any():
        place = np.arange(len(result)) - np.repeat(edges[:-1], lengths)
        rows = np.flatnonzero(np.repeat(short, lengths))
        place = place[rows]
        distance = 1
        while len(rows):  # after each round every row has folded `2 * distance` rows
            keep = place >= distance
            rows, place = rows[keep], place[keep]
            result[rows] = fold.apply(result[rows - distance], result[rows])
            distance *= 2
    return result


def _overlapping(fold: Fold, low: Array, high: Array) -> State:
    """Each frame as two blocks of a power of two rows that may overlap."""
    width = high - low
    exponent = np.frexp(np.maximum(width, 1))[1] - 1  # floor(log2(width))
    result = fold.empty(len(low))[0]
    level = fold.values
    for k in range(int(exponent.max(initial=0)) + 1):
        some = np.flatnonzero((exponent == k) & (width > 0))
        result[some] = fold.apply(level[low[some]], level[high[some] - (1 << k)])
        if len(level) > 1 << k:
            level = fold.apply(level[: -(1 << k)], level[1 << k :])
    return [result]


def _blocks(fold: Fold | Moments, low: Array, high: Array) -> State:
    """Each frame as a row of aligned blocks, from both ends inwards."""
    left, right = fold.empty(len(low)), fold.empty(len(low))
    rows = np.flatnonzero(low < high)
    low, high = low[rows], high[rows]
    level: State = list(fold.states)
    while len(rows):
        odd = (low & 1) == 1
        _join(fold, left, rows[odd], level, low[odd], False)
        low = low + odd
        ends = ((high & 1) == 1) & (high > low)
        _join(fold, right, rows[ends], level, high[ends] - 1, True)
        low, high = low >> 1, high >> 1
        going = low < high
        rows, low, high = rows[going], low[going], high[going]
        pairs = len(level[0]) // 2
        level = fold.combine([s[: 2 * pairs : 2] for s in level], [s[1 : 2 * pairs : 2] for s in level])
    return fold.combine(left, right)


def _join(fold: Fold | Moments, into: State, rows: Array, level: State, blocks: Array, before: bool) -> None:
    """Adds a block to some rows, behind what they have or before it."""
    have: Sequence[Array] = [state[rows] for state in into]
    new = [state[blocks] for state in level]
    for state, value in zip(
        into, fold.combine(new, list(have)) if before else fold.combine(list(have), new), strict=True
    ):
        state[rows] = value
