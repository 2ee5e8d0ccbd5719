"""JoinTable: the held rows of a join by their keys, in kernels' tables, for HashJoin and for fused pipelines.

The key columns of a row become one int64: each column a digit (the value less the least one; the code of a string in
the held column's dictionary), the digits one number. Keys whose ranges do not fit into it have no JoinTable and go
through grouping.KeyIndex, which is also the oracle of this one. Rows with a NULL key have no number.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from eventdb.batch import Array, Column, Dictionary
from eventdb.config import MORSEL_ROWS
from eventdb.kernels.hash_spread import SPREAD
from eventdb.physical.context import CancelToken
from eventdb.physical.grouping import translate_codes

MAX_SPAN = 1 << 62
_MAX_ROWS = (1 << 31) - 1
_DIRECT_PLACES_PER_ROW = 16
_DIRECT_PLACES = 1 << 16
MAX_DIRECT_PLACES = 1 << 26


@dataclass(frozen=True, slots=True)
class Digit:
    """One key column as a digit: values in [low, low + span). `dictionary` is that of the held strings; what it gets
    later is beyond the span."""

    low: int
    span: int
    dictionary: Dictionary | None

    @staticmethod
    def of(column: Column) -> Digit | None:
        """None for a column whose values are no integers, or too far apart."""
        if column.dictionary is not None:
            return Digit(0, max(1, len(column.dictionary)), column.dictionary)
        if column.values.dtype.kind != "i":
            return None
        values = column.values if column.validity is None else column.values[column.validity]
        if not len(values):
            return Digit(0, 1, None)
        low, high = int(values.min()), int(values.max())
        return None if high - low >= MAX_SPAN - 1 else Digit(low, high - low + 1, None)

    def numbers(self, column: Column) -> tuple[Array, Array | None]:
        """(int64 per row, where it is one of this digit's; None = everywhere)."""
        if self.dictionary is not None:
            keys = translate_codes(column, self.dictionary)
            known = None if column.dictionary is self.dictionary else (keys >= 0) & (keys < self.span)
        else:
            values = column.values.astype(np.int64, copy=False)
            known = (values >= self.low) & (values <= self.low + self.span - 1)
            keys = values - self.low if self.low else values
        if known is not None and known.all():
            known = None
        if column.validity is not None:
            known = column.validity if known is None else known & column.validity
        return keys, known


class JoinTable:
    """`counts[n]` rows have key number n: `order[starts[n]:][:counts[n]]`, in input order. Looks like a KeyIndex."""

    __slots__ = ("counts", "digits", "held", "order", "shift", "starts", "table")

    def __init__(
        self, digits: Sequence[Digit], table: Array, held: Array | None, counts: Array, starts: Array, order: Array
    ) -> None:
        self.digits = digits
        self.table = table
        self.held = held  # the keys by number, of a hash table; None: directly addressed
        self.shift = 64 - (len(table).bit_length() - 1)
        self.counts = counts
        self.starts = starts
        self.order = order

    @staticmethod
    def build(
        columns: Sequence[Column], row_count: int, null_matches: Sequence[bool] = (), *, members: bool = False
    ) -> JoinTable | None:
        """The table of some rows; None if their keys do not fit one. `members`: it only says which keys there are,
        and lists no rows. Imports Numba."""
        if not columns or row_count > _MAX_ROWS:
            return None
        digits: list[Digit] = []
        span = 1
        for i, column in enumerate(columns):
            if null_matches and null_matches[i] and column.validity is not None and not column.validity.all():
                return None
            digit = Digit.of(column)
            if digit is None:
                return None
            span *= digit.span
            digits.append(digit)
        if span >= MAX_SPAN:
            return None
        keys, known = combined(digits, columns)
        present = None if known is None else np.flatnonzero(known)
        if present is not None:
            keys = keys[present]
        return JoinTable._of(digits, span, _fixed(keys), present, members)

    @staticmethod
    def _of(digits: Sequence[Digit], span: int, keys: Array, present: Array | None, members: bool) -> JoinTable:
        from eventdb.kernels import join

        numbers = np.empty(len(keys), np.int32)
        held: Array | None = None
        if span <= min(MAX_DIRECT_PLACES, max(_DIRECT_PLACES, _DIRECT_PLACES_PER_ROW * len(keys))):
            table = np.full(span, -1, np.int32)
            count = join.number_direct(keys, table, numbers)
        else:
            table = np.full(1 << max(4, (2 * len(keys) - 1).bit_length()), -1, np.int32)
            held = np.empty(max(1, len(keys)), np.int64)
            shift = np.uint64(64 - (len(table).bit_length() - 1))
            count = join.number_hashed(keys, np.uint64(SPREAD), shift, table, held, numbers)
            held = held[: max(1, count)]
        if members:
            nothing = np.empty(0, np.int64)
            return JoinTable(digits, table, held, np.ones(count, np.int64), np.zeros(count, np.int64), nothing)
        if count == len(keys):  # every key once: they are numbered in the order of their rows
            order = np.arange(count) if present is None else present
            return JoinTable(digits, table, held, np.ones(count, np.int64), np.arange(count), order)
        counts = np.bincount(numbers, minlength=count)
        starts = np.cumsum(counts) - counts
        order = np.empty(len(keys), np.int64)
        join.list_rows(numbers, starts.copy(), order)
        return JoinTable(digits, table, held, counts, starts, order if present is None else present[order])

    @property
    def is_unique(self) -> bool:
        """Whether no key has two rows."""
        return len(self.order) == len(self.counts)

    @property
    def nbytes(self) -> int:
        arrays = [self.table, self.counts, self.starts, self.order]
        return sum(int(a.nbytes) for a in arrays) + (0 if self.held is None else int(self.held.nbytes))

    def find(self, columns: Sequence[Column], row_count: int) -> Array:
        """The key number of each row of the other side, -1 where no row here has its key."""
        from eventdb.kernels import join

        if not len(self.counts):
            return np.full(row_count, -1, dtype=np.int32)
        keys, known = combined(self.digits, columns)
        if known is not None:
            keys = np.where(known, keys, -1)
        numbers = np.empty(row_count, np.int32)
        if self.held is None:
            join.find_direct(_fixed(keys), self.table, numbers)
        else:  # -1 is no key
            shift = np.uint64(self.shift)
            join.find_hashed(_fixed(keys), np.uint64(SPREAD), shift, self.table, self.held, numbers)
        return numbers

    def pairs(self, found: Array, cancel: CancelToken) -> Iterator[tuple[Array, Array]]:
        """Positions of rows and of their partners, at most MORSEL_ROWS at a time however often a key repeats."""
        from eventdb.kernels import join

        if self.is_unique:
            rows = np.flatnonzero(found >= 0)
            numbers = found[rows]
            for start in range(0, len(rows), MORSEL_ROWS):
                piece = slice(start, start + MORSEL_ROWS)
                yield rows[piece], self.order[numbers[piece]]
            return
        row = skipped = 0
        while row < len(found):
            cancel.check()
            left, right = np.empty(MORSEL_ROWS, np.int64), np.empty(MORSEL_ROWS, np.int64)
            filled, row, skipped = join.list_pairs(
                found, self.counts, self.starts, self.order, row, skipped, left, right
            )
            if filled:
                yield left[:filled], right[:filled]


def combined(digits: Sequence[Digit], columns: Sequence[Column]) -> tuple[Array, Array | None]:
    """One int64 per row, and where it stands for a key (None = everywhere)."""
    keys, known = digits[0].numbers(columns[0])
    for digit, column in zip(digits[1:], columns[1:], strict=True):
        more, also = digit.numbers(column)
        keys = keys * digit.span + more
        if also is not None:
            known = also if known is None else known & also
    return keys, known


def _fixed(keys: Array) -> Array:
    """The one layout the kernels are compiled for."""
    view = np.ascontiguousarray(keys, dtype=np.int64).view()
    view.flags.writeable = False
    return view
