"""Event time: the watermark, window assignment and closing, against plain Python."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdb.errors import EvaluationError
from eventdb.stream.watermark import LOWEST_US, Watermark
from eventdb.stream.windows import assign_windows, is_closed

TIMES = st.lists(st.tuples(st.one_of(st.none(), st.integers(-100, 100)), st.integers(-100, 100)), max_size=30)


def _arrays(rows: list[tuple[int | None, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    times = np.array([0 if t is None else t for t, _ in rows], dtype=np.int64)
    present = np.array([t is not None for t, _ in rows], dtype=bool)
    return times, present, np.array([a for _, a in rows], dtype=np.int64)


@given(TIMES, st.integers(0, 20), st.sampled_from([None, 0, 30]), st.integers(0, 30))
def test_watermark_is_the_running_maximum_and_does_not_depend_on_cuts(rows, delay, max_future, cut):
    times, present, appended = _arrays(rows)
    expected = [LOWEST_US]
    for time, append_time in rows:
        moves = time is not None and (max_future is None or time - append_time <= max_future)
        expected.append(max(expected[-1], time - delay) if moves else expected[-1])
    whole, parts = Watermark(delay, max_future), Watermark(delay, max_future)
    assert whole.advance(times, present, appended).tolist() == expected
    first = parts.advance(times[:cut], present[:cut], appended[:cut]).tolist()
    second = parts.advance(times[cut:], present[cut:], appended[cut:]).tolist()
    assert first[:-1] + second == expected
    assert parts.value_us == whole.value_us == expected[-1]


def test_watermark_stays_lowest_without_a_declared_delay():
    watermark = Watermark(None)
    marks = watermark.advance(np.array([5, 6]), None, np.array([5, 6]))
    assert marks.tolist() == [LOWEST_US] * 3
    assert watermark.value_us == LOWEST_US


def test_watermark_does_not_wrap_around_at_the_earliest_time():
    watermark = Watermark(10, 5)
    assert watermark.advance(np.array([LOWEST_US, 3]), None, np.array([0, 0])).tolist() == [LOWEST_US, LOWEST_US, -7]


@given(st.lists(st.integers(-200, 200), max_size=20), st.integers(1, 30), st.integers(1, 30))
def test_windows_are_those_that_hold_the_time(times, size, slide):
    rows, starts = assign_windows(np.array(times, dtype=np.int64), size, slide)
    expected = []
    for i, time in enumerate(times):
        low = (time - size) // slide - 1
        expected += [(i, k * slide) for k in range(low, time // slide + 1) if k * slide <= time < k * slide + size]
    assert list(zip(rows.tolist(), starts.tolist(), strict=True)) == expected


def test_a_time_whose_window_would_pass_the_largest_timestamp_is_an_error():
    with pytest.raises(EvaluationError, match="too far"):
        assign_windows(np.array([(1 << 63) - 5]), 10, 10)


@given(st.lists(st.integers(-50, 50), max_size=10), st.integers(-50, 50), st.integers(0, 10))
def test_a_window_closes_when_the_watermark_reaches_end_plus_grace(ends, watermark, grace):
    expected = [watermark >= end + grace for end in ends]
    array = np.array(ends, dtype=np.int64)
    assert is_closed(array, watermark, grace).tolist() == expected
    assert is_closed(array, np.full(len(ends), watermark), grace).tolist() == expected


def test_nothing_is_closed_before_the_first_row():
    assert not is_closed(np.array([-(1 << 62), 0]), LOWEST_US, 5).any()
    assert not is_closed(np.array([0]), np.array([LOWEST_US]), 5).any()
