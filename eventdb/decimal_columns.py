"""Columns of DECIMAL as arrays of scaled integers and back, whatever the number of digits.

The integers are int64 where all of them lie within -(2**63 - 1) and 2**63 - 1, and Python's in an object array
otherwise: whoever computes with them asks for the dtype, so that small numbers of a wide type are as fast as others.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from eventdb.batch import Array, Column, Dictionary, SpelledDictionary
from eventdb.schema import DataType
from eventdb.wide_decimals import pack, unpack

_GREATEST = (1 << 63) - 1


class NumberDictionary(Dictionary):
    """Distinct scaled integers, whose bytes are made when somebody asks for them."""

    __slots__ = ("_packed",)

    def __init__(self, numbers: Array) -> None:
        super().__init__()
        self.numbers = numbers
        self._packed: list[bytes] | None = None

    def __len__(self) -> int:
        assert self.numbers is not None
        return len(self.numbers)

    @property
    def values(self) -> list[Any]:
        packed = self._packed
        if packed is None:
            assert self.numbers is not None
            packed = self._packed = list(map(pack, self.numbers.tolist()))
        return packed

    @values.setter
    def values(self, values: list[Any]) -> None:
        """The base class begins with none."""

    def pick(self, codes: list[int]) -> list[Any]:
        if self._packed is None:
            assert self.numbers is not None
            return [pack(int(self.numbers[code])) for code in codes]
        return super().pick(codes)


def number_array(numbers: Sequence[int] | list[Any]) -> Array:
    """Python integers as int64, or as objects where that is too narrow."""
    try:
        narrow = np.array(numbers, dtype=np.int64)
    except OverflowError:
        pass
    else:
        if not len(narrow) or int(narrow.min()) >= -_GREATEST:
            return narrow
    wide = np.empty(len(numbers), dtype=object)
    wide[:] = numbers
    return wide


def numbers_of(column: Column) -> Array:
    """The scaled integer of each row of a DECIMAL, integer or BOOLEAN column; 0 under NULL."""
    dictionary = column.dictionary
    if dictionary is None:
        numbers = column.values.astype(np.int64, copy=False)
        if len(numbers) and int(numbers.min()) < -_GREATEST:
            numbers = numbers.astype(object)
    else:
        numbers = _looked_up(dictionary, column.values)
    return numbers if column.validity is None else np.where(column.validity, numbers, 0)


def _looked_up(dictionary: Dictionary, codes: Array) -> Array:
    known = len(dictionary)
    if not known or not len(codes):
        return np.zeros(len(codes), dtype=np.int64)
    table = dictionary.numbers
    if table is None or len(table) < known:
        if known > 2 * len(codes):
            used, places = np.unique(codes, return_inverse=True)
            return number_array(list(map(unpack, dictionary.pick(used.tolist()))))[places]
        table = None
        if isinstance(dictionary, SpelledDictionary):
            table = unpack_all(dictionary.starts, dictionary.heap)
        if table is None:
            table = number_array(list(map(unpack, dictionary.values[:known])))
        dictionary.numbers = table
    return table[codes]


def unpack_all(starts: Array, heap: Array) -> Array | None:
    """`unpack` of the bytes heap[starts[i] : starts[i + 1]] for every i; None if one has more than 128 bits."""
    begin, lengths = starts[:-1].astype(np.int64), np.diff(starts) - 1
    spelled = np.zeros((len(lengths), 16), dtype=np.uint8)
    negative = np.zeros(len(lengths), dtype=bool)
    for length in np.unique(lengths).tolist():
        if length > 16:
            return None
        rows = np.flatnonzero(lengths == length) if length >= 0 else np.zeros(0, np.int64)
        first = begin[rows]
        negative[rows] = below = heap[first] < 128
        spelled[rows] = np.where(below, 255, 0)[:, None]
        if length > 0:
            spelled[rows, 16 - length :] = heap[first[:, None] + np.arange(1, length + 1)]
    halves = spelled.view(">u8").astype(np.uint64)
    low = halves[:, 1] + negative
    high = halves[:, 0] + (negative & (low == 0))
    return from_words(np.stack([low.view(np.int64), high.view(np.int64)], axis=1), None)


def column_of_numbers(type: DataType, numbers: Array, validity: Array | None) -> Column:
    """The DECIMAL column of scaled integers, which lie in the type's range where they are present."""
    if not type.is_wide:
        return Column(type, numbers.astype(np.int64, copy=False), validity)
    if not len(numbers):
        return Column(type, np.zeros(0, np.int32), validity, Dictionary([b""]))
    if numbers.dtype != object:
        distinct, codes = np.unique(numbers, return_inverse=True)
        return Column(type, codes.astype(np.int32).reshape(-1), validity, NumberDictionary(distinct))
    seen: dict[int, int] = {}
    codes = np.fromiter((seen.setdefault(n, len(seen)) for n in numbers.tolist()), np.int32, len(numbers))
    return Column(type, codes, validity, NumberDictionary(number_array(list(seen))))


def to_words(numbers: Array) -> Array:
    """(rows, 2) int64: the low and the high half of 128 bits in two's complement, as Arrow has them."""
    words = np.empty((len(numbers), 2), dtype=np.int64)
    if numbers.dtype != object:
        words[:, 0] = numbers
        words[:, 1] = numbers >> 63
        return words
    joined = b"".join([number.to_bytes(16, "little", signed=True) for number in numbers.tolist()])
    return np.frombuffer(joined, dtype="<i8").reshape(len(numbers), 2)


def from_words(words: Array, validity: Array | None) -> Array:
    """The integers of `to_words`; 0 under NULL."""
    low, high = words[:, 0], words[:, 1]
    if validity is not None:
        low, high = np.where(validity, low, 0), np.where(validity, high, 0)
    if bool((high == low >> 63).all()) and (not len(low) or int(low.min()) >= -_GREATEST):
        return np.ascontiguousarray(low)
    wide: Array = high.astype(object) * (1 << 64) + np.ascontiguousarray(low).view(np.uint64).astype(object)
    return wide
