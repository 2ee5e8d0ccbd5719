"""What does a scan, filter and aggregate over a Parquet, CSV or Arrow file, and writing one, cost beside DuckDB?

`python -m bench files [rows]`: both engines run each query in turn on the same files, with all cores, the page cache
warm; the figures are medians of five.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import duckdb
import pyarrow.csv as pa_csv
import pyarrow.feather as pa_feather
import pyarrow.parquet as pa_parquet

import eventdb
from bench.readings import table

ROWS = 1_000_000
ROUNDS = 5
QUERIES = {
    "count": "SELECT count(*) FROM '{f}'",
    "sum of one column": "SELECT sum(count) FROM '{f}'",
    "filter and three aggregates": "SELECT count(*), sum(humidity), avg(temp) FROM '{f}' "
    "WHERE temp > 25 AND status = 'ok'",
    "0.1 % of the time": "SELECT count(*), max(temp) FROM '{f}' WHERE ts < TIMESTAMP '2024-01-01 00:00:02'",
    "GROUP BY 1,000 strings": "SELECT device, count(*), avg(temp), max(humidity) FROM '{f}' GROUP BY device",
    "first ten rows": "SELECT * FROM '{f}' LIMIT 10",
}


def _median_ms(first: Callable[[], object], second: Callable[[], object]) -> tuple[float, float]:
    """Of the two, run in turn after one run each that does not count."""
    times: tuple[list[float], list[float]] = ([], [])
    for number in range(ROUNDS + 1):
        for kept, work in zip(times, (first, second), strict=True):
            started = time.perf_counter()
            work()
            if number:
                kept.append((time.perf_counter() - started) * 1e3)
    return statistics.median(times[0]), statistics.median(times[1])


def main(arguments: Sequence[str]) -> int:
    """Prints a line a query. Nothing is missed: the figures are for people to read."""
    count = int(arguments[0]) if arguments else ROWS
    with tempfile.TemporaryDirectory(prefix="eventdb-bench-") as folder:
        base = Path(folder)
        rows = table(count)
        pa_parquet.write_table(rows, base / "x.parquet", row_group_size=122_880)
        pa_csv.write_csv(rows, base / "x.csv")
        pa_feather.write_feather(rows, base / "x.feather", compression="uncompressed")
        print(f"{count:,} readings of six columns; medians of {ROUNDS}, ms\n")
        print(f"{'':46}{'EventDB':>10}{'DuckDB':>10}{'ratio':>8}")
        with eventdb.open(":memory:") as db, duckdb.connect() as rival:
            for ending in ("parquet", "csv"):
                for name, sql in QUERIES.items():
                    text = sql.format(f=base / f"x.{ending}")
                    _line(
                        f"{ending}: {name}",
                        lambda t=text: db.sql(t).fetchall(),
                        lambda t=text: rival.execute(t).fetchall(),
                    )
            for ending in ("parquet", "csv"):
                text = f"COPY (SELECT * FROM '{base}/x.parquet') TO '{base}/out.{ending}'"
                _line(f"COPY parquet TO {ending}", lambda t=text: db.sql(t), lambda t=text: rival.execute(t))
            rival.register("given", rows)
            db.register("given", rows)
            text = QUERIES["GROUP BY 1,000 strings"].format(f="given").replace("'", "")
            _line(
                "Arrow table: GROUP BY 1,000 strings",
                lambda: db.sql(text).fetchall(),
                lambda: rival.execute(text).fetchall(),
            )
    return 0


def _line(name: str, ours: Callable[[], object], theirs: Callable[[], object]) -> None:
    first, second = _median_ms(ours, theirs)
    print(f"{name:46}{first:10.1f}{second:10.1f}{first / second:8.2f}")


if __name__ == "__main__":
    raise SystemExit(main(()))
