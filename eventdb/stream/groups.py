"""GroupSet: the groups of a continuous query. What each has accumulated lives in GroupedState; here is what time adds.

A group has a number, its name in the store, given once and never reused. Where groups belong to windows, the set knows
which windows are open, hands out a window's groups when it closes, and forgets them: no later row can reach them.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence

import numpy as np

from eventdb.batch import Array, Column, RecordBatch
from eventdb.errors import CorruptionError
from eventdb.logical.plan import Aggregate
from eventdb.physical.aggregate_state import AggregateInputs, GroupedState, decode_key, encode_key
from eventdb.physical.operands import from_values
from eventdb.physical.ordering import sort_rows
from eventdb.stream.program import WindowKey
from eventdb.stream.state import StateKeys, Writing

_NO_IDS = np.zeros(0, dtype=np.int64)
_KEY_BYTES = struct.Struct("<I")  # a stored group: length of its key, key, accumulators


class GroupSet:
    """Groups by id, a slot of GroupedState. The id of a group whose window has closed may be given to a new group."""

    def __init__(self, aggregate: Aggregate, window: WindowKey | None, next_number: int = 0) -> None:
        """No groups yet. `window` is given when groups are to be forgotten as their windows close."""
        self._window = window
        self._inputs = AggregateInputs(aggregate.keys, aggregate.aggregations)
        self._names = tuple(field.name for field in aggregate.output)
        self._state = GroupedState(aggregate.aggregations, [key.type for key in aggregate.keys])
        self._key_count = len(aggregate.keys)
        self._numbers = np.zeros(16, dtype=np.int64)
        self._alive = np.zeros(16, dtype=bool)
        self._open: dict[int, list[Array]] = {}
        self._first_end = 0
        self._touched: list[Array] = []
        self._released: list[int] = []
        self._stored_end = next_number  # only groups numbered below it can have a record in the store
        self.next_number = next_number
        self.changed_count = 0  # groups that were saved, each time counted
        if not aggregate.keys and not next_number:
            self._add_whole(aggregate)

    def _add_whole(self, aggregate: Aggregate) -> None:
        """Without keys all rows are one group, with a result before the first row: a row no filter lets in makes it."""
        nothing = [from_values(a.args[0].type, [None]) if a.args else None for a in aggregate.aggregations]
        closed = np.zeros(1, dtype=bool)
        self._take_note(self._state.update([], nothing, [closed] * len(nothing), 1))

    @property
    def group_count(self) -> int:
        return len(self._state)

    def ids(self) -> Array:
        """The ids of all groups, ascending."""
        return np.flatnonzero(self._alive)

    def keys_of(self, batch: RecordBatch) -> list[Column]:
        """The key columns of rows that are about to be grouped."""
        return self._inputs.keys(batch)

    def update(self, keys: Sequence[Column], batch: RecordBatch) -> None:
        """Adds rows to their groups. EvaluationError when a value breaks an expression."""
        arguments, filters = self._inputs.arguments(batch)
        self._take_note(self._state.update(keys, arguments, filters, batch.row_count))

    def check(self, batch: RecordBatch) -> None:
        """Evaluates what `update` would, without adding anything. EvaluationError as `update`."""
        self._inputs.keys(batch)
        self._inputs.arguments(batch)

    def result(self, ids: Array) -> RecordBatch:
        """Keys and aggregates of groups, in the order of `ids`. EvaluationError when a sum left its type's range."""
        return self._state.result(ids, self._names)

    def take_touched(self) -> Array:
        """The ids, ascending, of the groups that got rows since the last call or `save` and are not forgotten."""
        parts, self._touched = self._touched, []
        if not parts:
            return _NO_IDS
        if len(parts) == 1 and len(parts[0]) == 1:  # one new row: the whole path is worth microseconds
            return parts[0] if self._alive[parts[0][0]] else _NO_IDS
        ids = np.unique(np.concatenate(parts))
        alive: Array = ids[self._alive[ids]]
        return alive

    def close(self, limit_us: int) -> tuple[RecordBatch, Array] | None:
        """The groups of windows that end at or before `limit_us`, by window end, then key; they are forgotten.

        Returns their keys and aggregates, and their window ends; None when there are none.
        """
        if self._window is None or not self._open or self._first_end > limit_us:
            return None
        closing = sorted(end for end in self._open if end <= limit_us)
        ids = np.concatenate([part for end in closing for part in self._open.pop(end)])
        self._first_end = min(self._open, default=0)
        result = self.result(ids)
        ends = self._window.ends(result.columns[self._window.position].values)
        # Ends ascend with the window key; the other keys decide within a window.
        order_by = [result.columns[self._window.position], *result.columns[: self._key_count]]
        order = sort_rows(order_by, [False] * len(order_by), [False] * len(order_by))
        self._forget(ids)
        return result.take(order), ends[order]

    def _forget(self, ids: Array) -> None:
        numbers = self._numbers[ids]
        self._released += numbers[numbers < self._stored_end].tolist()
        self._alive[ids] = False
        self._state.remove(ids)

    def _take_note(self, touched: Array) -> None:
        """Marks groups as touched, and gives the new ones among them a number and their window."""
        self._touched.append(touched)
        if len(touched) == 1 and touched[0] < len(self._alive) and self._alive[touched[0]]:
            return
        highest = int(touched.max())
        if highest >= len(self._alive):
            more = max(highest + 1, 2 * len(self._alive)) - len(self._alive)
            self._alive = np.concatenate((self._alive, np.zeros(more, dtype=bool)))
            self._numbers = np.concatenate((self._numbers, np.zeros(more, dtype=np.int64)))
        known = self._alive[touched]
        if not known.all():
            new = touched[~known]
            self._numbers[new] = np.arange(self.next_number, self.next_number + len(new))
            self.next_number += len(new)
            self._alive[new] = True
            self._open_windows(new)

    def _open_windows(self, ids: Array) -> None:
        if self._window is None:
            return
        position, key_of = self._window.position, self._state.key_of
        starts = np.fromiter((key_of(i)[position] for i in ids.tolist()), dtype=np.int64, count=len(ids))
        ends = self._window.ends(starts)
        if len(ids) == 1:
            self._open.setdefault(int(ends[0]), []).append(ids)
        else:
            order = np.argsort(ends, kind="stable")
            distinct, first = np.unique(ends[order], return_index=True)
            for end, part in zip(distinct.tolist(), np.split(ids[order], first[1:]), strict=True):
                self._open.setdefault(end, []).append(part)
        self._first_end = min(self._open)

    # --- the store ------------------------------------------------------------------------------------------------

    def restore(self, records: Iterable[tuple[int, bytes]]) -> None:
        """Puts stored groups, (number, bytes), into a set that has got no rows. CorruptionError if they do not fit."""
        ids, numbers = [], []
        for number, data in records:
            try:
                (size,) = _KEY_BYTES.unpack_from(data)
                key = decode_key(data[_KEY_BYTES.size : _KEY_BYTES.size + size])
            except (struct.error, ValueError) as error:
                raise CorruptionError(f"the stored state of group {number} of a view does not decode") from error
            if len(key) != self._key_count:
                raise CorruptionError(f"the stored key of group {number} of a view has {len(key)} values")
            ids.append(self._state.load(key, data[_KEY_BYTES.size + size :]))
            numbers.append(number)
        if ids:
            next_number = self.next_number
            restored = np.array(ids, dtype=np.int64)
            self._take_note(restored)
            self._numbers[restored] = numbers
            self._touched = []
            self.next_number = next_number

    def save(self, store: Writing, keys: StateKeys) -> None:
        """Writes the groups that changed since the last save and deletes the records of those that were forgotten."""
        state = self._state
        touched = self.take_touched()
        self.changed_count += len(touched)
        for group, number in zip(touched.tolist(), self._numbers[touched].tolist(), strict=True):
            key = encode_key(state.key_of(group))
            keys.put_group(store, number, _KEY_BYTES.pack(len(key)) + key + state.dump(group))
        for number in self._released:
            keys.delete_group(store, number)
        self._released = []
        self._stored_end = self.next_number
