"""Functions of strings, evaluated once per distinct value instead of once per row.

A DictionaryMemo remembers f(value) for the codes it has met, so a batch costs one table look-up and only unseen
values run Python: neither a one-row batch over a large dictionary nor the thousandth batch over a small one evaluates
it again. Dictionaries only grow and a code keeps its value, so what was remembered stays true. Values no row uses are
never evaluated: they could raise.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from eventdb.batch import Array, Column, Dictionary, SpelledDictionary
from eventdb.physical.grouping import distinct_integers
from eventdb.schema import DataType

_KEPT_DICTIONARIES = 8
_MAX_OUTPUT_VALUES = 1 << 18


class OutputValues:
    """A growing dictionary of results: distinct by construction, shared by every batch of one expression."""

    __slots__ = ("codes", "dictionary")

    def __init__(self) -> None:
        self.dictionary = Dictionary()
        self.codes: dict[Any, int] = {}

    def code(self, value: Any) -> int:
        found = self.codes.get(value)
        if found is None:
            found = len(self.codes)
            self.dictionary.values.append(value)
            self.codes[value] = found
        return found

    def codes_of(self, values: list[Any]) -> list[int]:
        """The code of each of the values, 0 for None."""
        found = {value: 0 if value is None else self.code(value) for value in dict.fromkeys(values)}
        return [found[value] for value in values]


class _Table:
    """What is known of one source dictionary."""

    __slots__ = ("known", "missing", "output", "source", "values")

    def __init__(self, source: Dictionary, dtype: npt.DTypeLike, output: OutputValues | None) -> None:
        self.source = source
        self.output = output
        self.known = np.zeros(max(16, len(source)), dtype=bool)
        self.values: Array = np.zeros(len(self.known), dtype=dtype)
        self.missing: Array | None = None

    def grow(self, size: int) -> None:
        extra = max(size, 2 * len(self.known)) - len(self.known)
        self.values = np.concatenate([self.values, np.zeros(extra, self.values.dtype)])
        if self.missing is not None:
            self.missing = np.concatenate([self.missing, np.zeros(extra, bool)])
        self.known = np.concatenate([self.known, np.zeros(extra, bool)])


class DictionaryMemo:
    """`function` over the values of a dictionary column; it may return None for NULL and may raise EvaluationError.

    `absent` is the (string) result of NULL rows; without it they stay NULL. `of_all` gives the results of a list of
    values, where that is faster than calling `function` for each; `of_spelled` those of a dictionary whose values are
    no Python objects yet, as an array of the type, none of them NULL.

    The result has `type`: codes of an output dictionary for VARCHAR and BLOB, physical values otherwise. Safe to share
    between threads.
    """

    __slots__ = ("_absent", "_lock", "_of_all", "_of_spelled", "_output", "_tables", "type")

    def __init__(
        self, function: Callable[[Any], Any], type: DataType, absent: Any = None,
        of_all: Callable[[list[Any]], list[Any]] | None = None,
        of_spelled: Callable[[SpelledDictionary], Array] | None = None,
    ) -> None:  # fmt: skip
        self.type = type
        self._of_spelled = of_spelled
        self._absent = absent
        self._of_all = of_all or (lambda values: [function(value) for value in values])
        self._output = OutputValues() if type.is_coded else None
        self._tables: dict[int, _Table] = {}
        self._lock = threading.Lock()

    def __call__(self, column: Column) -> Column:
        source = column.dictionary
        assert source is not None
        codes = column.values
        valid = column.validity
        with self._lock:
            table = self._tables.get(id(source)) or self._new_table(source)
            if len(table.known) < len(source):
                table.grow(len(source))
            known = table.known[codes]
            if not known.all():
                needed = ~known if valid is None else ~known & valid
                if needed.any():
                    self._learn(table, codes[needed])
            values = table.values[codes]
            missing = table.missing
            output = table.output
            if self._absent is not None and output is not None and valid is not None:
                values = np.where(valid, values, output.code(self._absent)).astype(np.int32, copy=False)
                valid = None
            if output is not None and not output.codes:
                output.code("" if self.type.name == "VARCHAR" else b"")
        if missing is not None:
            lost = missing[codes] if column.validity is None else missing[codes] & column.validity
            if lost.any():
                valid = ~lost if valid is None else valid & ~lost
        return Column(self.type, values, valid, None if output is None else output.dictionary)

    def _new_table(self, source: Dictionary) -> _Table:
        while len(self._tables) >= _KEPT_DICTIONARIES:
            del self._tables[next(iter(self._tables))]
        if self._output is not None and len(self._output.codes) > _MAX_OUTPUT_VALUES:
            # Older tables keep the output dictionary they were built with.
            self._output = OutputValues()
        table = self._tables[id(source)] = _Table(source, self.type.physical, self._output)
        return table

    def _learn(self, table: _Table, codes: Array) -> None:
        used = distinct_integers(codes, len(table.known))
        source = table.source
        if self._of_spelled is not None and isinstance(source, SpelledDictionary) and 2 * len(used) > len(source):
            found = self._of_spelled(source)
            table.values[: len(found)] = found
            table.known[: len(found)] = True
            return
        results = self._of_all(source.pick(used.tolist()))
        if None in results:
            if table.missing is None:
                table.missing = np.zeros(len(table.known), dtype=bool)
            table.missing[used] = [result is None for result in results]
        if table.output is not None:
            results = table.output.codes_of(results)
        else:
            results = [0 if result is None else result for result in results]
        table.values[used] = results
        table.known[used] = True


class DictionaryUnion:
    """Brings the columns of several sources to one output dictionary (CASE, COALESCE, GREATEST over strings)."""

    __slots__ = ("_codes", "_lock", "_tables", "type")

    def __init__(self, type: DataType) -> None:
        self.type = type
        self._codes = OutputValues()
        self._tables: dict[int, _Table] = {}
        self._lock = threading.Lock()

    def __call__(self, columns: list[Column]) -> list[Column]:
        """The same rows; all results share one dictionary (that of the inputs when it is the same already)."""
        first = columns[0].dictionary
        if all(column.dictionary is first for column in columns):
            return columns
        with self._lock:
            if len(self._codes.codes) > _MAX_OUTPUT_VALUES:
                self._codes = OutputValues()
                self._tables = {}
            while len(self._tables) > 2 * _KEPT_DICTIONARIES:
                del self._tables[next(iter(self._tables))]
            output = self._codes
            result = [Column(self.type, self._recode(c, output), c.validity, output.dictionary) for c in columns]
            if not output.codes:
                output.code("" if self.type.name == "VARCHAR" else b"")
        return result

    def _recode(self, column: Column, output: OutputValues) -> Array:
        source = column.dictionary
        assert source is not None
        table = self._tables.get(id(source))
        if table is None:
            table = self._tables[id(source)] = _Table(source, np.int32, output)
        if len(table.known) < len(source):
            table.grow(len(source))
        codes = column.values
        needed = ~table.known[codes]
        if column.validity is not None:
            needed &= column.validity
        if needed.any():
            used = distinct_integers(codes[needed], len(table.known))
            values = source.values
            table.values[used] = [output.code(values[code]) for code in used.tolist()]
            table.known[used] = True
        result: Array = table.values[codes]
        return result
