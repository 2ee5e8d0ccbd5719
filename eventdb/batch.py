"""RecordBatch: the only thing operators exchange.

A Column is `values` (read-only, C-contiguous, native-endian, of the type's physical dtype), `validity` (a bool array,
True = present, or None when every row is present) and, for VARCHAR, BLOB and DECIMAL of more than 18 digits (whose
values are bytes that sort like the numbers), a Dictionary that `values` are codes of.
Under a NULL the value is unspecified but safe to read (a code stays inside its dictionary).

A RecordBatch is columns of equal length, in the order of its schema, and optionally an int64 `weight` (+1 insert,
-1 retract) when it carries changes. Batches are immutable: share them freely between threads.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from eventdb.errors import InternalError
from eventdb.schema import DataType, Field, Schema

Array = npt.NDArray[Any]

__all__ = ["Array", "Column", "Dictionary", "RecordBatch", "SpelledDictionary", "concat_columns"]


_FEW = 8  # one value in so many is made by itself rather than with all others


class Dictionary:
    """Distinct values (str or bytes) in code order. Append-only: a code, once given, keeps its value for ever.

    `values` may grow at the end while queries read it: read `len()` once and use only codes below it.
    """

    __slots__ = ("_array", "_codes", "_lock", "arrow", "converted", "hashes", "numbers", "values")

    def __init__(self, values: Iterable[Any] = ()) -> None:
        self.arrow: Any = None  # the values as an Arrow array, made and kept by arrow.py, perhaps of fewer values
        self.converted = 0  # rows that arrow.py converted without it
        self.hashes: Array | None = None  # of the values, perhaps of fewer; made and kept by hash_index.py
        self.numbers: Array | None = None  # of wide decimals; made and kept by decimal_columns.py
        self.values: list[Any] = values if isinstance(values, list) else list(values)
        self._codes: dict[Any, int] | None = None
        self._array: Array | None = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.values)

    def code_of(self, value: Any) -> int:
        """The code of a value, -1 if it is not in the dictionary."""
        with self._lock:
            codes = self._codes
            if codes is None:
                codes = self._codes = {}
            for code in range(len(codes), len(self.values)):
                codes[self.values[code]] = code
        return codes.get(value, -1)

    def array(self) -> Array:
        """The values as an object array (at least as long as any code handed out before the call)."""
        array = self._array
        if array is None or len(array) < len(self.values):
            snapshot = self.values[:]
            array = np.empty(len(snapshot), dtype=object)
            array[:] = snapshot
            self._array = array
        return array

    def pick(self, codes: list[int]) -> list[Any]:
        """The values of some codes."""
        values = self.values
        return [values[code] for code in codes]

    def map(self, function: Callable[[Any], Any], dtype: npt.DTypeLike) -> Array:
        """function(value) for every value: a lookup table to index with codes; never empty."""
        table = np.fromiter((function(v) for v in self.values[:]), dtype=dtype) if self.values else np.empty(0, dtype)
        return table if len(table) else np.zeros(1, dtype=dtype)


class SpelledDictionary(Dictionary):
    """Values as Arrow lays them out: their bytes one after another, and where each begins.

    They become Python objects only if somebody asks. Those on their way into the log may repeat, unlike those of other
    dictionaries: no query must meet them. `distinct` ones are UTF-8 throughout, if `text`, and `starts` is int32.
    """

    __slots__ = ("_decoded", "_text", "distinct", "heap", "starts")

    def __init__(self, starts: Array, heap: Array, *, text: bool, distinct: bool = False) -> None:
        """`starts` are positions in the uint8 array `heap`, one more than there are values."""
        self.converted = 0
        self.hashes = None
        self.numbers = None
        self.starts = starts
        self.heap = heap
        self.distinct = distinct
        self._text = text
        self._decoded: list[Any] | None = None
        self._codes = None
        self._array = None
        self.arrow = None
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.starts) - 1

    @property
    def values(self) -> list[Any]:  # type: ignore[override]
        decoded = self._decoded
        if decoded is None:
            decoded = self._decoded = self._texts() if self._text else self.spelled()
        return decoded

    def value(self, code: int) -> str | bytes:
        """One of `values`; the others are not made."""
        data: bytes = self.heap[self.starts[code] : self.starts[code + 1]].tobytes()
        return data.decode("utf-8", "surrogatepass") if self._text else data

    def pick(self, codes: list[int]) -> list[Any]:
        if self._decoded is None and len(codes) * _FEW < len(self):
            return [self.value(code) for code in codes]
        return super().pick(codes)

    def spelled(self) -> list[bytes]:
        data, bounds = self._bounds()
        return [data[a:b] for a, b in pairwise(bounds)]

    def _texts(self) -> list[str]:
        data, bounds = self._bounds()
        whole = data.decode("utf-8", "surrogatepass")
        if len(whole) == len(data):  # ASCII
            return [whole[a:b] for a, b in pairwise(bounds)]
        return [data[a:b].decode("utf-8", "surrogatepass") for a, b in pairwise(bounds)]

    def _bounds(self) -> tuple[bytes, list[int]]:
        starts = self.starts.tolist()
        return self.heap[starts[0] : starts[-1]].tobytes(), [start - starts[0] for start in starts]


class Column:
    """One column of a batch. `dictionary` is set exactly when the type is coded."""

    __slots__ = ("dictionary", "type", "validity", "values")

    def __init__(
        self, type: DataType, values: Array, validity: Array | None = None, dictionary: Dictionary | None = None
    ) -> None:
        if (dictionary is not None) != type.is_coded:
            raise InternalError(f"a {type} column {'needs' if type.is_coded else 'has no'} dictionary")
        self.type = type
        self.values = values
        self.validity = validity
        self.dictionary = dictionary

    def __len__(self) -> int:
        return len(self.values)

    def __repr__(self) -> str:
        return f"Column({self.type}, {self.to_pylist()[:8]!r}{'...' if len(self) > 8 else ''})"

    @property
    def nbytes(self) -> int:
        return int(self.values.nbytes) + (0 if self.validity is None else int(self.validity.nbytes))

    def take(self, rows: Array) -> Column:
        """The rows at int64 positions `rows`, in that order."""
        validity = None if self.validity is None else self.validity[rows]
        return Column(self.type, self.values[rows], validity, self.dictionary)

    def filter(self, keep: Array) -> Column:
        """The rows where the bool array `keep` is True."""
        validity = None if self.validity is None else self.validity[keep]
        return Column(self.type, self.values[keep], validity, self.dictionary)

    def slice(self, start: int, stop: int) -> Column:
        """Rows [start, stop), without a copy."""
        validity = None if self.validity is None else self.validity[start:stop]
        return Column(self.type, self.values[start:stop], validity, self.dictionary)

    def is_null(self) -> Array:
        return np.zeros(len(self), dtype=bool) if self.validity is None else ~self.validity

    def decoded(self) -> Array:
        """For coded types, the str or bytes of each row as an object array (NULL rows hold any value)."""
        if self.dictionary is None:
            raise InternalError(f"a {self.type} column has no dictionary to decode with")
        if not len(self.dictionary):
            return np.full(len(self), "" if self.type.name == "VARCHAR" else b"", dtype=object)
        result: Array = self.dictionary.array()[self.values]
        return result

    def texts(self) -> list[Any]:
        """For coded types, the str or bytes of each row (NULL rows hold any value)."""
        dictionary = self.dictionary
        if dictionary is None or not len(dictionary) or len(self.values) * _FEW >= len(dictionary):
            return self.decoded().tolist()  # type: ignore[no-any-return]
        return dictionary.pick(self.values.tolist())

    def to_pylist(self) -> list[Any]:
        """Python values: bool, int, float, Decimal, str, bytes, date, naive UTC datetime, timedelta, None."""
        from eventdb.values import to_python

        return to_python(self)

    @staticmethod
    def encode(type: DataType, values: Sequence[Any], validity: Array | None = None) -> Column:
        """A column of a coded type from str or bytes; None among `values` is NULL."""
        codes: dict[Any, int] = {}
        out = np.empty(len(values), dtype=np.int32)
        present = np.ones(len(values), dtype=bool) if validity is None else validity.copy()
        for i, value in enumerate(values):
            if value is None or not present[i]:
                present[i] = False
                out[i] = 0
            else:
                out[i] = codes.setdefault(value, len(codes))
        if not codes:
            codes["" if type.name == "VARCHAR" else b""] = 0
        return Column(type, out, None if present.all() else present, Dictionary(list(codes)))


class RecordBatch:
    """Columns of equal length under names. Names may repeat in a query's result, so lookups are by position."""

    __slots__ = ("columns", "names", "row_count", "weight")

    def __init__(
        self, names: Sequence[str], columns: Sequence[Column], row_count: int | None = None, weight: Array | None = None
    ) -> None:
        self.names = tuple(names)
        self.columns = tuple(columns)
        self.row_count = len(columns[0]) if row_count is None else row_count
        self.weight = weight
        for column in self.columns:
            if len(column.values) != self.row_count:
                raise InternalError(f"columns of a batch differ in length: {[len(c) for c in self.columns]}")
        if len(self.names) != len(self.columns):
            raise InternalError(f"a batch of {len(self.columns)} columns has {len(self.names)} names")

    def __len__(self) -> int:
        return self.row_count

    def __repr__(self) -> str:
        return f"RecordBatch({', '.join(self.names)}; {self.row_count} rows)"

    @property
    def types(self) -> list[DataType]:
        return [column.type for column in self.columns]

    @property
    def nbytes(self) -> int:
        return sum(column.nbytes for column in self.columns)

    @property
    def schema(self) -> Schema:
        """The schema; only for batches whose names are distinct."""
        return Schema(Field(n, c.type, c.validity is not None) for n, c in zip(self.names, self.columns, strict=True))

    def _with(self, change: Callable[[Column], Column], weight: Array | None, count: int) -> RecordBatch:
        return RecordBatch(self.names, [change(c) for c in self.columns], count, weight)

    def take(self, rows: Array) -> RecordBatch:
        weight = None if self.weight is None else self.weight[rows]
        return self._with(lambda c: c.take(rows), weight, len(rows))

    def filter(self, keep: Array) -> RecordBatch:
        weight = None if self.weight is None else self.weight[keep]
        return self._with(lambda c: c.filter(keep), weight, int(np.count_nonzero(keep)))

    def slice(self, start: int, stop: int) -> RecordBatch:
        stop = min(stop, self.row_count)
        weight = None if self.weight is None else self.weight[start:stop]
        return self._with(lambda c: c.slice(start, stop), weight, stop - start)

    def select(self, positions: Sequence[int], names: Sequence[str] | None = None) -> RecordBatch:
        chosen = tuple(self.names[i] for i in positions) if names is None else names
        return RecordBatch(chosen, [self.columns[i] for i in positions], self.row_count, self.weight)

    def to_pylist(self) -> list[tuple[Any, ...]]:
        """Rows as tuples of Python values."""
        if not self.columns:
            return [()] * self.row_count
        return list(zip(*[column.to_pylist() for column in self.columns], strict=True))

    @staticmethod
    def concat(batches: Sequence[RecordBatch], check: Callable[[], None] | None = None) -> RecordBatch:
        """All rows, in order. Needs at least one batch; all must have the same types. `check` is called now and then,
        and may raise."""
        if len(batches) == 1:
            return batches[0]
        first = batches[0]
        columns = [concat_columns([b.columns[i] for b in batches], check) for i in range(len(first.columns))]
        weight = None
        if any(b.weight is not None for b in batches):
            ones = [np.ones(len(b), np.int64) if b.weight is None else b.weight for b in batches]
            weight = np.concatenate(ones)
        return RecordBatch(first.names, columns, sum(len(b) for b in batches), weight)


def concat_columns(columns: Sequence[Column], check: Callable[[], None] | None = None) -> Column:
    """One column holding the rows of all; different dictionaries are merged into a new one. `check` is called for each
    of those, and may raise."""
    first = columns[0]
    if len(columns) == 1:
        return first
    validity = None
    if any(c.validity is not None for c in columns):
        validity = np.concatenate([np.ones(len(c), bool) if c.validity is None else c.validity for c in columns])
    if first.dictionary is None:
        return Column(first.type, np.concatenate([c.values for c in columns]), validity)
    if all(c.dictionary is first.dictionary for c in columns):
        return Column(first.type, np.concatenate([c.values for c in columns]), validity, first.dictionary)
    codes: dict[Any, int] = {}
    parts = []
    for column in columns:
        assert column.dictionary is not None
        if check is not None:
            check()
        if len(column.dictionary) > 2 * len(column):  # few of its values are used
            used, places = np.unique(column.values, return_inverse=True)
            picked = column.dictionary.pick(used.tolist())
            parts.append(np.array([codes.setdefault(v, len(codes)) for v in picked], np.int32)[places])
            continue
        table = column.dictionary.map(lambda v: codes.setdefault(v, len(codes)), np.int32)
        parts.append(table[column.values])
    if not codes:
        codes["" if first.type.name == "VARCHAR" else b""] = 0
    return Column(first.type, np.concatenate(parts), validity, Dictionary(list(codes)))
