"""WindowRows: each row once per window [start, start + size) that holds its time (TUMBLE and HOP)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eventdb.batch import Array, Column, RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.errors import EvaluationError
from eventdb.logical.plan import TimeWindow
from eventdb.physical.arithmetic import extremes
from eventdb.physical.civil import DAY_US
from eventdb.physical.context import QueryContext
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.operands import GREATEST_TIMESTAMP, LEAST_TIMESTAMP
from eventdb.physical.operator import Operator
from eventdb.schema import TIMESTAMP


class WindowRows(Operator):
    def __init__(self, plan: TimeWindow, child: Operator, context: QueryContext) -> None:
        super().__init__(plan.fields, context, (child,))
        self.plan = plan
        self._time = Evaluator(plan.time)
        self._windows_per_row = -(-plan.size_us // plan.slide_us)

    def label(self) -> str:
        return self.plan.label()

    def apply(self, batch: RecordBatch) -> RecordBatch:
        """The batch's rows with their windows; rows without a time are dropped. A row's windows ascend by start."""
        time = self._time(batch)
        if time.validity is not None and not time.validity.all():
            batch, time = batch.filter(time.validity), time.filter(time.validity)
        values = time.values.astype(np.int64) * (DAY_US if time.type.name == "DATE" else 1)
        if not len(values):
            return self._extend(batch, values)
        size, slide = self.plan.size_us, self.plan.slide_us
        low, high = extremes(values)
        if low - size - slide < LEAST_TIMESTAMP or high + size > GREATEST_TIMESTAMP:
            raise EvaluationError(f"a window of {size} us at the edge of years 1 to 9999 cannot be represented")
        last = values - values % slide
        if size == slide:
            return self._extend(batch, last)
        backwards = np.arange(self._windows_per_row - 1, -1, -1, dtype=np.int64) * slide
        starts = last[:, None] - backwards[None, :]
        inside = starts + size > values[:, None]
        rows = np.repeat(np.arange(len(values)), np.count_nonzero(inside, axis=1))
        return self._extend(batch.take(rows), starts[inside])

    def _extend(self, batch: RecordBatch, starts: Array) -> RecordBatch:
        ends = starts + self.plan.size_us
        added = [Column(TIMESTAMP, values) for values in (starts, ends, ends - 1)]
        return RecordBatch(self.names, [*batch.columns, *added], len(starts), batch.weight)

    def produce(self) -> Iterator[RecordBatch]:
        at_once = max(1, MORSEL_ROWS // self._windows_per_row)
        for batch in self.children[0].batches():
            for start in range(0, batch.row_count, at_once):
                self.context.cancel.check()
                yield self.apply(batch if batch.row_count <= at_once else batch.slice(start, start + at_once))
