"""The cheapest encoding of an array: estimates from cheap statistics first, then the best two are made and compared.

A lightweight encoding is decoded an order of magnitude faster than zstd, so zstd has to save half to be chosen.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from eventdb.batch import Array
from eventdb.storage.format import NODE, Kind
from eventdb.storage.sealed.nodes import MAX_DECIMALS, SIGNED, UNSIGNED, lane_bits, lane_count

ZSTD_GAIN = 0.5  # of the size of the best lightweight encoding, in blocks of FULL_ROWS rows and more
SMALL_ZSTD_GAIN = 0.95  # in smaller blocks, where there is little to decode
FULL_ROWS = 1 << 15
_SAMPLE = 1024
_LEAST_ROWS = 16  # fewer values are packed as they are: no other node is smaller
_PLANES_LEAST_BYTES = 256
_SMALL_BYTES = 64 << 10
_EXACT = 2.0**53
_QUICK = 1  # zstd level to see whether it pays

_Option = tuple[float, Callable[[], bytes]]


def encode(values: Array) -> bytes:
    """A node that decodes to the very bits of `values`: integers, booleans or floats of 1 to 8 bytes."""
    if values.dtype.kind == "f":
        return _floats(values)
    return integers(values.view(SIGNED[values.dtype.itemsize]), 0)


def _node(kind: int, item: int, count: int, base: int, body: bytes, width: int = 0, extra: int = 0) -> bytes:
    if base >= 1 << 63:
        base -= 1 << 64
    head = NODE.pack(kind, item, width, extra, count, base, len(body), 0)
    return head + body + bytes(-len(body) % 8)


def integers(values: Array, depth: int) -> bytes:
    """The node of signed integers. `depth` is how many nodes it lies in."""
    count, item = len(values), values.dtype.itemsize
    if not count:
        return _node(Kind.CONSTANT, item, 0, 0, b"")
    low, high = int(values.min()), int(values.max())
    if low == high:
        return _node(Kind.CONSTANT, item, count, low, b"")
    width = (high - low).bit_length()
    options: list[_Option] = [(_packed_bytes(count, width, item), lambda: packed(values, low, width))]
    if count < _LEAST_ROWS:
        return options[0][1]()
    if depth == 0 and width > 8:
        factor = _common_factor(values, low)
        if factor > 1:
            return _scaled(values, low, factor)
    zstd = [values] if item * count >= _PLANES_LEAST_BYTES else []
    steps = _steps(values)
    if depth <= 1:
        _consider_runs(options, values, steps, width, depth)
        _consider_dictionary(options, values, width, depth)
    _consider_patches(options, values, low, width, depth)
    if depth == 0 or (depth == 1 and item == 8):
        step_low, step_high = int(steps[1:].min()), int(steps[1:].max())
        step_width = (step_high - step_low).bit_length()
        if step_width < width:
            zstd.append(steps)
        if step_width < width or _mostly_near(steps, width):
            options.append((_delta_bytes(steps, count, step_width), lambda: _delta(values, steps, depth)))
    _, make = min(options, key=lambda option: option[0])
    light = make()
    return _or_zstd(light, values, zstd, count, item)


def _packed_bytes(count: int, width: int, item: int) -> float:
    bits = lane_bits(item)
    return NODE.size + (count * item if width >= bits else lane_count(count, bits) * width * bits // 8)


def packed(values: Array, low: int, width: int) -> bytes:
    """Values of at most `width` bits above `low`, packed; the values as they are if that is no gain."""
    count, item = len(values), values.dtype.itemsize
    bits = lane_bits(item)
    if width >= bits or _packed_bytes(count, width, item) >= NODE.size + count * item:
        return _node(Kind.RAW, item, count, 0, np.ascontiguousarray(values).tobytes())
    dtype = UNSIGNED[bits // 8]
    lanes = lane_count(count, bits)
    rest = np.zeros(lanes * bits, dtype)
    wide = values.astype(SIGNED[bits // 8], copy=False).view(dtype)
    np.subtract(wide, dtype.type(low & ((1 << bits) - 1)), out=rest[:count])
    rows = rest.reshape(bits, lanes)
    words = np.zeros((width, lanes), dtype)
    for step in range(bits):
        at, shift = divmod(step * width, bits)
        words[at] |= rows[step] << dtype.type(shift)
        if shift + width > bits:
            words[at + 1] |= rows[step] >> dtype.type(bits - shift)
    return _node(Kind.PACKED, item, count, low, words.tobytes(), width)


def _steps(values: Array) -> Array:
    """int64 differences of neighbours, modulo 2**64; the first repeats the second, so that it is no outlier."""
    wide = values.astype(np.int64, copy=False).view(np.uint64)
    steps = np.empty(len(values), np.uint64)
    np.subtract(wide[1:], wide[:-1], out=steps[1:])
    steps[0] = steps[1]
    return steps.view(np.int64)


def _common_factor(values: Array, low: int) -> int:
    """The greatest number that divides every difference to `low`."""
    apart = values.astype(np.int64, copy=False).view(np.uint64) - np.uint64(low & ((1 << 64) - 1))
    if int(np.gcd.reduce(apart[:: max(1, len(apart) // _SAMPLE)])) == 1:
        return 1
    factor = int(np.gcd.reduce(apart))
    return factor if factor < 1 << 63 else 1


def _scaled(values: Array, low: int, factor: int) -> bytes:
    item = values.dtype.itemsize
    apart = values.astype(np.int64, copy=False).view(np.uint64) - np.uint64(low & ((1 << 64) - 1))
    inner = (apart // np.uint64(factor)).astype(UNSIGNED[item]).view(SIGNED[item])
    number = _node(Kind.CONSTANT, 8, 1, factor, b"")
    return _node(Kind.SCALED, item, len(values), low, integers(inner, 1) + number)


def _consider_runs(options: list[_Option], values: Array, steps: Array, width: int, depth: int) -> None:
    count = len(values)
    starts = np.flatnonzero(steps[1:])
    runs = len(starts) + 1
    if runs * 4 > count:
        return

    def make() -> bytes:
        bounds = np.concatenate(([0], starts + 1, [count]))
        lengths = np.diff(bounds).astype(np.int32)
        body = integers(np.ascontiguousarray(values[bounds[:-1]]), depth + 1) + integers(lengths, depth + 1)
        return _node(Kind.RUNS, values.dtype.itemsize, count, runs, body)

    bits = max(1, (count // runs).bit_length() + 1)
    options.append((3 * NODE.size + runs * (min(width, 8 * values.dtype.itemsize) + bits) / 8, make))


def distinct_count(values: Array) -> int:
    """How many different values there are: exact if few, else estimated from a sample."""
    sample = values[:: max(1, len(values) // _SAMPLE)]
    seen = len(np.unique(sample))
    if len(sample) == len(values):
        return seen
    if seen * 2 > len(sample):
        return max(seen, len(values) * seen // len(sample))
    return len(np.unique(values))


def _consider_dictionary(options: list[_Option], values: Array, width: int, depth: int) -> None:
    count, item = len(values), values.dtype.itemsize
    if width <= 4 or item == 1:
        return
    sample = values[:: max(1, count // _SAMPLE)]
    if len(np.unique(sample)) * 2 > len(sample):
        return
    found, codes = np.unique(values, return_inverse=True)
    if len(found) * 4 > count:
        return
    bits = (len(found) - 1).bit_length()

    def make() -> bytes:
        body = integers(found, depth + 1) + integers(codes.astype(np.int32).reshape(-1), depth + 1)
        return _node(Kind.DICTIONARY, item, count, len(found), body)

    options.append((3 * NODE.size + len(found) * min(width, 8 * item) / 8 + count * bits / 8, make))


def _consider_patches(options: list[_Option], values: Array, low: int, width: int, depth: int) -> None:
    """A narrower window of values, and exceptions outside it."""
    count = len(values)
    if width <= 2 or depth > 2:
        return
    best: tuple[float, int, int] | None = None
    sample = values[:: max(1, count // (4 * _SAMPLE))]
    share = count / len(sample)
    for base in {low, int(np.partition(sample, len(sample) // 200)[len(sample) // 200])}:
        lengths = np.frexp((sample.astype(np.float64) - base).clip(0.0))[1]
        below = int(np.count_nonzero(sample < base))
        fitting = np.cumsum(np.bincount(lengths, minlength=65))
        for bits in range(width - 1):
            outside = (len(sample) - int(fitting[bits]) + below) * share
            if outside * 8 > count:
                continue
            cost = 3 * NODE.size + count * bits / 8 + outside * (2 + width / 8)
            if best is None or cost < best[0]:
                best = cost, base, bits
    if best is None:
        return
    cost, base, bits = best

    def make() -> bytes:
        apart = values.astype(np.int64, copy=False).view(np.uint64) - np.uint64(base & ((1 << 64) - 1))
        outside = apart >> np.uint64(bits) != 0
        if not outside.any() or outside.all():
            return packed(values, low, width)
        return _patch(values, np.flatnonzero(outside), values.dtype.type(base), depth)

    options.append((cost, make))


def _patch(values: Array, rows: Array, filler: Any, depth: int) -> bytes:
    inside = values.copy()
    inside[rows] = filler
    low, high = int(inside.min()), int(inside.max())
    count, item = len(values), values.dtype.itemsize
    body = (
        _node(Kind.CONSTANT, item, count, low, b"")
        if low == high
        else packed(inside, low, (high - low).bit_length())
    )  # fmt: skip
    return _patched(body, values[rows], rows, count, depth)


def _patched(body: bytes, exceptions: Array, rows: Array, count: int, depth: int) -> bytes:
    item = exceptions.dtype.itemsize
    body += integers(rows.astype(np.int32), depth + 2) + integers(exceptions, depth + 2)
    return _node(Kind.PATCHED, item, count, len(rows), body)


def _mostly_near(steps: Array, width: int) -> bool:
    """Whether most differences are small, though some are not."""
    middle = np.partition(np.abs(steps[:: max(1, len(steps) // _SAMPLE)]), -1)
    return int(np.median(middle)).bit_length() + 2 < width


def _delta_bytes(steps: Array, count: int, step_width: int) -> float:
    if step_width == 0:
        return 2 * NODE.size
    near = int(np.quantile(np.abs(steps[:: max(1, count // _SAMPLE)]).astype(np.float64), 0.98)).bit_length() + 1
    return 2 * NODE.size + count * min(near + 0.6, step_width) / 8


def _delta(values: Array, steps: Array, depth: int) -> bytes:
    base = (int(values[0]) - int(steps[0])) & ((1 << 64) - 1)
    return _node(Kind.DELTA, values.dtype.itemsize, len(values), base, integers(steps, max(depth + 1, 2)))


def _or_zstd(light: bytes, values: Array, sources: list[Array], count: int, item: int) -> bytes:
    """`light`, or the bytes of the values or of their differences compressed, if that is much smaller."""
    if len(light) < _PLANES_LEAST_BYTES:
        return light
    gain = ZSTD_GAIN if count >= FULL_ROWS else SMALL_ZSTD_GAIN
    best, chosen = light, None
    for source in sources:
        made = _planes(source, _QUICK) if source is values else _delta_planes(values, source, _QUICK)
        if len(made) < len(best):
            best, chosen = made, source
    if chosen is None or len(best) * 0.95 > len(light) * gain:
        return light
    best = _planes(chosen) if chosen is values else _delta_planes(values, chosen)
    return best if len(best) < len(light) * gain else light


def zstd_level(size_bytes: int) -> int:
    """The level for so many bytes: what is small can take its time."""
    return 19 if size_bytes < _SMALL_BYTES else 9


def _planes(values: Array, level: int | None = None) -> bytes:
    from eventdb.arrow import compress_zstd

    low, high = int(values.min()), int(values.max())
    item = values.dtype.itemsize
    size = max(1, -(-(high - low).bit_length() // 8))
    apart = values.view(UNSIGNED[item]) - UNSIGNED[item].type(low & ((1 << 8 * item) - 1))
    planes = np.ascontiguousarray(apart.view(np.uint8).reshape(len(values), item)[:, :size].T)
    body = compress_zstd(planes, level or zstd_level(planes.nbytes))
    return _node(Kind.PLANES, item, len(values), low, body, 8 * size)


def _delta_planes(values: Array, steps: Array, level: int | None = None) -> bytes:
    base = (int(values[0]) - int(steps[0])) & ((1 << 64) - 1)
    return _node(Kind.DELTA, values.dtype.itemsize, len(values), base, _planes(steps, level))


# -- doubles and floats ----------------------------------------------------------------------------


def _floats(values: Array) -> bytes:
    """Doubles that are short decimals become integers; others are split into a compressible and a random part."""
    item = values.dtype.itemsize
    bits = values.view(SIGNED[item])
    candidates = [integers(bits, 0)]
    if len(values) >= _LEAST_ROWS and len(candidates[0]) > 2 * NODE.size:
        made = _decimals(values)
        if made is not None:
            candidates.append(made)
        else:
            candidates.append(_split(bits))
    return min(candidates, key=len)


def _decimals(values: Array) -> bytes | None:
    sample = values[:: max(1, len(values) // _SAMPLE)]
    with np.errstate(all="ignore"):
        digits = _decimal_digits(sample)
        if digits is None:
            return None
        numbers, good = _as_decimals(values, digits)
    rows = np.flatnonzero(~good)
    if len(rows) * 4 > len(values):
        return None
    if len(rows):
        # An exception takes its neighbour's number, so that it widens nothing.
        last = np.maximum.accumulate(np.where(good, np.arange(len(values)), 0))
        numbers = numbers[last] if good[0] else np.where(good[last], numbers[last], numbers[np.argmax(good)])
    item = values.dtype.itemsize
    body = _node(Kind.DECIMAL, item, len(values), 0, integers(numbers, 1), extra=digits)
    if not len(rows):
        return body
    return _patched(body, values.view(SIGNED[item])[rows], rows, len(values), 0)


def _decimal_digits(sample: Array) -> int | None:
    """Digits after the point that make most of the sample integers; None if no number of digits does."""
    best, most = 0, 0
    for digits in range(MAX_DECIMALS - 4):
        count = int(np.count_nonzero(_as_decimals(sample, digits)[1]))
        if count > most * 1.02:
            best, most = digits, count
        if most == len(sample):
            break
    return best if most * 4 >= len(sample) * 3 else None


def _as_decimals(values: Array, digits: int) -> tuple[Array, Array]:
    """(int64 numbers, whether number / 10**digits is the very value)."""
    power = 10.0**digits
    scaled = np.rint(values.astype(np.float64) * power)
    good = np.abs(scaled) < _EXACT
    numbers = np.where(good, scaled, 0.0).astype(np.int64)
    back = (numbers / power).astype(values.dtype)
    unsigned = UNSIGNED[values.dtype.itemsize]
    good &= back.view(unsigned) == values.view(unsigned)
    return numbers, good


def _split(bits: Array) -> bytes:
    """High bits, which repeat, and low bits, which do not, each for themselves."""
    item = bits.dtype.itemsize
    unsigned = UNSIGNED[item]
    unsigned_bits = bits.view(unsigned)
    sample = unsigned_bits[:: max(1, len(bits) // (4 * _SAMPLE))]
    choices = (52, 48, 44) if item == 8 else (23, 20, 16)
    costs = []
    for n in choices:
        seen = len(np.unique(sample >> unsigned.type(n)))
        costs.append((n + (seen - 1).bit_length() + 16 * item * seen / len(bits), n))  # bits a value, dictionary too
    low_bits = min(costs)[1]
    high = (unsigned_bits >> unsigned.type(low_bits)).view(bits.dtype)
    low = (unsigned_bits & unsigned.type((1 << low_bits) - 1)).view(bits.dtype)
    body = integers(high, 1) + packed(low, 0, low_bits)
    return _node(Kind.SPLIT, item, len(bits), 0, body, low_bits)
