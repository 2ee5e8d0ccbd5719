"""One value of an encoded array, without decoding the others, where the encoding allows it."""

from __future__ import annotations

from bisect import bisect_left
from struct import Struct

import numpy as np

from eventdb.storage.format import NODE, U64, Kind
from eventdb.storage.sealed.nodes import MAX_DECIMALS, MAX_DEPTH, DamagedNode, decode, lane_bits, lane_count, length_of

_POWERS = [10.0**i for i in range(MAX_DECIMALS + 1)]
_DOUBLE = Struct("<d")
_FLOAT = Struct("<f")
_FEW = 4_096  # so many values, such as those of a dictionary, are decoded at once
_INT = {1: Struct("<B"), 2: Struct("<H"), 4: Struct("<I"), 8: U64}


class NoPoint(Exception):
    """A value of this array takes decoding all of them."""


def value_at(data: memoryview, row: int, count: int, item: int) -> int:
    """The bit pattern of value `row` of the array of `count` values of `item` bytes that `data` begins with: what
    `nodes.decode` gives at this place. DamagedNode; NoPoint."""
    return _at(data, 0, row, count, item, 0)


def _at(data: memoryview, at: int, row: int, count: int, item: int, depth: int) -> int:
    if depth > MAX_DEPTH or at + NODE.size > len(data):
        raise DamagedNode("an encoded array is cut or nested too deeply")
    kind, held, width, extra, rows, base, length, _ = NODE.unpack_from(data, at)
    base = int(base)
    start = at + NODE.size
    if held != item or rows != count or start + length > len(data):
        raise DamagedNode(f"{rows} values of {held} bytes in {length} bytes are not {count} of {item}")
    mask = (1 << 8 * item) - 1
    if kind == Kind.CONSTANT:
        return base & mask
    if kind == Kind.RAW:
        if length != count * item:
            raise DamagedNode(f"{length} bytes are not {count} values of {item}")
        return _number(_INT[item], data, start + row * item)
    if kind == Kind.PACKED:
        return _packed_at(data[start : start + length], row, count, item, width, base) & mask
    if kind == Kind.DELTA and _is_even(data, start):  # the sum of other steps takes all that come before
        return (base + (row + 1) * _at(data, start, 0, count, 8, depth + 1)) & mask
    if kind == Kind.RUNS and 0 < base <= _FEW:
        return _run_at(data, start, row, count, item, base, depth)
    if kind == Kind.DICTIONARY:
        if not 0 < base <= count:
            raise DamagedNode(f"a dictionary of {base} values for {count} rows")
        codes = start + length_of(data[start:])
        code = _at(data, codes, row, count, 4, depth + 1)
        if code >= base:
            raise DamagedNode("a code is not in its dictionary")
        return _at(data, start, code, base, item, depth + 1)
    if kind == Kind.SCALED:
        inner = _at(data, start, row, count, item, depth + 1)
        factor = _at(data, start + length_of(data[start:]), 0, 1, 8, depth + 1)
        return (inner * factor + base) & mask
    if kind == Kind.DECIMAL:
        if item not in (4, 8) or extra > MAX_DECIMALS:
            raise DamagedNode(f"decimals of {item} bytes with {extra} digits")
        number = _signed(_at(data, start, row, count, 8, depth + 1))
        packed = (_DOUBLE if item == 8 else _FLOAT).pack(number / _POWERS[extra])
        return int.from_bytes(packed, "little")
    if kind == Kind.PATCHED:
        return _patched_at(data, start, row, count, item, base, depth)
    if kind == Kind.SPLIT:
        if not 0 < width < 8 * item:
            raise DamagedNode(f"values of {8 * item} bits split at {width}")
        high = _at(data, start, row, count, item, depth + 1)
        low = _at(data, start + length_of(data[start:]), row, count, item, depth + 1)
        return int((high << width | low) & mask)
    if count > _FEW:
        raise NoPoint
    return int(decode(data[at:], count, item)[row])


def _number(form: Struct, data: memoryview, position: int) -> int:
    found: int = form.unpack_from(data, position)[0]
    return found


def _signed(value: int) -> int:
    return value - (value >> 63 << 64)


def _packed_at(body: memoryview, row: int, count: int, item: int, width: int, base: int) -> int:
    bits = lane_bits(item)
    lanes = lane_count(count, bits)
    if not 0 < width < bits or len(body) != lanes * width * bits // 8:
        raise DamagedNode(f"{len(body)} bytes are not {count} values of {width} bits")
    step, lane = divmod(row, lanes)
    at, shift = divmod(step * width, bits)
    form = _INT[bits // 8]
    value = _number(form, body, (at * lanes + lane) * form.size) >> shift
    if shift + width > bits:
        value |= _number(form, body, ((at + 1) * lanes + lane) * form.size) << bits - shift
    return (value & ((1 << width) - 1)) + base


def _run_at(data: memoryview, start: int, row: int, count: int, item: int, base: int, depth: int) -> int:
    ends = decode(data[start + length_of(data[start:]) :], base, 4).cumsum(dtype=np.int64)
    if int(ends[-1]) != count:
        raise DamagedNode("runs are longer or shorter than their rows")
    return _at(data, start, int(ends.searchsorted(row, side="right")), base, item, depth + 1)


def _is_even(data: memoryview, at: int) -> bool:
    return at < len(data) and data[at] == Kind.CONSTANT


def _patched_at(data: memoryview, start: int, row: int, count: int, item: int, base: int, depth: int) -> int:
    if not 0 < base <= count:
        raise DamagedNode(f"{base} exceptions among {count} values")
    rows = start + length_of(data[start:])
    values = rows + length_of(data[rows:])

    def exception(i: int) -> int:
        return _at(data, rows, i, base, 4, depth + 1)

    found = bisect_left(range(base), row, key=exception)
    if found < base and exception(found) == row:
        return _at(data, values, found, base, item, depth + 1)
    return _at(data, start, row, count, item, depth + 1)
