"""Reading from a time finds the first event at or after it, and looks only where it may be."""

from __future__ import annotations

import datetime as dt
import random
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import eventdb
from eventdb.storage.sealed import blocks
from eventdb.storage.segment.segment import Segment
from tests.storage.simulation import SMALL_LIMITS

SMALL = {**SMALL_LIMITS, "sealed.seal.SEALED_BLOCK_ROWS": 8}
EPOCH = dt.datetime(1970, 1, 1)


def at(time_us: int) -> dt.datetime:
    return EPOCH + dt.timedelta(microseconds=time_us)


def small(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SMALL.items():
        monkeypatch.setattr(f"eventdb.storage.{name}", value)
    monkeypatch.setattr("eventdb.storage.segment.segment.STRIDE_ROWS", 5)


def by_plain_scan(events: list[eventdb.Event], time_us: int, timed: bool) -> int | None:
    """The offset of the first event at or after the time, by a look at each."""
    for event in events:
        time = event["ts"] if timed else event.append_time
        if time is not None and time.replace(tzinfo=None) >= at(time_us):
            return event.offset
    return None


def first_offset(topic: eventdb.Topic, time_us: int) -> int | None:
    return next((event.offset for event in topic.read(at(time_us), limit=1)), None)


times = st.lists(st.none() | st.integers(-40, 40), min_size=1, max_size=30)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(times, min_size=1, max_size=6), seal_after=st.integers(-1, 6), cut=st.integers(0, 20))
def test_a_time_is_found_where_a_plain_scan_finds_it(
    batches: list[list[int | None]], seal_after: int, cut: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    small(monkeypatch)
    with tempfile.TemporaryDirectory() as path, eventdb.open(Path(path) / "a.eventdb", durability="os") as db:
        topic = db.create_topic("t", {"n": "BIGINT", "ts": "TIMESTAMP"}, event_time="ts")
        for i, batch in enumerate(batches):
            topic.append_many([{"n": n, "ts": time} for n, time in enumerate(batch)])
            if i == seal_after:
                db.compact(full=True)
        topic.delete_before(min(cut, topic.offsets()[1]))
        events = list(topic.read())
        for time in range(-42, 43, 3):
            assert first_offset(topic, time) == by_plain_scan(events, time, True)


@pytest.mark.parametrize("sealed", [False, True])
def test_an_append_time_is_found_in_a_topic_without_event_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sealed: bool
) -> None:
    small(monkeypatch)
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        topic = db.create_topic("t", {"n": "BIGINT"})
        for n in range(60):
            topic.append({"n": n})
        if sealed:
            db.compact(full=True)
        events = list(topic.read())
        stamps = sorted({(event.append_time.replace(tzinfo=None) - EPOCH) // dt.timedelta(microseconds=1)
                         for event in events})  # fmt: skip
        for time in [stamps[0] - 1, *stamps, stamps[-1] + 1]:
            assert first_offset(topic, time) == by_plain_scan(events, time, False)


@pytest.mark.parametrize("sealed", [False, True])
def test_segments_and_blocks_of_other_times_are_not_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sealed: bool
) -> None:
    small(monkeypatch)
    looked: list[int] = []
    decoded: list[int] = []
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        topic = db.create_topic("t", {"n": "BIGINT", "ts": "TIMESTAMP"}, event_time="ts")
        draw = random.Random(3)
        moments = [n * 10 + draw.randrange(-9, 10) for n in range(400)]
        topic.append_many([{"n": n, "ts": time} for n, time in enumerate(moments)])
        if sealed:
            db.compact(full=True)
        search, block = Segment.first_since, blocks.block

        def counted(self: Segment, *arguments: Any) -> int | None:
            looked.append(self.base)
            return search(self, *arguments)

        def counted_block(segment: Any, column: int, number: int) -> Any:
            decoded.append(number)
            return block(segment, column, number)

        for wanted in (0, 1_000, 2_555, 3_900, 9_999):
            expected = next((n for n, time in enumerate(moments) if time >= wanted), topic.offsets()[1])
            with monkeypatch.context() as patch:
                patch.setattr(Segment, "first_since", counted)
                patch.setattr(blocks, "block", counted_block)
                log = topic._log
                assert topic._find_time(log, wanted, *topic.offsets()) == expected
            assert len(looked) + len(decoded) <= 2, (wanted, looked, decoded)
            assert wanted == 9_999 or looked or decoded
            looked.clear()
            decoded.clear()


def test_the_newest_time_is_found_by_a_reader_at_the_end(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "a.eventdb", durability="os") as db:
        topic = db.create_topic("t", {"n": "BIGINT", "ts": "TIMESTAMP"}, event_time="ts")
        topic.append_many([{"n": n, "ts": n} for n in range(10)])
        list(topic.read())  # from now on the reader knows the active segment
        assert topic._log.newest is not None
        assert [first_offset(topic, time) for time in (8, 9, 10)] == [8, 9, None]
