"""`eventdb demo`: the whole product in half a minute, on real events.

History in, a batch answer, two views, a live replay from another process, that process killed in the middle, the
proof that nothing acknowledged was lost or doubled, and the replay finished where the log ends. Any check that does
not hold ends the demo with exit status 1.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import eventdb
from eventdb.errors import UsageError

from .demo_data import COLUMNS, as_columns, history_rows, is_freezing, read_observations
from .demo_process import Alarms, Writer, index_observations, latencies_us, percentile
from .demo_screen import Screen
from .render import MODES, Layout
from .session import format_duration
from .streams import Streams

TOPIC = "weather"
EVENTS_PER_SECOND = 400.0
KILL_AT = 0.5  # of the replay
STALL_S = 30.0

MONTHS = """
SELECT date_trunc('month', time) AS month,
       round(avg(CASE WHEN station = 'EWR' THEN temp END), 1) AS ewr,
       round(avg(CASE WHEN station = 'JFK' THEN temp END), 1) AS jfk,
       round(avg(CASE WHEN station = 'LGA' THEN temp END), 1) AS lga,
       round(sum(precip), 2) AS rain
FROM weather GROUP BY date_trunc('month', time) ORDER BY month"""
COLDEST = """
SELECT station, CAST(time AS DATE) AS day, min(temp) AS low, round(avg(temp), 1) AS mean
FROM weather GROUP BY station, CAST(time AS DATE) ORDER BY mean LIMIT 5"""
DAILY_QUERY = """
SELECT station, time_bucket('1 day', time) AS day, count(*) AS observations,
       min(temp) AS low, avg(temp) AS mean, max(temp) AS high, sum(precip) AS rain
FROM weather GROUP BY station, time_bucket('1 day', time)"""
DAILY_VIEW = f"CREATE MATERIALIZED VIEW daily AS{DAILY_QUERY} EMIT ON UPDATE"
FREEZING_QUERY = "SELECT station, time, temp FROM weather WHERE temp <= 32.0"
FREEZING_VIEW = f"CREATE MATERIALIZED VIEW freezing AS {FREEZING_QUERY}"
COUNTED = "SELECT count(*) AS events, count(DISTINCT station || CAST(time AS VARCHAR)) AS hours FROM weather"
LATEST_DAYS = "SELECT station, day, observations, low, mean, high, rain FROM daily ORDER BY day DESC, station LIMIT 3"


class DemoFailed(Exception):
    """A promise did not hold."""


def run_demo(streams: Streams, path: str | None, plain: bool) -> int:
    """Run everything; 0 if every check held, 1 otherwise. The database stays only if `path` was given."""
    if path is not None and os.path.exists(path):
        raise UsageError(f"{path} exists: the demo makes a new database; choose another --path")
    with _database_path(path) as place:
        try:
            Demo(streams, place, plain, EVENTS_PER_SECOND).run()
        except DemoFailed as failure:
            streams.note(f"error: the demo failed: {failure}")
            return 1
        except KeyboardInterrupt:
            streams.note("interrupted")
            return 1
    if path is not None:
        streams.print(f"\nThe database stays in {path}: eventdb {path}")
    return 0


@contextmanager
def _database_path(path: str | None) -> Iterator[str]:
    if path is not None:
        yield path
        return
    folder = tempfile.mkdtemp(prefix="eventdb-demo-")
    try:
        yield os.path.join(folder, "weather.eventdb")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Demo:
    """The story, one method a chapter. `path` does not exist yet."""

    def __init__(self, streams: Streams, path: str, plain: bool, events_per_second: float) -> None:
        self.streams = streams
        self.path = path
        self.rate = events_per_second
        self.screen = Screen(streams, plain)
        self.started = time.perf_counter()
        self.checks = 0
        self._asked = False
        self.observations = read_observations()
        self.offset_of = index_observations(self.observations)
        self.history = history_rows(self.observations)

    def run(self) -> None:
        with eventdb.open(self.path) as db:
            self._load(db)
            self._ask(db)
            self._create_views(db)
        first = self._replay_and_kill()
        second = self._reopen_and_finish()
        self._summarise(sorted(first + second))

    # --- chapters -----------------------------------------------------------------------------------------------------

    def _load(self, db: eventdb.Database) -> None:
        self._title("1. History in", "a year of hourly weather at three New York airports; ten months of it at once")
        topic = db.create_topic(TOPIC, COLUMNS, key="station", event_time="time", watermark="1 hour")
        columns = as_columns(self.observations[: self.history])
        started = time.perf_counter()
        topic.append_batch(columns)
        took = time.perf_counter() - started
        self._say(f"{self.history:,} events in one commit: {format_duration(took)}, {self.history / took:,.0f} rows/s")
        self._verify("the topic holds every one of them", len(topic) == self.history)

    def _ask(self, db: eventdb.Database) -> None:
        self._title("2. A batch answer", "mean temperature (F) and rain (inches) by month, then the coldest days")
        self._show(db, MONTHS)
        self._show(db, COLDEST)

    def _create_views(self, db: eventdb.Database) -> None:
        self._title("3. Continuous queries", "kept up to date from now on, whoever writes")
        for sql in (DAILY_VIEW, FREEZING_VIEW):
            self._sql(sql)
            started = time.perf_counter()
            db.sql(sql)
            name = sql.split()[3]
            db.wait(name, self.history - 1, timeout=STALL_S)
            self._say(f"{name}: history included after {format_duration(time.perf_counter() - started)}")
        self._verify_views(db)

    def _replay_and_kill(self) -> list[float]:
        self._title("4. Live", "November and December from another process; view and subscription follow")
        stop_at = self.history + int((len(self.observations) - self.history) * KILL_AT)
        with eventdb.open(self.path) as db, self._observers(db) as (writer, alarms):
            self._follow(db, writer, alarms, stop_at)
            status = writer.kill()
            self.screen.leave()
            self._say(f"SIGKILL to the writer, process {writer.pid}, in the middle of its appends (status {status})")
            if status != -9:
                raise DemoFailed(f"the writer was to die of SIGKILL but ended with {status}: {writer.complaints()}")
            return self._settle(db, writer, alarms, self.history)

    def _reopen_and_finish(self) -> list[float]:
        self._title("5. Open again, go on", "a new writer begins where the log ends; nobody tells it where that is")
        with eventdb.open(self.path) as db:
            report = {name: value for name, value in db.recovery_report.items() if value not in (None, "", 0)}
            self._say("recovery: " + ", ".join(f"{name} {value}" for name, value in report.items()))
            resumed_at = db.topic(TOPIC).offsets()[1]
            self._verify_log(db, resumed_at)
            self._verify_views(db)
            with self._observers(db) as (writer, alarms):
                self._follow(db, writer, alarms, len(self.observations))
                status = writer.join(STALL_S)
                self.screen.leave()
                if status:
                    raise DemoFailed(f"the second writer ended with status {status}: {writer.complaints()}")
                latencies = self._settle(db, writer, alarms, resumed_at)
            end = db.topic(TOPIC).offsets()[1]
            self._verify(f"the log holds the whole year: {end:,} events, none twice", end == len(self.observations))
            return latencies

    def _summarise(self, latencies: Sequence[float]) -> None:
        self._title("Summary", "")
        total = len(self.observations)
        self._say(f"{total:,} events, {self.checks} checks held, one writer killed, nothing lost or doubled")
        self._say(
            f"append in one process -> alarm in another, {len(latencies):,} times: "
            f"p50 {percentile(latencies, 0.5):,.0f} us, p99 {percentile(latencies, 0.99):,.0f} us"
            " (the flush to the device included)"
        )
        self._say(f"{time.perf_counter() - self.started:.1f} s in all")

    # --- following the writer -----------------------------------------------------------------------------------------

    @contextmanager
    def _observers(self, db: eventdb.Database) -> Iterator[tuple[Writer, Alarms]]:
        alarms = Alarms(db, f"{FREEZING_QUERY} EMIT CHANGES")
        writer = Writer(self.path, TOPIC, self.rate)
        try:
            yield writer, alarms
        finally:
            writer.close()
            alarms.close()

    def _follow(self, db: eventdb.Database, writer: Writer, alarms: Alarms, stop_at: int) -> None:
        """Draw what happens until event `stop_at` - 1 is acknowledged."""
        seen, moved_at = -1, time.monotonic()
        while (last := writer.last_acknowledged) < stop_at - 1:
            if last > seen:
                seen, moved_at = last, time.monotonic()
            elif time.monotonic() - moved_at > STALL_S:
                raise DemoFailed(f"the writer acknowledged nothing for {STALL_S:.0f} s")
            if not writer.running and writer.last_acknowledged < stop_at - 1:
                writer.join()
                raise DemoFailed(f"the writer stopped by itself: {writer.complaints()}")
            if alarms.failure is not None:
                raise DemoFailed(f"the subscription failed: {alarms.failure}")
            if last >= 0 and self.screen.wants(self.observations[last]["time"]):
                self._draw(db, writer, alarms, last)
            time.sleep(self.screen.pause_s)

    def _draw(self, db: eventdb.Database, writer: Writer, alarms: Alarms, last: int) -> None:
        share = (last + 1 - self.history) / (len(self.observations) - self.history)
        days = db.sql(LATEST_DAYS)
        self.screen.draw(
            at=self.observations[last]["time"],
            share=share,
            appended=last + 1,
            names=days.columns,
            types=[str(type) for type in days.types],
            rows=[[round(v, 1) if isinstance(v, float) else v for v in row] for row in days.fetchall()],
            alarms=alarms.received,
            latencies=latencies_us(alarms, writer, self.offset_of),
        )

    # --- proofs -------------------------------------------------------------------------------------------------------

    def _settle(self, db: eventdb.Database, writer: Writer, alarms: Alarms, first: int) -> list[float]:
        """Prove what holds once the writer is gone; `first` is the offset it began with. Returns the latencies.

        A commit the writer had flushed but not shown when it died is shown by the next process that takes the writer's
        lock: the checkpoint does, so that the end of the log stands still.
        """
        db.checkpoint()
        end = db.topic(TOPIC).offsets()[1]
        last = writer.last_acknowledged
        self._verify(f"every acknowledged event is there: {last:,} was the last, the log ends at {end:,}", last < end)
        self._verify_log(db, end)
        expected = sorted((r["station"], r["time"], r["temp"]) for r in self.observations[first:end] if is_freezing(r))
        alarms.wait_for(len(expected), 10.0)
        received = sorted((station, at, temp) for _, station, at, temp in alarms.received)
        self._verify(f"the subscription saw each of {len(expected):,} freezing hours once", received == expected)
        self._verify_views(db)
        return latencies_us(alarms, writer, self.offset_of)

    def _verify_log(self, db: eventdb.Database, end: int) -> None:
        """The log is the first `end` observations: none lost, none doubled, none altered."""
        rows = [event.row for event in db.topic(TOPIC).read()]
        self._verify(f"all {end:,} events equal the source, in order", rows == self.observations[:end])
        counted = db.sql(COUNTED).fetchone()
        self._verify(f"SQL counts {end:,} events of {end:,} different station hours", counted == (end, end))

    def _verify_views(self, db: eventdb.Database) -> None:
        with db.snapshot() as snapshot:
            for name, query in (("daily", DAILY_QUERY), ("freezing", FREEZING_QUERY)):
                view = sorted(snapshot.sql(f"SELECT * FROM {name}").fetchall(), key=repr_key)
                batch = sorted(snapshot.sql(query).fetchall(), key=repr_key)
                self._verify(
                    f"view {name} equals its query run as a batch: {len(batch):,} rows", same_rows(view, batch)
                )

    def _verify(self, claim: str, holds: bool) -> None:
        if not holds:
            raise DemoFailed(f"not true: {claim}")
        self.checks += 1
        self._say(f"✓ {claim}" if self.screen.unicode else f"ok: {claim}")

    # --- words --------------------------------------------------------------------------------------------------------

    def _title(self, title: str, text: str) -> None:
        self.screen.title(title, text)

    def _say(self, text: str) -> None:
        self.streams.print(f"   {text}")
        self.streams.stdout.flush()

    def _sql(self, sql: str) -> None:
        for line in (sql.strip() + ";").splitlines():
            self._say(self.screen.code(line))

    def _show(self, db: eventdb.Database, sql: str) -> None:
        self._sql(sql)
        started = time.perf_counter()
        result = db.sql(sql)
        took = time.perf_counter() - started
        layout = Layout(width=self.screen.width, ascii=not self.screen.unicode)
        MODES["table"](result.columns, [str(t) for t in result.types], result, self.streams.stdout, layout)
        self._say(f"in {format_duration(took)}" + ("" if self._asked else ", loading the SQL engine included"))
        self._asked = True


def repr_key(row: Sequence[object]) -> tuple[str, str]:
    """An order for rows that may hold NULL: by the columns that name the row."""
    return str(row[0]), str(row[1])


def same_rows(left: Sequence[Sequence[object]], right: Sequence[Sequence[object]]) -> bool:
    """Whether two ordered lists of rows are equal, floats to the rounding that another order of summing gives."""
    return len(left) == len(right) and all(
        len(a) == len(b) and all(map(_same_value, a, b)) for a, b in zip(left, right, strict=True)
    )


def _same_value(left: object, right: object) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        return abs(left - right) <= 1e-9 * max(1.0, abs(left), abs(right))
    return left == right
