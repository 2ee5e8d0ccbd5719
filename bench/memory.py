"""How much memory do queries take that are larger than memory_limit?

    python -m bench memory [--rows 10000000] [--limit 64MB] [--threads 2]

Sorts, groups, DISTINCT, set operations, joins of all rows with themselves and windows, by a key that is different in
two rows of five, each in a process of its own that reads its result batch by batch; and twenty such queries at once, of
which none may fail. Measured is the process's own memory (RssAnon: without mapped files, which the system takes back
when it wants) above what it held before the query. The whole question: --rows 50000000 --limit 128MB.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.measure import Report, scratch, show_s

if TYPE_CHECKING:
    import eventdb

QUERIES = {
    "sort of all rows": "SELECT k, v FROM t ORDER BY k",
    "sort by a string": "SELECT k, word FROM t ORDER BY word, k",
    "GROUP BY of many keys": "SELECT k, count(*), sum(v) FROM t GROUP BY k",
    "count(DISTINCT) of many values": "SELECT w, count(DISTINCT k) FROM (SELECT v % 8 AS w, k FROM t) GROUP BY w",
    "DISTINCT of many rows": "SELECT DISTINCT k, v FROM t",
    "EXCEPT of all rows": "SELECT k FROM t EXCEPT SELECT k + 1000003 FROM t",
    "join of all rows": "SELECT a.k, a.v, b.v FROM t a JOIN t b ON a.k = b.k WHERE b.v < 40",
    "join on a string": "SELECT count(*) FROM t a JOIN t b ON a.k = b.k AND a.word = b.word",
    "rows without a partner": "SELECT k, v FROM t a WHERE NOT EXISTS (SELECT 1 FROM t b WHERE b.k = a.k + 1000003)",
    "window per key": "SELECT k, v, row_number() OVER (PARTITION BY k ORDER BY v) FROM t",
    "window over all rows": "SELECT k, v, sum(v) OVER (ORDER BY k) FROM t",
}
AT_ONCE = 20
BATCH_ROWS = 500_000
OVERHEAD = 1.0
"""Times the limit that a query may take: the limit is for all it holds."""


def build(path: Path, rows: int) -> None:
    import numpy as np
    import pyarrow as pa

    import eventdb

    with eventdb.open(path, durability="os") as db:
        for first in range(0, rows, BATCH_ROWS):
            random, count = np.random.default_rng(first), min(BATCH_ROWS, rows - first)
            words = pa.array([f"word {i}" for i in range(5_000)])
            codes = pa.array(random.integers(0, 5_000, count).astype(np.int32))
            table = pa.table(
                {
                    "k": random.integers(0, max(1, rows * 2 // 5), count) * 1_000_003,
                    "v": random.integers(0, 99, count),
                    "word": pa.DictionaryArray.from_arrays(codes, words).cast(pa.string()),
                }
            )  # fmt: skip
            if not first:
                topic = db.create_topic("t", like=table)
            topic.append_batch(table)


def own_bytes() -> int:
    """What this process holds without mapped files."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1]) * 1024
    raise SystemExit("bench memory reads RssAnon of /proc/self/status, which this system has not")


def run(path: str, sql: str, limit: str, threads: int) -> dict[str, float | str]:
    """Runs in a process of its own."""
    import time

    import pyarrow  # noqa: F401 (what any query may need is there before)

    import eventdb

    with eventdb.open(path, durability="os", read_only=False, memory_limit=limit, threads=threads) as db:
        db.sql("SELECT k, count(*), sum(v) FROM t WHERE _offset < 300000 GROUP BY k LIMIT 1").fetchall()
        db.sql("SELECT k FROM t WHERE _offset < 1000 ORDER BY k").fetchall()
        db.sql("SELECT count(*) FROM t a JOIN t b ON a._offset = b._offset WHERE b._offset < 1000").fetchall()
        before = peak = own_bytes()
        over = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not over.wait(0.005):
                peak = max(peak, own_bytes())

        watcher = threading.Thread(target=watch)
        watcher.start()
        started = time.perf_counter()
        try:
            rows = together(db, list(QUERIES.values())) if sql == "all" else read(db, sql)
        except eventdb.EventDBError as error:
            return {"error": f"{type(error).__name__}: {error}"}
        finally:
            over.set()
            watcher.join()
        return {"rows": rows, "seconds": time.perf_counter() - started, "bytes": peak - before}


def read(db: eventdb.Database, sql: str) -> int:
    return sum(len(batch) for batch in db.sql(sql).batches())


def together(db: eventdb.Database, queries: Sequence[str]) -> int:
    """Runs AT_ONCE of them side by side; raises what one of them raises."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(AT_ONCE) as pool:
        return sum(pool.map(lambda i: read(db, queries[i % len(queries)]), range(AT_ONCE)))


def main(arguments: Sequence[str]) -> int:
    """Prints the report; returns how many figures missed their bar."""
    parser = argparse.ArgumentParser(prog="python -m bench memory", description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--limit", default="64MB")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--child", nargs=2, metavar=("PATH", "SQL"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(run(*options.child, options.limit, options.threads)))
        return 0
    from eventdb.values import parse_size_bytes

    limit_bytes = parse_size_bytes(options.limit, "limit")
    report = Report(f"{options.rows:,} rows, memory_limit {options.limit}: memory that the query adds")
    with scratch() as work:
        build(work / "a.eventdb", options.rows)
        for what, sql in {**QUERIES, f"{AT_ONCE} of these at once": "all"}.items():
            command = [sys.executable, "-m", "bench", "memory", "--limit", options.limit]
            command += ["--threads", str(options.threads), "--child", str(work / "a.eventdb"), sql]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            if "error" in found:
                report.add(what, found["error"][:90], bar="finishes", met=False)
                continue
            ratio = found["bytes"] / limit_bytes
            text = f"{found['bytes'] / 2**20:.0f} MB, {show_s(found['seconds'])}, {found['rows']:,} rows"
            if sql == "all":  # each may hold a little however many there are
                report.add(what, text, f"{ratio:.2f}x limit", bar="finish", met=True)
                continue
            report.add(what, text, f"{ratio:.2f}x limit", f"<= {OVERHEAD:g}x", ratio <= OVERHEAD)
    report.show()
    return report.missed()
