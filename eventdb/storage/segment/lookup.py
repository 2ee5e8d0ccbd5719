"""Slices that may hold certain rows: those of a key or of a stretch of event time. What cannot be among them is not
looked at.

Event times: segments by the index, then strides of raw segments and blocks of sealed ones by their least and greatest
time. A key: the rows its index names (hash_index.py); of a raw segment, the rows that the index does not cover yet are
looked through (indexer.py makes it meanwhile). What is found are candidates: the query's filter decides.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from typing import TYPE_CHECKING, Any

import numpy as np

from eventdb.storage.index import hash_index
from eventdb.storage.index.hash_index import is_indexed
from eventdb.storage.sealed import blocks
from eventdb.storage.sealed.sealed import SealedSegment
from eventdb.storage.segment.columns import SegmentSlice
from eventdb.storage.segment.indexer import INDEXER
from eventdb.storage.segment.picked import PickedRows
from eventdb.storage.segment.segment import STRIDE_ROWS, Segment

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from eventdb.storage.segment.log import PartitionLog

__all__ = ["is_indexed", "matching_slices"]

NARROWED_BLOCKS = 4
_Part = tuple[Segment | SealedSegment, int, int, tuple[int, int] | None]
_Times = tuple[int | None, int | None]


def matching_slices(log: PartitionLog, parts: Iterable[_Part], times: _Times, key: Any) -> list[Any]:
    """In offset order. `times` is the range of event times looked for, `key` the key (None: any)."""
    found: list[Any] = []
    picked: list[tuple[Segment | SealedSegment, list[int]]] = []

    def flush() -> None:
        if picked:
            found.append(PickedRows(log, picked.copy()))
            picked.clear()

    size = hash_index.BLOCK_ROWS
    hash = 0 if key is None else hash_index.hash_of(key)
    for segment, row, end, held in parts:
        places = None
        if key is not None and isinstance(segment, SealedSegment):
            index = segment.hash_index()
            places = None if index is None else index.find(hash)
        elif key is not None and isinstance(segment, Segment) and end <= hash_index.MAX_ROWS:
            places = _raw_places(log, segment, end, key, hash)
        if places is None:
            flush()
            found += _slices(log, segment, row, end, held, times)
            continue
        rows, whole = places
        if whole:
            whole = [number for number in whole if number * size < end and (number + 1) * size > row]
            rows = [at for at in rows if at // size not in whole]
        if rows and (rows[0] < row or rows[-1] >= end):
            rows = [at for at in rows if row <= at < end]
        for number in whole:
            first = number * size
            before = [at for at in rows if at < first]
            if before:
                picked.append((segment, before))
            rows = rows[len(before) :]
            flush()
            found += _slices(log, segment, max(row, first), min(end, first + size), held, times)
        if rows:
            picked.append((segment, rows))
    flush()
    return found if times == (None, None) else _narrowed(found, times)


def _narrowed(found: list[Any], times: _Times) -> list[Any]:
    """Without the blocks outside the times; if only a few are left, of each the rows from the first to the last one
    within: their times have to be decoded anyhow, and the rest of a query then has less to do."""
    low = -1 << 63 if times[0] is None else times[0]
    high = 1 << 63 if times[1] is None else times[1]
    found = [p for p in found if p.time_range is None or (p.time_range[1] >= low and p.time_range[0] <= high)]
    if sum(isinstance(part, blocks.SealedSlice) for part in found) > NARROWED_BLOCKS:
        return found
    narrowed = [part.between(low, high) if isinstance(part, blocks.SealedSlice) else part for part in found]
    return [part for part in narrowed if part is not None]


def _slices(
    log: PartitionLog, segment: Segment | SealedSegment, row: int, end: int, held: tuple[int, int] | None, times: _Times
) -> Sequence[Any]:
    if isinstance(segment, SealedSegment):
        return blocks.slices(log, segment, row, end, held)
    if times == (None, None) or log.event_time is None or segment.layout.offsets >= 0 or end - row <= STRIDE_ROWS:
        return [SegmentSlice(log, segment, row, end, held)]
    low = -1 << 63 if times[0] is None else times[0]
    high = 1 << 63 if times[1] is None else times[1]
    ranges = segment.stride_ranges(log.event_time, end, _extremes)
    known = range(row // STRIDE_ROWS, min(len(ranges), end // STRIDE_ROWS))
    bounds = _bounds(segment, log.event_time, ranges)[known.start : known.stop]
    hits = (np.flatnonzero((bounds[:, 1] >= low) & (bounds[:, 0] <= high)) + known.start).tolist()
    hits += range(known.stop, -(-end // STRIDE_ROWS))  # the rows after the last full stride
    found: list[Any] = []
    for _, run in itertools.groupby(enumerate(hits), lambda hit: hit[1] - hit[0]):
        numbers = [number for _, number in run]
        span = held
        if held is not None and numbers[-1] < known.stop:
            span = min(ranges[i][0] for i in numbers), max(ranges[i][1] for i in numbers)
        first, last = max(row, numbers[0] * STRIDE_ROWS), min(end, (numbers[-1] + 1) * STRIDE_ROWS)
        found.append(SegmentSlice(log, segment, first, last, span))
    return found


def _bounds(segment: Segment, column: int, ranges: list[tuple[int, int]]) -> Any:
    """The ranges as an array of pairs, kept beside the segment's columns."""
    kept = segment.arrays.get(~column)
    if kept is None or len(kept) != len(ranges):
        kept = segment.arrays[~column] = np.array(ranges, np.int64).reshape(-1, 2)
    return kept


def _extremes(values: Any) -> tuple[int, int]:
    array = np.frombuffer(values, np.int64)
    return int(array.min()), int(array.max())


def _raw_places(log: PartitionLog, segment: Segment, end: int, key: Any, hash: int) -> tuple[list[int], list[int]]:
    """(rows, blocks) that may hold the key, which has the hash, among the rows before `end`. What the index does not
    cover is looked through; if that is much, a longer index is asked for."""
    kept = log.hash_indexes.get(segment.base)
    if kept is not None and kept[0] is not segment:
        kept = None
    covered = 0 if kept is None else kept[1]
    if end - covered > max(hash_index.BLOCK_ROWS, covered // 4):
        INDEXER.ask(log, segment, end)
    rows, whole = kept[2].find(hash) if kept is not None else ([], [])
    return rows if covered >= end else rows + _found_in(log, segment, covered, end, key), whole


def _found_in(log: PartitionLog, segment: Segment, row: int, end: int, key: Any) -> list[int]:
    """The rows of [row, end), not none, that hold the key (or, of NULLs, the stored value)."""
    index = log.schema.key
    assert index is not None
    layout = segment.layout.columns[index]
    if layout.plain:
        return _found_in_heap(segment, index, row, end, key.encode("utf-8", "surrogatepass") if layout.text else key)
    if layout.coded:
        dictionary = log.dictionaries[index]
        key = -1 if dictionary is None else dictionary.codes.get(key, -1)
    stored = np.frombuffer(segment.value_views[index][row:end], f"<i{layout.width}")
    info = np.iinfo(stored.dtype)
    if not info.min <= key <= info.max:
        return []
    found: list[int] = (np.flatnonzero(stored == key) + row).tolist()
    return found


def _found_in_heap(segment: Segment, index: int, row: int, end: int, key: bytes) -> list[int]:
    layout = segment.layout.columns[index]
    ends = segment.value_views[index]
    if not key:
        lengths = np.diff(np.frombuffer(ends[row:end], np.int64), prepend=segment.heap_end(index, row))
        empty: list[int] = (np.flatnonzero(lengths == 0) + row).tolist()
        return empty
    start = segment.heap_end(index, row)
    first, last = layout.heap_position, layout.heap_position + ends[end - 1]
    found = []
    at = segment.mapping.find(key, first + start, last)
    while at >= 0:
        held = bisect_right(ends, at - first, row, end)
        if segment.heap_end(index, held) == at - first and ends[held] == at - first + len(key):
            found.append(held)
        at = segment.mapping.find(key, at + 1, last)
    return found
