"""Recomputed: any part of a plan whose rows of one key depend on the input rows of that key alone.

The inputs are arranged by the key. For the keys a change touches, the batch engine answers over the rows before and
after it; the difference is the change of the output. So whatever the batch engine can do is kept up to date, at the
cost of the rows that share a key with a new one; without a key, of all rows.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eventdb.batch import Array, RecordBatch
from eventdb.logical.expressions import Expression
from eventdb.logical.plan import Plan
from eventdb.logical.relational import WorkingTable
from eventdb.physical.context import QueryContext
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.planner import plan_physical
from eventdb.stream.circuit.arrangement import Arrangement, distinct_lanes
from eventdb.stream.circuit.lanes import Interner, RowCodec
from eventdb.stream.circuit.node import Change, Node, difference, merged, weights_of
from eventdb.stream.circuit.part import RowsPart

_KEPT_ANSWERS = 256
_KEPT_ROWS = 256


class _Input:
    """One input, arranged by the key; in the template it is the WorkingTable `number`."""

    def __init__(self, leaf: WorkingTable, keys: Sequence[Expression], interner: Interner) -> None:
        self.number = leaf.number
        self.names = [field.name for field in leaf.fields]
        self.codec = RowCodec([field.type for field in leaf.fields], interner)
        self._keys = [Evaluator(key) for key in keys]
        self._key_codec = RowCodec([key.type for key in keys], interner)
        self.rows = Arrangement(self.codec, self._key_codec.lane_count)
        self.part = RowsPart(self.rows, self.codec, self._key_codec)

    def keys_of(self, change: RecordBatch) -> Array:
        return self._key_codec.encode([key(change) for key in self._keys], change.row_count)

    def rows_of(self, keys: Array) -> list[RecordBatch]:
        """The rows of some keys, each as often as it is there."""
        _, slots = self.rows.pairs(self.rows.find_keys(keys, np.ones(len(keys), dtype=bool)))
        weights = self.rows.weights[slots]
        if (weights != 1).any():
            slots = np.repeat(slots, weights)
        return [RecordBatch(self.names, self.rows.columns(slots), len(slots))] if len(slots) else []


class Recomputed(Node):
    """`leaves` are the WorkingTables of `template`, `keys` what each is arranged by: as many, of the same types."""

    def __init__(
        self, template: Plan, leaves: Sequence[WorkingTable], keys: Sequence[Sequence[Expression]],
        interner: Interner, context: QueryContext,
    ) -> None:  # fmt: skip
        super().__init__(template.fields, grows=False)
        self._template = template
        self._context = context
        self._inputs = [_Input(leaf, own, interner) for leaf, own in zip(leaves, keys, strict=True)]
        self._codec = RowCodec([field.type for field in template.fields], interner)
        self._is_whole = not any(keys)
        self._answers: dict[bytes, list[RecordBatch]] = {}
        self.parts = [one.part for one in self._inputs]

    @property
    def nbytes(self) -> int:
        return sum(one.rows.nbytes for one in self._inputs)

    def begin(self) -> Change:
        return merged(self.names, self._answer([[] for _ in self._inputs])) if self._is_whole else None

    def step(self, changes: Sequence[Change]) -> Change:
        keys = [None if c is None else i.keys_of(c) for i, c in zip(self._inputs, changes, strict=True)]
        touched = distinct_lanes(np.concatenate([own for own in keys if own is not None]))
        only = touched.tobytes() if len(touched) == 1 else None
        before = None if only is None else self._answers.pop(only, None)
        if before is None:
            before = self._answer([i.rows_of(touched) for i in self._inputs])
        applied: list[tuple[Arrangement, Array]] = []
        for own, change, lanes in zip(self._inputs, changes, keys, strict=True):
            if change is not None and lanes is not None:
                coded = own.codec.encode(change.columns, change.row_count)
                wanted = np.ones(change.row_count, dtype=bool)
                applied.append((own.rows, own.rows.apply(coded, lanes, wanted, weights_of(change))))
        after = self._answer([i.rows_of(touched) for i in self._inputs])
        for arrangement, slots in applied:
            arrangement.sweep(slots)
        self._keep(touched, only, after)
        return difference(self.names, self._codec, before, after)

    def _keep(self, touched: Array, only: bytes | None, after: list[RecordBatch]) -> None:
        """The answer for a key that was touched alone is that before its next change: hot keys are asked for once."""
        if only is None:
            if len(touched) > len(self._answers):
                self._answers.clear()
            for key in touched if self._answers else ():
                self._answers.pop(key.tobytes(), None)
        elif sum(batch.row_count for batch in after) <= _KEPT_ROWS:
            self._answers[only] = after
            if len(self._answers) > _KEPT_ANSWERS:
                del self._answers[next(iter(self._answers))]

    def _answer(self, inputs: Sequence[list[RecordBatch]]) -> list[RecordBatch]:
        if not self._is_whole and not any(inputs):
            return []
        for own, batches in zip(self._inputs, inputs, strict=True):
            self._context.working[own.number] = batches
        return list(plan_physical(self._template, self._context).batches())
