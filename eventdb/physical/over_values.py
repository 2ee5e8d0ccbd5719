"""Analytic functions that rank rows or pick one: row_number to ntile, lag and lead, first_value to nth_value."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from eventdb.batch import Array, Column, concat_columns
from eventdb.errors import EvaluationError
from eventdb.physical.frames import Pieces
from eventdb.physical.operands import null_column
from eventdb.physical.partitions import Partitions
from eventdb.schema import BIGINT, DOUBLE, DataType


def ranking(function: str, p: Partitions) -> Column:
    """A function of positions alone."""
    type, compute = _RANKINGS[function]
    return Column(type, compute(p))


def _dense_rank(p: Partitions) -> Array:
    rank: Array = p.group - p.group[p.start] + 1
    return rank


def _cume_dist(p: Partitions) -> Array:
    share: Array = (p.last - p.start) / (p.stop - p.start)
    return share


_RANKINGS: dict[str, tuple[DataType, Callable[[Partitions], Array]]] = {
    "row_number": (BIGINT, lambda p: np.arange(p.row_count) - p.start + 1),
    "rank": (BIGINT, lambda p: p.first - p.start + 1),
    "dense_rank": (BIGINT, _dense_rank),
    "percent_rank": (DOUBLE, lambda p: (p.first - p.start) / np.maximum(p.stop - p.start - 1, 1)),
    "cume_dist": (DOUBLE, _cume_dist),
}


def ntile(buckets: Column, p: Partitions) -> Column:
    """Buckets of nearly equal size, the larger ones first."""
    count = buckets.values.astype(np.int64)
    if buckets.validity is not None:
        count = np.where(buckets.validity, count, 1)
    if len(count) and count.min() < 1:
        raise EvaluationError(f"ntile() needs a positive number of buckets, not {int(count.min())}")
    size, larger = np.divmod(p.stop - p.start, count)
    row = np.arange(p.row_count) - p.start
    edge = larger * (size + 1)
    number = np.where(row < edge, row // (size + 1), larger + (row - edge) // np.maximum(size, 1))
    return Column(BIGINT, number + 1, buckets.validity)


def _pick(values: Column, position: Array, found: Array) -> Column:
    """The values at positions, NULL where nothing was found."""
    if not len(values):
        return null_column(values.type, len(position))
    picked = values.take(np.where(found, position, 0))
    if found.all():
        return picked
    valid = found if picked.validity is None else picked.validity & found
    return Column(picked.type, picked.values, valid, picked.dictionary)


def shifted(
    values: Column, by: Column | None, default: Column | None, ahead: bool, ignore_nulls: bool, p: Partitions
) -> Column:
    """lag and lead. A NULL distance gives NULL, a row outside the partition the default."""
    here = np.arange(p.row_count)
    steps: Array = np.ones(p.row_count, dtype=np.int64)
    known = np.ones(p.row_count, dtype=bool)
    if by is not None:
        steps = np.clip(by.values.astype(np.int64), -p.row_count, p.row_count)
        if by.validity is not None:
            known, steps = by.validity, np.where(by.validity, steps, 0)
    steps = steps if ahead else -steps
    if ignore_nulls and values.validity is not None:
        seen = np.flatnonzero(values.validity)
        before = np.concatenate([[0], np.cumsum(values.validity)])  # values that are there before each position
        # Counted from the row itself, which is skipped: forwards from the next value, backwards from the last one.
        number = np.where(steps > 0, before[here + 1] + steps - 1, before[here] + steps)
        inside = (number >= before[p.start]) & (number < before[p.stop])
        position = seen[np.clip(number, 0, len(seen) - 1)] if len(seen) else here
        zero = steps == 0
        position, inside = np.where(zero, here, position), inside | zero
    else:
        position = here + steps
        inside = (position >= p.start) & (position < p.stop)
    result = _pick(values, position, inside & known)
    if default is None:
        return result
    outside = np.flatnonzero(~inside & known)
    return _replaced(result, default, outside)


def _replaced(column: Column, other: Column, rows: Array) -> Column:
    """The column with some rows taken from another."""
    if not len(rows):
        return column
    both = concat_columns([column, other])
    place = np.arange(len(column))
    place[rows] += len(column)
    return both.take(place)


def nth(
    values: Column, which: Column | None, last: bool, ignore_nulls: bool, keep: Array | None, pieces: Pieces
) -> Column:
    """first_value, last_value and nth_value: of the frame's rows (those in `keep`, those not NULL) the n-th.

    which: the n of nth_value; n below 1 or NULL gives NULL.
    """
    row_count = len(values)
    counted = np.ones(row_count, dtype=bool) if keep is None else keep
    if ignore_nulls and values.validity is not None:
        counted = counted & values.validity
    rows = np.flatnonzero(counted)
    before = np.concatenate([[0], np.cumsum(counted)])
    sizes = [before[high] - before[low] for low, high in pieces]
    total = np.sum(sizes, axis=0)
    wanted = total if last else np.ones(row_count, dtype=np.int64)
    valid = np.ones(row_count, dtype=bool)
    if which is not None:
        wanted = which.values.astype(np.int64)
        valid = np.ones(row_count, dtype=bool) if which.validity is None else which.validity
    found = valid & (wanted >= 1) & (wanted <= total)
    place = np.zeros(row_count, dtype=np.int64)
    left = np.where(found, wanted, 1) - 1
    for (low, _), size in zip(pieces, sizes, strict=True):
        inside = (left >= 0) & (left < size)
        place = np.where(inside, before[low] + left, place)
        left = np.where(inside, -1, np.where(left >= 0, left - size, left))
    position = rows[np.minimum(place, len(rows) - 1)] if len(rows) else place
    return _pick(values, position, found)
