"""Part: something of a circuit's state that is stored, whole or what changed of it since it was stored last.

A circuit's parts have an order that its plan alone decides, so they are known by their position. Restoring a part from
all its stored pieces, in order, gives the state at the last of them.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from eventdb.batch import Array
from eventdb.errors import CorruptionError
from eventdb.kernels import lane_table
from eventdb.stream.circuit.arrangement import Arrangement, LaneTable, extended
from eventdb.stream.circuit.lanes import RowCodec


class Part(Protocol):
    def record(self) -> None:
        """From here on what changes is noted, for `delta`."""

    def delta(self) -> bytes | None:
        """What has changed since `record` or the last call; None for nothing."""

    def whole(self) -> bytes | None:
        """All of it; None for nothing."""

    def restore(self, data: bytes) -> None:
        """Adds a piece that `delta` or `whole` made. CorruptionError if it is none."""


class WeightNotes:
    """Changes of weighted rows, noted until they are stored: the bytes are rows, then an int64 weight for each."""

    def __init__(self, *codecs: RowCodec) -> None:
        """A row is made of the lanes of all the codecs, one after another."""
        self._codecs = codecs
        self._width = sum(codec.lane_count for codec in codecs)
        self._noted: list[tuple[Array, Array]] | None = None

    def begin(self) -> None:
        self._noted = []

    def add(self, weights: Array, *lanes: Array) -> None:
        if self._noted is not None:
            self._noted.append((np.concatenate(lanes, axis=1), weights))

    def take(self) -> bytes | None:
        """The sum of what was noted."""
        assert self._noted is not None, "nothing was noted"
        noted, self._noted = self._noted, []
        if not noted:
            return None
        rows = np.concatenate([lanes for lanes, _ in noted])
        table = LaneTable(self._width)
        numbers = table.enter(rows, np.ones(len(rows), dtype=bool))
        totals = np.zeros(len(table), dtype=np.int64)
        lane_table.add_at(totals, numbers, np.concatenate([weights for _, weights in noted]))
        left = np.flatnonzero(totals)
        return self.pack(totals[left], table.lanes[left]) if len(left) else None

    def pack(self, weights: Array, lanes: Array) -> bytes:
        parts, at = [], 0
        for codec in self._codecs:
            parts.append(codec.dump(lanes[:, at : at + codec.lane_count]))
            at += codec.lane_count
        return b"".join(parts) + weights.tobytes()

    def unpack(self, data: bytes) -> tuple[Array, list[Array]]:
        """Weights, and the lanes for each codec."""
        position, lanes = 0, []
        try:
            for codec in self._codecs:
                found, position = codec.load(data, position)
                lanes.append(found)
            weights = np.frombuffer(data, dtype=np.int64, offset=position)
        except (ValueError, IndexError, KeyError, StopIteration) as error:
            raise CorruptionError(f"the stored state of a view does not decode: {error}") from error
        if any(len(found) != len(weights) for found in lanes):
            raise CorruptionError("the stored state of a view has rows without a weight")
        return weights, lanes


class RowsPart:
    """The rows of an Arrangement, each with its key."""

    def __init__(self, rows: Arrangement, codec: RowCodec, keys: RowCodec) -> None:
        self._rows = rows
        self._notes = rows.notes = WeightNotes(codec, keys)

    @property
    def row_count(self) -> int:
        return len(self._rows)

    def record(self) -> None:
        self._notes.begin()

    def delta(self) -> bytes | None:
        return self._notes.take()

    def whole(self) -> bytes | None:
        slots = self._rows.all_slots()
        if not len(slots):
            return None
        lanes = np.concatenate([self._rows.lanes(slots), self._rows.keys(slots)], axis=1)
        return self._notes.pack(self._rows.weights[slots], lanes)

    def restore(self, data: bytes) -> None:
        weights, (rows, keys) = self._notes.unpack(data)
        self._rows.sweep(self._rows.apply(rows, keys, np.ones(len(rows), dtype=bool), weights))


class Counted:
    """Distinct rows and how often each is there; a Part of the nodes that need no more."""

    def __init__(self, codec: RowCodec) -> None:
        self._table = LaneTable(codec.lane_count)
        self._counts = np.zeros(self._table.capacity, dtype=np.int64)
        self._notes = WeightNotes(codec)

    @property
    def nbytes(self) -> int:
        return self._table.nbytes + int(self._counts.nbytes)

    @property
    def row_count(self) -> int:
        return len(self._table)

    def add(self, lanes: Array, weights: Array) -> tuple[Array, Array]:
        """Adds weighted rows. Returns the distinct numbers of the rows and how often each was there before; `sweep`
        must follow. CorruptionError if more of a row go than are there: what is below this is wrong."""
        self._notes.add(weights, lanes)
        numbers = self._table.enter(lanes, np.ones(len(lanes), dtype=bool))
        if self._table.capacity > len(self._counts):
            self._counts = extended(self._counts, self._table.capacity, 0)
        touched, _ = self._table.localized(numbers)
        before = self._counts[touched]
        lane_table.add_at(self._counts, numbers, weights)
        if len(touched) and self._counts[touched].min() < 0:
            raise CorruptionError("a change takes away a row that is not there")
        return touched, before

    def sweep(self, touched: Array) -> None:
        """Frees the rows that are gone."""
        self._table.remove(touched[self._counts[touched] == 0])

    def lanes(self, numbers: Array) -> Array:
        found: Array = self._table.lanes[numbers]
        return found

    def counts(self, numbers: Array) -> Array:
        found: Array = self._counts[numbers]
        return found

    def numbers(self) -> Array:
        """Those of all rows."""
        return self._table.numbers()

    def record(self) -> None:
        self._notes.begin()

    def delta(self) -> bytes | None:
        return self._notes.take()

    def whole(self) -> bytes | None:
        numbers = self.numbers()
        return self._notes.pack(self.counts(numbers), self.lanes(numbers)) if len(numbers) else None

    def restore(self, data: bytes) -> None:
        weights, (lanes,) = self._notes.unpack(data)
        touched, _ = self.add(lanes, weights)
        self.sweep(touched)
