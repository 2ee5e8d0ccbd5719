"""Blocks of every type come back value by value; damaged bytes are refused or decode to rows of the right kind."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from eventdb.batch import Column, Dictionary
from eventdb.schema import DataType
from eventdb.storage.format import BLOCK_NAN, BLOCK_RANGED, COLUMN_CODED, COLUMN_PLAIN, TYPE_CODES
from eventdb.storage.sealed import nodes
from eventdb.storage.sealed.blocks import decode_block, string_prefix
from eventdb.storage.sealed.seal import encode_block
from eventdb.storage.segment.layout import ColumnLayout
from tests.storage.test_encoding import SPECIAL, kernels

Stored = tuple[Column, ColumnLayout, list[Any]]  # a column, how a segment has it, its values (bits of floats; None)
WORDS = ["", "a", "ä", "\ud83e", "\U0001f980 x", "\x00", "https://example.org/a?b=c", "x" * 900]


def typed(name: str) -> DataType:
    return DataType(name, 18, 2) if name == "DECIMAL" else DataType(name)


@st.composite
def validities(draw: st.DrawFn, count: int) -> Any:
    kind = draw(st.sampled_from(["none", "all", "some", "first", "last", "runs"]))
    random = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    if kind == "none":
        return None
    valid = np.ones(count, bool)
    if kind == "all":
        valid[:] = False
    elif kind == "some":
        valid = random.random(count) < 0.7
    elif kind == "first":
        valid[: 1 + count // 3] = False
    elif kind == "last":
        valid[-1 - count // 3 :] = False
    else:
        valid = np.arange(count) // 7 % 2 == 0
    return valid


@st.composite
def numbers(draw: st.DrawFn) -> Stored:
    """Integers, booleans, times, decimals and floats, with extremes and with special values."""
    name = draw(st.sampled_from(sorted(set(TYPE_CODES) - {"VARCHAR", "BLOB"})))
    type = typed(name)
    dtype = np.dtype(type.physical)
    count = draw(st.sampled_from([1, 2, 15, 16, 17, 64, 300, 4_000]))
    random = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    if dtype.kind == "b":
        values = random.random(count) < draw(st.sampled_from([0.0, 0.01, 0.5, 1.0]))
    elif dtype.kind == "f":
        values = (np.round(random.normal(20, 5, count), draw(st.integers(0, 6)))).astype(dtype)
        values[random.integers(0, count, count // 8)] = np.inf
        with np.errstate(all="ignore"):
            values[random.integers(0, count, draw(st.integers(0, count)))] = random.choice(SPECIAL).astype(dtype)
    else:
        low, high = np.iinfo(dtype).min, np.iinfo(dtype).max
        width = draw(st.integers(0, 8 * dtype.itemsize - 2))
        base = draw(st.integers(low // 2, high // 2))
        values = base + random.integers(0, 1 << width, count).astype(dtype)
        if draw(st.booleans()):
            values.sort()
        if draw(st.booleans()):
            values[random.integers(0, count, 2)] = [low, high]
    valid = draw(validities(count))
    code = {"?": "?", "f": "I", "d": "Q"}.get(type.struct_code)
    plain = values.tolist() if code in (None, "?") else values.view(f"<u{dtype.itemsize}").tolist()
    layout = ColumnLayout(TYPE_CODES[name], 0, type.width_bytes, 0)
    return Column(type, values, valid), layout, _with_nulls(plain, valid)


@st.composite
def strings(draw: st.DrawFn) -> Stored:
    """VARCHAR and BLOB, as codes of the topic's dictionary and spelled out."""
    name = draw(st.sampled_from(["VARCHAR", "BLOB"]))
    count = draw(st.sampled_from([1, 2, 17, 300, 2_000]))
    random = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    words: list[Any] = list(WORDS[: draw(st.integers(1, len(WORDS)))])
    words += [f"word {i * i}" for i in range(draw(st.sampled_from([0, 3, 500])))]
    if name == "BLOB":
        words = [word.encode("utf-8", "surrogatepass") + b"\xff" for word in words]
    codes = random.integers(0, len(words), count).astype(np.int32)
    valid = draw(validities(count))
    plain = name == "BLOB" or draw(st.booleans())
    layout = ColumnLayout(TYPE_CODES[name], COLUMN_PLAIN if plain else COLUMN_CODED, 8 if plain else 4, 0)
    listed = [words[code] for code in codes.tolist()] if plain else codes.tolist()
    return Column(DataType(name), codes, valid, Dictionary(words)), layout, _with_nulls(listed, valid)


def _with_nulls(values: list[Any], valid: Any) -> list[Any]:
    return values if valid is None else [v if ok else None for v, ok in zip(values, valid.tolist(), strict=True)]


def listed(found: Any, layout: ColumnLayout) -> list[Any]:
    """The values of a decoded block, in the form `Stored` has them."""
    if layout.plain:
        values = [found.dictionary.values[code] for code in found.values.tolist()]
    elif layout.coded:
        values = found.values.tolist()
    elif layout.struct_code in "fd":
        values = found.values.tolist()  # decoded as unsigned numbers: the bits
    elif layout.struct_code == "?":
        values = found.values.view(bool).tolist()
    else:
        values = found.values.view(f"<i{layout.width}").tolist()
    return _with_nulls(values, found.validity)


NAN_BITS = np.array([0x7FF8000000000001, 0xFFF8DEADBEEF0001, 1 << 63, 0] * 20, np.uint64)


def doubles(bits: Any) -> Stored:
    values = bits.view("<f8")
    return Column(DataType("DOUBLE"), values, None), ColumnLayout(TYPE_CODES["DOUBLE"], 0, 8, 0), bits.tolist()


@settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(numbers(), strings()))
@example(doubles(NAN_BITS))
@example(doubles(np.full(70_000, 1 << 63, np.uint64)))
def test_every_value_of_a_block_comes_back(case: Stored) -> None:
    column, layout, expected = case
    data, entry = encode_block(column, plain=layout.plain)
    nulls, distinct, _, flags, _, _, least, greatest = entry
    present = [value for value in expected if value is not None]
    assert nulls == len(expected) - len(present)
    for compiled in (None, kernels()):
        found = decode_block(memoryview(data), len(expected), layout, nulls > 0, compiled)
        assert listed(found, layout) == expected
    assert bool(distinct) == bool(present)
    if flags & BLOCK_RANGED:
        if layout.plain:
            ranks = [string_prefix(value) for value in present]
        elif layout.struct_code in "fd":
            form = "<f" if layout.struct_code == "f" else "<d"
            real = [struct.unpack(form, value.to_bytes(layout.width, "little"))[0] for value in present]
            ranks = [value for value in real if value == value]
            assert bool(flags & BLOCK_NAN) == (len(ranks) < len(real))
            least, greatest = struct.unpack("<dd", struct.pack("<qq", least, greatest))
        else:
            ranks = [int(value) for value in present]
        assert (min(ranks), max(ranks)) == (least, greatest)


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.one_of(numbers(), strings()), st.integers(0, 1 << 30), st.sampled_from(["flip", "cut", "heads", "swap"]))
def test_damaged_blocks_are_refused_or_decode_to_rows_of_their_kind(case: Stored, seed: int, how: str) -> None:
    """What a checksum would have caught: whatever comes, nothing but DamagedNode is raised, no code lies outside."""
    column, layout, expected = case
    whole, entry = encode_block(column, plain=layout.plain)
    data = bytearray(whole)
    random = np.random.default_rng(seed)
    for _ in range(int(random.integers(1, 5))):
        at = int(random.integers(0, len(data)))
        if how == "cut":
            del data[at:]
            break
        if how == "swap":
            other = int(random.integers(0, len(data)))
            size = int(random.integers(1, 40))
            data[at : at + size], data[other : other + size] = data[other : other + size], data[at : at + size]
        elif how == "heads":
            data[at % min(len(data), 4 * 32)] = int(random.integers(0, 256))
        else:
            data[at] ^= 1 << int(random.integers(0, 8))
    for compiled in (None, kernels()):
        try:
            found = decode_block(memoryview(bytes(data)), len(expected), layout, entry[0] > 0, compiled)
        except nodes.DamagedNode:
            continue
        assert len(found.values) == len(expected)
        assert found.values.dtype.itemsize == (4 if layout.plain or layout.coded else layout.width)
        assert found.validity is None or len(found.validity) == len(expected)
        if layout.plain:
            assert found.dictionary is not None
            assert 0 <= int(found.values.min()) <= int(found.values.max()) < len(found.dictionary)
            assert all(isinstance(value, str if layout.text else bytes) for value in found.dictionary.values)


@pytest.mark.parametrize("name", sorted(TYPE_CODES))
@pytest.mark.parametrize("count", [1, 40])
def test_a_block_of_nothing_but_nulls_costs_next_to_nothing(name: str, count: int) -> None:
    type = typed(name)
    dictionary = Dictionary(["unused" if name == "VARCHAR" else b"unused"]) if type.is_coded else None
    values = np.zeros(count, np.int32 if type.is_coded else type.physical)
    column = Column(type, values, np.zeros(count, bool), dictionary)
    layout = ColumnLayout(TYPE_CODES[name], COLUMN_PLAIN if type.is_coded else 0, 8, 0)
    if not type.is_coded:
        layout.width = type.width_bytes
    data, entry = encode_block(column, plain=type.is_coded)
    assert len(data) < 180
    assert entry[:2] == (count, 0)
    assert not entry[3] & BLOCK_RANGED
    found = decode_block(memoryview(data), count, layout, True, None)
    assert found.validity is not None
    assert not found.validity.any()
