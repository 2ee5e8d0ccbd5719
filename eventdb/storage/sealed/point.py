"""One value of an encoded array, without decoding the others, where the encoding allows it.

A node's head and sizes are looked at once, when its reader is made; a reader then takes a microsecond a value, and
holds no more than a view of the encoded bytes and a few numbers.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable
from struct import Struct

import numpy as np

from eventdb.storage.format import NODE, U64, Kind
from eventdb.storage.sealed.nodes import (
    MAX_DECIMALS,
    MAX_DEPTH,
    UNSIGNED,
    DamagedNode,
    decode,
    lane_bits,
    lane_count,
    length_of,
)

Reader = Callable[[int], int]
"""The bit pattern of the value in a row."""
_POWERS = [10.0**i for i in range(MAX_DECIMALS + 1)]
_DOUBLE = Struct("<d")
_FLOAT = Struct("<f")
_FEW = 512  # so many runs or steps that differ are decoded, and kept, at once
_INT = {1: Struct("<B"), 2: Struct("<H"), 4: Struct("<I"), 8: U64}


class NoPoint(Exception):
    """A value of this array takes decoding all of them."""


def reader_of(data: memoryview, count: int, item: int) -> Reader:
    """Reads any of the `count` values of `item` bytes of the array that `data` begins with: what `nodes.decode` gives
    at this place. DamagedNode, also of the reader; NoPoint."""
    return _reader(data, 0, count, item, 0)


def _reader(data: memoryview, at: int, count: int, item: int, depth: int) -> Reader:
    if depth > MAX_DEPTH or at + NODE.size > len(data):
        raise DamagedNode("an encoded array is cut or nested too deeply")
    kind, held, width, extra, rows, base, length, _ = NODE.unpack_from(data, at)
    base = int(base)
    start = at + NODE.size
    if held != item or rows != count or start + length > len(data):
        raise DamagedNode(f"{rows} values of {held} bytes in {length} bytes are not {count} of {item}")
    mask = (1 << 8 * item) - 1
    if kind == Kind.CONSTANT:
        return lambda row: base & mask
    if kind == Kind.RAW:
        if length != count * item:
            raise DamagedNode(f"{length} bytes are not {count} values of {item}")
        number = _INT[item].unpack_from
        return lambda row: int(number(data, start + row * item)[0])
    if kind == Kind.PACKED:
        return _packed(data[start : start + length], count, item, width, base, mask)
    if kind == Kind.DELTA:
        return _sums(data, start, count, base, mask, depth + 1)
    if kind == Kind.RUNS and 0 < base <= _FEW:
        return _runs(data, start, count, item, base, depth + 1)
    if kind == Kind.DICTIONARY:
        if not 0 < base <= count:
            raise DamagedNode(f"a dictionary of {base} values for {count} rows")
        value = _reader(data, start, base, item, depth + 1)
        code = _reader(data, start + length_of(data[start:]), count, 4, depth + 1)

        def found(row: int) -> int:
            place = code(row)
            if place >= base:
                raise DamagedNode("a code is not in its dictionary")
            return value(place)

        return found
    if kind == Kind.SCALED:
        inner = _reader(data, start, count, item, depth + 1)
        factor = _reader(data, start + length_of(data[start:]), 1, 8, depth + 1)(0)
        return lambda row: (inner(row) * factor + base) & mask
    if kind == Kind.DECIMAL:
        if item not in (4, 8) or extra > MAX_DECIMALS:
            raise DamagedNode(f"decimals of {item} bytes with {extra} digits")
        inner, power, form = _reader(data, start, count, 8, depth + 1), _POWERS[extra], _DOUBLE if item == 8 else _FLOAT
        return lambda row: int.from_bytes(form.pack(_signed(inner(row)) / power), "little")
    if kind == Kind.PATCHED:
        return _patched(data, start, count, item, base, depth + 1)
    if kind == Kind.SPLIT:
        if not 0 < width < 8 * item:
            raise DamagedNode(f"values of {8 * item} bits split at {width}")
        high = _reader(data, start, count, item, depth + 1)
        low = _reader(data, start + length_of(data[start:]), count, item, depth + 1)
        return lambda row: (high(row) << width | low(row)) & mask
    return _few(data[at:], count, item)


def _few(data: memoryview, count: int, item: int) -> Reader:
    """Reads a short array of any kind."""
    if count > _FEW:
        raise NoPoint
    values: list[int] = decode(data, count, item).tolist()
    return values.__getitem__


def _signed(value: int) -> int:
    return value - (value >> 63 << 64)


def _packed(body: memoryview, count: int, item: int, width: int, base: int, mask: int) -> Reader:
    bits = lane_bits(item)
    lanes = lane_count(count, bits)
    if not 0 < width < bits or len(body) != lanes * width * bits // 8:
        raise DamagedNode(f"{len(body)} bytes are not {count} values of {width} bits")
    size, low = bits // 8, (1 << width) - 1
    number = _INT[size].unpack_from

    def found(row: int) -> int:
        step, lane = divmod(row, lanes)
        at, shift = divmod(step * width, bits)
        value: int = number(body, (at * lanes + lane) * size)[0] >> shift
        if shift + width > bits:
            value |= number(body, ((at + 1) * lanes + lane) * size)[0] << bits - shift
        return ((value & low) + base) & mask

    return found


def _runs(data: memoryview, start: int, count: int, item: int, runs: int, depth: int) -> Reader:
    ends: list[int] = decode(data[start + length_of(data[start:]) :], runs, 4).cumsum(dtype=np.int64).tolist()
    if ends[-1] != count:
        raise DamagedNode("runs are longer or shorter than their rows")
    value = _reader(data, start, runs, item, depth)
    return lambda row: value(bisect_right(ends, row))


def _sums(data: memoryview, at: int, count: int, first: int, mask: int, depth: int) -> Reader:
    """Reads `first` and the sum of the steps up to a row, where a sum does not take all steps before."""
    if at + NODE.size > len(data):
        raise DamagedNode("an encoded array is cut")
    kind, _, width, _, _, base, length, _ = NODE.unpack_from(data, at)
    body = at + NODE.size
    if kind == Kind.CONSTANT:
        step = _reader(data, at, count, 8, depth)(0)
        return lambda row: (first + (row + 1) * step) & mask
    if kind == Kind.PATCHED and body < len(data) and data[body] == Kind.CONSTANT and 0 < base <= _FEW:
        step = _reader(data, body, count, 8, depth + 1)(0)
        rows_at = body + length_of(data[body:])
        rows: list[int] = decode(data[rows_at:], base, 4).tolist()
        others = decode(data[rows_at + length_of(data[rows_at:]) :], base, 8).cumsum(dtype=np.uint64)
        sums = [0, *others.tolist()]

        def found(row: int) -> int:
            before = bisect_right(rows, row)
            total: int = first + (row + 1 - before) * step + sums[before]
            return total & mask

        return found
    if kind == Kind.PACKED and count > _FEW:
        _reader(data, at, count, 8, depth)  # the head is right
        return _packed_sums(data[at : body + length], count, width, base, first, mask)
    steps = _few(data[at:], count, 8)
    return lambda row: (first + sum(map(steps, range(row + 1)))) & mask


def _packed_sums(node: memoryview, count: int, width: int, base: int, first: int, mask: int) -> Reader:
    """The sums where a lane's first value begins are kept, 64 of them; from there on steps are added."""
    bits = 64
    lanes = lane_count(count, bits)
    words = np.frombuffer(node[NODE.size :], UNSIGNED[8]).reshape(width, lanes)
    low = np.uint64((1 << width) - 1)
    totals = np.add.reduceat(decode(node, count, 8), np.arange(0, count, lanes), dtype=np.uint64)
    before = [first, *(totals.cumsum(dtype=np.uint64)[:-1] + np.uint64(first & ((1 << 64) - 1))).tolist()]

    def found(row: int) -> int:
        step, lane = divmod(row, lanes)
        at, shift = divmod(step * width, bits)
        steps = words[at, : lane + 1] >> np.uint64(shift)
        if shift + width > bits:
            steps = steps | words[at + 1, : lane + 1] << np.uint64(bits - shift)
        total: int = before[step] + int((steps & low).sum()) + (lane + 1) * base
        return total & mask

    return found


def _patched(data: memoryview, start: int, count: int, item: int, base: int, depth: int) -> Reader:
    if not 0 < base <= count:
        raise DamagedNode(f"{base} exceptions among {count} values")
    rows = start + length_of(data[start:])
    ordinary = _reader(data, start, count, item, depth)
    exception = _reader(data, rows, base, 4, depth)
    value = _reader(data, rows + length_of(data[rows:]), base, item, depth)

    def found(row: int) -> int:
        place = bisect_left(range(base), row, key=exception)
        return value(place) if place < base and exception(place) == row else ordinary(row)

    return found
