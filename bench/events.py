"""How fast are the questions people ask of events? 32 queries over Nexmark's bids and over sensor readings.

    python -m bench events [--rows 20000000] [--threads 2] [--rounds 5] [--peers DuckDB Polars DataFusion chDB]

Filters, groups, time buckets, top-N, distinct counts, medians and joins to dimensions. Warm, each engine on data of its
own, results equal to DuckDB's before anything is timed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from bench import nexmark
from bench.measure import Report, scratch
from bench.query_contest import Query, Rows, contest, options_of

if TYPE_CHECKING:
    import pyarrow

ROWS = 20_000_000
BATCH_ROWS = 500_000
DEVICES, SITES = 1_000, 40
START_US = 1_704_067_200_000_000
MEAN_BAR, LEAST = 2.0, 1.0

QUERIES = (
    Query("bids: count", "SELECT count(*) FROM bids"),
    Query("bids: rare filter", "SELECT count(*), sum(price) FROM bids WHERE price > 90000000"),
    Query("bids: half filter", "SELECT count(*), max(bidder) FROM bids WHERE price > 100000"),
    Query("bids: equal string", "SELECT count(*), avg(price) FROM bids WHERE channel = 'Apple'"),
    Query("bids: IN of strings", "SELECT count(*) FROM bids WHERE channel IN ('Apple', 'Google', 'channel-77')"),
    Query("bids: LIKE prefix", "SELECT count(*) FROM bids WHERE channel LIKE 'channel-1%'"),
    Query("bids: LIKE inside", "SELECT count(*) FROM bids WHERE url LIKE '%channel_id=1%'"),
    Query("bids: one hour", "SELECT count(*), sum(price) FROM bids WHERE ts BETWEEN TIMESTAMP '2024-01-01 00:10:00' "
          "AND TIMESTAMP '2024-01-01 00:20:00'"),
    Query("bids: currency", "SELECT sum(price * 0.908), avg(price * 0.908) FROM bids"),
    Query("bids: by channel", "SELECT channel, count(*), sum(price) FROM bids GROUP BY channel"),
    Query("bids: by auction", "SELECT auction, count(*) AS n FROM bids GROUP BY auction "
          "ORDER BY n DESC, auction LIMIT 10", ordered=True),
    Query("bids: by bidder", "SELECT bidder, sum(price) AS n FROM bids GROUP BY bidder "
          "ORDER BY n DESC, bidder LIMIT 10", ordered=True),
    Query("bids: by channel and minute", "SELECT date_trunc('minute', ts) AS m, channel, count(*) FROM bids "
          "WHERE channel IN ('Apple', 'Google', 'Facebook', 'Baidu') GROUP BY m, channel"),
    Query("bids: by minute", "SELECT date_trunc('minute', ts) AS m, count(*), max(price) FROM bids GROUP BY m"),
    Query("bids: CASE buckets", "SELECT CASE WHEN price < 10000 THEN 0 WHEN price < 1000000 THEN 1 ELSE 2 END AS b, "
          "count(*), avg(price) FROM bids GROUP BY b"),
    Query("bids: distinct bidders", "SELECT count(DISTINCT bidder) FROM bids"),
    Query("bids: distinct by channel", "SELECT channel, count(DISTINCT bidder) FROM bids WHERE price > 10000000 "
          "GROUP BY channel"),
    Query("bids: top prices", "SELECT price, auction, bidder FROM bids ORDER BY price DESC, auction, bidder LIMIT 10",
          ordered=True),
    Query("bids: HAVING", "SELECT auction, count(*) AS n FROM bids GROUP BY auction HAVING count(*) > 400"),
    Query("readings: min, max, avg", "SELECT min(temp), max(temp), avg(temp), stddev_samp(temp) FROM readings"),
    Query("readings: by device", "SELECT device, avg(temp), max(temp) FROM readings GROUP BY device"),
    Query("readings: alarm filter", "SELECT device, count(*) FROM readings WHERE temp > 38 GROUP BY device"),
    Query("readings: by hour and device", "SELECT date_trunc('hour', ts) AS h, device, avg(temp) FROM readings "
          "GROUP BY h, device"),
    Query("readings: last of each device", "SELECT device, max(ts) FROM readings GROUP BY device"),
    Query("readings: one device's minutes", "SELECT date_trunc('minute', ts) AS m, avg(temp) FROM readings "
          "WHERE device = 'device-17' GROUP BY m"),
    Query("readings: median", "SELECT median(temp) FROM readings"),
    Query("readings: median by site", "SELECT status, median(temp) FROM readings GROUP BY status"),
    Query("readings: join to devices", "SELECT d.site, count(*), avg(r.temp) FROM readings r "
          "JOIN devices d ON r.device = d.device GROUP BY d.site"),
    Query("readings: join and filter", "SELECT d.site, max(r.temp) FROM readings r JOIN devices d "
          "ON r.device = d.device WHERE d.floor = 3 GROUP BY d.site"),
    Query("readings: join on a number", "SELECT d.floor, count(*) FROM readings r JOIN devices d ON r.unit = d.unit "
          "GROUP BY d.floor"),
    Query("readings: above the device's limit", "SELECT count(*) FROM readings r JOIN devices d ON r.device = d.device "
          "WHERE r.temp > d.hot"),
    Query("readings: rows of one device", "SELECT ts, temp FROM readings WHERE device = 'device-3' AND temp > 30"),
)  # fmt: skip


def _cut(rows: int, make: Callable[[int, int], pyarrow.Table]) -> Callable[[], Iterator[pyarrow.Table]]:
    def tables() -> Iterator[pyarrow.Table]:
        for first in range(0, rows, BATCH_ROWS):
            yield make(first, min(BATCH_ROWS, rows - first))

    return tables


def bids(first: int, count: int) -> pyarrow.Table:
    """Nexmark's bids without their filler; the time column is `ts`."""
    table = nexmark.bids(first, count).drop_columns(["extra"])
    return table.rename_columns(["ts" if name == "dateTime" else name for name in table.column_names])


def readings(first: int, count: int) -> pyarrow.Table:
    """Readings [first, first + count): one a millisecond, devices at random."""
    import pyarrow as pa

    random = np.random.default_rng(first)
    devices = pa.array([f"device-{i}" for i in range(DEVICES)])
    statuses = pa.array(["ok", "warm", "hot", "offline"])
    unit = random.integers(0, DEVICES, count).astype(np.int32)
    status = random.choice(4, count, p=(0.9, 0.06, 0.03, 0.01)).astype(np.int32)
    return pa.table(
        {
            "ts": pa.array(START_US + np.arange(first, first + count, dtype=np.int64) * 1_000).cast(pa.timestamp("us")),
            "device": pa.DictionaryArray.from_arrays(pa.array(unit), devices).cast(pa.string()),
            "unit": unit.astype(np.int64),
            "status": pa.DictionaryArray.from_arrays(pa.array(status), statuses).cast(pa.string()),
            "temp": random.normal(20.0, 5.0, count),
        }
    )


def devices() -> Iterator[pyarrow.Table]:
    """The dimension of the readings."""
    import pyarrow as pa

    number = np.arange(DEVICES)
    yield pa.table(
        {
            "device": [f"device-{i}" for i in number],
            "unit": number,
            "site": [f"site {i % SITES}" for i in number],
            "floor": number % 7,
            "hot": 25.0 + number % 10,
        }
    )


def main(arguments: Sequence[str]) -> int:
    """Prints the report; returns how many figures missed their bar."""
    options = options_of("events", __doc__, arguments, rows=ROWS, rounds=5)
    report = Report(f"{options.rows:,} bids and {options.rows:,} readings, {options.threads} threads, warm")
    rows = {
        "bids": Rows(_cut(options.rows, bids), "ts"),
        "readings": Rows(_cut(options.rows, readings), "ts"),
        "devices": Rows(devices),
    }
    chosen = [query for query in QUERIES if options.only in query.name]
    with scratch() as work:
        contest(
            report, work, rows, chosen, threads=options.threads, rounds=options.rounds, peers=options.peers,
            mean_bar=MEAN_BAR, least=LEAST,
        )  # fmt: skip
    report.show()
    return report.missed()
