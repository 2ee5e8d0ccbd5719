"""Aggregates of rows that are all there: the ones that need a group's rows together, in an order or without repeats.

`aggregate_rows` takes rows with group numbers in any order. GROUP BY collects them to its end (CollectedEvaluator says
which), an analytic function has them at hand. Rows are sorted by group, then by the aggregate's order, so every group
is a stretch and its aggregate a computation over stretches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from eventdb.batch import Array, Column, RecordBatch
from eventdb.decimal_columns import column_of_numbers, number_array, numbers_of
from eventdb.errors import EvaluationError
from eventdb.logical.expressions import Aggregation, Expression, Literal
from eventdb.logical.functions import AGGREGATES
from eventdb.logical.python_functions import PythonAggregation
from eventdb.physical.accumulators import accumulator
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.grouping import factorize
from eventdb.physical.operands import from_values, null_column
from eventdb.physical.ordering import sort_rows
from eventdb.physical.pair_statistics import PAIR_STATISTICS, pair_statistic
from eventdb.physical.python_call import python_aggregate
from eventdb.physical.shape_statistics import SHAPE_STATISTICS
from eventdb.schema import BIGINT, DOUBLE, DataType


@dataclass(slots=True)
class CollectedInput:
    """The columns an aggregation reads (arguments, then order), and the batch's rows they are of (None: all)."""

    columns: list[Column]
    rows: Array | None


class CollectedEvaluator:
    """From a batch to the rows of one collected aggregation, without those it skips (NULL arguments, FILTER)."""

    def __init__(self, aggregation: Aggregation) -> None:
        parts = [*value_arguments(aggregation), *(key.expression for key in aggregation.order)]
        self._evaluators = [Evaluator(part) for part in parts]
        self._value_count = len(value_arguments(aggregation))
        self._filter = None if aggregation.filter is None else Evaluator(aggregation.filter)
        self._strict = (
            not aggregation.aggregate.sees_nulls
            if isinstance(aggregation, PythonAggregation)
            else AGGREGATES[aggregation.function].strict
        )

    def __call__(self, batch: RecordBatch) -> CollectedInput:
        rows: Array | None = None
        keep = None if self._filter is None else self._filter.keep(batch)
        if keep is not None:
            rows = np.flatnonzero(keep)
            batch = batch.take(rows)
        columns = [evaluate(batch) for evaluate in self._evaluators]
        if self._strict:
            present = present_rows(columns[: self._value_count])
            if present is not None:
                columns = [column.filter(present) for column in columns]
                rows = np.flatnonzero(present) if rows is None else rows[present]
        return CollectedInput(columns, rows)


def value_arguments(aggregation: Aggregation) -> tuple[Expression, ...]:
    """The arguments that differ from row to row; the others (a separator, a fraction) are literals."""
    if isinstance(aggregation, PythonAggregation):
        return aggregation.args
    literals = AGGREGATES[aggregation.function].literals
    return tuple(arg for i, arg in enumerate(aggregation.args) if i not in literals)


def present_rows(columns: Sequence[Column]) -> Array | None:
    """Where no column is NULL; None where that is everywhere."""
    valid: Array | None = None
    for column in columns:
        if column.validity is not None and not column.validity.all():
            valid = column.validity if valid is None else valid & column.validity
    return valid


@dataclass(slots=True)
class _Stretches:
    """Sorted rows: group g is [starts[g], stops[g]) of `columns`; `ids` is the group of each row."""

    columns: list[Column]
    ids: Array
    starts: Array
    stops: Array

    @property
    def counts(self) -> Array:
        return self.stops - self.starts


def aggregate_rows(aggregation: Aggregation, columns: Sequence[Column] | None, ids: Array, count: int) -> Column:
    """The aggregate of each of `count` groups.

    columns: the aggregation's value arguments, then its order (None: no rows); rows it skips are not among them.
    ids: int64 group of each row.
    """
    if columns is None or not len(ids):
        columns = [null_column(arg.type, 0) for arg in value_arguments(aggregation)]
        columns += [null_column(key.expression.type, 0) for key in aggregation.order]
    width = len(value_arguments(aggregation))
    if aggregation.distinct and len(ids):
        first = np.sort(factorize([Column(BIGINT, ids), *columns[:width]], len(ids)).first)
        columns, ids = [column.take(first) for column in columns], ids[first]
    compute = _python if isinstance(aggregation, PythonAggregation) else _COMPUTED.get(aggregation.function)
    if compute is None:
        plain = accumulator(aggregation.function, aggregation.type, columns[0].type if width else None)
        plain.resize(count)
        rows = _sorted_rows(columns[width:], ids, aggregation) if aggregation.order else None
        value = None if not width else columns[0] if rows is None else columns[0].take(rows)
        plain.update(np.arange(count), ids if rows is None else ids[rows], value, len(ids))
        return plain.result(np.arange(count))
    by_value = aggregation.function in ("quantile_cont", "quantile_disc")
    if by_value and not aggregation.order:
        if columns[0].dictionary is None and count * _ROWS_PER_GROUP <= len(ids):
            with np.errstate(all="ignore"):
                return compute(aggregation, _selected(columns[0], ids, count, _fraction(aggregation)))
        rows = _sorted_rows(columns[:1], ids, None)
    else:
        rows = _sorted_rows(columns[width:], ids, aggregation)
    ordered = ids[rows]
    edges = np.searchsorted(ordered, np.arange(count + 1))
    groups = _Stretches([column.take(rows) for column in columns[:width]], ordered, edges[:-1], edges[1:])
    with np.errstate(all="ignore"):
        return compute(aggregation, groups)


_ROWS_PER_GROUP = 64  # with fewer, one sort of all rows beats a selection in each group


def _selected(column: Column, ids: Array, count: int, fraction: float) -> _Stretches:
    """Groups in which only the values that a quantile takes are in their sorted places; NULLs are not among the rows.

    One group of 2 million rows takes 86 ms, sorting them 784.
    """
    counts = np.bincount(ids, minlength=count)
    stops = np.cumsum(counts)
    starts = stops - counts
    if count == 1:
        values = column.values.copy()
    else:
        narrow = ids.astype(np.int16) if count <= 1 << 15 else ids  # NumPy sorts 16 bits by radix
        rows = np.argsort(narrow, kind="stable")
        values, ids = column.values[rows], ids[rows]
    below = (counts - 1) * fraction
    chosen = [np.floor(below), np.ceil(below), np.maximum(np.ceil(counts * fraction), 1) - 1]
    places = np.stack(chosen, axis=1).astype(np.int64)
    for start, stop, wanted in zip(starts.tolist(), stops.tolist(), places.tolist(), strict=True):
        if stop > start:
            values[start:stop].partition(sorted(set(wanted)))
    return _Stretches([Column(column.type, values)], ids, starts, stops)


def _sorted_rows(order: Sequence[Column], ids: Array, aggregation: Aggregation | None) -> Array:
    """Rows by group, then by the order columns."""
    keys = () if aggregation is None else aggregation.order
    down = [False, *(key.descending for key in keys)] if keys else [False] * (1 + len(order))
    first = [False, *(key.nulls_first for key in keys)] if keys else [False] * (1 + len(order))
    if len(ids) == 0:
        return np.zeros(0, dtype=np.int64)
    return sort_rows([Column(BIGINT, ids), *order], down, first)


# --- the functions ------------------------------------------------------------------------------------------------


def _fraction(aggregation: Aggregation) -> float:
    literal = aggregation.args[1]
    assert isinstance(literal, Literal)
    fraction = float(literal.value)
    if not 0.0 <= fraction <= 1.0:
        raise EvaluationError(f"a quantile's fraction is between 0 and 1, not {fraction:g}")
    return fraction


def _quantile_disc(aggregation: Aggregation, groups: _Stretches) -> Column:
    place = np.maximum(np.ceil(groups.counts * _fraction(aggregation)).astype(np.int64), 1) - 1
    return _taken(groups, groups.starts + place)


def _taken(groups: _Stretches, rows: Array) -> Column:
    """The first column at one row of each group, NULL for groups without rows."""
    values = groups.columns[0]
    empty = groups.counts == 0
    if not len(values):
        return null_column(values.type, len(rows))
    taken = values.take(np.where(empty, 0, rows))
    if not empty.any():
        return taken
    valid = ~empty if taken.validity is None else taken.validity & ~empty
    return Column(taken.type, taken.values, valid, taken.dictionary)


def _quantile_cont(aggregation: Aggregation, groups: _Stretches) -> Column:
    place = (groups.counts - 1) * _fraction(aggregation)
    low = np.floor(place).astype(np.int64)
    below, above = _taken(groups, groups.starts + low), _taken(groups, groups.starts + np.ceil(place).astype(np.int64))
    share = place - low
    if aggregation.type.is_wide:
        return _between_decimals(aggregation.type, below, above, share)
    if aggregation.type.is_float:
        a, b = below.values.astype(np.float64), above.values.astype(np.float64)
        between = np.where(share > 0, a + (b - a) * share, a)  # not a NaN of inf - inf where nothing is between
    else:
        step = (above.values.astype(np.int64) - below.values.astype(np.int64)) * share
        # DECIMAL is rounded half away from zero, as CAST does; times to the microsecond.
        between = below.values.astype(np.int64) + np.where(step < 0, np.ceil(step - 0.5), np.floor(step + 0.5)).astype(
            np.int64
        )
    return Column(aggregation.type, between.astype(aggregation.type.physical, copy=False), below.validity)


def _between_decimals(type: DataType, below: Column, above: Column, share: Array) -> Column:
    """below + (above - below) * share, halves rounded away from zero."""
    numbers = []
    for a, b, part in zip(numbers_of(below).tolist(), numbers_of(above).tolist(), share.tolist(), strict=True):
        top, bottom = part.as_integer_ratio()
        step = (b - a) * top
        size = (2 * abs(step) + bottom) // (2 * bottom)
        numbers.append(a + (size if step >= 0 else -size))
    return column_of_numbers(type, number_array(numbers), below.validity)


def _mode(aggregation: Aggregation, groups: _Stretches) -> Column:
    count = len(groups.ids)
    if not count:
        return _taken(groups, groups.starts)
    pairs = factorize([Column(BIGINT, groups.ids), groups.columns[0]], count)
    often = np.bincount(pairs.ids, minlength=pairs.count)
    owner = groups.ids[pairs.first]
    best = np.lexsort((pairs.first, -often, owner))  # the most frequent of each group first, the first seen of several
    leads = np.ones(len(best), dtype=bool)
    leads[1:] = owner[best][1:] != owner[best][:-1]
    rows = groups.starts.copy()
    rows[owner[best[leads]]] = pairs.first[best[leads]]
    return _taken(groups, rows)


def _string_agg(aggregation: Aggregation, groups: _Stretches) -> Column:
    separator = aggregation.args[1]
    assert isinstance(separator, Literal)
    if separator.value is None:
        return null_column(aggregation.type, len(groups.starts))
    texts = groups.columns[0].decoded().tolist() if len(groups.columns[0]) else []
    pairs = zip(groups.starts.tolist(), groups.stops.tolist(), strict=True)
    return from_values(aggregation.type, [separator.value.join(texts[a:b]) if b > a else None for a, b in pairs])


def _pair(aggregation: Aggregation, groups: _Stretches) -> Column:
    y, x = (column.values.astype(np.float64, copy=False) for column in groups.columns)
    if aggregation.function == "regr_count":
        return Column(BIGINT, groups.counts.astype(np.int64))
    values, valid = pair_statistic(aggregation.function, y, x, groups.ids, len(groups.starts))
    return Column(DOUBLE, values, None if valid.all() else valid)


def _shape(aggregation: Aggregation, groups: _Stretches) -> Column:
    values = groups.columns[0].values.astype(np.float64, copy=False)
    found, valid = SHAPE_STATISTICS[aggregation.function](values, groups.ids, len(groups.starts))
    return Column(DOUBLE, found, None if valid.all() else valid)


def _entropy(aggregation: Aggregation, groups: _Stretches) -> Column:
    """-sum(p * log2(p)) over the shares p of the group's different values; 0 for none."""
    total: Array = np.zeros(len(groups.starts))
    if len(groups.ids):
        pairs = factorize([Column(BIGINT, groups.ids), groups.columns[0]], len(groups.ids))
        owner = groups.ids[pairs.first]
        share = np.bincount(pairs.ids, minlength=pairs.count) / groups.counts[owner]
        total = np.bincount(owner, weights=-share * np.log2(share), minlength=len(total))
    return Column(DOUBLE, total + 0.0)


def _python(aggregation: Aggregation, groups: _Stretches) -> Column:
    assert isinstance(aggregation, PythonAggregation)
    return python_aggregate(aggregation.aggregate, groups.columns, groups.starts.tolist(), groups.stops.tolist())


_COMPUTED: dict[str, Callable[[Aggregation, _Stretches], Column]] = {
    "quantile_cont": _quantile_cont, "quantile_disc": _quantile_disc, "mode": _mode, "string_agg": _string_agg,
    "regr_count": _pair, "entropy": _entropy,
    **dict.fromkeys(SHAPE_STATISTICS, _shape), **dict.fromkeys(PAIR_STATISTICS, _pair),
}  # fmt: skip
