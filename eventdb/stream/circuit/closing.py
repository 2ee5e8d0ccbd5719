"""Nodes of a circuit whose windows close (logical/closing.py says where they stand).

State is kept in the gates alone, `ClosedRows` and `ClosedGroups`, and only of open windows: a gate hands out all rows
of a window once the mark has passed its end, and forgets them. What is above the gates is answered by the batch engine,
over the rows of the windows that close together.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from eventdb.batch import Array, Column, RecordBatch
from eventdb.errors import CorruptionError, InternalError
from eventdb.logical.closing import Closed, Ended, Late, WindowEnd
from eventdb.logical.plan import Aggregate, Plan, Project, TimeWindow
from eventdb.logical.relational import WorkingTable
from eventdb.physical.context import QueryContext
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.planner import plan_physical
from eventdb.schema import TIMESTAMP
from eventdb.stream.circuit.grouped import Grouped
from eventdb.stream.circuit.lanes import Interner, RowCodec
from eventdb.stream.circuit.node import Change, Node, merged
from eventdb.stream.steps import Steps
from eventdb.stream.watermark import LOWEST_US
from eventdb.stream.windows import HIGHEST_US, is_closed

_BOUND = struct.Struct("<q")
_ARRAY_BYTES = 120


class _Ends:
    """The ends of the windows of rows."""

    def __init__(self, end: WindowEnd) -> None:
        self._key = Evaluator(end.key)
        self._end = end

    def of(self, batch: RecordBatch) -> tuple[Array, Array | None]:
        """int64 us, and where they are not NULL (None: nowhere)."""
        key = self._key(batch)
        return self.after(key.values), key.validity

    def after(self, keys: Array) -> Array:
        """The ends of windows with such keys."""
        months = self._end.to_end_months
        if months:
            moved = keys.astype("datetime64[us]").astype("datetime64[M]") + np.timedelta64(months, "M")
            keys = moved.astype("datetime64[us]").astype(np.int64)
        return keys + self._end.to_end_us


class LateRows(Node):
    """Drops late rows and counts them; a Part of the state for that number. It makes the windows itself, so that it
    knows which row each came from: a row that is late for several windows counts once."""

    def __init__(self, plan: Late) -> None:
        super().__init__(plan.fields, grows=True)
        self._steps = Steps(window_steps(plan)[0])
        self._ends = _Ends(plan.end)
        self._grace_us = plan.grace_us
        self.late_row_count = 0
        self._stored_count = 0
        self.parts = (self,)

    def step(self, changes: Sequence[Change]) -> Change:
        (change,) = changes
        assert change is not None
        batch, origin = self._steps.run(change)
        if not batch.row_count:
            return None
        ends, validity = self._ends.of(batch)
        late = is_closed(ends, batch.columns[-1].values, self._grace_us)
        if validity is not None:
            late = late & validity
        dropped = late if validity is None else late | ~validity
        if late.any():
            rows = np.flatnonzero(late)
            self.late_row_count += len(rows) if origin is None else len(np.unique(origin[rows]))
        if dropped.any():
            batch = batch.filter(~dropped)
        return RecordBatch(self.names, batch.columns, batch.row_count) if batch.row_count else None

    def record(self) -> None:
        self._stored_count = self.late_row_count

    def delta(self) -> bytes | None:
        if self.late_row_count == self._stored_count:
            return None
        self._stored_count = self.late_row_count
        return self.whole()

    def whole(self) -> bytes | None:
        return self.late_row_count.to_bytes(8, "little")

    def restore(self, data: bytes) -> None:
        if len(data) != 8:
            raise CorruptionError("the stored number of late rows of a view does not decode")
        self.late_row_count = int.from_bytes(data, "little")


def window_steps(plan: Late) -> tuple[list[Plan], Plan]:
    """The steps right below that make the windows, first to last, and what they are over."""
    order = plan.input
    if isinstance(order, Project) and isinstance(order.input, TimeWindow):
        return [order.input, order], order.input.input
    return [], order


class Gate(Node, ABC):
    """Takes rows in and gives none out, until `close`."""

    def step(self, changes: Sequence[Change]) -> Change:
        (change,) = changes
        if change is not None:
            self._take_in(change)
        return None

    @abstractmethod
    def _take_in(self, change: RecordBatch) -> None: ...

    @abstractmethod
    def close(self, closed_us: int) -> Change:
        """The rows of windows that end at `closed_us` or before, which are forgotten: none of them comes again."""


class ClosedRows(Gate):
    """Rows as they came, by the end of their window. As a Part: the bound below which windows are closed (8 bytes),
    rows, and the end of each (int64)."""

    def __init__(self, plan: Closed, interner: Interner) -> None:
        super().__init__(plan.fields, grows=True)
        self._ends = _Ends(plan.end)
        self._codec = RowCodec([field.type for field in plan.fields], interner)
        self._open: dict[int, list[Array]] = {}
        self._closed_us = LOWEST_US
        self._has_closed = False  # since it was stored
        self._noted: list[tuple[Array, Array]] | None = None
        self.parts = (self,)

    @property
    def row_count(self) -> int:
        return sum(len(lanes) for held in self._open.values() for lanes in held)

    @property
    def nbytes(self) -> int:
        return sum(_ARRAY_BYTES + int(lanes.nbytes) for held in self._open.values() for lanes in held)

    def _take_in(self, change: RecordBatch) -> None:
        if change.weight is not None:
            raise InternalError("rows of open windows only come, each once")
        ends, _ = self._ends.of(change)
        lanes = self._codec.encode(change.columns, change.row_count)
        if self._noted is not None:
            self._noted.append((lanes, ends))
        self._add(lanes, ends)

    def _add(self, lanes: Array, ends: Array) -> None:
        order = np.argsort(ends, kind="stable")
        cuts = np.flatnonzero(np.diff(ends[order])) + 1
        for rows in np.split(order, cuts) if len(order) else ():
            self._open.setdefault(int(ends[rows[0]]), []).append(lanes[rows])

    def close(self, closed_us: int) -> Change:
        lanes = self._forget(closed_us)
        return RecordBatch(self.names, self._codec.decode(lanes), len(lanes)) if len(lanes) else None

    def _forget(self, closed_us: int) -> Array:
        """The rows of windows that end there or before, which are gone."""
        over = sorted(end for end in self._open if end <= closed_us)
        self._closed_us = max(self._closed_us, closed_us)
        self._has_closed = self._has_closed or bool(over)
        return self._concat([lanes for end in over for lanes in self._open.pop(end)])

    def _concat(self, parts: Sequence[Array]) -> Array:
        return np.concatenate([np.empty((0, self._codec.lane_count), dtype=np.int64), *parts])

    def record(self) -> None:
        self._noted, self._has_closed = [], False

    def delta(self) -> bytes | None:
        assert self._noted is not None, "nothing was noted"
        noted, has_closed = self._noted, self._has_closed
        self.record()
        if not noted and not has_closed:
            return None
        lanes = self._concat([lanes for lanes, _ in noted])
        ends = np.concatenate([np.empty(0, dtype=np.int64), *(ends for _, ends in noted)])
        is_open = ends > self._closed_us
        return self._pack(lanes[is_open], ends[is_open])

    def whole(self) -> bytes | None:
        lanes = self._concat([lanes for held in self._open.values() for lanes in held])
        counts = [sum(map(len, held)) for held in self._open.values()]
        return self._pack(lanes, np.repeat(np.array(list(self._open), dtype=np.int64), counts))

    def _pack(self, lanes: Array, ends: Array) -> bytes:
        return _BOUND.pack(self._closed_us) + self._codec.dump(lanes) + ends.tobytes()

    def restore(self, data: bytes) -> None:
        try:
            (closed_us,) = _BOUND.unpack_from(data)
            lanes, position = self._codec.load(data, _BOUND.size)
            ends = np.frombuffer(data, dtype=np.int64, count=len(lanes), offset=position)
        except (ValueError, IndexError, KeyError, StopIteration, TypeError, struct.error) as error:
            raise CorruptionError(f"the stored rows of open windows do not decode: {error}") from error
        self._forget(closed_us)
        self._add(lanes, ends)


class ClosedGroups(Gate, Grouped):
    """GROUP BY of rows that only come, by a window among others: a group's row comes when the window has closed."""

    def __init__(self, plan: Aggregate, end: WindowEnd, position: int, interner: Interner) -> None:
        """`position`: of the key that tells the window's `end`."""
        Grouped.__init__(self, plan, interner, over_growing=True)
        self.grows = True
        self._ends = _Ends(end)
        self._position = position
        self._first_end_us = HIGHEST_US  # of all groups

    def settle(self) -> None:
        self._first_end_us = int(self._ends_of(self._groups.numbers()).min(initial=HIGHEST_US))

    def _ends_of(self, groups: Array) -> Array:
        return self._ends.after(self._groups.lanes[groups, self._position])

    def _take_in(self, change: RecordBatch) -> None:
        touched, local = self._groups.localized(self._entered(change))
        self._accumulate(change, touched, local, taken=False)
        self._first_end_us = min(self._first_end_us, int(self._ends_of(touched).min()))

    def close(self, closed_us: int) -> Change:
        if self._first_end_us > closed_us:
            return None
        groups = self._groups.numbers()
        ends = self._ends_of(groups)
        is_over = ends <= closed_us
        over = groups[is_over]
        self._first_end_us = int(ends[~is_over].min(initial=HIGHEST_US))
        rows, _ = self._rows(over)
        if self._noted is not None:
            self._noted.append(self._groups.lanes[over])
        self._forget(over)
        return rows


class Finished(Node):
    """The part of a plan above some gates, over the rows that they hand out together. `leaves` are the WorkingTables
    that stand for them in `template`."""

    def __init__(self, template: Plan, leaves: Sequence[WorkingTable], context: QueryContext) -> None:
        super().__init__(template.fields, grows=True)
        self._template = template
        self._numbers = [leaf.number for leaf in leaves]
        self._context = context

    def step(self, changes: Sequence[Change]) -> Change:
        for number, change in zip(self._numbers, changes, strict=True):
            self._context.working[number] = [] if change is None else [change]
        made = merged(self.names, list(plan_physical(self._template, self._context).batches()))
        for number in self._numbers:
            self._context.working[number] = []
        return made


class EndedRows(Node):
    """Rows with the end of their window as one more column."""

    def __init__(self, plan: Ended) -> None:
        super().__init__(plan.fields, grows=True)
        self._ends = _Ends(plan.end)

    def step(self, changes: Sequence[Change]) -> Change:
        (change,) = changes
        assert change is not None
        ends, validity = self._ends.of(change)
        if validity is not None and not validity.all():
            raise InternalError("a row of a closed window has no window")
        columns = [*change.columns, Column(TIMESTAMP, ends)]
        return RecordBatch(self.names, columns, change.row_count, change.weight)


def groups_of(plan: Closed) -> tuple[Aggregate, int] | None:
    """The GROUP BY right below, kept as numbers, and the position of the key that tells the window; None for rows."""
    below = plan.input
    if not isinstance(below, Aggregate):
        return None
    place = getattr(plan.end.key, "index", None)
    if not isinstance(place, int) or place >= len(below.keys):
        raise InternalError(f"{plan.label()} is over no key of the groups below")
    return below, place
