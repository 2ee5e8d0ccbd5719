"""SharedRows: the rows of a part of a plan that stands in it several times, run by the first of its places that asks.

The rows are kept as they come, so that nobody waits for rows he does not need; those beyond the budget's share go to
disk. They are let go when each place has read them, or when the query ends.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from eventdb.batch import RecordBatch
from eventdb.logical.plan import Plan
from eventdb.logical.relational import Shared
from eventdb.physical.context import QueryContext
from eventdb.physical.operator import Operator
from eventdb.physical.spill import SpilledRows, spilled_note

_SHARE = 8
"""Part of the memory limit that the rows of one shared plan take before they go to disk."""


class SharedSource:
    """The operator that runs, and what it has given so far."""

    def __init__(self, child: Operator) -> None:
        self.child = child
        self.use_count = 0  # places that have read it to its end
        self.rows: SpilledRows | list[RecordBatch] | None = None
        self._waiting: Iterator[RecordBatch] | None = None
        self._held_bytes = 0

    def read(self, context: QueryContext) -> Iterator[RecordBatch]:
        if self.rows is None:
            folder = context.spill_folder
            self.rows = [] if folder is None else SpilledRows(folder, context.memory_limit_bytes // _SHARE)
            self._waiting = self.child.batches()
        number = 0
        while number < len(self.rows) or self._more(context):
            yield self.rows[number]
            number += 1

    def _more(self, context: QueryContext) -> bool:
        """One more batch is among the rows; False if there is none."""
        batch = None if self._waiting is None else next(self._waiting, None)
        if batch is None:
            self._waiting = None
            return False
        assert self.rows is not None
        self.rows.append(batch)
        spills = isinstance(self.rows, SpilledRows)
        self._held_bytes += batch.nbytes
        if isinstance(self.rows, SpilledRows):
            self._held_bytes = self.rows.held_bytes
        context.hold(self, "a part of the query that is used more than once", self._held_bytes, spills=spills)
        return True


class SharedRows(Operator):
    """One of the places."""

    def __init__(self, plan: Shared, build: Callable[[Plan, QueryContext], Operator], context: QueryContext) -> None:
        super().__init__(plan.fields, context)
        self.plan = plan
        self._build, self._note = build, ""
        if plan not in context.shared:
            self.children = (self._source().child,)

    def _source(self) -> SharedSource:
        found: SharedSource | None = self.context.shared.get(self.plan)
        if found is None:
            found = self.context.shared[self.plan] = SharedSource(self._build(self.plan.input, self.context))
        return found

    def label(self) -> str:
        return f"{self.plan.label()}{'' if self.children else ', run by another'}{self._note}"

    def produce(self) -> Iterator[RecordBatch]:
        source = self._source()
        self.children = (source.child,) if source.rows is None else ()
        for batch in source.read(self.context):
            yield RecordBatch(self.names, batch.columns, batch.row_count)
        if self.children and isinstance(source.rows, SpilledRows):
            self._note = spilled_note(source.rows.spilled_bytes)
        source.use_count += 1
        if source.use_count == self.plan.use_count:
            self.context.shared.pop(self.plan, None)
            self.context.release(source)
