"""How fast is history read back? All of it as Arrow and as Python objects, one key, one minute.

    python -m bench replay [--rows 1000000] [--rounds 5] [--full]

Events come every 10 ms, 100 of each key or more, in batches of 100,000. Our history is read as it was appended (raw),
then sealed. Each look-up is for another key or minute. SQLite has an index on the key and one on the time; DuckDB has
its zone maps; Redis streams find a time by their ids, Kafka by its time index. Redis and Kafka hold 200,000 events at
most, for their rates are compared. All must give the same events before anything is timed. `--full`: 10M.
"""

from __future__ import annotations

import argparse
import datetime as dt
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import eventdb
from bench.contest import peer
from bench.measure import Report, median, scratch, show_s, take_turns, timed, without_sealer
from bench.payload import packed, unpacked
from bench.peers.server import Unavailable

if TYPE_CHECKING:
    import pyarrow

ROWS, FULL_ROWS, SERVED_ROWS = 1_000_000, 10_000_000, 200_000
BATCH_ROWS = 100_000
PER_KEY, MOST_KEYS = 100, 50_000  # beyond 65,536 a column is stored without a dictionary
LOOK_UPS = 40
STEP_US, MINUTE_US = 10_000, 60_000_000
START_US = 1_704_067_200_000_000
EPOCH = dt.datetime(1970, 1, 1)
COLUMNS = {"ts": "TIMESTAMP NOT NULL", "device": "VARCHAR NOT NULL", "temp": "DOUBLE NOT NULL"}
SQL_COLUMNS = "ts TIMESTAMP, device VARCHAR, temp DOUBLE"
ARROW_BAR, OBJECT_BAR, LOOKUP_BAR_S = 20_000_000, 700_000, 0.001


def batch(first: int, count: int, keys: int) -> pyarrow.Table:
    import numpy as np
    import pyarrow as pa

    n = np.arange(first, first + count, dtype=np.int64)
    names = np.array([f"device-{i:06d}" for i in range(keys)], dtype=object)
    return pa.table(
        {
            "ts": pa.array(START_US + n * STEP_US).cast(pa.timestamp("us")),
            "device": pa.array(names[n * 7919 % keys], pa.string()),
            "temp": 20.0 + n % 977 * 0.01,
        }
    )


def consume(items: Iterable[Any]) -> int:
    """The number of items, each of which was made."""
    count = 0
    for _ in items:
        count += 1
    return count


class Replay:
    """The contestants, loaded with the same events."""

    def __init__(self, work: Path, rows: int) -> None:
        from bench.peers.duckdb import DuckDB
        from bench.peers.sqlite import SqliteEvents

        self.rows = rows
        self.keys = min(MOST_KEYS, max(1, rows // PER_KEY))
        draw = random.Random(5)
        self.chosen = [f"device-{draw.randrange(self.keys):06d}" for _ in range(LOOK_UPS)]
        self.minutes = [draw.randrange(rows * STEP_US // MINUTE_US) * MINUTE_US + START_US for _ in range(LOOK_UPS)]
        self.turns: dict[str, int] = {}
        without_sealer()
        self.db = eventdb.open(work / "ours", durability="os")
        self.topic = self.db.create_topic("events", COLUMNS, key="device", event_time="ts")
        self.duckdb = DuckDB(work / "duck.db", 2, SQL_COLUMNS)
        self.sqlite = SqliteEvents(work / "lite.db")
        for first in range(0, rows, BATCH_ROWS):
            table = batch(first, min(BATCH_ROWS, rows - first), self.keys)
            self.topic.append_batch(table)
            self.duckdb.append_table(table)
            stamps = table["ts"].cast("int64").to_pylist()
            self.sqlite.load(zip(stamps, table["device"].to_pylist(), table["temp"].to_pylist(), strict=True))

    def check(self) -> None:
        """All contestants give the same events."""
        self.turns = {}
        pairs = (
            ("all", self.db.sql("SELECT count(*), sum(temp) FROM events").fetchall(),
             self.duckdb.query("SELECT count(*), sum(temp) FROM readings"),
             self.sqlite.query("SELECT count(*), sum(temp) FROM events")),
            ("objects", [(sum(1 for _ in self.topic.read()),)], [(self.rows,)], [(len(self.sqlite.all()),)]),
            ("one key", [(len(self.our_key()),)], [(len(self.duck_key()),)], [(len(self.lite_key()),)]),
            ("one minute", [(len(self.our_minute()),)], [(len(self.duck_minute()),)], [(len(self.lite_minute()),)]),
            ("its events", [(consume(self.our_minute_events()),)], [(len(self.duck_minute()),)],
             [(len(self.lite_minute()),)]),
        )  # fmt: skip
        for what, *answers in pairs:
            rounded = {tuple(round(float(value), 3) for value in rows[0]) for rows in answers}
            if len(rounded) != 1:
                raise AssertionError(f"{what}: the databases disagree: {answers}")

    def next_of(self, who: str, what: list[Any]) -> Any:
        """The next one of the keys or the minutes; every contestant gets the same ones, in the same order."""
        turn = self.turns[who] = self.turns.get(who, -1) + 1
        return what[turn % len(what)]

    def minute(self, who: str) -> tuple[dt.datetime, dt.datetime]:
        low = EPOCH + dt.timedelta(microseconds=self.next_of(who, self.minutes))
        return low, low + dt.timedelta(minutes=1)

    def our_key(self) -> list[Any]:
        key = self.next_of("our key", self.chosen)
        return self.db.sql("SELECT ts, device, temp FROM events WHERE device = $key", key=key).fetchall()

    def our_minute(self) -> pyarrow.Table:
        low, high = self.minute("our minute")
        query = "SELECT ts, device, temp FROM events WHERE ts >= $low AND ts < $high"
        return self.db.sql(query, low=low, high=high).arrow()

    def our_minute_events(self) -> Iterator[eventdb.Event]:
        low, high = self.minute("our events")
        return self.topic.read(low, stop=high)

    def duck_key(self) -> list[Any]:
        key = self.next_of("duck key", self.chosen)
        return self.duckdb.query(f"SELECT * FROM readings WHERE device = '{key}'")

    def duck_minute(self) -> pyarrow.Table:
        low, high = self.minute("duck minute")
        return self.duckdb.arrow(f"SELECT * FROM readings WHERE ts >= TIMESTAMP '{low}' AND ts < TIMESTAMP '{high}'")

    def lite_key(self) -> list[Any]:
        return self.sqlite.query("SELECT * FROM events WHERE device = ?", self.next_of("lite key", self.chosen))

    def lite_minute(self) -> list[Any]:
        low_us = self.next_of("lite minute", self.minutes)
        return self.sqlite.query("SELECT * FROM events WHERE ts >= ? AND ts < ?", low_us, low_us + MINUTE_US)

    def lite_first(self) -> list[Any]:
        low_us = self.next_of("lite first", self.minutes)
        return self.sqlite.query("SELECT * FROM events WHERE ts >= ? ORDER BY ts LIMIT 1", low_us)

    def close(self) -> None:
        self.db.close()
        self.duckdb.close()
        self.sqlite.close()


class Served:
    """A server's share: the first `rows` events, as messages of 40 bytes."""

    def __init__(self, name: str, log: Any, rows: int) -> None:
        self.name, self.log, self.rows = name, log, rows
        self.low_us = START_US + rows // 2 * STEP_US // MINUTE_US * MINUTE_US
        messages = (
            ((START_US + n * STEP_US) // 1_000, f"device-{n % 997:06d}", packed((n, f"d-{n % 997}", b"12345678")))
            for n in range(rows)
        )
        if name == "Redis":
            log.load((f"{ms}-0", message) for ms, _, message in messages)
        else:
            log.load((key, message, ms) for ms, key, message in messages)
        if sorted(one[0] for one in log.contents()) != list(range(rows)):
            raise AssertionError(f"{name} does not hold the events it was given")

    def replay(self) -> int:
        return consume(self.log.contents())

    def minute(self) -> int:
        low_ms = self.low_us // 1_000
        if self.name == "Redis":
            found = consume(self.log.entries(str(low_ms), str(low_ms + 59_999)))
        else:
            messages = self.log.messages(MINUTE_US // STEP_US, self.log.offset_at(low_ms))
            found = consume(map(unpacked, messages))
        if found != MINUTE_US // STEP_US:
            raise AssertionError(f"{self.name} found {found} events in a minute")
        return found


def measured(contestants: dict[str, Callable[[], object]], rounds: int) -> dict[str, float]:
    def clocked(work: Callable[[], object]) -> Callable[[], float]:
        return lambda: timed(work)

    values = take_turns({name: clocked(work) for name, work in contestants.items()}, rounds)
    return {name: median(seconds) for name, seconds in values.items()}


def embedded(report: Report, replay: Replay, rounds: int, state: str) -> None:
    rows = replay.rows
    arrow = measured({"ours": lambda: replay.db.sql("SELECT * FROM events").arrow(),
                      "DuckDB": lambda: replay.duckdb.arrow("SELECT * FROM readings")}, rounds)  # fmt: skip
    millions = {name: rows / seconds / 1e6 for name, seconds in arrow.items()}
    report.add(f"{state}: as Arrow / DuckDB", f"{millions['ours']:.1f}M/s against {millions['DuckDB']:.1f}M/s",
               f"{arrow['DuckDB'] / arrow['ours']:.2f}x", f">= {ARROW_BAR / 1e6:.0f}M/s",
               rows / arrow["ours"] >= ARROW_BAR)  # fmt: skip
    objects = measured({"ours": lambda: consume(replay.topic.read()),
                        "ours, all values": lambda: consume(event.row for event in replay.topic.read()),
                        "DuckDB": lambda: replay.duckdb.query("SELECT * FROM readings"),
                        "SQLite": lambda: consume(replay.sqlite.stream())}, min(rounds, 3))  # fmt: skip
    rates = {name: f"{rows / seconds / 1e3:.0f}k/s" for name, seconds in objects.items()}
    for name in ("DuckDB", "SQLite"):
        report.add(f"{state}: as objects / {name}, tuples", f"{rates['ours']} against {rates[name]}",
                   f"{objects[name] / objects['ours']:.2f}x", f">= {OBJECT_BAR / 1e3:.0f}k/s",
                   rows / objects["ours"] >= OBJECT_BAR)  # fmt: skip
    report.note(f"{state}: {rates['ours, all values']} as dicts of all values")
    lookups: dict[str, dict[str, Callable[[], object]]] = {
        "one key": {"ours": replay.our_key, "DuckDB": replay.duck_key, "SQLite": replay.lite_key},
        "one minute as Arrow": {"ours": replay.our_minute, "DuckDB": replay.duck_minute, "SQLite": replay.lite_minute},
        "a minute's first event": {"ours": lambda: next(replay.our_minute_events()), "SQLite": replay.lite_first},
    }
    for what, contestants in lookups.items():
        for work in contestants.values():
            work()  # the first look-up of all makes what later ones use
        seconds = measured(contestants, LOOK_UPS)
        mine = seconds.pop("ours")
        for name, theirs in seconds.items():
            report.add(f"{state}: {what} / {name}", f"{show_s(mine)} against {show_s(theirs)}", f"{theirs / mine:.2f}x",
                       f"<= {show_s(LOOKUP_BAR_S)}", mine <= LOOKUP_BAR_S)  # fmt: skip


def served(report: Report, work: Path, replay: Replay, rounds: int) -> None:
    """The servers, whose rates are compared with ours over as many events."""
    count = min(replay.rows, SERVED_ROWS)
    mine = median([timed(lambda: consume(replay.topic.read(limit=count))) for _ in range(3)])
    for name, opener in (("Redis", peer("redis", "RedisLog", "no")), ("Kafka", peer("kafka", "KafkaLog"))):
        try:
            log = opener(work / name)
        except Unavailable as error:
            report.note(f"{name}: skipped, {error}")
            continue
        try:
            peer_log = Served(name, log, count)
            seconds = measured({"all": peer_log.replay, "minute": peer_log.minute}, min(rounds, 3))
        finally:
            log.close()
        report.add(f"as objects / {name}", f"{count / mine / 1e3:.0f}k/s against {count / seconds['all'] / 1e3:.0f}k/s",
                   f"{seconds['all'] / mine:.2f}x", ">= 1x", mine <= seconds["all"])  # fmt: skip
        report.note(f"one minute from {name}: {show_s(seconds['minute'])}; it cannot find a key without reading all")


def main(arguments: Sequence[str]) -> int:
    """Prints the report; the number of bars missed."""
    parser = argparse.ArgumentParser(prog="python -m bench replay", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--full", action="store_true", help=f"{FULL_ROWS:,} events")
    options = parser.parse_args(arguments)
    rows = FULL_ROWS if options.full else options.rows
    report = Report(
        f"Replay of {rows:,} events, {max(PER_KEY, rows // MOST_KEYS)} of each key, {MINUTE_US // STEP_US:,} a minute"
    )
    with scratch() as work:
        replay = Replay(work, rows)
        try:
            for state in ("raw", "sealed"):
                if state == "sealed":
                    replay.db.compact(full=True)
                replay.check()
                embedded(report, replay, options.rounds, state)
            served(report, work, replay, options.rounds)
        finally:
            replay.close()
    report.show()
    return report.missed()
