"""The NumPy side of segments: whole columns in, zero-copy slices out. Imported only when columns are used."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eventdb.batch import Array, Column, Dictionary, SpelledDictionary
from eventdb.config import DICTIONARY_LIMIT, MAX_PAYLOAD_BYTES, MAX_SEGMENT_ROWS, MAX_VALUE_BYTES, MIB
from eventdb.errors import CorruptionError, SchemaMismatch
from eventdb.storage.commit.checksum import Checksum
from eventdb.storage.device.files import Files, storage_error
from eventdb.storage.format import TIME_STRIDE_ROWS, U64
from eventdb.storage.index.dictionary import DictionaryCache, is_short

_BESIDE_BYTES = 4 * MIB  # from here on, a thread for the checksum costs less than it saves

if TYPE_CHECKING:
    from eventdb.storage.commit.staging import Staged
    from eventdb.storage.segment.log import PartitionLog
    from eventdb.storage.segment.segment import Segment
    from eventdb.storage.transaction import WriteTransaction


_BOOL = np.dtype(bool)
_INT32 = np.dtype("<i4")
_INT64 = np.dtype("<i8")
_ZERO = np.zeros(1, np.int64)
FEW_VALUES = 4_096
_MANY_VALUES = 1_024  # from here on Arrow gives plain strings their codes, if the process has it loaded
PWRITE_BYTES = 16_384  # a column's part of at least this size is written by pwrite
HINTED_BYTES = (
    262_144  # the device may begin with a part this large; of smaller ones the hint takes longer than it saves
)
# At a time: the kernel caches what one call writes in pages as large, and to find one of 2 MB costs several times the
# copy where memory is not at hand; and the device begins with the first part while the next one is copied.
WRITE_BYTES = MIB


class SegmentSlice:
    """Rows of one segment. `time_range` is (min, max) event time, inclusive, possibly wider than the slice; None if not
    known."""

    __slots__ = ("_log", "_row", "_segment", "first_offset", "offsets", "row_count", "time_range")

    def __init__(self, log: PartitionLog, segment: Segment, row: int, end: int, times: tuple[int, int] | None) -> None:
        self._log = log
        self._segment = segment
        self._row = row
        self.first_offset = segment.base + row
        self.row_count = end - row
        self.offsets: Array | None = None  # int64, of a compacted segment, whose offsets have gaps
        if segment.layout.offsets >= 0:
            segment.require(segment.layout.offsets, row, end)
            position = segment.layout.columns[segment.layout.offsets].value_position
            self.offsets = _region(segment, position, _INT64)[row:end]
            self.first_offset = int(self.offsets[0])
        self.time_range = times

    def column(self, index: int) -> Column:
        """One column: a read-only view of the file for fixed-width and dictionary columns, encoded here if stored
        plainly."""
        segment, row, count = self._segment, self._row, self.row_count
        layout = segment.layout.columns[index]
        type = self._log.schema.fields[index].type
        self._require(index)
        validity = None
        # One row, the common case of a live query, is looked at without NumPy's 2 us per reduction.
        if layout.nullable and (count != 1 or segment.memory[layout.null_position + row]):
            nulls = _region(segment, layout.null_position, _BOOL)[row : row + count]
            validity = ~nulls if nulls.any() else None
        if layout.plain:
            return self._encode_plain(index, validity)
        values = _region(segment, layout.value_position, _INT32 if layout.coded else type.physical)[row : row + count]
        if not layout.coded:
            return Column(type, values, validity)
        dictionary = self._log.dictionaries[index]
        assert dictionary is not None
        if count > 1:
            self._check_codes(index, values, max(1, len(dictionary.values)))
        return Column(type, values, validity, dictionary.shared())

    def _require(self, index: int) -> None:
        self._segment.require(index, self._row, self._row + self.row_count)

    def _check_codes(self, index: int, codes: Array, limit: int) -> None:
        """Compiled loops use codes as positions, unchecked: those of a damaged file must not get there. Once a row."""
        segment, stop = self._segment, self._row + len(codes)
        if stop > segment.checked_rows.get(index, 0):
            if int(codes.min()) < 0 or int(codes.max()) >= limit:
                raise CorruptionError(
                    f"{segment.path}: rows {self._row}..{stop} are damaged: column {index} holds codes its dictionary "
                    "does not have; run check(deep=True)",
                    path=segment.path,
                )
            if self._row <= segment.checked_rows.get(index, 0):
                segment.checked_rows[index] = stop

    def is_plain(self, index: int) -> bool:
        """Whether a VARCHAR or BLOB column is stored without codes, so that `column` has to encode it."""
        return bool(self._segment.layout.columns[index].plain)

    def append_times(self) -> Array:
        """int64 microseconds, read-only."""
        first = self._row - self._row % TIME_STRIDE_ROWS
        stop_bytes = (self._row + self.row_count) * 8
        self._segment.readable.require(self._segment.layout.append_position + first * 8, stop_bytes - first * 8)
        times = _region(self._segment, self._segment.layout.append_position, _INT64)
        row, stop = self._row, self._row + self.row_count
        found = times[row:stop]
        if found.all():
            return found
        # Times never go back, so a 0 takes the highest one before it.
        filled: Array = np.maximum.accumulate(times[first:stop])[row - first :]
        return filled

    def _encode_plain(self, index: int, validity: Array | None) -> Column:
        segment, row, count = self._segment, self._row, self.row_count
        layout = segment.layout.columns[index]
        type = self._log.schema.fields[index].type
        ends = _region(segment, layout.value_position, _INT64)[row : row + count]
        start, stop = segment.heap_range(index, row, count)
        if count > 1 and (ends[1:] < ends[:-1]).any():
            raise CorruptionError(
                f"{segment.path}: rows {row}..{row + count} are damaged (the heap positions of column {index} are out "
                "of order); run check(deep=True)",
                path=segment.path,
            )
        heap = bytes(segment.memory[layout.heap_position + start : layout.heap_position + stop])
        if count >= _MANY_VALUES and "pyarrow" in sys.modules:
            from eventdb.arrow import distinct_strings

            found = distinct_strings(np.concatenate([_ZERO, ends - start]), heap, text=layout.text)
            if found is not None:
                return Column(type, found[0], validity, found[1])
        bounds = (ends - start).tolist()
        codes: dict[bytes, int] = {}
        code = codes.setdefault
        last = 0
        out = []
        for end in bounds:
            out.append(code(heap[last:end], len(codes)))
            last = end
        values: list[Any] = [v.decode("utf-8", "surrogatepass") for v in codes] if layout.text else list(codes)
        if not values:
            values = ["" if layout.text else b""]
        return Column(type, np.array(out, dtype=np.int32), validity, Dictionary(values))


class FreshSlice(SegmentSlice):
    """Rows that were committed a moment ago: they are in memory, so nothing asks whether they can be read."""

    __slots__ = ()

    def _require(self, index: int) -> None:
        pass


def _region(segment: Segment, position: int, dtype: np.dtype[Any] | str) -> Array:
    """The region at `position` as one read-only array of the segment's capacity, made once: slicing it costs 0.1 us."""
    array: Array | None = segment.arrays.get(position)
    if array is None:
        array = np.frombuffer(segment.mapping, dtype=dtype, count=segment.layout.capacity, offset=position)
        array.flags.writeable = False
        segment.arrays[position] = array
    return array


def shared_dictionaries(log: PartitionLog) -> list[Dictionary | None]:
    """Of each column of the log, as far as this process knows them: rows in their codes need no others."""
    return [None if cache is None else cache.shared() for cache in log.dictionaries]


def store_columns(transaction: WriteTransaction, staged: Staged, columns: Sequence[Column]) -> None:
    """All rows of the columns are stored past the end of the staged log."""
    log = staged.log
    total = len(columns[0])
    for column, field in zip(columns, log.schema.fields, strict=True):
        if column.type != field.type:
            raise SchemaMismatch(
                f"column {field.name!r} is {field.type}, not {column.type}", column=field.name, expected=str(field.type)
            )
        if len(column) != total:
            raise SchemaMismatch(
                f"column {field.name!r} has {len(column)} rows, the first column {total}", column=field.name
            )
        if not field.nullable and column.validity is not None and not column.validity.all():
            raise SchemaMismatch(f"column {field.name!r} is NOT NULL", column=field.name)
    sources = [
        _Source(column, log.dictionaries[i]) if column.type.is_coded else None for i, column in enumerate(columns)
    ]
    done = 0
    while done < total:
        done += _store_part(transaction, staged, columns, sources, done, total)


def _store_part(
    transaction: WriteTransaction, staged: Staged, columns: Sequence[Column], sources: list[_Source | None], done: int,
    total: int,
) -> int:  # fmt: skip
    segment = staged.segment
    waiting = total - done
    count = min(waiting, staged.room())
    coded = [i for i, source in enumerate(sources) if source is not None]
    plain = set() if segment is None else set(segment.layout.plain)
    for i in coded:
        source = sources[i]
        assert source is not None
        if i not in plain and not source.resolve(staged, i):
            plain.add(i)
    if segment is None or count == 0 or plain != set(segment.layout.plain):
        return _roll(transaction, staged, sources, plain, done, waiting)
    row = staged.state.log_end - segment.base
    ends: dict[int, Array] = {}
    for i in segment.layout.plain:
        source = sources[i]
        assert source is not None
        used = segment.heap_end(i, row)
        ends[i] = source.lengths(done, done + count).cumsum() + used
        count = int(np.searchsorted(ends[i][:count], segment.layout.columns[i].heap_bytes, side="right"))
    if count == 0:
        return _roll(transaction, staged, sources, plain, done, waiting)
    _copy(transaction.files, staged, segment, columns, sources, ends, row, done, count)
    if staged.log.event_time is not None:
        _note_times(transaction, staged, columns[staged.log.event_time].slice(done, done + count))
    staged.add(row, count)
    return count


def _roll(
    transaction: WriteTransaction,
    staged: Staged,
    sources: list[_Source | None],
    plain: set[int],
    done: int,
    waiting: int,
) -> int:
    segment = staged.segment
    if segment is not None and staged.state.log_end == segment.base:
        plain |= set(segment.layout.plain)
        transaction.replace_empty(staged)
    limits = staged.log.limits
    most_rows = MAX_SEGMENT_ROWS if limits is None else limits.segment_rows(staged.log.schema)
    stop = done + min(waiting, MAX_SEGMENT_ROWS, most_rows)
    heap = {}
    for i, source in enumerate(sources):
        if source is not None and (i in plain or source.cache is None):
            heap[i] = int(source.lengths(done, stop).sum())
    transaction.roll(staged, waiting, plain, heap)
    return 0


def _copy(
    files: Files, staged: Staged, segment: Segment, columns: Sequence[Column], sources: list[_Source | None],
    ends: dict[int, Array], row: int, done: int, count: int,
) -> None:  # fmt: skip
    """Rows [done, done + count) of the columns are in the segment from `row` on."""
    stop = done + count
    zeroed, staged.zeroed = staged.zeroed is segment, None
    pieces: list[tuple[int, memoryview | int]] = []

    def put(position: int, piece: Array | bytes | int) -> None:
        """A number stands for that many zeros which are there already."""
        data = (
            piece if isinstance(piece, int) else memoryview(piece) if isinstance(piece, bytes)
            else np.ascontiguousarray(piece).data.cast("B")
        )  # fmt: skip
        pieces.append((position, data))

    for i, layout in enumerate(segment.layout.columns):
        if layout.marks:
            segment.clear_marks(row, count)
            continue
        column, source = columns[i], sources[i]
        if layout.nullable:
            valid = None if column.validity is None else column.validity[done:stop]
            if zeroed and (valid is None or valid.all()):
                put(layout.null_position + row, count)
            else:
                put(layout.null_position + row, np.zeros(count, dtype=bool) if valid is None else ~valid)
        position = layout.value_position + row * layout.width
        if source is None:
            put(position, column.values[done:stop].astype(column.type.physical, copy=False))
        elif layout.coded:
            put(position, source.codes(done, stop))
        else:
            put(position, ends[i][:count])
            put(layout.heap_position + segment.heap_end(i, row), source.heap(done, stop))
    position = segment.layout.append_position + row * 8
    if zeroed:
        for at in range(0, count, TIME_STRIDE_ROWS):
            put(position + at * 8, U64.pack(staged.state.append_us))
            put(position + at * 8 + 8, min(count - at, TIME_STRIDE_ROWS) * 8 - 8)
    else:
        put(position, np.full(count, staged.state.append_us, dtype=_INT64))
    size = sum(data if isinstance(data, int) else len(data) for _, data in pieces)
    checksum = Checksum(lambda: (data for _, data in pieces))
    stored = [(position, data) for position, data in pieces if not isinstance(data, int)]
    stored.sort(key=lambda piece: len(piece[1]))
    beside = size > _BESIDE_BYTES
    _write(files, segment, stored[:-1])
    if beside:
        checksum.begin()  # not before: it would take the processor from the small pieces, each a moment's work
    _write(files, segment, stored[-1:])
    if size > MAX_PAYLOAD_BYTES:
        staged.checksums[segment.base, row, count] = checksum
        if not beside:
            checksum.result()  # now, while the device writes


def _write(files: Files, segment: Segment, pieces: list[tuple[int, memoryview]]) -> None:
    """Large pieces go through pwrite: a store into a fresh page of the mapping costs a fault, five times as much."""
    fd = -1
    try:
        for position, data in pieces:
            if len(data) < PWRITE_BYTES:
                segment.memory[position : position + len(data)] = data
                continue
            if fd < 0:
                fd = files.open(segment.path, write=True)
            for start in range(0, len(data), WRITE_BYTES):
                part = data[start : start + WRITE_BYTES]
                files.write_fully(fd, part, position + start)
                if len(data) >= HINTED_BYTES:
                    files.start_writing(fd, position + start, len(part))
    except OSError as error:
        raise storage_error(error, "writing", segment.path) from error
    finally:
        if fd >= 0:
            files.close(fd)


def _note_times(transaction: WriteTransaction, staged: Staged, column: Column) -> None:
    values = column.values if column.validity is None else column.values[column.validity]
    if len(values):
        staged.note_range(int(values.min()), int(values.max()))


class _Source:
    """A VARCHAR or BLOB column on its way in: recoded to the topic's dictionary, or spelled out for plain storage."""

    def __init__(self, column: Column, cache: DictionaryCache | None) -> None:
        assert column.dictionary is not None
        self.column = column
        self.cache = cache
        self._own = cache is not None and column.dictionary is cache._shared
        self._table: Array | None = None
        self._spelled: list[bytes] | None = None
        self._lengths: Array | None = None

    def _used(self) -> Array:
        """Codes that some present row has."""
        column = self.column
        assert column.dictionary is not None
        if len(column.dictionary) <= FEW_VALUES and len(column) >= FEW_VALUES * 16:
            # Finding the few that are not used costs more than giving them codes.
            return np.arange(len(column.dictionary))
        values = column.values if column.validity is None else column.values[column.validity]
        seen = np.zeros(max(1, len(column.dictionary)), dtype=bool)
        seen[values] = True
        return np.flatnonzero(seen)

    def resolve(self, staged: Staged, index: int) -> bool:
        """Every used value has a code of the topic's dictionary (known or pending); False if the column must be stored
        plainly."""
        if self._own or self._table is not None:
            return True
        cache, dictionary = self.cache, self.column.dictionary
        if cache is None or dictionary is None or cache.is_full(DICTIONARY_LIMIT - 1):
            return False
        pending = staged.pending.get(index, {})
        used = self._used()
        if len(used) > DICTIONARY_LIMIT:
            return False
        values = dictionary.values
        wanted = values if len(used) == len(values) else [values[c] for c in used.tolist()]
        found: list[Any] = list(map(cache.codes.get, wanted))
        if None in found:
            unknown = (v for v, code in zip(wanted, found, strict=True) if code is None and v not in pending)
            fresh = dict.fromkeys(unknown)
            if not all(map(is_short, fresh)) or cache.is_full(
                DICTIONARY_LIMIT, len(pending) + len(fresh), sum(map(len, fresh))
            ):
                return False
            pending = staged.pending.setdefault(index, {})
            for value in fresh:
                pending[value] = len(cache.values) + len(pending)
            found = [pending[v] if code is None else code for v, code in zip(wanted, found, strict=True)]
        table = np.zeros(max(1, len(values)), dtype=np.int32)
        table[used] = found
        if len(used) == len(values) and bool((table == np.arange(len(table))).all()):
            self._own = True  # a fresh topic takes the codes as they come
        else:
            self._table = table
        return True

    def codes(self, start: int, stop: int) -> Array:
        """int32 codes of the topic's dictionary, 0 under NULL."""
        column = self.column
        values = column.values[start:stop]
        found = values if self._table is None else np.take(self._table, values, mode="clip")
        if column.validity is not None:
            found = np.where(column.validity[start:stop], found, 0)
        return found.astype(np.int32, copy=False)

    def _spell(self) -> list[bytes]:
        spelled = self._spelled
        if spelled is None:
            dictionary = self.column.dictionary
            assert dictionary is not None
            if isinstance(dictionary, SpelledDictionary):
                spelled = dictionary.spelled()
            else:
                spelled = [
                    v.encode("utf-8", "surrogatepass") if isinstance(v, str) else bytes(v) for v in dictionary.values
                ]
            self._spelled = spelled = spelled or [b""]
        return spelled

    def _value_lengths(self) -> Array:
        """The length of every value of the dictionary, in bytes."""
        lengths = self._lengths
        if lengths is None:
            dictionary = self.column.dictionary
            if isinstance(dictionary, SpelledDictionary):
                lengths = np.diff(dictionary.starts)
            else:
                spelled = self._spell()
                lengths = np.fromiter(map(len, spelled), dtype=np.int64, count=len(spelled))
            self._lengths = lengths
            if int(lengths.max()) > MAX_VALUE_BYTES:
                raise SchemaMismatch(f"a value of {int(lengths.max())} bytes exceeds the limit of {MAX_VALUE_BYTES}")
        return lengths

    def lengths(self, start: int, stop: int) -> Array:
        lengths: Array = self._value_lengths()[self.column.values[start:stop]]
        if self.column.validity is not None:
            lengths = np.where(self.column.validity[start:stop], lengths, 0)
        return lengths

    def heap(self, start: int, stop: int) -> bytes | Array:
        """The bytes of the rows, one after another."""
        codes, validity, dictionary = self.column.values[start:stop], self.column.validity, self.column.dictionary
        if isinstance(dictionary, SpelledDictionary) and len(codes) and bool((np.diff(codes) == 1).all()):
            first, last = dictionary.starts[codes[0]], dictionary.starts[codes[-1] + 1]
            if validity is None or int(self.lengths(start, stop).sum()) == last - first:  # NULLs have no bytes
                return dictionary.heap[first:last]
        if validity is not None:
            codes = codes[validity[start:stop]]
        return b"".join(map(self._spell().__getitem__, codes.tolist()))
