"""Encoded arrays of integers and doubles, and their decoder. format.py says what each kind of node is.

A node is decoded by NumPy alone, or with the kernels of `eventdb.kernels` where they are given: NumPy is the oracle
and what a process uses that reads only a few blocks, Numba is what one uses that reads many.

Whatever bytes come, decoding ends with `count` values or with DamagedNode: every length is checked against the bytes
there are before they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from eventdb.storage.format import (
    NODE,
    NODE_CONSTANT,
    NODE_DECIMAL,
    NODE_DELTA,
    NODE_DICTIONARY,
    NODE_PACKED,
    NODE_PATCHED,
    NODE_PLANES,
    NODE_RAW,
    NODE_RUNS,
    NODE_SCALED,
    NODE_SPLIT,
    align,
)

if TYPE_CHECKING:
    from eventdb.batch import Array

MAX_DEPTH = 6
MAX_DECIMALS = 22  # powers of ten up to this one are exact doubles
UNSIGNED: dict[int, Any] = {1: np.dtype("<u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}
_POWERS = [10.0**i for i in range(MAX_DECIMALS + 1)]


class DamagedNode(Exception):
    """The bytes are no encoded array of the size asked for."""


class Kernels:
    """The compiled decoders. Making one imports Numba and compiles or loads them."""

    def __init__(self) -> None:
        from eventdb.kernels import decimals, lookup, packing, prefix, runs

        for family in (decimals, lookup, packing, prefix, runs):
            family.warm()
        self.unpack64, self.unpack32 = packing.unpack64, packing.unpack32
        self.accumulate = prefix.accumulate
        self.expand = runs.expand
        self.divide = decimals.divide
        self.gather, self.join64 = lookup.gather, lookup.join64


def lane_bits(item: int) -> int:
    """Width of the lanes that values of `item` bytes are packed in."""
    return 64 if item == 8 else 32


def lane_count(count: int, bits: int) -> int:
    return -(-count // bits)


def decode(data: memoryview, count: int, item: int, kernels: Kernels | None = None) -> Array:
    """The `count` values of `item` bytes that `data` begins with, as an unsigned array (bit patterns)."""
    try:
        return _Decoder(kernels).node(data, 0, count, item, 0)[0]
    except (ValueError, IndexError, OverflowError) as error:  # NumPy's words for sizes that do not fit
        raise DamagedNode(str(error)) from error


def length_of(data: memoryview) -> int:
    """Bytes the node that `data` begins with takes, padding included."""
    if len(data) < NODE.size:
        raise DamagedNode("an encoded array is cut")
    return NODE.size + align(NODE.unpack_from(data)[6], 8)


def decompress(data: memoryview, size_bytes: int) -> bytes:
    """What was compressed with zstd, exactly `size_bytes` of it."""
    from eventdb.arrow import decompress_zstd

    found = decompress_zstd(data, size_bytes)
    if found is None:
        raise DamagedNode(f"{len(data)} compressed bytes are not {size_bytes} bytes")
    return found


class _Decoder:
    def __init__(self, kernels: Kernels | None) -> None:
        self.kernels = kernels

    def node(self, data: memoryview, at: int, count: int, item: int, depth: int) -> tuple[Array, int]:
        """(values, where the next node begins). The node must hold exactly `count` values of `item` bytes."""
        if depth > MAX_DEPTH or at + NODE.size > len(data):
            raise DamagedNode("an encoded array is cut or nested too deeply")
        kind, held, width, extra, rows, base, length, raw_bytes = NODE.unpack_from(data, at)
        start = at + NODE.size
        if held != item or rows != count or start + length > len(data):
            raise DamagedNode(f"{rows} values of {held} bytes in {length} bytes are not {count} of {item}")
        body = data[start : start + length]
        read = _READERS.get(kind)
        if read is None:
            raise DamagedNode(f"unknown encoding {kind}")
        return read(self, body, count, item, width, extra, base, raw_bytes, depth + 1), start + align(length, 8)

    def constant(self, body: memoryview, count: int, item: int, width: int, extra: int, base: int, raw_bytes: int,
                 depth: int) -> Array:  # fmt: skip
        return np.full(count, base & ((1 << 8 * item) - 1), UNSIGNED[item])

    def raw(self, body: memoryview, count: int, item: int, width: int, extra: int, base: int, raw_bytes: int,
            depth: int) -> Array:  # fmt: skip
        if len(body) != count * item:
            raise DamagedNode(f"{len(body)} bytes are not {count} values of {item}")
        return np.frombuffer(body, UNSIGNED[item])

    def packed(self, body: memoryview, count: int, item: int, width: int, extra: int, base: int, raw_bytes: int,
               depth: int) -> Array:  # fmt: skip
        bits = lane_bits(item)
        lanes = lane_count(count, bits)
        if not 0 < width < bits or len(body) != lanes * width * bits // 8:
            raise DamagedNode(f"{len(body)} bytes are not {count} values of {width} bits")
        dtype = UNSIGNED[bits // 8]
        words = np.frombuffer(body, dtype)
        start = dtype.type(base & ((1 << bits) - 1))
        if self.kernels is None:
            out = unpack(words, lanes, width, start, count)
        else:
            out = np.empty(count, dtype)
            (self.kernels.unpack64 if bits == 64 else self.kernels.unpack32)(words, lanes, width, start, out)
        return out if item >= 4 else out.astype(UNSIGNED[item])

    def delta(self, body: memoryview, count: int, item: int, width: int, extra: int, base: int, raw_bytes: int,
              depth: int) -> Array:  # fmt: skip
        steps, _ = self.node(body, 0, count, 8, depth)
        out = steps if steps.flags.writeable else steps.copy()
        first = np.uint64(base & ((1 << 64) - 1))
        if self.kernels is None:
            np.cumsum(out, out=out)
            out += first
        else:
            self.kernels.accumulate(out, first)
        return out if item == 8 else out.astype(UNSIGNED[item])

    def runs(self, body: memoryview, count: int, item: int, width: int, extra: int, base: int, raw_bytes: int,
             depth: int) -> Array:  # fmt: skip
        if not 0 < base <= count:
            raise DamagedNode(f"{base} runs of {count} values")
        values, at = self.node(body, 0, base, item, depth)
        lengths, _ = self.node(body, at, base, 4, depth)
        if self.kernels is not None and item >= 4:
            out = np.empty(count, np.int64 if item == 8 else np.int32)
            if self.kernels.expand(_frozen(values.view(out.dtype)), _frozen(lengths.view(np.int32)), out) < 0:
                raise DamagedNode("runs are longer or shorter than their rows")
            return out.view(UNSIGNED[item])
        if int(lengths.sum(dtype=np.uint64)) != count:
            raise DamagedNode("runs are longer or shorter than their rows")
        return np.repeat(values, lengths.astype(np.int64))

    def dictionary(self, body: memoryview, count: int, item: int, width: int, extra: int, base: int, raw_bytes: int,
                   depth: int) -> Array:  # fmt: skip
        if not 0 < base <= count:
            raise DamagedNode(f"a dictionary of {base} values for {count} rows")
        values, at = self.node(body, 0, base, item, depth)
        codes, _ = self.node(body, at, count, 4, depth)
        if self.kernels is not None and item >= 4:
            out = np.empty(count, np.int64 if item == 8 else np.int32)
            if self.kernels.gather(_frozen(values.view(out.dtype)), _frozen(codes.view(np.int32)), out) < 0:
                raise DamagedNode("a code is not in its dictionary")
            return out.view(UNSIGNED[item])
        taken: Array = values.take(codes.astype(np.int64), mode="raise")
        return taken

    def planes(self, body: memoryview, count: int, item: int, width: int, extra: int, base: int, raw_bytes: int,
               depth: int) -> Array:  # fmt: skip
        size = width // 8
        if not 0 < size <= item or width % 8:
            raise DamagedNode(f"{size} bytes of values of {item}")
        planes = np.frombuffer(decompress(body, size * count), np.uint8).reshape(size, count)
        if size == 1:
            out: Array = planes[0].astype(UNSIGNED[item])
        else:
            wide = np.zeros((count, item), np.uint8)
            for i in range(size):
                wide[:, i] = planes[i]
            out = wide.reshape(-1).view(UNSIGNED[item])
        if base:
            out += UNSIGNED[item].type(base & ((1 << 8 * item) - 1))
        return out

    def patched(self, body: memoryview, count: int, item: int, width: int, extra: int, base: int, raw_bytes: int,
                depth: int) -> Array:  # fmt: skip
        if not 0 < base <= count:
            raise DamagedNode(f"{base} exceptions among {count} values")
        out, at = self.node(body, 0, count, item, depth)
        positions, at = self.node(body, at, base, 4, depth)
        values, _ = self.node(body, at, base, item, depth)
        if int(positions.max()) >= count:
            raise DamagedNode("an exception lies behind the last row")
        if not out.flags.writeable:
            out = out.copy()
        out[positions] = values
        return out

    def scaled(self, body: memoryview, count: int, item: int, width: int, extra: int, base: int, raw_bytes: int,
               depth: int) -> Array:  # fmt: skip
        inner, at = self.node(body, 0, count, item, depth)
        factor, _ = self.node(body, at, 1, 8, depth)
        out = inner if inner.flags.writeable else inner.copy()
        out *= factor.astype(out.dtype)[0]
        out += UNSIGNED[item].type(base & ((1 << 8 * item) - 1))
        return out

    def decimal(self, body: memoryview, count: int, item: int, width: int, extra: int, base: int, raw_bytes: int,
                depth: int) -> Array:  # fmt: skip
        if item not in (4, 8) or extra > MAX_DECIMALS:
            raise DamagedNode(f"decimals of {item} bytes with {extra} digits")
        numbers, _ = self.node(body, 0, count, 8, depth)
        signed = numbers.view(np.int64)
        if self.kernels is None:
            out = signed / _POWERS[extra]
        else:
            out = np.empty(count, np.float64)
            self.kernels.divide(_frozen(signed), _POWERS[extra], out)
        return out.view(np.uint64) if item == 8 else out.astype(np.float32).view(np.uint32)

    def split(self, body: memoryview, count: int, item: int, width: int, extra: int, base: int, raw_bytes: int,
              depth: int) -> Array:  # fmt: skip
        if not 0 < width < 8 * item:
            raise DamagedNode(f"values of {8 * item} bits split at {width}")
        high, at = self.node(body, 0, count, item, depth)
        low, _ = self.node(body, at, count, item, depth)
        out = high if high.flags.writeable else high.copy()
        if self.kernels is not None and item == 8:
            self.kernels.join64(out, _frozen(low), width)
        else:
            out <<= UNSIGNED[item].type(width)
            out |= low
        return out


def _frozen(array: Array) -> Array:
    """A read-only array: a writable one would compile every kernel a second time."""
    view = array.view()
    view.flags.writeable = False
    return view


def unpack(words: Array, lanes: int, width: int, base: Any, count: int) -> Array:
    """What kernels.packing does, by NumPy."""
    bits = words.dtype.itemsize * 8
    kind = words.dtype.type
    mask = kind((1 << width) - 1)
    rows = words.reshape(width, lanes)
    out = np.empty((lane_count(count, max(lanes, 1)) if lanes else 0, lanes), words.dtype)
    for step in range(len(out)):
        at, shift = divmod(step * width, bits)
        target = out[step]
        np.right_shift(rows[at], kind(shift), out=target)
        if shift + width > bits:
            target |= rows[at + 1] << kind(bits - shift)
        target &= mask
    if base:
        out += base
    found: Array = out.reshape(-1)[:count]
    return found


_READERS: dict[int, Any] = {
    NODE_CONSTANT: _Decoder.constant,
    NODE_RAW: _Decoder.raw,
    NODE_PACKED: _Decoder.packed,
    NODE_DELTA: _Decoder.delta,
    NODE_RUNS: _Decoder.runs,
    NODE_DICTIONARY: _Decoder.dictionary,
    NODE_PLANES: _Decoder.planes,
    NODE_PATCHED: _Decoder.patched,
    NODE_SCALED: _Decoder.scaled,
    NODE_DECIMAL: _Decoder.decimal,
    NODE_SPLIT: _Decoder.split,
}
