"""IF NOT EXISTS from Python: what exists is what was asked for, or the first difference is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.errors import SchemaMismatch

COLUMNS = {"k": "VARCHAR NOT NULL", "n": "BIGINT", "ts": "TIMESTAMP"}


@pytest.fixture
def db(tmp_path: Path) -> Iterator[eventdb.Database]:
    with eventdb.open(tmp_path / "db") as opened:
        opened.create_topic("t", COLUMNS, key="k", event_time="ts")
        opened.create_table("people", {"id": "BIGINT", "name": "VARCHAR"}, primary_key="id")
        yield opened


def test_the_same_topic_and_table_are_handed_out_again(db: eventdb.Database) -> None:
    assert db.create_topic("T", COLUMNS, key="K", event_time="TS", if_not_exists=True, retention="7 days").name == "t"
    assert db.create_topic("t", COLUMNS, if_not_exists=True).name == "t"  # nothing said about the key
    assert db.create_topic("t", like={"whatever": 1}, if_not_exists=True).name == "t"
    again = db.create_table("people", {"id": "BIGINT", "name": "VARCHAR"}, primary_key="id", if_not_exists=True)
    assert again is db.table("people")


@pytest.mark.parametrize(
    ("columns", "options", "named"),
    [
        ({**COLUMNS, "n": "DOUBLE"}, {}, "column 2 is n BIGINT in it, n DOUBLE"),
        ({"k": "VARCHAR", "n": "BIGINT", "ts": "TIMESTAMP"}, {}, "column 1 is k VARCHAR NOT NULL in it, k VARCHAR in"),
        ({**COLUMNS, "more": "BLOB"}, {}, "column 4 is not there in it, more BLOB"),
        ({"k": "VARCHAR NOT NULL", "n": "BIGINT"}, {"event_time": None}, "column 3 is ts TIMESTAMP in it, not there"),
        ({"k": "VARCHAR NOT NULL", "ts": "TIMESTAMP", "n": "BIGINT"}, {}, "column 2"),
        (COLUMNS, {"key": "n"}, "the key is k in it, n in"),
        (COLUMNS, {"event_time": None, "key": "ts"}, "the key is k in it, ts in"),
    ],
)
def test_another_topic_of_the_name_is_a_mismatch_that_names_the_first_difference(
    db: eventdb.Database, columns: dict[str, str], options: dict[str, Any], named: str
) -> None:
    with pytest.raises(SchemaMismatch, match=f"topic 't' exists with another schema: {named}"):
        db.create_topic("t", columns, if_not_exists=True, **{"key": "k", "event_time": "ts", **options})
    assert list(db.topic("t").schema.names) == list(COLUMNS)


def test_a_topic_without_event_time_is_not_one_with(db: eventdb.Database) -> None:
    db.create_topic("plain", COLUMNS)
    assert db.create_topic("plain", COLUMNS, if_not_exists=True).name == "plain"
    with pytest.raises(SchemaMismatch, match="event_time is not there in it, ts in"):
        db.create_topic("plain", COLUMNS, event_time="ts", if_not_exists=True)


@pytest.mark.parametrize(
    ("columns", "key", "named"),
    [
        ({"id": "BIGINT", "name": "BLOB"}, "id", "column 2 is name VARCHAR in it, name BLOB"),
        ({"id": "BIGINT NOT NULL", "name": "VARCHAR NOT NULL"}, "name", "column 2"),
        ({"id": "BIGINT", "name": "VARCHAR NOT NULL"}, ["id", "name"], "column 2"),
    ],
)
def test_another_table_of_the_name_is_a_mismatch_too(
    db: eventdb.Database, columns: dict[str, str], key: Any, named: str
) -> None:
    with pytest.raises(SchemaMismatch, match=f"table 'people' exists with another schema: {named}"):
        db.create_table("people", columns, primary_key=key, if_not_exists=True)


def test_in_sql_if_not_exists_stays_silent_as_in_every_sql_database(db: eventdb.Database) -> None:
    db.sql("CREATE TOPIC IF NOT EXISTS t (other BLOB)")
    db.sql("CREATE TABLE IF NOT EXISTS people (other BLOB PRIMARY KEY)")
    assert list(db.topic("t").schema.names) == list(COLUMNS)
