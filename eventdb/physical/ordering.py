"""Values -> int64 in the order SQL sorts them: floats with NaN greatest, strings by code point."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import numpy as np

from eventdb.batch import Array, Column
from eventdb.decimal_columns import numbers_of
from eventdb.physical.grouping import distinct_codes, normal_floats

_PACKED = 1 << 62


def order_floats(values: Array) -> Array:
    """int64 that compare like the floats; NaN is equal to itself and above infinity, -0.0 equals 0.0."""
    bits = normal_floats(values).view(np.int64)
    # IEEE 754: non-negative floats sort like their bits, negative ones the other way round.
    return np.where(bits < 0, bits ^ np.int64(0x7FFF_FFFF_FFFF_FFFF), bits)


def float_of_order(place: int) -> float:
    """The float that `order_floats` puts at a place."""
    bits = place ^ 0x7FFF_FFFF_FFFF_FFFF if place < 0 else place
    return float(np.array([bits], dtype=np.int64).view(np.float64)[0])


def rank_codes(columns: Sequence[Column]) -> list[Array]:
    """int64 ranks per row of one or more string columns, comparable between the columns."""
    parts = [distinct_codes(column) for column in columns]
    spelled: list[list[object]] = []
    for column, used in zip(columns, parts, strict=True):
        assert column.dictionary is not None
        values = column.dictionary.values
        spelled.append([values[c] for c in used.tolist()])
    if len(columns) == 1:
        ordered = sorted(range(len(spelled[0])), key=spelled[0].__getitem__)  # type: ignore[arg-type]
        ranks = np.empty(len(ordered), dtype=np.int64)
        ranks[ordered] = np.arange(len(ordered))
        return [_look_up(parts[0], ranks, columns[0].values)]
    number = {value: i for i, value in enumerate(sorted({v for part in spelled for v in part}))}  # type: ignore[type-var]
    return [
        _look_up(used, np.fromiter((number[v] for v in part), np.int64, len(part)), column.values)
        for used, part, column in zip(parts, spelled, columns, strict=True)
    ]


def _look_up(used: Array, table: Array, codes: Array) -> Array:
    """table at the position of each code in the sorted `used`; any value for codes that are not there (NULL rows)."""
    if not len(used):
        return np.zeros(len(codes), dtype=np.int64)
    result: Array = table[np.minimum(np.searchsorted(used, codes), len(used) - 1)]
    return result


def order_values(column: Column) -> Array:
    """int64 per row that compare like the column's values; unspecified under NULL."""
    if column.type.is_float:
        return order_floats(column.values)
    if column.type.is_wide:
        numbers = numbers_of(column)
        if numbers.dtype != object:
            return numbers
    if column.dictionary is not None:
        return rank_codes([column])[0]
    return column.values.astype(np.int64, copy=False)


def sort_rows(columns: Sequence[Column], descending: Sequence[bool], nulls_first: Sequence[bool]) -> Array:
    """The row positions in sorted order; equal rows keep their order. Needs at least one column."""
    arrays: list[Array] = []
    for column, down, first in zip(columns, descending, nulls_first, strict=True):
        values = order_values(column)
        if down:
            values = ~values  # reverses the order of int64 without overflow
        if column.validity is not None and not column.validity.all():
            # Every NULL gets one value, so that later keys decide between NULLs.
            arrays.append(column.validity if first else ~column.validity)
            values = np.where(column.validity, values, 0)
        arrays.append(values)
    return _sorted(arrays)


def _sorted(arrays: list[Array]) -> Array:
    """The positions in the order of the first array, then of the next, then of the positions.

    Where the ranges are small enough, array values and position become one integer: sorting integers is several times
    as fast as sorting positions by them (0.7 against 2.5 s for 3 million rows by two keys).
    """
    count = len(arrays[0])
    if count < 2:
        return np.arange(count)
    lows = [int(array.min()) for array in arrays]
    spans = [int(array.max()) - low + 1 for array, low in zip(arrays, lows, strict=True)]
    room, place_bits = prod(spans), count.bit_length()
    if room >= _PACKED:
        return np.argsort(arrays[0], kind="stable") if len(arrays) == 1 else np.lexsort(arrays[::-1])
    packed = np.zeros(count, dtype=np.int64)
    for array, low, span in zip(arrays, lows, spans, strict=True):
        packed *= span
        packed += array.astype(np.int64, copy=False) - low
    if room << place_bits >= _PACKED:
        return np.argsort(packed, kind="stable")
    packed <<= place_bits
    packed |= np.arange(count)
    packed.sort()
    rows: Array = packed & ((1 << place_bits) - 1)
    return rows
