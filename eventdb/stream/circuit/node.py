"""Node: one step of a circuit. Changes of its inputs go in, the change of its output comes out.

A change is a RecordBatch whose `weight` says how often each row came (above 0) or went (below); None is once each. The
same row may stand in a change several times: only the sum counts. A node that is given the changes of any cut of its
inputs' history has given out, in sum, what the batch query gives over the sum of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from eventdb.batch import Array, RecordBatch
from eventdb.logical.plan import Fields
from eventdb.stream.circuit.arrangement import summed_lanes
from eventdb.stream.circuit.lanes import RowCodec
from eventdb.stream.circuit.part import Part

Change = RecordBatch | None
"""None: nothing changed."""


class Node(ABC):
    """`fields` are those of its rows. `grows` says that no row ever goes: every weight is above 0."""

    parts: Sequence[Part] = ()
    """Its state, to be stored."""

    @property
    def name(self) -> str:
        """What it is called where its state is shown."""
        return type(self).__name__

    def __init__(self, fields: Fields, *, grows: bool) -> None:
        self.fields = fields
        self.names = tuple(field.name for field in fields)
        self.grows = grows

    @property
    def nbytes(self) -> int:
        """About how much memory its state holds."""
        return 0

    def begin(self) -> Change:
        """The rows that are there before any input is."""
        return None

    tells_rows = False
    """Whether `rows` can be asked."""

    def rows(self) -> RecordBatch:
        """All rows it has given out, each as often as it is there."""
        raise AssertionError("its state does not tell")

    def settle(self) -> None:
        """All parts were restored: what follows from them is computed."""
        return

    @abstractmethod
    def step(self, changes: Sequence[Change]) -> Change:
        """The change that those of the inputs make; at least one is not None. EvaluationError when a value breaks an
        expression: the node is in no defined state then."""


def weights_of(change: RecordBatch) -> Array:
    return np.ones(change.row_count, dtype=np.int64) if change.weight is None else change.weight


def merged(names: Sequence[str], parts: Sequence[RecordBatch]) -> Change:
    """All rows of several changes."""
    parts = [part for part in parts if part.row_count]
    if not parts:
        return None
    whole = RecordBatch.concat(parts)
    return RecordBatch(names, whole.columns, whole.row_count, whole.weight)


def difference(
    names: Sequence[str], codec: RowCodec, before: Sequence[RecordBatch], after: Sequence[RecordBatch]
) -> Change:
    """What `after` has more or less than `before`, each row once."""
    parts = [(batch, -1) for batch in before] + [(batch, 1) for batch in after]
    lanes = [codec.encode(batch.columns, batch.row_count) for batch, _ in parts]
    weights = [sign * weights_of(batch) for batch, sign in parts]
    return summed(names, codec, np.concatenate(lanes), np.concatenate(weights)) if parts else None


def summed(names: Sequence[str], codec: RowCodec, lanes: Array, weights: Array) -> Change:
    """The rows of lanes, each once with the sum of its weights, if that is not 0."""
    if not len(lanes):
        return None
    rows, totals = summed_lanes(lanes, weights)
    return RecordBatch(names, codec.decode(rows), len(rows), totals) if len(rows) else None
