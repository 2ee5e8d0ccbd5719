"""The NumPy side of sealed segments: blocks decoded when a column of them is asked for, and kept while there is room.

Imported only when sealed rows are read. Numba is not needed: it takes over, from a thread that loads it, in a process
that has decoded KERNELS_AFTER_BYTES.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import numpy as np

from eventdb.batch import Array, Column, Dictionary, SpelledDictionary
from eventdb.config import MIB, SEALED_CACHE_BYTES
from eventdb.storage.format import BLOCK_NAN, BLOCK_RANGED, NODE
from eventdb.storage.sealed.block_cache import BlockCache, Decoded
from eventdb.storage.sealed.buffers import BUFFERS
from eventdb.storage.sealed.nodes import UNSIGNED, DamagedNode, Kernels, checksum_of, decode, length_of, packed_parts
from eventdb.storage.sealed.point import NoPoint, Reader, reader_of

if TYPE_CHECKING:
    from eventdb.storage.sealed.sealed import SealedSegment
    from eventdb.storage.segment.layout import ColumnLayout
    from eventdb.storage.segment.log import PartitionLog
    from eventdb.storage.segment.segment import Lists

KERNELS_AFTER_BYTES = 64 * MIB
FEW_ROWS = 16  # of a block: they are read without decoding it, where its encoding allows it
ROOMY_BYTES = MIB
READERS = 128  # of blocks of a segment that are kept, a kilobyte each
_UNKNOWN: Any = object()
_BIAS = 1 << 63


CACHE = BlockCache(SEALED_CACHE_BYTES)
# Blocks that are kept and memory that waits for the next ones stay within the limit together.
BUFFERS.room_bytes = CACHE.room_bytes


class _Engine:
    """Which decoder runs: NumPy first, the kernels once they are loaded."""

    def __init__(self) -> None:
        self.kernels: Kernels | None = None
        self.decoded_bytes = 0
        self._asked = False

    def count(self, decoded_bytes: int) -> None:
        self.decoded_bytes += decoded_bytes
        if self._asked or self.decoded_bytes < KERNELS_AFTER_BYTES:
            return
        self._asked = True
        from eventdb.kernels.cache import has_numba

        if has_numba():
            threading.Thread(target=self._load, name="eventdb-decoders", daemon=True).start()

    def _load(self) -> None:
        self.kernels = Kernels()


ENGINE = _Engine()


def block(segment: SealedSegment, column: int, number: int, *, keep: bool = True) -> Decoded:
    """The decoded block, from the cache or from the file. `keep`: it will be asked for again soon."""
    key = (segment.number, column, number)
    found: Decoded | None = CACHE.get(key)
    if found is None:
        found = _decode(segment, column, number)
        CACHE.put(key, found, at_once=keep)
        ENGINE.count(found.size_bytes)
    return found


def picked_block(segment: SealedSegment, column: int, number: int) -> Decoded:
    """The decoded block, of which a few rows are wanted: kept at once as long as no other has to go for it."""
    return block(segment, column, number, keep=CACHE.room_bytes() > ROOMY_BYTES)


def _decode(segment: SealedSegment, column: int, number: int) -> Decoded:
    entry, data = segment.block_bytes(column, number, checksum_of(ENGINE.kernels))
    layout = segment.layout.columns[column] if column < len(segment.layout.columns) else None
    try:
        return decode_block(data, segment.block_rows_of(number), layout, entry.nulls > 0, ENGINE.kernels)
    except DamagedNode as error:
        raise segment.damaged(column, number, str(error)) from error


def decode_block(
    data: memoryview, rows: int, layout: ColumnLayout | None, has_nulls: bool, kernels: Kernels | None
) -> Decoded:  # fmt: skip
    """What `seal.encode_block` made of `rows` (at least 1) values of a column; without a layout, of append times.
    DamagedNode."""
    validity = None
    if has_nulls:
        size = length_of(data)
        validity = decode(data[:size], rows, 1, kernels) != 0
        data = data[size:]
        validity.flags.writeable = False
    if layout is not None and layout.plain:
        return _decode_strings(data, rows, validity, layout.text, kernels)
    values = decode(data, rows, 8 if layout is None else layout.width, kernels)
    if layout is not None and layout.coded:
        values = values.view(np.int32)
    values.flags.writeable = False
    return Decoded(values, validity, None, values.nbytes + (0 if validity is None else rows))


def _decode_strings(
    data: memoryview, rows: int, validity: Array | None, text: bool, kernels: Kernels | None
) -> Decoded:
    """codes, lengths of the distinct values, their bytes."""
    codes = decode(data, rows, 4, kernels).view(np.int32)
    data = data[length_of(data) :]
    if len(data) < NODE.size:
        raise DamagedNode("the lengths of the values are missing")
    distinct = int(NODE.unpack_from(data)[4])
    if not 0 < distinct <= max(rows, 1) or int(codes.min()) < 0 or int(codes.max()) >= distinct:
        raise DamagedNode(f"codes of {distinct} values among {rows} rows")
    lengths = decode(data, distinct, 4, kernels).astype(np.int64)
    data = data[length_of(data) :]
    total = int(lengths.sum())
    heap = decode(data, total, 1, kernels)
    bounds = np.zeros(distinct + 1, np.int64)
    np.cumsum(lengths, out=bounds[1:])
    codes.flags.writeable = False
    size_bytes = codes.nbytes + rows + 2 * total + 60 * distinct
    return Decoded(codes, validity, _dictionary(heap, bounds, text), size_bytes)


def _dictionary(heap: Array, bounds: Array, text: bool) -> Dictionary:
    """The values between the bounds, as Python objects only if Arrow could not take them: lone surrogates, 2 GiB and
    more."""
    if len(heap) < 1 << 31 and (not text or _is_text(heap, bounds)):
        starts = bounds.astype(np.int32)
        starts.flags.writeable = heap.flags.writeable = False
        return SpelledDictionary(starts, heap, text=text, distinct=True)
    try:
        return Dictionary(SpelledDictionary(bounds, heap, text=text).values)
    except UnicodeDecodeError as error:
        raise DamagedNode(str(error)) from error


def plain_values(segment: SealedSegment, column: int, number: int, rows: list[int]) -> list[Any]:
    """str or bytes, None where NULL, of some rows of a block of a plain column, counted from its first. The others do
    not become objects."""
    decoded = picked_block(segment, column, number)
    dictionary = decoded.dictionary
    assert dictionary is not None
    value = dictionary.value if isinstance(dictionary, SpelledDictionary) else dictionary.values.__getitem__
    present = [True] * len(rows) if decoded.validity is None else decoded.validity[rows].tolist()
    codes = decoded.values[rows].tolist()
    return [value(code) if there else None for code, there in zip(codes, present, strict=True)]


def points(
    segment: SealedSegment, index: int, number: int, rows: list[int], item: int
) -> tuple[list[int], list[bool]] | None:
    """Values (bit patterns) and validity of a few rows of a block that is not stored plainly; None if it is better
    decoded."""
    if len(rows) > FEW_ROWS:
        return None
    place = index * segment.block_count + number
    kept = segment.readers.get(place, _UNKNOWN)
    if kept is _UNKNOWN:
        kept = _readers(segment, index, number, item)
        if len(segment.readers) < READERS:
            segment.readers[place] = kept
    if kept is None:
        return None
    read, is_valid = kept
    try:
        return [read(row) for row in rows], [is_valid is None or is_valid(row) != 0 for row in rows]
    except DamagedNode as error:
        raise segment.damaged(index, number, str(error)) from error


def _readers(segment: SealedSegment, index: int, number: int, item: int) -> tuple[Reader, Reader | None] | None:
    """What reads a value of a block, and its validity if there are NULLs; None if it is better decoded."""
    entry, data = segment.block_bytes(index, number, checksum_of(ENGINE.kernels))
    count = segment.block_rows_of(number)
    try:
        is_valid = reader_of(data, count, 1) if entry.nulls else None
        return reader_of(data[length_of(data) :] if entry.nulls else data, count, item), is_valid
    except NoPoint:
        return None
    except (ValueError, IndexError, OverflowError, DamagedNode) as error:
        raise segment.damaged(index, number, str(error)) from error


def _is_text(heap: Array, bounds: Array) -> bool:
    """Whether every value is UTF-8: the heap is, and each value begins with a whole character."""
    data = heap.tobytes()
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    firsts = np.frombuffer(data + b"\0", np.uint8)[bounds[:-1]]
    return bool(((firsts & 0xC0) != 0x80).all())


def string_prefix(value: str | bytes) -> int:
    """The first 8 bytes as a signed number that sorts like them."""
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else bytes(value)
    return int.from_bytes(data[:8].ljust(8, b"\0"), "big") - _BIAS


class SealedSlice:
    """Rows of one block of a sealed segment, in offset order; what SegmentSlice is for raw ones.

    `time_range` is (min, max) event time of the block; None if not known.
    """

    __slots__ = ("_end", "_log", "_number", "_row", "_segment", "first_offset", "row_count", "time_range")

    def __init__(
        self, log: PartitionLog, segment: SealedSegment, number: int, row: int, end: int,
        times: tuple[int, int] | None,
    ) -> None:  # fmt: skip
        first = number * segment.layout.block_rows
        self._log = log
        self._segment = segment
        self._number = number
        self._row = row - first
        self._end = end - first
        self.first_offset = segment.base + row
        self.row_count = end - row
        self.time_range = times
        if log.event_time is not None:
            entry = segment.entry(log.event_time, number)
            if entry.flags & BLOCK_RANGED:
                self.time_range = entry.least, entry.greatest

    def between(self, low: int, high: int) -> SealedSlice | None:
        """The rows from the first to the last with an event time in [low, high]; None if there is none."""
        index = self._log.event_time
        if index is None or self.time_range is None or low <= self.time_range[0] <= self.time_range[1] <= high:
            return self
        found = block(self._segment, index, self._number)
        times = found.values[self._row : self._end].view(np.int64)
        within = (times >= low) & (times <= high)
        if found.validity is not None:
            within &= found.validity[self._row : self._end]
        rows = np.flatnonzero(within)
        if not len(rows):
            return None
        first = self._number * self._segment.layout.block_rows + self._row
        row, end = first + int(rows[0]), first + int(rows[-1]) + 1
        return SealedSlice(self._log, self._segment, self._number, row, end, self.time_range)

    def column(self, index: int) -> Column:
        """One column, decoded when first asked for."""
        log = self._log
        type = log.schema.fields[index].type
        whole = self._row == 0 and self._end == self._segment.block_rows_of(self._number)
        found = block(self._segment, index, self._number, keep=not whole)
        values = found.values if whole else found.values[self._row : self._end]
        validity = found.validity
        if validity is not None and not whole:
            validity = validity[self._row : self._end]
            validity = None if validity.all() else validity
        if self._segment.layout.columns[index].plain:
            return Column(type, values, validity, found.dictionary)
        if not type.is_coded:
            return Column(type, values.view(type.physical), validity)
        dictionary = log.dictionaries[index]
        assert dictionary is not None
        shared = dictionary.shared()
        entry = self._segment.entry(index, self._number)
        if entry.flags & BLOCK_RANGED and not 0 <= entry.least <= entry.greatest < len(shared):
            raise self._segment.damaged(index, self._number, f"code {entry.greatest} is not in the dictionary")
        return Column(type, values, validity, shared)

    def is_kept(self, index: int) -> bool:
        """Whether the column's block is decoded already."""
        return CACHE.get((self._segment.number, index, self._number)) is not None

    def packed(self, index: int, start: int) -> tuple[Array, Array] | None:
        """(words, shape) of the column from the slice's row `start` on, as kernels/tiles.py reads them; None if it is
        stored in another way, has NULLs, is decoded already or should be: then `column` gives it."""
        segment, number = self._segment, self._number
        layout = segment.layout.columns[index]
        key = (segment.number, index, number)
        rows = segment.block_rows_of(number)
        if layout.plain or segment.entry(index, number).nulls or CACHE.get(key) is not None:
            return None
        if CACHE.is_worth_keeping(key, rows * layout.width):
            return None
        _, data = segment.block_bytes(index, number, checksum_of(ENGINE.kernels))
        try:
            return packed_parts(data, rows, layout.width, self._row + start)
        except DamagedNode as error:
            raise segment.damaged(index, number, str(error)) from error

    def append_times(self) -> Array:
        """int64 microseconds, read-only."""
        whole = self._row == 0 and self._end == self._segment.block_rows_of(self._number)
        found = block(self._segment, len(self._segment.layout.columns), self._number, keep=not whole)
        return found.values[self._row : self._end].view(np.int64)

    def is_plain(self, index: int) -> bool:
        """Whether a VARCHAR or BLOB column is stored without codes of the topic's dictionary."""
        return bool(self._segment.layout.columns[index].plain)

    # -- statistics ----------------------------------------------------------------------------

    def has_nulls(self, index: int) -> bool:
        """Whether the block has NULLs in the column, perhaps in other rows. Decodes nothing."""
        return bool(self._segment.entry(index, self._number).nulls)

    def shared_dictionary(self, index: int) -> Any:
        """The topic's dictionary of a coded column, without decoding anything."""
        dictionary = self._log.dictionaries[index]
        assert dictionary is not None
        return dictionary.shared()

    def value_range(self, index: int) -> tuple[int, int] | None:
        """Least and greatest stored integer of the block (coded columns: code); None without one, or for others."""
        type = self._log.schema.fields[index].type
        entry = self._segment.entry(index, self._number)
        if type.is_float or self.is_plain(index) or not entry.flags & BLOCK_RANGED:
            return None
        return entry.least, entry.greatest

    def exact_statistics(self, index: int) -> tuple[int, tuple[Any, Any] | None] | None:
        """(NULLs, least and greatest physical value) of the slice's rows in a column. None if the slice is not the
        whole block; no range for strings, for NaN or zeros among doubles, and if all is NULL. Decodes nothing."""
        if self.row_count != self._segment.block_rows_of(self._number):
            return None
        type = self._log.schema.fields[index].type
        entry = self._segment.entry(index, self._number)
        if type.is_coded or not entry.flags & BLOCK_RANGED or entry.flags & BLOCK_NAN:
            return entry.nulls, None
        held: tuple[Any, Any] = entry.least, entry.greatest
        if type.is_float:
            held = tuple(np.array(held, np.int64).view(np.float64).tolist())
            if held[0] <= 0.0 <= held[1]:
                return entry.nulls, None
        return entry.nulls, held

    def may_match(self, index: int, op: str, constant: Any) -> bool:
        """Whether some row of the block may satisfy `column op constant`; op is eq, lt, le, gt or ge, the constant a
        physical value of the column's type. NULLs satisfy nothing."""
        entry = self._segment.entry(index, self._number)
        if entry.nulls == self._segment.block_rows_of(self._number):
            return False
        if not entry.flags & BLOCK_RANGED or entry.flags & BLOCK_NAN or constant is None or constant != constant:
            return True
        type = self._log.schema.fields[index].type
        least: Any = entry.least
        greatest: Any = entry.greatest
        if type.is_coded and not self.is_plain(index):
            if op != "eq":
                return True
            code = self.shared_dictionary(index).code_of(constant)
            return bool(code >= 0 and least <= code <= greatest)
        if type.is_coded:
            # Prefixes say which values are certainly outside, not which are equal.
            prefix = string_prefix(constant)
            return bool(_within({"lt": "le", "gt": "ge"}.get(op, op), least, greatest, prefix))
        if type.is_float:
            least, greatest = np.array([least, greatest], np.int64).view(np.float64).tolist()
        return bool(_within(op, least, greatest, constant))


def _within(op: str, least: Any, greatest: Any, constant: Any) -> bool:
    if op == "eq":
        return bool(least <= constant <= greatest)
    if op in ("lt", "le"):
        return bool(least < constant if op == "lt" else least <= constant)
    if op in ("gt", "ge"):
        return bool(greatest > constant if op == "gt" else greatest >= constant)
    return True


def slices(
    log: PartitionLog, segment: SealedSegment, row: int, end: int, times: tuple[int, int] | None
) -> list[SealedSlice]:
    """Rows [row, end) of the segment, one slice a block."""
    size = segment.layout.block_rows
    return [
        SealedSlice(log, segment, number, max(row, number * size), min(end, (number + 1) * size), times)
        for number in range(row // size, -(-end // size))
    ]


def read_lists(segment: SealedSegment, row: int, stop: int, dictionaries: Any) -> Lists:
    """See Segment.read_lists; rows [row, stop) may lie in several blocks."""
    size = segment.layout.block_rows
    width = len(segment.layout.columns)
    lists: list[list[Any]] = [[] for _ in range(width)]
    times: list[int] = []
    for number in range(row // size, -(-stop // size)):
        first = number * size
        low, high = max(row - first, 0), min(stop - first, size)
        for i, values in enumerate(lists):
            values += _python_values(segment, i, number, low, high, dictionaries)
        times += _some_values(segment, width, number, low, high)[0].view(np.int64).tolist()
    return range(segment.base + row, segment.base + stop), times, lists


def first_since(segment: SealedSegment, column: int, time_us: int, row: int, stop: int) -> int | None:
    """The offset of the first of rows [row, stop) whose value in the int64 column is `time_us` or more; None if there
    is none. Decodes only blocks that may hold one."""
    size = segment.layout.block_rows
    while row < stop:
        number = row // size
        first = number * size
        end = min(stop, first + size)
        entry = segment.entry(column, number)
        if not entry.flags & BLOCK_RANGED or entry.greatest >= time_us:
            found = block(segment, column, number)
            late = found.values[row - first : end - first].view(np.int64) >= time_us
            if found.validity is not None:
                late &= found.validity[row - first : end - first]
            at = int(late.argmax())
            if late[at]:
                return segment.base + row + at
        row = end
    return None


_DTYPES = {"?": "|b1", "b": "<i1", "h": "<i2", "i": "<i4", "q": "<i8", "f": "<f4", "d": "<f8"}


def _python_values(
    segment: SealedSegment, column: int, number: int, start: int, stop: int, dictionaries: Any
) -> list[Any]:
    layout = segment.layout.columns[column]
    stored, valid = _some_values(segment, column, number, start, stop)
    if layout.plain or layout.coded:
        found = block(segment, column, number).dictionary if layout.plain else None
        texts = dictionaries[column].values if found is None else found.values
        codes = stored.view(np.int32).tolist()
        try:
            if valid is None:
                return [texts[code] for code in codes]
            return [texts[code] if ok else None for code, ok in zip(codes, valid, strict=True)]
        except IndexError:
            raise segment.damaged(column, number, "a code is not in the dictionary") from None
    values: list[Any] = stored.view(_DTYPES[layout.struct_code]).tolist()
    if valid is None:
        return values
    return [value if ok else None for value, ok in zip(values, valid, strict=True)]


def _some_values(
    segment: SealedSegment, column: int, number: int, start: int, stop: int
) -> tuple[Array, list[bool] | None]:
    """(stored values, validity) of rows [start, stop) of a block."""
    columns = segment.layout.columns
    if stop - start <= FEW_ROWS and not (column < len(columns) and columns[column].plain):
        key = (segment.number, column, number)
        item = 8 if column == len(columns) else columns[column].width
        found = points(segment, column, number, list(range(start, stop)), item) if CACHE.get(key) is None else None
        if found is not None:
            return np.array(found[0], UNSIGNED[item]), found[1]
    decoded = block(segment, column, number)
    valid = None if decoded.validity is None else decoded.validity[start:stop].tolist()
    return decoded.values[start:stop], valid
