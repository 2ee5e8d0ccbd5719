"""PickedRows: a few rows from anywhere in a log as one slice, read one by one where the encoding allows it."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eventdb.batch import Array, Column
from eventdb.errors import CorruptionError
from eventdb.storage.sealed import blocks
from eventdb.storage.sealed.nodes import UNSIGNED
from eventdb.storage.sealed.sealed import SealedSegment
from eventdb.storage.segment.segment import Segment

if TYPE_CHECKING:
    from eventdb.storage.segment.log import PartitionLog

_Groups = list[tuple[int, list[int]]]  # (block of a sealed segment, rows in it, counted from its first)


class PickedRows:
    """Rows in offset order, at least one; what SegmentSlice is for neighbouring ones."""

    __slots__ = ("_log", "_parts", "first_offset", "row_count", "time_range")

    def __init__(self, log: PartitionLog, parts: Sequence[tuple[Segment | SealedSegment, list[int]]]) -> None:
        self._log = log
        self._parts: list[_Raw | _Sealed] = [
            _Sealed(segment, rows) if isinstance(segment, SealedSegment) else _Raw(segment, rows)
            for segment, rows in parts
        ]
        self.first_offset = parts[0][0].base + parts[0][1][0]
        self.row_count = sum(len(rows) for _, rows in parts)
        self.time_range: tuple[int, int] | None = None

    @property
    def offsets(self) -> Array:
        """int64."""
        return np.array([part.segment.base + row for part in self._parts for row in part.rows], np.int64)

    def is_plain(self, index: int) -> bool:
        """Whether `column` has a dictionary of its own."""
        return any(part.segment.layout.columns[index].plain for part in self._parts)

    def column(self, index: int) -> Column:
        """One column."""
        type = self._log.schema.fields[index].type
        if self.is_plain(index):
            return Column.encode(type, [value for part in self._parts for value in self._texts(part, index)])
        stored = [part.stored(index) for part in self._parts]
        values = _joined([values for values, _ in stored])
        validity = None
        if any(valid is not None for _, valid in stored):
            validity = _joined([np.ones(len(v), bool) if valid is None else valid for v, valid in stored])
        if not type.is_coded:
            return Column(type, values.view(type.physical), validity)
        dictionary = self._log.dictionaries[index]
        assert dictionary is not None
        shared, codes = dictionary.shared(), values.view(np.int32)
        if int(codes.min()) < 0 or int(codes.max()) >= len(shared):
            raise self._strange_code(index)
        return Column(type, codes, validity, shared)

    def _texts(self, part: _Raw | _Sealed, index: int) -> list[Any]:
        if part.segment.layout.columns[index].plain:
            return part.plain(index)
        values, validity = part.stored(index)
        dictionary = self._log.dictionaries[index]
        assert dictionary is not None
        try:
            texts = [dictionary.values[code] for code in values.view(np.int32).tolist()]
        except IndexError:
            raise self._strange_code(index) from None
        if validity is None:
            return texts
        return [text if present else None for text, present in zip(texts, validity.tolist(), strict=True)]

    def _strange_code(self, index: int) -> CorruptionError:
        path = self._parts[0].segment.path
        return CorruptionError(
            f"{path}, or a segment after it, holds codes in column {index} that its dictionary does not have; run "
            "check(deep=True)",
            path=path,
        )

    def append_times(self) -> Array:
        """int64 microseconds."""
        return _joined([part.append_times() for part in self._parts])


def _joined(arrays: list[Array]) -> Array:
    return arrays[0] if len(arrays) == 1 else np.concatenate(arrays)


class _Raw:
    """Rows of a raw segment."""

    __slots__ = ("_places", "rows", "segment")

    def __init__(self, segment: Segment, rows: list[int]) -> None:
        self.segment = segment
        self.rows = rows
        self._places = np.array(rows, np.intp)

    def stored(self, index: int) -> tuple[Array, Array | None]:
        """(bit patterns, validity) of a column that is not stored plainly."""
        layout, nulls = self.segment.layout.columns[index], self.segment.null_views[index]
        values = np.frombuffer(self.segment.value_views[index], UNSIGNED[layout.width])[self._places]
        validity = None if nulls is None else ~np.frombuffer(nulls, np.bool_)[self._places]
        return values, None if validity is None or validity.all() else validity

    def plain(self, index: int) -> list[Any]:
        """str or bytes, None where NULL."""
        return [self.segment.plain_value(index, row) for row in self.rows]

    def append_times(self) -> Array:
        return np.array([self.segment.append_times(row, row + 1)[0] for row in self.rows], np.int64)


class _Sealed:
    """Rows of a sealed segment."""

    __slots__ = ("_groups", "rows", "segment")

    def __init__(self, segment: SealedSegment, rows: list[int]) -> None:
        self.segment = segment
        self.rows = rows
        size = segment.layout.block_rows
        groups: dict[int, list[int]] = {}
        for row in rows:
            number, at = divmod(row, size)
            groups.setdefault(number, []).append(at)
        self._groups: _Groups = list(groups.items())

    def stored(self, index: int) -> tuple[Array, Array | None]:
        """See _Raw; the column after the last one holds the append times."""
        segment = self.segment
        columns = segment.layout.columns
        item = 8 if index == len(columns) else columns[index].width
        values: list[int] = []
        valid: list[bool] = []
        kept = blocks.CACHE.get_all([(segment.number, index, number) for number, _ in self._groups])
        for (number, rows), block in zip(self._groups, kept, strict=True):
            found = blocks.points(segment, index, number, rows, item) if block is None else None
            if found is None:
                if block is None:
                    block = blocks.picked_block(segment, index, number)
                one = block.values.item
                values += [one(row) for row in rows]
                valid += [True] * len(rows) if block.validity is None else block.validity[rows].tolist()
            else:
                values += found[0]
                valid += found[1]
        form = UNSIGNED[item] if index == len(columns) or not columns[index].coded else np.dtype(np.int32)
        return np.array(values, form).view(UNSIGNED[item]), None if all(valid) else np.array(valid, bool)

    def plain(self, index: int) -> list[Any]:
        """See _Raw. Costs decompressing the values of each block: a millisecond for a megabyte."""
        lists = (blocks.plain_values(self.segment, index, number, rows) for number, rows in self._groups)
        return list(itertools.chain.from_iterable(lists))

    def append_times(self) -> Array:
        return self.stored(len(self.segment.layout.columns))[0].view(np.int64)
