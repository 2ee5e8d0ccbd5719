"""A seeded life of one database directory against a list: operations, crashes, recoveries, and what must be left.

Promises checked at every reopening: it opens; the journaled state is that of a prefix of the commits, of all
acknowledged ones after a process crash or in `commit` mode, of all flushed ones otherwise; unjournaled (derived)
commits are a prefix too, never ahead of the journaled commits they were made from, and whole after a process crash;
offsets are dense, values equal, check(deep=True) finds nothing. Within a life, snapshots opened before stay what they
were.
"""

from __future__ import annotations

import os
import random
from typing import Any

import numpy as np

from eventdb.batch import Column, Dictionary
from eventdb.schema import DataType, Field, Schema
from eventdb.storage import PartitionLog, Store, StoreSnapshot
from tests.faults import Crash, SimulatedDisk, SimulatedFiles, let_go

Row = tuple[Any, ...]

SCHEMAS = {
    1: Schema([Field("k", DataType("VARCHAR")), Field("n", DataType("BIGINT"), nullable=False)]),
    2: Schema([Field("ts", DataType("TIMESTAMP")), Field("s", DataType("VARCHAR")), Field("b", DataType("BLOB"))]),
    3: Schema([Field("n", DataType("BIGINT")), Field("w", DataType("VARCHAR"))]),
}
EVENT_TIMES = {1: None, 2: 0, 3: None}
DERIVED = 3

SMALL_LIMITS = {
    "segment.FIRST_SEGMENT_ROWS": 8,
    "segment.MAX_SEGMENT_ROWS": 64,
    "transaction.MAX_SEGMENT_ROWS": 64,
    "columns.MAX_SEGMENT_ROWS": 64,
    "transaction.MAX_PAYLOAD_BYTES": 700,
    "transaction.DICTIONARY_LIMIT": 24,
    "columns.DICTIONARY_LIMIT": 24,
    "columns.PWRITE_BYTES": 64,
    "transaction.HEAP_BYTES_PER_ROW": 4,
    "journal.JOURNAL_FIRST_BYTES": 4096,
    "journal.JOURNAL_MAX_BYTES": 16384,
    "directory.RESERVE_BYTES": 4096,
    "dictionary.CHUNK_LEAST_VALUES": 3,
    "dictionary.CHUNK_BYTES": 40,
    "seal.SEALED_BLOCK_ROWS": 16,
    "sealer.MAX_SEGMENT_ROWS": 256,
}


class Commit:
    """Rows by topic and keys (None = deleted) that became visible together; `after` journaled commits had happened."""

    def __init__(self, after: int) -> None:
        self.rows: dict[int, list[Row]] = {}
        self.keys: dict[bytes, bytes | None] = {}
        self.after = after


def state_of(commits: list[Commit], topics: tuple[int, ...]) -> tuple[dict[int, list[Row]], dict[bytes, bytes]]:
    rows: dict[int, list[Row]] = {topic: [] for topic in topics}
    keys: dict[bytes, bytes] = {}
    for commit in commits:
        for topic, added in commit.rows.items():
            rows[topic] += added
        for key, value in commit.keys.items():
            if value is None:
                keys.pop(key, None)
            else:
                keys[key] = value
    return rows, keys


class Simulation:
    """One directory under `root` in one durability mode. `run(lives)` crashes it that often."""

    def __init__(self, root: str, seed: int, durability: str) -> None:
        self.random = random.Random(seed)
        self.disk = SimulatedDisk(root, seed)
        self.path = os.path.join(root, "db")
        self.durability = durability
        self.journaled: list[Commit] = []
        self.derived: list[Commit] = []
        self.pending: Commit | None = None
        self.pending_derived = False
        self.flushed = 0  # journaled commits that a power cut must not take
        self.flushed_derived = 0
        self.power_since = False  # a power cut happened since the state was last known
        self.serial = 0
        self.files: SimulatedFiles = self.disk.files()
        self.store: Store | None = None
        self.snapshots: list[tuple[StoreSnapshot, dict[int, list[Row]]]] = []
        self.kinds: dict[str, int] = {}
        self.crashes_in_recovery = 0
        self.sealed_rows = 0

    # -- lives ---------------------------------------------------------------------------------

    def run(self, lives: int) -> None:
        for _ in range(lives):
            self.live()
        self.open(crashing=False)
        self.close()

    def live(self) -> None:
        power = self.random.random() < 0.6
        try:
            self.open(crashing=self.random.random() < 0.25)
            if self.random.random() < 0.8:
                self.files.crash_at(self.random.randint(1, 150), power=power)
            for _ in range(self.random.randint(1, 40)):
                self.step()
            self.files.crash(power=power)
        except BaseException:
            if not self.files.crashed:
                raise
            self.reap()

    def open(self, *, crashing: bool) -> None:
        if self.store is not None:
            return
        while True:
            self.files = self.disk.files()
            power = self.random.random() < 0.5
            if crashing:
                self.files.crash_at(self.random.randint(1, 90), power=power)
            try:
                self.store = Store.open(
                    self.path, durability=self.durability, files=self.files, clock=self.disk.clock(),
                    live_topics=lambda: SCHEMAS, maintenance=False,
                )  # fmt: skip
            except BaseException:
                if not self.files.crashed:
                    raise
                self.crashes_in_recovery += 1
                self.reap()
                crashing = self.random.random() < 0.3
                continue
            self.files.heal()
            kind = str(self.store.recovery_report["kind"])
            self.kinds[kind] = self.kinds.get(kind, 0) + 1
            self.settle()
            return

    def reap(self) -> None:
        """The process is dead: what the crash left becomes the directory."""
        if self.store is not None:
            let_go(self.store)
            self.store = None
        for snapshot, _ in self.snapshots:
            snapshot._txn = None
        self.snapshots.clear()
        self.disk.restart(self.files.left, power=self.files.lost_power)
        self.power_since |= self.files.lost_power

    def close(self) -> None:
        assert self.store is not None
        for snapshot, _ in self.snapshots:
            snapshot.close()
        self.snapshots.clear()
        store, self.store = self.store, None
        store.close()
        self.flushed, self.flushed_derived = len(self.journaled), len(self.derived)

    # -- judging -------------------------------------------------------------------------------

    def settle(self) -> None:
        """The store has just been opened: which commits are there? Then the model continues from that."""
        store = self.store
        assert store is not None
        journaled, derived = list(self.journaled), list(self.derived)
        if self.pending is not None:
            (derived if self.pending_derived else journaled).append(self.pending)
        safe = self.flushed if self.power_since and self.durability != "commit" else len(self.journaled)
        safe_derived = self.flushed_derived if self.power_since else len(self.derived)
        rows, keys = self.read()
        own = {k: v for k, v in keys.items() if not k.startswith(b"d")}
        count = self.match(journaled, (1, 2), rows, own, safe, "journaled")
        theirs = {k: v for k, v in keys.items() if k.startswith(b"d")}
        count_derived = self.match(derived, (DERIVED,), rows, theirs, safe_derived, "derived")
        if count_derived:
            ahead = derived[count_derived - 1].after
            assert ahead <= count, f"derived rows of commit {ahead} survived, but only {count} journaled commits"
        problems = store.check(deep=True)
        assert problems == [], problems
        self.journaled, self.derived = journaled[:count], derived[:count_derived]
        self.pending = None
        self.flushed, self.flushed_derived = count, count_derived
        self.power_since = False

    def match(
        self, commits: list[Commit], topics: tuple[int, ...], rows: dict[int, list[Row]], keys: dict[bytes, bytes],
        safe: int, what: str,
    ) -> int:  # fmt: skip
        for count in range(len(commits), safe - 1, -1):
            expected, expected_keys = state_of(commits[:count], topics)
            if expected_keys == keys and all(expected[topic] == rows[topic] for topic in topics):
                return count
        sizes = {topic: len(rows[topic]) for topic in topics}
        least = {topic: len(found) for topic, found in state_of(commits[:safe], topics)[0].items()}
        raise AssertionError(
            f"{what}: {sizes} rows, keys {keys} are no prefix of {len(commits)} commits with at least {safe} ({least})"
        )

    def read(self) -> tuple[dict[int, list[Row]], dict[bytes, bytes]]:
        assert self.store is not None
        with self.store.snapshot() as snapshot:
            return {topic: self.rows_of(snapshot, topic) for topic in SCHEMAS}, dict(snapshot.range(b""))

    def rows_of(self, snapshot: StoreSnapshot, topic: int) -> list[Row]:
        log = self.log(topic)
        start, stop = snapshot.offsets(log)
        found = [row for chunk in snapshot.rows(log, start, stop) for row in chunk]
        assert [row[0] for row in found] == list(range(stop)), "offsets are not dense"
        times = [row[1] for row in found]
        assert times == sorted(times), f"append times of topic {topic} go back: {times}"
        return [row[2] for row in found]

    def log(self, topic: int) -> PartitionLog:
        assert self.store is not None
        return self.store.log(topic, SCHEMAS[topic], EVENT_TIMES[topic])

    # -- operations ----------------------------------------------------------------------------

    def step(self) -> None:
        names = list(WEIGHTS)
        name = self.random.choices(names, [WEIGHTS[n] for n in names])[0]
        getattr(self, name)()

    def row(self, topic: int) -> Row:
        draw = self.random
        self.serial += 1
        word = draw.choice([None, "", "a", "b", f"w{draw.randint(0, 60)}", "ü" * draw.randint(1, 40)])
        if topic == 1:
            return (word, self.serial)
        if topic == 2:
            blob = draw.choice([None, b"", bytes([self.serial % 256]) * draw.randint(1, 200)])
            return (draw.choice([None, 1_000 + self.serial]), word, blob)
        return (self.serial, word)

    def commit(self, fill: Any, *, journaled: bool = True) -> None:
        """One transaction; `fill(transaction, commit)` does and notes its content."""
        assert self.store is not None
        commit = Commit(len(self.journaled))
        with self.store.write(journaled=journaled) as transaction:
            fill(transaction, commit)
            self.pending, self.pending_derived = commit, not journaled
        (self.journaled if journaled else self.derived).append(commit)
        self.pending = None

    def append_one(self) -> None:
        assert self.store is not None
        topic = self.random.choice((1, 1, 2))
        row = self.row(topic)
        commit = Commit(len(self.journaled))
        commit.rows[topic] = [row]
        self.pending, self.pending_derived = commit, False
        before = sum(len(c.rows.get(topic, ())) for c in self.journaled)
        assert self.store.append_row(self.log(topic), row) == before
        self.journaled.append(commit)
        self.pending = None

    def append_many(self) -> None:
        topic = self.random.choice((1, 2))
        rows = [self.row(topic) for _ in range(self.random.choice((1, 2, 5, 30, 90)))]

        def fill(transaction: Any, commit: Commit) -> None:
            transaction.append_rows(self.log(topic), rows)
            commit.rows[topic] = rows

        self.commit(fill)

    def append_columns(self) -> None:
        rows = [self.row(1) for _ in range(self.random.choice((1, 3, 40, 150)))]
        words = sorted({row[0] for row in rows if row[0] is not None}) or [""]
        codes = np.array([0 if row[0] is None else words.index(row[0]) for row in rows], np.int32)
        valid = np.array([row[0] is not None for row in rows])
        columns = [
            Column(DataType("VARCHAR"), codes, None if valid.all() else valid, Dictionary(words)),
            Column(DataType("BIGINT"), np.array([row[1] for row in rows], np.int64), None),
        ]

        def fill(transaction: Any, commit: Commit) -> None:
            transaction.append_columns(self.log(1), columns)
            commit.rows[1] = rows

        self.commit(fill)

    def transact(self) -> None:
        draw = self.random

        def fill(transaction: Any, commit: Commit) -> None:
            for topic in (1, 2):
                rows = [self.row(topic) for _ in range(draw.randint(1, 6))]
                transaction.append_rows(self.log(topic), rows)
                commit.rows[topic] = rows
            for _ in range(draw.randint(0, 2)):
                key = b"k%d" % draw.randint(0, 5)
                value = draw.choice((None, b"", b"v%d" % self.serial))
                if value is None:
                    transaction.delete(key)
                else:
                    transaction.put(key, value)
                commit.keys[key] = value

        self.commit(fill)

    def derive(self) -> None:
        rows = [self.row(DERIVED) for _ in range(self.random.choice((1, 4, 20)))]

        def fill(transaction: Any, commit: Commit) -> None:
            transaction.append_rows(self.log(DERIVED), rows)
            commit.rows[DERIVED] = rows
            commit.keys[b"done"] = b"%d" % commit.after
            transaction.put(b"done", commit.keys[b"done"])

        self.commit(fill, journaled=False)

    def abort(self) -> None:
        class Stop(Exception):
            pass

        def fill(transaction: Any, commit: Commit) -> None:
            topic = self.random.choice((1, 2))
            transaction.append_rows(self.log(topic), [self.row(topic) for _ in range(self.random.choice((1, 20)))])
            transaction.put(b"k1", b"aborted")
            raise Stop

        try:
            self.commit(fill)
        except Stop:
            return
        raise AssertionError("the exception was swallowed")

    def checkpoint(self) -> None:
        assert self.store is not None
        self.store.checkpoint()
        self.flushed, self.flushed_derived = len(self.journaled), len(self.derived)

    def flush(self) -> None:
        assert self.store is not None
        assert self.store._writer is not None
        self.store._writer.flush_journal()
        self.flushed = len(self.journaled)

    def rest(self) -> None:
        assert self.store is not None
        assert self.store._writer is not None
        writer = self.store._writer
        if writer.prepared and writer.is_checkpointed():
            writer.release_idle_pin(writer.commits)

    def look(self) -> None:
        assert self.store is not None
        for snapshot, expected in self.snapshots:
            for topic in SCHEMAS:
                assert self.rows_of(snapshot, topic) == expected[topic], "an old snapshot changed"
        if len(self.snapshots) > 2:
            self.snapshots.pop(0)[0].close()
        snapshot = self.store.snapshot()
        rows = {topic: self.rows_of(snapshot, topic) for topic in SCHEMAS}
        expected = state_of(self.journaled, (1, 2))[0] | state_of(self.derived, (DERIVED,))[0]
        assert rows == expected, "the newest snapshot is not what was committed"
        self.snapshots.append((snapshot, rows))

    def seal(self) -> None:
        assert self.store is not None
        self.sealed_rows += self.store.compact(full=self.random.random() < 0.5)["rows"]

    def reopen(self) -> None:
        self.close()
        strike_at, strike = self.files.strike_at - self.files.operations, self.files.strike
        self.open(crashing=False)
        if strike is not None and strike_at > 0:
            self.files.crash_at(strike_at, power=True)


WEIGHTS = {
    "append_one": 40, "append_many": 12, "append_columns": 6, "transact": 12, "derive": 8, "abort": 6, "checkpoint": 4,
    "flush": 4, "rest": 2, "look": 5, "reopen": 1, "seal": 4,
}  # fmt: skip

__all__ = ["SMALL_LIMITS", "Crash", "Simulation"]
