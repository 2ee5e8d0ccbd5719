"""Recomputed: any part of a plan whose rows of one key depend on the input rows of that key alone.

The inputs and the output are arranged by the key. For the keys a change touches, the batch engine answers over the rows
that are there now; what that has more or less than the rows given out before is the change of the output. So whatever
the batch engine can do is kept up to date, at the cost of the rows that share a key with a new one; without a key, of
all rows. The rows given out are kept, for the same rows need not give the same answer again: sums of floats and ties
depend on the order of rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eventdb.batch import Array, RecordBatch
from eventdb.logical.expressions import Expression
from eventdb.logical.plan import Fields, Plan
from eventdb.logical.relational import WorkingTable
from eventdb.physical.context import QueryContext
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.planner import plan_physical
from eventdb.stream.circuit.arrangement import Arrangement, distinct_lanes
from eventdb.stream.circuit.lanes import Interner, RowCodec
from eventdb.stream.circuit.node import Change, Node, summed, weights_of
from eventdb.stream.circuit.part import RowsPart


class _Keyed:
    """Rows arranged by a key."""

    def __init__(self, fields: Fields, keys: Sequence[Expression], interner: Interner) -> None:
        self.names = tuple(field.name for field in fields)
        self.codec = RowCodec([field.type for field in fields], interner)
        self._keys = [Evaluator(key) for key in keys]
        self._key_codec = RowCodec([key.type for key in keys], interner)
        self.rows = Arrangement(self.codec, self._key_codec.lane_count)
        self.part = RowsPart(self.rows, self.codec, self._key_codec)

    def keys_of(self, change: RecordBatch) -> Array:
        return self._key_codec.encode([key(change) for key in self._keys], change.row_count)

    def add(self, change: RecordBatch, keys: Array) -> None:
        """Adds the rows of a change, whose keys are given."""
        lanes = self.codec.encode(change.columns, change.row_count)
        slots = self.rows.apply(lanes, keys, weights_of(change))
        self.rows.sweep(slots)

    def slots_of(self, keys: Array) -> Array:
        """Where the rows of some keys are."""
        return self.rows.pairs(self.rows.find_keys(keys))[1]

    def rows_of(self, keys: Array) -> list[RecordBatch]:
        """The rows of some keys, each as often as it is there."""
        slots = self.slots_of(keys)
        return [self.batch_of(slots)] if len(slots) else []

    def batch_of(self, slots: Array) -> RecordBatch:
        """The rows in some slots, each as often as it is there."""
        weights = self.rows.weights[slots]
        if (weights != 1).any():
            slots = np.repeat(slots, weights)
        return RecordBatch(self.names, self.rows.columns(slots), len(slots))


class Recomputed(Node):
    """`leaves` are the WorkingTables of `template`, `keys` what each is arranged by: as many, of the same types.
    `own_keys` are those keys as expressions over its output. `kept`, for one leaf whose rows only come, gives those of
    its rows that can still be in an answer: the others are forgotten."""

    tells_rows = True

    def __init__(
        self, template: Plan, leaves: Sequence[WorkingTable], keys: Sequence[Sequence[Expression]],
        own_keys: Sequence[Expression], interner: Interner, context: QueryContext, kept: Plan | None = None,
    ) -> None:  # fmt: skip
        super().__init__(template.fields, grows=False)
        self._template = template
        self._kept = kept
        self._context = context
        self._numbers = [leaf.number for leaf in leaves]
        self._inputs = [_Keyed(leaf.fields, own, interner) for leaf, own in zip(leaves, keys, strict=True)]
        self._output = _Keyed(template.fields, own_keys, interner)
        self._is_whole = not own_keys
        self.parts = [one.part for one in (*self._inputs, self._output)]

    @property
    def nbytes(self) -> int:
        return sum(one.rows.nbytes for one in (*self._inputs, self._output))

    def begin(self) -> Change:
        return self._turned(np.empty((1, 0), dtype=np.int64)) if self._is_whole else None

    def rows(self) -> RecordBatch:
        return self._output.batch_of(self._output.rows.all_slots())

    def step(self, changes: Sequence[Change]) -> Change:
        touched = []
        for own, change in zip(self._inputs, changes, strict=True):
            if change is not None:
                keys = own.keys_of(change)
                own.add(change, keys)
                touched.append(keys)
        keys = distinct_lanes(np.concatenate(touched))
        made = self._turned(keys)
        if self._kept is not None:
            self._prune(self._inputs[0], keys)
        return made

    def _turned(self, keys: Array) -> Change:
        """What the rows of some keys have become, less what they were."""
        output = self._output
        slots = output.slots_of(keys)
        lanes, weights = [output.rows.lanes(slots)], [-output.rows.weights[slots]]
        for batch in self._answer([own.rows_of(keys) for own in self._inputs]):
            lanes.append(output.codec.encode(batch.columns, batch.row_count))
            weights.append(np.ones(batch.row_count, dtype=np.int64))
        change = summed(self.names, output.codec, np.concatenate(lanes), np.concatenate(weights))
        if change is not None:
            output.add(change, output.keys_of(change))
        return change

    def _prune(self, own: _Keyed, keys: Array) -> None:
        """Forgets the rows of some keys that no answer will have."""
        assert self._kept is not None
        slots = own.slots_of(keys)
        lanes, weights = [own.rows.lanes(slots)], [-own.rows.weights[slots]]
        for batch in plan_physical(self._kept, self._context).batches():
            lanes.append(own.codec.encode(batch.columns, batch.row_count))
            weights.append(np.ones(batch.row_count, dtype=np.int64))
        lost = summed(own.names, own.codec, np.concatenate(lanes), np.concatenate(weights))
        if lost is not None:
            own.add(lost, own.keys_of(lost))

    def _answer(self, inputs: Sequence[list[RecordBatch]]) -> list[RecordBatch]:
        if not self._is_whole and not any(inputs):
            return []
        for number, batches in zip(self._numbers, inputs, strict=True):
            self._context.working[number] = batches
        return list(plan_physical(self._template, self._context).batches())
