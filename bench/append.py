"""How fast can events be stored?

    python -m bench append [batch] [single] [commit] [producer]

`batch`: one Arrow table of 1M rows in one durable commit, against DuckDB and SQLite.
`single`: one dict per commit, visible to every process when it returns (`interval`), against SQLite's WAL/NORMAL.
`commit`: one dict per commit, on the device when it returns, against SQLite's WAL/FULL and a bare durable write.
`producer`: dicts through a producer, against SQLite's executemany in one transaction.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import eventdb
from bench.bare import BareWrite
from bench.measure import Report, answer, median, show_s, take_turns, timed, timed_each
from bench.peers.duckdb import DuckDB
from bench.peers.sqlite import Sqlite
from bench.readings import COLUMNS, DEVICES, event, events, table

BATCH_ROWS = 1_000_000
SINGLE_ROWS = 1_000
COMMIT_ROWS = 40
ROUNDS = 51  # short turns, many of them: the disk's mood changes faster than a second
PRODUCER_ROWS = 200_000


def _fresh(path: Path) -> Path:
    if path.is_dir():
        shutil.rmtree(path)
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm", f"{path.name}.wal"):
        path.with_name(name).unlink(missing_ok=True)
    return path


def _open(path: Path, durability: str) -> tuple[eventdb.Database, eventdb.Topic]:
    db = eventdb.open(_fresh(path), durability=durability)
    return db, db.create_topic("readings", COLUMNS)


def _summary(db: eventdb.Database) -> tuple[Any, ...]:
    row = db.sql("SELECT count(*), sum(count), count(DISTINCT device), max(temp) FROM readings").fetchone()
    assert row is not None
    return row


def _same(name: str, found: dict[str, tuple[Any, ...]]) -> None:
    distinct = {tuple(float(value) for value in row) for row in found.values()}
    if len(distinct) != 1:
        raise AssertionError(f"{name}: the databases disagree about what was stored: {found}")


def batch(work: Path) -> Report:
    data = table(BATCH_ROWS)
    rows = [tuple(one.values()) for one in events(BATCH_ROWS)]
    found: dict[str, tuple[Any, ...]] = {}

    def ours() -> float:
        db, topic = _open(work / "ours", "commit")
        os.sync()  # nobody flushes what another one left behind
        seconds = timed(lambda: topic.append_batch(data))
        found["eventdb"] = _summary(db)
        db.close()
        return seconds

    def duckdb() -> float:
        peer = DuckDB(_fresh(work / "duck.db"))
        os.sync()
        seconds = timed(lambda: peer.append_table(data))
        found["duckdb"] = peer.summary()
        peer.close()
        return seconds

    def sqlite() -> float:
        peer = Sqlite(_fresh(work / "lite.db"), "FULL")
        os.sync()
        seconds = timed(lambda: peer.append_all(rows))
        found["sqlite"] = peer.summary()
        peer.close()
        return seconds

    ours()  # the first batch of a process imports Arrow
    duckdb()
    values = take_turns({"ours": ours, "duckdb": duckdb, "sqlite": sqlite}, 7)
    _same("batch", found)
    mine = median(values["ours"])
    report = Report(f"One Arrow table of {BATCH_ROWS:,} rows x {len(COLUMNS)} columns in one durable commit")
    report.faster("append_batch / DuckDB INSERT ... SELECT", mine, median(values["duckdb"]), 3, "DuckDB")
    report.faster("append_batch / SQLite executemany", mine, median(values["sqlite"]), 10, "SQLite")
    report.note(f"{BATCH_ROWS / mine / 1e6:.1f}M rows/s, {data.nbytes / mine / 1e9:.2f} GB/s of Arrow data; "
                f"rounds {', '.join(show_s(v) for v in values['ours'])}")  # fmt: skip
    return report


def _blocks(count: int, size: int) -> Callable[[], list[dict[str, Any]]]:
    """Hands out block after block of new events, so that every contestant stores `size` fresh ones per round."""
    ready = iter([events(size, i * size) for i in range(count)])
    return lambda: next(ready)


def single(work: Path) -> Report:
    rounds = ROUNDS
    db, topic = _open(work / "ours", "interval:100ms")
    named = Sqlite(_fresh(work / "named.db"), "NORMAL")
    tuples = Sqlite(_fresh(work / "tuples.db"), "NORMAL")
    blocks = {name: _blocks(rounds, SINGLE_ROWS) for name in ("ours", "named", "tuples")}

    def append_all(block: Sequence[dict[str, Any]]) -> None:
        append = topic.append
        for one in block:
            append(one)

    cpu: dict[str, list[float]] = {"ours": [], "named": []}

    def measured(name: str, work: Callable[[], None]) -> float:
        def counted() -> None:
            started = time.thread_time()
            work()
            cpu[name].append((time.thread_time() - started) / SINGLE_ROWS)

        return timed(counted) / SINGLE_ROWS

    def ours() -> float:
        block = blocks["ours"]()
        return measured("ours", lambda: append_all(block))

    def sqlite_named() -> float:
        block = blocks["named"]()
        return measured("named", lambda: named.append_each(block))

    def sqlite_tuples() -> float:
        block = [tuple(one.values()) for one in blocks["tuples"]()]
        return timed(lambda: tuples.append_each_tuple(block)) / SINGLE_ROWS

    values = take_turns({"ours": ours, "named": sqlite_named, "tuples": sqlite_tuples}, rounds)
    _same("single", {"eventdb": _summary(db), "named": named.summary(), "tuples": tuples.summary()})
    mine = median(values["ours"])
    report = Report("One event (a dict of six columns) per commit, not waiting for the device")
    report.faster("append / SQLite autocommit WAL/NORMAL, dict", mine, median(values["named"]), 1, "SQLite")
    tuple_s = median(values["tuples"])
    report.add(
        "append / the same from a tuple", f"{show_s(mine)} against {show_s(tuple_s)}", f"{tuple_s / mine:.2f}x SQLite"
    )
    ours_cpu, theirs_cpu = median(cpu["ours"]), median(cpu["named"])
    report.note(f"CPU time of the appending thread: {show_s(ours_cpu)} against {show_s(theirs_cpu)}")
    db.close()
    named.close()
    tuples.close()
    return report


def commit(work: Path) -> Report:
    rounds = ROUNDS
    db, topic = _open(work / "ours", "commit")
    sqlite_peer = Sqlite(_fresh(work / "lite.db"), "FULL")
    bare = BareWrite(work / "bare", rounds * COMMIT_ROWS)
    blocks = {name: _blocks(rounds, COMMIT_ROWS) for name in ("ours", "sqlite")}
    topic.append_many(events(DEVICES))  # every device has been heard of; strings never seen before are asked for below
    sqlite_peer.append_all([tuple(one.values()) for one in events(DEVICES)])
    topic.append(event(0))
    before = db.stats()

    singles: dict[str, list[float]] = {"ours": [], "bare": [], "sqlite": []}

    def turn(name: str, one: Callable[[Any], object], block: Callable[[], Sequence[Any]]) -> Callable[[], float]:
        return lambda: timed_each(one, block(), singles[name])

    take_turns(
        {
            "ours": turn("ours", topic.append, blocks["ours"]),
            "bare": turn("bare", bare.write, lambda: range(COMMIT_ROWS)),
            "sqlite": turn("sqlite", lambda one: sqlite_peer.append_each((one,)), blocks["sqlite"]),
        },
        rounds,
    )
    after = db.stats()
    commits, flushes = (int(str(after[name])) - int(str(before[name])) for name in ("commits", "flushes"))
    mine, bare_s, lite_s = (median(singles[name]) for name in ("ours", "bare", "sqlite"))
    report = Report("One event per commit, on the device when it returns")
    against = f"{show_s(mine)} against {show_s(bare_s)}"
    met = mine <= 1.3 * bare_s
    report.add("append / bare pwrite + fdatasync", against, f"{mine / bare_s:.2f}x its time", "<= 1.3x", met)
    report.add(
        "append / SQLite autocommit WAL/FULL",
        f"{show_s(mine)} against {show_s(lite_s)}",
        f"{lite_s / mine:.2f}x SQLite",
    )
    report.add(
        "flushes per commit", f"{flushes} for {commits}", f"{flushes / commits:.3f}", "<= 1.2", flushes <= 1.2 * commits
    )
    news = [{**event(n), "device": f"never heard of {n}"} for n in range(COMMIT_ROWS * 5)]
    fresh: list[float] = []
    timed_each(topic.append, news, fresh)
    report.note(f"an event with a string never seen before: {show_s(median(fresh))}")
    db.close()
    sqlite_peer.close()
    return report


def producer(work: Path) -> Report:
    data = events(PRODUCER_ROWS)
    rows = [tuple(one.values()) for one in data]
    found: dict[str, tuple[Any, ...]] = {}

    def send_all(topic: eventdb.Topic) -> None:
        with topic.producer() as out:
            send = out.send
            for one in data:
                send(one)

    def ours() -> float:
        db, topic = _open(work / "ours", "commit")
        seconds = timed(lambda: send_all(topic))
        found["eventdb"] = _summary(db)
        db.close()
        return seconds

    def sqlite(named: bool) -> float:
        peer = Sqlite(_fresh(work / "lite.db"), "FULL")
        seconds = timed(lambda: peer.append_all_named(data) if named else peer.append_all(rows))
        found["sqlite"] = peer.summary()
        peer.close()
        return seconds

    values = take_turns({"ours": ours, "named": lambda: sqlite(True), "tuples": lambda: sqlite(False)})
    _same("producer", found)
    mine, tuple_s, named_s = (median(values[name]) for name in ("ours", "tuples", "named"))
    report = Report(f"{PRODUCER_ROWS:,} dicts through a producer, durable at the end")
    rate = PRODUCER_ROWS / mine
    report.add("producer.send", f"{rate / 1e3:.0f}k events/s", "", ">= 300k/s", rate >= 300_000)
    report.add("producer / SQLite executemany, tuples", f"{PRODUCER_ROWS / tuple_s / 1e3:.0f}k events/s",
               f"{tuple_s / mine:.2f}x SQLite", ">= 0.33x", tuple_s / mine >= 1 / 3)  # fmt: skip
    report.add(
        "producer / SQLite executemany, dicts",
        f"{PRODUCER_ROWS / named_s / 1e3:.0f}k events/s",
        f"{named_s / mine:.2f}x SQLite",
    )
    return report


QUESTIONS = {"batch": batch, "single": single, "commit": commit, "producer": producer}


def main(arguments: Sequence[str]) -> int:
    """Prints the reports asked for; the number of bars missed."""
    return answer(QUESTIONS, arguments)
