"""Operator: the interface of everything that produces batches, interpreted or compiled.

An operator is built once per execution and iterated once. `batches` yields RecordBatches whose columns match `fields`;
it may yield none, and never yields an empty batch. A subclass writes `produce`; `batches` adds cancellation and, when
the context measures, rows and time.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

from eventdb.batch import RecordBatch
from eventdb.errors import EvaluationError, FunctionError
from eventdb.logical.plan import Fields
from eventdb.physical.context import QueryContext


class Operator(ABC):
    """One step of a physical plan. `engine` says which execution runs it: 'interpreted' or 'compiled'."""

    engine = "interpreted"

    def __init__(self, fields: Fields, context: QueryContext, children: tuple[Operator, ...] = ()) -> None:
        self.fields = fields
        self.names = tuple(field.name for field in fields)
        self.context = context
        self.children = children

    def label(self) -> str:
        """One line for EXPLAIN."""
        return type(self).__name__

    @abstractmethod
    def produce(self) -> Iterator[RecordBatch]:
        """The batches, without measuring. Written by each operator; empty batches are allowed here."""

    def batches(self) -> Iterator[RecordBatch]:
        """The non-empty batches in order. Errors: QueryCancelled, QueryTimeout, and what the operator raises."""
        if self.context.metrics is not None:
            yield from self._measured()
            return
        check = self.context.cancel.check
        for batch in self.produce():
            check()
            if batch.row_count:
                yield batch

    def _measured(self) -> Iterator[RecordBatch]:
        metrics = self.context.metrics_of(self)
        source = self.produce()
        while True:
            started = time.perf_counter_ns()
            try:
                batch = next(source)
            except StopIteration:
                metrics.elapsed_us += (time.perf_counter_ns() - started) // 1000
                return
            metrics.elapsed_us += (time.perf_counter_ns() - started) // 1000
            self.context.cancel.check()
            if batch.row_count:
                metrics.row_count += batch.row_count
                metrics.batch_count += 1
                yield batch

    def locate(self, row: int) -> int | None:
        """The offset of the topic's row that became this row of the batch returned last; None where rows of several
        inputs were combined."""
        return None

    def blame(
        self, error: EvaluationError, batch: RecordBatch, evaluate: Callable[[RecordBatch], object]
    ) -> EvaluationError:
        """The error of the first row of a batch that breaks `evaluate`, with that row's offset if it is known.

        Rows break an expression one by one, so halving finds the first in as much time as evaluating the batch twice.
        """
        if isinstance(error, FunctionError) and not error.repeatable:
            return error
        low, high = 0, batch.row_count
        while high - low > 1:
            middle = (low + high) // 2
            try:
                evaluate(batch.slice(low, middle))
            except EvaluationError:
                high = middle
            else:
                low = middle
        try:
            evaluate(batch.slice(low, high))
        except EvaluationError as first:
            error = first
        offset = self.children[0].locate(low)
        if offset is not None:
            error.message = f"{error.message} (row at offset {offset})"
        return error

    def release(self) -> None:
        """Tells the budget that this operator holds nothing any more."""
        self.context.release(self)
