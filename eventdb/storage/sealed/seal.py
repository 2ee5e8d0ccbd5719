"""Rows of neighbouring segments rewritten as one sealed file."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from eventdb.batch import Array, Column, concat_columns
from eventdb.config import SEALED_BLOCK_BYTES, SEALED_BLOCK_ROWS
from eventdb.schema import BIGINT
from eventdb.storage.device.files import Files, storage_error
from eventdb.storage.format import (
    BLOCK_NAN,
    BLOCK_RANGED,
    COLUMN,
    CRC,
    NODE,
    SEALED_BLOCK,
    SEALED_FOOT,
    Kind,
    align,
    topic_directory,
)
from eventdb.storage.index import hash_index
from eventdb.storage.sealed import blocks
from eventdb.storage.sealed.encode import distinct_count, encode, zstd_level
from eventdb.storage.sealed.sealed import SealedLayout, SealedSegment, sealed_path
from eventdb.storage.segment.columns import SegmentSlice
from eventdb.storage.segment.layout import ColumnLayout
from eventdb.storage.segment.segment import Segment

if TYPE_CHECKING:
    from eventdb.storage.segment.log import PartitionLog

_EVEN_ROWS = 64  # blocks have a multiple of so many rows: lanes of bit packing are full
_Part = tuple[Segment | SealedSegment, int]  # a segment and how many of its rows, from its first


def write_sealed(
    files: Files, directory: str, uuid: bytes, log: PartitionLog, parts: Sequence[_Part], generation: int
) -> SealedLayout:
    """The rows of the parts, which follow each other, are in a sealed file, durably, under its name; the index does not
    know it yet. Nothing is left when it fails. StorageError."""
    first = parts[0][0]
    base = first.base
    rows = sum(count for _, count in parts)
    block_rows = _block_rows(parts, rows)
    columns = _sealed_columns(first)
    layout = SealedLayout(columns, rows, block_rows, generation)
    path = sealed_path(directory, log.topic_id, log.partition, base, generation)
    temporary = path + ".tmp"
    try:
        try:
            fd = files.create(temporary)
        except FileExistsError:
            files.unlink(temporary)
            fd = files.create(temporary)
        try:
            _write(files, fd, layout, log, parts, layout.header(uuid, log.topic_id, log.partition, base))
            files.fsync(fd)
        finally:
            files.close(fd)
        files.rename(temporary, path)
        files.fsync_dir(f"{directory}/{topic_directory(log.topic_id, log.partition)}")
    except BaseException as error:
        for name in (temporary, path):
            with contextlib.suppress(OSError):
                files.unlink(name)
        if isinstance(error, OSError):
            raise storage_error(error, "sealing", path) from error
        raise
    return layout


def _sealed_columns(segment: Segment | SealedSegment) -> list[ColumnLayout]:
    """The segment's columns as a sealed one describes them: without room in a heap."""
    fields = [COLUMN.unpack(column.pack()) for column in segment.layout.columns]
    return [ColumnLayout(type_code, flags, width, 0) for type_code, flags, width, _ in fields]


def _block_rows(parts: Sequence[_Part], rows: int) -> int:
    """Fewer rows where plainly stored values are long. All blocks have about as many rows: a short last one would be
    compressed like a small segment, and every scan that is divided among threads would wait for it."""
    size = SEALED_BLOCK_ROWS
    heap = 0
    for segment, count in parts:
        for i, column in enumerate(segment.layout.columns):
            if column.plain and isinstance(segment, SealedSegment):
                whole_rows = 1 << (segment.layout.block_rows - 1).bit_length()  # before blocks were made even
                heap += count * SEALED_BLOCK_BYTES // whole_rows
            elif column.plain and isinstance(segment, Segment):
                heap = max(heap, segment.heap_end(i, count) * rows // max(count, 1))
    while size > 1024 and heap * size // max(rows, 1) > SEALED_BLOCK_BYTES:
        size //= 2
    if rows <= size:
        return size
    even = -(-rows // -(-rows // size))
    return min(size, -(-even // _EVEN_ROWS) * _EVEN_ROWS)


def _write(
    files: Files, fd: int, layout: SealedLayout, log: PartitionLog, parts: Sequence[_Part], header: bytes
) -> None:
    files.write_fully(fd, header, 0)
    position = align(len(header))
    directory = []
    for column in range(len(layout.columns) + 1):
        for number in range(layout.block_count):
            start = number * layout.block_rows
            values = _rows(log, parts, column, start, min(layout.rows, start + layout.block_rows))
            data, entry = encode_block(values, plain=column < len(layout.columns) and layout.columns[column].plain)
            files.write_fully(fd, data, position)
            directory.append(SEALED_BLOCK.pack(position, len(data), crc32(data), *entry))
            position = align(position + len(data))
    index = _hash_index(log, layout, parts)
    place = (0, 0, 0)
    if index:
        files.write_fully(fd, index, position)
        place = position, len(index), crc32(index)
        position = align(position + len(index))
    packed = b"".join(directory)
    layout.directory_crc = crc32(packed)
    foot = SEALED_FOOT.pack(position, len(packed), layout.directory_crc, *place)
    layout.size_bytes = position + len(packed) + len(foot) + CRC.size
    files.write_fully(fd, packed + foot + CRC.pack(crc32(foot)), position)


def _hash_index(log: PartitionLog, layout: SealedLayout, parts: Sequence[_Part]) -> bytes:
    """b'' of a topic without a key."""
    column = log.schema.key
    if column is None or layout.rows > hash_index.MAX_ROWS or not hash_index.is_indexed(log.schema.fields[column].type):
        return b""
    hashes, rows = [], []
    for start in range(0, layout.rows, layout.block_rows):
        values = _rows(log, parts, column, start, min(layout.rows, start + layout.block_rows))
        present = slice(None) if values.validity is None else values.validity
        hashes.append(hash_index.hashes_of(values)[present])
        rows.append(np.arange(start, start + len(values))[present])
    return hash_index.build(np.concatenate(hashes), np.concatenate(rows)).pack()


def _rows(log: PartitionLog, parts: Sequence[_Part], column: int, start: int, stop: int) -> Column:
    """Rows [start, stop), counted from the first part's first row, of a column, or of the append times."""
    found: list[Column] = []
    first = 0
    for segment, count in parts:
        low, high = max(start - first, 0), min(stop - first, count)
        first += count
        if low >= high:
            continue
        if isinstance(segment, SealedSegment):
            pieces: list[Any] = list(blocks.slices(log, segment, low, high, None))
        else:
            pieces = [SegmentSlice(log, segment, low, high, None)]
        for piece in pieces:
            if column < len(segment.layout.columns):
                found.append(piece.column(column))
            else:
                found.append(Column(BIGINT, piece.append_times()))
    return concat_columns(found)


def encode_block(column: Column, *, plain: bool) -> tuple[bytes, tuple[int, ...]]:
    """The bytes of a block and its statistics: NULLs, distinct, kind, flags, 0, 0, least, greatest.

    A `plain` column is stored with its values, any other one with what `values` holds (codes of the topic's
    dictionary).
    """
    values, validity = column.values, column.validity
    head = b""
    nulls = 0
    if validity is not None and not validity.all():
        nulls = int(np.count_nonzero(~validity))
        head = encode(validity.view(np.int8))
        values = _filled(values, validity)
    present = values if not nulls or validity is None else values[validity]
    if plain:
        return _encode_strings(head, column, values, present, nulls)
    data = encode(np.ascontiguousarray(values))
    kind = data[0]
    flags = least = greatest = 0
    if values.dtype.kind == "f":
        nan = np.isnan(present)
        flags |= BLOCK_NAN if nan.any() else 0
        present = present[~nan].astype(np.float64)
        if len(present):
            flags |= BLOCK_RANGED
            least, greatest = np.array([present.min(), present.max()]).view(np.int64).tolist()
    elif len(present):
        flags |= BLOCK_RANGED
        least, greatest = int(present.min()), int(present.max())
    stored = present.view(np.int8) if present.dtype == np.bool_ else present
    distinct = (distinct_count(stored) if len(stored) else 0) + bool(flags & BLOCK_NAN)
    return head + data, (nulls, distinct, kind, flags, 0, 0, least, greatest)


def _filled(values: Array, validity: Array) -> Array:
    """Each NULL takes the value before it (the first ones the first value there is), so that it costs next to
    nothing."""
    rows = np.where(validity, np.arange(len(values)), 0)
    np.maximum.accumulate(rows, out=rows)
    if not validity[0]:
        rows[rows == 0] = int(np.argmax(validity))
    filled: Array = values[rows]
    return filled


def _encode_strings(
    head: bytes, column: Column, codes: Array, present: Array, nulls: int
) -> tuple[bytes, tuple[int, ...]]:
    from eventdb.arrow import compress_zstd

    assert column.dictionary is not None
    # In order of appearance: values that occur together lie together.
    used, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    order = np.argsort(first)
    rank = np.empty(len(order), np.int32)
    rank[order] = np.arange(len(order), dtype=np.int32)
    known = column.dictionary.values
    values = [known[code] for code in used[order].tolist()]
    if not len(present):
        values = [values[0]]
        rank[:] = 0
    spelled = [v.encode("utf-8", "surrogatepass") if isinstance(v, str) else bytes(v) for v in values]
    heap = b"".join(spelled)
    body = encode(rank[inverse.reshape(-1)]) + encode(np.array([len(v) for v in spelled], np.int32))
    packed = compress_zstd(heap, zstd_level(len(heap))) if heap else b""
    kind = Kind.PLANES if heap and len(packed) < 0.97 * len(heap) else Kind.RAW
    held = packed if kind == Kind.PLANES else heap
    body += NODE.pack(kind, 1, 8, 0, len(heap), 0, len(held), 0) + held + bytes(-len(held) % 8)
    if not len(present):
        return head + body, (nulls, 0, kind, 0, 0, 0, 0, 0)
    low, high = blocks.string_prefix(min(spelled)), blocks.string_prefix(max(spelled))
    return head + body, (nulls, len(values), kind, BLOCK_RANGED, 0, 0, low, high)
