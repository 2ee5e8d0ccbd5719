"""Readers that stay and readers that died: named, released, in nobody's way."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

import eventdb
from tests.faults import let_go
from tests.storage.test_processes import open_store, said, spawn
from tests.storage.test_recovery import append, log


def churn(store: object, count: int) -> None:
    """Commits that replace index pages."""
    for n in range(count):
        with store.write() as transaction:  # type: ignore[attr-defined]
            transaction.put(b"key", b"%d" % n * 100)


def test_a_dead_reader_is_released_and_the_index_stops_growing(tmp_path: Path) -> None:
    """A reader dies every few hundred commits, as often as the background thread would look."""
    path = tmp_path / "db"
    store = open_store(path, durability="os", maintenance=False)
    append(store, 1)
    churn(store, 300)
    store.checkpoint()
    before = store._index.size_bytes()
    released = 0
    code = """
    store = start(read_only=True)
    snapshot = store.snapshot()
    say("reading")
    sys.stdin.readline()
    """
    for _ in range(5):
        reader = spawn(path, code)
        assert said(reader) == "reading"
        figures = store.stats()
        assert reader.pid in [one["pid"] for one in figures["readers"]]  # type: ignore[union-attr, index]
        reader.send_signal(signal.SIGKILL)
        reader.wait(20)
        churn(store, 300)
        released += store._index.reap_readers()
        store.checkpoint()
    assert released >= 5  # slots: one was read from, another may be left of how it began
    assert store._index.size_bytes() < 3 * before
    store.close()


def test_a_long_lived_reader_blocks_nobody_and_is_named_in_stats(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "db", durability="os") as db:
        topic = db.create_topic("log", {"n": "BIGINT", "s": "VARCHAR"})
        topic.append({"n": 0, "s": "a"})
        with db.snapshot() as old:
            for n in range(1, 200):
                topic.append({"n": n, "s": f"s{n}"})
            figures = db.stats()
            assert figures["oldest_reader_pid"] == os.getpid()
            assert int(str(figures["oldest_reader_lag"])) >= 150
            assert old.sql("SELECT count(*) FROM log").fetchall() == [(1,)]
        assert figures["topics"] == {"log": 200}
        assert figures["topic_bytes"]["log"] > 200 * 12  # type: ignore[index]
        assert int(str(figures["bytes_appended"])) > 200 * 20
        assert int(str(figures["file_bytes"])) > 0


def test_a_full_reader_table_of_dead_processes_is_cleared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr("eventdb.storage.index.kv.INDEX_MAX_READERS", 4)
    store = open_store(tmp_path / "db", maintenance=False)
    append(store, 1)
    code = """
    store = start(read_only=True)
    snapshots = []
    try:
        while True:
            snapshots.append(store.snapshot())
    except Exception as error:
        say(error)
    die()
    """
    reader = spawn(tmp_path / "db", code)
    assert "reader table" in said(reader)
    reader.wait(20)
    with store.snapshot() as snapshot:  # by the one that lives
        assert snapshot.offsets(log(store)) == (0, 1)
    reader = spawn(tmp_path / "db", code)
    assert "reader table" in said(reader)
    reader.wait(20)
    let_go(store)
    store = open_store(tmp_path / "db", maintenance=False)  # by the next that comes
    with store.snapshot() as snapshot:
        assert snapshot.offsets(log(store)) == (0, 1)
    store.close()


def test_recovery_reads_what_was_written_since_the_checkpoint_not_the_whole_database(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bytes a recovery replays are the same for a small and for a large history."""
    from eventdb.storage.commit.journal import Journal
    from eventdb.storage.segment.segment import Segment

    code = """
    import json
    store = start(durability="os", maintenance=False)
    log = store.log(1, SCHEMA, None)
    for batch in range(int(sys.argv[2])):
        with store.write() as tx:
            tx.append_rows(log, [("a", n) for n in range(1000)])
    store.checkpoint()
    for n in range(50):
        store.append_row(log, ("a", n))
    die()
    """
    touched: list[int] = []
    whole_read, whole_restore = Journal.read, Segment.restore_rows

    def read(self: Journal, file: object, position: int) -> object:
        record = whole_read(self, file, position)  # type: ignore[arg-type]
        touched.append(0 if record is None else record.length)
        return record

    def restore_rows(self: Segment, row: int, count: int, data: memoryview) -> int:
        touched.append(len(data))
        return whole_restore(self, row, count, data)

    monkeypatch.setattr(Journal, "read", read)
    monkeypatch.setattr(Segment, "restore_rows", restore_rows)
    from tests.storage.test_rot import lose_power

    totals = []
    for batches in (2, 60):
        path = tmp_path / f"db{batches}"
        assert spawn(path, code, str(batches)).wait(60) == -9
        lose_power(path)
        touched.clear()
        store = open_store(path, durability="os", maintenance=False)
        assert store.recovery_report["records_replayed"] == 50
        totals.append(sum(touched))
        store.close()
    assert totals[1] == totals[0] > 50 * 30
