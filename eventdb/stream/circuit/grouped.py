"""Grouped: GROUP BY whose aggregates are kept as numbers, not as rows."""

from __future__ import annotations

import struct
from collections.abc import Sequence

import numpy as np

from eventdb.batch import Array, Column, RecordBatch
from eventdb.errors import CorruptionError
from eventdb.logical.aggregates import is_collected
from eventdb.logical.expressions import Aggregation
from eventdb.logical.plan import Aggregate
from eventdb.physical.accumulator import Accumulator
from eventdb.physical.accumulators import accumulator_of
from eventdb.physical.aggregate_state import AggregateInputs
from eventdb.physical.state_bytes import decode, encode
from eventdb.schema import BIGINT
from eventdb.stream.circuit.arrangement import LaneTable, distinct_lanes
from eventdb.stream.circuit.extremes import Extremes
from eventdb.stream.circuit.lanes import Interner, RowCodec
from eventdb.stream.circuit.node import Change, Node, difference

_LENGTH = struct.Struct("<Q")
_ROWS = Aggregation("count_star", (), BIGINT)
"""How many rows a group has: without any it is gone."""


def can_group(plan: Aggregate, *, grows: bool) -> bool:
    """Whether numbers are enough: the input only grows, or what its rows added can be taken away again."""
    if any(map(is_collected, plan.aggregations)):
        return False
    return grows or all(_accumulator(a, grows=False).reversible for a in plan.aggregations)


def _accumulator(aggregation: Aggregation, *, grows: bool) -> Accumulator:
    if not grows and aggregation.function in ("min", "max"):
        return Extremes(aggregation.type, aggregation.function == "max")
    return accumulator_of(aggregation)


class Grouped(Node):
    tells_rows = True

    def __init__(self, plan: Aggregate, interner: Interner, *, over_growing: bool) -> None:
        """`over_growing`: whether the rows of the input only come."""
        super().__init__(plan.fields, grows=False)
        aggregations = (*plan.aggregations, _ROWS)
        self._inputs = AggregateInputs(plan.keys, aggregations)
        self._accumulators = [_accumulator(aggregation, grows=over_growing) for aggregation in aggregations]
        self._key_codec = RowCodec([key.type for key in plan.keys], interner)
        self._groups = LaneTable(self._key_codec.lane_count)
        self._codec = RowCodec([field.type for field in plan.fields], interner)
        self._is_whole = not plan.keys
        self._make_room()
        self._noted: list[Array] | None = None
        self.parts = (self,)
        if self._is_whole:  # its one group is there before any row
            self._groups.enter(np.empty((1, 0), dtype=np.int64))

    @property
    def nbytes(self) -> int:
        return self._groups.nbytes + sum(accumulator.nbytes for accumulator in self._accumulators)

    @property
    def row_count(self) -> int:
        return len(self._groups)

    def begin(self) -> Change:
        return self._rows(np.zeros(1, dtype=np.int64))[0] if self._is_whole else None

    def step(self, changes: Sequence[Change]) -> Change:
        (change,) = changes
        assert change is not None
        numbers = self._entered(change)
        touched, local = self._groups.localized(numbers)
        before, _ = self._rows(touched)
        weights = change.weight
        if weights is None:
            self._accumulate(change, touched, local, taken=False)
        else:
            for sign in (1, -1):
                rows = np.repeat(np.arange(change.row_count), np.maximum(sign * weights, 0))
                if len(rows):
                    slots, ids = self._groups.localized(numbers[rows])
                    self._accumulate(change.take(rows), slots, ids, taken=sign < 0)
        after, gone = self._rows(touched)
        self._forget(gone)
        return difference(self.names, self._codec, [before], [after])

    def rows(self) -> RecordBatch:
        return self._rows(self._groups.numbers())[0]

    def _entered(self, change: RecordBatch) -> Array:
        """The numbers of the groups of the rows, which are there afterwards."""
        keys = self._key_codec.encode(self._inputs.keys(change), change.row_count)
        if self._noted is not None:
            self._noted.append(keys)
        numbers = self._groups.enter(keys)
        self._make_room()
        return numbers

    def _make_room(self) -> None:
        capacity = self._groups.capacity
        if capacity > self._accumulators[-1].slots:
            for accumulator in self._accumulators:
                accumulator.resize(capacity)

    def _accumulate(self, batch: RecordBatch, slots: Array, local: Array, *, taken: bool) -> None:
        ids = None if len(slots) == 1 else local
        arguments, filters = self._inputs.arguments(batch)
        for accumulator, column, keep in zip(self._accumulators, arguments, filters, strict=True):
            if keep is None:
                accumulator.update(slots, ids, column, batch.row_count, taken=taken)
            else:
                chosen = None if column is None else column.filter(keep)
                own = None if ids is None else ids[keep]
                accumulator.update(slots, own, chosen, int(np.count_nonzero(keep)), taken=taken)

    @np.errstate(all="ignore")
    def _rows(self, groups: Array) -> tuple[RecordBatch, Array]:
        """The output rows of those of the groups that have any, and the groups that have none."""
        counts = self._accumulators[-1].arrays[0][groups]
        gone = groups[:0]
        if not self._is_whole and not counts.all():
            groups, gone = groups[counts > 0], groups[counts == 0]
        columns: list[Column] = self._key_codec.decode(self._groups.lanes[groups])
        columns += [accumulator.result(groups) for accumulator in self._accumulators[:-1]]
        return RecordBatch(self.names, columns, len(groups)), gone

    def _forget(self, groups: Array) -> None:
        if len(groups):
            self._groups.remove(groups)
            for accumulator in self._accumulators:
                accumulator.reset(groups)

    # --- as a Part: keys, which of them are there, then the arrays of each accumulator for those ----------------------

    def record(self) -> None:
        self._noted = []

    def delta(self) -> bytes | None:
        assert self._noted is not None, "nothing was noted"
        noted, self._noted = self._noted, []
        return self._pack(distinct_lanes(np.concatenate(noted))) if noted else None

    def whole(self) -> bytes | None:
        numbers = self._groups.numbers()
        return self._pack(self._groups.lanes[numbers]) if len(numbers) else None

    def _pack(self, keys: Array) -> bytes:
        numbers = self._groups.find(keys)
        pieces = [self._key_codec.dump(keys), (numbers >= 0).tobytes()]
        groups = numbers[numbers >= 0]
        for accumulator in self._accumulators:
            if any(array.dtype == object for array in accumulator.arrays):
                data = encode([tuple(accumulator.dump(group)) for group in groups.tolist()])
                pieces += (_LENGTH.pack(len(data)), data)
            else:
                pieces += [array[groups].tobytes() for array in accumulator.arrays]
        return b"".join(pieces)

    def restore(self, data: bytes) -> None:
        try:
            keys, position = self._key_codec.load(data, 0)
            there = np.frombuffer(data, dtype=bool, count=len(keys), offset=position)
            position += len(keys)
            gone = self._groups.find(keys, ~there)
            self._forget(gone[gone >= 0])
            groups = self._groups.enter(keys, there)
            groups = groups[groups >= 0]
            self._make_room()
            for accumulator in self._accumulators:
                position = _load(accumulator, groups, data, position)
        except (ValueError, IndexError, KeyError, StopIteration, TypeError, struct.error) as error:
            raise CorruptionError(f"the stored groups of a view do not decode: {error}") from error
        if position != len(data):
            raise CorruptionError("the stored groups of a view are of another query")


def _load(accumulator: Accumulator, groups: Array, data: bytes, position: int) -> int:
    """Puts stored values into the groups of an accumulator; returns the position behind them."""
    if any(array.dtype == object for array in accumulator.arrays):
        (length,) = _LENGTH.unpack_from(data, position)
        position += _LENGTH.size
        for group, values in zip(groups.tolist(), decode(data[position : position + length]), strict=True):
            accumulator.load(group, values)
        return position + int(length)
    for array in accumulator.arrays:
        array[groups] = np.frombuffer(data, dtype=array.dtype, count=len(groups), offset=position)
        position += len(groups) * array.dtype.itemsize
    return position
