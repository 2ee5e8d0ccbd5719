"""What a compiled pipeline reads: the columns of a topic's slices at the query's snapshot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from eventdb.batch import Array, Column, Dictionary
from eventdb.logical.plan import Scan
from eventdb.physical.codegen import CannotCompile, frozen
from eventdb.physical.context import QueryContext
from eventdb.physical.morsels import Morsel
from eventdb.physical.scan import offset_at, offsets_of
from eventdb.schema import DataType

_ALL_PRESENT = frozen(np.ones(1 << 20, dtype=bool))
_MAX_RANGE = 1 << 40


class ScanInput:
    """Slices of a Scan. Columns are fetched when first asked for and kept; positions are those of the scan's fields."""

    def __init__(self, scan: Scan, context: QueryContext) -> None:
        self.scan = scan
        self._context = context
        self._log = context.logs(scan.topic_id)
        self.slices: list[Any] = []
        self._partitions: list[int] = []  # of each slice
        for log in context.logs_of(scan.topic_id, scan.partition):
            low, high = context.snapshot.offsets(log)
            start = low if scan.start_offset is None else max(low, scan.start_offset)
            stop = high if scan.stop_offset is None else min(high, scan.stop_offset)
            if start < stop:
                found = [s for s in context.snapshot.slices(log, start, stop) if self._in_time(s.time_range)]
                self.slices += found
                self._partitions += [getattr(log, "partition", 0)] * len(found)
        self.row_counts = [int(s.row_count) for s in self.slices]
        self.row_count = sum(self.row_counts)
        self._columns: dict[int, list[Column]] = {}
        self._arrays: dict[int, list[Array]] = {}
        self._present: dict[int, list[Array]] = {}

    def _in_time(self, held: tuple[int, int] | None) -> bool:
        low, high = self.scan.time_range
        return held is None or ((low is None or held[1] >= low) and (high is None or held[0] <= high))

    # --- columns ---

    def columns(self, index: int) -> list[Column]:
        """One column a slice."""
        found = self._columns.get(index)
        if found is None:
            placed = zip(self.slices, self._partitions, strict=True)
            found = self._columns[index] = [self._fetch(index, part, number) for part, number in placed]
        return found

    def _fetch(self, index: int, part: Any, partition: int) -> Column:
        name = self.scan.columns[index]
        type = self.type_of(index)
        count = int(part.row_count)
        if name == "_offset":
            return Column(type, offsets_of(part))
        if name == "_partition":
            return Column(type, np.full(count, partition, dtype=type.physical))
        if name == "_append_time" or (name == "_time" and self._log.event_time is None):
            return Column(type, part.append_times())
        position = self._position(name)
        column: Column = part.column(position)
        if column.type != type:
            raise CannotCompile(f"column {name} is stored as {column.type}")
        return column

    def _position(self, name: str) -> int:
        if name == "_time":
            position: int = self._log.event_time
            return position
        if name == "_headers":
            raise CannotCompile("headers")
        if name == "_key":
            key = self._context.topic_key(self.scan.topic_id)
            if key is None:
                raise CannotCompile("a topic without a key")
            name = key
        found: int = self._log.schema.index_of(name)
        return found

    def type_of(self, index: int) -> DataType:
        return self.scan.output[index].type

    def is_nullable(self, index: int) -> bool:
        if self.type_of(index).is_coded:
            self.dictionary(index)
        return any(column.validity is not None for column in self.columns(index))

    def dictionary(self, index: int) -> tuple[Dictionary, int]:
        """The one dictionary of a coded column and its size now; CannotCompile when slices have different ones."""
        if not self.slices:
            return Dictionary(), 0
        if index not in self._columns and len(self.slices) > 1 and self._has_plain_slice(index):
            raise CannotCompile("segments that store the strings plainly")
        columns = self.columns(index)
        first = columns[0].dictionary
        assert first is not None
        if any(column.dictionary is not first for column in columns):
            raise CannotCompile("slices with dictionaries of their own")
        return first, len(first)

    def _has_plain_slice(self, index: int) -> bool:
        """Asked before anything is fetched: fetching a plainly stored column encodes it."""
        name = self.scan.columns[index]
        position = None if name.startswith("_") and name not in ("_key", "_headers") else self._position(name)
        return position is not None and any(
            part.is_plain(position) for part in self.slices if hasattr(part, "is_plain")
        )

    def values(self, index: int) -> Callable[[Morsel], Array]:
        if index not in self._arrays:
            dtype = np.dtype(self.type_of(index).physical)
            self._arrays[index] = [frozen(_as(column.values, dtype)) for column in self.columns(index)]
        arrays = self._arrays[index]
        return lambda morsel: arrays[morsel.slice][morsel.start : morsel.stop]

    def validity(self, index: int) -> Callable[[Morsel], Array]:
        if index not in self._present:
            self._present[index] = [
                _all_present(len(column)) if column.validity is None else frozen(_as(column.validity, np.dtype(bool)))
                for column in self.columns(index)
            ]
        arrays = self._present[index]
        return lambda morsel: arrays[morsel.slice][morsel.start : morsel.stop]

    # --- facts ---

    def column_range(self, index: int) -> tuple[int, int] | None:
        """Least and greatest value of an integer-like column over all slices, or wider; None if unknown or wide."""
        type = self.type_of(index)
        if type.is_integer and type.width_bytes <= 2:
            limit = 1 << (8 * type.width_bytes - 1)
            return -limit, limit - 1
        name = self.scan.columns[index]
        if name == "_offset" and self.slices:
            last = max(offset_at(part, int(part.row_count) - 1) for part in self.slices)
            return min(part.first_offset for part in self.slices), last
        is_time = name == "_time" or (
            self._log.event_time is not None and self._log.schema.find(name) == self._log.event_time
        )
        if is_time and self._log.event_time is not None and all(s.time_range is not None for s in self.slices):
            ranges = [s.time_range for s in self.slices]
            return (min(r[0] for r in ranges), max(r[1] for r in ranges)) if ranges else (0, 0)
        low, high = 0, 0
        for number, column in enumerate(c for c in self.columns(index) if len(c)):
            least, greatest = int(column.values.min()), int(column.values.max())
            low, high = (least, greatest) if number == 0 else (min(low, least), max(high, greatest))
            if high - low > _MAX_RANGE:
                return None
        return low, high

    @property
    def dictionary_limit(self) -> int:
        """Evaluating an expression for more dictionary values than there are rows costs more than it saves."""
        return self.row_count

    def restricted(self, morsel: Morsel) -> Scan:
        """A scan of the rows of a morsel only."""
        part = self.slices[morsel.slice]
        first, last = offset_at(part, morsel.start), offset_at(part, morsel.stop - 1)
        return replace(
            self.scan, start_offset=first, stop_offset=last + 1, partition=self._partitions[morsel.slice]
        )


def _as(array: Array, dtype: np.dtype[Any]) -> Array:
    return array if array.dtype == dtype else array.astype(dtype)


def _all_present(count: int) -> Array:
    return _ALL_PRESENT[:count] if count <= len(_ALL_PRESENT) else frozen(np.ones(count, dtype=bool))
