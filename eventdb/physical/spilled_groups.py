"""SpilledGroups: GROUP BY with more groups than fit in memory.

The groups found so far are cut into parts by a hash of their keys and stay; rows that come are written to disk, to the
part of their keys. Then each part is read and finished by itself: it holds every row of its groups, and few groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from eventdb.batch import Column, Dictionary, RecordBatch
from eventdb.physical.grouping import by_place
from eventdb.physical.partial_groups import GroupInputs, PartialGroups
from eventdb.physical.spill import SpilledBatch, SpillFile
from eventdb.physical.spilled_parts import PARTS, KeyPlaces

Evaluate = Callable[[RecordBatch], tuple[list[Column], GroupInputs]]


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
