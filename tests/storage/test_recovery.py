"""Crashes that once went wrong, each by itself: the name says what must hold."""

from __future__ import annotations

import fcntl
import os
import threading
from pathlib import Path
from typing import Any

import pytest

from eventdb.errors import CorruptionError, StorageError
from eventdb.storage import PartitionLog, Store
from eventdb.storage.commit.commit import Writer
from eventdb.storage.commit.journal import Tail
from eventdb.storage.commit.state import CommittedState
from eventdb.storage.format import SHARED_BYTES
from tests.faults import Crash, SimulatedDisk, SimulatedFiles, let_go
from tests.storage.simulation import EVENT_TIMES, SCHEMAS, Row

pytestmark = pytest.mark.usefixtures("small")


@pytest.fixture
def disk(disk: SimulatedDisk) -> SimulatedDisk:
    disk.odds = lambda path: 0.0  # everything that was not flushed is gone
    return disk


def start(disk: SimulatedDisk, durability: str = "commit", files: SimulatedFiles | None = None) -> Store:
    return Store.open(
        disk.root + "/db", durability=durability, files=files or disk.files(), clock=disk.clock(),
        live_topics=lambda: SCHEMAS, maintenance=False,
    )  # fmt: skip


def crash(disk: SimulatedDisk, store: Store, *, power: bool) -> None:
    image = disk.image(power=power)
    let_go(store)
    disk.restart(image, power=power)


def log(store: Store, topic: int = 1) -> PartitionLog:
    return store.log(topic, SCHEMAS[topic], EVENT_TIMES[topic])


def rows(store: Store, topic: int = 1) -> list[Row]:
    with store.snapshot() as snapshot:
        return [
            row[2] for chunk in snapshot.rows(log(store, topic), *snapshot.offsets(log(store, topic))) for row in chunk
        ]


def append(store: Store, count: int, topic: int = 1, first: int = 0) -> list[Row]:
    made: list[Row] = [("a", first + i) for i in range(count)]
    with store.write() as transaction:
        transaction.append_rows(log(store, topic), made)
    return made


def test_a_new_segment_is_found_although_another_handle_marked_it_after(disk: SimulatedDisk) -> None:
    store = start(disk, "os")
    kept = append(store, 2)
    log(store).touched = (-1, 0)  # as in any process but the one that made the segment
    kept += append(store, 2, first=2)
    store.checkpoint()
    crash(disk, store, power=True)
    store = start(disk, "os")
    assert rows(store) == kept
    assert store.check(deep=True) == []
    store.close()


def test_bulk_rows_in_a_segment_of_an_earlier_commit_are_found(disk: SimulatedDisk) -> None:
    store = start(disk)
    kept = append(store, 1)  # makes the segment; the journal holds the row
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eventdb.storage.transaction.MAX_PAYLOAD_BYTES", 1)
        kept += append(store, 5, first=1)
    crash(disk, store, power=True)
    store = start(disk)
    assert rows(store) == kept
    store.close()


def test_a_commit_whose_unflushed_rows_are_gone_leaves_no_part_of_itself(disk: SimulatedDisk) -> None:
    store = start(disk, "os")
    kept = append(store, 1)
    with store.write() as transaction:
        transaction.append_rows(log(store, 2), [(1, "a", b"x")])
        transaction.append_rows(log(store), [(f"w{i}" * 20, i) for i in range(60)])
        transaction.put(b"key", b"value")
    disk.odds = lambda path: 1.0 if "/journal" in path else 0.0
    crash(disk, store, power=True)
    store = start(disk, "os")
    assert rows(store) == kept
    assert rows(store, 2) == []
    assert store.check(deep=True) == []
    with store.snapshot() as snapshot:
        assert snapshot.get(b"key") is None
    assert store.recovery_report["bytes_cut"]
    store.close()


@pytest.mark.parametrize("power", [True, False])
def test_a_record_on_the_device_without_the_rows_flushed_beside_it_is_no_commit(
    disk: SimulatedDisk, monkeypatch: pytest.MonkeyPatch, power: bool
) -> None:
    store = start(disk)
    kept = append(store, 1)
    files = store._files
    assert isinstance(files, SimulatedFiles)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Writer, "flush_bulk", lambda self, bulk, descriptors: files.crash(power=power))
        with pytest.raises(Crash):
            append(store, 60, first=1)
    let_go(store)
    disk.restart(files.left, power=power)
    store = start(disk)
    after = rows(store)
    assert len(after) == (1 if power else 61)  # the next process completes the commit of one that was only killed
    assert after[:1] == kept
    assert bool(store.recovery_report["bytes_cut"]) == power
    after += append(store, 60, first=200)
    crash(disk, store, power=True)
    store = start(disk)
    assert rows(store) == after
    assert store.check(deep=True) == []
    store.close()


def interrupted_between_the_flushes(disk: SimulatedDisk) -> tuple[list[Row], list[Row]]:
    """Ctrl-C comes when the record is flushed and the rows it names are not; then one more row is committed and the
    power fails. (What is left, what must be)"""
    store = start(disk)
    append(store, 1)
    with pytest.MonkeyPatch.context() as patch:

        def flush_bulk(self: Writer, *arguments: Any) -> None:
            raise KeyboardInterrupt

        patch.setattr(Writer, "flush_bulk", flush_bulk)
        with pytest.raises(KeyboardInterrupt):
            append(store, 60, first=1)
    append(store, 1, first=100)
    kept = rows(store)
    assert len(kept) == 62
    crash(disk, store, power=True)
    store = start(disk)
    left = rows(store)
    assert store.check(deep=True) == []
    store.close()
    return left, kept


def test_nothing_is_acknowledged_behind_a_record_before_the_rows_it_names_are_flushed(disk: SimulatedDisk) -> None:
    left, kept = interrupted_between_the_flushes(disk)
    assert left == kept


def test_going_on_behind_rows_that_were_not_flushed_would_be_noticed(
    disk: SimulatedDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = CommittedState._complete_dead_writer

    def complete(self: CommittedState, txn: Any) -> Any:
        txn = whole(self, txn)
        self.tail.bulk_lsn = 0
        return txn

    monkeypatch.setattr(CommittedState, "_complete_dead_writer", complete)
    left, kept = interrupted_between_the_flushes(disk)
    assert left == kept[:1]


@pytest.mark.parametrize("seed", range(3))
def test_recovering_after_a_killed_process_may_lose_power_anywhere(disk: SimulatedDisk, seed: int) -> None:
    """The dead process's pin is gone: folding the head in first may reuse pages of the only checkpoint."""
    fired, count = 1, 0
    disk.random.seed(seed)
    disk.odds = lambda path: None
    kept: list[Row] = []
    while fired:
        count += 1
        store = start(disk)
        for i in range(4):
            kept.append(("a", 10 * count + i))
            assert store.append_row(log(store), kept[-1]) == len(kept) - 1
        crash(disk, store, power=False)
        files = disk.files()
        files.crash_at(count, power=True)
        try:
            start(disk, files=files).close()
        except Crash:
            disk.restart(files.left, power=True)
        fired = files.fired
        store = start(disk)
        assert rows(store) == kept
        store.close()
    assert count > 20


def test_a_power_cut_while_the_journal_rolls_leaves_an_openable_database(disk: SimulatedDisk) -> None:
    count, rolled = 0, 0
    kept: list[Row] = []
    while count < 80:
        count += 1
        store = start(disk)
        files = store._files
        assert isinstance(files, SimulatedFiles)
        kept += append(store, 1, first=1000 * count)
        assert store._writer is not None
        tail = store._writer.tail
        while tail.number == 0 and store._writer.tail.size - store._writer.tail.position > 200:
            kept += append(store, 1, first=count)
        files.crash_at(1 + count % 25, power=True)
        disk.odds = [lambda path: 0.0, lambda path: None, lambda path: 1.0][count % 3]
        try:
            while True:
                made = [("a", count)]
                store.append_row(log(store), made[0])
                kept += made
        except Crash:
            rolled += "create" in files.log
            let_go(store)
            disk.restart(files.left, power=True)
        store = start(disk)
        assert rows(store)[: len(kept)] == kept
        kept = rows(store)
        store.close()
    assert rolled >= 1


def damage(path: Path, position: int) -> None:
    data = bytearray(path.read_bytes())
    data[position] ^= 0xFF
    path.write_bytes(data)


def crashed(disk: SimulatedDisk, count: int, *, power: bool) -> tuple[Path, list[Row]]:
    """A crashed database whose journal holds `count` commits of one row; the path of that journal file."""
    store = start(disk)
    append(store, 1, first=-1)
    made = [("a", i) for i in range(count)]
    for row in made:
        store.append_row(log(store), row)
    assert store._writer is not None
    assert store._writer.journal.file is not None
    path = store._writer.journal.file.path
    crash(disk, store, power=power)
    return Path(path), [("a", -1), *made]


@pytest.mark.parametrize("power", [False, True])
def test_rot_in_the_middle_of_the_journal_is_refused_not_cut_and_can_be_read(disk: SimulatedDisk, power: bool) -> None:
    path, kept = crashed(disk, 10, power=True)
    if not power:
        store = start(disk)
        kept += append(store, 1)
        for i in range(10):
            kept.append(("a", i))
            store.append_row(log(store), kept[-1])
        assert store._writer is not None
        assert store._writer.journal.file is not None
        path = Path(store._writer.journal.file.path)
        crash(disk, store, power=False)
        (path.parent.parent / "shared").write_bytes(bytes(4096 * 3))  # the head cannot help
    data = path.read_bytes()
    records = [i for i in range(0, len(data) - 4, 8) if data[i : i + 4] == b"EDJ1"]
    damage(path, records[len(records) // 2] + 60)
    for _ in range(2):
        with pytest.raises(CorruptionError, match=r"does not verify.*damage"):
            start(disk)
    reader = Store.open(
        disk.root + "/db", read_only=True, files=disk.files(), clock=disk.clock(), live_topics=lambda: SCHEMAS
    )
    found = rows(reader)
    assert found == kept[: len(found)]
    assert reader.check(deep=True) == []
    reader.close()
    with pytest.raises(CorruptionError):
        start(disk)


def test_a_torn_tail_is_cut_and_reported(disk: SimulatedDisk) -> None:
    path, kept = crashed(disk, 10, power=True)
    data = path.read_bytes()
    last = max(i for i in range(0, len(data) - 4, 8) if data[i : i + 4] == b"EDJ1")
    damage(path, last + 60)
    store = start(disk)
    assert rows(store) == kept[:-1]
    assert store.recovery_report["kind"] == "power loss"
    assert int(str(store.recovery_report["bytes_cut"])) > 0
    assert store.append_row(log(store), ("a", 99)) == len(kept) - 1
    store.close()


def test_a_missing_journal_file_is_refused(disk: SimulatedDisk) -> None:
    path, _ = crashed(disk, 3, power=True)
    path.unlink()
    with pytest.raises(CorruptionError, match="is missing"):
        start(disk)


def test_a_missing_next_journal_file_is_refused_not_forgotten(disk: SimulatedDisk) -> None:
    store = start(disk)
    assert store._writer is not None
    while store._writer.tail.number < 1:
        append(store, 1)
    file = store._writer.journal.file
    assert file is not None
    path = Path(file.path)
    crash(disk, store, power=True)
    path.unlink()
    with pytest.raises(CorruptionError, match="is missing: the journal goes on in it"):
        start(disk)


def test_a_torn_head_slot_of_a_crash_without_power_loss_falls_back_to_the_journal(disk: SimulatedDisk) -> None:
    """A process killed while it fills the unused slot has changed nothing: the sequence still names the other."""
    store = start(disk)
    append(store, 1)
    assert store.append_row(log(store), ("a", 1)) == 1
    assert store._page is not None
    sequence = store._head.sequence() if store._head else 0
    unused = 4096 + 4096 * ((sequence + 1) & 1)
    store._page[unused : unused + 100] = b"\xa5" * 100
    assert len(rows(store)) == 2
    crash(disk, store, power=False)
    store = start(disk)
    assert len(rows(store)) == 2
    assert store.append_row(log(store), ("a", 2)) == 2
    store.close()


def test_a_writer_recovers_although_a_read_only_open_held_the_database_for_a_moment(disk: SimulatedDisk) -> None:
    """It held ALIVE while it was finding out that the database must be recovered: the writer went on beside it,
    without recovery."""
    store = start(disk)
    kept = append(store, 20)
    disk.odds = lambda path: 1.0 if path in ("", "db", "db/shared") else 0.0
    crash(disk, store, power=True)
    fd = os.open(disk.root + "/db/ALIVE", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    reader = threading.Timer(0.05, os.close, (fd,))
    reader.start()
    store = start(disk)
    reader.join()
    assert store.recovery_report["kind"] == "power loss"
    assert rows(store) == kept
    store.close()


def test_a_database_whose_creator_was_killed_is_found_after_a_power_loss(tmp_path: Path) -> None:
    """Its directory or FORMAT was there for the next process, but nobody had flushed the entry."""
    for count in range(1, 1000):
        root = tmp_path / str(count)
        root.mkdir()
        disk = SimulatedDisk(str(root))
        disk.odds = lambda path: 0.0
        files = disk.files()
        files.crash_at(count, power=False)
        try:
            store = start(disk, files=files)
            files.heal()
        except Crash:
            disk.restart(files.left, power=False)
            store = start(disk)
        kept = append(store, 2)
        crash(disk, store, power=True)
        store = start(disk)
        assert rows(store) == kept, f"operation {count}"
        store.close()
        if not files.crashed:
            break
    assert count > 20


def lose_power_while_recovery_folds_the_head(root: Path) -> None:
    """At each operation of it. The index's pages survive as written, the new checkpoint does not unless flushed."""
    for count in range(1, 1000):
        disk = SimulatedDisk(str(root / str(count)))
        os.mkdir(disk.root)
        disk.odds = lambda path: 0.0 if path == "db/index/checkpoint" else 1.0
        store = start(disk, "os")
        kept = append(store, 2)
        store.checkpoint()
        for i in range(12):  # commits to the index, which free pages of the checkpoint
            with store.write() as transaction:
                transaction.put(b"k", b"%d" % i)
        kept += append(store, 2, first=2)  # marks the segment, in the index
        kept += append(store, 2, first=4)
        assert store._head is not None
        assert not store._head.is_empty()
        crash(disk, store, power=False)
        files = disk.files()
        files.crash_at(count, power=True)
        try:
            start(disk, "os", files).close()
        except Crash:
            disk.restart(files.left, power=True)
        store = start(disk, "os")
        try:
            assert rows(store) == kept, f"operation {count}"
            with store.snapshot() as snapshot:
                assert snapshot.get(b"k") == b"11"
            assert store.check(deep=True) == []
        finally:
            store.close()
        if not files.crashed:
            assert count > 20
            return


def test_folding_the_head_in_recovery_does_not_touch_the_newest_checkpoint(tmp_path: Path) -> None:
    lose_power_while_recovery_folds_the_head(tmp_path)


def test_folding_the_head_without_a_pin_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Writer.save_checkpoint
    recovered: set[int] = set()

    def save_checkpoint(self: Writer, *, clean: bool) -> tuple[Tail, list[tuple[bytes, bytes]]]:
        if self.prepared or id(self) in recovered:
            return whole(self, clean=clean)
        recovered.add(id(self))
        return self.tail, []  # recovery commits to the index as it found it

    monkeypatch.setattr(Writer, "save_checkpoint", save_checkpoint)
    with pytest.raises((AssertionError, StorageError)):
        lose_power_while_recovery_folds_the_head(tmp_path)


def test_a_writer_opens_beside_a_reader_after_a_power_loss_that_emptied_the_shared_page(disk: SimulatedDisk) -> None:
    """The page named no LOCK, which was taken for another one than ours."""
    store = start(disk)
    kept = append(store, 2)
    store.close()
    with open(disk.root + "/db/shared", "r+b") as shared:
        os.pwrite(shared.fileno(), bytes(SHARED_BYTES), 0)
    fd = os.open(disk.root + "/db/ALIVE", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    store = start(disk)
    assert rows(store) == kept
    kept += append(store, 2, first=2)
    assert rows(store) == kept
    store.close()
    os.close(fd)


def flip_each_record(root: Path) -> int:
    """Of a journal whose every record was acknowledged, one is damaged at a time: opening refuses, or loses none but
    the last. How many were tried."""
    tried = 0
    while True:
        disk = SimulatedDisk(str(root / str(tried)))
        os.mkdir(disk.root)
        disk.odds = lambda path: 0.0
        path, kept = crashed(disk, 8, power=True)
        data = path.read_bytes()
        records = [i for i in range(0, len(data) - 4, 8) if data[i : i + 4] == b"EDJ1"][1:]
        if tried == len(records):
            return tried
        damage(path, records[tried] + 60)
        try:
            store = start(disk)
        except CorruptionError:
            assert tried < len(records) - 1, "the last record may be a torn one"
        else:
            found = rows(store)
            store.close()
            assert found == kept[:-1], f"record {tried}: rows that were acknowledged are cut off"
        tried += 1


def test_damage_to_any_record_but_the_last_is_refused(tmp_path: Path) -> None:
    assert flip_each_record(tmp_path) >= 8


def test_cutting_at_any_bad_checksum_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventdb.storage.care.recovery._check_tail", lambda writer, tail, cut: 0)
    with pytest.raises(AssertionError, match="cut off"):
        flip_each_record(tmp_path)
