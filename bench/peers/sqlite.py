"""SQLite through Python's sqlite3, as its users run it: WAL, prepared statements, one connection."""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

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
