"""How fast do views of any shape follow their topics?

    python -m bench views [catch_up | refresh | push] [events] [qN ...]
    python -m bench views many | restart [keys]

`catch_up`: each of Nexmark's queries takes in all events from nothing; DuckDB computes it once over the same rows.
`refresh`: 1,000 new events over that history, then the view is read; DuckDB computes it again.
`push`: one event at a time, from the call of append to the change in the subscriber's hands, in the same thread.

The answers are compared; another one is an error.

`many`: CPU time per event of 1,000 views of one topic against that of one. `restart`: a view with so many keys of state
is stored, and read in a new process.
"""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

import eventdb
from bench import nexmark
from bench.measure import median, percentile, scratch

EVENTS = 1_000_000
NEW_GROUPS = 20  # of 50 events
PUSHES = 2_000
ROUNDS = 3
RATE = 10_000
MANY, MANY_EVENTS = 1_000, 100_000
RESTART_KEYS = 10_000_000


def _tables(first: int, groups: int) -> dict[str, Any]:
    return {
        "person": nexmark.persons(first, groups, rate=RATE),
        "auction": nexmark.auctions(3 * first, 3 * groups, rate=RATE),
        "bid": nexmark.bids(46 * first, 46 * groups, rate=RATE),
    }


class Contest:
    def __init__(self, work: Path, events: int) -> None:
        self.db = eventdb.open(work / "db", durability="interval:1s", memory_limit="4GB")
        self.duck = duckdb.connect(config={"threads": 2})
        self.groups = 0
        for name, columns in nexmark.TOPICS.items():
            self.db.create_topic(name, columns)
        self.db.sql("CREATE TABLE side_input (key BIGINT PRIMARY KEY, value VARCHAR)")
        self.db.sql("INSERT INTO side_input SELECT g, 'side ' || g FROM range(0, 100) AS s(g)")
        self.duck.execute(
            "CREATE TABLE side_input AS SELECT g AS key, 'side ' || g AS value FROM range(0, 100) AS s(g)"
        )
        self.add(events // 50)
        self.db._views_of().stop()  # the reader alone is measured

    def add(self, groups: int) -> None:
        for name, table in _tables(self.groups, groups).items():
            self.db.topic(name).append_batch(table)
            if self.groups:
                self.duck.from_arrow(table).insert_into(name)
            else:
                self.duck.register("rows", table)
                self.duck.execute(f"CREATE TABLE {name} AS FROM rows")
        self.groups += groups

    def ours(self, name: str) -> tuple[float, Any]:
        gc.collect()
        started = time.perf_counter()
        found = self.db.sql(f"SELECT count(*) FROM {name}").fetchall()[0][0]
        return time.perf_counter() - started, found

    def theirs(self, name: str) -> tuple[float, Any]:
        query = nexmark.QUERIES[name].format(**nexmark.DUCKDB_WINDOWS)
        started = time.perf_counter()
        found = self.duck.execute(f"SELECT count(*) FROM ({query}) q").fetchall()[0][0]
        # count(*) alone lets DuckDB leave columns out: all of them must be computed.
        self.duck.execute(f"CREATE OR REPLACE TEMP TABLE answer AS {query}")
        return time.perf_counter() - started, found

    def create(self, name: str) -> None:
        limit = "STATE LIMIT '4GB' " if name in nexmark.JOINS_OF_TOPICS else ""
        query = nexmark.QUERIES[name].format(**nexmark.WINDOWS)
        self.db.sql(f"CREATE MATERIALIZED VIEW {name} {limit}AS {query}")
        self.db._views_of().stop()


def _check(name: str, ours: Any, theirs: Any) -> None:
    if ours != theirs:
        raise SystemExit(f"{name}: {ours} rows, DuckDB has {theirs}")


def _catch_up(contest: Contest, names: Sequence[str], events: int) -> None:
    print(f"{'query':<6}{'rows':>10}{'ours s':>9}{'events/s':>12}{'DuckDB once s':>15}{'ratio':>8}")
    for name in names:
        contest.create(name)
        ours_s, ours = contest.ours(name)
        theirs_s, theirs = contest.theirs(name)
        _check(name, ours, theirs)
        print(f"{name:<6}{ours:>10}{ours_s:>9.3f}{events / ours_s:>12,.0f}{theirs_s:>15.3f}{ours_s / theirs_s:>8.2f}")


def _refresh(contest: Contest, names: Sequence[str]) -> None:
    print(f"{'query':<6}{'ours ms':>10}{'DuckDB ms':>11}{'ours faster':>13}")
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for _ in range(ROUNDS):
        contest.add(NEW_GROUPS)
        for name in names:
            ours_s, ours = contest.ours(name)
            theirs_s, theirs = contest.theirs(name)
            _check(name, ours, theirs)
            times[name].append((ours_s, theirs_s))
    for name, pairs in times.items():
        ours_ms, theirs_ms = (1000 * median([pair[i] for pair in pairs]) for i in (0, 1))
        print(f"{name:<6}{ours_ms:>10.2f}{theirs_ms:>11.2f}{theirs_ms / ours_ms:>12.1f}x")


def _push(contest: Contest, names: Sequence[str]) -> None:
    print(f"{'query':<6}{'p50 us':>9}{'p99 us':>9}")
    topic = contest.db.topic("bid")
    for name in names:
        with contest.db.subscribe(name, start="latest") as feed:
            feed.poll(0)
            rows = nexmark.bids(46 * contest.groups, PUSHES, rate=RATE).to_pylist()
            taken = []
            for row in rows:
                started = time.perf_counter()
                topic.append(row)
                feed.poll(0)
                taken.append((time.perf_counter() - started) * 1e6)
        print(f"{name:<6}{median(taken):>9.0f}{percentile(taken, 0.99):>9.0f}")


def _maintained(db: eventdb.Database, rows: Any) -> float:
    """CPU seconds of this process until all views have taken in more rows of bid."""
    started = time.process_time()
    db.topic("bid").append_batch(rows)
    while any(view["lag_rows"] for view in db.stats()["views"].values()):
        time.sleep(0.05)
    return time.process_time() - started


def _many() -> None:
    taken = {}
    for count in (1, MANY):
        with scratch() as work, eventdb.open(work / "db", durability="interval:1s", memory_limit="4GB") as db:
            db.create_topic("bid", nexmark.BID_COLUMNS)
            for i in range(count):
                db.sql(
                    f"CREATE MATERIALIZED VIEW v{i} AS SELECT auction, count(*) AS n, max(price) AS high FROM bid "
                    f"WHERE bidder % {MANY} = {i} GROUP BY auction"
                )
            _maintained(db, nexmark.bids(0, MANY_EVENTS, rate=RATE))
            taken[count] = _maintained(db, nexmark.bids(MANY_EVENTS, MANY_EVENTS, rate=RATE))
        print(f"{count:>5} views: {taken[count] / MANY_EVENTS * 1e6:.2f} us of CPU per event")
    print(f"ratio {taken[MANY] / taken[1]:.0f} (bar 100)")


_READ = """
import sys, time, eventdb
started = time.perf_counter()
with eventdb.open(sys.argv[1], memory_limit="4GB") as db:
    found = db.sql("SELECT n FROM v WHERE k = 77").fetchall()
    print(time.perf_counter() - started, found)
"""


def _restart(keys: int) -> None:
    with scratch() as work:
        with eventdb.open(work / "db", durability="interval:1s", memory_limit="4GB") as db:
            db.create_topic("t", {"k": "BIGINT NOT NULL", "x": "BIGINT NOT NULL"})
            numbers = pa.array(range(keys), pa.int64())
            db.topic("t").append_batch(pa.table({"k": numbers, "x": numbers}))
            db.sql("CREATE MATERIALIZED VIEW v AS SELECT k, count(*) AS n, sum(x) AS s FROM t GROUP BY k")
            started = time.perf_counter()
            while db.stats()["views"]["v"]["lag_rows"]:
                time.sleep(0.05)
            print(f"{keys} keys stored after {time.perf_counter() - started:.1f} s")
        for _ in range(ROUNDS):
            done = subprocess.run(
                [sys.executable, "-c", _READ, work / "db"], capture_output=True, text=True, check=True
            )
            print(f"open and first answer: {done.stdout.strip()} s (bar 2)")


def main(arguments: Sequence[str]) -> int:
    if "many" in arguments:
        _many()
        return 0
    if "restart" in arguments:
        _restart(next((int(word) for word in arguments if word.isdigit()), RESTART_KEYS))
        return 0
    words = [word for word in arguments if not word.isdigit() and word not in nexmark.QUERIES] or [
        "catch_up", "refresh", "push",
    ]  # fmt: skip
    events = next((int(word) for word in arguments if word.isdigit()), EVENTS)
    names = [word for word in arguments if word in nexmark.QUERIES] or list(nexmark.QUERIES)
    with scratch() as work:
        contest = Contest(work, events)
        try:
            _catch_up(contest, names, events)
            if "refresh" in words:
                _refresh(contest, names)
            if "push" in words:
                _push(contest, names)
        finally:
            contest.db.close()
    return 0
