"""Distincts: each row once, for as long as it is there at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eventdb.batch import RecordBatch
from eventdb.errors import InternalError
from eventdb.kernels import lane_table
from eventdb.logical.plan import Fields
from eventdb.stream.circuit.arrangement import LaneTable, extended
from eventdb.stream.circuit.lanes import Interner, RowCodec
from eventdb.stream.circuit.node import Change, Node, weights_of


class Distincts(Node):
    def __init__(self, fields: Fields, interner: Interner, *, grows: bool) -> None:
        super().__init__(fields, grows=grows)
        self._codec = RowCodec([field.type for field in fields], interner)
        self._table = LaneTable(self._codec.lane_count)
        self._counts = np.zeros(self._table.capacity, dtype=np.int64)

    @property
    def nbytes(self) -> int:
        return self._table.nbytes + int(self._counts.nbytes)

    def step(self, changes: Sequence[Change]) -> Change:
        (change,) = changes
        assert change is not None
        lanes = self._codec.encode(change.columns, change.row_count)
        numbers = self._table.enter(lanes, np.ones(len(lanes), dtype=bool))
        if self._table.capacity > len(self._counts):
            self._counts = extended(self._counts, self._table.capacity, 0)
        touched = np.unique(numbers)
        before = self._counts[touched] > 0
        lane_table.add_at(self._counts, numbers, weights_of(change))
        counts = self._counts[touched]
        if counts.min() < 0:
            raise InternalError("a change takes away a row that is not there")
        weights = (counts > 0).astype(np.int64) - before
        moved = np.flatnonzero(weights)
        columns = self._codec.decode(self._table.lanes[touched[moved]])
        self._table.remove(touched[counts == 0])
        return RecordBatch(self.names, columns, len(moved), weights[moved]) if len(moved) else None
