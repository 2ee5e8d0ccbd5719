"""Trimming and limits: what stays is a suffix, offsets never change, nothing trimmed comes back, whatever crashes."""

from __future__ import annotations

import contextlib
import errno
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventdb.errors import DiskFullError, OffsetOutOfRange, StorageError, TopicFull
from eventdb.storage import Store
from eventdb.storage.care import gone, retention, trim
from eventdb.storage.index.head import Head
from eventdb.storage.segment.limits import Limits, segments, stored_bytes
from tests.faults import SimulatedClock, SimulatedDisk, SimulatedFiles, let_go
from tests.storage.simulation import SCHEMAS
from tests.storage.test_recovery import append, crash, log, rows, start

pytestmark = pytest.mark.usefixtures("small")

HOUR = 3_600_000_000
ROWS = 200


class FakeClock(SimulatedClock):
    """Wall and monotonic time that move only when told."""

    def __init__(self) -> None:
        super().__init__("boot-0")
        self.wall_us = 1_700_000_000_000_000
        self.mono_us = 1_000_000
        self.monotonic_ns = lambda: self.mono_us * 1000  # type: ignore[method-assign]

    def time_us(self) -> int:
        return self.wall_us

    def pass_time(self, us: int) -> None:
        self.wall_us += us
        self.mono_us += us


def open_with(disk: SimulatedDisk, clock: FakeClock) -> Store:
    return Store.open(
        disk.root + "/db", durability="os", files=disk.files(), clock=clock, live_topics=lambda: SCHEMAS,
        maintenance=False,
    )  # fmt: skip


def limit(store: Store, topic: int = 1, **limits: Any) -> None:
    store.retention.limit(log(store, topic), Limits("t", **limits))
    store.retention._providers = [lambda: [log(store, topic)]]


def offsets(store: Store) -> tuple[int, int]:
    with store.snapshot() as snapshot:
        return snapshot.offsets(log(store))


def segment_files(disk: SimulatedDisk, topic: int = 1) -> list[int]:
    directory = f"{disk.root}/db/topics/{topic}/0"
    return sorted(int(name.split(".")[0]) for name in os.listdir(directory)) if os.path.isdir(directory) else []


def kept_bases(store: Store) -> list[int]:
    with store.snapshot() as snapshot:
        return [base for base, _ in segments(snapshot.transaction(), log(store))]


# --- crashes ----------------------------------------------------------------------------------------------------------


class Life:
    """Rows appended and starts asked for, acknowledged or not, up to a crash."""

    def __init__(self, disk: SimulatedDisk) -> None:
        self.disk = disk
        self.rows: list[Any] = []
        self.acknowledged = self.asked = 0

    def run(self, store: Store) -> None:
        for step, begin in enumerate((3, 40, 40, 90, 130, ROWS + 999)):
            made = [("a", len(self.rows) + i) for i in range(ROWS // 5)] if step < 5 else []
            self.rows += made
            if made:
                with store.write() as transaction:
                    transaction.append_rows(log(store), made[: len(made) // 2])
                store.append_row(log(store), made[len(made) // 2])
                with store.write() as transaction:
                    transaction.append_rows(log(store), made[len(made) // 2 + 1 :])
            self.asked = max(self.asked, begin)
            self.acknowledged = max(self.acknowledged, store.retention.trim(log(store), begin))

    def judge(self, store: Store) -> int:
        """The log's start; the log is what was promised."""
        begin, end = offsets(store)
        assert self.acknowledged <= begin <= min(self.asked, end)
        assert rows(store) == self.rows[begin:end]
        assert store.check(deep=True) == []
        return begin


def sweep(tmp_path: Path, *, power: bool, every: int = 1) -> int:
    """A crash at every operation of a life; how many fired."""
    for fired, count in enumerate(range(1, 4000, every)):
        root = tmp_path / f"{power}-{count}"
        root.mkdir()
        disk = SimulatedDisk(str(root), count)
        files = disk.files()
        store = start(disk, "commit", files)
        life = Life(disk)
        files.crash_at(count, power=power)
        WATCHED[:] = [files]
        try:
            life.run(store)
        except BaseException:
            if not files.crashed:
                let_go(store)
                raise
        finally:
            WATCHED.clear()
        if not files.crashed:
            files.heal()
            store.close()
            return fired
        let_go(store)
        disk.restart(files.left, power=power)
        survive(disk, life)
    raise AssertionError("the life never ended")


def survive(disk: SimulatedDisk, life: Life) -> None:
    """Opened twice after the crash: the start stays, rows can be appended, and no file of a trimmed segment is left."""
    store = start(disk)
    begin = life.judge(store)
    life.acknowledged = begin
    crash(disk, store, power=True)
    store = start(disk)
    assert life.judge(store) == begin, "the start moved although nobody trimmed"
    end = offsets(store)[1]
    del life.rows[end:]
    life.rows += append(store, 20, first=end)
    store.retention.run()
    assert life.judge(store) == begin
    assert segment_files(disk) == kept_bases(store), "files are left that no index entry names"
    store.close()


WATCHED: list[SimulatedFiles] = []


@pytest.fixture
def head_ticks(monkeypatch: pytest.MonkeyPatch) -> None:
    """The head's moves are places to crash at, too."""
    whole = Head.write

    def write(self: Head, data: bytes) -> int:
        for files in WATCHED:
            files.tick("head")
        return whole(self, data)

    monkeypatch.setattr(Head, "write", write)


@pytest.mark.parametrize("power", [False, True])
def test_a_crash_at_any_operation_of_trimming_keeps_the_start_and_brings_nothing_back(
    tmp_path: Path, head_ticks: None, power: bool
) -> None:
    assert sweep(tmp_path, power=power, every=2 if power else 3) > 50


def unlink_at_once(patch: pytest.MonkeyPatch) -> None:
    """Files go before the commit that no longer needs them is durable."""
    whole = retention.Retention._commit_once

    def commit(self: Any, starts: Any, closing: Any) -> int:
        before = {log: kept_bases_of(self._store, log) for log, _ in starts}
        dropped = whole(self, starts, closing)
        for log_, bases in before.items():
            for base in set(bases) - set(kept_bases_of(self._store, log_)):
                self._store._files.unlink(f"{self._store.path}/topics/{log_.topic_id}/0/{base:020d}.seg")
        return dropped

    patch.setattr(retention.Retention, "_commit_once", commit)


def kept_bases_of(store: Store, of: Any) -> list[int]:
    with store.snapshot() as snapshot:
        return [base for base, _ in segments(snapshot.transaction(), of)]


def start_not_journaled(patch: pytest.MonkeyPatch) -> None:
    whole = trim.trim

    def unjournaled(transaction: Any, log_: Any, begin: int) -> int:
        dropped = whole(transaction, log_, begin)
        staged = transaction._staged.get(log_)
        if staged is not None:
            staged.moved = False
        return dropped

    patch.setattr(retention, "trim", unjournaled)
    patch.setattr(retention.Retention, "_collect", lambda self, report: None)  # its checkpoint would hide it


def directory_not_flushed(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(gone, "_flush_directories", lambda writer, paths: None)


@pytest.mark.parametrize("plant", [unlink_at_once, start_not_journaled, directory_not_flushed])
def test_a_planted_bug_is_caught(tmp_path: Path, head_ticks: None, monkeypatch: pytest.MonkeyPatch, plant: Any) -> None:
    plant(monkeypatch)
    try:
        sweep(tmp_path, power=True)
    except (AssertionError, StorageError, FileNotFoundError):
        return
    finally:
        monkeypatch.undo()
    pytest.fail(f"nothing noticed {plant.__name__}")


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_a_failed_operation_of_trimming_loses_nothing_and_a_later_trim_completes_it(tmp_path: Path, code: int) -> None:
    fired = 0
    for count in range(1, 300):
        root = tmp_path / str(count)
        root.mkdir()
        disk = SimulatedDisk(str(root), count)
        files = disk.files()
        store = start(disk, "os", files)
        made = append(store, ROWS)
        files.fail_at(count, code)
        with contextlib.suppress(StorageError):
            store.retention.trim(log(store), 150)
        files.heal()
        done = files.fired == 0
        fired += not done
        if store._require_writer().poison_reason:
            crash(disk, store, power=False)
            store = start(disk, "os")
        begin = offsets(store)[0]
        assert begin in (0, 150)
        assert rows(store) == made[begin:]
        assert store.retention.trim(log(store), 150) == 150
        assert segment_files(disk) == kept_bases(store)
        assert store.check(deep=True) == []
        store.close()
        if done:
            break
    assert fired > 5


# --- limits -----------------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(
    batches=st.lists(st.tuples(st.integers(1, 60), st.integers(0, 3 * HOUR)), min_size=1, max_size=12),
    retention_us=st.none() | st.integers(1, 6 * HOUR),
    max_rows=st.none() | st.integers(1, 120),
    max_bytes=st.none() | st.integers(1 << 14, 1 << 17),
)
def test_what_stays_is_the_suffix_the_limits_allow(
    tmp_path_factory: pytest.TempPathFactory, batches: Any, retention_us: Any, max_rows: Any, max_bytes: Any
) -> None:
    disk = SimulatedDisk(str(tmp_path_factory.mktemp("disk")))
    clock = FakeClock()
    store = open_with(disk, clock)
    limit(store, retention_us=retention_us, max_rows=max_rows, max_bytes=max_bytes)
    model: list[tuple[Any, int]] = []  # (row, append time)
    begin = 0
    for count, pause in batches:
        made = append(store, count, first=len(model))
        model += [(row, clock.wall_us) for row in made]
        clock.pass_time(pause)
        store.retention.run(trust_clock=True)
        before, (begin, end) = begin, offsets(store)
        assert before <= begin <= end == len(model), "the start went back, or the end moved"
        assert rows(store) == [row for row, _ in model[begin:]]
        if max_rows is not None:
            assert end - begin <= max_rows
        with store.snapshot() as snapshot:
            found = list(segments(snapshot.transaction(), log(store)))
        if max_bytes is not None:
            assert sum(stored_bytes(value) for _, value in found) <= max_bytes or len(found) == 1
        if retention_us is not None:
            cutoff = clock.wall_us - retention_us
            if found:  # the newest row of the first segment is not too old
                stop = found[1][0] if len(found) > 1 else end
                assert model[stop - 1][1] >= cutoff
            if max_rows is None and max_bytes is None and begin:
                assert all(at < cutoff for _, at in model[:begin]), "a row was removed too early"
    store.close()


def test_a_slow_topic_loses_old_events_although_its_segment_is_not_full(disk: SimulatedDisk) -> None:
    clock = FakeClock()
    store = open_with(disk, clock)
    limit(store, retention_us=8 * HOUR)
    for i in range(40):  # one an hour, with room for eight in the smallest segment
        append(store, 1, first=i)
        clock.pass_time(HOUR)
        store.retention.run(trust_clock=True)
    begin, end = offsets(store)
    assert end == 40
    assert 28 <= begin <= 32
    store.close()


def test_event_time_counts_where_the_topic_has_one(disk: SimulatedDisk) -> None:
    clock = FakeClock()
    store = open_with(disk, clock)
    limit(store, topic=2, retention_us=HOUR)
    with store.write() as transaction:
        transaction.append_rows(log(store, 2), [(clock.wall_us - 2 * HOUR, "x", b"")] * 8)
    with store.write() as transaction:
        transaction.append_rows(log(store, 2), [(clock.wall_us, "x", b"")] * 8)
    store.retention.run()
    with store.snapshot() as snapshot:
        assert snapshot.offsets(log(store, 2)) == (8, 16)
    store.close()


def test_an_append_beyond_a_rejecting_limit_stores_nothing_and_names_it(disk: SimulatedDisk) -> None:
    store = start(disk)
    limit(store, max_rows=50, reject=True)
    append(store, 30)
    for i in range(20):
        store.append_row(log(store), ("a", 30 + i))
    for refused in (lambda: store.append_row(log(store), ("a", 50)), lambda: append(store, 1)):
        with pytest.raises(TopicFull, match="max_rows allows 50") as caught:
            refused()
        assert caught.value.limit == "max_rows"
    assert len(rows(store)) == 50
    store.retention.trim(log(store), 7)
    store.append_row(log(store), ("a", 50))
    with pytest.raises(TopicFull):
        append(store, 7)
    assert offsets(store) == (7, 51)
    assert store.check(deep=True) == []
    store.close()


def test_a_rejecting_topic_never_takes_more_bytes_than_it_may(disk: SimulatedDisk) -> None:
    store = start(disk)
    limit(store, max_bytes=40_000, reject=True)

    def fill() -> None:
        for i in range(1000):
            append(store, 8, first=i * 8)

    with pytest.raises(TopicFull, match="max_bytes allows 40000"):
        fill()
    assert sum(os.path.getsize(f"{disk.root}/db/topics/1/0/{b:020d}.seg") for b in segment_files(disk)) <= 40_000
    assert store.check(deep=True) == []
    store.close()


# --- clocks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("jump", [24 * HOUR, 365 * 24 * HOUR])
def test_a_clock_that_jumps_ahead_removes_nothing_until_it_has_been_believed(disk: SimulatedDisk, jump: int) -> None:
    clock = FakeClock()
    store = open_with(disk, clock)
    limit(store, retention_us=HOUR)
    append(store, 20)
    store.retention.run()
    clock.wall_us += jump
    assert store.retention.run().clock_doubted
    for _ in range(5):
        clock.pass_time(60_000_000)
        store.retention.run()
    assert offsets(store) == (0, 20)
    clock.wall_us -= jump  # it is put right
    clock.pass_time(20 * 60_000_000)
    assert not store.retention.run().clock_doubted
    assert offsets(store) == (0, 20)
    clock.pass_time(HOUR)
    store.retention.run()
    assert offsets(store) == (20, 20)
    store.close()


@pytest.mark.parametrize("wall_us", [0, 1_500_000_000_000_000])
def test_a_clock_that_goes_back_removes_nothing_and_stops_nothing(disk: SimulatedDisk, wall_us: int) -> None:
    clock = FakeClock()
    store = open_with(disk, clock)
    limit(store, retention_us=HOUR, max_rows=30)
    append(store, 20)
    store.retention.run()
    clock.wall_us = wall_us
    store.retention.run()
    append(store, 20, first=20)
    store.retention.run()
    assert offsets(store) == (10, 40)  # by rows only
    store.close()


def test_a_process_that_begins_with_a_clock_far_ahead_waits(disk: SimulatedDisk) -> None:
    clock = FakeClock()
    store = open_with(disk, clock)
    append(store, 20)
    store.close()
    clock.wall_us += 30 * 24 * HOUR
    store = open_with(disk, clock)
    limit(store, retention_us=HOUR)
    assert store.retention.run().clock_doubted
    assert offsets(store) == (0, 20)
    clock.pass_time(11 * 60_000_000)  # it was right: the database had only been closed
    assert store.retention.run().segments_dropped
    assert offsets(store) == (20, 20)
    store.close()


# --- readers, disks ---------------------------------------------------------------------------------------------------


def test_an_older_snapshot_reads_on_and_is_named_until_it_closes(disk: SimulatedDisk) -> None:
    store = start(disk)
    made = append(store, ROWS)
    with store.snapshot() as old:
        assert store.retention.trim(log(store), 150) == 150
        assert [row[2] for chunk in old.rows(log(store), 0, ROWS) for row in chunk] == made
        assert segment_files(disk)[0] == 0
        stats = store.retention.stats()
        assert stats["files_waiting"]
        assert [pid for pid, _ in stats["held_by"]] == [os.getpid()]  # type: ignore[union-attr]
        with pytest.raises(OffsetOutOfRange), store.snapshot() as new:
            list(new.rows(log(store), 0, 1))
    store.retention.run()
    assert segment_files(disk) == kept_bases(store)
    assert store.retention.stats()["files_waiting"] == 0
    store.close()


def test_a_snapshot_held_too_long_gets_a_typed_error_for_what_it_has_not_mapped(disk: SimulatedDisk) -> None:
    clock = FakeClock()
    store = open_with(disk, clock)
    append(store, ROWS)
    with store.snapshot() as old:
        store.retention.trim(log(store), 150)
        clock.pass_time(11 * 60_000_000)
        store.retention.run()
        assert segment_files(disk)[0] > 0
        with pytest.raises(OffsetOutOfRange, match="removed by retention") as caught:
            list(old.rows(log(store), 0, 1))
        assert caught.value.earliest == 150
    store.close()


class FullFiles(SimulatedFiles):
    """No room for another journal file while the reserve is there."""

    full = False

    def create(self, path: str, *, exclusive: bool = True) -> int:
        if self.full and "/journal/" in path and os.path.exists(f"{self.disk.root}/db/reserve"):
            self.fired += 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().create(path, exclusive=exclusive)


def test_a_full_disk_is_freed_with_the_help_of_the_reserve(disk: SimulatedDisk) -> None:
    files = FullFiles(disk)
    store = start(disk, "commit", files)
    made = append(store, 60)
    files.full = True

    def fill() -> None:
        for i in range(1000):  # until the journal needs a new file
            made.extend(append(store, 1, first=60 + i))

    with pytest.raises(DiskFullError):
        fill()
    assert store.retention.trim(log(store), 50) == 50
    assert files.fired > 1
    assert rows(store) == made[50:]
    assert segment_files(disk) == kept_bases(store)
    files.full = False
    store.retention.run()
    append(store, 5)
    assert os.path.exists(f"{disk.root}/db/reserve")
    store.close()


def test_freed_segments_give_their_blocks_back(disk: SimulatedDisk) -> None:
    store = start(disk, "os")
    append(store, ROWS)
    with store.snapshot() as snapshot:
        list(snapshot.rows(log(store), 0, ROWS))  # all mapped
    store.retention.trim(log(store), ROWS)
    maps = Path("/proc/self/maps").read_text()
    assert f"{disk.root}/db/topics/1/0/" not in maps
    assert segment_files(disk) == []
    append(store, 3, first=ROWS)
    assert offsets(store) == (ROWS, ROWS + 3)
    store.close()
