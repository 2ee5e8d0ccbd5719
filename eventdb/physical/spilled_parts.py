"""SpilledParts: rows on disk, cut into parts by a hash of their keys, so that each part can be worked on by itself.

Rows with equal keys are in one part. A part that is still too large is cut again, at the next level, by another hash.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from eventdb.batch import Array, Column, Dictionary, RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.logical.plan import Fields
from eventdb.physical.collected import present_rows
from eventdb.physical.context import QueryContext
from eventdb.physical.grouping import by_place, distinct_codes, key_values
from eventdb.physical.operator import Operator
from eventdb.physical.spill import SpilledBatch, SpillFile

PARTS = 64
LEVELS = 3
"""Cutting more often is of no use: what is too large then has one key."""

Keys = Callable[[RecordBatch], Sequence[Column]]

_MIX = np.uint64(0x9E3779B97F4A7C15)
_REMIX = np.uint64(0xD6E8FEB86659FD93)
_READ_ROWS = 1 << 15


class KeyPlaces:
    """The part, from 0 to PARTS - 1, of rows by their keys: one for equal keys, whatever dictionary spells them."""

    def __init__(self, level: int = 0) -> None:
        self._level = level
        self._tables: dict[int, tuple[Dictionary, Array]] = {}

    def __call__(self, keys: Sequence[Column]) -> Array:
        mixed = np.zeros(len(keys[0]), dtype=np.uint64)
        for i, key in enumerate(keys):
            values = key_values(key) if key.dictionary is None else self._hashes(i, key)
            if key.validity is not None:
                values = np.where(key.validity, values, 0)
            mixed = (mixed ^ values.view(np.uint64)) * _MIX
            mixed ^= mixed >> np.uint64(29)
        for _ in range(self._level + 1):  # once at least: tables spread the keys of a part by the first product
            mixed *= _REMIX
            mixed ^= mixed >> np.uint64(32)
        return (mixed >> np.uint64(58)).astype(np.int64)

    def _hashes(self, number: int, key: Column) -> Array:
        dictionary = key.dictionary
        assert dictionary is not None
        found = self._tables.get(number)  # of the dictionary that the key had last
        if found is None or found[0] is not dictionary or len(found[1]) < len(dictionary):
            if len(dictionary) > 2 * len(key):  # few of its values are used
                used = distinct_codes(key)
                hashes = np.fromiter(map(hash, dictionary.pick(used.tolist())), np.int64, len(used))
                places = np.minimum(np.searchsorted(used, key.values), len(used) - 1)
                return hashes[places] if len(used) else np.zeros(len(key), np.int64)
            found = self._tables[number] = dictionary, dictionary.map(hash, np.int64)
        return found[1][key.values]


class SpilledPart:
    """Rows of a SpilledParts, in the order they were added; they can be read more than once."""

    def __init__(self, file: SpillFile, pieces: Sequence[SpilledBatch]) -> None:
        self._file, self._pieces = file, pieces
        self.row_count = sum(piece.row_count for piece in pieces)

    def __iter__(self) -> Iterator[RecordBatch]:
        batches: list[RecordBatch] = []
        rows = 0
        for piece in self._pieces:
            batches.append(self._file.read(piece))
            rows += piece.row_count
            if rows >= _READ_ROWS:
                yield RecordBatch.concat(batches)
                batches, rows = [], 0
        if batches:
            yield RecordBatch.concat(batches)


class SpilledParts:
    """PARTS parts in one file, by what `keys` gives of rows (no columns: all rows are in part 0). Close it.

    `buffer_bytes` of rows are put together before they are cut, so that what is written at once is not tiny. Rows in
    which a key i is NULL are left out where `drops[i]`.
    """

    def __init__(self, folder: str, keys: Keys, buffer_bytes: int, level: int = 0, drops: Sequence[bool] = ()) -> None:
        self._keys, self._drops = keys, drops
        self._buffer_bytes = buffer_bytes
        self._place = KeyPlaces(level)
        self._file = SpillFile(folder)
        self._parts: list[list[SpilledBatch]] = [[] for _ in range(PARTS)]
        self._waiting: list[RecordBatch] = []
        self._waiting_rows = self._waiting_bytes = 0
        self._dictionaries: list[Dictionary | None] = []

    @property
    def size_bytes(self) -> int:
        return self._file.size_bytes

    def close(self) -> None:
        self._file.close()

    def add(self, batch: RecordBatch) -> None:
        self._waiting.append(batch)
        self._waiting_rows += batch.row_count
        self._waiting_bytes += batch.nbytes
        if self._waiting_rows >= MORSEL_ROWS or self._waiting_bytes >= self._buffer_bytes:
            self._write()

    def finish(self) -> None:
        """All rows are there: writes those that still wait."""
        self._write()
        self._place = KeyPlaces()  # without the hashes of strings

    def part(self, number: int) -> SpilledPart:
        """The rows of a part, after `finish`."""
        return SpilledPart(self._file, self._parts[number])

    def _write(self) -> None:
        if not self._waiting_rows:
            return
        batch = RecordBatch.concat(self._waiting)
        self._waiting, self._waiting_rows, self._waiting_bytes = [], 0, 0
        last, self._dictionaries = self._dictionaries, [column.dictionary for column in batch.columns]
        shared = [d for d in self._dictionaries if d is not None and any(d is other for other in last)]
        keys = self._keys(batch)
        if not keys:
            self._parts[0].append(self._file.write(batch, shared))
            return
        present = present_rows([key for key, drops in zip(keys, self._drops, strict=False) if drops])
        if present is not None:
            batch, keys = batch.filter(present), [key.filter(present) for key in keys]
        for pieces, rows in zip(self._parts, by_place(self._place(keys), PARTS), strict=True):
            if len(rows):
                pieces.append(self._file.write(batch.take(rows), shared))


def spilled_parts(context: QueryContext, keys: Keys, level: int = 0, drops: Sequence[bool] = ()) -> SpilledParts:
    """Empty parts in the context's folder."""
    assert context.spill_folder is not None
    return SpilledParts(context.spill_folder, keys, context.memory_limit_bytes // 32, level, drops)


class StoredRows(Operator):
    """Rows that were written to disk before, as the input of an operator."""

    def __init__(self, fields: Fields, rows: SpilledPart, context: QueryContext) -> None:
        super().__init__(fields, context)
        self.rows = rows

    def produce(self) -> Iterator[RecordBatch]:
        for batch in self.rows:
            yield RecordBatch(self.names, batch.columns, batch.row_count)
