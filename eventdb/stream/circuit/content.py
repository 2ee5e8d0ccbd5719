"""Content: the rows a query has now, and how often each: the sum of its changes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eventdb.batch import RecordBatch
from eventdb.errors import InternalError
from eventdb.kernels import lane_table
from eventdb.stream.circuit.arrangement import LaneTable, extended
from eventdb.stream.circuit.lanes import RowCodec
from eventdb.stream.circuit.node import weights_of


class Content:
    def __init__(self, names: Sequence[str], codec: RowCodec) -> None:
        self._names = tuple(names)
        self._codec = codec
        self._table = LaneTable(codec.lane_count)
        self._counts = np.zeros(self._table.capacity, dtype=np.int64)
        self._batch: RecordBatch | None = None

    @property
    def nbytes(self) -> int:
        return self._table.nbytes + int(self._counts.nbytes)

    def apply(self, change: RecordBatch) -> None:
        lanes = self._codec.encode(change.columns, change.row_count)
        numbers = self._table.enter(lanes, np.ones(len(lanes), dtype=bool))
        if self._table.capacity > len(self._counts):
            self._counts = extended(self._counts, self._table.capacity, 0)
        lane_table.add_at(self._counts, numbers, weights_of(change))
        touched = np.unique(numbers)
        counts = self._counts[touched]
        if len(counts) and counts.min() < 0:
            raise InternalError("a change takes away a row that is not there")
        self._table.remove(touched[counts == 0])
        self._batch = None

    def batch(self) -> RecordBatch:
        """All rows, each as often as it is there."""
        if self._batch is None:
            numbers = self._table.numbers()
            counts = self._counts[numbers]
            if (counts != 1).any():
                numbers = np.repeat(numbers, counts)
            self._batch = RecordBatch(self._names, self._codec.decode(self._table.lanes[numbers]), len(numbers))
        return self._batch
