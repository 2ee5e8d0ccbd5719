"""How small is sealed history, and how fast is it read?

    python -m bench sealed [--rows N] [--rounds N] [--data DIRECTORY]

Weather observations (26,115 rows), Nexmark bids and, if DIRECTORY has them, NAB series (DIRECTORY/nab/data/*/*.csv) and
an Apache access log (DIRECTORY/web_logs/*access*): bytes of sealed files and index against Parquet with zstd(3), a
DuckDB file and a SQLite file of the same rows. Then queries over raw and over sealed bids, taking turns: sealed ones
with no block decoded before, checksums included, and with all of them kept. Last the decoders alone.
"""

from __future__ import annotations

import argparse
import os
import re
import sqlite3
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet

import eventdb
from bench import nexmark
from bench.measure import Report, median, scratch, take_turns, timed
from eventdb.storage.sealed import blocks, nodes, seal_process
from eventdb.storage.sealed.encode import encode
from eventdb.storage.sealed.sealed import SealedSegment

BATCH_ROWS = 250_000
WEATHER = Path(__file__).resolve().parent.parent / "shell" / "data" / "weather.csv.gz"
LOG_LINE = re.compile(r'(\S+) \S+ \S+ \[([^\]]+)\] "(\S*) ?(\S*) ?([^"]*)" (\d+) (\d+|-) "([^"]*)" "([^"]*)"')
QUERIES = {
    "every row and column as Arrow": "SELECT * FROM bids",
    "numbers and time as Arrow": 'SELECT auction, bidder, price, "dateTime" FROM bids',
    "numbers and time as Arrow, then read once": 'SELECT auction, bidder, price, "dateTime" FROM bids',
    "filter, count/sum/max": "SELECT count(*), sum(price), max(bidder) FROM bids WHERE price > 5000",
    "GROUP BY channel, 3 aggregates": "SELECT channel, count(*), sum(price), max(bidder) FROM bids GROUP BY channel",
}
SCAN_BAR = 0.8
DECODE_BAR_GBS = 2.0


def nab(folder: Path) -> pa.Table | None:
    """All series below each other, with their names."""
    parts = []
    for path in sorted(folder.glob("nab/data/*/*.csv")):
        table = pa.csv.read_csv(path)
        name = pa.array([path.stem] * len(table))
        time_us = table["timestamp"].cast(pa.timestamp("us"))
        parts.append(pa.table({"series": name, "at": time_us, "value": table["value"].cast(pa.float64())}))
    return pa.concat_tables(parts) if parts else None


def access_log(folder: Path) -> pa.Table | None:
    import datetime as dt

    rows = []
    for path in sorted(folder.glob("web_logs/*")):
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            match = LOG_LINE.match(line)
            if match is not None:
                address, at, method, url, protocol, status, size, referrer, agent = match.groups()
                moment = dt.datetime.strptime(at, "%d/%b/%Y:%H:%M:%S %z").astimezone(dt.timezone.utc)
                rows.append({
                    "address": address, "at": moment.replace(tzinfo=None), "method": method, "url": url,
                    "protocol": protocol, "status": int(status), "bytes": None if size == "-" else int(size),
                    "referrer": referrer, "agent": agent,
                })  # fmt: skip
    return pa.Table.from_pylist(rows) if rows else None


# -- bytes -----------------------------------------------------------------------------------------


def folder_bytes(path: Path) -> int:
    """Disk blocks of the segments and the index: rows, statistics and dictionaries."""
    files = [*(path / "topics").rglob("*"), path / "index" / "data.mdb"]
    return sum(file.stat().st_blocks * 512 for file in files if file.is_file())


def fill(path: Path, table: pa.Table, *, seal: bool) -> eventdb.Database:
    db = eventdb.open(path, durability="os")
    topic = db.create_topic(path.stem, like=table)
    for start in range(0, len(table), BATCH_ROWS):
        topic.append_batch(table.slice(start, BATCH_ROWS))
    if seal:
        db.compact(full=True)
    db.checkpoint()
    return db


def parquet_bytes(path: Path, table: pa.Table) -> int:
    pa.parquet.write_table(table, path, compression="zstd", compression_level=3)
    return path.stat().st_size


def duckdb_bytes(path: Path, table: pa.Table) -> int:
    connection = duckdb.connect(str(path))
    connection.register("incoming", table)
    connection.execute("CREATE TABLE t AS SELECT * FROM incoming")
    connection.execute("CHECKPOINT")
    connection.close()
    return path.stat().st_size


def sqlite_bytes(path: Path, table: pa.Table) -> int:
    plain = [column.cast(pa.int64()) if pa.types.is_timestamp(column.type) else column for column in table.columns]
    connection = sqlite3.connect(path)
    connection.execute(f"CREATE TABLE t ({', '.join(f'c{i}' for i in range(len(plain)))})")
    rows = zip(*[column.to_pylist() for column in plain], strict=True)
    connection.executemany(f"INSERT INTO t VALUES ({', '.join('?' * len(plain))})", rows)
    connection.commit()
    connection.execute("VACUUM")
    connection.close()
    return path.stat().st_size


def sizes(report: Report, work: Path, name: str, table: pa.Table) -> None:
    started = time.perf_counter()
    db = fill(work / f"{name}.eventdb", table, seal=True)
    seal_s = time.perf_counter() - started
    ours = folder_bytes(Path(db.path))
    files_bytes = sum(file.stat().st_size for file in Path(db.path).rglob("*.col"))
    db.close()
    theirs = {
        "Parquet zstd(3)": parquet_bytes(work / f"{name}.parquet", table),
        "DuckDB": duckdb_bytes(work / f"{name}.duck", table),
        "SQLite": sqlite_bytes(work / f"{name}.sqlite", table),
    }
    best = min(theirs.values())
    report.add(f"{name}, {len(table):,} rows", show_bytes(ours),
               f"{ours / best:.2f} of the smallest peer", "<= 1", ours <= best)  # fmt: skip
    others = ", ".join(f"{peer} {show_bytes(size)}" for peer, size in theirs.items())
    report.note(f"{name}: sealed files {show_bytes(files_bytes)}, with the index {show_bytes(ours)}; {others}; "
                f"append and seal {seal_s:.1f} s")  # fmt: skip


def show_bytes(size: int) -> str:
    return f"{size / 1e6:.3g} MB" if size >= 1_000_000 else f"{size / 1e3:.3g} kB"


# -- speed -----------------------------------------------------------------------------------------


def forget(db: eventdb.Database) -> None:
    """No block is kept, and none was verified."""
    blocks.CACHE.clear()
    for log in db._logs_of(db._catalog.topic("bids")):
        for segment in log._mapped.values():
            if isinstance(segment, SealedSegment):
                segment._verified = bytearray(len(segment._verified))


def scans(report: Report, work: Path, rows: int, rounds: int) -> None:
    table = pa.concat_tables(nexmark.bids(first, min(BATCH_ROWS, rows - first)) for first in range(0, rows, BATCH_ROWS))
    raw = fill(work / "raw" / "bids.eventdb", table, seal=False)
    sealed = fill(work / "sealed" / "bids.eventdb", table, seal=True)
    blocks.ENGINE.kernels = nodes.Kernels()
    for what, sql in QUERIES.items():
        for db in (raw, sealed):
            db.sql("SET execution = 'compiled'" if "GROUP" in what or "filter" in what else "SET execution = 'auto'")
            db.sql(sql).arrow()

        def ask(db: eventdb.Database, sql: str = sql, read: bool = "read once" in what) -> float:
            def run() -> None:
                table = db.sql(sql).arrow()
                if read:  # a raw column is a view of its file: until now nobody has looked at it
                    for column in table.columns:
                        pa.compute.min_max(column)

            return timed(run)

        def cold(ask: Callable[[eventdb.Database], float] = ask) -> float:
            forget(sealed)
            return ask(sealed)

        def warm(ask: Callable[[eventdb.Database], float] = ask) -> float:
            ask(sealed)  # what is decoded for the second time is kept
            ask(sealed)
            return ask(sealed)

        turns = {"raw": lambda ask=ask: ask(raw), "cold": cold, "warm": warm}  # type: ignore[misc]
        values = take_turns(turns, rounds)
        base, first, again = (median(values[name][1:]) for name in ("raw", "cold", "warm"))
        report.add(f"{what}, nothing decoded before", f"{first * 1e3:.1f} against {base * 1e3:.1f} ms",
                   f"{base / first:.2f}x raw", f">= {SCAN_BAR}x", base / first >= SCAN_BAR)  # fmt: skip
        report.add(f"{what}, repeated", f"{again * 1e3:.1f} against {base * 1e3:.1f} ms", f"{base / again:.2f}x raw",
                   f">= {SCAN_BAR}x", base / again >= SCAN_BAR)  # fmt: skip
    raw.close()
    sealed.close()


def families() -> dict[str, Any]:
    """Blocks that each family is chosen for."""
    random, count = np.random.default_rng(1), 65_536
    return {
        "constant": np.full(count, 7),
        "bit packing, 64-bit lanes": random.integers(0, 1000, count),
        "bit packing, 32-bit lanes": random.integers(0, 1000, count).astype(np.int32),
        "delta": np.cumsum(random.integers(0, 1000, count)),
        "run lengths": np.repeat(random.integers(0, 1 << 40, count // 50 + 1), 50)[:count],
        "dictionary": random.integers(0, 50, count) * (1 << 40) // 3,
        "dictionary, 32-bit": (random.integers(0, 50, count) * 40_000_003).astype(np.int32),
        "run lengths, 32-bit": np.repeat(random.integers(0, 1 << 30, count // 50 + 1), 50)[:count].astype(np.int32),
        "multiples of 1,000,000": random.integers(0, 1000, count) * 1_000_000,
        "times of rows in batches": np.repeat(np.arange(count // 46 + 1) * 1_000_000, 46)[:count],
        "exceptions": np.where(random.random(count) < 0.01, 1 << 40, random.integers(0, 1000, count)),
        "decimals (doubles)": random.integers(-5000, 5000, count) / 100,
        "decimals with exceptions": np.where(random.random(count) < 0.01, np.pi, random.integers(0, 5000, count) / 100),
        "split (random doubles)": random.normal(20, 5, count),
    }


def seconds_of(data: memoryview, item: int, kernels: nodes.Kernels | None) -> float:
    """Processor seconds that decoding a block takes; what it gave is dropped at once, as a scan does."""
    started = time.thread_time()
    for _ in range(40):
        nodes.decode(data, 65_536, item, kernels)
    return (time.thread_time() - started) / 40


def decoders(report: Report, rounds: int) -> None:
    kernels = nodes.Kernels()
    for name, values in families().items():
        data, item = memoryview(encode(values)), values.dtype.itemsize
        measured = take_turns(
            {
                "compiled": lambda data=data, item=item: seconds_of(data, item, kernels),  # type: ignore[misc]
                "numpy": lambda data=data, item=item: seconds_of(data, item, None),  # type: ignore[misc]
            },
            rounds,
        )
        speed, plain = (values.nbytes / median(measured[name]) / 1e9 for name in ("compiled", "numpy"))
        report.add(f"decode {name}", f"{speed:.1f} GB/s", f"{len(data) / values.nbytes:.3f} of the size",
                   f">= {DECODE_BAR_GBS:g} GB/s", speed >= DECODE_BAR_GBS)  # fmt: skip
        report.note(f"{name}: NumPy alone {plain:.1f} GB/s")


def run(rows: int, rounds: int, data: Path | None) -> list[Report]:
    seal_process.SEAL_INTERVAL_MS = 1 << 40  # raw stays raw while it is measured
    with scratch() as work:
        report = Report("bytes on disk, sealed")
        sizes(report, work, "weather", pa.csv.read_csv(WEATHER))
        for name, load in (("nab", nab), ("access", access_log)):
            table = None if data is None else load(data)
            if table is not None:
                sizes(report, work, name, table)
            else:
                report.note(f"{name}: skipped, its files are not there (--data)")
        bids = pa.concat_tables(nexmark.bids(n, min(BATCH_ROWS, rows - n)) for n in range(0, rows, BATCH_ROWS))
        sizes(report, work, "bids", bids)
        speed = Report(f"reading {rows:,} sealed bids, against raw ones")
        (work / "raw").mkdir()
        (work / "sealed").mkdir()
        scans(speed, work, rows, rounds)
    kernels = Report("decoding blocks of 65,536 values, one core")
    decoders(kernels, rounds)
    return [report, speed, kernels]


def main(arguments: Sequence[str]) -> int:
    """Prints the reports; returns how many figures missed their bar."""
    parser = argparse.ArgumentParser(prog="python -m bench sealed", description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--data", type=Path, default=os.environ.get("EVENTDB_BENCH_DATA"))
    options = parser.parse_args(arguments)
    data = None if options.data is None else Path(options.data)
    reports = run(options.rows, options.rounds, data)
    for report in reports:
        report.show()
    return sum(report.missed() for report in reports)
