"""What a topic gives back is what was appended, whatever part of it is read and however it is chunked."""

from __future__ import annotations

import datetime as dt
import pickle
import random
import subprocess
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.errors import CorruptionError
from eventdb.event import Event, EventKind
from eventdb.row import RowCodec
from eventdb.schema import Schema

COLUMNS = {
    "k": "VARCHAR", "n": "BIGINT NOT NULL", "x": "DOUBLE", "yes": "BOOLEAN", "price": "DECIMAL(9,2)", "day": "DATE",
    "at": "TIMESTAMP", "data": "BLOB",
}  # fmt: skip
START = dt.datetime(2026, 3, 1)
ROWS = 400


def made(n: int) -> dict[str, Any]:
    """An event with NULLs here and there; times that mostly grow."""
    draw = random.Random(n)
    row = {
        "k": draw.choice(["a", "b", "\u00e4", ""]), "n": n, "x": n / 7, "yes": n % 3 == 0,
        "price": Decimal(n) / 4, "day": dt.date(1960, 1, 1) + dt.timedelta(days=97 * n),
        "at": START + dt.timedelta(microseconds=1_000_003 * n + draw.randrange(5_000_000)),
        "data": bytes([n % 256]) * (n % 4),
    }  # fmt: skip
    return {name: None if name != "n" and draw.random() < 0.1 else value for name, value in row.items()}


def filled(db: eventdb.Database, sealed: bool) -> eventdb.Topic:
    topic = db.create_topic("t", COLUMNS, key="k", event_time="at")
    for first in range(0, ROWS, 50):
        rows = [made(n) for n in range(first, first + 50)]
        headers = [{"h": str(n).encode()} if n % 9 == 0 else None for n in range(first, first + 50)]
        topic.append_many(rows, headers=headers)
        if sealed and first == 200:
            db.compact(full=True)
    return topic


@pytest.mark.parametrize("sealed", [False, True])
def test_any_stretch_comes_back_as_it_was_appended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sealed: bool
) -> None:
    monkeypatch.setattr("eventdb.topic.FIRST_CHUNK_ROWS", 3)
    monkeypatch.setattr("eventdb.topic.READ_CHUNK_ROWS", 17)
    draw = random.Random(11)
    expected = [made(n) for n in range(ROWS)]
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        topic = filled(db, sealed)
        for event, row in zip(topic.read(), expected, strict=True):
            assert event.row == row
            assert [event[name] for name in COLUMNS] == list(row.values())
            assert (event.offset, event.key, event.time) == (row["n"], row["k"], row["at"])
            assert event.headers == ((("h", str(row["n"]).encode()),) if row["n"] % 9 == 0 else ())
            assert event["N"] == row["n"]
        for _ in range(60):
            start, limit = draw.randrange(ROWS), draw.choice([None, 0, 1, 5, 40])
            until = draw.choice(
                [None, draw.randrange(ROWS + 1), START + dt.timedelta(seconds=draw.randrange(-5, ROWS))]
            )
            wanted = expected[start : max(start, until) if isinstance(until, int) else None]
            if isinstance(until, dt.datetime):
                late = [i for i, row in enumerate(wanted) if row["at"] is not None and row["at"] >= until]
                wanted = wanted[: late[0]] if late else wanted
            wanted = wanted if limit is None else wanted[:limit]
            stop = max(start, until) if isinstance(until, int) else until
            assert [event.row for event in topic.read(start, stop=stop, limit=limit)] == wanted
            followed = topic.read(start, stop=stop, limit=limit, follow=True, timeout=0)
            assert [event.row for event in followed] == wanted


def test_events_are_equal_when_their_places_and_values_are(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        topic = filled(db, False)
        first, second = list(topic.read(limit=20)), list(topic.read(limit=20))
        assert first == second
        assert first[0] != first[1]
        assert "n=0" in repr(first[0])
        with pytest.raises(KeyError, match="no column 'm'"):
            first[0]["m"]


def test_reading_raw_segments_loads_no_numpy(tmp_path: Path) -> None:
    script = (
        "import sys, datetime as dt, eventdb\n"
        "with eventdb.open(sys.argv[1], durability='os') as db:\n"
        "    topic = db.create_topic('t', {'k': 'VARCHAR', 'at': 'TIMESTAMP'}, key='k', event_time='at')\n"
        "    for n in range(3000):\n"
        "        topic.append({'k': str(n % 5), 'at': n})\n"
        "    assert len([event.row for event in topic.read()]) == 3000\n"
        "    since = dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=2500)\n"
        "    assert [event.offset for event in topic.read(since, limit=2)] == [2500, 2501]\n"
        "    loaded = {'numpy', 'pyarrow', 'numba', 'sqlglot'} & set(sys.modules)\n"
        "    assert not loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.eventdb")], check=True)


def test_an_event_travels_to_another_process(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "db", durability="os") as db:
        topic = db.create_topic("t", {"at": "TIMESTAMP", "m": "DECIMAL(9,2)", "s": "VARCHAR"})
        topic.append({"at": 5, "m": Decimal("1.25"), "s": "x"})
        topic.append({"at": 6, "m": None, "s": "y"}, headers={"h": b"1"})
        events = list(topic.read())
    copies = pickle.loads(pickle.dumps(events))
    assert [(e.row, e.offset, e.append_time, e.headers) for e in copies] == [
        (e.row, e.offset, e.append_time, e.headers) for e in events
    ]


def test_a_stored_value_that_is_no_date_is_damage_and_said_so() -> None:
    """A flipped bit made a timestamp of the year 200,000: reading it ended in an OverflowError."""
    schema = Schema.from_mapping({"n": "BIGINT", "ts": "TIMESTAMP"})
    event = Event(EventKind(schema, 0, None, None, RowCodec(schema).decode), (7, 1 << 62), 41, 0)
    assert event["n"] == 7
    with pytest.raises(CorruptionError, match=r"offset 41 .* damaged"):
        event["ts"]
    with pytest.raises(CorruptionError, match=r"offset 41 .* damaged"):
        _ = event.row
