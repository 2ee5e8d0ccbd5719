"""PairJoin: a join kept up to date. Both sides are arranged by key; a change of one side meets the rows of the other.

Where rows without a partner count (left, full, anti) or the partners do not (semi), each row also has the number of its
partners: it shows or hides the row as it leaves or reaches 0.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eventdb.batch import Array, Column, RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.errors import EvaluationError
from eventdb.kernels import lane_table
from eventdb.logical.expressions import Expression
from eventdb.logical.plan import Join, Plan
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.operands import null_column
from eventdb.stream.circuit.arrangement import Arrangement, extended
from eventdb.stream.circuit.lanes import Interner, RowCodec
from eventdb.stream.circuit.node import Change, Node, merged, weights_of
from eventdb.stream.circuit.part import RowsPart

KINDS = ("inner", "left", "full", "single", "semi", "anti")


class _Side:
    """The rows of one input. `counts`, if kept, is the number of partners of the row in each slot."""

    def __init__(
        self, plan: Plan, keys: Sequence[Expression], nulls: Sequence[bool], interner: Interner, *, counted: bool
    ) -> None:
        self.types = [field.type for field in plan.fields]
        self._keys = [Evaluator(key) for key in keys]
        self._nulls = nulls
        self._codec = RowCodec(self.types, interner)
        self._key_codec = RowCodec([key.type for key in keys], interner)
        self.rows = Arrangement(self._codec, self._key_codec.lane_count)
        self.part = RowsPart(self.rows, self._codec, self._key_codec)
        self.counts = np.zeros(0, dtype=np.int64) if counted else None

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + (0 if self.counts is None else int(self.counts.nbytes))

    def keys_of(self, change: RecordBatch) -> tuple[Array, Array]:
        """The lanes of the rows' keys, and whether each can have a partner."""
        columns = [key(change) for key in self._keys]
        can = np.ones(change.row_count, dtype=bool)
        for column, null_matches in zip(columns, self._nulls, strict=True):
            if null_matches:
                continue
            if column.validity is not None:
                can &= column.validity
            if column.type.is_float:
                can &= ~np.isnan(column.values)
        return self._key_codec.encode(columns, change.row_count), can

    def apply(self, change: RecordBatch, keys: Array, can: Array, weights: Array) -> Array:
        lanes = self._codec.encode(change.columns, change.row_count)
        slots = self.rows.apply(lanes, keys, weights, can)
        if self.counts is not None and self.rows.slot_capacity > len(self.counts):
            self.counts = extended(self.counts, self.rows.slot_capacity, 0)
        return slots


class PairJoin(Node):
    def __init__(self, plan: Join, interner: Interner, *, grows: bool) -> None:
        super().__init__(plan.fields, grows=grows)
        nulls = plan.null_matches or (False,) * len(plan.left_keys)
        self._kind = plan.kind
        self._shows_pairs = plan.kind not in ("semi", "anti")
        self._left = _Side(plan.left, plan.left_keys, nulls, interner, counted=plan.kind != "inner")
        self._right = _Side(plan.right, plan.right_keys, nulls, interner, counted=plan.kind == "full")
        self._residual = None if plan.residual is None else Evaluator(plan.residual)
        self.parts = (self._left.part, self._right.part)
        self._pair_names = [f.name for f in (*plan.left.fields, *plan.right.fields)]

    @property
    def nbytes(self) -> int:
        return self._left.nbytes + self._right.nbytes

    def settle(self) -> None:
        """Counts the partners of all rows of the sides that keep their number."""
        for own, other in ((self._left, self._right), (self._right, self._left)):
            if own.counts is None:
                continue
            own.counts = np.zeros(own.rows.slot_capacity, dtype=np.int64)
            every = own.rows.all_slots()
            for start in range(0, len(every), MORSEL_ROWS):
                mine = every[start : start + MORSEL_ROWS]
                keys = own.rows.keys(mine)
                rows, slots = other.rows.pairs(other.rows.find_keys(keys))
                if self._residual is not None and len(rows):
                    batch = RecordBatch([""] * len(own.types), own.rows.columns(mine), len(mine))
                    rows, slots, _ = self._pairs(batch, own, other, rows, slots)
                lane_table.add_at(own.counts, mine[rows], other.rows.weights[slots])

    def step(self, changes: Sequence[Change]) -> Change:
        parts: list[RecordBatch] = []
        for change, own, other in zip(changes, (self._left, self._right), (self._right, self._left), strict=True):
            if change is not None:
                self._take_in(change, own, other, parts)
        return merged(self.names, parts)

    def _take_in(self, change: RecordBatch, own: _Side, other: _Side, parts: list[RecordBatch]) -> None:
        weights = weights_of(change)
        keys, can = own.keys_of(change)
        rows, slots = other.rows.pairs(other.rows.find_keys(keys, can))
        if len(rows) and (self._shows_pairs or self._residual is not None):
            rows, slots, pairs = self._pairs(change, own, other, rows, slots)
            if self._shows_pairs and len(rows):
                weight = weights[rows] * other.rows.weights[slots]
                parts.append(RecordBatch(self.names, pairs, len(rows), weight))
        own_slots = own.apply(change, keys, can, weights)
        if own.counts is not None:
            partners = np.zeros(change.row_count, dtype=np.int64)
            lane_table.add_at(partners, rows, other.rows.weights[slots])
            own.counts[own_slots[can]] = partners[can]
            shown = np.flatnonzero(partners > 0 if self._kind == "semi" else partners == 0)
            if len(shown):
                picked = change.take(shown)
                parts.append(self._alone(own, picked.columns, weights[shown]))
            self._check(partners)
        if other.counts is not None and len(slots):
            self._count_again(other, slots, weights[rows], parts)
        own.rows.sweep(own_slots)

    def _pairs(
        self, change: RecordBatch, own: _Side, other: _Side, rows: Array, slots: Array
    ) -> tuple[Array, Array, list[Column]]:
        """Those pairs that the residual keeps, and their columns."""
        mine, theirs = list(change.take(rows).columns), other.rows.columns(slots)
        columns = mine + theirs if own is self._left else theirs + mine
        if self._residual is None:
            return rows, slots, columns
        keep = self._residual.keep(RecordBatch(self._pair_names, columns, len(rows)))
        if keep is None:
            return rows, slots, columns
        return rows[keep], slots[keep], [column.filter(keep) for column in columns]

    def _count_again(self, side: _Side, slots: Array, added: Array, parts: list[RecordBatch]) -> None:
        """Rows whose partners came or went: those that got their first one or lost their last."""
        assert side.counts is not None
        touched = side.rows.distinct(slots)
        before = side.counts[touched]
        lane_table.add_at(side.counts, slots, added)
        after = side.counts[touched]
        turn = (after > 0).astype(np.int64) - (before > 0)
        if self._kind != "semi":
            turn = -turn
        moved = np.flatnonzero(turn)
        if len(moved):
            places = touched[moved]
            parts.append(self._alone(side, side.rows.columns(places), turn[moved] * side.rows.weights[places]))
        self._check(after)

    def _alone(self, side: _Side, columns: Sequence[Column], weights: Array) -> RecordBatch:
        """Rows of one side without a partner beside them."""
        if self._shows_pairs:
            missing = [null_column(t, len(weights)) for t in (self._right if side is self._left else self._left).types]
            columns = [*columns, *missing] if side is self._left else [*missing, *columns]
        return RecordBatch(self.names, columns, len(weights), weights)

    def _check(self, partners: Array) -> None:
        if self._kind == "single" and len(partners) and partners.max() > 1:
            raise EvaluationError("a subquery used as a value gave more than one row; add LIMIT 1, or an aggregate")
