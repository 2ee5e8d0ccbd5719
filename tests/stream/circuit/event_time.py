"""Event time in plain Python: watermarks, marks, late rows, closed windows; and queries over the windows that closed,
answered by DuckDB. Nothing here knows how EventDB does it."""

from __future__ import annotations

import datetime as dt
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import duckdb

from tests.relational.tables import normal

T0 = dt.datetime(2024, 1, 1)
SECOND = 1_000_000
LOW = -(1 << 63)


@dataclass(frozen=True)
class Declared:
    """Of one topic, in microseconds."""

    partitions: int
    delay: int
    idle: int | None
    future: int | None


@dataclass(frozen=True)
class Row:
    topic: str
    partition: int
    offset: int
    append_time: int
    ts: int | None
    k: str
    v: int


def marks(rows: list[Row], topics: dict[str, Declared]) -> tuple[list[int], int]:
    """The mark before each row, given in their order, and the one after all."""
    watermarks = {(name, p): LOW for name, each in topics.items() for p in range(each.partitions)}
    seen: dict[tuple[str, int], int] = {}
    mark, found = LOW, []
    for row in rows:
        found.append(mark)
        own = (row.topic, row.partition)
        declared = topics[row.topic]
        seen[own] = row.append_time
        if row.ts is not None and not (declared.future is not None and row.ts - row.append_time > declared.future):
            watermarks[own] = max(watermarks[own], row.ts - declared.delay)
        active = []
        for key, watermark in watermarks.items():
            idle = topics[key[0]].idle
            if idle is None or row.append_time - seen.get(key, rows[0].append_time) <= idle:
                active.append(watermark)
        mark = max(mark, min(active))
    return found, mark


def windows_of(ts: int, size: int, slide: int) -> list[int]:
    """The starts of the windows that hold a time."""
    first = (ts - size) // slide + 1
    return [n * slide for n in range(first, ts // slide + 1) if n * slide <= ts < n * slide + size]


@dataclass
class Accepted:
    """The (row, window) pairs of a topic that were not late, and how many rows were late for a window."""

    pairs: list[tuple[Row, int, int]] = field(default_factory=list)
    late: int = 0


def accept(rows: list[Row], before: list[int], topic: str, size: int, slide: int, grace: int) -> Accepted:
    found = Accepted()
    for row, mark in zip(rows, before, strict=True):
        if row.topic != topic or row.ts is None:
            continue
        starts = windows_of(row.ts, size, slide)
        kept = [start for start in starts if mark < start + size + grace]
        found.late += len(kept) < len(starts)
        found.pairs += [(row, start, start + size) for start in kept]
    return found


WINDOWS = {"tumble": (10 * SECOND, 10 * SECOND), "hop": (10 * SECOND, 4 * SECOND), "slow": (12 * SECOND, 6 * SECOND)}


class Oracle:
    """The answer to a query over tables a_tumble, b_hop ...: the rows in windows that have closed; a_tumble_all: in
    all. `late`: how many rows of a topic were late for some of its windows, by such a name."""

    def __init__(self, rows: list[Row], topics: dict[str, Declared], grace: int, sql: str) -> None:
        before, mark = marks(rows, topics)
        self.closed = mark - grace if mark != LOW else LOW
        self.late: dict[str, int] = {}
        db = duckdb.connect(config={"threads": 1})
        for topic in topics:
            for name, (size, slide) in WINDOWS.items():
                accepted = accept(rows, before, topic, size, slide, grace)
                self.late[f"{topic}_{name}"] = accepted.late
                for suffix, limit in (("", self.closed), ("_all", 1 << 62)):
                    table = f"{topic}_{name}{suffix}"
                    if not re.search(rf"\b{table}\b", sql):
                        continue
                    db.execute(
                        f"CREATE TABLE {table} (k VARCHAR, v BIGINT, ts TIMESTAMP, window_start TIMESTAMP, "
                        "window_end TIMESTAMP, window_time TIMESTAMP)"
                    )
                    data = [
                        (row.k, row.v, _time(row.ts), _time(start), _time(end), _time(end - 1))
                        for row, start, end in accepted.pairs
                        if end <= limit
                    ]
                    if data:
                        db.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?, ?, ?)", data)
        closed = f"make_timestamp({max(self.closed, -60_000_000_000_000_000)})"
        self.answer: Counter[Any] = Counter(normal(db.execute(sql.replace("{closed}", closed)).fetchall()))
        db.close()


def _time(us: int | None) -> dt.datetime | None:
    return None if us is None else dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=us)


def us_of(time: dt.datetime) -> int:
    return (time - dt.datetime(1970, 1, 1)) // dt.timedelta(microseconds=1)
