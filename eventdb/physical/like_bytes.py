"""LIKE of many texts at once, over their bytes: patterns of literal pieces between `%`.

UTF-8 is self-synchronising: a piece lies in a text exactly where its bytes lie in the text's bytes. So the pieces are
looked for in the bytes of all texts together, each at its leftmost place after the one before (see like.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from eventdb.batch import Array

_AT_A_TIME_BYTES = 1 << 20  # of the texts: what is compared stays in the processor's cache


def match_bytes(pieces: Sequence[bytes], heap: Array, starts: Array) -> Array:
    """Which of the texts heap[starts[n] : starts[n + 1]] (uint8) the pieces match: with one the whole text, with more
    the first at its start, the last at its end and the others in order between them."""
    found = np.zeros(len(starts) - 1, dtype=bool)
    first = 0
    while first < len(found):
        stop = int(np.searchsorted(starts, int(starts[first]) + _AT_A_TIME_BYTES))
        stop = min(max(stop, first + 1), len(found))
        low, high = int(starts[first]), int(starts[stop])
        found[first:stop] = _match(pieces, heap[low:high], starts[first : stop + 1].astype(np.int64) - low)
        first = stop
    return found


def _match(pieces: Sequence[bytes], heap: Array, starts: Array) -> Array:
    first, last = pieces[0], pieces[-1]
    lengths = starts[1:] - starts[:-1]
    found: Array
    if len(pieces) == 1:
        found = lengths == len(first)
        last = b""
    else:
        found = lengths >= len(first) + len(last)
    numbers = np.flatnonzero(found)
    numbers = numbers[_lies_at(first, heap, starts[numbers])]
    numbers = numbers[_lies_at(last, heap, starts[numbers + 1] - len(last))]
    places = starts[numbers] + len(first)
    for piece in filter(None, pieces[1:-1]):
        at = _next(_places(piece, heap), places)
        fits = at + len(piece) <= starts[numbers + 1] - len(last)
        numbers, places = numbers[fits], at[fits] + len(piece)
    found = np.zeros(len(lengths), dtype=bool)
    found[numbers] = True
    return found


def _lies_at(piece: bytes, heap: Array, places: Array) -> Array:
    """Whether the piece lies at each of the places; all of it is inside the heap."""
    lies = np.ones(len(places), dtype=bool)
    for i, byte in enumerate(piece):
        lies &= heap[places + i] == byte
    return lies


def _places(piece: bytes, heap: Array) -> Array:
    """Where the piece begins, ascending; its places may overlap."""
    count = len(heap) - len(piece) + 1
    if count <= 0:
        return np.zeros(0, dtype=np.int64)
    ends = heap[:count] == piece[0]
    if len(piece) > 1:
        ends &= heap[len(piece) - 1 :] == piece[-1]
    places = np.flatnonzero(ends)
    for i, byte in enumerate(piece[1:-1], 1):
        places = places[heap[places + i] == byte]
    return places


def _next(places: Array, since: Array) -> Array:
    """The first of the ascending places at or after each of `since`; one past everything where there is none."""
    beyond = np.append(places, np.iinfo(np.int64).max // 2)
    return beyond[np.searchsorted(places, since)]
