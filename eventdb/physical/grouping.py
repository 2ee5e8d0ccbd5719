"""Rows of key columns -> integers: group numbers for GROUP BY and DISTINCT, matches for joins.

Every key value first becomes an int64 (`key_values`): codes for strings, bits for floats (-0.0 as 0.0, every NaN as
one), the value itself otherwise. Several columns combine into one integer when the product of their ranges allows;
small ranges are addressed directly, large ones go through a sort.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eventdb.batch import Array, Column, Dictionary
from eventdb.errors import InternalError

_SAFE_SPAN = 1 << 62


@dataclass(slots=True)
class Groups:
    """`ids`: int64 group of each row, 0 to count - 1; `first`: the first row of each group."""

    ids: Array
    count: int
    first: Array


def normal_floats(values: Array) -> Array:
    """float64 with one zero and one NaN, so that equal bits mean equal values."""
    result: Array = values.astype(np.float64) + 0.0
    missing = np.isnan(result)
    if missing.any():
        result[missing] = np.nan
    return result


def key_values(column: Column) -> Array:
    """An int64 per row that is equal exactly where the values are equal (within one dictionary)."""
    if column.type.is_float:
        return normal_floats(column.values).view(np.int64)
    return column.values.astype(np.int64, copy=False)


def distinct_codes(column: Column) -> Array:
    """The codes the present rows use, ascending. Cost: rows + min(dictionary, rows log rows)."""
    codes = column.values if column.validity is None else column.values[column.validity]
    return distinct_integers(codes, 0 if column.dictionary is None else len(column.dictionary))


def distinct_integers(codes: Array, size: int) -> Array:
    """The distinct values of integers in [0, size), ascending."""
    if len(codes) <= 1:
        return codes
    if size <= 4 * len(codes):
        seen = np.zeros(size, dtype=bool)
        seen[codes] = True
        return np.flatnonzero(seen)
    return distinct_values(codes)


def distinct_values(values: Array) -> Array:
    """The distinct values, ascending. np.unique would hash them: 30 times as long where most differ, and deaf to
    cancellation meanwhile."""
    ordered = np.sort(values)
    new = np.ones(len(ordered), dtype=bool)
    np.not_equal(ordered[1:], ordered[:-1], out=new[1:])
    result: Array = ordered[new]
    return result


def _shifted(column: Column) -> tuple[Array, int]:
    """Keys in [0, span) and span; NULL is 0 and shifts the others by one."""
    keys = key_values(column)
    valid = column.validity
    if valid is not None and valid.all():
        valid = None
    low = int(np.minimum.reduce(keys))
    span = int(np.maximum.reduce(keys)) - low + 1
    if span >= _SAFE_SPAN:
        keys = np.unique(keys, return_inverse=True)[1].astype(np.int64, copy=False)
        low, span = 0, int(keys.max()) + 1
    if valid is None:
        return (keys - low if low else keys), span
    return np.where(valid, keys - low + 1, 0), span + 1  # low - 1 may be no int64


def combine_keys(columns: Sequence[Column]) -> tuple[Array, int]:
    """One int64 in [0, span) per row that is equal exactly where all columns are equal (NULL equals NULL), and span.

    Needs at least one column and one row.
    """
    combined, span = _shifted(columns[0])
    for column in columns[1:]:
        keys, width = _shifted(column)
        if span * width >= _SAFE_SPAN:
            combined, span = _dense(combined)
            if span * width >= _SAFE_SPAN:
                keys, width = _dense(keys)
        combined = combined * width + keys
        span *= width
    return combined, span


def _dense(keys: Array) -> tuple[Array, int]:
    values, inverse = np.unique(keys, return_inverse=True)
    return inverse.astype(np.int64, copy=False), len(values)


def factorize(columns: Sequence[Column], row_count: int) -> Groups:
    """The group of each row; NULL is a group of its own. No columns: one group (none for no rows)."""
    if row_count <= 1 or not columns:
        count = min(row_count, 1)
        return Groups(np.zeros(row_count, dtype=np.int64), count, np.zeros(count, dtype=np.int64))
    combined, span = combine_keys(columns)
    if span <= 16 * row_count + 1024:
        seen = np.zeros(span, dtype=bool)
        seen[combined] = True
        present = np.flatnonzero(seen)
        count = len(present)
        if count == span:
            ids = combined
        else:
            number = np.empty(span, dtype=np.int64)
            number[present] = np.arange(count)
            ids = number[combined]
    else:
        present, inverse = np.unique(combined, return_inverse=True)
        count = len(present)
        ids = inverse.astype(np.int64, copy=False)
    first = np.empty(count, dtype=np.int64)
    # Assigned backwards: of several rows of a group the first one is written last and stays.
    first[ids[::-1]] = np.arange(row_count - 1, -1, -1)
    return Groups(ids, count, first)


def by_place(places: Array, count: int) -> list[Array]:
    """The rows at each place from 0 to count - 1, ascending."""
    rows = np.argsort(places.astype(np.int16), kind="stable")
    return np.split(rows, np.cumsum(np.bincount(places, minlength=count))[:-1])


def translate_codes(column: Column, target: Dictionary) -> Array:
    """The codes of the rows' values in another dictionary, -1 where the value is not in it (NULL rows: any)."""
    source = column.dictionary
    if source is None:
        raise InternalError("only dictionary columns are translated")
    if source is target:
        return column.values.astype(np.int64, copy=False)
    used = distinct_codes(column)
    values = source.values
    codes = np.fromiter((target.code_of(values[c]) for c in used.tolist()), dtype=np.int64, count=len(used))
    if not len(used):
        return np.full(len(column), -1, dtype=np.int64)
    position = np.searchsorted(used, column.values)
    result: Array = codes[np.minimum(position, len(used) - 1)]
    return result


def shared_codes(left: Column, right: Column) -> tuple[Array, Array]:
    """Integers that are equal exactly where the strings of the two columns are equal."""
    if left.dictionary is right.dictionary:
        return left.values, right.values
    numbers: dict[object, int] = {}
    result = []
    for column in (left, right):
        assert column.dictionary is not None
        used = distinct_codes(column)
        values = column.dictionary.values
        table = np.fromiter(
            (numbers.setdefault(values[c], len(numbers)) for c in used.tolist()), dtype=np.int64, count=len(used)
        )
        if len(used):
            result.append(table[np.minimum(np.searchsorted(used, column.values), len(used) - 1)])
        else:
            result.append(np.zeros(len(column), dtype=np.int64))
    return result[0], result[1]


class _ValueIndex:
    """Dense numbers of the distinct values of one key column; -1 for values it does not hold.

    NULL has a number of its own, the last one, if `null_matches`; else it is a value it does not hold.
    """

    __slots__ = ("_dictionary", "_distinct", "_low", "_null_matches", "_table", "size")

    def __init__(self, column: Column, null_matches: bool) -> None:
        self._dictionary = column.dictionary
        self._null_matches = null_matches
        keys = key_values(column)
        if column.validity is not None:
            keys = keys[column.validity]
        self._low = 0
        self._table: Array | None = None
        self._distinct = distinct_values(keys)
        self.size = len(self._distinct)
        if self.size:
            self._low = int(self._distinct[0])
            span = int(self._distinct[-1]) - self._low + 1
            if span <= 16 * self.size + 1024:
                self._table = np.full(span, -1, dtype=np.int64)
                self._table[self._distinct - self._low] = np.arange(self.size)

    @property
    def span(self) -> int:
        """One more than the greatest number."""
        return self.size + self._null_matches

    def number(self, column: Column) -> Array:
        """int64 per row: the number of its value, -1 for NULL (unless it matches) and unknown values."""
        numbers = self._present(column)
        if column.type.is_float and not self._null_matches:
            numbers = np.where(np.isnan(column.values), -1, numbers)  # as `=` has it; IS NOT DISTINCT FROM equates them
        if column.validity is None:
            return numbers
        return np.where(column.validity, numbers, self.size if self._null_matches else -1)

    def _present(self, column: Column) -> Array:
        if not self.size:
            return np.full(len(column), -1, dtype=np.int64)
        keys = key_values(column) if self._dictionary is None else translate_codes(column, self._dictionary)
        if self._table is not None:
            high = self._low + len(self._table) - 1
            inside = (keys >= self._low) & (keys <= high)
            result = np.where(inside, self._table[np.clip(keys, self._low, high) - self._low], -1)
        else:
            position = np.minimum(np.searchsorted(self._distinct, keys), self.size - 1)
            result = np.where(self._distinct[position] == keys, position, -1)
        return result

    @property
    def nbytes(self) -> int:
        return int(self._distinct.nbytes) + (0 if self._table is None else int(self._table.nbytes))


class KeyIndex:
    """The build side of a hash join: which rows hold a key. Rows with a NULL key are in no group, but where
    `null_matches[i]` NULL is a key like any other.

    `order[starts[g] : starts[g] + counts[g]]` are the rows of group g in input order. Without columns every row is in
    group 0.
    """

    __slots__ = ("_columns", "_steps", "counts", "order", "starts")

    def __init__(self, columns: Sequence[Column], row_count: int, null_matches: Sequence[bool] = ()) -> None:
        nulls = null_matches or [False] * len(columns)
        self._columns = [_ValueIndex(column, null) for column, null in zip(columns, nulls, strict=True)]
        self._steps: list[Array] = []
        numbers = np.zeros(row_count, dtype=np.int64)
        for i, (index, column) in enumerate(zip(self._columns, columns, strict=True)):
            own = index.number(column)
            if i == 0:
                numbers = own
            else:
                pairs = _pairs(numbers, own, index.span)
                distinct = distinct_values(pairs[pairs >= 0])
                self._steps.append(distinct)
                numbers = _find(distinct, pairs)
        present = np.flatnonzero(numbers >= 0)
        groups = numbers[present]
        count = int(groups.max()) + 1 if len(groups) else 0
        if len(self._columns) == 1 and count:
            count = self._columns[0].span  # NULL may be asked for where no row holds it
        self.order = present[np.argsort(groups, kind="stable")]
        self.counts = np.bincount(groups, minlength=count)
        self.starts = np.cumsum(self.counts) - self.counts

    def find(self, columns: Sequence[Column], row_count: int) -> Array:
        """The group that matches each row of the other side, -1 where none does."""
        if not len(self.counts):
            return np.full(row_count, -1, dtype=np.int64)
        numbers = np.zeros(row_count, dtype=np.int64)
        for i, (index, column) in enumerate(zip(self._columns, columns, strict=True)):
            own = index.number(column)
            numbers = own if i == 0 else _find(self._steps[i - 1], _pairs(numbers, own, index.span))
        return numbers

    @property
    def nbytes(self) -> int:
        arrays = [self.order, self.counts, self.starts, *self._steps]
        return sum(int(a.nbytes) for a in arrays) + sum(index.nbytes for index in self._columns)


def _pairs(left: Array, right: Array, right_size: int) -> Array:
    """left * right_size + right, -1 where either is -1. Both are below 2**31, so the product fits."""
    return np.where((left < 0) | (right < 0), -1, left * right_size + right)


def _find(distinct: Array, keys: Array) -> Array:
    """The position of each key in a sorted array, -1 where missing."""
    if not len(distinct):
        return np.full(len(keys), -1, dtype=np.int64)
    position = np.minimum(np.searchsorted(distinct, keys), len(distinct) - 1)
    return np.where(distinct[position] == keys, position, -1)
