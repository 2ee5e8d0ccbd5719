"""Encoded arrays of integers and doubles, and their decoder. format.py says what each kind of node is.

A node is decoded by NumPy alone, or with the kernels of `eventdb.kernels` where they are given: NumPy is the oracle
and what a process uses that reads only a few blocks, Numba is what one uses that reads many.

Whatever bytes come, decoding ends with `count` values or with DamagedNode: every length is checked against the bytes
there are before they are used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple
from zlib import crc32

import numpy as np

from eventdb.storage.format import NODE, Kind, align
from eventdb.storage.sealed.buffers import BUFFERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventdb.batch import Array

MAX_DEPTH = 6
MAX_DECIMALS = 22  # powers of ten up to this one are exact doubles
UNSIGNED: dict[int, Any] = {1: np.dtype("<u1"), 2: np.dtype("<u2"), 4: np.dtype("<u4"), 8: np.dtype("<u8")}
SIGNED: dict[int, Any] = {1: np.dtype("<i1"), 2: np.dtype("<i2"), 4: np.dtype("<i4"), 8: np.dtype("<i8")}
_DOUBLE = np.dtype("<f8")
_POWERS = [10.0**i for i in range(MAX_DECIMALS + 1)]


class DamagedNode(Exception):
    """The bytes are no encoded array of the size asked for."""


class Kernels:
    """The compiled decoders. Making one imports Numba and compiles or loads them."""

    def __init__(self) -> None:
        from eventdb.kernels import checksum, decimals, lookup, packing, planes, prefix, runs

        for family in (decimals, lookup, packing, planes, prefix, runs):
            family.warm()
        self.checksum: Callable[[memoryview], int] = crc32
        if checksum.is_supported():
            checksum.warm()
            self.checksum = checksum.checksum
        self.unpack, self.join_planes = packing.unpack, planes.join_planes
        self.accumulate, self.steps = prefix.accumulate, prefix.steps
        self.expand = runs.expand
        self.divide, self.rescale = decimals.divide, decimals.rescale
        self.gather, self.join64 = lookup.gather, lookup.join64


def checksum_of(kernels: Kernels | None) -> Callable[[memoryview], int]:
    """The quickest CRC-32 there is."""
    return crc32 if kernels is None else kernels.checksum


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


def packed_parts(data: memoryview, count: int, item: int, row: int) -> tuple[Array, Array] | None:
    """(words, int64 shape) of a column of kernels/tiles.py from row `row` on, if `data` is a node that can be read so:
    packed values of 4 or 8 bytes or, from the first row on, packed differences of 8."""
    kind, first, at = 1, 0, 0
    head = _head(data, 0)
    if head[0] == Kind.DELTA and item == 8 and row == 0 and (head[1], head[4]) == (item, count):
        kind, first, at = 2, head[5], NODE.size
        head = _head(data, at)
    if head[0] != Kind.PACKED or item < 4:
        return None
    _, held, width, _, rows, base, length, _ = head
    bits = 8 * item
    lanes = lane_count(count, bits)
    body = data[at + NODE.size : at + NODE.size + length]
    if (held, rows) != (item, count) or not 0 < width < bits or len(body) != lanes * width * bits // 8:
        raise DamagedNode(f"{len(body)} bytes are not {count} values of {width} bits")
    shape = np.array([kind, lanes, width, base, row, first], np.int64)
    shape.flags.writeable = False
    return np.frombuffer(body, UNSIGNED[item]), shape


def _head(data: memoryview, at: int) -> tuple[Any, ...]:
    if len(data) < at + NODE.size:
        raise DamagedNode("an encoded array is cut")
    return NODE.unpack_from(data, at)


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


class _Node(NamedTuple):
    """The head of a node and its payload. `depth` is how many nodes it lies in."""

    body: memoryview
    rows: int
    item: int
    width: int
    extra: int
    base: int
    depth: int

    def low(self, bits: int) -> int:
        """`base` modulo 2**bits."""
        return self.base & ((1 << bits) - 1)


class _Decoder:
    def __init__(self, kernels: Kernels | None) -> None:
        self.kernels = kernels

    def node(self, data: memoryview, at: int, count: int, item: int, depth: int) -> tuple[Array, int]:
        """(values, where the next node begins). The node must hold exactly `count` values of `item` bytes. The array
        is writable, unless it is a view of `data`."""
        kind, node, after = self.head(data, at, count, item, depth)
        read = _READERS.get(kind)
        if read is None:
            raise DamagedNode(f"unknown encoding {kind}")
        return read(self, node), after

    def head(self, data: memoryview, at: int, count: int, item: int, depth: int) -> tuple[int, _Node, int]:
        """(kind, the node, where the next one begins) of a node as `node` takes it. Decodes nothing."""
        if depth > MAX_DEPTH or at + NODE.size > len(data):
            raise DamagedNode("an encoded array is cut or nested too deeply")
        kind, held, width, extra, rows, base, length, _ = NODE.unpack_from(data, at)
        start = at + NODE.size
        if held != item or rows != count or start + length > len(data):
            raise DamagedNode(f"{rows} values of {held} bytes in {length} bytes are not {count} of {item}")
        node = _Node(data[start : start + length], count, item, width, extra, base, depth + 1)
        return kind, node, start + align(length, 8)

    def pair(self, node: _Node, counts: tuple[int, int], items: tuple[int, int]) -> tuple[Array, Array]:
        """The two nodes of a payload."""
        first, at = self.node(node.body, 0, counts[0], items[0], node.depth)
        return first, self.node(node.body, at, counts[1], items[1], node.depth)[0]

    def constant(self, node: _Node) -> Array:
        out = BUFFERS.empty(node.rows, UNSIGNED[node.item])
        out.fill(node.low(8 * node.item))
        return out

    def raw(self, node: _Node) -> Array:
        if len(node.body) != node.rows * node.item:
            raise DamagedNode(f"{len(node.body)} bytes are not {node.rows} values of {node.item}")
        return np.frombuffer(node.body, UNSIGNED[node.item])

    def packed(self, node: _Node) -> Array:
        count, width = node.rows, node.width
        bits = lane_bits(node.item)
        lanes = lane_count(count, bits)
        if not 0 < width < bits or len(node.body) != lanes * width * bits // 8:
            raise DamagedNode(f"{len(node.body)} bytes are not {count} values of {width} bits")
        dtype = UNSIGNED[bits // 8]
        words = np.frombuffer(node.body, dtype)
        start = dtype.type(node.low(bits))
        if self.kernels is None:
            out = unpack(words, lanes, width, start, count)
        else:
            out = BUFFERS.empty(count, dtype)
            self.kernels.unpack(words, lanes, width, start, out)
        return out if node.item >= 4 else out.astype(UNSIGNED[node.item])

    def steps(self, node: _Node, factor: int, offset: int) -> Array | None:
        """factor * the values + offset, of 8-byte differences that are all one number but in some rows: times of rows
        that came in batches. Written once, where `delta` and `scaled` pass over the rows four times. None if the node
        holds others, or nothing here is compiled."""
        if self.kernels is None:
            return None
        kind, patched, _ = self.head(node.body, 0, node.rows, 8, node.depth)
        if kind != Kind.PATCHED or not 0 < patched.base <= node.rows:
            return None
        kind, constant, at = self.head(patched.body, 0, node.rows, 8, patched.depth)
        if kind != Kind.CONSTANT:
            return None
        rows, at = self.node(patched.body, at, patched.base, 4, patched.depth)
        values, _ = self.node(patched.body, at, patched.base, 8, patched.depth)
        out = BUFFERS.empty(node.rows, UNSIGNED[8])
        numbers = (np.uint64(number) for number in (constant.low(64), node.low(64), factor, offset))
        done = self.kernels.steps(_frozen(rows.view(np.int32)), _frozen(values), *numbers, out)
        return None if done < 0 else out

    def delta(self, node: _Node) -> Array:
        found = self.steps(node, 1, 0)
        if found is not None:
            return found if node.item == 8 else found.astype(UNSIGNED[node.item])
        out = _writable(self.node(node.body, 0, node.rows, 8, node.depth)[0])
        first = np.uint64(node.low(64))
        if self.kernels is None:
            np.cumsum(out, out=out)
            out += first
        else:
            self.kernels.accumulate(out, first)
        return out if node.item == 8 else out.astype(UNSIGNED[node.item])

    def runs(self, node: _Node) -> Array:
        count, item, runs = node.rows, node.item, node.base
        if not 0 < runs <= count:
            raise DamagedNode(f"{runs} runs of {count} values")
        values, lengths = self.pair(node, (runs, runs), (item, 4))
        if self.kernels is not None and item >= 4:
            out = BUFFERS.empty(count, SIGNED[item])
            if self.kernels.expand(_frozen(values.view(out.dtype)), _frozen(lengths.view(np.int32)), out) < 0:
                raise DamagedNode("runs are longer or shorter than their rows")
            return out.view(UNSIGNED[item])
        if int(lengths.sum(dtype=np.uint64)) != count:
            raise DamagedNode("runs are longer or shorter than their rows")
        return np.repeat(values, lengths.astype(np.int64))

    def dictionary(self, node: _Node) -> Array:
        count, item, distinct = node.rows, node.item, node.base
        if not 0 < distinct <= count:
            raise DamagedNode(f"a dictionary of {distinct} values for {count} rows")
        values, codes = self.pair(node, (distinct, count), (item, 4))
        if self.kernels is not None and item >= 4:
            out = BUFFERS.empty(count, SIGNED[item])
            if self.kernels.gather(_frozen(values.view(out.dtype)), _frozen(codes.view(np.int32)), out) < 0:
                raise DamagedNode("a code is not in its dictionary")
            return out.view(UNSIGNED[item])
        taken: Array = values.take(codes.astype(np.int64), mode="raise")
        return taken

    def planes(self, node: _Node) -> Array:
        count, item, size = node.rows, node.item, node.width // 8
        if not 0 < size <= item or node.width % 8:
            raise DamagedNode(f"{size} bytes of values of {item}")
        flat = np.frombuffer(decompress(node.body, size * count), np.uint8)
        if item == 1 and not node.base:
            return flat
        out = BUFFERS.empty(count, UNSIGNED[item])
        number = UNSIGNED[item].type
        if self.kernels is not None and item >= 4:
            self.kernels.join_planes(flat, size, number(node.low(8 * item)), out)
            return out
        planes = flat.reshape(size, count)
        out[:] = planes[size - 1]
        for plane in planes[-2::-1]:
            out <<= number(8)
            out |= plane
        if node.base:
            out += number(node.low(8 * item))
        return out

    def patched(self, node: _Node) -> Array:
        count, item, exceptions = node.rows, node.item, node.base
        if not 0 < exceptions <= count:
            raise DamagedNode(f"{exceptions} exceptions among {count} values")
        found, at = self.node(node.body, 0, count, item, node.depth)
        rows, at = self.node(node.body, at, exceptions, 4, node.depth)
        values, _ = self.node(node.body, at, exceptions, item, node.depth)
        if int(rows.max()) >= count:
            raise DamagedNode("an exception lies behind the last row")
        out = _writable(found)
        out[rows] = values
        return out

    def scaled(self, node: _Node) -> Array:
        kind, first, at = self.head(node.body, 0, node.rows, node.item, node.depth)
        number, _ = self.node(node.body, at, 1, 8, node.depth)
        factor, base = int(number[0]) & ((1 << 8 * node.item) - 1), node.low(8 * node.item)
        found = self.steps(first, factor, base) if kind == Kind.DELTA and node.item == 8 else None
        if found is not None:
            return found
        out = _writable(self.node(node.body, 0, node.rows, node.item, node.depth)[0])
        if self.kernels is not None and node.item == 8:
            self.kernels.rescale(out, np.uint64(factor), np.uint64(base))
        else:
            out *= out.dtype.type(factor)
            out += out.dtype.type(base)
        return out

    def decimal(self, node: _Node) -> Array:
        item, digits = node.item, node.extra
        if item not in (4, 8) or digits > MAX_DECIMALS:
            raise DamagedNode(f"decimals of {item} bytes with {digits} digits")
        numbers = self.node(node.body, 0, node.rows, 8, node.depth)[0].view(np.int64)
        out = BUFFERS.empty(node.rows, _DOUBLE)
        if self.kernels is None:
            np.divide(numbers, _POWERS[digits], out=out)
        else:
            self.kernels.divide(_frozen(numbers), _POWERS[digits], out)
        return out.view(np.uint64) if item == 8 else out.astype(np.float32).view(np.uint32)

    def split(self, node: _Node) -> Array:
        count, item, width = node.rows, node.item, node.width
        if not 0 < width < 8 * item:
            raise DamagedNode(f"values of {8 * item} bits split at {width}")
        high, low = self.pair(node, (count, count), (item, item))
        out = _writable(high)
        if self.kernels is not None and item == 8:
            self.kernels.join64(out, _frozen(low), width)
        else:
            out <<= UNSIGNED[item].type(width)
            out |= low
        return out


def _writable(array: Array) -> Array:
    return array if array.flags.writeable else array.copy()


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
    Kind.CONSTANT: _Decoder.constant,
    Kind.RAW: _Decoder.raw,
    Kind.PACKED: _Decoder.packed,
    Kind.DELTA: _Decoder.delta,
    Kind.RUNS: _Decoder.runs,
    Kind.DICTIONARY: _Decoder.dictionary,
    Kind.PLANES: _Decoder.planes,
    Kind.PATCHED: _Decoder.patched,
    Kind.SCALED: _Decoder.scaled,
    Kind.DECIMAL: _Decoder.decimal,
    Kind.SPLIT: _Decoder.split,
}
