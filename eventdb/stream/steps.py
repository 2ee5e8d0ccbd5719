"""Filter, Project and TimeWindow over a batch of new rows, keeping track of which row each result came from."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from eventdb.batch import Array, Column, RecordBatch
from eventdb.errors import InternalError
from eventdb.logical.plan import Filter, Plan, Project, TimeWindow
from eventdb.physical.evaluate import Evaluator
from eventdb.schema import TIMESTAMP
from eventdb.stream.windows import assign_windows

Step = Callable[[RecordBatch], tuple[RecordBatch, Array | None]]
"""A batch -> the batch after the step, and the position in the first each row of the second has (None: the same)."""


class Steps:
    """Compiled once, run on any number of batches, from any thread."""

    __slots__ = ("_steps",)

    def __init__(self, plans: Sequence[Plan]) -> None:
        self._steps = [_compile(plan) for plan in plans]

    def run(self, batch: RecordBatch) -> tuple[RecordBatch, Array | None]:
        """(batch after all steps, int64 position of each of its rows in the batch given; None: every row, in order).

        EvaluationError when a value breaks an expression.
        """
        origin: Array | None = None
        for step in self._steps:
            batch, kept = step(batch)
            if kept is not None:
                origin = kept if origin is None else origin[kept]
        return batch, origin


def _compile(plan: Plan) -> Step:
    if isinstance(plan, Project):
        return _project(plan)
    if isinstance(plan, Filter):
        return _filter(plan)
    if isinstance(plan, TimeWindow):
        return _window(plan)
    raise InternalError(f"{plan.label()} has no place in a continuous query")


def _project(plan: Project) -> Step:
    evaluators = [Evaluator(expression) for expression in plan.expressions]
    names = tuple(field.name for field in plan.output)

    def run(batch: RecordBatch) -> tuple[RecordBatch, None]:
        return RecordBatch(names, [evaluate(batch) for evaluate in evaluators], batch.row_count), None

    return run


def _filter(plan: Filter) -> Step:
    predicate = Evaluator(plan.predicate)

    def run(batch: RecordBatch) -> tuple[RecordBatch, Array | None]:
        keep = predicate.keep(batch)
        return (batch, None) if keep is None else (batch.filter(keep), np.flatnonzero(keep))

    return run


def _window(plan: TimeWindow) -> Step:
    time_of = Evaluator(plan.time)
    names = tuple(field.name for field in plan.fields)
    tumbling = plan.size_us == plan.slide_us

    def run(batch: RecordBatch) -> tuple[RecordBatch, Array | None]:
        time = time_of(batch)
        rows: Array | None = None
        if time.validity is not None and not time.validity.all():
            rows = np.flatnonzero(time.validity)
            time = time.take(rows)
        inside, starts = assign_windows(time.values, plan.size_us, plan.slide_us)
        if not tumbling:
            rows = inside if rows is None else rows[inside]
        if rows is not None:
            batch = batch.take(rows)
        ends = starts + plan.size_us
        added = [Column(TIMESTAMP, values) for values in (starts, ends, ends - 1)]
        return RecordBatch(names, [*batch.columns, *added], len(starts)), rows

    return run
