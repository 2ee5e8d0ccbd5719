"""The demo: its data, and the whole of it with the replay sped up."""

from __future__ import annotations

import datetime as dt
import io
from collections import Counter
from pathlib import Path

import pytest

import eventdb
from eventdb_shell import demo
from eventdb_shell.cli import main
from eventdb_shell.demo import Demo, DemoFailed, same_rows
from eventdb_shell.demo_data import REPLAY_FROM, STATIONS, history_rows, read_observations
from eventdb_shell.demo_process import percentile
from eventdb_shell.streams import Streams


def test_the_observations_are_a_year_of_three_stations_each_hour_once() -> None:
    observations = read_observations()
    assert len(observations) == 26_115
    assert {row["station"] for row in observations} == set(STATIONS)
    assert len({(row["station"], row["time"]) for row in observations}) == len(observations)
    assert [row["time"] for row in observations] == sorted(row["time"] for row in observations)
    assert Counter(row["temp"] is None for row in observations)[True] == 1
    first = observations[0]
    assert (first["station"], first["time"], first["temp"], first["wind_gust"]) == (
        "EWR",
        dt.datetime(2013, 1, 1, 6),
        39.02,
        None,
    )
    assert isinstance(first["wind_dir"], int)
    assert observations[history_rows(observations)]["time"] >= REPLAY_FROM


def test_the_demo_succeeds_and_keeps_its_database_when_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "EVENTS_PER_SECOND", 2_000.0)
    out, err = io.StringIO(), io.StringIO()
    path = tmp_path / "weather.eventdb"
    status = main(["demo", "--no-tty", "--path", str(path)], io.StringIO(), out, err)
    assert (status, err.getvalue()) == (0, "")
    text = out.getvalue()
    assert "SIGKILL" in text
    assert "the log holds the whole year: 26,115 events, none twice" in text
    assert "\x1b" not in text
    with eventdb.open(path) as db:
        assert len(db.topic("weather")) == 26_115
    again = main(["demo", "--path", str(path)], io.StringIO(), io.StringIO(), err)
    assert again == 1
    assert "exists" in err.getvalue()


def test_a_check_that_does_not_hold_fails_loudly(tmp_path: Path) -> None:
    """Planted faults: an event lost at the end of the log, and one doubled."""
    streams = Streams(io.StringIO(), io.StringIO(), io.StringIO())
    story = Demo(streams, str(tmp_path / "a.eventdb"), plain=True, events_per_second=1.0)
    with eventdb.open(story.path) as db:
        story._load(db)
        topic = db.topic(demo.TOPIC)
        with pytest.raises(DemoFailed, match="not true: all"):
            story._verify_log(db, story.history + 1)
        topic.append(story.observations[story.history - 1])
        with pytest.raises(DemoFailed, match="not true: all"):
            story._verify_log(db, story.history + 1)


def test_rows_are_compared_exactly_but_for_rounding() -> None:
    assert same_rows([("a", 0.1 + 0.2)], [("a", 0.3)])
    assert not same_rows([("a", 0.3)], [("a", 0.3001)])
    assert not same_rows([("a", 1)], [("a", 2)])
    assert not same_rows([("a",)], [])
    assert not same_rows([("a", None)], [("a", 0.0)])


def test_percentiles_are_of_the_ordered_values() -> None:
    assert percentile([], 0.5) == 0.0
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 3.0
    assert percentile([1.0, 2.0], 0.99) == 2.0
