"""Query engines side by side: each loads Arrow tables under their names and answers SQL with an Arrow table."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.peers.server import Unavailable

if TYPE_CHECKING:
    import pyarrow


def module(name: str) -> Any:
    """The module, or Unavailable."""
    try:
        return importlib.import_module(name)
    except ImportError:
        raise Unavailable(f"{name} is not installed: pip install {name}") from None


class Engine(ABC):
    """One engine on data of its own below `path`, with so many threads."""

    @abstractmethod
    def load(self, name: str, tables: Iterable[pyarrow.Table]) -> None:
        """A table of that name has the rows of all `tables`, in order."""

    @abstractmethod
    def arrow(self, sql: str) -> pyarrow.Table:
        """The result. Any exception of the engine's own if it cannot answer."""

    def close(self) -> None:  # noqa: B027, an engine in memory has nothing to close
        """Lets go of files and memory."""


class DuckDBEngine(Engine):
    """On its own file."""

    def __init__(self, path: Path, threads: int) -> None:
        self._connection = module("duckdb").connect(str(path / "duck.db"), config={"threads": threads})

    def load(self, name: str, tables: Iterable[pyarrow.Table]) -> None:
        for number, table in enumerate(tables):
            self._connection.register("incoming", table)
            begin = f"INSERT INTO {name}" if number else f"CREATE TABLE {name} AS"
            self._connection.execute(f"{begin} SELECT * FROM incoming")
            self._connection.unregister("incoming")

    def arrow(self, sql: str) -> pyarrow.Table:
        return self._connection.sql(sql).to_arrow_table()

    def close(self) -> None:
        self._connection.close()


class PolarsEngine(Engine):
    """In memory, through its SQL."""

    def __init__(self, path: Path, threads: int) -> None:
        self._polars = module("polars")  # its threads are set by POLARS_MAX_THREADS before it is imported
        self._context = self._polars.SQLContext(eager=True)

    def load(self, name: str, tables: Iterable[pyarrow.Table]) -> None:
        frames = [self._polars.from_arrow(table) for table in tables]
        self._context.register(name, self._polars.concat(frames).rechunk())

    def arrow(self, sql: str) -> pyarrow.Table:
        return self._context.execute(sql).to_arrow()


class DataFusionEngine(Engine):
    """In memory."""

    def __init__(self, path: Path, threads: int) -> None:
        datafusion = module("datafusion")
        config = datafusion.SessionConfig().with_target_partitions(threads)
        self._context = datafusion.SessionContext(config)

    def load(self, name: str, tables: Iterable[pyarrow.Table]) -> None:
        batches = [batch for table in tables for batch in table.combine_chunks().to_batches(131_072)]
        parts = [batches[i::2] for i in range(2)]
        self._context.register_record_batches(name, [part for part in parts if part])

    def arrow(self, sql: str) -> pyarrow.Table:
        return self._context.sql(sql).to_arrow_table()


class ChDBEngine(Engine):
    """ClickHouse in this process, MergeTree tables on its own files."""

    def __init__(self, path: Path, threads: int) -> None:
        chdb = module("chdb.session")
        self._session = chdb.Session(str(path / "chdb"))
        self._session.query(f"SET max_threads = {threads}")
        self._path = path

    def load(self, name: str, tables: Iterable[pyarrow.Table]) -> None:
        import pyarrow.parquet as parquet

        for number, table in enumerate(tables):
            file = self._path / f"{name}.parquet"
            parquet.write_table(table, file, compression="lz4")
            source = f"SELECT * FROM file('{file}', Parquet)"
            if not number:
                self._session.query(
                    f"CREATE TABLE {name} ENGINE = MergeTree ORDER BY tuple() "
                    f"SETTINGS allow_nullable_key = 1 AS {source}"
                )
            else:
                self._session.query(f"INSERT INTO {name} {source}")
            file.unlink()

    def arrow(self, sql: str) -> pyarrow.Table:
        import pyarrow as pa

        data = self._session.query(sql, "Arrow").bytes()
        return pa.ipc.open_file(pa.py_buffer(data)).read_all()

    def close(self) -> None:
        self._session.close()


PEERS: dict[str, type[Engine]] = {
    "DuckDB": DuckDBEngine,
    "Polars": PolarsEngine,
    "DataFusion": DataFusionEngine,
    "chDB": ChDBEngine,
}
