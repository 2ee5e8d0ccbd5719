"""Hash tables against a dict."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from eventdb.batch import Array
from eventdb.kernels import hashing

# Few distinct hashes: most keys collide, and probing runs around the end of the table.
_KEYS = st.lists(st.tuples(st.integers(-3, 3), st.integers(-(2**63), 2**63 - 1)), unique=True, max_size=20)


def _hash(key: tuple[int, int]) -> int:
    return key[0]


def arrays(keys: list[tuple[int, int]], room: int) -> tuple[Array, Array]:
    words, hashes = np.zeros(2 * room, np.int64), np.zeros(room, np.int64)
    for i, key in enumerate(keys):
        words[2 * i : 2 * i + 2] = key
        hashes[i] = _hash(key)
    return words, hashes


@given(first=_KEYS, second=_KEYS)
def test_absorbing_finds_what_is_there_and_enters_the_rest(
    first: list[tuple[int, int]], second: list[tuple[int, int]]
) -> None:
    room = 64
    words, hashes = arrays(first, room)
    table = np.full(128, -1, np.int32)
    hashing.place_all(table, hashes, len(first))
    other_words, other_hashes = arrays(second, max(1, len(second)))
    groups = np.full(len(second), -1, np.int64)
    count = hashing.absorb(table, words, hashes, len(first), 2, other_words, other_hashes, len(second), groups)

    known = {key: i for i, key in enumerate(first)}
    expected = [known.setdefault(key, len(known)) for key in second]
    assert groups.tolist() == expected
    assert count == len(known)
    for key, group in known.items():
        assert tuple(words[2 * group : 2 * group + 2].tolist()) == key
        assert hashes[group] == _hash(key)
    assert sorted(table[table >= 0].tolist()) == list(range(count))
