"""A duration is written the same way wherever it is a setting."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

import eventdb
from eventdb.errors import UsageError
from eventdb.storage.store import parse_durability
from eventdb.values import parse_duration_us


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("'1 second'", "1.0"), ("'500ms'", "0.5"), ("1000", "1000.0"), ("0.25", "0.25"),
        ("INTERVAL '2 minutes'", "120.0"),
        ("DEFAULT", None), ("NULL", None),
    ],
)  # fmt: skip
def test_a_timeout_is_any_duration(tmp_path: Path, written: str, shown: str | None) -> None:
    with eventdb.open(tmp_path / "db") as db:
        db.sql(f"SET timeout = {written}")
        assert db.sql("SHOW timeout").fetchall() == [("timeout", shown)]
        assert db.sql("SELECT 1 AS one").fetchall() == [(1,)]


@pytest.mark.parametrize("written", ["'soon'", "0", "-1", "'0 seconds'", "true", "'5'"])
def test_a_timeout_that_is_none_is_refused_with_an_example(tmp_path: Path, written: str) -> None:
    with eventdb.open(tmp_path / "db") as db:
        with pytest.raises(UsageError, match="timeout"):
            db.sql(f"SET timeout = {written}")
        assert db.sql("SHOW timeout").fetchall() == [("timeout", None)]


def test_a_query_takes_its_timeout_as_a_duration_too(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "db") as db:
        for timeout in (5, 0.5, "5 seconds", dt.timedelta(seconds=5)):
            assert db.sql("SELECT 1 AS one", timeout=timeout).fetchall() == [(1,)]


@pytest.mark.parametrize(
    ("text", "ms"),
    [("interval:100ms", 100), ("interval:1s", 1_000), ("interval:1 second", 1_000), ("interval:250", 250),
     ("interval:0.5s", 500), ("interval:1h", 3_600_000)],
)  # fmt: skip
def test_a_flush_interval_is_any_duration(text: str, ms: int) -> None:
    assert parse_durability(text) == ("interval", ms)


@pytest.mark.parametrize(
    "text", ["interval:0ms", "interval:2h", "interval:1us", "interval:s", "interval:1 parsec", "interval:0.5ms"]
)
def test_a_flush_interval_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="durability"):
        parse_durability(text)


def test_a_number_is_seconds_in_every_setting(tmp_path: Path) -> None:
    assert parse_duration_us(1.5, "x") == parse_duration_us("1500ms", "x") == 1_500_000
    with eventdb.open(tmp_path / "db", durability="interval:1s") as db:
        db.create_topic(
            "t", {"ts": "TIMESTAMP"}, event_time="ts", watermark=5, idle_after=60, retention=3_600, seal_after=600
        )
        db.sql("ALTER TOPIC t SET (retention = '2 hours')")
        assert "retention = '2 hours'" in str(db.sql("DESCRIBE t").fetchall())
    for wrong in (True, float("nan"), float("inf"), -1, "1000", None):
        with pytest.raises(UsageError, match="x"):
            parse_duration_us(wrong, "x")
