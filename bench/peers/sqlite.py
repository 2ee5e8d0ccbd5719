"""SQLite through Python's sqlite3, as its users run it: WAL, prepared statements, one connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.log import Log
from bench.payload import Row

INSERT = "INSERT INTO readings VALUES (?, ?, ?, ?, ?, ?)"
INSERT_NAMED = "INSERT INTO readings VALUES (:ts, :device, :status, :temp, :humidity, :count)"
VERSION = sqlite3.sqlite_version


class Sqlite:
    """One file in WAL mode; `synchronous` is NORMAL or FULL. Autocommit."""

    def __init__(self, path: Path, synchronous: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(f"PRAGMA synchronous = {synchronous}")
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS readings "
            "(ts INTEGER, device TEXT, status TEXT, temp REAL, humidity REAL, count INTEGER)"
        )

    def append_each(self, events: Sequence[Mapping[str, Any]]) -> None:
        """One commit per event, from dicts."""
        execute = self._connection.execute
        for event in events:
            execute(INSERT_NAMED, event)

    def append_each_tuple(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """One commit per event, from tuples: what sqlite3 is fastest at."""
        execute = self._connection.execute
        for row in rows:
            execute(INSERT, row)

    def append_all(self, rows: Sequence[tuple[Any, ...]]) -> None:
        """One commit for all, executemany over tuples."""
        self._connection.execute("BEGIN")
        self._connection.executemany(INSERT, rows)
        self._connection.execute("COMMIT")

    def append_all_named(self, events: Sequence[Mapping[str, Any]]) -> None:
        """One commit for all, executemany over dicts."""
        self._connection.execute("BEGIN")
        self._connection.executemany(INSERT_NAMED, events)
        self._connection.execute("COMMIT")

    def summary(self) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self._connection.execute(
            "SELECT count(*), sum(count), count(DISTINCT device), max(temp) FROM readings"
        ).fetchone()
        return row

    def close(self) -> None:
        self._connection.close()


class SqliteLog(Log):
    """A table of events, a connection for each thread, tuples through prepared statements."""

    def __init__(self, path: Path, synchronous: str) -> None:
        self._path = path
        self._synchronous = synchronous
        self._all: list[sqlite3.Connection] = []
        self._free: list[sqlite3.Connection] = []
        self._connection = self._connect()
        self._connection.execute(
            "CREATE TABLE IF NOT EXISTS events (n INTEGER NOT NULL, device TEXT NOT NULL, body BLOB NOT NULL)"
        )

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=60)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        self._all.append(connection)
        return connection

    def prepare(self, one: Row) -> Row:
        return one

    def append_each(self, blocks: Sequence[Sequence[Any]]) -> None:
        self._free = self._all[:]
        super().append_each(blocks)

    def connect(self, threads: int) -> None:
        """Makes the connections that `append_each` of so many blocks takes."""
        while len(self._all) < threads:
            self._connect()

    def appender(self) -> Callable[[Any], object]:
        execute = (self._free.pop() if self._free else self._connect()).execute
        return lambda row: execute("INSERT INTO events VALUES (?, ?, ?)", row)

    def append_batch(self, prepared: Sequence[Any]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        self._connection.executemany("INSERT INTO events VALUES (?, ?, ?)", prepared)
        self._connection.execute("COMMIT")

    def contents(self) -> Iterator[Row]:
        return self._connection.execute("SELECT n, device, body FROM events")

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, values).fetchall()

    def close(self) -> None:
        for connection in self._all:
            connection.close()


class SqliteEvents:
    """History with an index on the key and one on the time."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("CREATE TABLE events (ts INTEGER NOT NULL, device TEXT NOT NULL, temp REAL NOT NULL)")
        self._connection.execute("CREATE INDEX by_device ON events (device)")
        self._connection.execute("CREATE INDEX by_ts ON events (ts)")

    def load(self, rows: Iterable[tuple[Any, ...]]) -> None:
        self._connection.execute("BEGIN")
        self._connection.executemany("INSERT INTO events VALUES (?, ?, ?)", rows)
        self._connection.execute("COMMIT")

    def stream(self) -> Iterator[tuple[Any, ...]]:
        return self._connection.execute("SELECT * FROM events")

    def all(self) -> list[tuple[Any, ...]]:
        return self.stream().fetchall()  # type: ignore[attr-defined]

    def query(self, sql: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql, values).fetchall()

    def close(self) -> None:
        self._connection.close()


class SqliteTable:
    """Rows by key, upserted as SQLite spells it. Autocommit, WAL; `synchronous` is NORMAL or FULL."""

    UPSERT = (
        "INSERT INTO devices VALUES (:id, :site, :temp, :n) "
        "ON CONFLICT (id) DO UPDATE SET site = excluded.site, temp = excluded.temp, n = excluded.n"
    )

    def __init__(self, path: Path, synchronous: str) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute(f"PRAGMA synchronous = {synchronous}")
        self._connection.execute("CREATE TABLE devices (id TEXT PRIMARY KEY, site TEXT, temp REAL, n INTEGER)")

    def put_each(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """One commit a row."""
        execute = self._connection.execute
        for row in rows:
            execute(self.UPSERT, row)

    def put_all(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """One commit for all."""
        self._connection.execute("BEGIN")
        self._connection.executemany(self.UPSERT, rows)
        self._connection.execute("COMMIT")

    def get_each(self, keys: Sequence[str]) -> None:
        execute = self._connection.execute
        for key in keys:
            execute("SELECT * FROM devices WHERE id = ?", (key,)).fetchone()

    def run_each(self, statement: str, keys: Sequence[str]) -> None:
        """The statement for each key, one commit each."""
        execute = self._connection.execute
        for key in keys:
            execute(statement, (key,))

    def run(self, statement: str) -> None:
        self._connection.execute(statement)

    def contents(self) -> list[tuple[Any, ...]]:
        return self._connection.execute("SELECT * FROM devices ORDER BY id").fetchall()

    def close(self) -> None:
        self._connection.close()
