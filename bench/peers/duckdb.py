"""DuckDB on its own file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from bench.log import Log
from bench.payload import SQL_COLUMNS as EVENT_COLUMNS
from bench.payload import Row
from bench.readings import SQL_COLUMNS

if TYPE_CHECKING:
    import pyarrow

VERSION = duckdb.__version__


class DuckDB:
    """One database file; every statement is its own transaction, durable when it returns."""

    def __init__(self, path: Path, threads: int = 2, columns: str = SQL_COLUMNS) -> None:
        self._connection = duckdb.connect(str(path), config={"threads": threads})
        self._connection.execute(f"CREATE TABLE readings ({columns})")

    def append_table(self, table: pyarrow.Table) -> None:
        """The whole Arrow table in one INSERT."""
        self._connection.register("incoming", table)
        self._connection.execute("INSERT INTO readings SELECT * FROM incoming")

    def summary(self) -> tuple[Any, ...]:
        row = self._connection.execute(
            "SELECT count(*), sum(count), count(DISTINCT device), max(temp) FROM readings"
        ).fetchone()
        assert row is not None
        return row

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        return self._connection.execute(sql).fetchall()

    def arrow(self, sql: str) -> pyarrow.Table:
        return self._connection.sql(sql).to_arrow_table()

    def close(self) -> None:
        self._connection.close()


class DuckDBLog(Log):
    """A table of events; takes batches as Arrow tables, which it is quickest at."""

    def __init__(self, path: Path) -> None:
        self._connection = duckdb.connect(str(path), config={"threads": 2})
        self._connection.execute(f"CREATE TABLE events ({EVENT_COLUMNS})")

    def prepare(self, one: Row) -> Row:
        return one

    def prepare_batch(self, rows: Sequence[Row]) -> pyarrow.Table:
        from bench.log import arrow_table

        return arrow_table(rows)

    def append_batch(self, prepared: Any) -> None:
        self._connection.register("incoming", prepared)
        self._connection.execute("INSERT INTO events SELECT * FROM incoming")

    def contents(self) -> Iterator[Row]:
        return iter(self._connection.execute("SELECT n, device, body FROM events").fetchall())

    def close(self) -> None:
        self._connection.close()
