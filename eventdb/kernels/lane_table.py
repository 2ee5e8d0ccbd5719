"""Tables of rows of int64 words (lanes): a number per distinct row, numbers given back when rows go, and chains of rows
that share a key.

`places` has a power of two entries, each a number or -1; numbers index the rows of `lanes`. Places are probed one after
the other. `counts` is [numbers ever used, numbers on the stack `free`].
"""

from __future__ import annotations

import numpy as np

from eventdb.kernels.hash_spread import SPREAD
from eventdb.kernels.jit import njit

USED, FREE = 0, 1
_SPREAD = np.uint64(SPREAD)
_HALF = np.uint64(32)
_ONE = np.uint64(1)


@njit
def _hash(lanes, row):  # type: ignore[no-untyped-def]
    value = np.uint64(0)
    for lane in range(lanes.shape[1]):
        value = (value ^ np.uint64(lanes[row, lane])) * _SPREAD
        value ^= value >> _HALF
    return value


@njit
def _is_same(lanes, number, rows, row):  # type: ignore[no-untyped-def]
    lane, count = 0, lanes.shape[1]
    while lane < count and lanes[number, lane] == rows[row, lane]:
        lane += 1
    return lane == count


@njit
def _probed(places, lanes, rows, row):  # type: ignore[no-untyped-def]
    """The place of a row, or the free one where it would go."""
    mask = np.uint64(len(places) - 1)
    place = _hash(rows, row) & mask
    while places[place] >= 0 and not _is_same(lanes, places[place], rows, row):
        place = (place + _ONE) & mask
    return place


@njit
def place_again(places, lanes, numbers, count):  # type: ignore[no-untyped-def]
    """Enters rows known to be distinct into an empty table."""
    mask = np.uint64(len(places) - 1)
    for i in range(count):
        place = _hash(lanes, numbers[i]) & mask
        while places[place] >= 0:
            place = (place + _ONE) & mask
        places[place] = numbers[i]


@njit
def find(places, lanes, rows, wanted, out):  # type: ignore[no-untyped-def]
    """out[i] = the number of row i, -1 where it is not there or not wanted."""
    for i in range(len(rows)):
        out[i] = places[_probed(places, lanes, rows, i)] if wanted[i] else -1


@njit
def enter(places, lanes, free, counts, rows, wanted, out):  # type: ignore[no-untyped-def]
    """out[i] = the number of row i, a new one where it was not there; -1 where it is not wanted. Returns how many are
    new; there is room for all."""
    entered = 0
    for i in range(len(rows)):
        out[i] = -1
        if not wanted[i]:
            continue
        place = _probed(places, lanes, rows, i)
        out[i] = places[place]
        if out[i] >= 0:
            continue
        if counts[FREE]:
            counts[FREE] -= 1
            number = free[counts[FREE]]
        else:
            number = counts[USED]
            counts[USED] += 1
        for lane in range(lanes.shape[1]):
            lanes[number, lane] = rows[i, lane]
        places[place] = number
        out[i] = number
        entered += 1
    return entered


@njit
def remove(places, lanes, free, counts, numbers):  # type: ignore[no-untyped-def]
    """Takes rows out, and closes the gaps in the runs of places that others were probed over."""
    mask = np.uint64(len(places) - 1)
    for number in numbers:
        place = _hash(lanes, number) & mask
        while places[place] != number:
            place = (place + _ONE) & mask
        follower = place
        while True:
            follower = (follower + _ONE) & mask
            if places[follower] < 0:
                break
            home = _hash(lanes, places[follower]) & mask
            # It may move up only if that does not put it before its home.
            if ((follower - home) & mask) >= ((follower - place) & mask):
                places[place] = places[follower]
                place = follower
        places[place] = -1
        free[counts[FREE]] = number
        counts[FREE] += 1


@njit
def add_weights(keys, slots, added, weights, owners, heads, tails, following, preceding):  # type: ignore[no-untyped-def]
    """Adds added[i] to the weight of slots[i], which joins the end of the chain of keys[i] if it is in none (its owner
    is -1). Slots below 0 are left out. Returns whether any weight is negative afterwards."""
    for i in range(len(slots)):
        slot = slots[i]
        if slot < 0:
            continue
        if owners[slot] < 0:
            key = keys[i]
            owners[slot] = key
            weights[slot] = 0
            following[slot] = -1
            preceding[slot] = tails[key]
            if tails[key] < 0:
                heads[key] = slot
            else:
                following[tails[key]] = slot
            tails[key] = slot
        weights[slot] += added[i]
    lowest = 0
    for i in range(len(slots)):
        if slots[i] >= 0:
            lowest = min(lowest, weights[slots[i]])
    return lowest < 0


@njit
def unlink(slots, weights, owners, heads, tails, following, preceding, gone, empty):  # type: ignore[no-untyped-def]
    """Takes the slots without weight out of their chains: they go to `gone`, and keys without a slot to `empty`.
    Returns how many of both there are."""
    gone_count = 0
    empty_count = 0
    for slot in slots:
        if slot < 0 or owners[slot] < 0 or weights[slot] != 0:
            continue
        key = owners[slot]
        before, after = preceding[slot], following[slot]
        if before < 0:
            heads[key] = after
        else:
            following[before] = after
        if after < 0:
            tails[key] = before
        else:
            preceding[after] = before
        owners[slot] = -1
        gone[gone_count] = slot
        gone_count += 1
        if heads[key] < 0:
            empty[empty_count] = key
            empty_count += 1
    return gone_count, empty_count


@njit
def chain_lengths(keys, heads, following, weights, out):  # type: ignore[no-untyped-def]
    """out[i] = how many slots with a weight the chain of keys[i] has; 0 for a key below 0. Returns the sum."""
    total = 0
    for i in range(len(keys)):
        found = 0
        if keys[i] >= 0:
            slot = heads[keys[i]]
            while slot >= 0:
                found += weights[slot] != 0
                slot = following[slot]
        out[i] = found
        total += found
    return total


@njit
def chain_slots(keys, heads, following, weights, rows, slots):  # type: ignore[no-untyped-def]
    """The pairs (i, slot) of all those, a chain in the order its slots came."""
    found = 0
    for i in range(len(keys)):
        if keys[i] < 0:
            continue
        slot = heads[keys[i]]
        while slot >= 0:
            if weights[slot] != 0:
                rows[found] = i
                slots[found] = slot
                found += 1
            slot = following[slot]


@njit
def add_at(totals, places, added):  # type: ignore[no-untyped-def]
    """totals[places[i]] += added[i]: np.add.at, at the speed of a loop."""
    for i in range(len(places)):
        totals[places[i]] += added[i]


@njit
def localize(numbers, places, distinct, local):  # type: ignore[no-untyped-def]
    """distinct[local[i]] = numbers[i], each number once, in order of appearance. `places` is -1 throughout, before and
    after, with an entry for every number. Returns how many distinct ones there are."""
    count = 0
    for i in range(len(numbers)):
        number = numbers[i]
        if places[number] < 0:
            places[number] = count
            distinct[count] = number
            count += 1
        local[i] = places[number]
    for i in range(count):
        places[distinct[i]] = -1
    return count
