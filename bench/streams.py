"""Continuous queries against stream processors: Nexmark from the same files, each system in its own environment.

    python -m bench streams [events] [qN ...]

Ours takes in topics of these rows from nothing, storing its state as it goes, until the view's maintainer is at their
end; Flink and Spark read files of them, with checkpoints. The seconds of a job without rows are taken off theirs.
"""

from __future__ import annotations

import gc
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

import eventdb
from bench import nexmark
from bench.measure import scratch
from bench.peers.server import FLINK, HINT, SPARK
from bench.query_contest import geometric_mean

EVENTS = 1_000_000
FILES = 16
RATE = 10_000
FLINK_WINDOWS = {
    "hop": "TABLE(HOP(TABLE bid, DESCRIPTOR(dateTime), INTERVAL '2' SECOND, INTERVAL '10' SECOND))",
    "tumble_bid": "TABLE(TUMBLE(TABLE bid, DESCRIPTOR(dateTime), INTERVAL '10' SECOND))",
    "tumble_person": "TABLE(TUMBLE(TABLE person, DESCRIPTOR(dateTime), INTERVAL '10' SECOND))",
    "tumble_auction": "TABLE(TUMBLE(TABLE auction, DESCRIPTOR(dateTime), INTERVAL '10' SECOND))",
}
_SPLIT = re.compile(r"split_part\((\w+), ('[^']*'), (\d+)\)")


def _window(table: str, sizes: str) -> str:
    return (
        f"(SELECT *, w.start AS window_start, w.end AS window_end FROM (SELECT *, window(dateTime, {sizes}) AS w "
        f"FROM {table}) t)"
    )


SPARK_WINDOWS = {
    "hop": _window("bid", "'10 seconds', '2 seconds'"),
    **{f"tumble_{name}": _window(name, "'10 seconds'") for name in nexmark.TOPICS},
}


def flink_query(name: str) -> str:
    """The query in Flink's words."""
    text = nexmark.QUERIES[name].format(**FLINK_WINDOWS)
    text = re.sub(r"INTERVAL '(\d+) seconds'", r"INTERVAL '\1' SECOND", text)
    text = _SPLIT.sub(lambda m: f"SPLIT_INDEX({m[1]}, {m[2]}, {int(m[3]) - 1})", text)
    text = re.sub(r"\blength\(", "CHAR_LENGTH(", text)
    return re.sub(r"\b(dateTime|value|day|key|final|total)\b", r"`\1`", text)


def spark_query(name: str) -> str:
    """The query in Spark's words."""
    return nexmark.QUERIES[name].format(**SPARK_WINDOWS)


def write_files(folder: Path, events: int) -> None:
    """Nexmark's rows as folders of Parquet files, and one file of each for whoever wants that."""
    groups = events // 50
    for name, make, count in (
        ("person", nexmark.persons, 1),
        ("auction", nexmark.auctions, 3),
        ("bid", nexmark.bids, 46),
    ):
        (folder / name).mkdir()
        step = -(-groups // FILES)
        for part in range(FILES):
            first, last = part * step, min((part + 1) * step, groups)
            if first < last:
                rows = make(count * first, count * (last - first), rate=RATE)
                pq.write_table(rows, folder / name / f"{part:02}.parquet")
    (folder / "side_input").mkdir()
    side = pa.table({"key": pa.array(range(100), pa.int64()), "value": [f"side {i}" for i in range(100)]})
    pq.write_table(side, folder / "side_input" / "00.parquet")


def ours(work: Path, files: Path, names: Sequence[str]) -> dict[str, float]:
    """Seconds until the maintainer has stored a view over all rows."""
    found = {}
    with eventdb.open(work / "db", durability="interval:1s", memory_limit="4GB") as db:
        for name, columns in nexmark.TOPICS.items():
            db.create_topic(name, columns)
            for file in sorted((files / name).iterdir()):
                db.topic(name).append_batch(pq.read_table(file))
        db.sql("CREATE TABLE side_input (key BIGINT PRIMARY KEY, value VARCHAR)")
        db.sql("INSERT INTO side_input SELECT g, 'side ' || g FROM range(0, 100) AS s(g)")
        for name in ("q0", *names):  # the first compiles what the others need, too
            limit = "STATE LIMIT '4GB' " if name in nexmark.JOINS_OF_TOPICS else ""
            query = nexmark.QUERIES[name].format(**nexmark.WINDOWS)
            gc.collect()
            started = time.perf_counter()
            db.sql(f"CREATE MATERIALIZED VIEW {name}_view {limit}AS {query}")
            while db.stats()["views"][f"{name}_view"]["lag_rows"]:
                time.sleep(0.01)
            found[name] = time.perf_counter() - started
            db.sql(f"DROP VIEW {name}_view")
    return {name: found[name] for name in names}


def theirs(command: Sequence[str | Path], queries: dict[str, str]) -> dict[str, float | str]:
    """Seconds, or the error, of each query in a peer's own process."""
    done = subprocess.run(
        [str(part) for part in command], input=json.dumps(queries), capture_output=True, text=True, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    answers = {line["name"]: line.get("seconds", line.get("error")) for line in lines}
    empty = answers.pop("empty", None)
    if not isinstance(empty, float):
        raise SystemExit(f"the peer did not run: {empty or done.stderr.strip()[-600:]}")
    return {name: _net(s, empty) if isinstance(s, float) else s for name, s in answers.items()}


def _net(seconds: float, empty: float) -> float | str:
    """Seconds without those of a job that has no rows, if they can be told from it."""
    return seconds - empty if seconds > 1.2 * empty else "too few events: starting the job takes as long"


def main(arguments: Sequence[str]) -> int:
    events = next((int(word) for word in arguments if word.isdigit()), EVENTS)
    names = [word for word in arguments if word in nexmark.QUERIES] or list(nexmark.QUERIES)
    peers: dict[str, dict[str, float | str]] = {}
    with scratch() as work:
        files = work / "files"
        files.mkdir()
        write_files(files, events)
        here = Path(__file__).parent / "peers"
        if FLINK.exists():
            command = [FLINK / "bin" / "python", here / "flink_job.py", files, FLINK / "jars"]
            peers["Flink"] = theirs(command, {name: flink_query(name) for name in names})
        if SPARK.exists():
            peers["Spark"] = theirs(
                [SPARK / "bin" / "python", here / "spark_job.py", files], {name: spark_query(name) for name in names}
            )
        if not peers:
            print(f"Flink and Spark are skipped: {HINT}", file=sys.stderr)
        own = ours(work, files, names)
    print(f"{'query':<6}{'ours ev/s':>12}" + "".join(f"{peer + ' ev/s':>14}{'ratio':>7}" for peer in peers))
    ratios: dict[str, list[float]] = {peer: [] for peer in peers}
    for name in names:
        line = f"{name:<6}{events / own[name]:>12,.0f}"
        for peer, found in peers.items():
            seconds = found[name]
            if isinstance(seconds, str):
                line += f"{'-':>14}{'':>7}"
            else:
                ratios[peer].append(seconds / own[name])
                line += f"{events / seconds:>14,.0f}{seconds / own[name]:>6.1f}x"
        print(line)
    for peer, all_ratios in ratios.items():
        if all_ratios:
            print(f"{peer}: geometric mean {geometric_mean(all_ratios):.1f}x, least {min(all_ratios):.1f}x")
        for name, answer in peers[peer].items():
            if isinstance(answer, str):
                print(f"{peer}, {name}: {answer}")
    return 0
