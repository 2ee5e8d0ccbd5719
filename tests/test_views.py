"""Views through the facade: a view that cannot be bound, that folds to nothing, that outlives its process."""

from __future__ import annotations

from pathlib import Path

import pytest

import eventdb


def test_a_view_that_no_longer_binds_stops_alone(db: eventdb.Database, topic: eventdb.Topic) -> None:
    db.sql("CREATE MATERIALIZED VIEW good AS SELECT device, count(*) AS n FROM readings GROUP BY device")
    db._catalog.create_view(
        "bad", "CREATE MATERIALIZED VIEW bad AS SELECT gone FROM readings", topic.schema, stores_rows=False
    )
    position = topic.append({"device": "d1"})
    db.wait("good", position, timeout=30)
    assert db.sql("SELECT * FROM good").fetchall() == [("d1", 1)]
    with pytest.raises(eventdb.EventDBError, match="gone"):
        db.sql("SELECT * FROM bad")


def test_a_view_whose_filter_is_false_is_empty_and_follows_its_topic(
    db: eventdb.Database, topic: eventdb.Topic
) -> None:
    db.sql("CREATE MATERIALIZED VIEW nothing AS SELECT device, count(*) AS n FROM readings WHERE false GROUP BY device")
    db.wait("nothing", topic.append({"device": "d1"}), timeout=30)
    assert db.sql("SELECT * FROM nothing").fetchall() == []


def test_a_view_includes_what_was_appended_while_nobody_ran_it(path: Path) -> None:
    with eventdb.open(path) as db:
        topic = db.create_topic("t", {"k": "VARCHAR", "x": "BIGINT"})
        db.sql("CREATE MATERIALIZED VIEW v AS SELECT k, sum(x) AS total FROM t GROUP BY k")
        topic.append({"k": "a", "x": 1})
    with eventdb.open(path) as db:
        db.topic("t").append({"k": "a", "x": 2})
        assert db.sql("SELECT * FROM v").fetchall() == [("a", 3)]
    with eventdb.open(path, read_only=True) as db:
        assert db.sql("SELECT * FROM v").fetchall() == [("a", 3)]


def test_a_topic_that_feeds_a_view_is_kept(db: eventdb.Database, topic: eventdb.Topic) -> None:
    db.sql("CREATE MATERIALIZED VIEW v AS SELECT device FROM readings")
    with pytest.raises(eventdb.UsageError, match="'v'"):
        db.sql("DROP TOPIC readings")
    db.sql("DROP VIEW v")
    db.sql("DROP TOPIC readings")
    assert db.topics() == []


def test_start_from_now_leaves_history_out(db: eventdb.Database, topic: eventdb.Topic) -> None:
    topic.append({"device": "old"})
    db.sql("CREATE MATERIALIZED VIEW v START FROM NOW AS SELECT device, count(*) AS n FROM readings GROUP BY device")
    topic.append({"device": "new"})
    assert db.sql("SELECT * FROM v").fetchall() == [("new", 1)]
