"""A seeded life of one database directory against a list: operations, crashes, recoveries, and what must be left.

Promises checked at every reopening: it opens; the journaled state is that of a prefix of the commits, of all
acknowledged ones after a process crash or in `commit` mode, of all flushed ones otherwise; unjournaled (derived)
commits are a prefix too, never ahead of the journaled commits they were made from, and whole after a process crash;
offsets are dense, values equal, check(deep=True) finds nothing. Within a life, snapshots opened before stay what they
were, and what one process acknowledged is what every other sees next.

Several processes work on the same disk, all in this one: each has a Store (the registry that would make them one is
emptied after each open), hence its own writer, pin, dictionaries, mappings, descriptors and clock; the flocks are real
and exclude each other, because each Store has descriptors of its own. What py-lmdb does not allow, a second opening of
the file, is bridged below kv.py (shared_index.py), so LMDB's page reuse against everybody's readers is the real one.
Real child processes would need a pipe round trip an operation and the image of a disk that they write to at the same
time; a fake LMDB would have to be right about exactly what the pins are for. This way a life with three processes
costs about what a life of one does, runs are reproducible from their seed, and a process can be stopped anywhere:
between any two file operations another one may run (`preempt`), read while the first is half-way through a commit, be
killed, or write if LOCK is free.
"""

from __future__ import annotations

import fcntl
import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.faults import Crash, Image, SimulatedDisk
from tests.storage.history import History, Row
from tests.storage.simulated_process import DERIVED, EVENT_TIMES, JOURNALED, SCHEMAS, Process

SMALL_LIMITS = {
    "segment.layout.FIRST_SEGMENT_ROWS": 8,
    "segment.layout.MAX_SEGMENT_ROWS": 64,
    "transaction.MAX_SEGMENT_ROWS": 64,
    "segment.columns.MAX_SEGMENT_ROWS": 64,
    "transaction.MAX_PAYLOAD_BYTES": 700,
    "segment.cells.DICTIONARY_LIMIT": 24,
    "segment.cells.MAX_SEGMENT_ROWS": 64,
    "segment.columns.DICTIONARY_LIMIT": 24,
    "segment.columns.PWRITE_BYTES": 64,
    "segment.columns.WRITE_BYTES": 200,
    "segment.columns.MAX_PAYLOAD_BYTES": 700,
    "segment.columns.TIME_STRIDE_ROWS": 5,
    "segment.segment.TIME_STRIDE_ROWS": 5,
    "transaction.HEAP_BYTES_PER_ROW": 4,
    "commit.journal.JOURNAL_FIRST_BYTES": 4096,
    "commit.journal.JOURNAL_MAX_BYTES": 16384,
    "device.directory.RESERVE_BYTES": 4096,
    "index.dictionary.CHUNK_LEAST_VALUES": 3,
    "index.dictionary.CHUNK_BYTES": 40,
    "sealed.seal.SEALED_BLOCK_ROWS": 16,
    "sealed.sealer.MAX_SEGMENT_ROWS": 256,
}

WRITING = {
    "append_one": 40, "append_many": 12, "append_columns": 6, "transact": 12, "derive": 8, "abort": 6, "checkpoint": 4,
    "flush": 4, "rest": 2, "look": 5, "look_again": 2, "reopen": 1, "seal": 4,
    "prepare": 8,
}  # fmt: skip
READING = {"look": 8, "look_again": 4}
SEVERAL_WRITING = WRITING | {"close": 2, "kill": 1, "rest": 4, "look": 8, "agree": 2}
SEVERAL_READING = READING | {"kill": 1, "agree": 2}
PREEMPTIONS = 0.01  # of the operations on files


class Found(BaseException):
    """A process that ran in between met a failure: nobody may take it for an error of the interrupted one."""


class PowerCut(BaseException):
    """Every process is gone."""


class Simulation:
    """One directory under `root`, `processes` at work on it. `run(lives)` ends them all that often.

    `durability` is that of all processes, or "mixed".
    """

    def __init__(self, root: str, seed: int, durability: str, processes: int = 1) -> None:
        self.random = random.Random(seed)
        self.disk = SimulatedDisk(root, seed)
        self.path = os.path.join(root, "db")
        self.durability = durability
        self.history = History(JOURNALED, (DERIVED,))
        self.serial = 0
        self.created = False
        self.power_since = False  # a power cut happened since anybody opened the database
        self.kinds: dict[str, int] = {}
        self.sealed_rows = 0
        self.operations = self.preemptions = self.kills = self.crashes_in_opening = 0
        self.processes = [Process(self) for _ in range(processes)]
        self.running = self.processes[0]
        self.left: Image | None = None  # of the disk, when all processes have died
        self.lost_power = False
        self.failure: BaseException | None = None
        self._disturbed = processes > 1

    def others(self, process: Process) -> list[Process]:
        return [other for other in self.processes if other is not process]

    def is_busy(self, process: Process) -> bool:
        """Whether any other process has the database open."""
        return any(other.store is not None for other in self.others(process))

    def is_open(self) -> bool:
        return any(process.store is not None for process in self.processes)

    def next_serial(self) -> int:
        self.serial += 1
        return self.serial

    # -- lives ---------------------------------------------------------------------------------

    def run(self, lives: int) -> None:
        for _ in range(lives):
            self.live()
        self.open_one()
        with self.undisturbed():
            for process in self.processes:
                if process.store is not None:
                    self.running = process
                    process.files.heal()
                    process.close()

    def open_one(self) -> None:
        """Somebody has the database open, however often the first to try dies of it."""
        while not self.is_open():
            try:
                self.protect(self.processes[0], self.processes[0].open)
            except PowerCut:
                self.restart()

    def live(self) -> None:
        draw = self.random
        several = len(self.processes) > 1
        self.open_one()
        try:
            if draw.random() < 0.8:
                victim = next(process for process in self.processes if process.store is not None)
                power = draw.random() < (0.5 if several else 0.6)
                victim.files.crash_at(draw.randint(1, 150), power=power)
            for _ in range(draw.randint(1, 40) * (2 if several else 1)):
                self.act(draw.choice(self.processes), lock_free=True)
                if not several and not self.is_open():
                    return
            self.cut(power=draw.random() < 0.6)
        except PowerCut:
            self.restart()

    def cut(self, *, power: bool) -> None:
        """All processes die between two operations. Always raises."""
        self.left, self.lost_power = self.disk.image(power=power), power
        raise PowerCut

    def restart(self) -> None:
        """Everybody is dead: what the crash left becomes the directory."""
        assert self.left is not None
        for process in self.processes:
            process.bury()
        self.disk.restart(self.left, power=self.lost_power)
        if self.lost_power:
            self.power_since = True
        self.left = None

    def act(self, process: Process, *, lock_free: bool) -> None:
        """One operation of the process, as the seed wills; `lock_free` is whether it can get the writer lock."""
        if process.store is None:
            name = "open" if lock_free else "open_to_read"
        else:
            several = len(self.processes) > 1
            if lock_free and not process.store.read_only:
                weights = SEVERAL_WRITING if several else WRITING
            elif lock_free:
                weights = SEVERAL_READING | {"close": 1}
            else:
                weights = SEVERAL_READING
            name = self.random.choices(list(weights), list(weights.values()))[0]
        self.protect(process, getattr(process, name))

    def protect(self, process: Process, operation: Any) -> None:
        """The operation happens, or the process dies in it."""
        running, self.running = self.running, process
        process.active = True
        self.operations += 1
        count, writer, checkpoints = len(self.history.commits), process.writer, process.checkpoints
        try:
            operation()
            new = process.writer if process.writer is not writer else None
            if (writer is not None and writer.checkpoints > checkpoints) or (new is not None and new.checkpoints):
                for derived in (False, True):
                    self.history.mark_safe(count, derived=derived)
        except BaseException:
            if self.failure is not None:
                raise self.failure from None
            if self.left is not None:
                raise PowerCut from None
            if not process.files.crashed:
                raise
            self.fall(process)
        finally:
            process.active = False
            self.running = running

    def let_go(self) -> None:
        """After a failure: nothing stays open."""
        for process in self.processes:
            process.bury()

    def fall(self, process: Process) -> None:
        """The process is dead; with a power cut all are."""
        files = process.files
        if files.lost_power:
            self.left, self.lost_power = files.left, True
            for other in self.processes:
                other.files.crashed = True  # handlers of an interrupted one must not reach the disk
            raise PowerCut
        self.kills += 1
        process.bury()
        self.disk.restart(files.left, power=False)

    # -- interleaving --------------------------------------------------------------------------

    @contextmanager
    def undisturbed(self) -> Iterator[None]:
        """Nobody else runs inside."""
        before, self._disturbed = self._disturbed, False
        try:
            yield
        finally:
            self._disturbed = before

    def preempt(self) -> None:
        """Called between operations on files: another process may do something of its own."""
        if not self._disturbed or self.random.random() >= PREEMPTIONS:
            return
        idle = [process for process in self.processes if not process.active]
        if not idle:
            return
        self.preemptions += 1
        with self.undisturbed():
            try:
                self.act(self.random.choice(idle), lock_free=self._is_lock_free())
            except PowerCut:
                raise
            except BaseException as error:
                self.failure = error
                raise Found from error

    def _is_lock_free(self) -> bool:
        try:
            fd = os.open(os.path.join(self.path, "LOCK"), os.O_RDWR)
        except FileNotFoundError:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        finally:
            os.close(fd)
        return True


__all__ = ["EVENT_TIMES", "SCHEMAS", "SMALL_LIMITS", "Crash", "Row", "Simulation"]
