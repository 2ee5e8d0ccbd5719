"""ALTER VIEW PAUSE and RESUME, REFRESH VIEW, VERIFY VIEW and CREATE OR REPLACE MATERIALIZED VIEW."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import eventdb
from eventdb.stream.state import StateKeys
from eventdb.view_catalog import gone_ids, move_state
from eventdb.view_changes import ViewGone
from eventdb.views import Views
from tests.view_process import STEPS

ROOT = Path(__file__).resolve().parent.parent
ONE = "SELECT k, sum(x) AS s FROM t GROUP BY k"
EACH = "SELECT k, x FROM t WHERE x > 1"
JOINED = "SELECT t.k, count(*) AS n FROM t JOIN names n ON t.k = n.k GROUP BY t.k"
QUERIES = {"one": ONE, "each": EACH, "joined": JOINED}


def rows(x: int, keys: str = "abc") -> list[dict[str, object]]:
    return [{"k": k, "x": x} for k in keys]


@pytest.fixture
def made(path: Path) -> Iterator[eventdb.Database]:
    with eventdb.open(path, durability="os") as db:
        db.create_topic("t", {"k": "VARCHAR", "x": "BIGINT"})
        db.create_table("names", {"k": "VARCHAR", "name": "VARCHAR"}, primary_key="k")
        db.sql("INSERT INTO names VALUES ('a', 'ada'), ('b', 'bob')")
        db.topic("t").append_many(rows(1) + rows(2))
        yield db


def content(db: eventdb.Database, name: str) -> list[tuple[object, ...]]:
    return sorted(db.sql(f"SELECT * FROM {name}").fetchall())


def batch(db: eventdb.Database, query: str) -> list[tuple[object, ...]]:
    return sorted(db.sql(query).fetchall())


def verify(db: eventdb.Database, name: str) -> tuple[object, ...]:
    [row] = db.sql(f"VERIFY VIEW {name}").fetchall()
    return tuple(row)


def until(condition: Callable[[], bool], timeout_s: float = 20.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.002)


def nothing_is_left(db: eventdb.Database) -> bool:
    """No state of a view that is gone, but the marks that they are; no rebuild."""
    with db._store.snapshot() as snapshot:
        return not db._catalog.rebuilds() and not any(StateKeys(id).is_left(snapshot) for id in gone_ids(db._catalog))


@contextmanager
def maintainer(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lease."""
    command = [sys.executable, "-m", "tests.view_process", str(path), "maintain"]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "lease\n"
        yield process
    finally:
        process.kill()
        process.wait()


# --- pause and resume -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", QUERIES)
def test_a_paused_view_stands_still_until_it_is_resumed(made: eventdb.Database, path: Path, kind: str) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW v AS {QUERIES[kind]}")
    made.sql("ALTER VIEW v PAUSE")
    before = batch(made, QUERIES[kind])
    made.topic("t").append_many(rows(5))
    assert content(made, "v") == before
    made.sql("ALTER VIEW v PAUSE")  # it is
    assert made.sql("SHOW VIEWS").fetchall()[0][1] == "view (paused)"
    made.close()
    with eventdb.open(path) as again:
        assert content(again, "v") == before
        again.sql("ALTER MATERIALIZED VIEW v RESUME")
        assert content(again, "v") == batch(again, QUERIES[kind]) != before


def test_a_view_pauses_with_everything_that_was_committed_before(made: eventdb.Database) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW v AS {ONE}")
    for x in range(20):
        made.topic("t").append_many(rows(x))
        made.sql("ALTER VIEW v PAUSE")
        assert content(made, "v") == batch(made, ONE)
        made.sql("ALTER VIEW v RESUME")


@pytest.mark.parametrize("kind", ["one", "joined"])
def test_a_subscription_to_a_paused_view_gets_nothing_until_it_is_resumed(made: eventdb.Database, kind: str) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW v AS {QUERIES[kind]}")
    with made.subscribe("v", start="now") as changes:
        assert changes.poll(0) == []
        made.sql("ALTER VIEW v PAUSE")
        made.topic("t").append({"k": "a", "x": 7})
        assert changes.poll(0.1) == []
        made.sql("ALTER VIEW v RESUME")
        found = changes.poll(10)
        assert [change.row[0] for change in found] == ["a", "a"]


def test_views_of_another_process_are_paused_and_resumed(made: eventdb.Database, path: Path) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW v AS {ONE}")
    made.close()
    with maintainer(path), eventdb.open(path, durability="os") as db:
        db.topic("t").append_many(rows(3))
        db.sql("ALTER VIEW v PAUSE", timeout=20)
        before = batch(db, ONE)
        db.topic("t").append_many(rows(3))
        assert content(db, "v") == before
        db.sql("ALTER VIEW v RESUME")
        db.wait("v", 11, timeout=20)
        assert content(db, "v") == batch(db, ONE)
        assert not db._views_of()._runner.is_maintaining  # type: ignore[union-attr]


def test_what_cannot_be_paused_says_why(made: eventdb.Database) -> None:
    made.sql("CREATE VIEW plain AS SELECT k FROM t")
    with pytest.raises(eventdb.UsageError, match="not materialized"):
        made.sql("ALTER VIEW plain PAUSE")
    with pytest.raises(eventdb.TopicNotFound, match="no view 'w'"):
        made.sql("ALTER VIEW w PAUSE")
    with pytest.raises(eventdb.UnsupportedSQL, match="PAUSE"):
        made.sql("ALTER VIEW v RENAME TO w")
    made.sql("BEGIN")
    with pytest.raises(eventdb.UnsupportedError, match="ALTER VIEW"):
        made.sql("ALTER VIEW v PAUSE")
    made.sql("ROLLBACK")


def test_waiting_for_a_paused_view_says_so(made: eventdb.Database) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW v AS {ONE}")
    made.sql("ALTER VIEW v PAUSE")
    position = made.topic("t").append({"k": "a", "x": 1})
    with pytest.raises(eventdb.UsageError, match="paused"):
        made.wait("v", position, timeout=5)


def test_a_wait_ends_when_the_view_is_paused_replaced_or_dropped(made: eventdb.Database) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW v AS {ONE}")
    ended: list[object] = []

    def wait(offset: int) -> None:
        try:
            ended.append(made.wait("v", offset, timeout=30))
        except Exception as error:
            ended.append(error)

    for statement, error in [
        ("ALTER VIEW v PAUSE", eventdb.UsageError),
        ("REFRESH VIEW v", None),
        ("DROP VIEW v", eventdb.TopicNotFound),
    ]:
        made.sql("ALTER VIEW v RESUME")
        waiting = threading.Thread(target=wait, args=(1_000 if error else 6,))
        waiting.start()
        time.sleep(0.05)
        made.sql(statement)
        if error is None:
            made.topic("t").append({"k": "a", "x": 1})
        waiting.join(20)
        assert not waiting.is_alive(), statement
        assert isinstance(ended[-1], error) if error else ended[-1] is None, (statement, ended[-1])


def test_a_pause_that_nobody_ended_is_ended_by_the_next_maintainer(made: eventdb.Database, path: Path) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW v AS {ONE}")
    id = made._catalog.view("v").id
    made._views_of().stop()
    assert move_state(made._catalog, id, "pausing", ("running",))
    made.topic("t").append_many(rows(8))
    assert content(made, "v") == batch(made, ONE)
    made.close()
    with eventdb.open(path, durability="os") as db:
        until(lambda: db._catalog.view("v").state == "paused")
        assert content(db, "v") == batch(db, ONE)
        db.topic("t").append_many(rows(8))
        assert content(db, "v") != batch(db, ONE)


# --- refresh ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", QUERIES)
def test_refresh_repairs_a_damaged_state(made: eventdb.Database, kind: str) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW v AS {QUERIES[kind]}")
    made.sql("ALTER VIEW v PAUSE")
    damage(made, "v", kind)
    assert verify(made, "v")[2] is False
    made.sql("REFRESH VIEW v")
    assert verify(made, "v")[2] is True
    assert content(made, "v") == batch(made, QUERIES[kind])
    assert nothing_is_left(made)
    made.topic("t").append_many(rows(4))
    assert content(made, "v") != batch(made, QUERIES[kind]), "it is paused as before"
    made.sql("REFRESH VIEW v")
    assert content(made, "v") == batch(made, QUERIES[kind])


def test_refresh_is_the_way_out_of_failed(made: eventdb.Database) -> None:
    made.sql("CREATE MATERIALIZED VIEW v AS SELECT k, 10 / x AS q FROM t")
    made.topic("t").append({"k": "z", "x": 0})
    until(lambda: made._catalog.view("v").state == "failed")
    with pytest.raises(eventdb.errors.ViewFailed, match="REFRESH"):
        made.sql("ALTER VIEW v RESUME")
    with pytest.raises(eventdb.errors.ViewFailed, match="offset 6"):
        made.sql("REFRESH VIEW v")
    assert nothing_is_left(made)
    made.sql("CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT k, 10 / x AS q FROM t WHERE x <> 0")
    until(lambda: made._catalog.view("v").state == "running")
    assert content(made, "v") == batch(made, "SELECT k, 10 / x AS q FROM t WHERE x <> 0")
    assert nothing_is_left(made)


def test_views_of_another_process_are_refreshed_and_replaced(made: eventdb.Database, path: Path) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW v AS {ONE}")
    made.sql(f"CREATE MATERIALIZED VIEW j AS {JOINED}")
    made.close()
    with maintainer(path), eventdb.open(path, durability="os") as db:
        for name, query in (("v", ONE), ("j", JOINED)):
            db.sql(f"REFRESH VIEW {name}", timeout=30)
            assert content(db, name) == batch(db, query)
            db.sql(f"CREATE OR REPLACE MATERIALIZED VIEW {name} AS {EACH}")
            until(lambda: not db._catalog.rebuilds())
            assert content(db, name) == batch(db, EACH)
            assert verify(db, name)[2] is True
        until(lambda: nothing_is_left(db))
        assert not db._views_of()._runner.is_maintaining  # type: ignore[union-attr]


def test_refresh_keeps_where_a_view_begins(made: eventdb.Database) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW v START FROM NOW AS {ONE}")
    made.topic("t").append({"k": "a", "x": 3})
    made.sql("REFRESH VIEW v")
    assert content(made, "v") == [("a", 3)]
    assert verify(made, "v") == ("v", 1, True, None)


def test_a_view_is_there_for_every_reader_while_it_is_rebuilt(made: eventdb.Database, path: Path) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW v AS {ONE}")
    expected, errors, stop = batch(made, ONE), [], threading.Event()

    def read() -> None:
        while not stop.is_set():
            try:
                assert content(made, "v") == expected
            except BaseException as error:
                errors.append(error)
                return

    threads = [threading.Thread(target=read) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(10):
        made.sql("REFRESH VIEW v")
    stop.set()
    for thread in threads:
        thread.join()
    assert not errors, errors


def test_a_statement_whose_view_was_replaced_meanwhile_is_bound_again(
    made: eventdb.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW v AS {ONE}")
    read, seen = Views.content, []

    def gone_once(self: Views, view_id: int, *rest: object) -> object:
        seen.append(view_id)
        if len(seen) == 1:
            raise ViewGone("the view with id 1 was dropped")
        return read(self, view_id, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Views, "content", gone_once)
    assert content(made, "v") == batch(made, ONE)
    assert len(seen) == 2


# --- verify -----------------------------------------------------------------------------------------------------------


def damage(db: eventdb.Database, name: str, kind: str) -> None:
    """Plants wrong state: rows that are there twice, or are gone."""
    id = db._catalog.view(name).id
    spec = db._views_of().spec(db._catalog.view(name))
    with db._store.write(journaled=False) as transaction:
        if kind == "one":
            groups = dict(StateKeys(id).groups(transaction))
            numbers = sorted(groups)
            StateKeys(id).delete_group(transaction, numbers[0])
        elif kind == "each":
            log = spec.output_log  # type: ignore[union-attr]
            transaction.append_rows(log, [("forged", 1)])
            keys = StateKeys(id)
            progress = keys.progress(transaction)
            keys.set_progress(transaction, replace(progress, output_end=progress.output_end + 1))
        else:
            keys = spec.keys  # type: ignore[union-attr]
            for key, _ in list(transaction.range(keys._pieces)):
                transaction.delete(bytes(key))


@pytest.mark.parametrize("kind", QUERIES)
def test_verify_finds_damaged_state_and_nothing_else(made: eventdb.Database, kind: str) -> None:
    query = QUERIES[kind]
    made.sql(f"CREATE MATERIALIZED VIEW v AS {query}")
    assert verify(made, "v") == ("v", len(batch(made, query)), True, None)
    made.sql("ALTER VIEW v PAUSE")
    assert verify(made, "v") == ("v", len(batch(made, query)), True, None)
    damage(made, "v", kind)
    view, _, ok, difference = verify(made, "v")
    assert (view, ok) == ("v", False)
    assert "differ" in str(difference)


WINDOWED = """CREATE MATERIALIZED VIEW w AS SELECT window_start, k, count(*) AS n, avg(x) AS a
FROM TUMBLE(e, ts, INTERVAL '10 seconds') GROUP BY window_start, k EMIT ON WINDOW CLOSE"""


@pytest.mark.parametrize("late", [False, True])
def test_verify_of_closed_windows(made: eventdb.Database, late: bool) -> None:
    made.sql("CREATE TOPIC e (k VARCHAR, x DOUBLE, ts TIMESTAMP, WATERMARK FOR ts AS ts - INTERVAL '5 seconds')")
    made.sql(WINDOWED)
    stamps = [1, 4, 11, 12, 30, 31, 48] + ([2, 13] if late else [])
    for second in stamps:
        made.sql(f"INSERT INTO e VALUES ('a', 0.1, TIMESTAMP '2026-01-01 00:00:{second:02}')")
    assert verify(made, "w") == ("w", 3, True, None)
    made.sql("ALTER VIEW w PAUSE")
    spec = made._views_of().spec(made._catalog.view("w"))
    progress = StateKeys(spec.id).progress
    with made._store.write(journaled=False) as transaction:
        keys = StateKeys(spec.id)
        log = spec.output_log  # type: ignore[union-attr]
        transaction.append_rows(log, [(0, "forged", 1, 1.0)])
        keys.set_progress(transaction, replace(progress(transaction), output_end=4))
    assert verify(made, "w")[:3] == ("w", 4, False)


def test_verify_forgives_what_the_order_of_additions_makes_of_floats(made: eventdb.Database) -> None:
    made.create_topic("f", {"k": "VARCHAR", "x": "DOUBLE"})
    made.sql("CREATE MATERIALIZED VIEW v AS SELECT k, sum(x) AS s FROM f GROUP BY k")
    for i in range(200):
        made.topic("f").append({"k": "a", "x": 0.1 + i * 1e-7})
    assert verify(made, "v") == ("v", 1, True, None)


def test_verify_says_when_it_cannot_tell(made: eventdb.Database) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW v AS {ONE}")
    made.sql("ALTER VIEW v PAUSE")
    with made._store.write() as transaction:
        transaction.put(StateKeys(made._catalog.view("v").id)._start, (-5).to_bytes(8, "little", signed=True))
    view, _, ok, why = verify(made, "v")
    assert (view, ok) == ("v", None)
    assert "removed" in str(why)


def test_verify_of_a_failed_view_says_why_it_failed(made: eventdb.Database) -> None:
    made.sql("CREATE MATERIALIZED VIEW v AS SELECT k, 10 / (x - 2) AS q FROM t")
    view, count, ok, why = verify(made, "v")
    assert (view, count, ok) == ("v", None, False)
    assert "zero" in str(why)


# --- replace ----------------------------------------------------------------------------------------------------------

OTHER = {
    "one": "SELECT k, max(x) AS m FROM t GROUP BY k",
    "each": "SELECT x, k FROM t",
    "joined": "SELECT t.k, max(x) AS n FROM t JOIN names n ON t.k = n.k GROUP BY t.k",
}


@pytest.mark.parametrize("old", QUERIES)
@pytest.mark.parametrize("new", OTHER)
def test_a_view_is_replaced_at_once_for_its_readers(made: eventdb.Database, old: str, new: str) -> None:
    made.sql(f"CREATE OR REPLACE MATERIALIZED VIEW v AS {QUERIES[old]}")
    before, after = batch(made, QUERIES[old]), batch(made, OTHER[new])
    made.sql(f"CREATE OR REPLACE MATERIALIZED VIEW v AS {OTHER[new]}")
    seen = [content(made, "v")]
    until(lambda: seen.append(content(made, "v")) or not made._catalog.rebuilds())  # type: ignore[func-returns-value]
    seen.append(content(made, "v"))
    assert all(found in (before, after) for found in seen)
    assert seen[-1] == after
    until(lambda: nothing_is_left(made))
    assert verify(made, "v")[2] is True
    made.topic("t").append_many(rows(9))
    assert content(made, "v") == batch(made, OTHER[new])


def test_the_same_query_again_does_nothing(made: eventdb.Database) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW v AS {ONE}")
    id = made._catalog.view("v").id
    made.sql("CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT k,   sum(x) AS s FROM t GROUP BY k")
    assert not made._catalog.rebuilds()
    made.sql("CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT k, min(x) AS s FROM t GROUP BY k")
    made.sql(f"CREATE OR REPLACE MATERIALIZED VIEW v AS {ONE}")  # before or after the other one took its place
    until(lambda: not made._catalog.rebuilds())
    assert content(made, "v") == batch(made, ONE)
    assert made._catalog.view("v").id >= id
    until(lambda: nothing_is_left(made))


def test_keep_state_changes_what_stands_above_the_group_by(made: eventdb.Database) -> None:
    made.sql("CREATE MATERIALIZED VIEW v AS SELECT k, sum(x) AS s, count(*) AS n FROM t GROUP BY k")
    assert len(content(made, "v")) == 3
    id = made._catalog.view("v").id
    query = "SELECT k, sum(x) * 10 AS tens, count(*) AS n FROM t GROUP BY k HAVING count(*) > 0"
    made.sql(f"CREATE OR REPLACE MATERIALIZED VIEW v KEEP STATE AS {query}")
    assert made._catalog.view("v").id == id
    assert content(made, "v") == batch(made, query)
    made.topic("t").append_many(rows(4))
    assert content(made, "v") == batch(made, query)
    assert verify(made, "v")[2] is True


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (ONE, "SELECT k, sum(x), max(x) AS m FROM t GROUP BY k", "aggregates differ"),
        (ONE, "SELECT x, sum(x) AS s FROM t GROUP BY x", "GROUP BY differs|GROUP BY differ"),
        (ONE, "SELECT k, sum(x) AS s FROM t WHERE x > 1 GROUP BY k", "below its GROUP BY differ"),
        (ONE, "SELECT k, sum(x) AS s FROM u GROUP BY k", "reads u in place of t"),
        (EACH, "SELECT x, k FROM t WHERE x > 1", "given out are stored"),
        (JOINED, "SELECT t.k, count(*) + 1 AS n FROM t JOIN names n ON t.k = n.k GROUP BY t.k", "joins"),
    ],
)
def test_keep_state_is_refused_with_the_reason(made: eventdb.Database, old: str, new: str, reason: str) -> None:
    made.create_topic("u", {"k": "VARCHAR", "x": "BIGINT"})
    made.sql(f"CREATE MATERIALIZED VIEW v AS {old}")
    with pytest.raises(eventdb.UsageError, match=reason):
        made.sql(f"CREATE OR REPLACE MATERIALIZED VIEW v KEEP STATE AS {new}")
    assert content(made, "v") == batch(made, old)


def test_what_cannot_be_replaced_says_why(made: eventdb.Database) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW v AS {ONE}")
    made.sql("CREATE MATERIALIZED VIEW over AS SELECT k, s + 1 AS t FROM v")
    with pytest.raises(eventdb.UsageError, match="feeds the view 'over'"):
        made.sql(f"CREATE OR REPLACE MATERIALIZED VIEW v AS {EACH}")
    with pytest.raises(eventdb.UsageError, match="read itself"):
        made.sql("CREATE OR REPLACE MATERIALIZED VIEW over AS SELECT k FROM over")
    made.sql("CREATE VIEW plain AS SELECT k FROM t")
    for taken in ("plain", "t", "names"):
        with pytest.raises(eventdb.errors.TopicExists):
            made.sql(f"CREATE OR REPLACE MATERIALIZED VIEW {taken} AS {EACH}")
    with pytest.raises(eventdb.ParseError, match="OR REPLACE"):
        made.sql(f"CREATE MATERIALIZED VIEW v KEEP STATE AS {ONE}")
    with pytest.raises(eventdb.ParseError, match="exclude"):
        made.sql(f"CREATE OR REPLACE MATERIALIZED VIEW IF NOT EXISTS v AS {ONE}")
    made.sql("REFRESH VIEW v")
    assert content(made, "over") == batch(made, f"SELECT k, s + 1 FROM ({ONE})")


def test_a_view_that_is_dropped_while_it_is_rebuilt_leaves_nothing(made: eventdb.Database) -> None:
    for _ in range(5):
        made.sql(f"CREATE MATERIALIZED VIEW v AS {ONE}")
        made.sql(f"CREATE OR REPLACE MATERIALIZED VIEW v AS {EACH}")
        made.sql("DROP VIEW v")
        assert made._catalog.views() == []
        until(lambda: nothing_is_left(made))


def test_a_view_that_writes_into_a_topic_is_not_computed_anew(made: eventdb.Database) -> None:
    made.create_topic("out", {"k": "VARCHAR", "x": "BIGINT"})
    made.sql(f"CREATE MATERIALIZED VIEW v INTO out AS {EACH}")
    with pytest.raises(eventdb.UsageError, match="writes INTO out"):
        made.sql("REFRESH VIEW v")
    with pytest.raises(eventdb.UsageError, match="writes INTO out"):
        made.sql("CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT k, x FROM t")
    made.sql(f"CREATE OR REPLACE MATERIALIZED VIEW v INTO out AS {EACH} EMIT EVERY INTERVAL '1 second'")
    assert "EVERY" in made._catalog.view("v").sql


def test_a_replacement_that_fails_leaves_the_view_as_it_was(made: eventdb.Database) -> None:
    made.sql(f"CREATE MATERIALIZED VIEW v AS {ONE}")
    made.sql("CREATE OR REPLACE MATERIALIZED VIEW v AS SELECT k, 10 / (x - 2) AS q FROM t")
    until(lambda: [info.state for info in made._catalog.rebuilds()] == ["failed"])
    assert content(made, "v") == batch(made, ONE)
    made.sql(f"CREATE OR REPLACE MATERIALIZED VIEW v AS {ONE}")
    assert nothing_is_left(made)


# --- crashes ----------------------------------------------------------------------------------------------------------


CRASHES = [(step, "each", "one") for step in STEPS]
CRASHES += [("caught up", "one", "joined"), ("swapped", "joined", "joined"), ("swapped", "refresh", "each")]


@pytest.mark.parametrize(("step", "old", "new"), CRASHES)
def test_a_crash_at_any_step_leaves_the_old_or_the_new_view(
    made: eventdb.Database, path: Path, step: str, old: str, new: str
) -> None:
    query, after = (EACH, EACH) if old == "refresh" else (QUERIES[old], OTHER[new])
    statement = "REFRESH VIEW v" if old == "refresh" else f"CREATE OR REPLACE MATERIALIZED VIEW v AS {after}"
    made.sql(f"CREATE MATERIALIZED VIEW v AS {query}")
    assert content(made, "v")
    made.close()
    command = [sys.executable, "-m", "tests.view_process", str(path), step, statement]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 9, ended
    with eventdb.open(path, durability="os") as db:
        assert content(db, "v") in (batch(db, query), batch(db, after))
        db.topic("t").append_many(rows(6))
        assert content(db, "v") in (batch(db, query), batch(db, after))
        until(lambda: nothing_is_left(db))
        assert content(db, "v") == batch(db, after)
        assert verify(db, "v")[2] is True
        kept = {info.id for info in db._catalog.topics()}
        folders = {name.name for name in (path / "topics").iterdir()} if (path / "topics").is_dir() else set()
        assert all(int(name) in kept for name in folders if name.isdigit())
