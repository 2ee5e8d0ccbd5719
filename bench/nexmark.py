"""Nexmark's events, the same on every run and however they are cut: each field is a function of (seed, event, field).

Of 50 events the first is a person, three are auctions, the other 46 are bids; bids on hot auctions and by hot bidders
are as frequent as the benchmark says. Times are microseconds since 1970.
"""

from __future__ import annotations

from pathlib import Path
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
PERSON_COLUMNS = {
    "id": "BIGINT NOT NULL", "name": "VARCHAR NOT NULL", "emailAddress": "VARCHAR NOT NULL",
    "creditCard": "VARCHAR NOT NULL", "city": "VARCHAR NOT NULL", "state": "VARCHAR NOT NULL",
    "dateTime": "TIMESTAMP NOT NULL", "extra": "VARCHAR NOT NULL",
}  # fmt: skip
AUCTION_COLUMNS = {
    "id": "BIGINT NOT NULL", "itemName": "VARCHAR NOT NULL", "description": "VARCHAR NOT NULL",
    "initialBid": "BIGINT NOT NULL", "reserve": "BIGINT NOT NULL", "dateTime": "TIMESTAMP NOT NULL",
    "expires": "TIMESTAMP NOT NULL", "seller": "BIGINT NOT NULL", "category": "BIGINT NOT NULL",
    "extra": "VARCHAR NOT NULL",
}  # fmt: skip
TOPICS = {"person": PERSON_COLUMNS, "auction": AUCTION_COLUMNS, "bid": BID_COLUMNS}
_PARTS = (Path(__file__).parent / "nexmark.sql").read_text(encoding="utf-8").split("-- ")[1:]
QUERIES = {name: query.strip() for name, query in (part.split("\n", 1) for part in _PARTS)}
"""The queries in our words; the windows stand in braces. `side_input` is a table (key, value)."""
JOINS_OF_TOPICS = ("q3", "q4", "q9", "q20", "q23")
WINDOWS = {
    "hop": "HOP(bid, dateTime, INTERVAL '2 seconds', INTERVAL '10 seconds')",
    "tumble_bid": "TUMBLE(bid, dateTime, INTERVAL '10 seconds')",
    "tumble_person": "TUMBLE(person, dateTime, INTERVAL '10 seconds')",
    "tumble_auction": "TUMBLE(auction, dateTime, INTERVAL '10 seconds')",
}


def _windows(table: str, size: int, slide: int) -> str:
    """HOP in DuckDB's words: each row with every window that holds it."""
    step = f"INTERVAL '{slide} seconds'"
    starts = f"[time_bucket({step}, dateTime) - i * {step} FOR i IN range({size // slide})]"
    return (
        f"(SELECT t.*, w AS window_start, w + INTERVAL '{size} seconds' AS window_end "
        f"FROM (SELECT *, unnest({starts}) AS w FROM {table}) t)"
    )


DUCKDB_WINDOWS = {
    "hop": _windows("bid", 10, 2), "tumble_bid": _windows("bid", 10, 10), "tumble_person": _windows("person", 10, 10),
    "tumble_auction": _windows("auction", 10, 10),
}  # fmt: skip
STATES = ("AZ", "CA", "ID", "OR", "WA", "WY")
CITIES = (
    "Phoenix", "Los Angeles", "San Francisco", "Boise", "Portland", "Bend", "Redmond", "Seattle", "Kent", "Cheyenne",
)  # fmt: skip
FIRST_NAMES = ("Peter", "Paul", "Luke", "John", "Saul", "Vicky", "Kate", "Julie", "Sarah", "Deiter", "Walter")
LAST_NAMES = ("Shultz", "Abrams", "Spencer", "White", "Bartels", "Walton", "Smith", "Jones", "Noris")
CATEGORIES, FIRST_CATEGORY = 5, 10
HOT_CHANNELS = ("Google", "Facebook", "Baidu", "Apple")
CHANNELS = 10_000
_FIELDS = {name: i for i, name in enumerate((
    "hot auction", "auction", "hot bidder", "bidder", "price", "channel", "which", "length", "letters", "first name",
    "last name", "city", "state", "card", "seller", "hot seller", "category", "reserve", "expires",
))}  # fmt: skip
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


def _times(events: Array, rate: int, disorder: int) -> Array:
    """Microseconds since 1970. With `disorder`, events change places within groups of so many."""
    if disorder > 1:
        events = events // disorder * disorder + events * 953 % disorder
    return BASE_US + events * (1_000_000 // rate)


def _texts(seed: int, events: Array, least: int, spread: int) -> pyarrow.Array:
    """Random letters, from `least` on and fewer than least + spread of them."""
    import pyarrow as pa

    lengths = least + _below(_draw(seed, events, "length"), spread)
    rows = np.repeat(events, lengths).astype(np.uint64)
    place = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    letters = _draw(seed, rows * np.uint64(1024) + place.astype(np.uint64), "letters")
    heap = (97 + _below(letters, 26)).astype(np.uint8)
    ends = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    return pa.StringArray.from_buffers(len(events), pa.py_buffer(ends), pa.py_buffer(heap))


def _one_of(seed: int, events: Array, field: str, values: tuple[str, ...]) -> list[str]:
    return [values[i] for i in _below(_draw(seed, events, field), len(values)).tolist()]


def persons(first: int, count: int, *, seed: int = 1, rate: int = 10_000, disorder: int = 1) -> pyarrow.Table:
    """Persons [first, first + count) as an Arrow table; about 200 bytes each."""
    import pyarrow as pa

    numbers = np.arange(first, first + count)
    events = numbers * 50
    first_names = _one_of(seed, events, "first name", FIRST_NAMES)
    last_names = _one_of(seed, events, "last name", LAST_NAMES)
    cards = [f"{c:016d}" for c in _below(_draw(seed, events, "card"), 10**16).tolist()]
    return pa.table(
        {
            "id": numbers + FIRST_ID,
            "name": [f"{a} {b}" for a, b in zip(first_names, last_names, strict=True)],
            "emailAddress": [f"{a}.{b}@example.com".lower() for a, b in zip(first_names, last_names, strict=True)],
            "creditCard": [f"{c[:4]} {c[4:8]} {c[8:12]} {c[12:]}" for c in cards],
            "city": _one_of(seed, events, "city", CITIES),
            "state": _one_of(seed, events, "state", STATES),
            "dateTime": pa.array(_times(events, rate, disorder)).cast(pa.timestamp("us")),
            "extra": _texts(seed, events, 80, 40),
        }
    )


def auctions(first: int, count: int, *, seed: int = 1, rate: int = 10_000, disorder: int = 1) -> pyarrow.Table:
    """Auctions [first, first + count) as an Arrow table; about 500 bytes each."""
    import pyarrow as pa

    numbers = np.arange(first, first + count)
    events = numbers // 3 * 50 + 1 + numbers % 3
    person = events // 50
    hot = _below(_draw(seed, events, "hot seller"), 4) > 0
    active = np.minimum(person + 1, ACTIVE_PERSONS)
    sellers = np.where(
        hot, person // HOT * HOT, person + 1 - active + _below(_draw(seed, events, "seller"), active + AHEAD - 1)
    )
    price = np.round(10.0 ** (_unit(_draw(seed, events, "price")) * 6) * 100).astype(np.int64)
    reserve = price + np.round(10.0 ** (_unit(_draw(seed, events, "reserve")) * 6) * 100).astype(np.int64)
    times = _times(events, rate, disorder)
    open_us = 1 + _below(_draw(seed, events, "expires"), max(2 * 1667 * (1_000_000 // rate), 1))
    return pa.table(
        {
            "id": numbers + FIRST_ID,
            "itemName": _texts(seed, events, 10, 20),
            "description": _texts(seed ^ 7, events, 50, 100),
            "initialBid": price,
            "reserve": reserve,
            "dateTime": pa.array(times).cast(pa.timestamp("us")),
            "expires": pa.array(times + open_us).cast(pa.timestamp("us")),
            "seller": sellers + FIRST_ID,
            "category": FIRST_CATEGORY + _below(_draw(seed, events, "category"), CATEGORIES),
            "extra": _texts(seed ^ 11, events, 200, 100),
        }
    )


def bids(first: int, count: int, *, seed: int = 1, rate: int = 10_000, disorder: int = 1) -> pyarrow.Table:
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
            "dateTime": pa.array(_times(events, rate, disorder)).cast(pa.timestamp("us")),
            "extra": extra,
        }
    )
