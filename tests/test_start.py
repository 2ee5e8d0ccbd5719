"""Reading and subscribing begin where the same words say."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.errors import OffsetOutOfRange, UsageError

NOON = dt.datetime(2026, 1, 1, 12)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[eventdb.Database]:
    with eventdb.open(tmp_path / "db") as opened:
        topic = opened.create_topic("t", {"n": "BIGINT", "ts": "TIMESTAMP"}, event_time="ts")
        topic.append_many([{"n": n, "ts": NOON + dt.timedelta(minutes=n)} for n in range(10)])
        yield opened


STARTS = ["earliest", "latest", 0, 4, 10, -3, NOON, NOON + dt.timedelta(minutes=7), NOON + dt.timedelta(days=1)]


@pytest.mark.parametrize("start", STARTS, ids=str)
def test_a_read_and_a_subscription_begin_at_the_same_row(db: eventdb.Database, start: Any) -> None:
    topic = db.topic("t")
    read = [event["n"] for event in topic.read(start)]
    for query in ("t", "SELECT n, ts FROM t WHERE n >= 0 EMIT CHANGES"):
        with db.subscribe(query, start=start) as changes:
            found = [change.row[0] for change in changes.poll(0)]
            assert found == read
            topic.append({"n": len(topic), "ts": NOON})
            assert [(change.row[0], change.offset) for change in changes.poll(5)] == [(len(topic) - 1,) * 2]
        topic = db.topic("t")
        read = [event["n"] for event in topic.read(start)]


@pytest.mark.parametrize("start", STARTS, ids=str)
def test_the_changes_of_an_aggregate_begin_there_too_and_add_up(db: eventdb.Database, start: Any) -> None:
    before = 10 - len(list(db.topic("t").read(start)))
    with db.subscribe("SELECT count(*) AS n FROM t EMIT CHANGES", start=start) as changes:
        total = before
        for change in changes.poll(0):
            total += change.row[0] * (1 if change.op.startswith("+") else -1)
        assert total == 10
        db.topic("t").append({"n": 10, "ts": NOON})
        assert [(change.op, change.row) for change in changes.poll(5)] == [("-U", (10,)), ("+U", (11,))]


def test_now_is_latest_and_other_words_are_refused_by_both(db: eventdb.Database) -> None:
    with db.subscribe("t", start="now") as changes:
        assert changes.poll(0) == []
    for wrong in ("beginning", "yesterday", 1.5, True):
        with pytest.raises(UsageError, match="'earliest', 'latest', an offset or a datetime"):
            db.subscribe("t", start=wrong)  # type: ignore[arg-type]
        with pytest.raises(UsageError, match="'earliest', 'latest', an offset or a datetime"):
            db.topic("t").read(wrong)  # type: ignore[arg-type]


def test_a_subscription_from_an_offset_that_is_gone_says_what_there_is(db: eventdb.Database) -> None:
    db.topic("t").delete_before(5)
    for start in (3, 11):
        with db.subscribe("t", start=start) as changes, pytest.raises(OffsetOutOfRange, match=r"5 to 10 \(exclusive\)"):
            changes.poll(0)
