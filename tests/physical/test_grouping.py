"""Group numbers, sort order and join matches against dictionaries of Python tuples."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdb.batch import Column, RecordBatch
from eventdb.physical.grouping import KeyIndex, distinct_values, factorize, shared_codes
from eventdb.physical.ordering import rank_codes, sort_rows
from eventdb.schema import BIGINT

from .building import batch_of

KINDS: dict[str, st.SearchStrategy[Any]] = {
    "BIGINT": st.sampled_from([-(2**63), -5, 0, 1, 2, 2**62, 2**63 - 1]),
    "TINYINT": st.integers(-128, 127),
    "INTEGER": st.integers(0, 3),
    "DOUBLE": st.sampled_from([-math.inf, -1.0, -0.0, 0.0, 1.5, math.inf, math.nan, -math.nan]),
    "FLOAT": st.sampled_from([-2.0, -0.0, 0.0, math.nan]),
    "BOOLEAN": st.booleans(),
    "VARCHAR": st.sampled_from(["", "a", "b", "é", "\U0001f600", "\uffff"]),
    "BLOB": st.sampled_from([b"", b"\x00", b"\xff"]),
    "TIMESTAMP": st.integers(10**15, 10**15 + 2),
    "DECIMAL(9,2)": st.integers(-2, 2),
}


@st.composite
def tables(draw: st.DrawFn, least: int = 0, most: int = 40) -> RecordBatch:
    kinds = draw(st.lists(st.sampled_from(list(KINDS)), min_size=1, max_size=4))
    count = draw(st.integers(least, most))
    nullable = [draw(st.booleans()) for _ in kinds]
    columns = {}
    for i, (kind, null) in enumerate(zip(kinds, nullable, strict=True)):
        value = st.one_of(st.none(), KINDS[kind]) if null else KINDS[kind]
        columns[f"c{i}"] = (kind, draw(st.lists(value, min_size=count, max_size=count)))
    return batch_of(columns)


def key(value: Any) -> Any:
    """Equal exactly when SQL groups the values together."""
    if isinstance(value, float):
        return "nan" if math.isnan(value) else value + 0.0
    return value


def raw_rows(batch: RecordBatch) -> list[tuple[Any, ...]]:
    from .building import physical

    return list(zip(*[physical(c) for c in batch.columns], strict=True))


@given(tables())
def test_rows_share_a_group_exactly_when_their_keys_are_equal(batch: RecordBatch) -> None:
    groups = factorize(batch.columns, batch.row_count)
    keys = [tuple(map(key, row)) for row in raw_rows(batch)]
    assert len(groups.ids) == batch.row_count
    seen: dict[Any, int] = {}
    for row, (id, k) in enumerate(zip(groups.ids.tolist(), keys, strict=True)):
        assert seen.setdefault(k, id) == id
        assert groups.first[id] <= row
        assert keys[groups.first[id]] == k
    assert groups.count == len(seen) == len(set(seen.values()))


def test_ranges_too_wide_for_one_integer_still_group_exactly() -> None:
    rng = np.random.default_rng(5)
    values = rng.integers(-(2**63), 2**63 - 1, size=(4, 500))
    twice = [np.concatenate([v, v]) for v in values]
    batch = batch_of({f"c{i}": ("BIGINT", v.tolist()) for i, v in enumerate(twice)})
    groups = factorize(batch.columns, 1000)
    assert groups.count == 500
    assert (groups.ids[:500] == groups.ids[500:]).all()


class _Reversed:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __lt__(self, other: _Reversed) -> bool:
        return bool(other.value < self.value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Reversed) and bool(other.value == self.value)


def sort_key(value: Any, down: bool, nulls_first: bool) -> Any:
    if value is None:
        return (0 if nulls_first else 2,)
    if isinstance(value, float):
        value = (1, 0.0) if math.isnan(value) else (0, value + 0.0)
    return (1, _Reversed(value) if down else value)


@given(tables(least=1), st.data())
def test_sorting_is_pythons_stable_sort(batch: RecordBatch, data: st.DataObject) -> None:
    width = len(batch.columns)
    down = [data.draw(st.booleans()) for _ in range(width)]
    first = [data.draw(st.booleans()) for _ in range(width)]
    rows = raw_rows(batch)
    expected = sorted(
        range(len(rows)),
        key=lambda r: tuple(map(sort_key, rows[r], down, first)),  # type: ignore[arg-type]
    )
    assert sort_rows(batch.columns, down, first).tolist() == expected


@given(tables(most=25), st.data())
def test_a_key_index_finds_exactly_the_equal_rows(right: RecordBatch, data: st.DataObject) -> None:
    count = data.draw(st.integers(0, 15))
    left = batch_of(
        {
            n: (c.type, data.draw(st.lists(st.one_of(st.none(), KINDS[str(c.type)]), min_size=count, max_size=count)))
            for n, c in zip(right.names, right.columns, strict=True)
        }
    )
    index = KeyIndex(right.columns, right.row_count)
    found = index.find(left.columns, count)
    right_rows = [tuple(map(key, row)) for row in raw_rows(right)]
    for group, row in zip(found.tolist(), raw_rows(left), strict=True):
        wanted = tuple(map(key, row))
        never = any(value is None or value != value for value in row)  # as `=` has it: NULL and NaN equal nothing
        expected = [] if never else [i for i, other in enumerate(right_rows) if other == wanted]
        start = index.starts[group] if group >= 0 else 0
        rows = index.order[start : start + index.counts[group]].tolist() if group >= 0 else []
        assert rows == expected


def test_without_key_columns_every_row_matches() -> None:
    index = KeyIndex([], 3)
    assert index.find([], 2).tolist() == [0, 0]
    assert index.order.tolist() == [0, 1, 2]


@given(st.lists(KINDS["VARCHAR"], min_size=1), st.lists(KINDS["VARCHAR"], min_size=1))
def test_codes_and_ranks_of_two_dictionaries_compare_like_the_strings(a: list[str], b: list[str]) -> None:
    count = min(len(a), len(b))
    batch = batch_of({"a": ("VARCHAR", a[:count]), "b": ("VARCHAR", b[:count])})
    left, right = batch.columns
    x, y = shared_codes(left, right)
    assert (x == y).tolist() == [p == q for p, q in zip(a, b, strict=False)]
    x, y = rank_codes([left, right])
    assert (x < y).tolist() == [p < q for p, q in zip(a, b, strict=False)]


def test_what_lies_under_null_does_not_matter() -> None:
    valid = np.array([True, False, False])
    batch = batch_of({"a": ("BIGINT", [1, 0, 0])})
    column = Column(batch.columns[0].type, np.array([1, 7, 2**62]), valid)
    assert factorize([column], 3).ids.tolist().count(0) == 2
    assert factorize([column], 3).count == 2


@pytest.mark.parametrize("kind", [np.int64, np.int32, np.uint64, np.bool_])
def test_distinct_values_are_those_of_numpy(kind: type) -> None:
    random = np.random.default_rng(1)
    for count, below in ((0, 5), (1, 5), (1000, 3), (1000, 1 << 31)):
        values = random.integers(0, below, count).astype(kind)
        found = distinct_values(values)
        assert found.dtype == values.dtype
        assert found.tolist() == sorted(set(values.tolist()))


def test_the_least_integer_of_all_under_a_null_is_grouped() -> None:
    least = np.array([-(2**63), -(2**63), -(2**63) + 5])
    for valid, count in (([False, False, True], 2), ([False, False, False], 1), ([True, False, True], 3)):
        column = Column(BIGINT, least, np.array(valid))
        assert factorize([column], 3).count == count
