"""Tables through crashes: the table is always that of a prefix of the commits, and of all acknowledged ones where that
was promised; and the bugs that would break it are caught."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from eventdb.errors import CorruptionError, OffsetOutOfRange, StorageError, UsageError
from eventdb.schema import DataType, Field, Schema
from eventdb.storage import PartitionLog, Store, StoreSnapshot
from eventdb.storage.care import recovery
from eventdb.storage.commit import append
from eventdb.storage.commit.commit import Writer
from eventdb.storage.commit.marks import Marks
from eventdb.storage.format import OP_KEY
from eventdb.storage.index import keys as keys_module
from eventdb.storage.index.key_index import current_row, row_count
from eventdb.storage.index.kv import Index, IndexFault, IndexTransaction
from eventdb.storage.tables import compact
from eventdb.storage.tables.compact import compact_table
from eventdb.storage.tables.keyed import KeyedWriter
from tests.faults import Crash, SimulatedDisk, SimulatedFiles, let_go

SCHEMA = Schema([Field("k", DataType("VARCHAR"), nullable=False), Field("n", DataType("BIGINT"))])
KEYS = ["a", "b", "c", "d", "e", "f", "x" * 450, "y" * 450]
LETTERS = "abcdefghijkl"
MODES = ("commit", "interval:50ms", "os")
SEEDS = int(os.environ.get("EVENTDB_SEEDS", "20"))
Model = dict[str, int]


@pytest.fixture(autouse=True)
def small(small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """All long keys have one digest, too."""
    monkeypatch.setattr(keys_module, "_digest", lambda key: b"same")


def table_of(store: Store) -> PartitionLog:
    return store.log(1, SCHEMA, None, primary_key=(0,))


def content(snapshot: StoreSnapshot, log: PartitionLog) -> Model:
    """The visible rows, found by a scan, after the index of keys has said the same."""
    start, end = snapshot.offsets(log)
    rows = [row for chunk in snapshot.rows(log, start, end) for row in chunk]
    visible = {row[2][0]: (row[0], row[2][1]) for row in rows if row[2][2] == 0 or row[2][2] > end}
    assert len(visible) == sum(row[2][2] == 0 or row[2][2] > end for row in rows), "two rows have one key"
    for key in KEYS:
        found = current_row(snapshot, log, log.key_of((key,)))
        place = None if found is None else (found[0], found[1][1])
        assert place == visible.get(key), f"the index errs about {key:.3}"
    assert row_count(snapshot, log) == len(visible)
    return {key: n for key, (_, n) in visible.items()}


class TableLife:
    """A seeded life of one table: changes, crashes, and what must be left."""

    def __init__(self, root: str, seed: int, durability: str) -> None:
        self.random = random.Random(seed)
        self.disk = SimulatedDisk(root, seed)
        self.path = os.path.join(root, "db")
        self.durability = durability
        self.states: list[Model] = [{}]  # after each commit
        self.safe = 0  # the state that a power cut must not go behind
        self.pending: Model | None = None
        self.power = False
        self.serial = 0
        self.files: SimulatedFiles = self.disk.files()
        self.store: Store | None = None
        self.snapshots: list[tuple[StoreSnapshot, Model]] = []
        self.removed = 0  # versions, by compaction
        self.short_puts = 0

    def run(self, lives: int) -> None:
        for _ in range(lives):
            power = self.random.random() < 0.7
            try:
                self.open(crashing=self.random.random() < 0.2)
                if self.random.random() < 0.7:
                    self.files.crash_at(self.random.randint(1, 120), power=power)
                for _ in range(self.random.randint(1, 30)):
                    self.step()
                self.files.crash(power=power)
            except BaseException:
                if not self.files.crashed:
                    raise
                self.reap()
        self.open(crashing=False)
        assert self.store is not None
        self.drop_snapshots()
        self.store.close()

    def open(self, *, crashing: bool) -> None:
        while self.store is None:
            self.files = self.disk.files()
            if crashing:
                self.files.crash_at(self.random.randint(1, 90), power=self.random.random() < 0.5)
            try:
                self.store = Store.open(
                    self.path, durability=self.durability, files=self.files, clock=self.disk.clock(),
                    live_topics=lambda: {1: SCHEMA}, maintenance=False,
                )  # fmt: skip
            except BaseException:
                if not self.files.crashed:
                    raise
                self.reap()
                crashing = self.random.random() < 0.3
        self.files.heal()
        self.settle()

    def settle(self) -> None:
        assert self.store is not None
        states = [*self.states, *([] if self.pending is None else [self.pending])]
        least = self.safe if self.power and self.durability != "commit" else len(self.states) - 1
        with self.store.snapshot() as snapshot:
            found = content(snapshot, table_of(self.store))
        left = [i for i in range(len(states) - 1, least - 1, -1) if states[i] == found]
        assert left, f"{found} is none of the states from {least} on: {states[least:]}"
        assert self.store.check(deep=True) == []
        # Equal states cannot be told apart by content: the serial number in every commit makes them differ.
        self.states = states[: left[0] + 1]
        self.safe, self.pending, self.power = len(self.states) - 1, None, False

    def reap(self) -> None:
        if self.store is not None:
            let_go(self.store)
            self.store = None
        for snapshot, _ in self.snapshots:
            snapshot._txn = None
        self.snapshots.clear()
        self.disk.restart(self.files.left, power=self.files.lost_power)
        self.power |= self.files.lost_power

    def drop_snapshots(self) -> None:
        while self.snapshots:
            self.snapshots.pop()[0].close()

    def step(self) -> None:
        assert self.store is not None
        kinds = ("change", "put", "abort", "checkpoint", "look", "flush", "compact")
        kind = self.random.choices(kinds, (30, 18, 3, 3, 8, 3, 5))[0]
        if kind == "checkpoint":
            self.store.checkpoint()
            self.safe = len(self.states) - 1
        elif kind == "flush":
            assert self.store._writer is not None
            self.store._writer.flush_journal()
            self.safe = len(self.states) - 1
        elif kind == "look":
            self.look()
        elif kind == "put":
            self.put()
        elif kind == "compact":
            if self.random.random() < 0.6:
                self.drop_snapshots()
            self.removed += compact_table(self.store, table_of(self.store))["removed"]
        else:
            self.change(abort=kind == "abort")

    def look(self) -> None:
        assert self.store is not None
        log = table_of(self.store)
        if len(self.states) % 2:
            log._mapped.clear()  # as in a process that has read nothing yet: the files must be there
        for snapshot, expected in self.snapshots:
            assert content(snapshot, log) == expected, "an old snapshot changed"
        if len(self.snapshots) > 2:
            self.snapshots.pop(0)[0].close()
        snapshot = self.store.snapshot()
        assert content(snapshot, log) == self.states[-1]
        self.snapshots.append((snapshot, dict(self.states[-1])))

    def put(self) -> None:
        """One row, by the short way if it can be."""
        assert self.store is not None
        self.serial += 1
        row = (self.random.choice(KEYS[:3]), self.serial * 100)
        self.pending = {**self.states[-1], row[0]: row[1]}
        if short_put(self.store, row) >= 0:
            self.short_puts += 1
        else:
            put(self.store, row)
        self.states.append(self.pending)
        self.pending = None

    def change(self, *, abort: bool) -> None:
        class Stop(Exception):
            pass

        assert self.store is not None
        model = dict(self.states[-1])
        draw = self.random
        try:
            with self.store.write() as transaction:
                writer = KeyedWriter(transaction, table_of(self.store), "t")
                for _ in range(draw.choice((1, 1, 2, 5, 25))):
                    self.serial += 1
                    rows = [(draw.choice(KEYS), self.serial * 100 + i) for i in range(draw.choice((1, 1, 3, 12)))]
                    if draw.random() < 0.25:
                        writer.delete([writer.key_of(row) for row in rows])
                        for key, _ in rows:
                            model.pop(key, None)
                    else:
                        writer.put(rows, [writer.key_of(row) for row in rows])
                        model.update(rows)
                if abort:
                    raise Stop
                self.serial += 1  # no two states are equal
                last = (draw.choice(KEYS), self.serial * 100)
                writer.put([last], [writer.key_of(last)])
                model.update([last])
                self.pending = model
        except Stop:
            return
        self.states.append(model)
        self.pending = None


def run(root: Path, seed: int, durability: str, lives: int = 5) -> TableLife:
    root.mkdir(parents=True)
    life = TableLife(str(root), seed, durability)
    life.run(lives)
    return life


@pytest.mark.parametrize("durability", MODES)
def test_a_table_survives_crashes_as_a_prefix_of_its_commits(
    tmp_path: Path, durability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    cleared = 0
    whole = recovery.clear_stale_marks

    def count(*arguments: Any) -> int:
        nonlocal cleared
        found = whole(*arguments)
        cleared += found
        return found

    monkeypatch.setattr(recovery, "clear_stale_marks", count)
    cuts = kills = removed = short = 0
    for seed in range(SEEDS):
        life = run(tmp_path / str(seed), seed, durability)
        cuts += life.disk.power_cuts
        kills += life.disk.process_crashes
        removed += life.removed
        short += life.short_puts
    assert short > 5 * SEEDS
    assert cuts > SEEDS / 2
    assert kills > SEEDS / 4
    assert removed > 100
    if durability == "commit":
        assert cleared == 0, "a mark was stored before its record was flushed"
    else:
        assert cleared > 0, "no power cut left the mark of a lost commit: the test has lost its teeth"


# --- planted bugs -----------------------------------------------------------------------------------------------------


def unjournaled_marks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Marks, "describe", lambda self: [])


def stale_marks_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recovery, "clear_stale_marks", lambda *arguments: 0)


def keys_in_a_later_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(IndexTransaction, "replace", lambda self, key, value: self.get(key))


def marked_segments_are_not_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Marks, "places", lambda self: [])


def marks_before_the_record(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = Writer.write_record

    def write_record(self: Writer, *arguments: Any) -> None:
        if _committing:
            _committing[-1].store()
        whole(self, *arguments)

    commit = Writer.commit
    _committing: list[Marks] = []

    def wrapped(self: Writer, *arguments: Any, marks: Marks | None = None, **options: Any) -> None:
        if marks is not None:
            _committing.append(marks)
        try:
            commit(self, *arguments, marks=marks, **options)
        finally:
            _committing.clear()

    monkeypatch.setattr(Writer, "write_record", write_record)
    monkeypatch.setattr(Writer, "commit", wrapped)


def marks_of_short_puts_are_not_journaled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(append, "describe_mark", lambda log, mark: b"")


def marked_segments_of_short_puts_are_not_flushed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Always(dict[int, int]):
        def get(self, base: int, default: Any = None) -> Any:
            return _sequence[0]

    _sequence = [0]
    whole = append.superseded

    def superseded(writer: Writer, log: PartitionLog, key: bytes) -> Any:
        _sequence[0] = writer.tail.checkpoint_sequence
        log.marked = Always()
        return whole(writer, log, key)

    monkeypatch.setattr(append, "superseded", superseded)


def compaction_breaks_the_way_to_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compact, "_name_newest", lambda *arguments: None)


def keys_not_journaled(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = KeyedWriter._replace_all

    def replace_all(self: KeyedWriter, *arguments: Any) -> int:
        fresh = whole(self, *arguments)
        operations = self.transaction._key_ops
        operations[:] = [op for op in operations if op[OP_KEY.size : OP_KEY.size + 1] != b"k"]
        return fresh

    monkeypatch.setattr(KeyedWriter, "_replace_all", replace_all)


def goes_wrong(root: Path, durability: str) -> bool:
    """Whether one of many lives breaks a promise."""
    for seed in range(6 * SEEDS):
        try:
            run(root / str(seed), seed, durability)
        except (AssertionError, CorruptionError, OffsetOutOfRange):
            return True
    return False


BUGS = [
    (unjournaled_marks, "interval:50ms"), (stale_marks_stay, "os"), (keys_in_a_later_commit, "os"),
    (marked_segments_are_not_flushed, "commit"), (keys_not_journaled, "commit"),
    (marks_of_short_puts_are_not_journaled, "os"), (compaction_breaks_the_way_to_the_newest, "os"),
]  # fmt: skip


@pytest.mark.parametrize(("plant", "durability"), BUGS, ids=[bug.__name__ for bug, _ in BUGS])
def test_a_planted_bug_is_caught(
    tmp_path: Path, plant: Callable[[pytest.MonkeyPatch], None], durability: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plant(monkeypatch)
    assert goes_wrong(tmp_path, durability), f"{plant.__name__} went unnoticed"


def start(disk: SimulatedDisk) -> tuple[SimulatedFiles, Store]:
    """A process that has the disk's database open."""
    files = disk.files()
    return files, Store.open(
        f"{disk.root}/db", durability="commit", files=files, clock=disk.clock(), live_topics=lambda: {1: SCHEMA},
        maintenance=False,
    )  # fmt: skip


def killed_before_the_record(root: Path) -> Model:
    """What is left, and one more row, after a process died on its way to the journal."""
    root.mkdir()
    disk = SimulatedDisk(str(root))

    files, store = start(disk)
    put(store, ("a", 1))
    put(store, ("a", 2))
    files.names = frozenset(["pwrite"])
    files.crash_at(1, power=False)
    with pytest.raises(Crash):
        put(store, ("a", 3))
    let_go(store)
    disk.restart(files.left, power=False)
    files, store = start(disk)
    put(store, ("b", 4))
    with store.snapshot() as snapshot:
        found = content(snapshot, table_of(store))
    store.close()
    return found


def test_a_commit_that_died_before_its_record_has_marked_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert killed_before_the_record(tmp_path / "right") == {"a": 2, "b": 4}
    marks_before_the_record(monkeypatch)
    with pytest.raises(AssertionError, match="the index errs about a"):
        killed_before_the_record(tmp_path / "planted")


def power_cut_after_an_old_row_was_marked(root: Path, seed: int) -> Model:
    """What is left when the row that a short put superseded lay in another segment, and a checkpoint came between."""
    root.mkdir()
    disk = SimulatedDisk(str(root), seed)

    files, store = start(disk)
    for n in range(8):
        put(store, *[(key, n) for key in LETTERS])
    store.checkpoint()
    put(store, *[(key, 8) for key in LETTERS[1:] * 7])
    assert store.log(1, SCHEMA, None).state.base > 0
    store.checkpoint()
    put(store, ("l", 50))
    for n in (51, 52):
        if short_put(store, ("a", n)) < 0:
            put(store, ("a", n))
    store.checkpoint()
    with pytest.raises(Crash):
        files.crash(power=True)
    let_go(store)
    disk.restart(files.left, power=True)
    files, store = start(disk)
    with store.snapshot() as snapshot:
        found = content(snapshot, table_of(store))
    store.close()
    return found


def plant_strikes(root: Path, seed: int) -> bool:
    try:
        power_cut_after_an_old_row_was_marked(root, seed)
    except AssertionError as error:
        return "two rows have one key" in str(error)
    return False


def short_put(store: Store, row: tuple[str, int]) -> int:
    log = table_of(store)
    return store.put_row(log, row, log.key_of(row))


def test_a_checkpoint_flushes_the_segments_that_short_puts_marked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = dict.fromkeys(LETTERS, 8) | {"l": 50, "a": 52}
    for seed in range(4):
        assert power_cut_after_an_old_row_was_marked(tmp_path / f"right{seed}", seed) == expected
    marked_segments_of_short_puts_are_not_flushed(monkeypatch)
    assert any(plant_strikes(tmp_path / f"planted{seed}", seed) for seed in range(20))


def test_compaction_that_forgets_old_snapshots_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Index, "oldest_reader", Index.last_txn_id)
    assert goes_wrong(tmp_path, "os")


# --- commits that fail ------------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store.open(str(tmp_path / "db"), durability="os", live_topics=lambda: {1: SCHEMA}, maintenance=False)
    yield opened
    opened.close()


def put(store: Store, *rows: tuple[str, int]) -> None:
    with store.write() as transaction:
        writer = KeyedWriter(transaction, table_of(store), "t")
        writer.put(rows, [writer.key_of(row) for row in rows])


def test_a_commit_that_the_index_refuses_leaves_no_mark(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, ("a", 1), ("b", 2))
    with monkeypatch.context() as patch:

        def refuse(self: Writer, txn: Any) -> None:
            raise IndexFault("no")

        patch.setattr(Writer, "commit_txn", refuse)
        with pytest.raises(StorageError):
            put(store, ("a", 3))
    with store.snapshot() as snapshot:
        assert content(snapshot, table_of(store)) == {"a": 1, "b": 2}
        assert [row[2][2] for chunk in snapshot.rows(table_of(store), 0, 2) for row in chunk] == [0, 0]
    put(store, ("c", 4))
    with store.snapshot() as snapshot:
        assert content(snapshot, table_of(store)) == {"a": 1, "b": 2, "c": 4}


def test_a_table_refuses_unjournaled_rows(store: Store) -> None:
    with store.write(journaled=False) as transaction:
        writer = KeyedWriter(transaction, table_of(store), "t")
        with pytest.raises(UsageError, match="unjournaled"):
            writer.put([("a", 1)], [writer.key_of(("a", 1))])
