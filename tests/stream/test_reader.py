"""Reading a view at any snapshot: older and newer than what is kept, from many threads, maintained or not."""

from __future__ import annotations

import random
import threading

import pytest

from eventdb.errors import CorruptionError, FormatTooNew
from eventdb.stream import reader as reader_module
from eventdb.stream.reader import ViewReader
from eventdb.stream.state import Progress, StateKeys
from eventdb.stream.view import load_query, resolve_start
from tests.stream.cases import SECOND, Case, comparable, expect
from tests.stream.memory_store import MemoryStore
from tests.stream.test_law import VIEW_ID, content, create, maintain

CASES = {
    "update": Case(None, None, ("device",), ("count_star", "sum v"), None, None, None, 0, None),
    "window_close": Case(None, ("hop", 10, 5), ("window_end", "device"), ("count_star",), None, None, 3, 0, None),
    "append": Case("v > 3", None, None, (), None, None, None, 0, None),
}


def _rows(count: int) -> list[tuple[object, ...]]:
    chance = random.Random(3)
    times = [(i - chance.randint(0, 5)) * SECOND for i in range(count)]
    return [(chance.choice("abc"), chance.randint(0, 9), 1.0, time) for time in times]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_any_order_of_snapshots_old_and_new_reads_right(case):
    """Snapshots are taken at random moments between appends and maintenance, and read in random order."""
    chance = random.Random(11)
    rows, store, snapshots, query = _rows(300), MemoryStore(), [], None
    spec, reader, at = create(store, case), ViewReader(), 0
    while at < len(rows):
        step = chance.randint(1, 20)
        store.append(spec.input_log, rows[at : at + step])
        at = min(at + step, len(rows))
        if chance.random() < 0.4:
            query = maintain(store, spec, query)
        snapshots.append((at, store.snapshot()))
        for end, snapshot in chance.sample(snapshots, min(3, len(snapshots))):
            expected = expect(case, rows[:end], [0] * end)
            assert comparable(content(reader, spec, snapshot)) == comparable(expected.rows)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_kept_query_far_behind_starts_again_from_the_stored_state(case, monkeypatch):
    monkeypatch.setattr(reader_module, "_RELOAD_ROWS", 5)
    rows, store = _rows(200), MemoryStore()
    spec, reader = create(store, case), ViewReader()
    for start in range(0, 200, 50):
        store.append(spec.input_log, rows[start : start + 50])
        maintain(store, spec)
        with store.snapshot() as snapshot:
            expected = expect(case, rows[: start + 50], [0] * (start + 50))
            assert comparable(content(reader, spec, snapshot)) == comparable(expected.rows)


def test_threads_read_one_view_while_it_grows():
    case = CASES["window_close"]
    rows, store = _rows(400), MemoryStore()
    spec, reader = create(store, case), ViewReader()
    wrong: list[int] = []
    done = threading.Event()

    def follow() -> None:
        while not done.is_set():
            with store.snapshot() as snapshot:
                end = snapshot.offsets(spec.input_log)[1]
                expected = expect(case, rows[:end], [0] * end)
                if comparable(content(reader, spec, snapshot)) != comparable(expected.rows):
                    wrong.append(end)

    threads = [threading.Thread(target=follow) for _ in range(3)]
    for thread in threads:
        thread.start()
    query = None
    for i in range(0, 400, 8):
        store.append(spec.input_log, rows[i : i + 8])
        if i % 24 == 0:
            query = maintain(store, spec, query)
    done.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_columns_are_picked_by_name_in_the_order_asked_for():
    store = MemoryStore()
    spec = create(store, CASES["update"])
    store.append(spec.input_log, [("a", 4, 1.0, None)])
    with store.snapshot() as snapshot:
        [batch] = ViewReader().content(spec, snapshot, ["A1", "device"])
    assert batch.to_pylist() == [(4, "a")]


def test_progress_survives_its_bytes_and_refuses_others():
    progress = Progress(5, -7, 2, 9, 11)
    data = progress.encode()
    assert Progress.decode(data) == progress
    with pytest.raises(FormatTooNew):
        Progress.decode(b"\xff\xff" + data[2:])
    with pytest.raises(CorruptionError):
        Progress.decode(data[:-1])


def test_damaged_groups_are_a_typed_error():
    store = MemoryStore()
    spec = create(store, CASES["update"])
    store.append(spec.input_log, _rows(20))
    maintain(store, spec)
    key = next(key for key in store.keys if key.startswith(StateKeys(VIEW_ID)._groups))
    good = store.keys[key]
    for damaged in (b"", good[:3], good[:-1], good[:4] + b"?" + good[5:], good + b"x"):
        store.keys[key] = damaged
        with store.snapshot() as snapshot, pytest.raises(CorruptionError):
            load_query(spec, snapshot)


def test_a_view_can_start_at_a_time():
    store = MemoryStore()
    spec = create(store, CASES["append"])
    times = [None, 5, 3, 9, 4]
    store.append(spec.input_log, [("a", 1, 1.0, None if t is None else t * SECOND) for t in times])
    facts = spec.program.facts
    with store.snapshot() as snapshot:
        for start, offset in (("beginning", 0), ("now", 5), (4 * SECOND, 1), (6 * SECOND, 3), (10 * SECOND, 5)):
            assert resolve_start(snapshot, spec.input_log, facts, start) == offset
