"""Whatever is encoded comes back bit by bit, from both decoders; damaged bytes are refused."""

from __future__ import annotations

import contextlib
import functools
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from eventdb.storage.format import NODE
from eventdb.storage.sealed import nodes
from eventdb.storage.sealed.encode import encode
from eventdb.storage.sealed.point import NoPoint, reader_of

Array = Any
INTEGERS = {1: "<i1", 2: "<i2", 4: "<i4", 8: "<i8"}


@functools.cache
def kernels() -> nodes.Kernels:
    return nodes.Kernels()


def check(values: Array) -> bytes:
    """The node of the values, after both decoders gave their bits back."""
    data = encode(values)
    item = values.dtype.itemsize
    expected = values.view(nodes.UNSIGNED[item])
    for compiled in (None, kernels()):
        found = nodes.decode(memoryview(data), len(values), item, compiled)
        assert found.dtype == expected.dtype
        assert np.array_equal(found, expected), (values.dtype, values[:20], data[0])
    assert nodes.length_of(memoryview(data)) == len(data)
    with contextlib.suppress(NoPoint):
        read = reader_of(memoryview(data), len(values), item)
        for row in {0, 1, len(values) // 3, len(values) // 2, len(values) - 1} & set(range(len(values))):
            assert read(row) == int(expected[row]), (data[0], row)
    return data


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Integers of every width in the shapes that logs have, extremes included."""
    item = draw(st.sampled_from(sorted(INTEGERS)))
    limit = 1 << (8 * item - 1)
    count = draw(st.sampled_from([0, 1, 2, 15, 16, 17, 63, 64, 65, 200, 1000, 5000]))
    random = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    width = draw(st.integers(0, 8 * item))
    base = draw(st.integers(-limit, limit - 1))
    wide = random.integers(0, (1 << width) - 1, count, dtype=np.uint64, endpoint=True)
    values = (wide + np.uint64(base & ((1 << 64) - 1))).astype(f"<u{item}")
    shape = draw(st.sampled_from(["random", "sorted", "runs", "few", "sum", "outliers", "scaled"]))
    if shape == "sorted":
        values = np.sort(values.view(INTEGERS[item])).view(values.dtype)
    elif shape == "runs":
        values = np.repeat(values, draw(st.integers(1, 50)))[:count]
    elif shape == "few" and count:
        values = values[random.integers(0, min(count, 12), count)]
    elif shape == "sum":
        values = np.cumsum(values, dtype=values.dtype)
    elif shape == "outliers" and count:
        values = values & values.dtype.type(7)
        rows = random.integers(0, count, max(1, count // 100))
        values[rows] = random.integers(0, 1 << (8 * item - 1), len(rows)).astype(values.dtype)
    elif shape == "scaled":
        values = values * values.dtype.type(60 % (1 << 8 * item))
    return values.view(INTEGERS[item])


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(arrays())
@example(np.array([-(1 << 63), (1 << 63) - 1] * 40, "<i8"))
@example(np.array([(1 << 63) - 1, -(1 << 63)], "<i8"))
def test_integers_come_back_bit_by_bit(values: Array) -> None:
    check(values)


PAYLOADS = np.array([0x7FF8000000000000, 0x7FF8000000000001, 0xFFF8DEADBEEF0001, 0x7FF0000000000001], "<u8")
SPECIAL = np.concatenate(
    [
        PAYLOADS.view("<f8"),
        np.array([0.0, -0.0, np.inf, -np.inf, 5e-324, -5e-324, 1.7976931348623157e308, 2.0**53, -(2.0**53), 0.1 + 0.2]),
    ]
)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    count=st.sampled_from([1, 2, 16, 17, 64, 100, 1000, 4097]), digits=st.integers(0, 20), special=st.integers(0, 100),
    magnitude=st.integers(0, 18), seed=st.integers(0, 1 << 30), single=st.booleans(),
    shape=st.sampled_from(["decimal", "normal", "bits", "constant", "walk"]),
)  # fmt: skip
def test_doubles_come_back_bit_by_bit(
    count: int, digits: int, special: int, magnitude: int, seed: int, single: bool, shape: str
) -> None:
    random = np.random.default_rng(seed)
    if shape == "decimal":
        values = random.integers(-(10**magnitude), 10**magnitude, count) / 10.0**digits
    elif shape == "bits":
        values = random.integers(0, (1 << 64) - 1, count, dtype=np.uint64).view(np.float64)
    elif shape == "constant":
        values = np.full(count, SPECIAL[seed % len(SPECIAL)])
    elif shape == "walk":
        values = np.round(np.cumsum(random.normal(0, 1, count)), digits % 6)
    else:
        values = random.normal(20.0, 5.0, count)
    if special > 60:
        rows = random.integers(0, count, 1 + count * (special - 60) // 200)
        values[rows] = SPECIAL[random.integers(0, len(SPECIAL), len(rows))]
    if single:
        with np.errstate(all="ignore"):
            values = values.astype(np.float32)
    check(np.ascontiguousarray(values))


def test_every_special_double_is_kept_next_to_decimals() -> None:
    values = np.arange(1000) / 100.0
    values[: len(SPECIAL)] = SPECIAL
    check(values)
    check(SPECIAL.copy())
    check(np.full(100, -0.0))


@pytest.mark.parametrize(
    ("values", "most_bytes"),
    [
        (np.arange(65_536) * 1_000_000, 200),
        (np.repeat(np.arange(100), 600), 400),
        (np.random.default_rng(1).integers(0, 1000, 65_536), 65_536 * 10 // 8 + 200),
        (np.random.default_rng(1).integers(0, 50, 65_536) * 1_000_003, 65_536 * 6 // 8 + 600),
        (np.random.default_rng(1).integers(-5000, 5000, 65_536) / 100.0, 65_536 * 14 // 8 + 200),
        (np.random.default_rng(1).normal(0, 1, 65_536), 65_536 * 7.3),
    ],
)
def test_each_family_is_as_small_as_it_should_be(values: Array, most_bytes: float) -> None:
    assert len(check(values)) <= most_bytes


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(arrays(), st.integers(0, 1 << 30), st.integers(1, 4))
def test_damaged_nodes_are_refused_or_have_the_right_size(values: Array, seed: int, flips: int) -> None:
    data = bytearray(encode(values))
    random = np.random.default_rng(seed)
    for _ in range(flips):
        at = int(random.integers(0, min(len(data), 3 * NODE.size)))
        data[at] ^= 1 << int(random.integers(0, 8))
    if random.random() < 0.3:
        data = data[: int(random.integers(0, len(data)))]
    for compiled in (None, kernels()):
        try:
            found = nodes.decode(memoryview(bytes(data)), len(values), values.dtype.itemsize, compiled)
        except nodes.DamagedNode:
            continue
        assert len(found) == len(values)
        assert found.dtype.itemsize == values.dtype.itemsize
    with contextlib.suppress(NoPoint, nodes.DamagedNode):
        read = reader_of(memoryview(bytes(data)), len(values), values.dtype.itemsize)
        for row in range(0, len(values), 97):
            read(row)


def test_one_value_is_read_from_all_encodings_but_compressed_ones() -> None:
    random = np.random.default_rng(3)
    rows = 1 << 15
    n = np.arange(rows)
    cases = {
        "constant": n * 0, "packed": random.integers(0, 1000, rows), "steps": n * 10_000 + 5,
        "decimal": random.integers(0, 1000, rows) / 100,
        "outliers": np.where(n % 401 == 7, 1 << 50, random.integers(0, 100, rows)),
        "few": random.choice(random.integers(0, 1 << 60, 12), rows), "runs": np.repeat(random.integers(0, 99, 64), 512),
        "keys in turn": n % 9_973, "keys in turn, backwards": n * 9_972 % 9_973,
        "times of batches": n // 613 * 1_000_003 + 9, "times": np.cumsum(random.integers(0, 100, rows)),
        "times that go back": np.cumsum(random.integers(-90, 100, rows)) - (1 << 62),
        "rare times": np.cumsum(random.integers(0, 1 << 45, rows)),
    }  # fmt: skip
    for name, values in cases.items():
        read = reader_of(memoryview(encode(values)), rows, 8)
        assert [read(row) for row in range(0, rows, 37)] == values.view("<u8")[::37].tolist(), name
    with pytest.raises(NoPoint):
        reader_of(memoryview(encode(n * 40_503 % 977 * 1_000_003)), rows, 8)


@pytest.mark.parametrize("dtype", [np.int64, np.int32])
def test_even_steps_at_the_end_of_the_data_are_read_singly(dtype: type) -> None:
    values = np.arange(250, dtype=dtype)
    read = reader_of(memoryview(bytes(encode(values))), len(values), values.dtype.itemsize)
    assert [read(row) for row in range(250)] == list(range(250))


def test_compiled_decoders_have_one_signature_per_type() -> None:
    from eventdb.kernels import decimals, jit, lookup, packing, planes, prefix, runs

    kernels()
    wanted = {
        packing.unpack: 2,
        planes.join_planes: 2,
        prefix.accumulate: 1,
        prefix.steps: 1,
        decimals.divide: 1,
        decimals.rescale: 1,
        runs.expand: 2,
    }
    wanted |= {lookup.gather: 2, lookup.join64: 1}
    for kernel, count in wanted.items():
        assert not hasattr(kernel, "signatures") or jit.signature_count(kernel) == count


@settings(max_examples=100, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    count=st.sampled_from([1, 2, 100, 4_097]), batch=st.integers(1, 90), step=st.integers(-5, 5),
    factor=st.sampled_from([1, 3, 1_000_000, -7]), seed=st.integers(0, 1 << 30), item=st.sampled_from([4, 8]),
)  # fmt: skip
def test_times_of_rows_in_batches_come_back_bit_by_bit(
    count: int, batch: int, step: int, factor: int, seed: int, item: int
) -> None:
    """Differences that are one number but in some rows: there is a kernel for what NumPy does in four passes."""
    random = np.random.default_rng(seed)
    starts = np.cumsum(random.integers(-3, 1 << 12, count // batch + 1))
    values = np.repeat(starts, batch)[:count] + np.arange(count) % batch * step
    check((values * factor).astype(INTEGERS[item]))


@given(rows=st.lists(st.integers(-3, 12), max_size=6), step=st.integers(0, 1 << 63), factor=st.integers(0, 1 << 63))
def test_a_kernel_for_steps_does_what_a_loop_does(rows: list[int], step: int, factor: int) -> None:
    from eventdb.kernels import prefix

    values = np.arange(7, 7 + len(rows), dtype=np.uint64) << np.uint64(60)
    places, out = np.array(rows, np.int32), np.zeros(9, np.uint64)
    values.flags.writeable = places.flags.writeable = False
    done = prefix.steps(places, values, np.uint64(step), np.uint64(11), np.uint64(factor), np.uint64(13), out)
    ascending = all(0 <= row < 9 for row in rows) and all(a < b for a, b in pairwise(rows))
    assert done == (0 if ascending else -1)
    if ascending:
        total, expected = 11, []
        for i in range(9):
            total += int(values[rows.index(i)]) if i in rows else step
            expected.append((total * factor + 13) % (1 << 64))
        assert out.tolist() == expected
