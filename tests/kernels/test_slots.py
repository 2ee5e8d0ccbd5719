"""Directly addressed groups against dicts."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from eventdb.kernels import slots

# Groups as (row count, another cell): a count of 0 is a group that did not occur.
_GROUPS = st.lists(st.tuples(st.integers(0, 2), st.integers(-(2**63), 2**63 - 1)), min_size=6, max_size=6)


@given(mine=_GROUPS, theirs=_GROUPS, in_second=st.booleans())
def test_groups_of_one_thread_are_copied_and_those_of_both_are_named(
    mine: list[tuple[int, int]], theirs: list[tuple[int, int]], in_second: bool
) -> None:
    """The counts lie in the first array of width 1, or in the second of width 2 at place 1."""
    flat = [np.array([g[0] for g in side], np.int64) for side in (mine, theirs)]
    pairs = [np.array([[g[1], g[0]] for g in side], np.int64).reshape(-1) for side in (mine, theirs)]
    shared = np.zeros(7, np.int64)
    count = slots.adopt(flat[0], 1, pairs[0], 2, flat[1], pairs[1], int(in_second), int(in_second), shared)
    both = [i for i in range(6) if mine[i][0] and theirs[i][0]]
    assert shared[:count].tolist() == both
    expected = [theirs[i] if theirs[i][0] and not mine[i][0] else mine[i] for i in range(6)]
    assert flat[0].tolist() == [g[0] for g in expected]
    assert pairs[0].reshape(-1, 2).tolist() == [[g[1], g[0]] for g in expected]

    found = np.zeros(7, np.int64)
    number = slots.used(pairs[0], 2, 1, found)
    assert found[:number].tolist() == [i for i, g in enumerate(expected) if g[0]]
    out = np.zeros(2 * number, np.int64)
    slots.take(pairs[0], 2, found, number, out)
    assert out.reshape(-1, 2).tolist() == [[g[1], g[0]] for g in expected if g[0]]
