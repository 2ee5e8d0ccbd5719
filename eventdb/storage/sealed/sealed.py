"""Sealed segments: a file of encoded blocks that never changes, and its directory of statistics.

Everything the file says is checked before it is used: the index names its size and its directory's CRC, the directory
names each block's CRC, which is verified when the block is first read. blocks.py decodes.
"""

from __future__ import annotations

import itertools
from zlib import crc32

from eventdb.errors import CorruptionError
from eventdb.storage.device.files import storage_error
from eventdb.storage.device.readable import Readable
from eventdb.storage.format import (
    COLUMN,
    CRC,
    NO_MAX_TIME,
    NO_MIN_TIME,
    SEALED_BLOCK,
    SEALED_FOOT,
    SEALED_HEAD,
    SEALED_MAGIC,
    SEALED_TAIL,
    SEGMENT,
    SEGMENT_SEALED,
    generation_of,
    sealed_name,
    segment_name,
    topic_directory,
)
from eventdb.storage.index.hash_index import HashIndex
from eventdb.storage.segment.layout import ColumnLayout
from eventdb.storage.segment.segment import MissingFile, as_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap
    from collections.abc import Callable, Sequence
    from typing import Any

    from eventdb.storage.device.files import Files
    from eventdb.storage.segment.segment import Lists

_numbers = itertools.count()


def is_sealed(value: bytes) -> bool:
    """Whether a SEGMENT value of the index describes a sealed segment."""
    return bool(SEGMENT.unpack_from(value)[3] & SEGMENT_SEALED)


class SealedLayout:
    """What the index says about a sealed segment."""

    __slots__ = ("block_rows", "columns", "directory_crc", "generation", "rows", "size_bytes")

    def __init__(
        self, columns: Sequence[ColumnLayout], rows: int, block_rows: int, generation: int, size_bytes: int = 0,
        directory_crc: int = 0,
    ) -> None:  # fmt: skip
        self.columns = tuple(columns)
        self.rows = rows
        self.block_rows = block_rows
        self.generation = generation
        self.size_bytes = size_bytes
        self.directory_crc = directory_crc

    def pack(self, min_time: int = NO_MIN_TIME, max_time: int = NO_MAX_TIME) -> bytes:
        """The SEGMENT value of the index."""
        head = SEGMENT.pack(self.rows, min_time, max_time, len(self.columns) | SEGMENT_SEALED)
        tail = SEALED_TAIL.pack(self.size_bytes, self.directory_crc, self.generation, self.block_rows)
        return head + b"".join(column.pack() for column in self.columns) + tail

    @staticmethod
    def unpack(value: bytes) -> SealedLayout:
        rows, _, _, count = SEGMENT.unpack_from(value)
        count &= ~SEGMENT_SEALED
        end = SEGMENT.size + count * COLUMN.size
        if len(value) != end + SEALED_TAIL.size:
            raise CorruptionError(f"a sealed segment's record of {len(value)} bytes cannot describe {count} columns")
        size, crc, generation, block_rows = SEALED_TAIL.unpack_from(value, end)
        if not block_rows or not rows:
            raise CorruptionError("a sealed segment's record says that it has no rows")
        columns = [ColumnLayout(*COLUMN.unpack_from(value, SEGMENT.size + i * COLUMN.size)) for i in range(count)]
        return SealedLayout(columns, rows, block_rows, generation, size, crc)

    @property
    def block_count(self) -> int:
        """Of each column."""
        return -(-self.rows // self.block_rows)

    def header(self, uuid: bytes, topic_id: int, partition: int, base: int) -> bytes:
        head = SEALED_HEAD.pack(
            SEALED_MAGIC, uuid, topic_id, partition, 0, base, self.rows, self.block_rows, len(self.columns),
            self.generation,
        ) + b"".join(column.pack() for column in self.columns)  # fmt: skip
        return head + CRC.pack(crc32(head))


class Block:
    """One directory entry."""

    __slots__ = ("crc", "distinct", "flags", "greatest", "kind", "least", "length", "nulls", "position")

    def __init__(self, fields: tuple[Any, ...]) -> None:
        self.position, self.length, self.crc, self.nulls, self.distinct, self.kind, self.flags, _, _, *rest = fields
        self.least, self.greatest = rest


class SealedSegment:
    """A mapped sealed segment. Slices and decoded blocks stay valid when the file is unlinked."""

    def __init__(
        self, path: str, base: int, layout: SealedLayout, mapping: mmap.mmap, directory: bytes,
        index: tuple[int, int, int],
    ) -> None:  # fmt: skip
        self.path = path
        self.base = base
        self.layout = layout
        self.memory = memoryview(mapping)
        self._readable = Readable(mapping, path)
        self.number = next(_numbers)  # names it in the cache of decoded blocks
        self.block_count = layout.block_count
        self._directory = directory
        self._index_place = index  # position, bytes, crc
        self._index: HashIndex | None = None
        self._blocks: list[Block | None] = [None] * (len(directory) // SEALED_BLOCK.size)
        self._verified = bytearray(len(self._blocks))
        self.readers: dict[int, Any] = {}  # of single values of blocks, by place in the directory, for blocks.py

    def block_rows_of(self, number: int) -> int:
        return min(self.layout.block_rows, self.layout.rows - number * self.layout.block_rows)

    def entry(self, column: int, number: int) -> Block:
        """The directory entry of a block; the column after the last one holds the append times."""
        place = column * self.block_count + number
        found = self._blocks[place]
        if found is None:
            found = self._blocks[place] = Block(
                SEALED_BLOCK.unpack_from(self._directory, place * SEALED_BLOCK.size)
            )  # fmt: skip
        return found

    def block_bytes(
        self, column: int, number: int, checksum: Callable[[memoryview], int] = crc32
    ) -> tuple[Block, memoryview]:  # fmt: skip
        """The entry and the bytes of a block, verified once by `checksum`, which is CRC-32. CorruptionError names file,
        column and block."""
        block = self.entry(column, number)
        end = block.position + block.length
        place = column * self.block_count + number
        data = self.memory[block.position : end]
        if not self._verified[place]:
            self._readable.require(block.position, len(data))
            if end > len(self.memory) or checksum(data) != block.crc:
                raise self.damaged(column, number, "its checksum does not verify")
            self._verified[place] = 1
        return block, data

    def hash_index(self) -> HashIndex | None:
        """The index of the column that rows are looked up by, verified when it is first asked for; None without one.
        CorruptionError."""
        position, length, crc = self._index_place
        if self._index is None and length:
            self._readable.require(position, length)
            data = self.memory[position : position + length]
            index = HashIndex.read(data) if len(data) == length and crc32(data) == crc else None
            if index is None:
                raise CorruptionError(
                    f"{self.path}: its key index does not verify; restore it from a backup", path=self.path
                )
            self._index = index
        return self._index

    def damaged(self, column: int, number: int, reason: str) -> CorruptionError:
        what = "the append times" if column == len(self.layout.columns) else f"column {column}"
        first = self.base + number * self.layout.block_rows
        return CorruptionError(
            f"{self.path}: block {number} of {what} (offsets {first} to "
            f"{first + self.block_rows_of(number) - 1}) is damaged: {reason}; restore it from a backup",
            path=self.path,
        )

    def require_rows(self, row: int, stop: int) -> None:
        """See Segment.require_rows. Here each block is looked at when it is read."""

    def read_rows(self, row: int, stop: int, dictionaries: Sequence[Any]) -> list[tuple[Any, ...]]:
        """(offset, append_time_us, values) of rows [row, stop)."""
        return as_rows(self.read_lists(row, stop, dictionaries))

    def read_lists(self, row: int, stop: int, dictionaries: Sequence[Any]) -> Lists:
        """See Segment.read_lists."""
        from eventdb.storage.sealed.blocks import read_lists

        return read_lists(self, row, stop, dictionaries)

    def first_since(self, column: int | None, time_us: int, row: int, stop: int) -> int | None:
        """See Segment.first_since. Blocks whose statistics say that they lie before are not decoded."""
        from eventdb.storage.sealed.blocks import first_since

        return first_since(self, len(self.layout.columns) if column is None else column, time_us, row, stop)


def file_name(base: int, value: bytes) -> str:
    """The name of the file that a SEGMENT value describes."""
    if is_sealed(value):
        return sealed_name(base, SealedLayout.unpack(value).generation)
    return segment_name(base, generation_of(value))


def sealed_path(directory: str, topic_id: int, partition: int, base: int, generation: int) -> str:
    return f"{directory}/{topic_directory(topic_id, partition)}/{sealed_name(base, generation)}"


def open_sealed(
    files: Files, directory: str, uuid: bytes, topic_id: int, partition: int, base: int, layout: SealedLayout, *,
    check_header: bool = True,
) -> SealedSegment:  # fmt: skip
    """The mapped segment. MissingFile; CorruptionError if the file is not the one the index describes."""
    path = sealed_path(directory, topic_id, partition, base, layout.generation)
    try:
        fd = files.open(path)
    except FileNotFoundError:
        raise MissingFile(f"{path} is missing: the topic was dropped or the file was removed", path=path) from None
    except OSError as error:
        raise storage_error(error, "opening", path) from error
    try:
        size = files.size(fd)
        if size != layout.size_bytes:
            raise CorruptionError(f"{path} has {size} bytes, expected {layout.size_bytes}", path=path)
        expected = layout.header(uuid, topic_id, partition, base)
        if check_header and files.pread(fd, len(expected), 0) != expected:
            raise CorruptionError(
                f"{path}: the header does not match the index (topic {topic_id}, base {base})", path=path
            )
        directory_bytes, index = _read_directory(files, fd, path, layout)
        mapping = files.mmap(fd, size)
    except OSError as error:
        raise storage_error(error, "mapping", path) from error
    finally:
        files.close(fd)
    return SealedSegment(path, base, layout, mapping, directory_bytes, index)


def _read_directory(files: Files, fd: int, path: str, layout: SealedLayout) -> tuple[bytes, tuple[int, int, int]]:
    """The directory, and where the key index lies."""
    end = layout.size_bytes - SEALED_FOOT.size - CRC.size
    foot = files.pread(fd, SEALED_FOOT.size + CRC.size, end) if end > 0 else b""
    if len(foot) != SEALED_FOOT.size + CRC.size or CRC.unpack_from(foot, SEALED_FOOT.size)[0] != crc32(
        foot[: SEALED_FOOT.size]
    ):
        raise CorruptionError(f"{path}: its last bytes do not verify; restore it from a backup", path=path)
    position, length, crc, *index = SEALED_FOOT.unpack_from(foot)
    expected = (len(layout.columns) + 1) * layout.block_count * SEALED_BLOCK.size
    found = files.pread(fd, length, position) if length == expected and position + length <= end else b""
    if len(found) != expected or crc != layout.directory_crc or crc32(found) != crc:
        raise CorruptionError(f"{path}: its directory does not verify; restore it from a backup", path=path)
    return found, (index[0], index[1], index[2])
