"""SpilledGroups: GROUP BY with more groups than fit in memory.

The groups found so far are cut into parts by a hash of their keys and stay; rows that come are written to disk, to the
part of their keys. Then each part is read and finished by itself: it holds every row of its groups, and few groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from eventdb.batch import Array, Column, Dictionary, RecordBatch
from eventdb.physical.grouping import key_values
from eventdb.physical.partial_groups import GroupInputs, PartialGroups, by_place
from eventdb.physical.spill import SpilledBatch, SpillFile

PARTS = 64

Evaluate = Callable[[RecordBatch], tuple[list[Column], GroupInputs]]

_MIX = np.uint64(0x9E3779B97F4A7C15)


class KeyPlaces:
    """The part, from 0 to PARTS - 1, of rows by their keys: one for equal keys, whatever dictionary spells them."""

    def __init__(self) -> None:
        self._tables: dict[int, tuple[Dictionary, Array]] = {}  # of each string key: the dictionary last met

    def __call__(self, keys: Sequence[Column]) -> Array:
        mixed = np.zeros(len(keys[0]), dtype=np.uint64)
        for position, key in enumerate(keys):
            values = key_values(key) if key.dictionary is None else self._hashes(position, key)
            if key.validity is not None:
                values = np.where(key.validity, values, 0)
            mixed = (mixed ^ values.view(np.uint64)) * _MIX
            mixed ^= mixed >> np.uint64(29)
        return (mixed >> np.uint64(58)).astype(np.int64)

    def _hashes(self, position: int, key: Column) -> Array:
        dictionary = key.dictionary
        assert dictionary is not None
        found = self._tables.get(position)
        if found is None or found[0] is not dictionary or len(found[1]) < len(dictionary):
            found = self._tables[position] = dictionary, dictionary.map(hash, np.int64)
        return found[1][key.values]


class SpilledGroups:
    """Parts of `groups`, and the rows of each on disk. `evaluate` gives keys and arguments of rows."""

    def __init__(self, folder: str, groups: PartialGroups, evaluate: Evaluate) -> None:
        self._place = KeyPlaces()
        self._evaluate = evaluate
        self._parts = groups.split(self._place, PARTS)
        self._file = SpillFile(folder)
        self._rows: list[list[SpilledBatch]] = [[] for _ in range(PARTS)]
        self._dictionaries: list[Dictionary | None] = []

    @property
    def size_bytes(self) -> int:
        return self._file.size_bytes

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self._parts)

    def close(self) -> None:
        self._file.close()

    def add(self, batch: RecordBatch, keys: Sequence[Column]) -> None:
        """Writes rows with these keys."""
        last, self._dictionaries = self._dictionaries, [column.dictionary for column in batch.columns]
        shared = [d for d in self._dictionaries if d is not None and any(d is other for other in last)]
        for rows, at in zip(self._rows, by_place(self._place(keys), PARTS), strict=True):
            if len(at):
                rows.append(self._file.write(batch.take(at), shared))

    def finished(self, hold: Callable[[int], None]) -> Iterator[tuple[list[Column], list[Column], int]]:
        """Keys, aggregates and number of groups of each part. `hold` is told what is held."""
        for number, rows in enumerate(self._rows):
            part = self._parts[number]
            for spilled in rows:
                if part.add(*self._evaluate(self._file.read(spilled))):
                    hold(self.nbytes + part.nbytes)
                    part.merge()
                hold(self.nbytes)
            if part.nbytes:
                yield part.finish()
            self._parts[number] = PartialGroups(part.aggregations, True)
