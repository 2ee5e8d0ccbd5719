"""Frames of analytic functions: for every row the positions it sees, as a few stretches [low, high)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from eventdb.batch import Array, Column
from eventdb.decimal_columns import numbers_of
from eventdb.errors import EvaluationError
from eventdb.logical.expressions import Expression, Literal, SortKey
from eventdb.logical.over import Bound, Frame
from eventdb.physical.ordering import order_values, rank_codes
from eventdb.physical.partitions import Partitions

Pieces = list[tuple[Array, Array]]
"""Stretches in order, low <= high; each an int64 per position."""
Evaluate = Callable[[Expression], Column]
"""An expression's values by position."""


def frame_pieces(frame: Frame, order: tuple[SortKey, ...], partitions: Partitions, evaluate: Evaluate) -> Pieces:
    """The frame of each position. EvaluationError for an offset that is NULL or negative."""
    low = _edge(frame, frame.start, False, order, partitions, evaluate)
    high = np.maximum(low, _edge(frame, frame.end, True, order, partitions, evaluate))
    if frame.exclude == "no others":
        return [(low, high)]
    here = np.arange(partitions.row_count)
    first, last = (here, here + 1) if frame.exclude == "current row" else (partitions.first, partitions.last)
    pieces = [(low, np.clip(first, low, high)), (np.clip(last, low, high), high)]
    if frame.exclude == "ties":
        pieces.insert(1, (np.clip(here, low, high), np.clip(here + 1, low, high)))
    return pieces


def _edge(
    frame: Frame, bound: Bound, is_end: bool, order: tuple[SortKey, ...], partitions: Partitions, evaluate: Evaluate
) -> Array:
    """Where the frame begins, or ends, within the partition."""
    if bound.kind == "unbounded preceding":
        return partitions.start
    if bound.kind == "unbounded following":
        return partitions.stop
    if bound.offset is None:
        if frame.unit == "rows":
            return np.arange(partitions.row_count) + is_end
        return partitions.last if is_end else partitions.first
    if frame.unit == "range":
        if not isinstance(bound.offset, Literal):  # the binder has looked at literals
            _check(evaluate(bound.offset))
        assert bound.value is not None
        assert frame.key is not None
        return _search(evaluate(frame.key), evaluate(bound.value), order[0], is_end, partitions)
    offset = evaluate(bound.offset)
    _check(offset)
    steps = np.minimum(offset.values.astype(np.int64), partitions.row_count)
    steps = -steps if bound.kind == "preceding" else steps
    if frame.unit == "rows":
        return np.clip(np.arange(partitions.row_count) + steps + is_end, partitions.start, partitions.stop)
    edges = partitions.group_edges
    group = partitions.group + steps + is_end
    least, most = partitions.group[partitions.start], partitions.group[partitions.stop - 1] + 1
    result: Array = edges[np.clip(group, least, most)]
    return result


def _check(offset: Column) -> None:
    if offset.validity is not None and not offset.validity.all():
        raise EvaluationError("the offset of a frame is NULL")
    if len(offset) and (numbers_of(offset) if offset.type.is_wide else offset.values).min() < 0:
        raise EvaluationError("the offset of a frame must not be negative")
    if offset.type.is_float and np.isnan(offset.values).any():
        raise EvaluationError("the offset of a frame is not a number")


def _search(key: Column, value: Column, order: SortKey, is_end: bool, partitions: Partitions) -> Array:
    """The first position of the partition whose key is not before (for an end: is behind) the value.

    Rows with a NULL key see their peers, the other NULLs, on this side.
    """
    keys, wanted = rank_codes([key, value]) if key.type.is_coded else (order_values(key), order_values(value))
    if order.descending:
        keys, wanted = ~keys, ~wanted
    low, high = partitions.start, partitions.stop
    null: Array | None = None
    if key.validity is not None and not key.validity.all():
        null = ~key.validity
        before = np.concatenate([[0], np.cumsum(null)])
        nulls = before[high] - before[low]
        low, high = (low + nulls, high) if order.nulls_first else (low, high - nulls)
    low, high = low.copy(), high.copy()
    while True:  # a binary search in all partitions at once
        going = np.flatnonzero(low < high)
        if not len(going):
            break
        middle = (low[going] + high[going]) >> 1
        found, goal = keys[middle], wanted[going]
        right = found <= goal if is_end else found < goal
        low[going[right]] = middle[right] + 1
        high[going[~right]] = middle[~right]
    return low if null is None else np.where(null, partitions.last if is_end else partitions.first, low)
