"""One simulated process: its own Store, snapshots, pin, caches, descriptors and clock, and what it does with them."""

from __future__ import annotations

import random
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import numpy as np

from eventdb.batch import Column, Dictionary
from eventdb.errors import StorageError
from eventdb.schema import DataType, Field, Schema
from eventdb.storage import PartitionLog, Store, StoreSnapshot
from eventdb.storage import store as store_module
from tests.faults import SimulatedDisk, SimulatedFiles, let_go
from tests.storage.history import Commit, History, Keys, Row, Rows

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.storage.simulation import Simulation

SCHEMAS = {
    1: Schema([Field("k", DataType("VARCHAR")), Field("n", DataType("BIGINT"), nullable=False)]),
    2: Schema([Field("ts", DataType("TIMESTAMP")), Field("s", DataType("VARCHAR")), Field("b", DataType("BLOB"))]),
    3: Schema([Field("n", DataType("BIGINT")), Field("w", DataType("VARCHAR"))]),
}
EVENT_TIMES = {1: None, 2: 0, 3: None}
JOURNALED, DERIVED = (1, 2), 3
VARCHARS = ((1, 0), (2, 1), (3, 1))
LATEST_ROWS = 100
MODES = ("commit", "interval:50ms", "os")


class ProcessFiles(SimulatedFiles):
    """Between any two of its operations another process may run."""

    def __init__(self, disk: SimulatedDisk, preempt: Callable[[], None]) -> None:
        super().__init__(disk)
        self._preempt = preempt

    def tick(self, name: str) -> None:
        if not self.crashed:
            self._preempt()
        super().tick(name)


class Process:
    """Operations are methods without arguments. What they do is the seed's choice, what must come of it is checked."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.random: random.Random = simulation.random
        self.history: History = simulation.history
        self.files: SimulatedFiles = simulation.disk.files()
        self.store: Store | None = None
        self.active = False  # in the middle of an operation
        self.durability = ""
        self.pending: Commit | None = None  # begun, not acknowledged
        self.last: Commit | None = None  # newest journaled commit of its own
        self.checkpointed = -1  # its number of commits at its last checkpoint
        self.snapshots: list[tuple[StoreSnapshot, Rows, Keys]] = []

    @property
    def writer(self) -> Any:
        return None if self.store is None else self.store._writer

    @property
    def checkpoints(self) -> int:
        return self.writer.checkpoints if self.writer is not None else 0

    # -- coming and going ----------------------------------------------------------------------

    def open_to_read(self) -> None:
        if self.simulation.created:
            self.open(read_only=True)

    def open(self, *, read_only: bool = False) -> None:
        simulation, draw = self.simulation, self.random
        several = len(simulation.processes) > 1
        mode = draw.choice(MODES) if simulation.durability == "mixed" else simulation.durability
        read_only = read_only or (several and simulation.created and draw.random() < 0.15)
        self.files = ProcessFiles(simulation.disk, simulation.preempt)
        self.durability, self.last, self.checkpointed = mode, None, -1
        if draw.random() < (0.05 if several and simulation.is_open() else 0.3):
            self.files.crash_at(draw.randint(1, 90), power=draw.random() < 0.5)
        # A writer that recovers waits for a read-only open to end: it cannot run inside one.
        waited_for = read_only and simulation.power_since
        try:
            with simulation.undisturbed() if waited_for else nullcontext():
                self.store = Store.open(
                    simulation.path, durability=mode, read_only=read_only, files=self.files,
                    clock=simulation.disk.clock(), live_topics=lambda: SCHEMAS, maintenance=False,
                )  # fmt: skip
        except StorageError as error:
            if not read_only:
                raise
            recovering = "by another process" in str(error) and any(p.active for p in simulation.others(self))
            if recovering or ("open" in str(error) and "once" in str(error) and simulation.power_since):
                return
            raise
        except BaseException:
            simulation.crashes_in_opening += self.files.crashed
            raise
        # The next open makes a Store of its own: it is another process.
        store_module._stores.pop(self.store._identity, None)
        simulation.created = True
        self.files.heal()
        with simulation.undisturbed():
            self._settle()

    def _settle(self) -> None:
        simulation, store, history = self.simulation, self.store, self.history
        assert store is not None
        rows, keys = self.read(None if simulation.power_since or not simulation.is_busy(self) else history.rows)
        if simulation.power_since:
            history.require_after_power_cut(rows, keys)
            simulation.power_since = False
        else:
            history.require(rows, keys, self._in_flight())
        alone = not simulation.is_busy(self)
        if alone and not store.read_only:
            history.maybes.clear()  # recovery has decided
        kind = str(store.recovery_report["kind"])
        simulation.kinds[kind] = simulation.kinds.get(kind, 0) + 1
        problems = store.check(deep=True) if alone or self.random.random() < 0.2 else []
        assert problems == [], problems

    def close(self) -> None:
        assert self.store is not None
        self.drop_snapshots()
        store, self.store = self.store, None  # it lets go of everything itself, even if it dies of it
        store.close()

    def reopen(self) -> None:
        self.close()
        self.open()

    def drop_snapshots(self) -> None:
        for snapshot, _, _ in self.snapshots:
            snapshot.close()
        self.snapshots.clear()

    def bury(self) -> None:
        """Its descriptors, locks and reader slots go, without a word to the disk."""
        if self.store is not None:
            let_go(self.store)
            self.store = None
        for snapshot, _, _ in self.snapshots:
            snapshot._txn = None
        self.snapshots.clear()
        self.history.died(self.pending)
        self.pending = None

    def kill(self) -> None:
        self.files.crash(power=False)

    # -- reading -------------------------------------------------------------------------------

    def log(self, topic: int) -> PartitionLog:
        assert self.store is not None
        return self.store.log(topic, SCHEMAS[topic], EVENT_TIMES[topic])

    def read(self, known: Rows | None = None) -> tuple[Rows, Keys]:
        assert self.store is not None
        with self.store.snapshot() as snapshot:
            return self.read_from(snapshot, known)

    def read_from(self, snapshot: StoreSnapshot, known: Rows | None = None) -> tuple[Rows, Keys]:
        """What it shows. With `known`, mostly the newest rows are read and the ones before taken from there."""
        rows: Rows = {}
        for topic in SCHEMAS:
            before = known[topic] if known is not None and self.random.random() < 0.8 else []
            before = before[: max(0, len(before) - LATEST_ROWS)]
            rows[topic] = before + self.rows_of(snapshot, topic, len(before))
        return rows, dict(snapshot.range(b""))

    def rows_of(self, snapshot: StoreSnapshot, topic: int, start: int) -> list[Row]:
        log = self.log(topic)
        stop = snapshot.offsets(log)[1]
        assert stop >= start, f"topic {topic} ends at {stop}, but had {start} rows"
        found = [row for chunk in snapshot.rows(log, start, stop) for row in chunk]
        assert [row[0] for row in found] == list(range(start, stop)), "offsets are not dense"
        times = [row[1] for row in found]
        assert times == sorted(times), f"append times of topic {topic} go back: {times}"
        return [row[2] for row in found]

    def look(self) -> None:
        """The newest snapshot shows what anybody acknowledged; it is kept, and must show the same for ever."""
        assert self.store is not None
        if len(self.snapshots) > 2:
            self.snapshots.pop(self.random.randrange(len(self.snapshots)))[0].close()
        snapshot = self.store.snapshot()
        with self.simulation.undisturbed():
            rows, keys = self.read_from(snapshot, self.history.rows)
        self.history.require(rows, keys, self._in_flight())
        self.snapshots.append((snapshot, rows, keys))

    def _in_flight(self) -> Commit | None:
        """What an interrupted process is about to commit: it may be visible already."""
        return next((p.pending for p in self.simulation.others(self) if p.pending is not None), None)

    def look_again(self) -> None:
        for snapshot, rows, keys in list(self.snapshots):
            assert self.read_from(snapshot, rows) == (rows, keys), "an old snapshot changed"

    def agree(self) -> None:
        """Every process that knows a dictionary code knows the same value for it."""
        assert self.store is not None
        for place in VARCHARS:
            mine = self.store._dictionaries.get(place)
            for other in self.simulation.others(self):
                theirs = None if other.store is None else other.store._dictionaries.get(place)
                if mine is not None and theirs is not None:
                    known = min(len(mine.values), len(theirs.values))
                    assert mine.values[:known] == theirs.values[:known], f"codes of {place} differ"

    # -- writing -------------------------------------------------------------------------------

    def row(self, topic: int) -> Row:
        draw, serial = self.random, self.simulation.next_serial()
        word = draw.choice([None, "", "a", "b", f"w{draw.randint(0, 60)}", "ü" * draw.randint(1, 40)])
        if topic == 1:
            return (word, serial)
        if topic == 2:
            blob = draw.choice([None, b"", bytes([serial % 256]) * draw.randint(1, 200)])
            return (draw.choice([None, 1_000 + serial]), word, blob)
        return (serial, word)

    def commit(self, fill: Any, *, journaled: bool = True) -> None:
        """One transaction; `fill(transaction, commit)` does and notes its content."""
        assert self.store is not None
        commit = Commit(derived=not journaled)
        with self.store.write(journaled=journaled) as transaction:
            fill(transaction, commit)
            self.pending = commit
        self._acknowledged(commit)

    def _acknowledged(self, commit: Commit) -> None:
        history = self.history
        if history.maybes:
            with self.simulation.undisturbed():
                history.acknowledge(commit, *self.read(history.rows))
        else:
            history.add(commit)
        self.pending = None
        if not commit.derived:
            self.last = commit
            if self.durability == "commit":
                history.mark_safe(len(history.commits), derived=False)

    def append_one(self) -> None:
        assert self.store is not None
        topic = self.random.choice((1, 1, 2))
        row = self.row(topic)
        commit = Commit()
        commit.rows[topic] = [row]
        self.pending = commit
        offset = self.store.append_row(self.log(topic), row)
        self._acknowledged(commit)
        assert offset == len(self.history.rows[topic]) - 1, "an append returned the offset of another row"

    def append_many(self) -> None:
        topic = self.random.choice(JOURNALED)
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
            for topic in JOURNALED:
                rows = [self.row(topic) for _ in range(draw.randint(1, 6))]
                transaction.append_rows(self.log(topic), rows)
                commit.rows[topic] = rows
            for _ in range(draw.randint(0, 2)):
                key = b"k%d" % draw.randint(0, 5)
                value = draw.choice((None, b"", b"v%d" % self.simulation.serial))
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
            commit.keys[b"done"] = b"%d" % self.simulation.serial
            transaction.put(b"done", commit.keys[b"done"])

        self.commit(fill, journaled=False)

    def abort(self) -> None:
        class Stop(Exception):
            pass

        def fill(transaction: Any, commit: Commit) -> None:
            topic = self.random.choice(JOURNALED)
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
        count = len(self.history.commits)
        commits = self.writer.commits
        self.store.checkpoint()
        self.checkpointed = commits
        for derived in (False, True):
            self.history.mark_safe(count, derived=derived)

    def seal(self) -> None:
        assert self.store is not None
        if any(other.active for other in self.simulation.others(self)):
            return  # it may be sealing, and cannot go on before this one is done
        done = self.store.sealer().compact(full=self.random.random() < 0.5)
        self.simulation.sealed_rows += done["rows"]

    def flush(self) -> None:
        """Everything this process has acknowledged is on the device."""
        last = self.last
        self.writer.flush_journal()
        if last is not None:
            self.history.mark_safe(self.history.commits.index(last) + 1, derived=False)

    def prepare(self) -> None:
        """The next journal file is made ahead of its turn."""
        writer = self.writer
        writer.fills_fast = writer.fills_fast or self.random.random() < 0.5
        writer.prepare_spare()

    def rest(self) -> None:
        """What maintenance does when the process has not committed for long; others may have."""
        writer = self.writer
        if writer.prepared and writer.commits == self.checkpointed:
            writer.release_idle_pin(writer.commits)
