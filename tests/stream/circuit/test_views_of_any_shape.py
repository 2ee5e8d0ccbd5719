"""Views of any shape over topics and tables, through the whole database: always what the query itself answers."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import eventdb
from eventdb.errors import ClosedError, EvaluationError, MemoryLimitExceeded, UnsupportedSQL, ViewFailed
from eventdb.stream.circuit.query import CircuitQuery
from eventdb.stream.task import CircuitTask
from tests.limits import SEGMENT_ROWS
from tests.relational.queries import queries, set_operations
from tests.relational.tables import _row as rows
from tests.relational.tables import literal, normal, plain
from tests.stream.circuit.histories import settled
from tests.stream.circuit.test_circuit_law import shapes

EXAMPLES = int(os.environ.get("EVENTDB_CIRCUIT_EXAMPLES", "25"))
many = settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))

MAKE = (
    "CREATE TOPIC t (a INTEGER, b INTEGER, c VARCHAR, d DOUBLE)",
    "CREATE TABLE u (a INTEGER, b INTEGER, c VARCHAR, d DOUBLE)",  # without a key: rows repeat
    "CREATE TABLE v (a INTEGER PRIMARY KEY, b INTEGER, c VARCHAR, d DOUBLE)",
)


@st.composite
def changes(draw: st.DrawFn) -> str:
    """One statement that changes t, u or v."""
    values = ", ".join(map(literal, draw(rows)))
    key = draw(st.integers(0, 3))
    return draw(
        st.sampled_from([
            f"INSERT INTO t VALUES ({values})",
            f"INSERT INTO u VALUES ({values})",
            f"INSERT OR REPLACE INTO v VALUES ({key}, {values.split(', ', 1)[1]})",
            f"INSERT OR REPLACE INTO v VALUES ({key}, {values.split(', ', 1)[1]})",
            f"UPDATE u SET b = coalesce(b, 0) + 1, c = NULL WHERE a = {key}",
            f"UPDATE v SET b = {key} WHERE a >= {key}",
            f"DELETE FROM v WHERE a = {key}",
            f"DELETE FROM u WHERE a = {key}",
        ])
    )  # fmt: skip


def columns_named(sql: str, db: Any) -> str:
    """The query with distinct column names, which a view needs."""
    width = len(db.sql(f"SELECT * FROM ({sql}) q LIMIT 0").columns)
    return f"SELECT * FROM ({sql}) q ({', '.join(f'c{i}' for i in range(width))})"


@many
@given(
    sql=queries() | set_operations() | shapes,
    steps=st.lists(st.lists(changes(), max_size=4), min_size=1, max_size=5),
    data=st.data(),
)
def test_a_view_is_what_its_query_answers_and_its_changes_add_up(
    tmp_path_factory: pytest.TempPathFactory, sql: str, steps: list[list[str]], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("views")
    db = eventdb.open(path)
    try:
        for statement in MAKE:
            db.sql(statement)
        for statement in steps[0]:
            db.sql(statement)
        query = columns_named(sql, db)
        try:
            db.sql(f"CREATE MATERIALIZED VIEW w STATE LIMIT '100MB' AS {query}")
        except UnsupportedSQL as error:
            assume("STATE LIMIT" not in str(error))  # a view of one topic, which other tests are about
            assume("INTERVAL" not in str(error))
            raise
        start = data.draw(st.sampled_from(["snapshot", "latest"]))
        feed, total = db.subscribe("w", start=start), Counter[Any]()
        before = None
        for step in [[], *steps[1:]]:
            for statement in step:
                db.sql(statement)
            if data.draw(st.integers(0, 4)) == 0:
                feed.close()
                db.close()
                db, before = eventdb.open(path), None
                feed, total = db.subscribe("w", start=start), Counter()
            try:
                expected = normal(db.sql(query).fetchall())
            except EvaluationError:
                with pytest.raises((ViewFailed, EvaluationError)):
                    db.sql("SELECT * FROM w").fetchall()
                return
            assert normal(db.sql("SELECT * FROM w").fetchall()) == expected
            seen = feed.poll(0)
            for change in seen:
                total[tuple(map(plain, change.row))] += 1 if change.op in ("+I", "+U") else -1
            before = Counter(expected) if before is None else before
            now = Counter(expected)
            if start == "latest":
                now.subtract(before)
            assert {k: n for k, n in total.items() if n} == {k: n for k, n in now.items() if n}
    finally:
        db.close()


@pytest.fixture
def db(tmp_path: Path):
    with eventdb.open(tmp_path / "db") as db:
        db.sql("CREATE TOPIC bids (auction BIGINT, price BIGINT)")
        db.sql("CREATE TABLE items (id BIGINT PRIMARY KEY, name VARCHAR)")
        yield db


JOINED = "SELECT i.name, sum(b.price) AS total FROM bids b JOIN items i ON b.auction = i.id GROUP BY i.name"


def test_a_view_over_views_agrees_with_them_in_one_snapshot(db: Any) -> None:
    db.sql(f"CREATE MATERIALIZED VIEW totals AS {JOINED}")
    db.sql("CREATE MATERIALIZED VIEW best AS SELECT name FROM totals ORDER BY total DESC, name LIMIT 1")
    db.sql("CREATE MATERIALIZED VIEW dear AS SELECT auction, price FROM bids WHERE price > 5")
    db.sql("CREATE MATERIALIZED VIEW dearest AS SELECT max(price) AS price FROM dear")
    db.sql("INSERT INTO items VALUES (1, 'a'), (2, 'b')")
    for price in range(20):
        db.sql(f"INSERT INTO bids VALUES ({price % 3}, {price})")
        found = db.sql(
            "SELECT (SELECT name FROM best) = (SELECT name FROM totals ORDER BY total DESC, name LIMIT 1), "
            "(SELECT price FROM dearest) IS NOT DISTINCT FROM (SELECT max(price) FROM dear)"
        ).fetchall()
        assert found in ([(True, True)], [(None, True)])


def test_a_view_over_a_view_that_began_later_begins_where_that_did(db: Any) -> None:
    db.sql("INSERT INTO bids VALUES (1, 1)")
    db.sql("CREATE MATERIALIZED VIEW new AS SELECT auction, price FROM bids START FROM NOW")
    db.sql("CREATE MATERIALIZED VIEW count_of_new AS SELECT count(*) AS n FROM new")
    db.sql("INSERT INTO bids VALUES (1, 2), (1, 3)")
    assert db.sql("SELECT n FROM count_of_new").fetchall() == [(2,)]


def test_a_join_of_two_topics_needs_a_limit_and_keeps_to_it(db: Any) -> None:
    query = "SELECT x.price FROM bids x JOIN bids y ON x.auction = y.price"
    with pytest.raises(UnsupportedSQL, match="STATE LIMIT '64MB'"):
        db.sql(f"CREATE MATERIALIZED VIEW w AS {query}")
    with pytest.raises(UnsupportedSQL, match="keeps all events of both"):
        db.subscribe(query)
    db.sql(f"CREATE MATERIALIZED VIEW w STATE LIMIT '20KB' AS {query}")
    assert db.sql("SELECT count(*) FROM w").fetchall() == [(0,)]
    db.topic("bids").append_many([{"auction": i, "price": i} for i in range(1000)])
    for _ in range(2):
        with pytest.raises(MemoryLimitExceeded, match=r"view 'w' keeps .* MB of state, more than it may"):
            db.sql("SELECT count(*) FROM w")


def test_what_a_view_reads_is_not_dropped(db: Any) -> None:
    db.sql(f"CREATE MATERIALIZED VIEW totals AS {JOINED}")
    for statement in ("DROP TABLE items", "DROP TOPIC bids"):
        with pytest.raises(eventdb.EventDBError, match="totals"):
            db.sql(statement)
    db.sql("DROP VIEW totals")
    db.sql("DROP TABLE items")


def test_a_snapshot_that_is_older_than_what_is_kept_is_answered_too(db: Any) -> None:
    db.sql(f"CREATE MATERIALIZED VIEW totals AS {JOINED}")
    db.sql("INSERT INTO items VALUES (1, 'a')")
    db.sql("INSERT INTO bids VALUES (1, 10)")
    with db.snapshot() as old:
        db.sql("INSERT INTO bids VALUES (1, 5)")
        db.sql("UPDATE items SET name = 'b'")
        assert db.sql("SELECT * FROM totals").fetchall() == [("b", 15)]
        assert old.sql("SELECT * FROM totals").fetchall() == [("a", 10)]
    assert db.sql("SELECT * FROM totals").fetchall() == [("b", 15)]


def test_a_view_follows_a_table_that_is_compacted(db: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SEGMENT_ROWS:
        monkeypatch.setattr(f"eventdb.storage.{name}", 16)
    db.sql("CREATE MATERIALIZED VIEW names AS SELECT name, count(*) AS n FROM items GROUP BY name")
    db.sql("INSERT INTO items SELECT g, 'x' FROM generate_series(0, 999) AS s(g)")
    feed = db.subscribe("names")
    assert [change.row for change in feed.poll(0)] == [("x", 1000)]
    db.sql("DELETE FROM items WHERE id < 500")
    db.sql("UPDATE items SET name = 'y' WHERE id >= 900")
    assert db.compact()["versions_removed"] > 0
    assert sorted(db.sql("SELECT * FROM names").fetchall()) == [("x", 400), ("y", 100)]
    assert sorted((c.op, c.row) for c in feed.poll(0)) == [("+I", ("y", 100)), ("+U", ("x", 400)), ("-U", ("x", 1000))]


def test_a_view_with_a_column_that_is_null_throughout_is_stored(db: Any) -> None:
    db.sql("CREATE MATERIALIZED VIEW all_items AS SELECT id, name FROM items")
    db.sql("INSERT INTO items SELECT g, NULL FROM generate_series(1, 10) AS s(g)")
    settled(db)
    assert sorted(db.sql("SELECT * FROM all_items").fetchall()) == [(i, None) for i in range(1, 11)]


def test_sums_of_floats_follow_rows_that_go(db: Any) -> None:
    query = "SELECT k, sum(d) AS s, stddev(d) AS dev FROM sizes GROUP BY k"
    db.sql("CREATE TABLE sizes (id BIGINT PRIMARY KEY, k BIGINT, d DOUBLE)")
    db.sql(f"CREATE MATERIALIZED VIEW sums AS {query}")
    feed, total = db.subscribe("sums"), Counter[Any]()

    def same() -> None:
        found = sorted(db.sql("SELECT * FROM sums").fetchall())
        assert [pytest.approx(row) for row in found] == sorted(db.sql(query).fetchall())
        for change in feed.poll(0):
            total[change.row] += 1 if change.op in ("+I", "+U") else -1
        assert +total == Counter(found)

    db.sql("INSERT INTO sizes SELECT g, g % 2, g * 0.1 FROM generate_series(0, 39) AS s(g)")
    same()
    for i in range(0, 40, 3):
        db.sql(f"DELETE FROM sizes WHERE id = {i}")
        same()


@pytest.mark.parametrize("column", ["sum(d) OVER (PARTITION BY k)", "row_number() OVER (PARTITION BY k ORDER BY name)"])
def test_results_that_depend_on_the_order_of_rows_go_on_from_the_stored_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    monkeypatch.setattr("eventdb.stream.circuit.stored.LEAST_BYTES", 0)
    with eventdb.open(tmp_path / "db") as db:
        db.sql("CREATE TABLE sizes (id BIGINT PRIMARY KEY, k BIGINT, name VARCHAR, d DOUBLE)")
        db.sql(f"CREATE MATERIALIZED VIEW w AS SELECT k, id, {column} AS x FROM sizes")
        db.sql("INSERT INTO sizes SELECT g, g % 2, CAST(g % 5 AS VARCHAR), g * 0.1 FROM generate_series(0, 39) AS s(g)")
        settled(db)
        db.sql("DELETE FROM sizes WHERE id % 3 = 0")
        db.sql(
            "INSERT INTO sizes SELECT g, g % 2, CAST(g % 4 AS VARCHAR), g * 0.1 FROM generate_series(40, 60) AS s(g)"
        )
        settled(db)
    with eventdb.open(tmp_path / "db") as db:
        for i in range(1, 61, 3):
            db.sql(f"DELETE FROM sizes WHERE id = {i}")
            found = db.sql("SELECT k, id FROM w").fetchall()
            assert sorted(found) == sorted(db.sql("SELECT k, id FROM sizes").fetchall())
        found = sorted(db.sql("SELECT k, x FROM w").fetchall())
        expected = sorted(db.sql(f"SELECT k, {column} AS x FROM sizes").fetchall())
        assert [pytest.approx(row) for row in found] == expected


def test_rows_of_a_table_that_are_alike_but_for_their_keys_are_kept_apart(db: Any) -> None:
    db.sql("CREATE MATERIALIZED VIEW names AS SELECT name, count(*) AS n FROM items GROUP BY name")
    feed = db.subscribe("names")
    db.sql("INSERT INTO items VALUES (1, 'a'), (2, 'a'), (3, 'a')")
    feed.poll(0)
    db.sql("UPDATE items SET name = 'b' WHERE id = 2")
    feed.poll(0)
    db.sql("DELETE FROM items WHERE id = 1")
    feed.poll(0)
    assert sorted(db.sql("SELECT * FROM names").fetchall()) == [("a", 1), ("b", 1)]


def test_a_subscription_to_a_table_tells_what_took_whose_place(db: Any) -> None:
    feed = db.subscribe("items")
    db.sql("INSERT INTO items VALUES (1, 'a'), (2, 'b')")
    assert sorted((c.op, c.row) for c in feed.poll(0)) == [("+I", (1, "a")), ("+I", (2, "b"))]
    db.sql("UPDATE items SET name = 'c' WHERE id = 1")
    db.sql("DELETE FROM items WHERE id = 2")
    assert [(c.op, c.row) for c in feed.poll(0)] == [("-U", (1, "a")), ("+U", (1, "c")), ("-D", (2, "b"))]


def test_a_view_that_revises_its_rows_reads_all_partitions(db: Any) -> None:
    db.sql("CREATE TOPIC p (k BIGINT, x BIGINT, KEY (k)) WITH (partitions = 3)")
    db.sql("CREATE MATERIALIZED VIEW sums AS SELECT k, sum(x) AS s FROM p GROUP BY k")
    db.topic("p").append_many([{"k": i % 7, "x": i} for i in range(100)])
    assert sorted(db.sql("SELECT * FROM sums").fetchall()) == [(k, sum(range(k, 100, 7))) for k in range(7)]


def test_a_value_that_breaks_an_expression_stops_the_view_that_has_it_alone(db: Any) -> None:
    query = "SELECT i.name, 10 // b.price AS r FROM bids b JOIN items i ON auction = id"
    db.sql(f"CREATE MATERIALIZED VIEW ratios AS {query}")
    db.sql("CREATE MATERIALIZED VIEW totals AS " + JOINED)
    db.sql("INSERT INTO items VALUES (1, 'a')")
    db.sql("INSERT INTO bids VALUES (1, 0)")
    with pytest.raises(ViewFailed, match=r"view 'ratios' cannot take in .* division by zero"):
        db.sql("SELECT * FROM ratios").fetchall()
    assert db.sql("SELECT * FROM totals").fetchall() == [("a", 0)]


@pytest.mark.parametrize("morsel_rows", [1 << 16, 2])
def test_states_that_the_snapshot_does_not_have_break_no_expression(
    db: Any, monkeypatch: pytest.MonkeyPatch, morsel_rows: int
) -> None:
    monkeypatch.setattr("eventdb.stream.circuit.query.MORSEL_ROWS", morsel_rows)
    monkeypatch.setattr("eventdb.stream.circuit.inputs.MORSEL_ROWS", morsel_rows)
    db.sql("INSERT INTO items SELECT g, 'x' FROM generate_series(1, 9) AS s(g)")
    db.sql("INSERT INTO bids VALUES (1, 7)")
    queries = {
        "parts": "SELECT 100 // count(*) AS part FROM items",
        "others": "SELECT 100 // (count(*) - 1) AS part FROM items",
        "pairs": "SELECT 100 // count(*) AS part FROM items JOIN bids ON id = auction",
    }
    for name, query in queries.items():
        db.sql(f"CREATE MATERIALIZED VIEW {name} AS {query}")
    feeds = {name: db.subscribe(name) for name in queries}
    totals: dict[str, Counter[Any]] = {name: Counter() for name in queries}
    for change in (
        "DELETE FROM items WHERE id > 3",
        "UPDATE items SET name = 'y'",
        "INSERT INTO items VALUES (4, 'z')",
    ):
        db.sql(change)
        for name, query in queries.items():
            expected = db.sql(query).fetchall()
            assert db.sql(f"SELECT * FROM {name}").fetchall() == expected
            for c in feeds[name].poll(0):
                totals[name][c.row] += 1 if c.op in ("+I", "+U") else -1
            assert +totals[name] == Counter(expected)
    settled(db)
    assert all(view["error"] is None for view in db.stats()["views"].values())


def test_a_subscription_that_is_interrupted_while_it_takes_rows_in_is_closed(
    db: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    feed = db.subscribe("SELECT name, count(*) AS n FROM items GROUP BY name")
    db.sql("INSERT INTO items VALUES (1, 'a')")
    assert len(feed.poll(0)) == 1
    db.sql("INSERT INTO items VALUES (2, 'a')")
    with monkeypatch.context() as patch:
        patch.setattr("eventdb.stream.circuit.grouped.Grouped._forget", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            feed.poll(0)
    with pytest.raises(ClosedError):
        feed.poll(0)


def _interrupt(*args: object) -> None:
    raise KeyboardInterrupt


def test_stored_state_that_is_ahead_of_its_topic_is_written_anew(db: Any) -> None:
    """Its pieces must not be added to: what they hold is of rows that are not there."""
    db.sql(f"CREATE MATERIALIZED VIEW totals AS {JOINED}")
    db._views_of().stop()
    db.sql("INSERT INTO items VALUES (1, 'a')")
    db.sql("INSERT INTO bids VALUES (1, 10), (1, 20)")
    info = next(info for info in db._catalog.views() if info.name == "totals")
    spec = db._views_of().spec(info)

    def maintain() -> None:
        task = CircuitTask(spec)
        with db._store.snapshot() as snapshot:
            task.advance(snapshot, {})
        with db._store.write(journaled=False) as transaction:
            assert task.save(transaction)
        task.saved(True)

    maintain()
    with db._store.snapshot() as snapshot:
        kept = spec.keys.progress(snapshot)
    ahead = tuple(tuple(position + 5 for position in positions) for positions in kept.positions)
    with db._store.write(journaled=False) as transaction:
        spec.keys.save(transaction, kept, [], ahead, anew=False)
    db.sql("INSERT INTO bids VALUES (1, 5)")
    maintain()
    with db._store.snapshot() as snapshot:
        stored = CircuitQuery.load(spec, snapshot)
        assert stored.has_begun
        assert not stored.is_behind(snapshot)
        assert [row for batch in stored.content(snapshot) for row in batch.to_pylist()] == [("a", 35)]
