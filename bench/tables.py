"""How fast are rows changed and found by key? Against SQLite in WAL/NORMAL, ours in `interval`: neither waits.

    python -m bench tables [put] [get] [sql] [bulk]

`put`: one row per commit, of a key that is there and of a new one; and one delete per commit.
`get`: one row by its key, of a table that nobody changes and of one whose rows were all put again since.
`sql`: UPDATE and SELECT of one key in SQL text with a parameter; both keep their statements.
`bulk`: 100,000 rows upserted in one commit, from dicts and by INSERT ... SELECT.

At the end both hold the same rows, or it is an error.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import eventdb
from bench.measure import Report, answer, median, take_turns, timed
from bench.peers.sqlite import SqliteTable

KEYS = 20_000
EACH = 500  # commits or lookups a turn
ROUNDS = 15
BULK_ROWS = 100_000
BULK_ROUNDS = 5
COLUMNS = {"id": "VARCHAR", "site": "VARCHAR", "temp": "DOUBLE", "n": "BIGINT"}
UPSERT_SELECT = (
    "INSERT INTO devices SELECT id, site, temp + 1, n + 1 FROM devices WHERE n >= 0 "
    "ON CONFLICT (id) DO UPDATE SET temp = excluded.temp, n = excluded.n"
)
Row = dict[str, Any]


def rows_of(keys: Sequence[int], n: int) -> list[Row]:
    return [{"id": f"device-{key}", "site": f"site-{key % 50}", "temp": key / 8 + n, "n": n} for key in keys]


class Contest:
    """Our table and SQLite's, which are given the same rows."""

    def __init__(self, work: Path, rows: int) -> None:
        self.db = eventdb.open(work / "ours", durability="interval:100ms")
        self.table = self.db.create_table("devices", COLUMNS, primary_key="id")
        self.sqlite = SqliteTable(work / "lite.db", "NORMAL")
        self._draw = random.Random(1)
        self._serial = 0
        if rows:
            for take in (self.table.put_many, self.sqlite.put_all):
                take(rows_of(range(rows), 0))

    def some(self, count: int, below: int) -> list[Row]:
        """Rows of keys that are there."""
        self._serial += 1
        return rows_of([self._draw.randrange(below) for _ in range(count)], self._serial)

    def race(
        self, report: Report, what: str, ours: Callable[[Any], object], theirs: Callable[[Any], object],
        make: Callable[[], Any], bar: float, rounds: int = ROUNDS, each: int = EACH,
    ) -> None:  # fmt: skip
        """A line of the report: both do the same work, one after the other, on what `make` gives."""
        waiting: dict[str, list[Any]] = {"ours": [], "sqlite": []}

        def turn(name: str, work: Callable[[Any], object]) -> Callable[[], float]:
            def run() -> float:
                if not waiting[name]:
                    made = make()
                    for queue in waiting.values():
                        queue.append(made)
                given = waiting[name].pop(0)
                return timed(lambda: work(given)) / each

            return run

        values = take_turns({"ours": turn("ours", ours), "sqlite": turn("sqlite", theirs)}, rounds)
        report.faster(what, median(values["ours"]), median(values["sqlite"]), bar, "SQLite")

    def close(self) -> None:
        mine = self.db.sql("SELECT id, site, temp, n FROM devices ORDER BY id").fetchall()
        theirs = self.sqlite.contents()
        self.db.close()
        self.sqlite.close()
        if mine != theirs:
            raise AssertionError(f"the tables differ: {len(mine)} rows against {len(theirs)}")


def _each(work: Callable[[Any], object]) -> Callable[[Sequence[Any]], None]:
    def run(given: Sequence[Any]) -> None:
        for one in given:
            work(one)

    return run


def put(work: Path) -> Report:
    contest = Contest(work, KEYS)
    table, sqlite = contest.table, contest.sqlite
    report = Report(f"One row of a table per commit, not waiting for the device; {KEYS:,} keys")
    fresh = iter(range(KEYS, 1 << 30, EACH))

    def new() -> list[Row]:
        first = next(fresh)
        return rows_of(range(first, first + EACH), 0)

    def gone() -> list[str]:
        first = next(leaving)
        return [row["id"] for row in rows_of(range(first, first + EACH), 0)]

    contest.race(report, "put of a key that is there / upsert", _each(table.put), sqlite.put_each,
                 lambda: contest.some(EACH, KEYS), 1 / 3)  # fmt: skip
    contest.race(report, "put of a new key / upsert", _each(table.put), sqlite.put_each, new, 1 / 3)
    leaving = iter(range(0, KEYS, EACH))
    contest.race(report, "delete(key) / DELETE WHERE id = ?", _each(table.delete),
                 lambda keys: sqlite.run_each("DELETE FROM devices WHERE id = ?", keys), gone, 1 / 3)  # fmt: skip
    contest.close()
    return report


def get(work: Path) -> Report:
    contest = Contest(work, KEYS)
    report = Report(f"One row by its key; {KEYS:,} keys")

    def keys() -> list[str]:
        return [row["id"] for row in contest.some(EACH, KEYS)]

    contest.race(report, "get(key) / SELECT WHERE id = ?", _each(contest.table.get), contest.sqlite.get_each,
                 keys, 1 / 3)  # fmt: skip
    again = rows_of(range(KEYS), 7)
    for row in again:
        contest.table.put(row)
    contest.sqlite.put_all(again)
    contest.race(report, "the same, all rows put again one by one", _each(contest.table.get), contest.sqlite.get_each,
                 keys, 1 / 3)  # fmt: skip
    contest.close()
    return report


def sql(work: Path) -> Report:
    contest = Contest(work, KEYS)
    report = Report(f"One key in SQL text; {KEYS:,} keys")
    each = 50

    def keys() -> list[str]:
        return [row["id"] for row in contest.some(each, KEYS)]

    for statement in ("UPDATE devices SET n = n + 1 WHERE id = ?", "SELECT n FROM devices WHERE id = ?"):
        ours = _each(lambda key, text=statement: contest.db.sql(text, [key]))
        theirs = partial(contest.sqlite.run_each, statement)
        contest.race(report, statement, ours, theirs, keys, 0, each=each)
    contest.close()
    return report


def bulk(work: Path) -> Report:
    contest = Contest(work, BULK_ROWS)
    report = Report(f"{BULK_ROWS:,} rows upserted in one commit, seconds a row")
    contest.race(report, "put_many / executemany", contest.table.put_many, contest.sqlite.put_all,
                 lambda: contest.some(BULK_ROWS, BULK_ROWS), 1 / 3, BULK_ROUNDS, BULK_ROWS)  # fmt: skip
    contest.race(report, "INSERT ... SELECT ... ON CONFLICT DO UPDATE", lambda _: contest.db.sql(UPSERT_SELECT),
                 lambda _: contest.sqlite.run(UPSERT_SELECT), list, 1 / 3, BULK_ROUNDS, BULK_ROWS)  # fmt: skip
    contest.close()
    return report


QUESTIONS = {"put": put, "get": get, "sql": sql, "bulk": bulk}


def main(arguments: Sequence[str]) -> int:
    """Prints the reports asked for; the number of bars missed."""
    return answer(QUESTIONS, arguments)
