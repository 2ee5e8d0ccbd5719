"""Inside the block of a transaction the thread writes through it, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.errors import UsageError


@pytest.fixture
def db(tmp_path: Path) -> Iterator[eventdb.Database]:
    with eventdb.open(tmp_path / "db", durability="os") as opened:
        opened.create_topic("t", {"n": "BIGINT"})
        opened.create_topic("p", {"n": "BIGINT"}, partitions=3)
        opened.create_table("people", {"id": "BIGINT", "name": "VARCHAR"}, primary_key="id")
        yield opened


WRITES: dict[str, Any] = {
    "append": lambda db: db.topic("t").append({"n": 1}),
    "append to a partition": lambda db: db.topic("p").append({"n": 1}, partition=2),
    "append_many": lambda db: db.topic("t").append_many([{"n": 1}]),
    "append_batch": lambda db: db.topic("p").append_batch({"n": [1, 2]}),
    "put": lambda db: db.table("people").put({"id": 1}),
    "insert": lambda db: db.table("people").insert({"id": 1}),
    "delete": lambda db: db.table("people").delete(1),
    "INSERT": lambda db: db.sql("INSERT INTO t VALUES (1)"),
    "UPDATE": lambda db: db.sql("UPDATE people SET name = 'x' WHERE id = 1"),
}


@pytest.mark.parametrize("write", WRITES)
def test_a_write_beside_an_open_transaction_is_refused_and_names_what_to_use(db: eventdb.Database, write: str) -> None:
    topic = db.topic("t")
    topic.append({"n": 0})  # the handle has just looked around: the short way is open
    with db.transaction() as tx:
        tx.append("t", {"n": 10})
        for _ in range(2):
            with pytest.raises(UsageError, match=r"not be part of the transaction.*use tx\."):
                WRITES[write](db)
        tx.append("t", {"n": 11})
        assert [event["n"] for event in topic.read()] == [0]  # reading is free
    assert [event["n"] for event in topic.read()] == [0, 10, 11]
    WRITES[write](db)


def test_a_handle_in_use_is_refused_too(db: eventdb.Database) -> None:
    topic = db.topic("t")
    for n in range(100):
        topic.append({"n": n})

    def half() -> None:
        with db.transaction() as tx:
            tx.append(topic, {"n": 100})
            topic.append({"n": 101})

    with pytest.raises(UsageError, match="topic 't'"):
        half()
    assert len(topic) == 100  # and the error has undone the transaction
    topic.append({"n": 100})


def test_after_commit_and_rollback_the_thread_writes_as_before(db: eventdb.Database) -> None:
    topic = db.topic("t")
    with db.transaction() as tx:
        tx.append(topic, {"n": 0})
        tx.commit()
        topic.append({"n": 1})
    with db.transaction() as tx:
        tx.append(topic, {"n": 9})
        tx.rollback()
        topic.append({"n": 2})
    tx = db.transaction()  # never entered: nothing says how long it lasts
    tx.append(topic, {"n": 4})
    topic.append({"n": 3})
    tx.commit()
    assert [event["n"] for event in topic.read()] == [0, 1, 2, 3, 4]


def test_other_threads_and_other_databases_are_free(db: eventdb.Database, tmp_path: Path) -> None:
    topic = db.topic("t")
    with eventdb.open(tmp_path / "other") as other, db.transaction() as tx:
        tx.append(topic, {"n": 1})
        thread = threading.Thread(target=topic.append, args=({"n": 0},))
        thread.start()
        thread.join()
        other.create_topic("t", {"n": "BIGINT"}).append({"n": 5})
        with db.transaction() as inner:
            inner.append(topic, {"n": 7})
        with pytest.raises(UsageError, match="transaction"):
            topic.append({"n": 8})
    assert [event["n"] for event in topic.read()] == [0, 7, 1]
