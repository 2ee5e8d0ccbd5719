"""Content: the rows a query has now, and how often each: the sum of its changes, where no node keeps them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eventdb.batch import RecordBatch
from eventdb.stream.circuit.lanes import RowCodec
from eventdb.stream.circuit.node import weights_of
from eventdb.stream.circuit.part import Counted


class Content:
    def __init__(self, names: Sequence[str], codec: RowCodec) -> None:
        self._names = tuple(names)
        self._codec = codec
        self.rows = Counted(codec)

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes

    def apply(self, change: RecordBatch) -> None:
        touched, _ = self.rows.add(self._codec.encode(change.columns, change.row_count), weights_of(change))
        self.rows.sweep(touched)

    def batch(self) -> RecordBatch:
        """All rows, each as often as it is there."""
        numbers = self.rows.numbers()
        counts = self.rows.counts(numbers)
        if (counts != 1).any():
            numbers = np.repeat(numbers, counts)
        return RecordBatch(self._names, self._codec.decode(self.rows.lanes(numbers)), len(numbers))
