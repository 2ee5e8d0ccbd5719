"""Rows as int64 words ("lanes"): one per column and one per 62 columns for NULLs. Equal rows have equal lanes.

Kernels that compare, hash and move rows need to know nothing else of them. Strings are numbers an Interner gives, so
they are equal across the columns and inputs of one circuit. Floats are their bits, with one zero and one NaN.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np

from eventdb.batch import Array, Column
from eventdb.physical.dictionary_memo import OutputValues
from eventdb.physical.grouping import distinct_codes, normal_floats
from eventdb.physical.state_bytes import decode, encode
from eventdb.schema import DataType

_FLAGS = 62  # NULL flags in one lane
_FEW = 4
_KEPT_TABLES = 16
_HEAD = struct.Struct("<QQ")  # rows, bytes of the strings


class Interner:
    """Numbers of strings, the same for equal ones. Grows with the distinct strings it has met."""

    __slots__ = ("_blobs", "_tables", "_texts")

    def __init__(self) -> None:
        self._texts, self._blobs = OutputValues(), OutputValues()
        self._texts.code("")  # 0, which stands under a NULL
        self._blobs.code(b"")
        self._tables: dict[int, tuple[object, Array]] = {}

    def __len__(self) -> int:
        return len(self._texts.codes) + len(self._blobs.codes)

    @property
    def nbytes(self) -> int:
        return 100 * len(self)

    def _of(self, type: DataType) -> OutputValues:
        return self._texts if type.name == "VARCHAR" else self._blobs  # of long decimals, too

    def codes(self, column: Column) -> Array:
        """A number per row (any under a NULL)."""
        source = column.dictionary
        assert source is not None
        output = self._of(column.type)
        if source is output.dictionary:
            return column.values
        if not len(source):
            return np.zeros(len(column), dtype=np.int64)
        if len(column) <= _FEW:
            values = source.pick(column.values.tolist())
            return np.array([output.code(value) for value in values], dtype=np.int64)
        kept = self._tables.get(id(source))
        table = None if kept is None else kept[1]
        if table is None or len(table) < len(source):
            grown = np.full(2 * len(source), -1, dtype=np.int64)
            if table is not None:
                grown[: len(table)] = table
            table = grown
            while len(self._tables) >= _KEPT_TABLES:
                del self._tables[next(iter(self._tables))]
            self._tables[id(source)] = (source, table)  # the reference keeps the id from meaning another one
        codes: Array = table[column.values]
        missing = codes < 0
        if column.validity is not None:
            missing &= column.validity
        if missing.any():
            used = distinct_codes(column.filter(missing))
            table[used] = _learn(output, source.pick(used.tolist()))
            codes = table[column.values]
        return codes

    def values(self, type: DataType, codes: Array) -> list[Any]:
        """The strings that codes stand for."""
        return self._of(type).dictionary.pick(codes.tolist())

    def learned(self, type: DataType, values: Sequence[Any]) -> Array:
        """The codes of strings."""
        return np.array(_learn(self._of(type), values), dtype=np.int64)

    def column(self, type: DataType, codes: Array, validity: Array | None) -> Column:
        return Column(type, codes.astype(np.int32), validity, self._of(type).dictionary)


def _learn(output: OutputValues, values: Sequence[Any]) -> list[int]:
    """The codes of values, new ones where they are new."""
    codes = output.codes
    known, give = len(codes), codes.setdefault
    found = [give(value, len(codes)) for value in values]
    output.dictionary.values.extend(islice(codes, known, None))
    return found


class RowCodec:
    """Columns of some types to lanes and back."""

    __slots__ = ("_interner", "flag_count", "lane_count", "types")

    def __init__(self, types: Sequence[DataType], interner: Interner) -> None:
        self.types = tuple(types)
        self._interner = interner
        self.flag_count = (len(self.types) + _FLAGS - 1) // _FLAGS
        self.lane_count = len(self.types) + self.flag_count

    def encode(self, columns: Sequence[Column], row_count: int) -> Array:
        """An int64 array of a row per row."""
        width = len(self.types)
        lanes = np.empty((row_count, self.lane_count), dtype=np.int64)
        lanes[:, width:] = 0
        for i, column in enumerate(columns):
            lane = lanes[:, i]
            if column.dictionary is not None:
                lane[:] = self._interner.codes(column)
            elif column.type.is_float:
                lane[:] = normal_floats(column.values).view(np.int64)
            else:
                lane[:] = column.values
            if column.validity is not None and not column.validity.all():
                absent = ~column.validity
                lane[absent] = 0
                lanes[absent, width + i // _FLAGS] |= 1 << i % _FLAGS
        return lanes

    def decode(self, lanes: Array) -> list[Column]:
        """The columns of rows of lanes."""
        width = len(self.types)
        flags = [lanes[:, width + i] for i in range(self.flag_count)]
        has_nulls = [bool(flag.any()) for flag in flags]
        columns = []
        for i, type in enumerate(self.types):
            validity = None
            if has_nulls[i // _FLAGS]:
                validity = (flags[i // _FLAGS] >> i % _FLAGS & 1) == 0
                if validity.all():
                    validity = None
            lane = np.ascontiguousarray(lanes[:, i])
            if type.is_coded:
                columns.append(self._interner.column(type, lane, validity))
            elif type.is_float:
                columns.append(Column(type, lane.view(np.float64).astype(type.physical, copy=False), validity))
            else:
                columns.append(Column(type, lane.astype(type.physical, copy=False), validity))
        return columns

    def dump(self, lanes: Array) -> bytes:
        """Rows of lanes as bytes that mean the same in every process: strings are spelled out, each once."""
        lanes = lanes.copy()
        spelled: list[tuple[Any, ...]] = []
        for i, type in enumerate(self.types):
            if type.is_coded:
                used, lanes[:, i] = np.unique(lanes[:, i], return_inverse=True)
                spelled.append(tuple(self._interner.values(type, used)))
        texts = encode(spelled)
        return _HEAD.pack(len(lanes), len(texts)) + texts + lanes.tobytes()

    def load(self, data: bytes, position: int) -> tuple[Array, int]:
        """Rows of lanes from bytes that `dump` made, at a position; and the position behind them."""
        count, length = _HEAD.unpack_from(data, position)
        position += _HEAD.size
        spelled = iter(decode(data[position : position + length]))
        position += length
        cells = count * self.lane_count
        lanes = np.frombuffer(data, dtype=np.int64, count=cells, offset=position).reshape(count, self.lane_count).copy()
        for i, type in enumerate(self.types):
            if type.is_coded:
                codes = self._interner.learned(type, next(spelled))
                lanes[:, i] = codes[lanes[:, i]]
        return lanes, position + 8 * cells
