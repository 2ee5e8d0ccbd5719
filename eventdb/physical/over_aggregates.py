"""Aggregates of frames: as folds where the aggregate is one, from the frames' own rows otherwise."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

from eventdb.batch import Array, Column, concat_columns
from eventdb.decimal_columns import number_array, numbers_of
from eventdb.errors import EvaluationError
from eventdb.logical.expressions import Aggregation
from eventdb.logical.functions import AGGREGATES
from eventdb.physical.accumulate_numbers import FOLDS, decimal_averages, sum_column
from eventdb.physical.arithmetic import value_range
from eventdb.physical.collected import aggregate_rows, present_rows, value_arguments
from eventdb.physical.frame_folds import Fold, Moments, fold_frames
from eventdb.physical.frames import Pieces
from eventdb.physical.operands import show
from eventdb.physical.ordering import rank_codes
from eventdb.physical.partitions import Partitions
from eventdb.schema import BIGINT, DOUBLE

FRAME_ROWS = 1 << 20
"""Frames without a fold are written out row by row, about so many rows at a time at most."""
FRAME_ROW_BYTES = 80
"""What a row of those takes, about."""

_SPREADS = ("var_pop", "var_samp", "stddev_pop", "stddev_samp")


def is_written_out(aggregation: Aggregation) -> bool:
    """Whether the aggregate is no fold, and looks at the rows of each frame."""
    plain = aggregation.function in _FOLDED or aggregation.function == "count_star"
    return aggregation.distinct or bool(aggregation.order) or not plain


def aggregate_frames(
    aggregation: Aggregation, columns: list[Column], keep: Array | None, pieces: Pieces, partitions: Partitions,
    frame_rows: int, check: Callable[[], None],
) -> Column:  # fmt: skip
    """The aggregate of each position's frame.

    columns: the aggregation's value arguments and order by position; keep: its FILTER. Frames are written out about
    `frame_rows` rows at a time. `check` is called now and then in long computations.
    """
    function = aggregation.function
    if function == "count_star":
        return Column(BIGINT, _counts(keep, pieces))
    if is_written_out(aggregation):
        return _from_rows(aggregation, columns, keep, pieces, frame_rows, check)
    values = columns[0]
    if values.validity is not None:
        keep = values.validity if keep is None else keep & values.validity
    counts = _counts(keep, pieces)
    if function == "count":
        return Column(BIGINT, counts)
    with np.errstate(all="ignore"):
        return _FOLDED[function](aggregation, values, keep, counts, pieces, partitions)


def _counts(keep: Array | None, pieces: Pieces) -> Array:
    """Rows that are kept in each frame."""
    counts: Array
    if keep is None:
        counts = np.sum([high - low for low, high in pieces], axis=0)
        return counts
    before = np.concatenate([[0], np.cumsum(keep)])
    counts = np.sum([before[high] - before[low] for low, high in pieces], axis=0)
    return counts


def _present(counts: Array, least: int = 1) -> Array | None:
    valid: Array = counts >= least
    return None if valid.all() else valid


def _only(values: Array, keep: Array | None, fill: object) -> Array:
    return values if keep is None else np.where(keep, values, np.asarray(fill, dtype=values.dtype))


# --- folds --------------------------------------------------------------------------------------------------------


def _sum(
    aggregation: Aggregation, values: Column, keep: Array | None, counts: Array, pieces: Pieces, partitions: Partitions
) -> Column:
    """sum and avg. Integers by differences of exact prefix sums of their halves, floats as a fold."""
    average = aggregation.function == "avg"
    valid = _present(counts)
    if values.type.is_float:
        fold = Fold(_only(values.values.astype(np.float64), keep, 0.0), 0.0, np.add)
        (total,) = fold_frames(fold, pieces, partitions)
        return Column(DOUBLE, total / np.maximum(counts, 1) if average else total, valid)
    if values.type.is_wide:
        return _sum_decimals(aggregation, values, keep, counts, pieces)
    numbers = _only(values.values.astype(np.int64), keep, 0)
    upper, lower = (
        np.sum([before[high] - before[low] for low, high in pieces], axis=0)
        for before in (np.concatenate([[0], np.cumsum(part)]) for part in (numbers >> 32, numbers & 0xFFFF_FFFF))
    )
    upper, lower = upper + (lower >> 32), lower & 0xFFFF_FFFF
    fits = (upper >= -(1 << 31)) & (upper < 1 << 31)
    exact = (upper << 32) + lower
    if average:
        whole = np.where(fits, exact.astype(np.float64), upper * 2.0**32 + lower)
        scaled = whole / float(10**values.type.scale) if values.type.scale else whole
        return Column(DOUBLE, scaled / np.maximum(counts, 1), valid)
    if aggregation.type.is_wide:
        sums = exact if fits.all() else upper.astype(object) * (1 << 32) + lower
        return sum_column(aggregation.type, sums, valid)
    low, top = value_range(aggregation.type)
    bad = ~fits | (exact < low) | (exact > top)
    if bad.any():
        row = int(np.argmax(bad))
        found = (int(upper[row]) << 32) + int(lower[row])
        raise EvaluationError(
            f"sum overflow: {show(aggregation.type, found)} is outside the range of {aggregation.type}"
        )
    return Column(aggregation.type, exact, valid)


def _sum_decimals(
    aggregation: Aggregation, values: Column, keep: Array | None, counts: Array, pieces: Pieces
) -> Column:
    """By differences of prefix sums in Python's integers."""
    numbers = _only(numbers_of(values).astype(object), keep, 0)
    before = np.concatenate([np.zeros(1, object), np.cumsum(numbers)])
    sums = np.sum([before[high] - before[low] for low, high in pieces], axis=0)
    valid = _present(counts)
    if aggregation.function == "avg":
        return Column(DOUBLE, decimal_averages(sums, counts, values.type), valid)
    return sum_column(aggregation.type, number_array(sums.tolist()), valid)


def _extreme(
    aggregation: Aggregation, values: Column, keep: Array | None, counts: Array, pieces: Pieces, partitions: Partitions
) -> Column:
    """min, max, bool_and and bool_or; NaN is the greatest value, strings go by their rank."""
    largest = aggregation.function in ("max", "bool_or")
    valid = _present(counts)
    numbers = rank_codes([values])[0] if values.dictionary is not None else values.values
    apply: Any
    fill: float | int | bool
    if numbers.dtype.kind == "f":
        apply, fill = (np.maximum, -math.inf) if largest else (np.fmin, math.nan)
    elif numbers.dtype.kind == "b":
        apply, fill = (np.logical_or, False) if largest else (np.logical_and, True)
    else:
        limits = np.iinfo(numbers.dtype)
        apply, fill = (np.maximum, limits.min) if largest else (np.minimum, limits.max)
    fold = Fold(_only(numbers, keep, fill), fill, apply, idempotent=True)
    (best,) = fold_frames(fold, pieces, partitions)
    if values.dictionary is None:
        return Column(aggregation.type, best, valid)
    holder = np.zeros(int(numbers.max(initial=0)) + 1, dtype=np.int64)  # a row that has the string of each rank
    kept = np.arange(len(numbers)) if keep is None else np.flatnonzero(keep)
    holder[numbers[kept]] = kept
    taken = values.take(holder[np.where(counts > 0, best, 0)])
    return Column(taken.type, taken.values, valid, taken.dictionary)


def _folded(
    aggregation: Aggregation, values: Column, keep: Array | None, counts: Array, pieces: Pieces, partitions: Partitions
) -> Column:
    apply, identity = FOLDS[aggregation.function]
    fold = Fold(_only(values.values, keep, identity), identity, apply, apply in (np.bitwise_and, np.bitwise_or))
    (found,) = fold_frames(fold, pieces, partitions)
    return Column(aggregation.type, found, _present(counts))


def _spread(
    aggregation: Aggregation, values: Column, keep: Array | None, counts: Array, pieces: Pieces, partitions: Partitions
) -> Column:
    sample = aggregation.function.endswith("samp")
    numbers = values.values.astype(np.float64)
    fold = Moments(numbers, np.ones(len(numbers), dtype=bool) if keep is None else keep)
    _, _, squares = fold_frames(fold, pieces, partitions)
    result = squares / np.maximum(counts - sample, 1)
    if aggregation.function.startswith("stddev"):
        result = np.sqrt(result)
    return Column(DOUBLE, result, _present(counts, 2 if sample else 1))


_FOLDED: dict[str, Callable[..., Column]] = {
    "count": _sum, "sum": _sum, "avg": _sum,
    **dict.fromkeys(("min", "max", "bool_and", "bool_or"), _extreme),
    **dict.fromkeys(FOLDS, _folded),
    **dict.fromkeys(_SPREADS, _spread),
}  # fmt: skip


# --- rows ---------------------------------------------------------------------------------------------------------


def _from_rows(
    aggregation: Aggregation, columns: list[Column], keep: Array | None, pieces: Pieces, frame_rows: int,
    check: Callable[[], None],
) -> Column:  # fmt: skip
    """Each different frame's rows written out and aggregated. Cost: the rows of all different frames."""
    width = len(value_arguments(aggregation))
    if AGGREGATES[aggregation.function].strict:
        present = present_rows(columns[:width])
        if present is not None:
            keep = present if keep is None else keep & present
    edges = np.stack([edge for piece in pieces for edge in piece])
    new = np.ones(edges.shape[1], dtype=bool)
    new[1:] = (edges[:, 1:] != edges[:, :-1]).any(axis=0)
    frames = edges[:, new]
    sizes = np.sum(frames[1::2] - frames[0::2], axis=0)
    cuts = np.searchsorted(np.cumsum(sizes), np.arange(0, int(sizes.sum()) + frame_rows, frame_rows))
    results = []
    for start, stop in pairwise(cuts.tolist()):
        if stop > start:
            check()
            results.append(_written_out(aggregation, columns, keep, frames[:, start:stop]))
    if cuts[-1] < frames.shape[1]:
        results.append(_written_out(aggregation, columns, keep, frames[:, cuts[-1] :]))
    return concat_columns(results).take(np.cumsum(new) - 1)


def _written_out(aggregation: Aggregation, columns: list[Column], keep: Array | None, frames: Array) -> Column:
    count = frames.shape[1]
    lengths = (frames[1::2] - frames[0::2]).T.ravel()
    starts = frames[0::2].T.ravel()
    total = int(lengths.sum())
    rows = np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(total)
    ids = np.repeat(np.repeat(np.arange(count), len(frames) // 2), lengths)
    if keep is not None:
        kept = keep[rows]
        rows, ids = rows[kept], ids[kept]
    return aggregate_rows(aggregation, [column.take(rows) for column in columns], ids, count)
