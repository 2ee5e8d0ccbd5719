"""SpillFile: batches written to disk and read back, for an operator whose rows do not fit the memory budget.

The file has no name, or one that goes with it, so nothing is left when the query ends or the process dies; where in it
each array lies is kept in memory. Strings are written as they are spelled, except codes of a dictionary that lives
longer than the query (a topic's): those stay codes.
"""

from __future__ import annotations

import errno
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, overload

import numpy as np

from eventdb.batch import Array, Column, Dictionary, RecordBatch, SpelledDictionary
from eventdb.config import MIB
from eventdb.errors import DiskFullError, StorageError
from eventdb.physical.grouping import distinct_codes
from eventdb.schema import DataType

_FULL = (errno.ENOSPC, errno.EDQUOT)


@dataclass(frozen=True, slots=True)
class _Piece:
    """An array in the file."""

    position: int
    dtype: np.dtype[Any]
    count: int


@dataclass(frozen=True, slots=True)
class _Strings:
    """A dictionary: where values begin and their bytes; or one kept in memory."""

    starts: _Piece | None
    heap: _Piece | None
    shared: Dictionary | None


@dataclass(frozen=True, slots=True)
class SpilledColumn:
    type: DataType
    values: _Piece
    validity: _Piece | None
    strings: _Strings | None


@dataclass(frozen=True, slots=True)
class SpilledBatch:
    """A batch in a SpillFile."""

    names: tuple[str, ...]
    columns: tuple[SpilledColumn, ...]
    row_count: int


def spilled_note(size_bytes: int) -> str:
    """For EXPLAIN, behind an operator's label."""
    return f" ({size_bytes / MIB:.1f} MB spilled)" if size_bytes else ""


class SpillFile:
    """Batches on disk. `shared` are dictionaries whose codes need no values beside them. Close it."""

    def __init__(self, folder: str) -> None:
        import tempfile

        self.folder = folder
        try:
            self._file = tempfile.TemporaryFile(dir=folder, prefix="query-")  # noqa: SIM115 (closed by close)
        except OSError as error:
            raise self._failed(error) from error
        self.size_bytes = 0

    def close(self) -> None:
        self._file.close()

    def write(self, batch: RecordBatch, shared: Sequence[Dictionary] = ()) -> SpilledBatch:
        """The batch, at the end of the file. DiskFullError, StorageError if it cannot be written."""
        columns = []
        for column in batch.columns:
            strings, codes = None, column.values
            if column.dictionary is not None:
                if any(column.dictionary is d for d in shared):
                    strings = _Strings(None, None, column.dictionary)
                else:
                    strings, codes = self._write_strings(column)
            validity = None if column.validity is None else self._write(column.validity)
            columns.append(SpilledColumn(column.type, self._write(codes), validity, strings))
        return SpilledBatch(batch.names, tuple(columns), batch.row_count)

    def read(self, batch: SpilledBatch) -> RecordBatch:
        columns = []
        for column in batch.columns:
            dictionary = None if column.strings is None else self._read_strings(column)
            validity = None if column.validity is None else self._read(column.validity)
            columns.append(Column(column.type, self._read(column.values), validity, dictionary))
        return RecordBatch(batch.names, columns, batch.row_count)

    def _write_strings(self, column: Column) -> tuple[_Strings, Array]:
        assert column.dictionary is not None
        used = distinct_codes(column)
        if not len(used):
            used = np.zeros(min(1, len(column.dictionary)), np.int64)
        picked = column.dictionary.pick(used.tolist())
        texts = [v.encode("utf-8", "surrogatepass") if isinstance(v, str) else bytes(v) for v in picked] or [b""]
        starts = np.array([0, *accumulate(map(len, texts))], dtype=np.int64)
        codes = np.minimum(np.searchsorted(used, column.values), len(texts) - 1).astype(column.values.dtype)
        heap = self._write(np.frombuffer(b"".join(texts), np.uint8))
        return _Strings(self._write(starts), heap, None), codes

    def _read_strings(self, column: SpilledColumn) -> Dictionary:
        strings = column.strings
        assert strings is not None
        if strings.starts is None or strings.heap is None:
            assert strings.shared is not None
            return strings.shared
        text = column.type.name == "VARCHAR"
        spelled = SpelledDictionary(self._read(strings.starts), self._read(strings.heap), text=text, distinct=True)
        return Dictionary(spelled.values)

    def _write(self, array: Array) -> _Piece:
        position = self.size_bytes
        if len(array):
            try:
                self._file.seek(position)
                self._file.write(np.ascontiguousarray(array).view(np.uint8).data)
            except OSError as error:
                raise self._failed(error) from error
            self.size_bytes += array.nbytes
        return _Piece(position, array.dtype, len(array))

    def _read(self, piece: _Piece) -> Array:
        array = np.empty(piece.count, piece.dtype)
        if piece.count:
            self._file.seek(piece.position)
            found = self._file.readinto(array.view(np.uint8).data)
            if found != array.nbytes:
                raise StorageError(f"{self.folder}: a query's temporary file lost rows it wrote", path=self.folder)
        array.flags.writeable = False
        return array

    def _failed(self, error: OSError) -> StorageError:
        kind = DiskFullError if error.errno in _FULL else StorageError
        return kind(
            f"{self.folder}: a query larger than memory_limit could not write its temporary file ({error.strerror}): "
            "free space, set a larger memory_limit, or reduce the rows first",
            path=self.folder,
        )


class OwnBytes:
    """What batches that follow each other take, without views of mapped files and strings that were counted before."""

    def __init__(self) -> None:
        self._counted: list[tuple[Dictionary, int]] = []  # how many values of the last batch's dictionaries

    def __call__(self, batch: RecordBatch) -> int:
        found, counted = 0, list[tuple[Dictionary, int]]()
        for column in batch.columns:
            found += sum(a.nbytes for a in (column.values, column.validity) if a is not None and _is_own(a))
            if column.dictionary is not None:
                dictionary, size = column.dictionary, len(column.dictionary)
                known = max((count for d, count in self._counted if d is dictionary), default=0)
                # A topic's dictionary has more values than a batch has rows, and is there anyway.
                found += _strings_bytes(dictionary, known, min(size - known, len(column)))
                counted.append((dictionary, size))
        self._counted = counted
        return found


def _is_own(array: Array) -> bool:
    """Whether an array lies in memory of ours, not in a mapped file's."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return bool(array.flags.owndata)


def _strings_bytes(dictionary: Dictionary, first: int, count: int) -> int:
    """What `count` values from code `first` on take, judged by a few of them."""
    if isinstance(dictionary, SpelledDictionary):
        heap_bytes = int(dictionary.starts[first + count] - dictionary.starts[first])
        return heap_bytes + count * dictionary.starts.itemsize if _is_own(dictionary.heap) else 0
    some = dictionary.pick(list(range(first, first + count, max(1, count // 32))))
    return sum(map(sys.getsizeof, some)) * count // max(1, len(some)) + 8 * count


class SpilledRows(Sequence[RecordBatch]):
    """Batches; those beyond `memory_bytes` are on disk and read when asked for. Gone with the last reference."""

    def __init__(self, folder: str, memory_bytes: int) -> None:
        self._folder, self._memory_bytes = folder, memory_bytes
        self._file: SpillFile | None = None
        self._batches: list[RecordBatch | SpilledBatch] = []
        self._last_dictionaries: list[Dictionary | None] = []
        self._own_bytes = OwnBytes()
        self.held_bytes = 0

    @property
    def row_counts(self) -> list[int]:
        return [batch.row_count for batch in self._batches]

    @property
    def is_spilled(self) -> bool:
        return self._file is not None

    @property
    def spilled_bytes(self) -> int:
        return 0 if self._file is None else self._file.size_bytes

    def append(self, batch: RecordBatch) -> None:
        """DiskFullError, StorageError if it has to be written and cannot."""
        own = self._own_bytes(batch) if self._file is None else 0
        dictionaries = [column.dictionary for column in batch.columns]
        shared = [d for d in dictionaries if d is not None and any(d is last for last in self._last_dictionaries)]
        self._last_dictionaries = dictionaries
        if self._file is None and self.held_bytes + own <= self._memory_bytes:
            self._batches.append(batch)
            self.held_bytes += own
            return
        if self._file is None:
            self._file = SpillFile(self._folder)
        self._batches.append(self._file.write(batch, shared))

    def __len__(self) -> int:
        return len(self._batches)

    @overload
    def __getitem__(self, index: int) -> RecordBatch: ...
    @overload
    def __getitem__(self, index: slice) -> list[RecordBatch]: ...
    def __getitem__(self, index: int | slice) -> RecordBatch | list[RecordBatch]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        batch = self._batches[index]
        if isinstance(batch, RecordBatch):
            return batch
        assert self._file is not None
        return self._file.read(batch)
