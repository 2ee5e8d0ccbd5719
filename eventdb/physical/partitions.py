"""Partitions: rows sorted for analytic functions, and where partitions and groups of peers begin and end.

Positions count sorted rows. Peers are rows of one partition with equal order keys; without an order all are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eventdb.batch import Array, Column
from eventdb.physical.grouping import factorize, key_values
from eventdb.physical.ordering import sort_rows
from eventdb.schema import BIGINT


class Partitions:
    """`rows`: the input row at each position. `start`, `stop`: the partition [start, stop) of each position;
    `first`, `last`: its peers [first, last); `group`: the number of its peer group, counted over all partitions.
    `group_edges[g]`: where group g begins, one more for the end. All int64.
    """

    def __init__(
        self, partition: Sequence[Column], order: Sequence[Column], descending: Sequence[bool],
        nulls_first: Sequence[bool], row_count: int,
    ) -> None:  # fmt: skip
        self.row_count = row_count
        ids = factorize(partition, row_count).ids
        columns = [Column(BIGINT, ids), *order] if partition else list(order)
        if columns:
            down, first = ([False, *flags] if partition else list(flags) for flags in (descending, nulls_first))
            self.rows = sort_rows(columns, down, first)
        else:
            self.rows = np.arange(row_count)
        self._find(ids, order)

    @staticmethod
    def of_sorted(partition: Sequence[Column], order: Sequence[Column], row_count: int) -> Partitions:
        """Of rows that are sorted already."""
        made = Partitions.__new__(Partitions)
        made.row_count, made.rows = row_count, np.arange(row_count)
        made._find(factorize(partition, row_count).ids, order)
        return made

    def _find(self, ids: Array, order: Sequence[Column]) -> None:
        """Where partitions and peers begin and end; `ids` are the partitions of the rows."""
        self.is_sorted = bool((self.rows[1:] > self.rows[:-1]).all())
        ordered = ids[self.rows]
        new = np.ones(self.row_count, dtype=bool)
        new[1:] = ordered[1:] != ordered[:-1]
        self.start, self.stop, self.edges, _ = _stretches(new)
        for column in order:
            new[1:] |= _changes(column.take(self.rows))
        self.first, self.last, self.group_edges, self.group = _stretches(new)

    def sorted(self, column: Column) -> Column:
        """A column of the input in the order of positions."""
        return column if self.is_sorted else column.take(self.rows)

    def restored(self, column: Column) -> Column:
        """A column by position back in the order of the input."""
        if self.is_sorted:
            return column
        place = np.empty(self.row_count, dtype=np.int64)
        place[self.rows] = np.arange(self.row_count)
        return column.take(place)

    @property
    def nbytes(self) -> int:
        return 8 * 8 * self.row_count


def _stretches(new: Array) -> tuple[Array, Array, Array, Array]:
    """From where stretches begin: the start, stop and number of each row's stretch, and all starts with the end."""
    edges = np.append(np.flatnonzero(new), len(new))
    number = np.cumsum(new) - 1
    return edges[:-1][number], edges[1:][number], edges, number


def _changes(column: Column) -> Array:
    """Where a value differs from the one before it; NULL equals NULL."""
    keys = key_values(column)
    differs: Array = keys[1:] != keys[:-1]
    if column.validity is not None:
        valid = column.validity
        differs = (valid[1:] != valid[:-1]) | (valid[1:] & differs)
    return differs
