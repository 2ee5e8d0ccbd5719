"""The layout of a segment file: where each column lies, and what the index and the file's header say about it.

Every position follows from the capacity and the columns, in this order: a page for the header; for each column its
validity (a byte a row, if it is nullable), its values, its heap (if it is plain); the append times.
"""

from __future__ import annotations

from zlib import crc32

from eventdb.config import FIRST_SEGMENT_ROWS, MAX_SEGMENT_ROWS, SEGMENT_GROWTH, SEGMENT_HEAP_BYTES
from eventdb.errors import CorruptionError
from eventdb.schema import DataType
from eventdb.storage.format import (
    COLUMN,
    COLUMN_CODED,
    COLUMN_MARKS,
    COLUMN_NULLABLE,
    COLUMN_OFFSETS,
    COLUMN_PLAIN,
    CRC,
    NO_MAX_TIME,
    NO_MIN_TIME,
    PAGE_BYTES,
    SEGMENT,
    SEGMENT_HEAD,
    SEGMENT_MAGIC,
    SUPERSEDED_BY,
    TYPE_CODES,
    TYPE_NAMES,
    align,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from eventdb.schema import Schema

_HEAP_GROWTH = 8  # a new heap holds up to so many times the rows that wait, or SEGMENT_GROWTH times the heap before
_STRUCT_CODES = {name: DataType(name).struct_code for name in TYPE_CODES}


class ColumnLayout:
    """Where one column lies in a segment. `struct_code` is that of a stored value: 'i' for codes, 'q' for end
    positions."""

    __slots__ = (
        "coded",
        "heap_bytes",
        "heap_position",
        "marks",
        "null_position",
        "nullable",
        "offsets",
        "plain",
        "struct_code",
        "text",
        "type_code",
        "value_position",
        "width",
    )

    def __init__(self, type_code: int, flags: int, width: int, heap_bytes: int) -> None:
        self.type_code = type_code
        self.nullable = bool(flags & COLUMN_NULLABLE)
        self.coded = bool(flags & COLUMN_CODED)
        self.plain = bool(flags & COLUMN_PLAIN)
        self.marks = bool(flags & COLUMN_MARKS)
        self.offsets = bool(flags & COLUMN_OFFSETS)
        self.width = width
        self.heap_bytes = heap_bytes
        self.text = TYPE_NAMES.get(type_code) == "VARCHAR"
        self.struct_code = "q" if self.plain else "i" if self.coded else _STRUCT_CODES[TYPE_NAMES[type_code]]
        self.null_position = self.value_position = self.heap_position = 0

    @property
    def flags(self) -> int:
        flags = self.nullable * COLUMN_NULLABLE | self.coded * COLUMN_CODED | self.plain * COLUMN_PLAIN
        return flags | self.marks * COLUMN_MARKS | self.offsets * COLUMN_OFFSETS

    def pack(self) -> bytes:
        return COLUMN.pack(self.type_code, self.flags, self.width, self.heap_bytes)


class SegmentLayout:
    """Capacity and columns of a segment; every position follows from them."""

    __slots__ = (
        "append_position", "capacity", "coded", "columns", "descriptor", "generation", "marks", "offsets", "plain",
        "size_bytes",
    )  # fmt: skip

    def __init__(self, capacity: int, columns: Sequence[ColumnLayout]) -> None:
        self.capacity = capacity
        self.columns = tuple(columns)
        self.descriptor = b"".join(column.pack() for column in columns)
        position = align(SEGMENT_HEAD.size + len(self.descriptor) + CRC.size, PAGE_BYTES)
        for column in self.columns:
            if column.nullable:
                column.null_position = position
                position = align(position + capacity)
            column.value_position = position
            position = align(position + capacity * column.width)
            if column.plain:
                column.heap_position = position
                position = align(position + column.heap_bytes)
        self.append_position = position
        self.size_bytes = align(position + capacity * 8, PAGE_BYTES)
        self.coded = tuple(i for i, column in enumerate(self.columns) if column.coded)
        self.plain = tuple(i for i, column in enumerate(self.columns) if column.plain)
        self.marks = next((i for i, column in enumerate(self.columns) if column.marks), -1)
        self.offsets = next((i for i, column in enumerate(self.columns) if column.offsets), -1)
        self.generation = self.columns[self.offsets].heap_bytes if self.offsets >= 0 else 0

    def pack(self, min_time: int = NO_MIN_TIME, max_time: int = NO_MAX_TIME) -> bytes:
        """The SEGMENT value of the index."""
        return SEGMENT.pack(self.capacity, min_time, max_time, len(self.columns)) + self.descriptor

    @staticmethod
    def unpack(value: bytes) -> SegmentLayout:
        capacity, _min_time, _max_time, count = SEGMENT.unpack_from(value)
        if len(value) != SEGMENT.size + count * COLUMN.size:
            raise CorruptionError(f"a segment record of {len(value)} bytes cannot describe {count} columns")
        return SegmentLayout(
            capacity, [ColumnLayout(*COLUMN.unpack_from(value, SEGMENT.size + i * COLUMN.size)) for i in range(count)]
        )

    def header(self, uuid: bytes, topic_id: int, partition: int, base: int) -> bytes:
        head = (
            SEGMENT_HEAD.pack(SEGMENT_MAGIC, uuid, topic_id, partition, 0, base, self.capacity, len(self.columns))
            + self.descriptor
        )
        return head + CRC.pack(crc32(head))

    @staticmethod
    def plan(
        schema: Schema,
        previous: SegmentLayout | None,
        want_rows: int,
        plain: Sequence[int],
        heap_bytes: dict[int, int],
        heap_per_row: int,
        most_rows: int = MAX_SEGMENT_ROWS,
        *,
        grows: bool = True,
    ) -> SegmentLayout:
        """The layout of the next segment: room for `want_rows` if the limits allow, `plain` columns without a
        dictionary, each plain column's heap at least `heap_bytes[column]`, what those rows need, and otherwise
        `heap_per_row` bytes for each row; never more than `most_rows`. With `grows`, heaps have room for more rows like
        those that wait, so that not every large batch begins a file, and no room for rows that no heap will hold."""
        capacity = FIRST_SEGMENT_ROWS if previous is None else previous.capacity * SEGMENT_GROWTH
        capacity = min(max(capacity, want_rows), MAX_SEGMENT_ROWS, most_rows)
        heaps = {i: max(capacity * heap_per_row, heap_bytes.get(i, 0)) for i in plain}
        if grows:
            waiting = max(1, min(want_rows, capacity))
            for i, needed in heap_bytes.items():
                before = previous.columns[i].heap_bytes if previous is not None and i < len(previous.columns) else 0
                most = min(max(_HEAP_GROWTH * needed, SEGMENT_GROWTH * before), SEGMENT_HEAP_BYTES)
                heaps[i] = max(heaps[i], min(capacity * needed // waiting, most))
                fitting = heaps[i] * waiting // needed if needed else capacity
                capacity = max(min(capacity, 2 * fitting), waiting, min(FIRST_SEGMENT_ROWS, most_rows))
        capacity = align(capacity, 8)
        columns = []
        for i, field in enumerate(schema.fields):
            flags = COLUMN_NULLABLE if field.nullable else 0
            flags |= COLUMN_MARKS if field.name == SUPERSEDED_BY else 0
            width, heap = field.type.width_bytes, 0
            if i in plain:
                flags |= COLUMN_PLAIN
                width, heap = 8, heaps[i]
            elif field.type.is_coded:
                flags |= COLUMN_CODED
            columns.append(ColumnLayout(TYPE_CODES[field.type.stored_name], flags, width, heap))
        return SegmentLayout(capacity, columns)
