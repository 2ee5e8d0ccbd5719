"""TopOfScan: ORDER BY ... LIMIT over a topic's own rows, without reading all of them.

Ranges of rows whose statistics promise the best first key are read first, so a query for the newest rows reads the end
of the log. From the moment enough rows are held, the worst of their first keys bounds what can still get in: ranges
beyond it are not read, and rows beyond it are dropped by one comparison. Other columns are read for the rows held in
the end. A row's place in the log decides between equal rows, as in a stable sort, so the order of reading shows in no
result.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from eventdb.batch import Array, Column, Dictionary, RecordBatch, concat_columns
from eventdb.config import MORSEL_ROWS
from eventdb.logical.expressions import ColumnRef, Expression, SortKey, columns_of, substitute
from eventdb.logical.functions import may_raise
from eventdb.logical.plan import Limit, Plan, Project, Scan, Sort
from eventdb.physical.context import QueryContext
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.morsels import cut, run
from eventdb.physical.operator import Operator
from eventdb.physical.ordering import float_of_order, order_values, sort_rows
from eventdb.physical.scan import LogScan, offset_at
from eventdb.physical.skipping import find_parts
from eventdb.schema import BIGINT, TIMESTAMP

LEAST_ROWS = 4 * MORSEL_ROWS
"""Below, reading everything costs as little."""
MOST_TEXTS = 1 << 16
"""A dictionary of more values is not ranked."""

FEW = 256
"""One row in so many is looked up by itself."""

_WORST = np.iinfo(np.int64).max
_BEST = np.iinfo(np.int64).min


@dataclass(frozen=True, slots=True)
class TopShape:
    """The rows of `scan` in the order of `keys`, the first a column of it; `outputs` are computed from its columns."""

    scan: Scan
    keys: tuple[SortKey, ...]
    outputs: tuple[Expression, ...]


def top_shape(sort: Sort) -> TopShape | None:
    """The shape of a sort that TopOfScan can do, else None."""
    node: Plan = sort.input
    projects: list[Project] = []
    while isinstance(node, Project):
        projects.append(node)
        node = node.input
    if not isinstance(node, Scan) or node.keys is not None or "_headers" in node.columns or not sort.keys:
        return None
    outputs: tuple[Expression, ...] = tuple(ColumnRef(f.type, i, f.name) for i, f in enumerate(node.output))
    for project in reversed(projects):
        outputs = tuple(substitute(e, outputs) for e in project.expressions)
        if any(may_raise(e) for e in outputs):  # of rows that are not among the first, too
            return None
    keys = tuple(SortKey(substitute(k.expression, outputs), k.descending, k.nulls_first) for k in sort.keys)
    if not isinstance(keys[0].expression, ColumnRef) or any(may_raise(key.expression) for key in keys):
        return None
    return TopShape(node, keys, outputs)


@dataclass(frozen=True, slots=True)
class _Range:
    """Rows [start, stop) of slice number `slice`; `place` counts the scan's rows before; no first key is below
    `least`."""

    slice: int
    start: int
    stop: int
    place: int
    least: int


class TopOfScan(Operator):
    """The first rows of a topic in an order. `rows_read` are those whose first key was looked at."""

    def __init__(self, plan: Limit, shape: TopShape, context: QueryContext) -> None:
        assert plan.row_count is not None
        super().__init__(plan.fields, context)
        self.plan = plan
        self._shape = shape
        self._scan = LogScan(shape.scan, context)
        self._wanted = plan.skip_count + plan.row_count
        first = shape.keys[0].expression
        assert isinstance(first, ColumnRef)
        self._first = first.index
        self._down, self._nulls_first = shape.keys[0].descending, shape.keys[0].nulls_first
        self._null_key = _BEST if self._nulls_first else _WORST
        self._is_mixed = False  # a value has the key of NULL, as the least and the greatest BIGINT may
        self.rows_read = self.row_count = 0
        self._lock = threading.Lock()
        self._bound = (_WORST, _WORST)  # the worst first key that can get in, and the last place that has it
        self._held: list[tuple[Array, Array]] = []  # first keys and places of candidates
        self._held_count = 0
        self._ranks: tuple[Dictionary, Array] | None = None
        self._views: dict[tuple[int, int], Column] = {}

    def label(self) -> str:
        skipped = f" skip {self.plan.skip_count}" if self.plan.skip_count else ""
        keys = ", ".join(map(str, self._shape.keys))
        read = f" ({self.rows_read} of {self.row_count} rows read)" if self.rows_read else ""
        return f"Top {self.plan.row_count}{skipped} by {keys} of {self._shape.scan.label()}{read}"

    def produce(self) -> Iterator[RecordBatch]:
        if self._wanted == self.plan.skip_count:
            return
        self._parts: list[Any] = []
        self._logs: list[Any] = []  # of each part
        self._readers: list[list[Any]] = []
        for log, parts in find_parts(self._shape.scan, self.context).groups:
            readers = self._scan.readers(log)
            self._parts += parts
            self._logs += [log] * len(parts)
            self._readers += [readers] * len(parts)
        counts = [int(part.row_count) for part in self._parts]
        self._starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts, dtype=np.int64)])
        self.row_count = int(self._starts[-1])
        threads = max(1, self.context.threads)
        ranges = self._ranges(counts)
        ranges.sort(
            key=lambda r: (r.least, -r.place if self._down else r.place)
        )  # what says nothing rises, as times do
        spread = [ranges[i] for first in range(threads) for i in range(first, len(ranges), threads)]
        run(spread, threads, self._look_at, self.context.cancel)
        yield from self._result()
        self.release()

    # --- which rows ---

    def _ranges(self, counts: list[int]) -> list[_Range]:
        made = []
        for morsel in cut(counts, max(1, self.context.threads), MORSEL_ROWS):
            least = self._least(self._parts[morsel.slice], morsel.start, morsel.stop)
            place = int(self._starts[morsel.slice]) + morsel.start
            made.append(_Range(morsel.slice, morsel.start, morsel.stop, place, least))
        return made

    def _least(self, part: Any, start: int, stop: int) -> int:
        """A bound below the first keys of some rows of a slice, as far as its statistics tell."""
        name = self._shape.scan.columns[self._first]
        if name == "_offset" and getattr(part, "offsets", None) is None:
            return ~(part.first_offset + stop - 1) if self._down else int(part.first_offset) + start
        position = self._scan_position(name)
        log, type = self.context.logs(self._shape.scan.topic_id), self._shape.scan.output[self._first].type
        if position is None or type.is_coded or log.schema.fields[position].type != type:  # _time of a DATE
            return _BEST
        if not hasattr(part, "value_range"):
            is_time = position == log.event_time and type == TIMESTAMP
            known = part.time_range if is_time and not self._nulls_first else None
        elif self._nulls_first and part.has_nulls(position):
            known = None
        else:
            known = part.value_range(position)
        if known is None:
            return _BEST
        return ~int(known[1]) if self._down else int(known[0])

    def _scan_position(self, name: str) -> int | None:
        """Where slices store a column, None of those they make."""
        log = self.context.logs(self._shape.scan.topic_id)
        if name == "_time":
            found: int | None = log.event_time
            return found
        return None if name.startswith("_") else int(log.schema.index_of(name))

    def _look_at(self, thread: int, rows: _Range) -> bool:
        bound, last = self._bound
        if len(self._shape.keys) == 1 and rows.place > last and bound not in (_BEST, _WORST):
            bound -= 1  # an equal row that comes later does not get in
        if rows.least > bound:
            return True
        column = self._column(self._first, rows.slice).slice(rows.start, rows.stop)
        kept = self._within(column, bound)
        chosen = column if len(kept) == len(column) else column.take(kept)
        keys, places = self._first_keys(chosen), kept + rows.place
        if len(kept) > 2 * self._wanted + 1024:
            keys, places = self._best(keys, places)
        with self._lock:
            self.rows_read += rows.stop - rows.start
            if len(keys):
                self._add(keys, places)
        return True

    def _column(self, index: int, slice: int) -> Column:
        kept = self._views.get((index, slice))
        if kept is None:
            part = self._parts[slice]
            kept = self._readers[slice][index](part)
            if not hasattr(part, "has_nulls"):  # a view of the file, not the rows of a decoded block
                self._views[index, slice] = kept
        return kept

    def _within(self, column: Column, bound: int) -> Array:
        """The rows whose first key is `bound` at most, by one comparison of stored values."""
        if bound == _WORST:
            return np.arange(len(column))
        limit = ~bound if self._down else bound
        values = column.values
        if column.dictionary is not None:
            ranks = self._rank_table(column.dictionary)
            keep = (ranks >= limit if self._down else ranks <= limit)[values]
        elif column.type.is_float:
            number = float_of_order(limit)
            # NaN is above all numbers: every NaN is kept, or all rows are where it is the bound itself.
            keep = ~(values < number) if self._down else ~(values > number)
        else:
            keep = values >= limit if self._down else values <= limit
        if column.validity is not None:
            keep = keep | ~column.validity if self._nulls_first else keep & column.validity
        return np.flatnonzero(keep)

    def _first_keys(self, column: Column) -> Array:
        """int64 that sort like the first key in its direction, NULLs like the value at their end."""
        if column.dictionary is not None:
            values = self._rank_table(column.dictionary)[column.values]
        else:
            values = order_values(column)
        if self._down:
            values = ~values
        present = True if column.validity is None else column.validity
        if bool(np.any((values == self._null_key) & present)):
            self._is_mixed = True
        return values if column.validity is None else np.where(present, values, self._null_key)

    def _rank_table(self, dictionary: Dictionary) -> Array:
        """The rank of each code. Made once: the dictionary grows while others append, but not in this snapshot, and
        ranks that are made anew do not compare with those that are held."""
        with self._lock:
            ranks = self._ranks
            if ranks is None or ranks[0] is not dictionary:
                texts = dictionary.values[:]
                table = np.zeros(max(1, len(texts)), np.int64)
                table[sorted(range(len(texts)), key=texts.__getitem__)] = np.arange(len(texts))
                ranks = self._ranks = dictionary, table
            return ranks[1]

    def _add(self, keys: Array, places: Array) -> None:
        """Takes candidates in. The lock is held."""
        self._held.append((keys, places))
        self._held_count += len(keys)
        self.context.hold(self, "ORDER BY ... LIMIT", 32 * self._held_count)
        if self._held_count < 2 * self._wanted and (self._bound[0] != _WORST or self._held_count < self._wanted):
            return
        best = self._best(*self._candidates())
        self._held, self._held_count = [best], len(best[0])
        if len(best[0]) >= self._wanted:
            worst = int(best[0].max())
            self._bound = worst, int(best[1][best[0] == worst].max())

    def _candidates(self) -> tuple[Array, Array]:
        return np.concatenate([k for k, _ in self._held]), np.concatenate([p for _, p in self._held])

    def _best(self, keys: Array, places: Array) -> tuple[Array, Array]:
        """The best of some candidates. Where more share the last first key than fit, the other keys tell them apart, or
        the rows themselves where NULL has the key of a value."""
        if len(keys) <= self._wanted:
            return keys, places
        last = np.partition(keys, self._wanted - 1)[self._wanted - 1]
        near = np.flatnonzero(keys <= last)
        keys, places = keys[near], places[near]
        if len(keys) == self._wanted:
            return keys, places
        if len(self._shape.keys) == 1 and self._is_mixed and last == self._null_key:
            chosen = self._sorted(places)[: self._wanted]
        elif len(self._shape.keys) == 1:
            equal = np.flatnonzero(keys == last)
            room = self._wanted - (len(keys) - len(equal))
            equal = equal[np.argsort(places[equal])[:room]]
            chosen = np.concatenate([np.flatnonzero(keys < last), equal])
        else:
            if len(keys) <= 2 * self._wanted + 1024:  # too few to read the other keys for
                return keys, places
            chosen = self._sorted(places)[: self._wanted]
        return keys[chosen], places[chosen]

    def _sorted(self, places: Array) -> Array:
        """Where in `places` the rows stand in their order."""
        needed = set[int]().union(*(columns_of(key.expression) for key in self._shape.keys))
        by_place = np.argsort(places)
        batch = self._rows(places[by_place], needed)
        columns = [Evaluator(key.expression)(batch) for key in self._shape.keys]
        down = [key.descending for key in self._shape.keys]
        first = [key.nulls_first for key in self._shape.keys]
        rows: Array = by_place[sort_rows([*columns, Column(BIGINT, places[by_place])], [*down, False], [*first, False])]
        return rows

    # --- their columns ---

    def _rows(self, places: Array, needed: set[int]) -> RecordBatch:
        """The rows at ascending places; columns that are not needed hold anything."""
        edges = np.searchsorted(places, self._starts)
        touched = [i for i in range(len(self._parts)) if edges[i] < edges[i + 1]]
        columns: list[Column] = []
        for index, field in enumerate(self._shape.scan.output):
            if index not in needed:
                unread = Dictionary([""]) if field.type.is_coded else None
                columns.append(Column(field.type, np.zeros(len(places), field.type.physical), None, unread))
                continue
            taken = []
            for i in touched:
                rows = places[edges[i] : edges[i + 1]] - self._starts[i]
                taken.append(self._taken(index, i, rows))
            columns.append(concat_columns(taken))
        return RecordBatch(self._scan.names, columns, len(places))

    def _taken(self, index: int, slice: int, rows: Array) -> Column:
        """One column of ascending rows of a slice. Strings stored plainly are decoded for these rows alone."""
        part, position = self._parts[slice], self._scan_position(self._shape.scan.columns[index])
        if position is None or len(rows) * FEW > part.row_count or not self._is_plain(part, position):
            return self._column(index, slice).take(rows)
        edges = [0, *(np.flatnonzero(np.diff(rows) != 1) + 1).tolist(), len(rows)]
        found = []
        for first, last in pairwise(edges):
            start, stop = offset_at(part, int(rows[first])), offset_at(part, int(rows[last - 1])) + 1
            for piece in self.context.snapshot.slices(self._logs[slice], start, stop):
                found.append(self._readers[slice][index](piece))
        return concat_columns(found)

    def _is_plain(self, part: Any, position: int) -> bool:
        return hasattr(part, "is_plain") and not hasattr(part, "has_nulls") and bool(part.is_plain(position))

    def _result(self) -> Iterator[RecordBatch]:
        if not self._held:
            return
        _, places = self._candidates()
        rows = places[self._sorted(places)[: self._wanted][self.plan.skip_count :]]
        if not len(rows):
            return
        needed = set[int]().union(*(columns_of(e) for e in self._shape.outputs))
        by_place = np.argsort(rows)
        batch = self._rows(rows[by_place], needed)
        back = np.empty(len(rows), np.int64)
        back[by_place] = np.arange(len(rows))
        batch = batch.take(back)
        for start in range(0, len(rows), MORSEL_ROWS):
            piece = batch.slice(start, start + MORSEL_ROWS)
            columns = [Evaluator(e)(piece) for e in self._shape.outputs]
            yield RecordBatch(self.names, columns, piece.row_count)


def top_of_scan(plan: Limit, sort: Sort, context: QueryContext) -> TopOfScan | None:
    """The operator for a sort of which few rows are wanted; None where TopRows is as good."""
    shape = top_shape(sort)
    if shape is None or context.execution == "interpreted" or plan.row_count is None:
        return None
    scan = shape.scan
    found = find_parts(scan, context)
    context.counted = scan, found
    if context.execution == "auto" and found.row_count < LEAST_ROWS:
        return None
    if (plan.skip_count + plan.row_count) * 8 > found.row_count:
        return None
    first = shape.keys[0].expression
    assert isinstance(first, ColumnRef)
    if first.type.is_coded and not _has_small_dictionary(scan, scan.columns[first.index], context, found.groups):
        return None
    return TopOfScan(plan, shape, context)


def _has_small_dictionary(scan: Scan, name: str, context: QueryContext, groups: Any) -> bool:
    """Whether all slices share a dictionary that is worth ranking."""
    log = context.logs(scan.topic_id)
    dictionaries = getattr(log, "dictionaries", None)
    position = None if name.startswith("_") else log.schema.index_of(name)
    if dictionaries is None or position is None or dictionaries[position] is None:
        return False
    if any(not hasattr(part, "is_plain") or part.is_plain(position) for _, parts in groups for part in parts):
        return False
    return len(dictionaries[position].shared()) <= MOST_TEXTS
