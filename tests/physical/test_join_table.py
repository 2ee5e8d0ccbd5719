"""JoinTable finds what KeyIndex finds, its NumPy oracle, whatever the keys: NULL, repeated, far apart, strings."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdb.batch import Column, RecordBatch
from eventdb.physical.context import CancelToken
from eventdb.physical.join_table import JoinTable
from eventdb.physical.pairs import Partners
from tests.physical.building import batch_of

FAR = (-(1 << 63), -(1 << 40), -1, 0, 1, 2, 3, 1 << 40, (1 << 63) - 1)
_small = st.none() | st.integers(-3, 3)
_spread = st.none() | st.integers(-3, 3).map(lambda n: n * (1 << 38))
_text = st.none() | st.sampled_from(["", "a", "b", "ä"])


def keys_of(rows: list[tuple[Any, ...]], types: tuple[str, ...]) -> list[Column]:
    return list(batch_of({str(i): (type, [r[i] for r in rows]) for i, type in enumerate(types)}).columns)


def pairs_of(partners: Partners, keys: list[Column], count: int) -> list[tuple[int, int]]:
    found, counts = partners.counts(keys, count)
    pieces = partners.pairs(found, counts, CancelToken())
    return [(int(a), int(b)) for left, right in pieces for a, b in zip(left, right, strict=True)]


def check(held: list[tuple[Any, ...]], other: list[tuple[Any, ...]], types: tuple[str, ...]) -> JoinTable | None:
    """The table of some rows, after it gave the same pairs, in the same order, as the oracle."""
    own, asked = keys_of(held, types), keys_of(other, types)
    table = JoinTable.build(own, len(held))
    if table is not None:
        rows = RecordBatch([], [], len(held))
        expected = pairs_of(Partners(rows, own), asked, len(other))
        assert pairs_of(Partners(rows, own, (), table), asked, len(other)) == expected
        assert table.is_unique == (len({r for r in held if None not in r}) == sum(None not in r for r in held))
    return table


@given(st.data())
def test_a_table_pairs_the_rows_that_the_oracle_pairs(data: st.DataObject) -> None:
    cells = {"BIGINT": data.draw(st.sampled_from([_small, _spread])), "VARCHAR": _text, "DATE": _small}
    types = data.draw(st.lists(st.sampled_from(sorted(cells)), min_size=1, max_size=3).map(tuple))
    row = st.tuples(*(cells[type] for type in types))
    assert check(data.draw(st.lists(row, max_size=12)), data.draw(st.lists(row, max_size=12)), types) is not None


@given(st.lists(st.sampled_from(FAR), max_size=6), st.lists(st.sampled_from(FAR), max_size=6))
def test_values_at_the_ends_of_64_bits_are_found_or_left_to_the_oracle(held: list[int], other: list[int]) -> None:
    check([(key,) for key in held], [(key,) for key in other], ("BIGINT",))


def test_a_value_whose_distance_to_the_least_key_wraps_around_has_no_partner() -> None:
    top = (1 << 63) - 1
    assert check([(top - 5,), (top,)], [(-(1 << 63),), (top,), (-(1 << 63) + 4,)], ("BIGINT",)) is not None


def test_a_string_that_is_new_in_the_held_dictionary_has_no_partner() -> None:
    held = keys_of([(0, "a"), (0, "b"), (1, "a"), (1, "b")], ("BIGINT", "VARCHAR"))
    table = JoinTable.build(held, 4)
    assert table is not None
    assert held[1].dictionary is not None
    held[1].dictionary.values.append("c")  # somebody appends
    asked = keys_of([(0, "b"), (0, "c"), (1, "c")], ("BIGINT", "VARCHAR"))
    assert table.find(asked, 3).tolist() == [1, -1, -1]


@pytest.mark.parametrize("step", [1, 1 << 33])
def test_keys_that_repeat_more_often_than_a_piece_holds_come_in_order(step: int) -> None:
    held = [(i % 3 * step,) for i in range(2_000)]
    other = [(i % 5 * step,) for i in range(400)]
    table = check(held, other, ("BIGINT",))
    assert table is not None
    assert (table.held is None) == (step == 1)


def test_floats_and_keys_beyond_62_bits_have_no_table() -> None:
    assert JoinTable.build(keys_of([(1.5,)], ("DOUBLE",)), 1) is None
    wide = [(0, 0), (1 << 40, 1 << 40)]
    assert JoinTable.build(keys_of(wide, ("BIGINT", "BIGINT")), 2) is None


def test_a_null_that_matches_a_null_has_no_table() -> None:
    own = keys_of([(1,), (None,)], ("BIGINT",))
    assert JoinTable.build(own, 2, [True]) is None
    assert JoinTable.build(keys_of([(1,)], ("BIGINT",)), 1, [True]) is not None


def test_no_rows_make_an_empty_table() -> None:
    table = check([], [(1,), (None,)], ("BIGINT",))
    assert table is not None
    assert table.is_unique
    assert np.array_equal(table.find(keys_of([(1,)], ("BIGINT",)), 1), [-1])


def test_a_table_of_members_says_which_keys_there_are() -> None:
    own = keys_of([(1,), (1,), (None,), (7,)], ("BIGINT",))
    table = JoinTable.build(own, 4, members=True)
    assert table is not None
    found = table.find(keys_of([(7,), (2,), (1,), (None,)], ("BIGINT",)), 4)
    assert [number >= 0 for number in found] == [True, False, True, False]
    assert not len(table.order)
