"""SeriesRows: generate_series and range, a morsel at a time."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from eventdb.batch import Array, Column, RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.errors import EvaluationError
from eventdb.logical.expressions import Call, ColumnRef, IntervalValue, Literal
from eventdb.logical.series import Series
from eventdb.physical.civil import DAY_US, civil_from_days
from eventdb.physical.context import QueryContext
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.evaluate_time import month_number
from eventdb.physical.operator import Operator
from eventdb.schema import BIGINT, TIMESTAMP

_MOST = 1 << 62
_LEAST_MONTH_US = 28 * DAY_US


class SeriesRows(Operator):
    def __init__(self, plan: Series, child: Operator, context: QueryContext) -> None:
        super().__init__(plan.fields, context, (child,))
        self.plan = plan
        step = plan.step.value if isinstance(plan.step, Literal) else None
        self._months = step.months if isinstance(step, IntervalValue) else 0
        self._rest = step.microseconds if isinstance(step, IntervalValue) else 0
        self._ends = [Evaluator(plan.start), Evaluator(plan.stop)]
        self._step = None if self._months else Evaluator(plan.step)
        moved = (ColumnRef(TIMESTAMP, 0, "start"), ColumnRef(BIGINT, 1, "months"))
        self._moved = Evaluator(Call(TIMESTAMP, "add_months", moved))

    def label(self) -> str:
        return self.plan.label()

    def produce(self) -> Iterator[RecordBatch]:
        for batch in self.children[0].batches():
            ends = [end(batch) for end in self._ends]
            columns = ends if self._step is None else [*ends, self._step(batch)]
            present = np.ones(batch.row_count, dtype=np.bool_)
            for column in columns:
                if column.validity is not None:
                    present &= column.validity
            starts, stops, *given = (column.values.astype(np.int64) for column in columns)
            steps = given[0] if given else np.full(batch.row_count, self._rest, dtype=np.int64)
            rows = zip(starts.tolist(), stops.tolist(), steps.tolist(), present.tolist(), strict=True)
            counts = [self._count(start, stop, step) if there else 0 for start, stop, step, there in rows]
            if self._months:  # no step goes beyond the month of the stop, so none leaves the calendar
                most = (month_number(stops) - month_number(starts)) // self._months + 1
                counts = np.minimum(counts, np.maximum(most, 0)).tolist()
            if sum(counts) > _MOST:
                raise EvaluationError(f"{self.plan.name}() has more than {_MOST} values")
            if self._months:
                yield from self._by_months(batch, starts.tolist(), stops.tolist(), counts)
            else:
                yield from self._spread(batch, starts, steps, np.array(counts, dtype=np.int64))

    def _count(self, start: int, stop: int, step: int) -> int:
        """How many values there are; with months at most."""
        step += self._months * _LEAST_MONTH_US
        if step == 0:
            raise EvaluationError(f"{self.plan.name}(): the step is 0")
        distance = stop - start
        return max(0, distance // step + 1 if self.plan.inclusive or self._months else -(-distance // step))

    def _spread(self, batch: RecordBatch, starts: Array, steps: Array, counts: Array) -> Iterator[RecordBatch]:
        ends = np.cumsum(counts)
        total = int(ends[-1]) if len(ends) else 0
        for low in range(0, total, MORSEL_ROWS):
            self.context.cancel.check()
            numbers = np.arange(low, min(low + MORSEL_ROWS, total), dtype=np.int64)
            rows = np.searchsorted(ends, numbers, side="right")
            place = numbers - (ends - counts)[rows]
            yield self._batch(batch, rows, starts[rows] + steps[rows] * place)

    def _by_months(
        self, batch: RecordBatch, starts: list[int], stops: list[int], counts: list[int]
    ) -> Iterator[RecordBatch]:
        """Each value is the one before and the step: after 31 January and 29 February comes 29 March."""
        for row, count in enumerate(counts):
            self.context.cancel.check()
            place = np.arange(count, dtype=np.int64)
            moved = [Column(TIMESTAMP, np.full(count, starts[row])), Column(BIGINT, place * self._months)]
            values = self._moved(RecordBatch(("start", "months"), moved, count)).values
            day = civil_from_days(values // DAY_US)[2]
            values = values - (day - np.minimum.accumulate(day)) * DAY_US + place * self._rest
            inside = values <= stops[row] if self._months > 0 else values >= stops[row]
            if not self.plan.inclusive:
                inside &= values != stops[row]
            values = values[inside]
            yield self._batch(batch, np.full(len(values), row), values)

    def _batch(self, batch: RecordBatch, rows: Array, values: Array) -> RecordBatch:
        columns = [*(column.take(rows) for column in batch.columns), Column(self.plan.start.type, values)]
        return RecordBatch(self.names, columns, len(values), None if batch.weight is None else batch.weight[rows])
