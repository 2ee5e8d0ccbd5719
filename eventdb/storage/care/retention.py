"""Retention: which events are old enough, or too many, and when they go. trim.py says how.

A pass looks at every partition with limits. By age: whole segments whose newest event (event time where the topic has
one, else append time) is older than `retention`; the active segment is closed after a share of that time, so that slow
topics are trimmed too. By `max_bytes`: whole segments from the front, never the active one. By `max_rows`: exactly.

One process at a time does it in its maintenance thread, the holder of the lease; trimming on demand needs no lease.

The wall clock is not believed blindly. A clock that goes back removes less, so only jumps ahead matter: when it moves
against the monotonic clock between two passes, or lies far ahead of the newest append when a process begins, nothing
is removed by age for a while (CLOCK_GRACE_MS), in which a wrong clock gets corrected.
"""

from __future__ import annotations

import contextlib
import fcntl

from eventdb.config import (
    CLOCK_GAP_US,
    CLOCK_GRACE_MS,
    CLOCK_JUMP_US,
    READER_GRACE_MS,
    RETENTION_INTERVAL_MS,
    RETENTION_ROLL_SHARE,
)
from eventdb.errors import DiskFullError
from eventdb.storage.care.gone import collect, gone_files
from eventdb.storage.care.trim import close_active, trim
from eventdb.storage.device.directory import ensure_reserve
from eventdb.storage.device.files import storage_error
from eventdb.storage.format import NO_MAX_TIME, NO_SEGMENT, SEGMENT
from eventdb.storage.segment.gap import GAP
from eventdb.storage.segment.limits import segments, stored_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from eventdb.storage.device.files import Clock
    from eventdb.storage.segment.limits import Limits
    from eventdb.storage.segment.log import PartitionLog, PartitionState
    from eventdb.storage.snapshot import StoreSnapshot
    from eventdb.storage.store import Store

LEASE_NAME = "RETENTION"


class WallClock:
    """The wall clock as far as it can be believed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._seen: tuple[int, int] | None = None  # wall us and monotonic ns of the last look
        self._doubted_until_ns = 0

    def now_us(self, newest_us: int) -> int | None:
        """The time; None while it is in doubt. `newest_us` is when the database was last appended to (0 = never)."""
        wall, mono = self._clock.time_us(), self._clock.monotonic_ns()
        seen, self._seen = self._seen, (wall, mono)
        if seen is None:
            doubtful = wall - newest_us > CLOCK_GAP_US if newest_us else False
        else:
            doubtful = wall - seen[0] - (mono - seen[1]) // 1000 > CLOCK_JUMP_US
        if doubtful:
            self._doubted_until_ns = mono + CLOCK_GRACE_MS * 1_000_000
        return wall if mono >= self._doubted_until_ns else None


class Report:
    """What a pass did: partitions trimmed, segments dropped, files removed, whether the clock was in doubt."""

    __slots__ = ("clock_doubted", "files_removed", "files_waiting", "partitions_trimmed", "segments_dropped")

    def __init__(self) -> None:
        self.partitions_trimmed = self.segments_dropped = self.files_removed = self.files_waiting = 0
        self.clock_doubted = False


class Retention:
    """Of one store. `step` is called by the maintenance thread often, `run` and `trim` by anybody."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._clock = store._clock
        self._wall = WallClock(store._clock)
        self._providers: list[Callable[[], Iterable[PartitionLog]]] = []
        self._next_ns = 0
        self._lease_fd = -1
        self._leased = False
        self._waiting_since: dict[bytes, int] = {}
        self._held_by: list[tuple[int, int]] = []
        self._reserve_used = False
        self.last = Report()

    def add(self, logs: Callable[[], Iterable[PartitionLog]]) -> None:
        """`logs` gives the partitions that have limits, whenever asked."""
        self._providers.append(logs)

    def remove(self, logs: Callable[[], Iterable[PartitionLog]]) -> None:
        with contextlib.suppress(ValueError):
            self._providers.remove(logs)

    def limit(self, log: PartitionLog, limits: Limits | None) -> None:
        """The log's limits are these from the next commit on."""
        if log.limits == limits:
            return
        writer = self._store._writer
        with contextlib.nullcontext() if writer is None else writer.mutex:
            log.limits = limits
            log.generation = -1  # the short way of appending (append.py) asks again

    # -- the pass ------------------------------------------------------------------------------

    def step(self) -> None:
        """A pass, if one is due and no other process does it. Typed errors; the next step tries again."""
        now = self._clock.monotonic_ns()
        if now < self._next_ns:
            return
        self._next_ns = now + RETENTION_INTERVAL_MS * 1_000_000
        self._release_mappings()
        if self._acquire():
            self.run()

    def run(self, *, trust_clock: bool = False) -> Report:
        """Applies every limit now; `trust_clock` says that the caller vouches for the wall clock."""
        report = Report()
        logs = {log.key: log for provider in list(self._providers) for log in provider()}
        with self._store.snapshot() as snapshot:
            states = {key: snapshot._state(log) for key, log in logs.items()}
            newest = max((state.append_us for state in states.values()), default=0)
            now_us = self._wall.now_us(newest)
            if trust_clock:
                now_us = self._clock.time_us()
            report.clock_doubted = now_us is None
            starts = {key: _start(snapshot, log, states[key], now_us) for key, log in logs.items()}
            starts = {key: start for key, start in starts.items() if start > states[key].log_start}
            closing = [
                log for key, log in logs.items() if key not in starts and _is_aged(snapshot, log, states[key], now_us)
            ]
        if starts or closing:
            report.partitions_trimmed = len(starts)
            report.segments_dropped = self._commit([(logs[key], start) for key, start in starts.items()], closing)
        self._collect(report)
        self._restore_reserve()
        self.last = report
        return report

    def trim(self, log: PartitionLog, start: int) -> int:
        """Offsets below `start` are gone for good; returns the log's start. Their files go as soon as no reader needs
        them. Works on a full disk."""
        report = Report()
        report.segments_dropped = self._commit([(log, start)], [])
        self._collect(report)
        self._restore_reserve()
        with self._store.snapshot() as snapshot:
            return snapshot.offsets(log)[0]

    def _commit(self, starts: list[tuple[PartitionLog, int]], closing: list[PartitionLog]) -> int:
        """One commit moves every start; on a full disk the reserve makes room for it."""
        beside = [(log.beside, start) for log, start in starts if log.beside is not None]
        with self._store.snapshot() as snapshot:
            starts = starts + [(log, snapshot.search(log, start)) for log, start in beside]
        try:
            return self._commit_once(starts, closing)
        except DiskFullError:
            self._free_reserve()
            return self._commit_once(starts, [])

    def _commit_once(self, starts: list[tuple[PartitionLog, int]], closing: list[PartitionLog]) -> int:
        with self._store.write() as transaction:
            dropped = sum([trim(transaction, log, start) for log, start in starts])
            for log in closing:
                close_active(transaction, log)
        return dropped

    def _free_reserve(self) -> None:
        self._reserve_used = True
        with contextlib.suppress(OSError):
            self._store._files.unlink(f"{self._store.path}/reserve")

    def _restore_reserve(self) -> None:
        """The reserve has its blocks again, as soon as there is room."""
        if self._reserve_used:
            self._reserve_used = not ensure_reserve(self._store._files, self._store.path)

    # -- files ---------------------------------------------------------------------------------

    def _collect(self, report: Report) -> None:
        """Removes the files that nobody can need, whoever noted them as gone."""
        writer = self._store._require_writer()
        self._release_mappings()
        now = self._clock.monotonic_ns()
        waiting = gone_files(writer)
        self._waiting_since = {file.key: self._waiting_since.get(file.key, now) for file in waiting}
        overdue = {file.txn_id for file in waiting if now - self._waiting_since[file.key] > READER_GRACE_MS * 1_000_000}
        try:
            report.files_removed = collect(writer, overdue)
        except DiskFullError:
            self._free_reserve()
            report.files_removed = collect(writer, overdue)
        waiting = gone_files(writer)
        self._waiting_since = {file.key: self._waiting_since.get(file.key, now) for file in waiting}
        report.files_waiting = len(waiting)
        newest = max((file.txn_id for file in waiting), default=0)
        readers = writer.index.readers() if waiting else []
        self._held_by = sorted({(pid, thread) for pid, thread, number in readers if number < newest})

    def _release_mappings(self) -> None:
        """Mappings of removed segments in this process go: a mapped file keeps its blocks."""
        store = self._store
        stale = []
        with store.snapshot() as snapshot:
            for log in list(store._logs.values()):
                if log.forget_before(snapshot.first_base(log)):
                    stale.append(log)
        writer = store._writer
        if stale and writer is not None:
            writer.lock()
            try:
                for log in stale:
                    log.drop_writer_state()
            finally:
                writer.unlock()

    # -- the lease -----------------------------------------------------------------------------

    def _acquire(self) -> bool:
        """Whether this process is the one that applies limits. The kernel drops the lease when its holder dies."""
        store = self._store
        if self._leased:
            return True
        path = f"{store.path}/{LEASE_NAME}"
        try:
            if self._lease_fd < 0:
                self._lease_fd = store._files.create(path, exclusive=False)
                store._fds.append(self._lease_fd)
            store._files.flock(self._lease_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError as error:
            raise storage_error(error, "locking", path) from error
        self._leased = True
        return True

    def stats(self) -> dict[str, object]:
        """Whether this process applies limits, whether the clock is in doubt, and who keeps removed files from going:
        (pid, thread) of readers that began before the removal."""
        return {
            "applied_here": self._leased,
            "clock_doubted": self.last.clock_doubted,
            "files_waiting": len(self._waiting_since),
            "held_by": list(self._held_by),
        }


def _start(snapshot: StoreSnapshot, log: PartitionLog, state: PartitionState, now_us: int | None) -> int:
    """Where the log begins once its limits are kept."""
    limits, start = log.limits, state.log_start
    if limits is None or not limits.trims or state.log_end == start:
        return start
    if limits.retention_us is not None and now_us is not None:
        start = max(start, _start_by_age(snapshot, log, state, now_us - limits.retention_us))
    if limits.reject:
        return start
    if limits.max_rows is not None:
        start = max(start, state.log_end - limits.max_rows)
    if limits.max_bytes is not None:
        start = max(start, _start_by_bytes(snapshot, log, state, limits.max_bytes))
    return start


def _start_by_age(snapshot: StoreSnapshot, log: PartitionLog, state: PartitionState, before_us: int) -> int:
    """The first offset of the first segment whose newest event is not older than `before_us`."""
    found = list(segments(snapshot.transaction(), log))
    for i, (base, value) in enumerate(found):
        end = found[i + 1][0] if i + 1 < len(found) else state.log_end
        newest = _newest_us(snapshot, log, state, base, end, value)
        if newest is None or newest >= before_us:
            return max(base, state.log_start)
    return state.log_end


def _newest_us(
    snapshot: StoreSnapshot, log: PartitionLog, state: PartitionState, base: int, end: int, value: bytes
) -> int | None:
    """The newest event time of a segment, or append time where no event has one; None of an empty segment. A gap is
    older than anything."""
    if end <= base:
        return None
    if value == GAP:
        return NO_MAX_TIME
    if log.event_time is not None:
        newest: int = state.max_time if base == state.base else SEGMENT.unpack_from(value)[2]
        if newest != NO_MAX_TIME:
            return newest
    return _append_us(snapshot, log, end - 1, state)


def _append_us(snapshot: StoreSnapshot, log: PartitionLog, offset: int, state: PartitionState) -> int:
    if offset < state.log_start:
        return 0  # of a segment whose last event is gone already
    return next(iter(snapshot.rows(log, offset, offset + 1)))[0][1]


def _start_by_bytes(snapshot: StoreSnapshot, log: PartitionLog, state: PartitionState, most: int) -> int:
    """The first offset of the segments, counted from the newest, that `most` bytes hold; the newest always stays."""
    found = [(base, stored_bytes(value)) for base, value in segments(snapshot.transaction(), log)]
    start = state.log_end
    left = most
    for base, size in reversed(found):
        if size > left and start != state.log_end:
            break
        left -= size
        start = base
    return max(start, state.log_start)


def _is_aged(snapshot: StoreSnapshot, log: PartitionLog, state: PartitionState, now_us: int | None) -> bool:
    """Whether the active segment began so long ago that it should take no more rows."""
    limits = log.limits
    if limits is None or limits.retention_us is None or now_us is None or state.base == NO_SEGMENT:
        return False
    first = max(state.base, state.log_start)
    if state.log_end <= first:
        return False
    return now_us - _append_us(snapshot, log, first, state) > limits.retention_us // RETENTION_ROLL_SHARE


__all__ = ["Report", "Retention", "WallClock"]
