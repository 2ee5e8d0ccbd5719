"""Group commit: every thread's rows arrive once and in its order, share flushes, and fail alone."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.errors import OutcomeUnknown, SchemaMismatch, StorageError
from eventdb.storage.commit.group import GroupCommit


def test_threads_share_flushes_and_lose_nothing(tmp_path: Path) -> None:
    threads, events = 8, 60
    with eventdb.open(tmp_path / "db") as db:
        topic = db.create_topic("t", {"thread": "INTEGER", "n": "INTEGER"})
        topic.append({"thread": -1, "n": 0})
        before = int(str(db.stats()["flushes"]))
        offsets: list[list[int]] = [[] for _ in range(threads)]

        def write(thread: int) -> None:
            offsets[thread] = [topic.append({"thread": thread, "n": n}).offset for n in range(events)]

        workers = [threading.Thread(target=write, args=(i,)) for i in range(threads)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        flushes = int(str(db.stats()["flushes"])) - before
        stored = {event.offset: (event["thread"], event["n"]) for event in topic.read(start=1)}
    assert flushes < threads * events
    assert sorted(stored) == list(range(1, 1 + threads * events))
    for thread in range(threads):
        assert [stored[offset] for offset in offsets[thread]] == [(thread, n) for n in range(events)]
        assert offsets[thread] == sorted(offsets[thread])


class Writer:
    """A stand-in for the store: each transaction collects rows; a row named 'bad' is refused."""

    def __init__(self) -> None:
        self.stored: list[str] = []
        self.transactions = 0
        self.entry_error: Exception | None = None
        self.exit_error: Exception | None = None

    def __call__(self) -> Any:
        return Transaction(self)


class Transaction:
    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.rows: list[str] = []

    def abandon(self) -> None:
        """The section ended with the block."""

    def __enter__(self) -> Transaction:
        if self.writer.entry_error is not None:
            raise self.writer.entry_error
        return self

    def append_row(self, log: Any, row: Any) -> int:
        if row == ("bad",):
            raise SchemaMismatch("bad row")
        self.rows.append(row[0])
        return len(self.writer.stored) + len(self.rows) - 1

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind is None:
            if self.writer.exit_error is not None:
                raise self.writer.exit_error
            self.writer.stored += self.rows
            self.writer.transactions += 1


def long_way(take: Any) -> list[int]:
    """A stand-in for append_together(), which finds no row that can go the short way."""
    return [-1] * len(take())


def group_of(writer: Writer, together: Any = long_way) -> GroupCommit:
    return GroupCommit(writer, together, gathers=False)


def together(group: GroupCommit, rows: list[str]) -> list[object]:
    """What each thread got when all queue up behind a leader that waits."""
    results: list[object] = [None] * len(rows)
    group._has_leader = True  # the test leads: everybody queues

    def run(i: int) -> None:
        try:
            results[i] = group.append(None, (rows[i],))  # type: ignore[arg-type]
        except Exception as error:
            results[i] = type(error)

    workers = [threading.Thread(target=run, args=(i,)) for i in range(len(rows))]
    for worker in workers:
        worker.start()
    while len(group._queue) < len(rows):
        pass
    with group._lock:
        group._queue[0].leads = True
        group._queue[0].wake.release()
    for worker in workers:
        worker.join()
    return results


def test_a_queue_is_one_transaction() -> None:
    writer = Writer()
    results = together(group_of(writer), ["a", "b", "c"])
    assert sorted(results) == [0, 1, 2]  # type: ignore[type-var]
    assert writer.transactions == 1


def test_a_bad_row_fails_alone() -> None:
    writer = Writer()
    results = together(group_of(writer), ["a", "bad", "c"])
    assert results[1] is SchemaMismatch
    assert sorted(writer.stored) == ["a", "c"]


def test_an_unknown_outcome_reaches_every_thread() -> None:
    writer = Writer()
    writer.exit_error = OutcomeUnknown("flush failed")
    assert together(group_of(writer), ["a", "b", "c"]) == [OutcomeUnknown] * 3
    assert writer.stored == []


def test_a_writer_that_cannot_be_had_fails_each_thread_and_leaves_nothing_behind() -> None:
    writer = Writer()
    writer.entry_error = StorageError("locked")
    group = group_of(writer)
    assert together(group, ["a", "b"]) == [StorageError] * 2
    writer.entry_error = None
    assert group.append(None, ("later",)) == 0  # type: ignore[arg-type]


def test_an_interrupted_wait_does_not_stop_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Writer()
    group = group_of(writer)
    group._has_leader = True
    made = []

    class Interrupted:
        def acquire(self, blocking: bool = True) -> bool:
            if blocking and len(made) == 1:
                raise KeyboardInterrupt
            return False

    import eventdb.storage.commit.group as module

    original = module._Ticket

    def ticket(row: Any) -> Any:
        one = original(row)
        made.append(one)
        one.wake = Interrupted()  # type: ignore[assignment]
        return one

    monkeypatch.setattr(module, "_Ticket", ticket)
    with pytest.raises(KeyboardInterrupt):
        group.append(None, ("gone",))  # type: ignore[arg-type]
    monkeypatch.setattr(module, "_Ticket", original)
    assert together(group, ["a", "b"]) in ([0, 1], [1, 0])
    assert sorted(writer.stored) == ["a", "b"]


# -- gathering: rows wait for those who came last time ---------------------------------------------------------------


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> tuple[Writer, GroupCommit]:
    """A group of which three rows are expected, and whose first waits for the others for as long as a test may take."""
    monkeypatch.setattr("eventdb.storage.commit.group.GATHER_LONGEST_S", 60.0)
    writer = Writer()
    group = GroupCommit(writer, long_way, gathers=True)
    group._expected, group._commit_s = 3, 60.0
    return writer, group


def start(group: GroupCommit, row: str, results: dict[str, object]) -> threading.Thread:
    """A thread that appends the row, queued."""

    def run() -> None:
        try:
            results[row] = group.append(None, (row,))  # type: ignore[arg-type]
        except BaseException as error:
            results[row] = type(error)

    queued = len(group._queue)
    thread = threading.Thread(target=run)
    thread.start()
    while len(group._queue) == queued and thread.is_alive():
        pass
    return thread


def test_a_group_waits_for_those_who_came_last_time_and_no_longer(patient: tuple[Writer, GroupCommit]) -> None:
    writer, group = patient
    results: dict[str, object] = {}
    threads = [start(group, row, results) for row in ("a", "b")]
    assert writer.transactions == 0
    threads.append(start(group, "c", results))
    for thread in threads:
        thread.join()
    assert writer.transactions == 1
    assert sorted(results.values()) == [0, 1, 2]  # type: ignore[type-var]
    assert group._expected == 3
    assert group.takes_all


def test_who_does_not_come_is_waited_for_once_and_then_less_often(patient: tuple[Writer, GroupCommit]) -> None:
    writer, group = patient
    group._commit_s = 0.001
    assert group.append(None, ("a",)) == 0  # type: ignore[arg-type]
    assert (group._expected, group.takes_all, group._next_pause) == (1, False, 2)
    group._expected, group._commit_s = 3, 0.001
    assert group.append(None, ("b",)) == 1  # type: ignore[arg-type]
    group._next_pause, group._expected, group._commit_s = 4, 3, 0.001
    assert group.append(None, ("c",)) == 2  # type: ignore[arg-type]
    results = together(group, ["d", "e"])
    assert sorted(results) == [3, 4]  # type: ignore[type-var]
    assert (group._expected, group.takes_all) == (1, False)  # during the pause nobody is, however many came
    assert writer.transactions == 4


def test_who_waits_behind_a_commit_waits_for_those_it_served_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventdb.storage.commit.group.GATHER_LONGEST_S", 60.0)
    clock = iter(range(0, 100_000, 100))  # a commit takes so long that others are waited for
    monkeypatch.setattr("eventdb.storage.commit.group.monotonic", lambda: float(next(clock)))
    sizes: list[int] = []
    flushed = threading.Event()

    def short(take: Any) -> list[int]:
        rows = take()
        sizes.append(len(rows))
        if len(sizes) == 1:
            flushed.wait()
        return [0] * len(rows)

    group = GroupCommit(Writer(), short, gathers=True)
    results: dict[str, object] = {}
    first = threading.Thread(target=lambda: group.append(None, ("a",)))  # type: ignore[arg-type]
    first.start()
    while not sizes:
        pass
    second = start(group, "b", results)
    flushed.set()
    while group._gatherer is None and len(sizes) == 1:
        pass
    third = start(group, "c", results)
    for thread in (first, second, third):
        thread.join()
    assert sizes == [1, 2]


def test_an_interrupted_first_row_leaves_the_waiting_to_the_next(
    patient: tuple[Writer, GroupCommit], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer, group = patient

    def interrupted(ticket: object) -> None:
        monkeypatch.undo()
        results: dict[str, object] = {}
        threads.append(start(group, "b", results))
        raise KeyboardInterrupt

    threads: list[threading.Thread] = []
    group._gather = interrupted  # type: ignore[method-assign, assignment]
    with pytest.raises(KeyboardInterrupt):
        group.append(None, ("a",))  # type: ignore[arg-type]
    del group._gather  # type: ignore[method-assign]
    group._commit_s = 0.001
    threads[0].join()
    assert writer.stored == ["b"]
    assert not group._has_leader


def test_rows_that_do_not_fit_the_short_way_are_committed_beside_those_that_do() -> None:
    writer = Writer()

    def short(take: Any) -> list[int]:
        return [100 + i if row[0] != "long" else -1 for i, (_, row, _) in enumerate(take())]

    results = together(group_of(writer, short), ["a", "long", "b"])
    assert writer.stored == ["long"]
    assert results[1] == 0
    assert min(results[0], results[2]) >= 100  # type: ignore[type-var]
