"""GroupedState: the groups of a GROUP BY and their aggregates, kept between batches.

The state of a continuous query: each batch of new rows updates it and names the groups it touched, whose results and
stored bytes are then asked for. Groups have stable ids (int64, reused only after `remove`); a group's key is a tuple of
physical values with strings as str, so a key means the same in every process. Not thread-safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eventdb.batch import Array, Column, Dictionary, RecordBatch
from eventdb.errors import CorruptionError
from eventdb.logical.expressions import Aggregation, Expression
from eventdb.physical.accumulators import accumulator_of, canonical
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.grouping import factorize
from eventdb.physical.operands import from_values, python_values
from eventdb.physical.state_bytes import decode, encode
from eventdb.schema import DataType

Key = tuple[Any, ...]

_FEW_ROWS = 8


class AggregateInputs:
    """The expressions of an Aggregate node, compiled: from a batch to key columns, argument columns and filters.

    None in place of an aggregation: it has inputs of its own (collected.py)."""

    __slots__ = ("_arguments", "_filters", "_keys")

    def __init__(self, keys: Sequence[Expression], aggregations: Sequence[Aggregation | None]) -> None:
        self._keys = [Evaluator(key) for key in keys]
        self._arguments = [Evaluator(a.args[0]) if a is not None and a.args else None for a in aggregations]
        self._filters = [None if a is None or a.filter is None else Evaluator(a.filter) for a in aggregations]

    def keys(self, batch: RecordBatch) -> list[Column]:
        return [key(batch) for key in self._keys]

    def arguments(self, batch: RecordBatch) -> tuple[list[Column | None], list[Array | None]]:
        """Per aggregation its argument (None for count_star) and its filter (None = every row).

        An argument is evaluated only where its filter holds; elsewhere it is NULL.
        """
        columns: list[Column | None] = []
        filters: list[Array | None] = []
        for argument, condition in zip(self._arguments, self._filters, strict=True):
            keep = None if condition is None else condition.keep(batch)
            filters.append(keep)
            if argument is None:
                columns.append(None)
            elif keep is None:
                columns.append(argument(batch))
            else:
                columns.append(scatter(argument(batch.filter(keep)), keep))
        return columns, filters


def scatter(column: Column, keep: Array) -> Column:
    """The filtered column put back to the rows it came from, NULL elsewhere."""
    values = np.zeros(len(keep), dtype=column.values.dtype)
    values[keep] = column.values
    valid = keep.copy()
    if column.validity is not None:
        valid[keep] = column.validity
    return Column(column.type, values, valid, column.dictionary)


class GroupedState:
    """Groups by key and one accumulator per aggregation. Without keys there is one group, (), from its first row on."""

    def __init__(self, aggregations: Sequence[Aggregation], key_types: Sequence[DataType]) -> None:
        self.aggregations = tuple(aggregations)
        self.key_types = tuple(key_types)
        self._accumulators = [accumulator_of(aggregation) for aggregation in aggregations]
        self._group_of: dict[Key, int] = {}
        self._keys: list[Key | None] = []
        self._free: list[int] = []
        self._coded = len(self.key_types) == 1 and self.key_types[0].is_coded
        self._code_table: tuple[Dictionary, Array] | None = None
        for accumulator in self._accumulators:
            accumulator.resize(16)  # slots are there before rows are

    def __len__(self) -> int:
        """How many groups there are."""
        return len(self._group_of)

    @property
    def nbytes(self) -> int:
        """About how much memory the state holds."""
        return sum(a.nbytes for a in self._accumulators) + len(self._group_of) * (200 + 60 * len(self.key_types))

    def group_ids(self) -> Array:
        """The ids of all groups, in the order in which they appeared (reused ids aside)."""
        return np.fromiter(self._group_of.values(), dtype=np.int64, count=len(self._group_of))

    def find(self, key: Key) -> int | None:
        """The id of a group."""
        return self._group_of.get(key)

    def key_of(self, group: int) -> Key:
        key = self._keys[group]
        assert key is not None, f"group {group} was removed"
        return key

    # --- rows ---------------------------------------------------------------------------------------------------

    def update(
        self,
        keys: Sequence[Column],
        arguments: Sequence[Column | None],
        filters: Sequence[Array | None],
        row_count: int,
    ) -> Array:
        """Adds rows. Returns the distinct ids of the groups they belong to.

        keys: one column per key; arguments and filters: one entry per aggregation (None for count_star, and for no
        filter), as AggregateInputs gives them. A group is touched also when a filter leaves its rows out.
        """
        if not row_count:
            return np.zeros(0, dtype=np.int64)
        slots, ids = self._locate(keys, row_count)
        for accumulator, column, keep in zip(self._accumulators, arguments, filters, strict=True):
            if keep is None:
                accumulator.update(slots, ids, column, row_count)
            else:
                chosen = None if column is None else column.filter(keep)
                local = None if ids is None else ids[keep]
                accumulator.update(slots, local, chosen, int(np.count_nonzero(keep)))
        return slots

    def update_batch(self, inputs: AggregateInputs, batch: RecordBatch) -> Array:
        """`update` with the expressions evaluated on a batch."""
        arguments, filters = inputs.arguments(batch)
        return self.update(inputs.keys(batch), arguments, filters, batch.row_count)

    def _locate(self, keys: Sequence[Column], row_count: int) -> tuple[Array, Array | None]:
        """The distinct groups of the rows, and the position among them of each row's group (None: all the first)."""
        if not keys:
            return np.array([self._group(())], dtype=np.int64), None
        if row_count <= _FEW_ROWS:
            rows = np.arange(row_count)
            numbers: dict[int, int] = {}
            local = [numbers.setdefault(g, len(numbers)) for g in self._groups_at(keys, rows)]
            slots = np.fromiter(numbers, dtype=np.int64, count=len(numbers))
            return slots, None if len(slots) == 1 else np.array(local, dtype=np.int64)
        groups = factorize(keys, row_count)
        if self._coded:
            slots = self._coded_groups(keys[0], groups.first)
        else:
            slots = np.array(self._groups_at(keys, groups.first), dtype=np.int64)
        return slots, None if groups.count == 1 else groups.ids

    def _groups_at(self, keys: Sequence[Column], rows: Array) -> list[int]:
        columns = []
        for key in keys:
            values = python_values(key, rows)
            columns.append([canonical(v) for v in values] if key.type.is_float else values)
        known = self._group_of
        result = []
        for key_tuple in zip(*columns, strict=True):
            group = known.get(key_tuple)
            result.append(self._group(key_tuple) if group is None else group)
        return result

    def _coded_groups(self, column: Column, rows: Array) -> Array:
        """Groups of a single string key through a table from codes to groups, kept while the dictionary is the same."""
        dictionary = column.dictionary
        assert dictionary is not None
        kept = self._code_table if self._code_table is not None and self._code_table[0] is dictionary else None
        if kept is None or len(kept[1]) < len(dictionary):
            table = np.full(max(2 * len(dictionary), 16), -1, dtype=np.int64)
            if kept is not None:
                table[: len(kept[1])] = kept[1]
            kept = self._code_table = (dictionary, table)
        table = kept[1]
        codes = column.values[rows]
        groups = table[codes]
        if column.validity is not None:
            groups = np.where(column.validity[rows], groups, -1)
        missing = np.flatnonzero(groups < 0)
        if len(missing):
            groups[missing] = self._groups_at([column], rows[missing])
            learned = missing if column.validity is None else missing[column.validity[rows[missing]]]
            table[codes[learned]] = groups[learned]
        return groups

    def _group(self, key: Key) -> int:
        """The group of a key, made if it is new."""
        group = self._group_of.get(key)
        if group is None:
            if self._free:
                group = self._free.pop()
                self._keys[group] = key
            else:
                group = len(self._keys)
                self._keys.append(key)
                for accumulator in self._accumulators:
                    if group >= accumulator.slots:
                        accumulator.resize(group + 1)
            self._group_of[key] = group
        return group

    @np.errstate(all="ignore")
    def merge(self, other: GroupedState) -> Array:
        """Adds every group of another state over the same aggregations; its rows count as later. Returns the groups."""
        theirs = other.group_ids()
        slots = np.array([self._group(other.key_of(g)) for g in theirs.tolist()], dtype=np.int64)
        for mine, accumulator in zip(self._accumulators, other._accumulators, strict=True):
            mine.combine(slots, [array[theirs] for array in accumulator.arrays])
        return slots

    def remove(self, groups: Array) -> None:
        """Forgets groups (a window that closed). Their ids may be given to new groups."""
        for group in groups.tolist():
            del self._group_of[self.key_of(group)]
            self._keys[group] = None
            self._free.append(group)
        for accumulator in self._accumulators:
            accumulator.reset(groups)
        self._code_table = None

    # --- results ------------------------------------------------------------------------------------------------

    def key_columns(self, groups: Array) -> list[Column]:
        keys = [self.key_of(group) for group in groups.tolist()]
        return [from_values(type, [key[i] for key in keys]) for i, type in enumerate(self.key_types)]

    @np.errstate(all="ignore")
    def result_columns(self, groups: Array) -> list[Column]:
        """One column per aggregation. EvaluationError when a sum left its type's range."""
        return [accumulator.result(groups) for accumulator in self._accumulators]

    def result(self, groups: Array, names: Sequence[str] | None = None) -> RecordBatch:
        """Key columns, then aggregate columns, one row per group in the order asked for."""
        columns = self.key_columns(groups) + self.result_columns(groups)
        return RecordBatch(names or [f"column{i}" for i in range(len(columns))], columns, len(groups))

    # --- stored form --------------------------------------------------------------------------------------------

    def dump(self, group: int) -> bytes:
        """The group's aggregates (not its key) as bytes."""
        values: list[Any] = []
        for accumulator in self._accumulators:
            values.extend(accumulator.dump(group))
        return encode(values)

    def load(self, key: Key, data: bytes) -> int:
        """Puts a dumped group back under its key, replacing what is there. CorruptionError if the bytes do not fit."""
        values = decode(data)
        group = self._group(tuple(canonical(v) for v in key))
        position = 0
        try:
            for accumulator in self._accumulators:
                width = len(accumulator.dump(group))
                accumulator.load(group, values[position : position + width])
                position += width
        except (ValueError, TypeError, OverflowError, IndexError):
            position = -1
        if position != len(values):
            raise CorruptionError(f"stored state of group {key} does not fit this query's aggregates")
        return group


def encode_key(key: Key) -> bytes:
    """A group's key as bytes (equal keys, equal bytes)."""
    return encode(key)


def decode_key(data: bytes) -> Key:
    return tuple(canonical(value) for value in decode(data))
