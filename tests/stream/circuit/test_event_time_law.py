"""The law of windows that close: whatever the data, the order they come in, the cuts and the restarts, a view holds
exactly what its query answers over the rows that were not late, in the windows that the watermark has passed."""

from __future__ import annotations

import datetime as dt
import os
import random
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import eventdb
from eventdb.errors import EventDBError
from eventdb.storage.device.files import Clock
from eventdb.stream.circuit import closing, marked_inputs, timeline
from eventdb.stream.circuit.closed_rows import ClosedTail, Closing
from eventdb.stream.circuit.query import CircuitReader, CircuitSpec, caught_up
from eventdb.stream.circuit.timeline import Timeline
from eventdb.stream.reader import ViewReader
from eventdb.stream.runner import Runner
from eventdb.stream.task import CircuitTask, Task, ViewTask
from tests.relational.tables import normal, plain
from tests.stream.circuit.event_time import SECOND, T0, WINDOWS, Declared, Oracle, Row, us_of

EXAMPLES = int(os.environ.get("EVENTDB_EVENT_TIME_EXAMPLES", "40"))
many = settings(
    max_examples=EXAMPLES, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
"""Without shrinking: a database per example makes that slow."""

SHAPES = (
    "SELECT window_start, window_end, k, count(*) AS n, sum(v) AS s, min(v) AS low, max(v) AS high FROM {a_tumble} "
    "GROUP BY window_start, window_end, k",
    "SELECT window_end, count(*) AS n FROM {a_hop} GROUP BY window_end HAVING count(*) > 1",
    "SELECT k, sum(v) AS s FROM {a_slow} WHERE v > 1 GROUP BY window_start, k",
    "SELECT window_start, k, median(v) AS m, string_agg(k, ',' ORDER BY v) AS l FROM {a_hop} GROUP BY window_start, k",
    "SELECT x.window_end AS we, x.k, x.v AS v1, y.v AS v2 FROM {a_tumble} x JOIN {b_tumble} y ON x.k = y.k "
    "AND x.window_start = y.window_start",
    "SELECT x.window_end AS we, x.k, x.v, y.v AS w FROM {a_hop} x LEFT JOIN {b_hop} y ON x.k = y.k AND "
    "x.window_end = y.window_end AND y.v > x.v",
    "SELECT x.k, x.n, y.n AS m FROM (SELECT window_end, k, count(*) AS n FROM {a_tumble} GROUP BY ALL) x LEFT JOIN "
    "(SELECT window_end, k, sum(v) AS n FROM {b_tumble} GROUP BY ALL) y ON x.window_end = y.window_end AND x.k = y.k",
    "SELECT window_end, max(n) AS n FROM (SELECT window_end, k, count(*) AS n FROM {a_hop} GROUP BY ALL) "
    "GROUP BY window_end",
    "SELECT x.k, x.n FROM (SELECT window_end, k, count(*) AS n FROM {a_hop} GROUP BY ALL) x JOIN (SELECT window_end, "
    "max(n) AS n FROM (SELECT window_end, k, count(*) AS n FROM {a_hop} GROUP BY ALL) GROUP BY ALL) y "
    "ON x.window_end = y.window_end AND x.n = y.n",
    "SELECT window_end, k, v FROM {a_tumble} QUALIFY row_number() OVER (PARTITION BY window_end ORDER BY v DESC, k) "
    "<= 2",
    "SELECT window_end, k, n FROM (SELECT window_end, k, count(*) AS n FROM {a_hop} GROUP BY ALL) "
    "QUALIFY rank() OVER (PARTITION BY window_end ORDER BY n DESC) <= 1",
    "SELECT window_end, k, v FROM {a_tumble} x WHERE v = (SELECT max(v) FROM {a_tumble} y WHERE y.window_end = "
    "x.window_end)",
    "SELECT DISTINCT window_end, k FROM {a_hop} x WHERE EXISTS (SELECT 1 FROM {b_hop} y WHERE y.k = x.k AND "
    "y.window_end = x.window_end)",
    "SELECT window_end, k, v FROM {a_tumble} x WHERE NOT EXISTS (SELECT 1 FROM {b_tumble} y WHERE y.k = x.k AND "
    "y.window_end = x.window_end)",
    "SELECT window_end, k FROM {a_tumble} EXCEPT SELECT window_end, k FROM {b_tumble}",
    "SELECT window_end, k, count(*) AS n, sum(v) AS s FROM (SELECT window_end, k, v FROM {a_tumble} UNION ALL "
    "SELECT window_end, k, -v FROM {b_tumble}) GROUP BY window_end, k",
    "SELECT window_end, k, count(*) AS n FROM {a_hop} GROUP BY GROUPING SETS ((window_end, k), (window_end))",
    "SELECT x.window_end AS we, x.v, n.a FROM {a_tumble} x JOIN (VALUES ('x', 1), ('y', 2)) n(k, a) ON n.k = x.k",
)
CHAINED = (
    (
        "SELECT window_start, window_end, sum(n) AS n FROM TUMBLE((SELECT window_time AS wt, k, count(*) AS n FROM "
        "{a_tumble} GROUP BY window_time, k), wt, INTERVAL '20 seconds') GROUP BY window_start, window_end",
        "SELECT b, b + INTERVAL '20 seconds' AS e, n FROM (SELECT time_bucket(INTERVAL '20 seconds', window_time, "
        "TIMESTAMP '1970-01-01') AS b, count(*) AS n FROM a_tumble_all GROUP BY b) WHERE e <= {closed}",
    ),
    (
        "SELECT h, max(n) AS n FROM (SELECT time_bucket(INTERVAL '20 seconds', window_time) AS h, n FROM (SELECT "
        "window_time, k, count(*) AS n FROM {a_hop} GROUP BY window_time, k)) GROUP BY h",
        "SELECT h, max(n) FROM (SELECT time_bucket(INTERVAL '20 seconds', window_time, TIMESTAMP '1970-01-01') AS h, n "
        "FROM (SELECT window_time, k, count(*) AS n FROM a_hop_all GROUP BY window_time, k)) GROUP BY h "
        "HAVING h + INTERVAL '20 seconds' <= {closed}",
    ),
    (
        "SELECT time_bucket(INTERVAL '10 seconds', ts) AS b, k, count(*) AS n FROM a GROUP BY b, k "
        "QUALIFY row_number() OVER (PARTITION BY b ORDER BY count(*) DESC, k) <= 1",
        "SELECT window_start AS b, k, count(*) AS n FROM a_tumble GROUP BY b, k "
        "QUALIFY row_number() OVER (PARTITION BY b ORDER BY count(*) DESC, k) <= 1",
    ),
)


def _as_tables(shape: str) -> tuple[str, str]:
    """A shape for EventDB and for the oracle."""
    ours = {}
    for topic in "ab":
        for name, (size, slide) in WINDOWS.items():
            width, step = f"INTERVAL '{size // SECOND} seconds'", f"INTERVAL '{slide // SECOND} seconds'"
            tumbling = f"TUMBLE({topic}, ts, {width})"
            ours[f"{topic}_{name}"] = (
                tumbling if size == slide else f"HOP({topic}, ts, slide => {step}, size => {width})"
            )
    return shape.format(**ours), shape.format(**{name: name for name in ours})


QUERIES = [_as_tables(shape) for shape in SHAPES] + [(_as_tables(ours)[0], theirs) for ours, theirs in CHAINED]


class _Time:
    """The wall clock of a test: it stands still unless told."""

    now_us = us_of(T0)

    def __call__(self) -> int:
        return self.now_us


rows = st.tuples(
    st.sampled_from("aab"), st.integers(0, 2), st.one_of(st.none(), *[st.integers(-12, 25)] * 9),
    st.sampled_from("xxy"), st.integers(0, 4),
)  # fmt: skip
"""Topic, partition, event time in seconds after the clock's (it goes on by a second or more a commit), k, v."""

OTHERS = ("read", "maintain", "maintain", "crash", "restart", "forget")
steps = st.lists(
    st.one_of(
        st.tuples(st.just("commit"), st.lists(rows, min_size=1, max_size=4), st.sampled_from([0, 1, 3, 3, 8, 20])),
        st.tuples(st.just("commit"), st.lists(rows, min_size=1, max_size=1), st.sampled_from([0, 1, 3, 3, 8, 20])),
        st.tuples(st.sampled_from(OTHERS), st.none(), st.none()),
    ),
    min_size=4, max_size=30,
)  # fmt: skip

declared = st.builds(
    Declared,
    st.integers(1, 3),
    st.sampled_from([0, 3 * SECOND]),
    st.sampled_from([None, 5 * SECOND, 5 * SECOND]),
    st.sampled_from([None, None, 10 * SECOND]),
)


class View:
    """A view kept by hand: no thread maintains it, so that a test decides what is stored and when."""

    def __init__(self, path: Path, sql: str, topics: dict[str, Declared], grace: int, clock: _Time) -> None:
        self.path, self.topics, self.grace, self.clock = path, topics, grace, clock
        self.db = eventdb.open(path, durability="os")
        for name, each in topics.items():
            idle = "" if each.idle is None else f"IDLE AFTER INTERVAL '{each.idle // SECOND} seconds'"
            future = "" if each.future is None else f"MAX FUTURE INTERVAL '{each.future // SECOND} seconds'"
            self.db.sql(
                f"CREATE TOPIC {name} (k VARCHAR, v BIGINT, ts TIMESTAMP, TIMESTAMP (ts), WATERMARK FOR ts AS ts - "
                f"INTERVAL '{each.delay // SECOND} seconds' {idle} {future}) WITH (partitions = {each.partitions})"
            )
        self.sql = f"{sql} EMIT ON WINDOW CLOSE GRACE INTERVAL '{grace // SECOND} seconds'"
        self.db.sql(f"CREATE MATERIALIZED VIEW w AS {self.sql}")
        self._begin()

    def _begin(self) -> None:
        views = self.db._views_of()
        self.spec = views.spec(views._find("w"))
        self.task = self._task()
        self.feed = self.db.subscribe("w", start="snapshot")
        self.total: Counter[Any] = Counter()

    def _task(self) -> Task:
        return CircuitTask(self.spec) if isinstance(self.spec, CircuitSpec) else ViewTask(self.spec)

    def commit(self, rows: list[Any], gap_s: int) -> None:
        self.clock.now_us += gap_s * SECOND
        with self.db.transaction() as both:
            for topic, partition, after, k, v in rows:
                ts = None if after is None else self.clock.now_us + after * SECOND
                partition %= self.topics[topic].partitions
                event = {"k": k, "v": v, "ts": None if ts is None else T0 + dt.timedelta(microseconds=ts - us_of(T0))}
                both.append(topic, event, **({"partition": partition} if self.topics[topic].partitions > 1 else {}))

    def maintain(self, saves: bool) -> None:
        store = self.db._store
        with store.snapshot() as snapshot:
            moved = self.task.advance(snapshot, {})
        if moved and saves:
            with store.write(journaled=False) as transaction:
                saved = self.task.save(transaction)
            assert saved
            self.task.saved(saved)
        elif moved:
            self.task = self._task()

    def restart(self) -> None:
        self.feed.close()
        self.db.close()
        self.db = eventdb.open(self.path, durability="os")
        self._begin()

    def forget(self) -> None:
        views = self.db._views_of()
        views._circuits, views._reader = CircuitReader(), ViewReader()

    def stored_rows(self) -> list[Row]:
        """All rows in the order of their commits, then by topic, partition and offset."""
        found = []
        for name in self.topics:
            for values in self.db.sql(
                f"SELECT _partition, _offset, epoch_us(_append_time), epoch_us(ts), k, v FROM {name}"
            ).fetchall():
                found.append(Row(name, *values))
        return sorted(found, key=lambda row: (row.append_time, row.topic, row.partition, row.offset))

    def check(self, theirs: str) -> int:
        read = {name: each for name, each in self.topics.items() if f"{name}_" in theirs}
        rows = [row for row in self.stored_rows() if row.topic in read]
        oracle = Oracle(rows, read, self.grace, theirs)
        expected, self.late = oracle.answer, oracle.late
        assert Counter(normal(self.db.sql("SELECT * FROM w").fetchall())) == expected
        for change in self.feed.poll(0):
            assert change.op == "+I"
            self.total[tuple(map(plain, change.row))] += 1
        assert self.total == expected
        return sum(expected.values())

    def check_from_the_beginning(self, count: int, theirs: str) -> None:
        """Whoever computes it from the first row on gets the same rows, and counts the rows that were late."""
        if not isinstance(self.spec, CircuitSpec):
            return
        anonymous = replace(self.spec, id=-1)
        with self.db._store.snapshot() as snapshot:
            whole = caught_up(anonymous, None, snapshot)
            found = whole.content(snapshot)
        rows = Counter(tuple(map(plain, row)) for batch in found for row in batch.to_pylist())
        assert rows == self.total
        assert rows.total() == count
        windows = re.findall(r"\b[ab]_(?:tumble|hop|slow)", theirs)
        if len(windows) == len(set(windows)) and "WHERE" not in theirs:  # what a condition leaves out is not late
            assert whole.circuit.late_row_count == sum(self.late[window] for window in windows)

    def close(self) -> None:
        self.feed.close()
        self.db.close()


def check_law(
    path: Path, pair: tuple[str, str], topics: dict[str, Declared], grace: int, moves: list[Any], morsel: int,
    patch: pytest.MonkeyPatch,
) -> int:  # fmt: skip
    clock = _Time()
    patch.setattr(Clock, "time_us", clock)
    patch.setattr(marked_inputs, "MORSEL_ROWS", morsel)
    patch.setattr("eventdb.stream.task.STEP_ROWS", 2 * morsel)
    patch.setattr(Runner, "start", lambda self: None)
    view = View(path, pair[0], topics, grace, clock)
    try:
        for move, rows, gap in moves:
            if move == "commit":
                view.commit(rows, gap)
            elif move == "read":
                view.check(pair[1])
            elif move in ("maintain", "crash"):
                view.maintain(saves=move == "maintain")
            elif move == "restart":
                view.restart()
            else:
                view.forget()
        count = view.check(pair[1])
        view.forget()
        view.check(pair[1])
        view.check_from_the_beginning(count, pair[1])
        return count
    finally:
        view.close()


LAW = {
    "pair": st.sampled_from(QUERIES),
    "a": declared,
    "b": declared,
    "grace": st.sampled_from([0, 0, 3 * SECOND]),
    "moves": steps,
    "morsel": st.sampled_from([1, 2, 3, 1000]),
}


@many
@given(**LAW)
def test_a_view_holds_what_its_query_answers_over_the_windows_that_closed(
    tmp_path_factory: pytest.TempPathFactory, pair: tuple[str, str], a: Declared, b: Declared, grace: int,
    moves: list[Any], morsel: int,
) -> None:  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        check_law(tmp_path_factory.mktemp("law") / "db", pair, {"a": a, "b": b}, grace, moves, morsel, patch)


def _case(chance: random.Random) -> dict[str, Any]:
    """A history with rows that are late, partitions that fall silent, and windows that close."""

    def declared() -> Declared:
        return Declared(
            chance.choice([2, 2, 3]), chance.choice([0, 3 * SECOND]), chance.choice([5 * SECOND, 5 * SECOND, None]),
            chance.choice([None, 10 * SECOND]),
        )  # fmt: skip

    def row() -> tuple[Any, ...]:
        return (chance.choice("aab"), chance.randrange(3), chance.randint(-12, 12), chance.choice("xxy"),
                chance.randrange(5))  # fmt: skip

    moves: list[Any] = []
    for _ in range(30):
        moves.append(("commit", [row() for _ in range(chance.choice([1, 1, 2, 4]))], chance.choice([0, 1, 3, 8])))
        if chance.random() < 0.5:
            moves.append((chance.choice(OTHERS), None, None))
    return {
        "pair": chance.choice(QUERIES), "topics": {"a": declared(), "b": declared()},
        "grace": chance.choice([0, 3 * SECOND]), "moves": moves, "morsel": chance.choice([1, 2, 1000]),
    }  # fmt: skip


def _released_early(self: closing.ClosedGroups, closed_us: int, of: Any = closing.ClosedGroups.close) -> Any:
    found = of(self, closed_us)
    groups = self._groups.numbers()
    self._forget(groups[self._ends_of(groups) <= closed_us + 10 * SECOND])
    return found


def _less(closed_us: int | None) -> int | None:
    return None if closed_us is None else closed_us - 1


PLANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {
    "a row is judged by the mark after it": lambda m: m.setattr(
        Timeline, "advance", lambda self, *args, of=Timeline.advance: np.append(of(self, *args), self.mark_us)[1:]
    ),
    "a window closes once the mark is past its end, not at it": lambda m: m.setattr(
        Closing, "closed_us", lambda self, mark_us, of=Closing.closed_us: _less(of(self, mark_us))
    ),
    "state is released one window early": lambda m: m.setattr(closing.ClosedGroups, "close", _released_early),
    "late rows are kept": lambda m: m.setattr(
        closing, "is_closed", lambda ends, marks, grace: np.zeros(len(ends), dtype=bool)
    ),
    "idle partitions hold the mark back": lambda m: m.setattr(
        timeline, "_declared", lambda values: np.full(len(values), -1, dtype=np.int64)
    ),
    "partitions are read one after the other": lambda m: m.setattr(
        marked_inputs._Partition, "last", property(lambda self: None)
    ),
    "watermarks are not stored": lambda m: m.setattr(Timeline, "restore", lambda self, data: None),
    "the part of the result that is stored is given again": lambda m: m.setattr(
        ClosedTail, "batches", lambda self, after_us=0, of=ClosedTail.batches: of(self)
    ),
    "the rows of a round are in the order of their partitions": lambda m: m.setattr(
        marked_inputs.np, "argsort", lambda values, kind=None: np.arange(len(values))
    ),
}


@pytest.mark.parametrize("plant", [None, *PLANTS])
def test_the_law_is_broken_by_a_planted_bug(tmp_path: Path, plant: str | None) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if plant is not None:
            PLANTS[plant](patch)
        caught = 0
        for seed in range(10 if plant is None else 60):
            try:
                check_law(tmp_path / str(seed), **_case(random.Random(seed)), patch=patch)
            except (AssertionError, EventDBError):
                caught += 1
                break
        assert caught == (plant is not None)
