"""How fast are analytical queries over history?

    python -m bench engine [--rows N] [--threads N] [--rounds N]

20M sensor readings (1,000 devices at random, one every millisecond) in an EventDB topic and in DuckDB's own file; both
warm, same threads, taking turns. Both must give the same rows before anything is timed.
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import eventdb
from bench.measure import Report, median, scratch, take_turns, timed
from bench.peers.duckdb import VERSION, DuckDB

if TYPE_CHECKING:
    import pyarrow

ROWS = 20_000_000
BATCH_ROWS = 1_000_000
DEVICES = 1_000
START_US = 1_704_067_200_000_000
COLUMNS = {"ts": "TIMESTAMP NOT NULL", "device": "VARCHAR NOT NULL", "temp": "DOUBLE NOT NULL"}
SQL_COLUMNS = "ts TIMESTAMP, device VARCHAR, temp DOUBLE"
BAR = 1.5

QUERIES = {
    "filter on a string and a number, count/sum/avg": (
        "SELECT count(*), sum(temp), avg(temp) FROM readings WHERE device = 'device-5' AND temp > 22.0"
    ),
    "GROUP BY 1,000 strings, 5 aggregates": (
        "SELECT device, count(*), sum(temp), avg(temp), min(temp), max(temp) FROM readings GROUP BY device"
    ),
    "GROUP BY minute x 1,000 strings": (
        "SELECT time_bucket(INTERVAL '1 minute', ts) AS minute, device, count(*), avg(temp) FROM readings "
        "GROUP BY minute, device"
    ),
}


def batch(first: int, count: int) -> pyarrow.Table:
    """Readings [first, first + count), the same on every run and however they are cut into batches of BATCH_ROWS."""
    import pyarrow as pa

    random = np.random.default_rng(first)
    devices = pa.array([f"device-{i}" for i in range(DEVICES)])
    codes = pa.array(random.integers(0, DEVICES, count).astype(np.int32))
    return pa.table(
        {
            "ts": pa.array(START_US + np.arange(first, first + count, dtype=np.int64) * 1_000).cast(pa.timestamp("us")),
            "device": pa.DictionaryArray.from_arrays(codes, devices),
            "temp": random.normal(20.0, 5.0, count),
        }
    )


def load(work: Path, rows: int, threads: int) -> tuple[eventdb.Database, DuckDB]:
    db = eventdb.open(work / "ours", durability="os", threads=threads)
    topic = db.create_topic("readings", COLUMNS, event_time="ts")
    peer = DuckDB(work / "duck.db", threads, SQL_COLUMNS)
    for first in range(0, rows, BATCH_ROWS):
        data = batch(first, min(BATCH_ROWS, rows - first))
        topic.append_batch(data)
        peer.append_table(data)
    return db, peer


def same(ours: list[tuple[Any, ...]], theirs: list[tuple[Any, ...]]) -> bool:
    """Equal rows in any order; sums may differ in the last digits."""

    def order(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
        return sorted(rows, key=lambda row: tuple(str(v) for v in row[:2]))

    def equal(a: Any, b: Any) -> bool:
        return math.isclose(a, b, rel_tol=1e-9) if isinstance(a, float) else bool(a == b)

    return len(ours) == len(theirs) and all(
        equal(a, b)
        for left, right in zip(order(ours), order(theirs), strict=True)
        for a, b in zip(left, right, strict=True)
    )


def run(rows: int, threads: int, rounds: int) -> Report:
    report = Report(f"analytical queries over {rows:,} readings, {threads} threads, warm, against DuckDB {VERSION}")
    with scratch() as work:
        db, peer = load(work, rows, threads)
        for what, sql in QUERIES.items():
            started = time.perf_counter()
            db.sql("SET execution = 'compiled'")
            ours = db.sql(sql).fetchall()
            first_s = time.perf_counter() - started
            db.sql("SET execution = 'auto'")
            if not same(ours, peer.query(sql)):
                raise AssertionError(f"the databases disagree about {sql}")
            del ours
            # Both hand over Arrow, which costs neither of them a Python object per value.
            values = take_turns(
                {
                    "ours": lambda sql=sql: timed(lambda: db.sql(sql).arrow()),  # type: ignore[misc]
                    "theirs": lambda sql=sql: timed(lambda: peer.arrow(sql)),  # type: ignore[misc]
                },
                rounds,
            )
            report.faster(what, median(values["ours"][1:]), median(values["theirs"][1:]), BAR, "DuckDB")
            report.note(f"{what}: first run with its compile {first_s * 1000:.0f} ms")
        db.close()
        peer.close()
    return report


def main(arguments: Sequence[str]) -> int:
    """Prints the report; returns how many figures missed their bar."""
    parser = argparse.ArgumentParser(prog="python -m bench engine", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=11)
    options = parser.parse_args(arguments)
    report = run(options.rows, options.threads, options.rounds)
    report.show()
    return report.missed()
