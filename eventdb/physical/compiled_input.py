"""What a compiled pipeline reads: the columns of a topic's slices at the query's snapshot."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from eventdb.batch import Array, Column, Dictionary
from eventdb.config import COMPILE_MIN_ROWS, TILE_ROWS
from eventdb.logical.plan import Scan
from eventdb.physical.codegen import CannotCompile, frozen
from eventdb.physical.context import QueryContext
from eventdb.physical.morsels import Morsel
from eventdb.physical.scan import offset_at, offsets_of
from eventdb.physical.skipping import find_parts
from eventdb.schema import DataType

if TYPE_CHECKING:
    from eventdb.physical.lookup import Lookup

_ALL_PRESENT = frozen(np.ones(1 << 20, dtype=bool))
_MAX_RANGE = 1 << 40
_AS_THEY_ARE = frozen(np.zeros(6, dtype=np.int64))


class ScanInput:
    """Slices of a Scan. Columns are fetched when first asked for and kept; positions are those of the scan's fields.

    `in_flight` is how many slices are worked on at a time, 0 = one a thread: so many decoded columns are held.
    """

    def __init__(self, scan: Scan, context: QueryContext, in_flight: int = 0) -> None:
        self.scan = scan
        self.in_flight = in_flight or max(1, context.threads)
        self._context = context
        self._log = context.logs(scan.topic_id)
        self.slices: list[Any] = []
        self._partitions: list[int] = []  # of each slice
        for log, parts in find_parts(scan, context).groups:
            self.slices += parts
            self._partitions += [getattr(log, "partition", 0)] * len(parts)
        self.row_counts = [int(s.row_count) for s in self.slices]
        self.row_count = sum(self.row_counts)
        # Encoding plain strings costs most of such a query, and few rows will hardly be compiled: not twice.
        self._is_short = context.execution == "auto" and self.row_count < COMPILE_MIN_ROWS
        self._columns: dict[int, _Columns] = {}
        self._arrays: dict[int, list[Array | None]] = {}
        self._present: dict[int, list[Array | None]] = {}
        self._dictionaries: dict[int, tuple[Dictionary, int]] = {}

    @cached_property
    def has_blocks(self) -> bool:
        """Whether tiles are worth their loop: some sealed block of integers is not kept decoded."""
        sealed = [part for part in self.slices if hasattr(part, "packed")]
        positions = [self._tile_position(index) for index in range(len(self.scan.columns))] if sealed else []
        return any(not part.is_kept(p) for part in sealed for p in positions if p is not None and not part.is_plain(p))

    def _tile_position(self, index: int) -> int | None:
        """The stored position of a column whose values have 4 or 8 bytes and are integers, None of others."""
        dtype = np.dtype(self.type_of(index).physical)
        return self.stored_position(index) if dtype.kind == "i" and dtype.itemsize >= 4 else None

    # --- columns ---

    def columns(self, index: int) -> _Columns:
        """One column a slice. Those of sealed slices are decoded when they are asked for, and not kept."""
        found = self._columns.get(index)
        if found is None:
            found = self._columns[index] = _Columns(self, index)
        return found

    def stored_position(self, index: int) -> int | None:
        """The position in the topic's schema of a column that slices store; None for offsets, append times ..."""
        name = self.scan.columns[index]
        if name in ("_offset", "_partition", "_append_time", "_headers"):
            return None
        if name == "_time" and self._log.event_time is None:
            return None
        position = self._position(name)
        if self._log.schema.fields[position].type != self.type_of(index):
            raise CannotCompile(f"column {name} is stored as {self._log.schema.fields[position].type}")
        return position

    def fetch(self, index: int, number: int) -> Column:
        part, partition = self.slices[number], self._partitions[number]
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

    def lookup(self, index: int) -> tuple[Lookup, int] | None:
        """None: all columns are the scan's own."""
        return None

    def type_of(self, index: int) -> DataType:
        return self.scan.output[index].type

    def is_nullable(self, index: int) -> bool:
        if self.type_of(index).is_coded:
            self.dictionary(index)
        return self.columns(index).has_nulls()

    def dictionary(self, index: int) -> tuple[Dictionary, int]:
        """The one dictionary of a coded column and its size when first asked for, the same in all of a pipeline though
        others append; CannotCompile when slices have different ones."""
        found = self._dictionaries.get(index)
        if found is None:
            dictionary = self._dictionary(index)
            found = self._dictionaries[index] = dictionary, len(dictionary)
        return found

    def _dictionary(self, index: int) -> Dictionary:
        if not self.slices:
            return Dictionary()
        alone = len(self.slices) == 1 and not self._is_short
        if index not in self._columns and not alone and self._has_plain_slice(index):
            raise CannotCompile("segments that store the strings plainly")
        found = self.columns(index).dictionaries()
        first = next(found)
        if any(other is not first for other in found):
            raise CannotCompile("slices with dictionaries of their own")
        return first

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
            self._arrays[index] = self.columns(index).map_kept(lambda column: frozen(_as(column.values, dtype)))
        arrays, columns = self._arrays[index], self.columns(index)

        def of(morsel: Morsel) -> Array:
            array = arrays[morsel.slice]
            if array is None:
                array = frozen(_as(columns[morsel.slice].values, dtype))
            return array[morsel.start : morsel.stop]

        return of

    def tile(self, index: int) -> Callable[[Morsel], tuple[Array, ...]] | None:
        """The column as a tile column (kernels/tiles.py), packed where a block can be read so; None if there are no
        blocks, or if it is none of 4 or 8 bytes' integers that they hold."""
        position = self._tile_position(index) if self.has_blocks else None
        if position is None:
            return None
        values, dtype = self.values(index), np.dtype(self.type_of(index).physical)
        no_values, no_words = frozen(np.zeros(1, dtype)), frozen(np.zeros(1, f"<u{dtype.itemsize}"))

        def of(morsel: Morsel) -> tuple[Array, ...]:
            rows = np.empty(TILE_ROWS + 1, dtype)
            part = self.slices[morsel.slice]
            found = part.packed(position, morsel.start) if hasattr(part, "packed") else None
            if found is None:
                return values(morsel), no_words, _AS_THEY_ARE, rows
            return no_values, *found, rows

        return of

    def validity(self, index: int) -> Callable[[Morsel], Array]:
        if index not in self._present:
            self._present[index] = self.columns(index).map_kept(_presence)
        arrays, columns = self._present[index], self.columns(index)

        def of(morsel: Morsel) -> Array:
            array = arrays[morsel.slice]
            if array is None:
                array = _presence(columns[morsel.slice])
            return array[morsel.start : morsel.stop]

        return of

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
        for number, (least, greatest) in enumerate(self.columns(index).ranges()):
            low, high = (least, greatest) if number == 0 else (min(low, least), max(high, greatest))
            if high - low > _MAX_RANGE:
                return None
        return low, high

    @property
    def dictionary_limit(self) -> int:
        """Evaluating an expression for more dictionary values than there are rows costs more than it saves; of few rows
        it would be done twice, since they will hardly be compiled."""
        return 0 if self._is_short else self.row_count

    def restricted(self, morsel: Morsel) -> Scan:
        """A scan of the rows of a morsel only."""
        part = self.slices[morsel.slice]
        first, last = offset_at(part, morsel.start), offset_at(part, morsel.stop - 1)
        return replace(self.scan, start_offset=first, stop_offset=last + 1, partition=self._partitions[morsel.slice])


class _Columns:
    """One column of all slices. Raw slices give views of their files, which are kept; a sealed slice (it has
    `has_nulls`) answers from its statistics and is decoded when it is used; those used last are held."""

    def __init__(self, source: ScanInput, index: int) -> None:
        self._source = source
        self._index = index
        self._slices = source.slices
        self._position = source.stored_position(index)
        self._lock = threading.Lock()
        self._recent: dict[int, Column] = {}
        self._kept = [
            None if hasattr(part, "has_nulls") else source.fetch(index, number)
            for number, part in enumerate(self._slices)
        ]

    def __len__(self) -> int:
        return len(self._slices)

    def __getitem__(self, number: int) -> Column:
        kept = self._kept[number]
        if kept is not None:
            return kept
        with self._lock:
            recent = self._recent.get(number)
            if recent is not None:
                return recent
            while len(self._recent) >= self._source.in_flight:  # first: its memory is used again at once
                del self._recent[next(iter(self._recent))]
        found: Column
        if self._position is None:
            found = self._source.fetch(self._index, number)
        else:
            found = self._slices[number].column(self._position)
        with self._lock:
            self._recent[number] = found
        return found

    def map_kept(self, change: Callable[[Column], Array]) -> list[Array | None]:
        """change(column) of each slice whose column is kept, None for the others."""
        return [None if column is None else change(column) for column in self._kept]

    def has_nulls(self) -> bool:
        if self._position is None:
            return False
        return any(
            self._slices[i].has_nulls(self._position) if column is None else column.validity is not None
            for i, column in enumerate(self._kept)
        )

    def dictionaries(self) -> Iterator[Dictionary]:
        """Of each slice, of a coded column."""
        for i, column in enumerate(self._kept):
            if column is None and not self._slices[i].is_plain(self._position):
                yield self._slices[i].shared_dictionary(self._position)
            else:
                dictionary = self[i].dictionary
                assert dictionary is not None
                yield dictionary

    def ranges(self) -> Iterator[tuple[int, int]]:
        """(least, greatest) stored value of each slice that has rows, or wider."""
        for i, column in enumerate(self._kept):
            if column is None and self._position is not None:
                known = self._slices[i].value_range(self._position)
                if known is not None:
                    yield known
                    continue
            values = self[i].values
            if len(values):
                yield int(values.min()), int(values.max())


def _presence(column: Column) -> Array:
    """True where a row is present."""
    return _all_present(len(column)) if column.validity is None else frozen(_as(column.validity, np.dtype(bool)))


def _as(array: Array, dtype: np.dtype[Any]) -> Array:
    return array if array.dtype == dtype else array.astype(dtype)


def _all_present(count: int) -> Array:
    return _ALL_PRESENT[:count] if count <= len(_ALL_PRESENT) else frozen(np.ones(count, dtype=bool))
