"""The mark over several partitions, against plain Python."""

from __future__ import annotations

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from eventdb.stream.circuit.timeline import EventTime, Timeline
from eventdb.stream.watermark import LOWEST_US
from tests.stream.circuit.event_time import Declared, Row, marks

partitions = st.lists(
    st.builds(
        EventTime, st.integers(0, 20), st.sampled_from([None, 0, 10, 30]), st.sampled_from([None, 0, 15])
    ),
    min_size=1, max_size=4,
)  # fmt: skip
rows = st.lists(
    st.tuples(st.integers(0, 3), st.one_of(st.none(), st.integers(-100, 100)), st.integers(0, 12)), max_size=30
)
"""Partition, event time, how long after the row before."""


@given(partitions, rows, st.lists(st.integers(0, 30), max_size=3), st.booleans())
def test_the_mark_is_the_least_watermark_of_the_partitions_that_are_not_idle_however_rows_are_cut(
    declared: list[EventTime], data: list[tuple[int, int | None, int]], cuts: list[int], stores: bool
) -> None:
    times = np.cumsum([gap for _, _, gap in data]).tolist() if data else []
    topics = {
        str(i): Declared(1, each.delay_us, each.idle_after_us, each.max_future_us) for i, each in enumerate(declared)
    }
    found = [
        Row(str(source % len(declared)), 0, 0, now, time, "", 0)
        for (source, time, _), now in zip(data, times, strict=True)
    ]
    expected, last = marks(found, topics)
    timeline, seen = Timeline(declared), []
    bounds = [0, *sorted(min(cut, len(data)) for cut in cuts), len(data)]
    for start, stop in itertools.pairwise(bounds):
        part = found[start:stop]
        seen += timeline.advance(
            np.array([int(row.topic) for row in part], dtype=np.int64),
            np.array([row.ts or 0 for row in part], dtype=np.int64),
            np.array([row.ts is not None for row in part], dtype=bool),
            np.array([row.append_time for row in part], dtype=np.int64),
        ).tolist()
        if stores:
            data_of = timeline.whole()
            assert data_of is not None
            timeline = Timeline(declared)
            timeline.restore(data_of)
    assert seen == expected
    assert timeline.mark_us == last


def _after(declared: list[EventTime], *given: tuple[int, int, int]) -> int:
    timeline = Timeline(declared)
    for source, time, now in given:
        timeline.advance(np.array([source]), np.array([time]), np.array([True]), np.array([now]))
    return timeline.mark_us


def test_a_partition_that_never_had_a_row_holds_the_mark_until_it_is_idle() -> None:
    both = [EventTime(0, 10), EventTime(0, 10)]
    assert _after(both, (0, 5, 100), (0, 6, 110)) == LOWEST_US
    assert _after(both, (0, 5, 100), (0, 6, 111)) == 6
    assert _after([EventTime(0), EventTime(0)], (0, 5, 100), (0, 6, 10**9)) == LOWEST_US


def test_the_mark_does_not_fall_when_an_idle_partition_comes_back() -> None:
    both = [EventTime(0, 10), EventTime(0, 10)]
    assert _after(both, (0, 5, 100), (1, 5, 100), (0, 50, 120), (1, 7, 121)) == 50
    assert _after(both, (0, 5, 100), (1, 5, 100), (0, 50, 120), (1, 7, 121), (0, 90, 122)) == 50


def test_a_time_ahead_of_its_append_time_does_not_move_the_mark_nor_wrap_around() -> None:
    one = [EventTime(10, None, 5)]
    assert _after(one, (0, 106, 100)) == LOWEST_US
    assert _after(one, (0, 105, 100)) == 95
    assert _after(one, (0, 2**63 - 1, 100)) == LOWEST_US
    assert _after(one, (0, LOWEST_US, 100)) == LOWEST_US
