"""Segment files: a fixed number of rows, each column one contiguous region of a mapped, fully allocated file.

A row exists once the index says so (its offset is below the partition's end); bytes past that end are scrap that the
next writer overwrites. Rows are therefore stored in place before the commit, and an aborted one needs no undoing. The
only rule: stores happen with the writer lock held and past the committed end.
"""

from __future__ import annotations

import sys
from bisect import bisect_left
from zlib import crc32

from eventdb.errors import CorruptionError, UnsupportedError
from eventdb.storage.device.files import storage_error
from eventdb.storage.device.readable import Readable
from eventdb.storage.format import (
    TIME_STRIDE_ROWS,
    segment_name,
    topic_directory,
)
from eventdb.storage.segment.layout import SegmentLayout

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Sequence
    from typing import Any

    from eventdb.storage.device.files import Files
    from eventdb.storage.segment.layout import ColumnLayout

    Lists = tuple[Sequence[int], list[int], list[list[Any]]]

if sys.byteorder != "little":
    raise UnsupportedError("EventDB stores little-endian columns and runs on little-endian machines only")

STRIDE_ROWS = 1_024  # whose least and greatest event time are known together
_STEP_ROWS = 64  # of a stride, in search of a time


class MissingFile(CorruptionError):
    """A segment's file is not there. A reader of an old snapshot finds the rows in the segment that replaced it."""


def as_rows(lists: Lists) -> list[tuple[Any, ...]]:
    """(offset, append_time_us, values) of each row."""
    offsets, times, columns = lists
    return list(zip(offsets, times, zip(*columns, strict=True), strict=True))


class Segment:
    """A mapped segment. `memory` stays valid as long as any slice of it lives, also after the file is unlinked."""

    __slots__ = (
        "arrays", "base", "checked_rows", "layout", "mapping", "memory", "null_views", "path", "ranges", "readable",
        "value_views", "writable",
    )  # fmt: skip

    def __init__(self, path: str, base: int, layout: SegmentLayout, mapping: mmap.mmap, *, writable: bool) -> None:
        self.path = path
        self.base = base
        self.layout = layout
        self.mapping = mapping
        self.memory = memoryview(mapping)
        self.readable = Readable(mapping, path)
        self.checked_rows: dict[int, int] = {}  # coded column -> rows whose codes columns.py has looked at
        self.arrays: dict[
            int, Any
        ] = {}  # position_bytes -> NumPy array of the whole region, for columns.py; ~column -> `ranges`, for lookup.py
        self.ranges: dict[int, list[tuple[int, int]]] = {}  # column -> what stride_ranges knows so far
        self.writable = writable
        capacity = layout.capacity
        self.value_views: list[Any] = [
            self.memory[c.value_position : c.value_position + capacity * c.width].cast(c.struct_code)  # type: ignore[call-overload]
            for c in layout.columns
        ]
        self.value_views.append(self.memory[layout.append_position : layout.append_position + capacity * 8].cast("q"))
        self.null_views = [
            self.memory[c.null_position : c.null_position + capacity] if c.nullable else None for c in layout.columns
        ]

    def row_at(self, offset: int) -> int:
        """The first row whose offset is `offset` or more."""
        if self.layout.offsets < 0:
            return offset - self.base
        return bisect_left(self.value_views[self.layout.offsets], offset)

    def require(self, column: int, row: int, stop: int) -> None:
        """Rows [row, stop) of a column can be read: an error of the device is a CorruptionError, not a dead process."""
        layout, require = self.layout.columns[column], self.readable.require
        if layout.nullable:
            require(layout.null_position + row, stop - row)
        first = max(row - 1, 0) if layout.plain else row  # where the heap of `row` begins is in the row before
        require(layout.value_position + first * layout.width, (stop - first) * layout.width)
        if layout.plain:
            start = self.heap_end(column, row)
            require(layout.heap_position + start, self.heap_end(column, stop) - start)

    def require_rows(self, row: int, stop: int) -> None:
        """Everything that rows [row, stop) hold can be read."""
        for i in range(len(self.layout.columns)):
            self.require(i, row, stop)
        first = row - row % TIME_STRIDE_ROWS
        self.readable.require(self.layout.append_position + first * 8, (stop - first) * 8)

    def offset_at(self, row: int) -> int:
        """The offset of a row."""
        return self.base + row if self.layout.offsets < 0 else int(self.value_views[self.layout.offsets][row])

    def row_of(self, offset: int) -> int:
        """The row that has the offset. CorruptionError if none has."""
        row = self.row_at(offset)
        if not 0 <= row < self.layout.capacity or self.offset_at(row) != offset:
            raise CorruptionError(f"{self.path}: offset {offset} is not there; run check(deep=True)", path=self.path)
        return row

    def mark_of(self, row: int) -> int:
        """What the marks of a table's segment say of a row. CorruptionError if the device cannot give it."""
        marks = self.layout.marks
        self.require(marks, row, row + 1)
        mark: int = self.value_views[marks][row]
        return mark

    def heap_end(self, column: int, row: int) -> int:
        """Heap bytes used by the rows before `row` of a plain column."""
        return self.value_views[column][row - 1] if row else 0

    def heap_range(self, column: int, row: int, count: int) -> tuple[int, int]:
        """Where in the heap of a plain column rows [row, row + count) lie. CorruptionError if it cannot be there."""
        start, stop = self.heap_end(column, row), self.heap_end(column, row + count)
        if not 0 <= start <= stop <= self.layout.columns[column].heap_bytes:
            raise CorruptionError(
                f"{self.path}: heap positions {start}..{stop} of column {column} are impossible", path=self.path
            )
        return start, stop

    def regions(self, row: int, count: int) -> list[tuple[int, int]]:
        """(position_bytes, length_bytes) of everything rows [row, row + count) hold, in record order. CorruptionError
        if a heap cannot lie where the rows say.

        Marks are not part of it: they change after the rows were written, and have records of their own.
        """
        found = []
        for i, column in enumerate(self.layout.columns):
            if column.marks:
                continue
            if column.nullable:
                found.append((column.null_position + row, count))
            found.append((column.value_position + row * column.width, count * column.width))
            if column.plain:
                start, stop = self.heap_range(i, row, count)
                found.append((column.heap_position + start, stop - start))
        found.append((self.layout.append_position + row * 8, count * 8))
        return found

    def region_names(self) -> list[str]:
        """What each of `regions` holds."""
        found = []
        for i, column in enumerate(self.layout.columns):
            if column.marks:
                continue
            found += [f"the validity of column {i}"] * column.nullable + [f"column {i}"]
            found += [f"the heap of column {i}"] * column.plain
        return [*found, "the append times"]

    def rows_bytes(self, row: int, count: int) -> list[memoryview]:
        return [self.memory[position : position + length] for position, length in self.regions(row, count)]

    def rows_crc(self, row: int, count: int) -> int:
        crc = 0
        self.require_rows(row, row + count)
        for part in self.rows_bytes(row, count):
            crc = crc32(part, crc)
        return crc

    def restore_rows(self, row: int, count: int, data: memoryview) -> int:
        """Rows [row, row + count) hold the bytes `rows_bytes` gave; returns how many were used. CorruptionError if they
        do not fit."""
        if row + count > self.layout.capacity:
            raise CorruptionError(
                f"{self.path}: rows {row}..{row + count} exceed its capacity {self.layout.capacity}", path=self.path
            )
        used = 0

        def take(position: int, length: int) -> None:
            nonlocal used
            if used + length > len(data):
                raise CorruptionError(
                    f"{self.path}: a journal record is shorter than the rows it holds", path=self.path
                )
            self.memory[position : position + length] = data[used : used + length]
            used += length

        for i, column in enumerate(self.layout.columns):
            if column.marks:
                continue
            if column.nullable:
                take(column.null_position + row, count)
            take(column.value_position + row * column.width, count * column.width)
            if column.plain:
                start, stop = self.heap_range(i, row, count)
                take(column.heap_position + start, stop - start)
        take(self.layout.append_position + row * 8, count * 8)
        return used

    def clear_marks(self, row: int, count: int) -> None:
        """Rows [row, row + count) are current, if they have marks at all."""
        if self.layout.marks >= 0:
            position = self.layout.columns[self.layout.marks].value_position + row * 8
            self.memory[position : position + count * 8] = bytes(count * 8)

    def read_rows(self, row: int, stop: int, dictionaries: Sequence[Any]) -> list[tuple[Any, ...]]:
        """(offset, append_time_us, values) of rows [row, stop). CorruptionError if they hold what cannot be a value."""
        return as_rows(self.read_lists(row, stop, dictionaries))

    def read_lists(self, row: int, stop: int, dictionaries: Sequence[Any]) -> Lists:
        """Offsets, append times in us and a list of physical values for each column, of rows [row, stop).
        CorruptionError if they hold what cannot be a value."""
        try:
            return self._read_lists(row, stop, dictionaries)
        except (IndexError, ValueError) as error:
            raise CorruptionError(
                f"{self.path}: rows {row}..{stop} are damaged ({error}); run check(deep=True)", path=self.path
            ) from error

    def _read_lists(self, row: int, stop: int, dictionaries: Sequence[Any]) -> Lists:
        lists: list[list[Any]] = []
        offsets: Sequence[int] = range(self.base + row, self.base + stop)
        for i, column in enumerate(self.layout.columns):
            if column.offsets:
                offsets = self.value_views[i][row:stop].tolist()
                continue
            stored = self.value_views[i][row:stop].tolist()
            view = self.null_views[i]
            nulls = None if view is None else bytes(view[row:stop])
            if nulls is not None and 1 not in nulls:
                nulls = None
            if column.plain:
                stored = self._read_plain(column, stored, self.heap_end(i, row))
            elif column.coded:
                values = dictionaries[i].values
                stored = (
                    [values[c] for c in stored]
                    if nulls is None
                    else [None if null else values[c] for c, null in zip(stored, nulls, strict=True)]
                )
                nulls = None
            lists.append(
                stored if nulls is None else [None if null else v for v, null in zip(stored, nulls, strict=True)]
            )
        return offsets, self.append_times(row, stop), lists

    def read_row(self, row: int, dictionaries: Sequence[Any]) -> tuple[Any, ...]:
        """The values of one row of a table, without its mark. CorruptionError as read_rows."""
        values: list[Any] = []
        try:
            for i, column in enumerate(self.layout.columns):
                if column.marks or column.offsets:
                    continue
                self.require(i, row, row + 1)
                nulls = self.null_views[i]
                if nulls is not None and nulls[row]:
                    values.append(None)
                    continue
                value = self.value_views[i][row]
                if column.coded:
                    value = dictionaries[i].values[value]
                elif column.plain:
                    value = self._read_plain(column, [value], self.heap_end(i, row))[0]
                values.append(value)
        except (IndexError, ValueError) as error:
            raise CorruptionError(
                f"{self.path}: row {row} is damaged ({error}); run check(deep=True)", path=self.path
            ) from error
        return tuple(values)

    def first_since(self, column: int | None, time_us: int, row: int, stop: int) -> int | None:
        """The offset of the first of rows [row, stop) whose value in the column (None: whose append time) is `time_us`
        or more; None if there is none. Looks at the column once, then only at strides that may hold one."""
        if column is None:
            found = bisect_left(range(stop), time_us, row, stop, key=lambda at: self.append_times(at, at + 1)[0])
            return self._offset_of(found) if found < stop else None
        while row < stop:
            number = row // STRIDE_ROWS
            end = min(stop, (number + 1) * STRIDE_ROWS)
            ranges = self.stride_ranges(column, end)
            if number >= len(ranges) or ranges[number][1] >= time_us:
                self.require(column, row, end)
                view = self.null_views[column]
                values = self.value_views[column][row:end].tolist()
                for first in range(0, end - row, _STEP_ROWS):
                    if max(values[first : first + _STEP_ROWS]) < time_us:
                        continue
                    for at in range(first, min(end - row, first + _STEP_ROWS)):
                        if values[at] >= time_us and (view is None or not view[row + at]):
                            return self._offset_of(row + at)
            row = end
        return None

    def _offset_of(self, row: int) -> int:
        return self.base + row if self.layout.offsets < 0 else int(self.value_views[self.layout.offsets][row])

    def stride_ranges(
        self, column: int, stop: int, extremes: Callable[[Sequence[int]], tuple[int, int]] | None = None
    ) -> list[tuple[int, int]]:
        """(least, greatest) value of an integer column in each STRIDE_ROWS rows that end before `stop`, which are
        committed; (1, 0) of NULLs alone. Kept, so that each row is looked at once: 15 ms for a million rows, 0.5 ms if
        `extremes` gives least and greatest of a memoryview by means of NumPy."""
        ranges = self.ranges.setdefault(column, [])
        if len(ranges) < stop // STRIDE_ROWS:
            ranges = list(ranges)
            view = self.null_views[column]
            for at in range(len(ranges) * STRIDE_ROWS, stop // STRIDE_ROWS * STRIDE_ROWS, STRIDE_ROWS):
                self.require(column, at, at + STRIDE_ROWS)
                values: Any = self.value_views[column][at : at + STRIDE_ROWS]
                values = values.tolist() if extremes is None else values
                nulls = b"" if view is None else bytes(view[at : at + STRIDE_ROWS])
                if 1 in nulls:
                    values = [v for v, null in zip(values, nulls, strict=True) if not null]
                    ranges.append((min(values), max(values)) if values else (1, 0))
                else:
                    ranges.append((min(values), max(values)) if extremes is None else extremes(values))
            self.ranges[column] = ranges
        return ranges

    def plain_value(self, index: int, row: int) -> Any:
        """The str, bytes or None of a row of a column that is stored plainly."""
        self.require(index, row, row + 1)
        view = self.null_views[index]
        if view is not None and view[row]:
            return None
        try:
            return self._read_plain(
                self.layout.columns[index], [self.value_views[index][row]], self.heap_end(index, row)
            )[0]
        except ValueError as error:
            raise CorruptionError(
                f"{self.path}: row {row} is damaged ({error}); run check(deep=True)", path=self.path
            ) from error

    def append_times(self, row: int, stop: int) -> list[int]:
        """Append times of rows [row, stop), in us."""
        times: list[int] = self.value_views[-1][row:stop].tolist()
        zeros = times.count(0)
        if zeros:
            time = times[0] or self._time_before(row)
            if zeros >= len(times) - (times[0] != 0):  # of one commit, like most rows of a bulk
                return [time] * len(times)
            for i, stored in enumerate(times):
                time = times[i] = stored or time
        return times

    def _time_before(self, row: int) -> int:
        """The append time of a row that holds none itself: that of the last one before it that does."""
        first = row - row % TIME_STRIDE_ROWS
        start = self.layout.append_position + first * 8
        stored = self.memory[start : start + (row - first) * 8].tobytes().rstrip(b"\0")
        time: int = self.value_views[-1][first + max(0, len(stored) - 1) // 8]
        return time

    def _read_plain(self, column: ColumnLayout, ends: list[int], start: int) -> list[Any]:
        """ValueError for ends that cannot be ones."""
        if ends and not (0 <= start <= ends[0] and ends[-1] <= column.heap_bytes and ends == sorted(ends)):
            raise ValueError("impossible heap positions")
        heap = bytes(self.memory[column.heap_position + start : column.heap_position + (ends[-1] if ends else start)])
        out: list[Any] = []
        last = 0
        for end in ends:
            value = heap[last : end - start]
            last = end - start
            out.append(value.decode("utf-8", "surrogatepass") if column.text else value)
        return out


def segment_path(directory: str, topic_id: int, partition: int, base: int, generation: int = 0) -> str:
    return f"{directory}/{topic_directory(topic_id, partition)}/{segment_name(base, generation)}"


def make_directories(files: Files, directory: str, topic_id: int, partition: int) -> None:
    for path in (f"{directory}/topics/{topic_id}", f"{directory}/{topic_directory(topic_id, partition)}"):
        try:
            if not files.is_directory(path):
                files.mkdir(path)
        except FileExistsError:
            continue
        except OSError as error:
            raise storage_error(error, "creating", path) from error


def create_segment(
    files: Files, directory: str, uuid: bytes, topic_id: int, partition: int, base: int, layout: SegmentLayout
) -> Segment:
    """A new segment file, every byte allocated. A file left by an aborted commit is replaced. Nothing is left when it
    fails."""
    make_directories(files, directory, topic_id, partition)
    path = segment_path(directory, topic_id, partition, base, layout.generation)
    try:
        try:
            fd = files.create(path)
        except FileExistsError:
            files.unlink(path)
            fd = files.create(path)
        try:
            files.allocate(fd, layout.size_bytes)
            files.write_fully(fd, layout.header(uuid, topic_id, partition, base), 0)
            mapping = files.mmap(fd, layout.size_bytes, write=True)
        except BaseException:
            files.unlink(path)
            raise
        finally:
            files.close(fd)
    except OSError as error:
        raise storage_error(error, "creating", path) from error
    return Segment(path, base, layout, mapping, writable=True)


def open_segment(
    files: Files,
    directory: str,
    uuid: bytes,
    topic_id: int,
    partition: int,
    base: int,
    layout: SegmentLayout,
    *,
    write: bool,
) -> Segment:
    """The mapped segment; CorruptionError if the file is missing, short or not the one the index describes."""
    path = segment_path(directory, topic_id, partition, base, layout.generation)
    try:
        fd = files.open(path, write=write)
    except FileNotFoundError:
        raise MissingFile(f"{path} is missing: the topic was dropped or the file was removed", path=path) from None
    except OSError as error:
        raise storage_error(error, "opening", path) from error
    try:
        size = files.size(fd)
        if size < layout.size_bytes:
            raise CorruptionError(f"{path} has {size} bytes, expected {layout.size_bytes}", path=path)
        expected = layout.header(uuid, topic_id, partition, base)
        if files.pread(fd, len(expected), 0) != expected:
            raise CorruptionError(
                f"{path}: the header does not match the index (topic {topic_id}, base {base})", path=path
            )
        mapping = files.mmap(fd, layout.size_bytes, write=write)
    except OSError as error:
        raise storage_error(error, "mapping", path) from error
    finally:
        files.close(fd)
    return Segment(path, base, layout, mapping, writable=write)
