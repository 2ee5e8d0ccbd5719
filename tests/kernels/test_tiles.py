"""Tiles of packed columns hold the rows that the decoder gives, whatever the width, the lanes and the first row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from eventdb.kernels.tiles import load_tile
from eventdb.storage.format import NODE, Kind
from eventdb.storage.sealed import nodes
from eventdb.storage.sealed.encode import encode, packed

TILE = 64


def frozen(array: Any) -> Any:
    array.flags.writeable = False
    return array


def rows_of(values: Any, words: Any, shape: Any, count: int, dtype: str) -> Any:
    """All rows, a tile at a time."""
    rows = np.zeros(TILE + 1, dtype)
    found = []
    for first in range(0, count, TILE):
        stop = min(first + TILE, count)
        load_tile((values, words, shape, rows), first, stop)
        found.append(rows[: stop - first].copy())
    return np.concatenate(found)


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    item=st.sampled_from([4, 8]), width=st.integers(1, 63), count=st.sampled_from([20, 63, 64, 65, 300, 4_000]),
    base=st.integers(-(1 << 63), (1 << 63) - 1), start=st.integers(0, 400), seed=st.integers(0, 1 << 30),
)  # fmt: skip
@example(item=8, width=63, count=4_000, base=-(1 << 63), start=0, seed=1)
@example(item=4, width=31, count=300, base=-(1 << 31), start=299, seed=1)
def test_packed_rows_are_loaded_from_any_row_on(
    item: int, width: int, count: int, base: int, start: int, seed: int
) -> None:
    dtype, bits = f"<i{item}", 8 * item
    width = min(width, bits - 1)
    low = (base + (1 << (bits - 1))) % (1 << bits) - (1 << (bits - 1))
    random = np.random.default_rng(seed).integers(0, (1 << width) - 1, count, np.uint64, endpoint=True)
    values = (random + np.uint64(low % (1 << 64))).astype(f"<u{item}").view(dtype)
    data = packed(values, low, width)
    start = min(start, count - 1)
    found = nodes.packed_parts(memoryview(data), count, item, start)
    if data[0] == Kind.RAW:  # no gain
        assert found is None
        return
    assert found is not None
    got = rows_of(frozen(np.zeros(1, dtype)), *found, count - start, dtype)
    assert np.array_equal(got, values[start:])


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    width=st.integers(1, 40), count=st.sampled_from([64, 65, 300, 4_000]), first=st.integers(-(1 << 62), 1 << 62),
    seed=st.integers(0, 1 << 30),
)  # fmt: skip
def test_packed_differences_are_summed_up_from_the_first_row_on(width: int, count: int, first: int, seed: int) -> None:
    steps = np.random.default_rng(seed).integers(0, (1 << width) - 1, count, endpoint=True)
    steps[0] = steps[1]
    values = np.cumsum(steps) + np.int64(first)
    inner = packed(steps, 0, width)
    base = first - (1 << 64) * (first >= 1 << 63)
    data = NODE.pack(Kind.DELTA, 8, 0, 0, count, base, len(inner), 0) + inner
    found = nodes.packed_parts(memoryview(data), count, 8, 0)
    if inner[0] == Kind.RAW:
        assert found is None
        return
    assert found is not None
    got = rows_of(frozen(np.zeros(1, np.int64)), *found, count, "<i8")
    assert np.array_equal(got, values)
    assert np.array_equal(nodes.decode(memoryview(data), count, 8).view(np.int64), values)
    assert nodes.packed_parts(memoryview(data), count, 8, 1) is None  # the sum of the rows before is not known


def test_other_columns_are_loaded_as_they_are() -> None:
    for dtype in ("<i4", "<i8"):
        values = frozen(np.arange(-100, 200).astype(dtype))
        shape = frozen(np.zeros(6, np.int64))
        no_words = frozen(np.zeros(1, dtype.replace("i", "u")))
        assert np.array_equal(rows_of(values, no_words, shape, 300, dtype), values)


@pytest.mark.parametrize("values", [np.arange(5), np.full(300, 7), np.arange(300) / 4, np.arange(300) % 3 == 0])
def test_only_packed_integers_are_read_so(values: Any) -> None:
    data = memoryview(encode(values))
    if data[0] != Kind.PACKED:
        assert nodes.packed_parts(data, len(values), values.dtype.itemsize, 0) is None


def test_damaged_packed_columns_are_refused() -> None:
    whole = packed(np.arange(300), 0, 9)
    assert nodes.packed_parts(memoryview(whole), 300, 8, 0) is not None
    for data in (whole[:20], whole[:-8]):
        with pytest.raises(nodes.DamagedNode):
            nodes.packed_parts(memoryview(data), 300, 8, 0)
    for at, value in ((1, 4), (2, 0), (2, 64), (4, 3)):  # size, bits, count
        damaged = bytearray(whole)
        damaged[at] = value
        with pytest.raises(nodes.DamagedNode):
            nodes.packed_parts(memoryview(bytes(damaged)), 300, 8, 0)
