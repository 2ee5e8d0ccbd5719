"""What views read: topics, tables and other views, some of which are trimmed, replaced or dropped."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.errors import EventDBError, UnsupportedError, UsageError
from eventdb.stream.circuit.stored import fingerprint
from tests.stream.circuit.histories import settled


@pytest.fixture
def db(tmp_path: Path) -> Iterator[eventdb.Database]:
    with eventdb.open(tmp_path / "db") as db:
        db.sql("CREATE TOPIC bids (auction BIGINT, price BIGINT)")
        db.sql("CREATE TABLE items (id BIGINT PRIMARY KEY, name VARCHAR)")
        db.sql("CREATE TABLE other (id BIGINT PRIMARY KEY)")
        yield db


def test_a_reader_that_missed_rows_that_are_gone_goes_on_from_the_stored_state(db: eventdb.Database) -> None:
    db.sql("CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM bids LEFT JOIN items ON auction = id")
    db.sql("INSERT INTO bids VALUES (1, 1)")
    assert db.sql("SELECT n FROM n").fetchall() == [(1,)]
    db.sql("INSERT INTO bids VALUES (1, 2), (2, 3)")
    settled(db)
    db.topic("bids").delete_before(2)
    assert db.sql("SELECT n FROM n").fetchall() == [(3,)]
    db.sql("INSERT INTO bids VALUES (1, 4)")
    assert db.sql("SELECT n FROM n").fetchall() == [(4,)]


@pytest.mark.parametrize("kind", ["VIEW", "MATERIALIZED VIEW"])
def test_a_view_that_a_materialized_view_reads_is_dropped_with_it_alone(db: eventdb.Database, kind: str) -> None:
    db.sql(f"CREATE {kind} below AS SELECT id FROM items")
    db.sql("CREATE MATERIALIZED VIEW middle AS SELECT count(*) AS n FROM below")
    db.sql("CREATE MATERIALIZED VIEW top AS SELECT max(n) AS n FROM middle")
    db.sql("CREATE VIEW above AS SELECT n + 1 AS n FROM top")
    with pytest.raises(UsageError, match="view 'below' feeds the view 'middle' and 2 more"):
        db.sql("DROP VIEW below")
    db.sql("INSERT INTO items VALUES (1, 'a')")
    assert db.sql("SELECT n FROM above").fetchall() == [(2,)]
    db.sql("DROP VIEW below CASCADE")
    assert db.sql("SHOW VIEWS").fetchall() == []
    db.sql("DROP TABLE items")


def test_a_table_that_a_materialized_view_reads_is_not_replaced(db: eventdb.Database) -> None:
    db.sql("CREATE VIEW names AS SELECT name FROM items")
    db.sql("CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM names")
    for text in (
        "TABLE items AS SELECT 1 AS id",
        "TABLE items (id BIGINT)",
        "VIEW names AS SELECT 'a' AS name FROM other",
    ):
        with pytest.raises(UsageError, match="feeds the view 'n'"):
            db.sql(f"CREATE OR REPLACE {text}")
    db.sql("INSERT INTO items VALUES (1, 'a')")
    assert db.sql("SELECT n FROM n").fetchall() == [(1,)]
    db.sql("DROP VIEW n")
    db.sql("CREATE OR REPLACE TABLE items AS SELECT 1 AS id")


def test_the_stored_state_is_not_that_of_another_table_of_the_same_name(db: eventdb.Database) -> None:
    query = "SELECT id FROM items"
    first = db._views_of().circuit(_plan(db, query)).plan
    db.sql("CREATE OR REPLACE TABLE items (id BIGINT PRIMARY KEY, name VARCHAR)")
    assert fingerprint(db._views_of().circuit(_plan(db, query)).plan) != fingerprint(first)


def test_a_view_that_cannot_be_bound_holds_up_no_other(db: eventdb.Database, tmp_path: Path) -> None:
    db.sql("CREATE MATERIALIZED VIEW below AS SELECT id FROM items")
    db.sql("CREATE MATERIALIZED VIEW above AS SELECT count(*) AS n FROM below")
    db._catalog.drop_view("below")  # as another process may, which does not see that view yet
    db.close()
    with eventdb.open(tmp_path / "db") as again:
        again.sql("DROP TABLE other")
        with pytest.raises(EventDBError, match="below"):
            again.sql("SELECT n FROM above")
        again.sql("DROP VIEW above")
        again.sql("DROP TABLE items")


def test_a_view_is_not_read_beside_uncommitted_changes_of_its_tables(db: eventdb.Database) -> None:
    db.sql("CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM items")
    for text in ("BEGIN", "INSERT INTO other VALUES (1)"):
        db.sql(text)
    assert db.sql("SELECT n FROM n").fetchall() == [(0,)]
    db.sql("INSERT INTO items VALUES (1, 'a')")
    with pytest.raises(UnsupportedError, match="view 'n' does not show what this transaction has changed in 'items'"):
        db.sql("SELECT n FROM n")
    db.sql("ROLLBACK")
    assert db.sql("SELECT n FROM n").fetchall() == [(0,)]


def test_strings_that_no_row_has_any_more_are_not_kept(db: eventdb.Database) -> None:
    db.sql("CREATE MATERIALIZED VIEW names STATE LIMIT '60KB' AS SELECT name, count(*) AS n FROM items GROUP BY name")
    feed = db.subscribe("names")
    present: Counter[Any] = Counter()
    for i in range(60):
        db.sql(f"INSERT OR REPLACE INTO items SELECT g, 'name {i} ' || g % 20 FROM generate_series(1, 40) AS s(g)")
        expected = [(f"name {i} {k}", 2) for k in range(20)]
        assert sorted(db.sql("SELECT * FROM names").fetchall()) == sorted(expected)
        for change in feed.poll(0):
            present[change.row] += 1 if change.op in ("+I", "+U") else -1
        assert +present == Counter(expected)
        if i % 10 == 0:
            settled(db)
    settled(db)
    assert db.stats()["views"]["names"]["error"] is None


@pytest.mark.parametrize(
    "text", ["DROP VIEW n", "DROP TABLE items CASCADE", "DROP TABLE other", "CREATE OR REPLACE TABLE other (x BIGINT)"]
)
def test_a_definition_that_goes_waits_for_a_writer_that_looks_at_the_catalog(db: eventdb.Database, text: str) -> None:
    db.sql("CREATE MATERIALIZED VIEW n AS SELECT count(*) AS n FROM items")
    generation = db._catalog.generation()
    failures: list[BaseException] = []

    def drop() -> None:
        try:
            db.sql(text)
        except BaseException as error:
            failures.append(error)

    thread = threading.Thread(target=drop)
    with db._store.write():
        thread.start()
        while db._catalog.generation() == generation:
            time.sleep(0.001)
        time.sleep(0.05)  # it waits for the writer by now
        db._generation = -1  # as if another process had changed the catalog
        db._refresh_catalog()
    thread.join()
    assert not failures


def _plan(db: eventdb.Database, query: str):
    from eventdb.session import Names
    from eventdb.sql.binder import bind

    return bind(query, Names(db)).plan
