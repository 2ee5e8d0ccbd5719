"""Nexmark's bids, the same on every run and however they are cut: each field is a function of (seed, event, field).

Of 50 events the first is a person, three are auctions, the other 46 are bids; bids on hot auctions and by hot bidders
are as frequent as the benchmark says. Times are microseconds since 1970.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pyarrow

BASE_US = 1_704_067_200_000_000
FIRST_ID = 1_000
HOT = 100
ACTIVE_PERSONS, AHEAD = 1_000, 10
BID_COLUMNS = {
    "auction": "BIGINT NOT NULL", "bidder": "BIGINT NOT NULL", "price": "BIGINT NOT NULL",
    "channel": "VARCHAR NOT NULL", "url": "VARCHAR NOT NULL", "dateTime": "TIMESTAMP NOT NULL",
    "extra": "VARCHAR NOT NULL",
}  # fmt: skip
HOT_CHANNELS = ("Google", "Facebook", "Baidu", "Apple")
CHANNELS = 10_000
_FIELDS = {name: i for i, name in enumerate(("hot auction", "auction", "hot bidder", "bidder", "price", "channel",
                                             "which", "length", "letters"))}  # fmt: skip
Array = Any


def _mix(values: Array) -> Array:
    """splitmix64's finish: well mixed 64 bits of each number."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _draw(seed: int, events: Array, field: str) -> Array:
    """Random 64 bits for a field of each event."""
    start = np.uint64((seed * 0x9E3779B97F4A7C15 + _FIELDS[field] * 0xD1342543DE82EF95) & ((1 << 64) - 1))
    return _mix(events.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15) + start)


def _below(random: Array, limit: Array | int) -> Array:
    return (random >> np.uint64(11)).astype(np.int64) % limit


def _unit(random: Array) -> Array:
    return (random >> np.uint64(11)).astype(np.float64) / float(1 << 53)


def bid_events(first: int, count: int) -> Array:
    """The event numbers of bids [first, first + count)."""
    bids = np.arange(first, first + count)
    return bids // 46 * 50 + 4 + bids % 46


def _urls() -> tuple[list[str], list[str]]:
    channels, urls = [], []
    for i in range(len(HOT_CHANNELS) + CHANNELS):
        letters = _mix(np.arange(i * 16, i * 16 + 15, dtype=np.uint64) + np.uint64(1))
        text = "".join(chr(97 + int(x % 26)) for x in letters)
        url = f"https://www.nexmark.com/{text[:5]}/{text[5:10]}/{text[10:]}/item.htm?query=1"
        channels.append(HOT_CHANNELS[i] if i < len(HOT_CHANNELS) else f"channel-{i - len(HOT_CHANNELS)}")
        has_id = i >= len(HOT_CHANNELS) and int(letters[0] >> np.uint64(40)) % 10 != 0
        urls.append(f"{url}&channel_id={int(letters[1] >> np.uint64(33))}" if has_id else url)
    return channels, urls


def bids(first: int, count: int, *, seed: int = 1, rate: int = 10_000) -> pyarrow.Table:
    """Bids [first, first + count) as an Arrow table; about 100 bytes each."""
    import pyarrow as pa

    events = bid_events(first, count)
    person = events // 50
    auction = events // 50 * 3 + 2  # a bid comes after the auctions of its group
    hot = _below(_draw(seed, events, "hot auction"), 2) > 0
    low = np.maximum(auction - HOT, 0)
    auctions = np.where(
        hot, auction // HOT * HOT, low + _below(_draw(seed, events, "auction"), auction - low + 1 + AHEAD - 1)
    )
    hot = _below(_draw(seed, events, "hot bidder"), 4) > 0
    active = np.minimum(person + 1, ACTIVE_PERSONS)
    bidders = np.where(
        hot, person // HOT * HOT + 1, person + 1 - active + _below(_draw(seed, events, "bidder"), active + AHEAD - 1)
    )
    price = np.round(10.0 ** (_unit(_draw(seed, events, "price")) * 6) * 100).astype(np.int64)
    which = _draw(seed, events, "which")
    code = np.where(
        _below(_draw(seed, events, "channel"), 2) > 0, _below(which, 4), 4 + _below(which, CHANNELS)
    ).astype(np.int32)
    channels, urls = _urls()
    lengths = 68 - 14 + _below(_draw(seed, events, "length"), 28)
    rows = np.repeat(events, lengths).astype(np.uint64)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    letters = _draw(seed, rows * np.uint64(128) + place.astype(np.uint64), "letters")
    heap = (97 + _below(letters, 26)).astype(np.uint8)
    ends = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    extra = pa.StringArray.from_buffers(count, pa.py_buffer(ends), pa.py_buffer(heap))
    return pa.table(
        {
            "auction": auctions + FIRST_ID,
            "bidder": bidders + FIRST_ID,
            "price": price,
            "channel": pa.DictionaryArray.from_arrays(pa.array(code), pa.array(channels)).cast(pa.string()),
            "url": pa.DictionaryArray.from_arrays(pa.array(code), pa.array(urls)).cast(pa.string()),
            "dateTime": pa.array(BASE_US + events * (1_000_000 // rate)).cast(pa.timestamp("us")),
            "extra": extra,
        }
    )
