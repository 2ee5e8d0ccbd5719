"""TPC-H: the 22 queries over tables and rows of the standard, against DuckDB on its own file.

    python -m bench tpch [--scale 0.1] [--threads 2] [--rounds 5] [--queries q01 q06] [--texts DIRECTORY]

The tables come from tpchgen-cli (`pip install tpchgen-cli`). The texts of the queries and the answers at scale 0.1 are
TPC's and not part of this repository: `--texts`, or the environment variable EVENTDB_TPCH, names a directory with
queries/q01.sql ... and, optionally, answers/sf0.1/q01.csv ... Both databases must give the same rows before anything is
timed. At scale 0.1 a result that differs from the answer given is noted: generators differ in addresses and comments.
"""

from __future__ import annotations

import argparse
import csv
import datetime as dt
import math
import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

import eventdb
from bench.measure import Report, median, scratch, show_s, take_turns, timed
from eventdb.errors import EventDBError

if TYPE_CHECKING:
    import pyarrow

TABLES = ("region", "nation", "supplier", "customer", "part", "partsupp", "orders", "lineitem")
NEAR = Path(__file__).parents[2] / "shared" / "corpora" / "tpch"
BATCH_ROWS = 1_000_000
WORST = 2.0  # a query may take so many times DuckDB's time, their sum no more than its sum


class Missing(Exception):
    """What the benchmark needs and did not find."""


def texts(directory: Path) -> dict[str, str]:
    """Query name -> SQL."""
    found = {file.stem: file.read_text(encoding="utf-8") for file in sorted((directory / "queries").glob("q*.sql"))}
    if not found:
        raise Missing(f"{directory}/queries holds no q01.sql ...: name its place with --texts or EVENTDB_TPCH")
    return found


def generate(scale: float, into: Path) -> dict[str, Path]:
    """Table name -> Parquet file."""
    tool = shutil.which("tpchgen-cli")
    if tool is None:
        raise Missing("tpchgen-cli is not installed: pip install tpchgen-cli")
    command = [tool, "parquet", "-s", str(scale), f"--output-dir={into}", "-q"]
    subprocess.run(command, check=True, capture_output=True)
    return {name: into / f"{name}.parquet" for name in TABLES}


def _batches(file: Path) -> Iterator[pyarrow.Table]:
    """The rows of a file, with plain strings: tpchgen writes views of strings."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    def plain(type: pa.DataType) -> pa.DataType:
        return pa.string() if pa.types.is_string_view(type) else type

    for batch in parquet.ParquetFile(file).iter_batches(BATCH_ROWS):
        table = pa.Table.from_batches([batch])
        yield table.cast(pa.schema([pa.field(f.name, plain(f.type)) for f in table.schema]))


def load(work: Path, files: dict[str, Path], threads: int) -> tuple[eventdb.Database, duckdb.DuckDBPyConnection]:
    """The same rows, in the same order, in both databases; ours has sealed its log, as DuckDB compresses its file."""
    db = eventdb.open(work / "ours", durability="os", threads=threads, memory_limit="2GB")
    peer = duckdb.connect(str(work / "duck.db"), config={"threads": threads})
    for name, file in files.items():
        for number, table in enumerate(_batches(file)):
            if not number:
                topic = db.create_topic(name, like=table)
            topic.append_batch(table)
        peer.execute(f"CREATE TABLE {name} AS SELECT * FROM read_parquet('{file}')")
    db.compact(full=True)
    return db, peer


def _value(value: Any) -> Any:
    if isinstance(value, dt.datetime | dt.date):
        return value.isoformat()[:10]
    try:
        return float(value)
    except (TypeError, ValueError):
        return value.rstrip() if isinstance(value, str) else value


def difference(ours: Sequence[Sequence[Any]], theirs: Sequence[Sequence[Any]]) -> str | None:
    """The first difference between two results whose rows the query orders; numbers may differ in the last digits."""
    if len(ours) != len(theirs):
        return f"{len(ours)} rows instead of {len(theirs)}"
    for number, (mine, other) in enumerate(zip(ours, theirs, strict=True)):
        for a, b in zip(map(_value, mine), map(_value, other), strict=True):
            numbers = isinstance(a, float) and isinstance(b, float)
            if not (math.isclose(a, b, rel_tol=1e-6, abs_tol=0.006) if numbers else a == b):
                return f"row {number}: {a!r} instead of {b!r}"
    return None


def answer(directory: Path, name: str) -> list[list[str | None]] | None:
    """The standard's answer at scale 0.1; None if it is not there."""
    file = directory / "answers" / "sf0.1" / f"{name}.csv"
    if not file.exists():
        return None
    with file.open(encoding="utf-8", newline="") as lines:
        rows = list(csv.reader(lines, delimiter="|"))[1:]
    return [[None if value == "NULL" else value for value in row] for row in rows]


def run(scale: float, threads: int, rounds: int, directory: Path, chosen: Sequence[str]) -> Report:
    report = Report(f"TPC-H at scale {scale:g}, {threads} threads, warm, against DuckDB {duckdb.__version__}")
    queries = {name: sql for name, sql in texts(directory).items() if not chosen or name in chosen}
    ours_s = theirs_s = 0.0
    failed = 0
    with scratch() as work:
        db, peer = load(work, generate(scale, work / "parquet"), threads)
        for name, sql in queries.items():
            expected = peer.execute(sql).fetchall()
            try:
                db.sql("SET execution = 'compiled'")  # its kernels are in the cache on disk from then on
                found = db.sql(sql).fetchall()
                db.sql("SET execution = 'auto'")
                wrong = difference(found, expected)
                standard = answer(directory, name) if scale == 0.1 else None
                other = None if standard is None else difference(found, standard)
                if wrong is None and other is not None:
                    report.note(f"{name}: as DuckDB on these tables, but the answers given have {other}")
            except EventDBError as error:
                wrong = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            if wrong is not None:
                failed += 1
                report.add(name, wrong, "", "the same rows", False)
                continue
            values = take_turns(
                {
                    "ours": lambda sql=sql: timed(lambda: db.sql(sql).arrow()),  # type: ignore[misc]
                    "theirs": lambda sql=sql: timed(lambda: peer.sql(sql).to_arrow_table()),  # type: ignore[misc]
                },
                rounds,
            )
            mine, other = median(values["ours"]), median(values["theirs"])
            ours_s, theirs_s = ours_s + mine, theirs_s + other
            figures = f"{show_s(mine)} against {show_s(other)}"
            report.add(name, figures, f"{mine / other:.2f}x its time", f"<= {WORST:g}x", mine <= WORST * other)
        db.close()
        peer.close()
    if len(queries) > failed:
        what = "sum of all" if not failed else f"sum of the {len(queries) - failed} that give the same rows"
        report.add(
            what, f"{show_s(ours_s)} against {show_s(theirs_s)}", f"{ours_s / theirs_s:.2f}x its time", "<= 1x",
            ours_s <= theirs_s and not failed,
        )  # fmt: skip
    return report


def main(arguments: Sequence[str]) -> int:
    """Prints the report; returns how many figures missed their bar."""
    parser = argparse.ArgumentParser(prog="python -m bench tpch", description=__doc__)
    parser.add_argument("--scale", type=float, default=0.1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queries", nargs="*", default=())
    parser.add_argument("--texts", type=Path, default=Path(os.environ.get("EVENTDB_TPCH", NEAR)))
    options = parser.parse_args(arguments)
    try:
        report = run(options.scale, options.threads, options.rounds, options.texts, options.queries)
    except Missing as error:
        print(f"skipped: {error}")
        return 0
    report.show()
    return report.missed()
