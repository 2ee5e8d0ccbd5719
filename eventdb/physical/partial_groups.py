"""PartialGroups: the groups of a query while its rows come in.

Each batch becomes a partial result (its distinct keys and one accumulator slot per key). Partials are merged when their
groups together are twice what the last merge left, so memory follows the groups and the work per row stays constant.
DISTINCT arguments are partial results too: the distinct pairs of keys and argument. Aggregates that need the rows of a
group together (collected.py) keep them until the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from eventdb.batch import Array, Column, RecordBatch, concat_columns
from eventdb.logical.expressions import Aggregation
from eventdb.logical.functions import is_collected
from eventdb.physical.accumulator import Accumulator
from eventdb.physical.accumulators import accumulator, accumulator_of, is_distinct_set
from eventdb.physical.collected import CollectedInput, aggregate_rows
from eventdb.physical.context import QueryContext
from eventdb.physical.grouping import by_place, factorize
from eventdb.physical.spilled_parts import PARTS, SpilledPart, SpilledParts, spilled_parts

_MERGE_GROUPS = 1 << 16
SORTED_ROW_BYTES = 40
"""What finding equal keys takes for each row beside the keys: integers, their order, group numbers."""


def concat_rows(parts: Sequence[Sequence[Column]]) -> list[Column]:
    """The columns of all parts below each other."""
    return [concat_columns([part[i] for part in parts]) for i in range(len(parts[0]))]


@dataclass(slots=True)
class _Partial:
    """Groups of some rows: `keys` hold each once; a slot per group in each accumulator (None: kept as pairs)."""

    keys: list[Column]
    count: int
    accumulators: list[Accumulator | None]

    @property
    def nbytes(self) -> int:
        held = sum(a.nbytes for a in self.accumulators if a is not None)
        return held + sum(key.nbytes for key in self.keys)


class _Pairs:
    """The distinct combinations of keys and argument of one DISTINCT aggregation."""

    def __init__(self) -> None:
        self._parts: list[list[Column]] = []
        self._row_count = 0
        self._merged_count = 0
        self.written: SpilledParts | None = None  # those on disk, in parts by the whole combination
        self.waiting: SpilledPart | None = None  # those that are to be added before the end

    def add(self, columns: list[Column], row_count: int) -> None:
        groups = factorize(columns, row_count)
        self._parts.append([column.take(groups.first) for column in columns])
        self._row_count += groups.count
        if self._row_count >= max(_MERGE_GROUPS, 2 * self._merged_count):
            self.merge()

    def merge(self) -> list[Column] | None:
        """All distinct combinations in memory; None without any."""
        if len(self._parts) > 1:
            columns = concat_rows(self._parts)
            first = np.sort(factorize(columns, self._row_count).first)
            self._parts = [[column.take(first) for column in columns]]
            self._row_count = self._merged_count = len(first)
        return self._parts[0] if self._parts else None

    def write(self, context: QueryContext) -> None:
        """What is in memory goes to disk."""
        columns = self.merge()
        if columns is None:
            return
        if self.written is None:
            self.written = spilled_parts(context, lambda batch: batch.columns)
        self.written.add(RecordBatch([""] * len(columns), columns))
        self._parts, self._row_count, self._merged_count = [], 0, 0

    def close(self) -> None:
        if self.written is not None:
            self.written.close()

    def load(self, context: QueryContext) -> None:
        """Adds those that wait."""
        waiting, self.waiting = self.waiting, None
        for batch in waiting or ():
            context.cancel.check()
            self.add(list(batch.columns), batch.row_count)
            if not context.may_hold(self, 3 * self.nbytes):
                self.write(context)

    def pieces(self) -> Iterator[list[Column]]:
        """All combinations, those in memory and on disk; one may come twice."""
        columns = self.merge()
        if columns is not None:
            yield columns
        if self.written is not None:
            self.written.finish()
            for number in range(PARTS):
                yield from (list(batch.columns) for batch in self.written.part(number))

    def distinct(self) -> Iterator[list[Column]]:
        """All combinations, each once."""
        columns = self.merge()
        if self.written is None:
            if columns is not None:
                yield columns
            return
        if columns is not None:
            self.written.add(RecordBatch([""] * len(columns), columns))
            self._parts = []
        self.written.finish()
        for number in range(PARTS):
            part = _Pairs()
            for batch in self.written.part(number):
                part.add(list(batch.columns), batch.row_count)
            columns = part.merge()
            if columns is not None:
                yield columns

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for part in self._parts for column in part)

    @property
    def row_count(self) -> int:
        return self._row_count


class _Rows:
    """The rows of one collected aggregation: keys, then what it reads."""

    def __init__(self) -> None:
        self._parts: list[list[Column]] = []
        self.nbytes = 0

    def add(self, columns: list[Column]) -> None:
        if len(columns[-1]):
            self._parts.append(columns)
            self.nbytes += 2 * sum(column.nbytes for column in columns)  # and once more while they are put together

    def all(self) -> list[Column] | None:
        """All rows in input order; None without any."""
        if len(self._parts) > 1:
            self._parts = [concat_rows(self._parts)]
        return self._parts[0] if self._parts else None


@dataclass(slots=True)
class GroupInputs:
    """What a batch brings: an argument and a filter per aggregation, and the rows of the collected ones."""

    row_count: int
    arguments: list[Column | None]
    filters: list[Array | None]
    collected: dict[int, CollectedInput]


class PartialGroups:
    """Groups by one set of keys. Without keys there is always one group."""

    def __init__(self, aggregations: Sequence[Aggregation], has_keys: bool) -> None:
        self.aggregations = aggregations
        self.has_keys = has_keys
        self._shared: list[SpilledParts] = []  # what several parts wait for
        self._start()

    def _start(self) -> None:
        """Without groups."""
        aggregations = self.aggregations
        self._rows = {i: _Rows() for i, a in enumerate(aggregations) if is_collected(a)}
        self._pairs = {i: _Pairs() for i, a in enumerate(aggregations) if i not in self._rows and is_distinct_set(a)}
        self._pending: list[_Partial] = []
        self._group_count = self._merged_count = self._pending_bytes = 0

    @property
    def nbytes(self) -> int:
        """About how much memory the groups take."""
        kept = sum(rows.nbytes for rows in self._rows.values()) + sum(pairs.nbytes for pairs in self._pairs.values())
        return kept + self._pending_bytes

    def add(self, keys: list[Column], inputs: GroupInputs) -> bool:
        """Adds the rows of a batch. True when there are so many partial groups that `merge` should follow."""
        partial = self._partial(keys, inputs)
        self._pending.append(partial)
        self._group_count += partial.count
        self._pending_bytes += partial.nbytes
        return self._group_count >= max(_MERGE_GROUPS, 2 * self._merged_count)

    def merge(self) -> None:
        """One partial result instead of several; while it runs both are in memory."""
        if self._pending:
            self._pending = [self._merge(self._pending)]
            self._group_count = self._merged_count = self._pending[0].count
            self._pending_bytes = self._pending[0].nbytes

    @property
    def merging_bytes(self) -> int:
        """What merging takes: the groups twice more, and their keys as sorted integers."""
        row_count = self._group_count + sum(pairs.row_count for pairs in self._pairs.values())
        return 3 * self.nbytes + SORTED_ROW_BYTES * row_count

    @property
    def keeps_rows(self) -> bool:
        """Whether an aggregate needs all rows of a group in memory."""
        return bool(self._rows)

    @property
    def distinct_bytes(self) -> int:
        """What the arguments of DISTINCT aggregates take of `nbytes`."""
        return sum(pairs.nbytes for pairs in self._pairs.values())

    @property
    def spilled_bytes(self) -> int:
        """The size of the arguments of DISTINCT aggregates that are on disk."""
        return sum(pairs.written.size_bytes for pairs in self._pairs.values() if pairs.written is not None)

    @property
    def has_distinct_on_disk(self) -> bool:
        return any(pairs.written is not None or pairs.waiting is not None for pairs in self._pairs.values())

    def load_distinct(self, context: QueryContext) -> None:
        """The arguments of DISTINCT aggregates that were found before these groups were split off are added."""
        for pairs in self._pairs.values():
            pairs.load(context)

    def write_distinct(self, context: QueryContext) -> None:
        """The arguments of DISTINCT aggregates go to disk."""
        for pairs in self._pairs.values():
            pairs.write(context)

    def close(self) -> None:
        """Files of DISTINCT aggregates are gone."""
        for pairs in self._pairs.values():
            pairs.close()
        for parts in self._shared:
            parts.close()

    def _split_written(
        self, number: int, width: int, made: dict[int, PartialGroups], context: QueryContext, level: int
    ) -> None:
        """Combinations on disk go to the parts of their groups, on disk."""
        by_group = spilled_parts(context, lambda batch: batch.columns[:width], level)
        self._shared.append(by_group)
        for columns in self._pairs[number].pieces():
            by_group.add(RecordBatch([""] * len(columns), columns))
        by_group.finish()
        for place, part in made.items():
            if by_group.part(place).row_count:
                part._pairs[number].waiting = by_group.part(place)

    def split(
        self, place: Callable[[Sequence[Column]], Array], count: int, context: QueryContext, level: int
    ) -> dict[int, PartialGroups]:
        """The groups in parts by the `place` of their keys (KeyPlaces of the level), below `count`, each to be added to
        and finished by itself, before this is closed; nothing is left here. Parts without groups are left out."""
        self.merge()
        made: dict[int, PartialGroups] = {}

        def parts(keys: Sequence[Column]) -> Iterator[tuple[PartialGroups, Array]]:
            for number, rows in enumerate(by_place(place(keys), count)):
                if len(rows):
                    if number not in made:
                        made[number] = PartialGroups(self.aggregations, self.has_keys)
                    yield made[number], rows

        width = 0
        for partial in self._pending:
            width = len(partial.keys)
            for part, rows in parts(partial.keys):
                kept = [None if a is None else a.taken(rows) for a in partial.accumulators]
                part._pending = [_Partial([key.take(rows) for key in partial.keys], len(rows), kept)]
                part.merge()
        for i, pairs in self._pairs.items():
            if pairs.written is not None:
                self._split_written(i, width, made, context, level)
                continue
            columns = pairs.merge()
            if columns is not None:
                for part, rows in parts(columns[:width]):
                    part._pairs[i].add([column.take(rows) for column in columns], len(rows))
        for i, kept_rows in self._rows.items():
            columns = kept_rows.all()
            if columns is not None:
                for part, rows in parts(columns[:width]):
                    part._rows[i].add([column.take(rows) for column in columns])
        for pairs in self._pairs.values():
            pairs.close()
        self._start()
        return made

    def finish(self) -> tuple[list[Column], list[Column], int]:
        """The keys and the aggregates of all groups, and how many there are."""
        self.merge()
        if not self._pending:
            if self.has_keys:
                return [], [], 0
            self._pending = [_Partial([], 1, self._fresh(1))]
        partial = self._pending[0]
        slots = np.arange(partial.count)
        columns = []
        for i, (aggregation, done) in enumerate(zip(self.aggregations, partial.accumulators, strict=True)):
            if i in self._rows:
                columns.append(self._collected_result(aggregation, self._rows[i].all(), partial))
            elif done is None:
                columns.append(self._distinct_result(aggregation, self._pairs[i].distinct(), partial))
            else:
                columns.append(done.result(slots))
        return partial.keys, columns, partial.count

    def _fresh(self, count: int) -> list[Accumulator | None]:
        made: list[Accumulator | None] = []
        for i, aggregation in enumerate(self.aggregations):
            if i in self._pairs or i in self._rows:
                made.append(None)
                continue
            new = accumulator_of(aggregation)
            new.resize(count)
            made.append(new)
        return made

    def _partial(self, keys: list[Column], inputs: GroupInputs) -> _Partial:
        groups = factorize(keys, inputs.row_count)
        ids = groups.ids if groups.count > 1 else None
        slots = np.arange(groups.count)
        accumulators = self._fresh(groups.count)
        for i, (new, column, keep) in enumerate(zip(accumulators, inputs.arguments, inputs.filters, strict=True)):
            if i in self._rows:
                rows = inputs.collected[i]
                self._rows[i].add([*(key if rows.rows is None else key.take(rows.rows) for key in keys), *rows.columns])
            elif new is None:
                assert column is not None
                self._add_pairs(self._pairs[i], keys, column, keep)
            elif keep is None:
                new.update(slots, ids, column, inputs.row_count)
            else:
                chosen = None if column is None else column.filter(keep)
                new.update(slots, None if ids is None else ids[keep], chosen, int(np.count_nonzero(keep)))
        return _Partial([key.take(groups.first) for key in keys], groups.count, accumulators)

    @staticmethod
    def _add_pairs(pairs: _Pairs, keys: list[Column], column: Column, keep: Array | None) -> None:
        if column.validity is not None:
            keep = column.validity if keep is None else keep & column.validity
        columns = [*keys, column]
        if keep is not None:
            columns = [c.filter(keep) for c in columns]
        if len(columns[0]):
            pairs.add(columns, len(columns[0]))

    def _merge(self, partials: list[_Partial]) -> _Partial:
        if len(partials) == 1:
            return partials[0]
        counts = [partial.count for partial in partials]
        total = sum(counts)
        if self.has_keys:
            keys = concat_rows([partial.keys for partial in partials])
            groups = factorize(keys, total)
            ids, count = groups.ids, groups.count
            keys = [key.take(groups.first) for key in keys]
        else:
            keys, ids, count = [], np.zeros(total, dtype=np.int64), 1
        accumulators = self._fresh(count)
        start = 0
        for partial in partials:
            slots = ids[start : start + partial.count]
            start += partial.count
            for mine, other in zip(accumulators, partial.accumulators, strict=True):
                if mine is not None and other is not None:
                    mine.merge(other, slots)
        return _Partial(keys, count, accumulators)

    def _distinct_result(self, aggregation: Aggregation, distinct: Iterable[list[Column]], partial: _Partial) -> Column:
        """The aggregate over each group's distinct arguments."""
        argument = aggregation.args[0].type
        plain = accumulator(aggregation.function, aggregation.type, argument)
        plain.resize(partial.count)
        slots = np.arange(partial.count)
        for pairs in distinct:
            count = len(pairs[-1])
            plain.update(slots, self._slots_of(pairs[:-1], count, partial) if partial.keys else None, pairs[-1], count)
        return plain.result(slots)

    def _collected_result(self, aggregation: Aggregation, rows: list[Column] | None, partial: _Partial) -> Column:
        if rows is None:
            return aggregate_rows(aggregation, None, np.zeros(0, dtype=np.int64), partial.count)
        width, count = len(partial.keys), len(rows[-1])
        ids = self._slots_of(rows[:width], count, partial) if width else np.zeros(count, dtype=np.int64)
        return aggregate_rows(aggregation, rows[width:], ids, partial.count)

    @staticmethod
    def _slots_of(keys: list[Column], count: int, partial: _Partial) -> Array:
        """The group of each of `count` rows."""
        groups = factorize(concat_rows([partial.keys, keys]), partial.count + count)
        slot_of = np.zeros(groups.count, dtype=np.int64)
        slot_of[groups.ids[: partial.count]] = np.arange(partial.count)
        result: Array = slot_of[groups.ids[partial.count :]]
        return result
