"""What a subscriber hands out: which changes, in which order, with which offsets; and when it ends."""

from __future__ import annotations

import math
import threading
import time

import pytest

from eventdb.errors import ClosedError, UsageError
from eventdb.logical.plan import Filter
from eventdb.schema import BOOLEAN, DOUBLE
from eventdb.stream.emission import Changes
from eventdb.stream.feed import FeedOptions
from eventdb.stream.program import whole_topic
from eventdb.stream.subscribe import Subscriber
from eventdb.stream.token import decode_token
from eventdb.stream.view import ViewSpec, view_spec
from tests.stream.cases import SCAN_FIELDS, SECOND, Case, big, call, plan_of, ref
from tests.stream.memory_store import MemoryStore
from tests.stream.test_law import create

BY_DEVICE = Case(None, None, ("device",), ("count_star", "min v"), None, None, None, 0, None)
WINDOWED = Case(None, ("tumble", 10, 10), ("window_end", "device"), ("count_star",), None, None, 3, 0, None)
PLAIN = Case("v > 3", None, None, (), None, None, None, 0, None)


def _started(case: Case, mode: str = "snapshot") -> tuple[MemoryStore, ViewSpec, Subscriber]:
    store = MemoryStore()
    spec = create(store, case)
    return store, spec, Subscriber(store, spec, mode)


def _all(subscriber: Subscriber) -> list[tuple[str, tuple[object, ...], int]]:
    found = []
    while (changes := subscriber.read(0)) is not None:
        found += [tuple(change) for change in changes]
    return found


def test_a_revised_group_is_taken_back_and_given_again():
    store, spec, subscriber = _started(BY_DEVICE)
    store.append(spec.input_log, [("a", 5, None, None), ("b", 7, None, None)])
    assert _all(subscriber) == [("+I", ("a", 1, 5), 1), ("+I", ("b", 1, 7), 1)]
    store.append(spec.input_log, [("b", 9, None, None), ("c", None, None, None), ("b", 2, None, None)])
    assert _all(subscriber) == [("-U", ("b", 1, 7), 4), ("+U", ("b", 3, 2), 4), ("+I", ("c", 1, None), 4)]
    assert subscriber.offset == 5


def test_a_group_that_having_turns_away_is_deleted():
    store = MemoryStore()
    log = create(store, BY_DEVICE).input_log
    plan = plan_of(BY_DEVICE)
    plan = Filter(plan, call("gt", BOOLEAN, ref(plan.fields, "a1"), big(3)))
    subscriber = Subscriber(store, view_spec(-1, "", plan, BY_DEVICE.facts, lambda topic_id: log))
    store.append(log, [("a", 5, None, None)])
    assert _all(subscriber) == [("+I", ("a", 1, 5), 0)]
    store.append(log, [("a", 1, None, None)])
    assert _all(subscriber) == [("-D", ("a", 1, 5), 1)]
    store.append(log, [("a", 8, None, None)])
    assert _all(subscriber) == []


def test_rows_that_stay_the_same_are_no_change_even_when_they_are_not_a_number():
    case = Case(None, None, ("device",), ("count_star", "max d"), None, None, None, 0, None)
    store = MemoryStore()
    log = create(store, case).input_log
    from eventdb.logical.plan import OutputField, Project

    plan = plan_of(case)
    plan = Project(plan, (ref(plan.fields, "a1"),), (OutputField("m", DOUBLE),))
    subscriber = Subscriber(store, view_spec(-1, "", plan, case.facts, lambda topic_id: log))
    store.append(log, [("a", 1, math.nan, None)])
    [(op, (value,), _)] = _all(subscriber)
    assert op == "+I"
    assert math.isnan(value)
    store.append(log, [("a", 1, 3.0, None)])
    assert _all(subscriber) == []


def test_rows_of_a_window_come_when_it_closes_with_the_offset_that_closed_it():
    store, spec, subscriber = _started(WINDOWED)
    times = [1, 4, 12, 13, 14, 30]
    store.append(spec.input_log, [("b" if t == 1 else "a", 1, None, t * SECOND) for t in times])
    found = _all(subscriber)
    assert [(op, row[1:], offset) for op, row, offset in found] == [
        ("+I", ("a", 1), 3),
        ("+I", ("b", 1), 3),
        ("+I", ("a", 3), 5),
    ]


def test_each_row_of_a_stateless_query_has_its_own_offset():
    store, spec, subscriber = _started(PLAIN)
    store.append(spec.input_log, [("a", v, None, None) for v in (1, 5, 2, 9)])
    assert _all(subscriber) == [("+I", ("a", 6), 1), ("+I", ("a", 10), 3)]


@pytest.mark.parametrize("case", [BY_DEVICE, WINDOWED, PLAIN], ids=["update", "window_close", "append"])
def test_from_now_on_only_what_changes_later_is_handed_out(case):
    store, spec, subscriber = _started(case, "latest")
    store.append(spec.input_log, [("a", 5, None, t * SECOND) for t in (1, 2, 15, 16)])
    assert _all(subscriber) == []
    store.append(spec.input_log, [("a", 5, None, 40 * SECOND)])
    expected = {
        BY_DEVICE: [("-U", ("a", 4, 5), 4), ("+U", ("a", 5, 5), 4)],
        PLAIN: [("+I", ("a", 6), 4)],
    }
    found = _all(subscriber)
    if case is WINDOWED:
        assert [(op, row[1:], offset) for op, row, offset in found] == [("+I", ("a", 2), 4)]
    else:
        assert found == expected[case]


def test_a_whole_topic_can_be_followed():
    store, spec, _ = _started(PLAIN)
    program = whole_topic(spec.program.facts, SCAN_FIELDS)
    subscriber = Subscriber(store, ViewSpec(-1, "readings", program, spec.input_log), "earliest")
    store.append(spec.input_log, [("a", 1, 2.5, None), (None, None, None, 7 * SECOND)])
    [first, second] = _all(subscriber)
    assert first == ("+I", ("a", 1, 2.5, None), 0)
    assert second[2] == 1


def test_a_large_history_comes_in_parts_without_gap_or_repetition(monkeypatch):
    from eventdb.stream import subscribe

    monkeypatch.setattr(subscribe, "MORSEL_ROWS", 10)
    store, spec, subscriber = _started(BY_DEVICE, "earliest")
    store.append(spec.input_log, [("a", 5, None, None)] * 35)
    counts = [row[1] for op, row, _ in _all(subscriber) if op in ("+I", "+U")]
    assert counts == [10, 20, 30, 35]
    late = Subscriber(store, spec, "snapshot")
    assert _all(late) == [("+I", ("a", 35, 5), 34)]


def test_a_waiting_read_ends_in_time_by_a_commit_and_by_close():
    store, spec, subscriber = _started(PLAIN)
    started = time.monotonic()
    assert subscriber.read(0.03) is None
    assert 0.02 < time.monotonic() - started < 1.0
    got: list[object] = []

    def follow() -> None:
        try:
            while True:
                got.append(subscriber.read(None))
        except ClosedError:
            got.append("closed")

    thread = threading.Thread(target=follow)
    thread.start()
    store.append(spec.input_log, [("a", 9, None, None)])
    deadline = time.monotonic() + 5
    while not got and time.monotonic() < deadline:
        time.sleep(0.002)
    subscriber.close()
    thread.join(5)
    assert isinstance(got[0], Changes)
    assert got[1:] == ["closed"]
    assert list(subscriber) == []


def test_an_unknown_start_is_refused():
    store, spec, _ = _started(PLAIN)
    with pytest.raises(UsageError, match="'earliest', 'latest', an offset or a datetime"):
        Subscriber(store, spec, "yesterday")


def test_changes_have_the_same_rows_as_columns_and_as_tuples():
    store, spec, subscriber = _started(BY_DEVICE)
    store.append(spec.input_log, [("a", 5, None, None), ("b", None, None, None)])
    subscriber.read(0)
    store.append(spec.input_log, [("b", 9, None, None), ("c", 1, None, None)])
    changes = subscriber.read(0)
    assert changes is not None
    assert [tuple(change.row) for change in changes] == changes.batch.to_pylist()
    assert changes.batch.weight.tolist() == [-1, 1, 1]
    assert changes.ops.tolist() == [1, 2, 0]
    assert changes.offsets.tolist() == [3, 3, 3]
    assert [tuple(change) for change in changes.head(2)] == [tuple(change) for change in changes][:2]


@pytest.mark.parametrize("case", [BY_DEVICE, WINDOWED, PLAIN], ids=["update", "window_close", "append"])
def test_a_token_is_ahead_of_what_is_stored(case):
    store, spec, subscriber = _started(case)
    log = spec.input_log
    store.append(log, [(device, 5, None, t * SECOND) for t, device in enumerate("abcabcabcabc" * 3)])
    whole = _all(subscriber)
    assert len(whole) >= 3  # nobody maintains it: nothing is stored
    again = Subscriber(store, spec)
    assert again.read(0) is not None
    for taken in (0, 1, len(whole)):
        place = decode_token(again.token(taken) or "", b"")
        rest = Subscriber(store, spec, options=FeedOptions(after=place))
        ordered = sorted(whole, key=lambda change: repr([change[1]])) if case is BY_DEVICE else whole
        assert sorted(_all(rest), key=repr) == sorted(ordered[taken:], key=repr)
