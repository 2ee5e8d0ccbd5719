"""Distincts: each row once, for as long as it is there at all."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eventdb.batch import RecordBatch
from eventdb.logical.plan import Fields
from eventdb.stream.circuit.lanes import Interner, RowCodec
from eventdb.stream.circuit.node import Change, Node, weights_of
from eventdb.stream.circuit.part import Counted


class Distincts(Node):
    tells_rows = True

    def __init__(self, fields: Fields, interner: Interner, *, grows: bool) -> None:
        super().__init__(fields, grows=grows)
        self._codec = RowCodec([field.type for field in fields], interner)
        self._rows = Counted(self._codec)
        self.parts = (self._rows,)

    @property
    def nbytes(self) -> int:
        return self._rows.nbytes

    def step(self, changes: Sequence[Change]) -> Change:
        (change,) = changes
        assert change is not None
        lanes = self._codec.encode(change.columns, change.row_count)
        touched, before = self._rows.add(lanes, weights_of(change))
        weights = (self._rows.counts(touched) > 0).astype(np.int64) - (before > 0)
        moved = np.flatnonzero(weights)
        columns = self._codec.decode(self._rows.lanes(touched[moved]))
        self._rows.sweep(touched)
        return RecordBatch(self.names, columns, len(moved), weights[moved]) if len(moved) else None

    def rows(self) -> RecordBatch:
        numbers = self._rows.numbers()
        return RecordBatch(self.names, self._codec.decode(self._rows.lanes(numbers)), len(numbers))
