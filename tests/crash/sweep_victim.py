"""The process that a sweep of failing system calls is aimed at: one scenario, step by step, each recorded.

It prepares, says so, and waits; what it does after that is swept. A step that fails with a typed error is repeated once
the fault has passed; one whose outcome is unknown is not. After a failed flush the database is opened anew. Any other
exception is recorded with the end of its traceback.

    ["begin", step]
    ["ack", step, offsets] | ["failed", step, error, text] | ["unknown", step, text]
    ["untyped", text]
"""

from __future__ import annotations

import _thread
import importlib
import json
import mmap
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import eventdb
from eventdb.errors import EventDBError, OutcomeUnknown, PoisonedError
from eventdb.storage.care import retention
from eventdb.storage.commit.checkpoint import CheckpointFile
from eventdb.storage.commit.commit import Writer
from eventdb.storage.device import files
from eventdb.storage.device.files import Files

COLUMNS = {"n": "BIGINT NOT NULL", "word": "VARCHAR", "text": "BLOB"}
ATTEMPTS = 4
SMALL = {
    "segment.layout.FIRST_SEGMENT_ROWS": 32,
    "segment.layout.MAX_SEGMENT_ROWS": 64,
    "transaction.MAX_SEGMENT_ROWS": 64,
    "segment.columns.MAX_SEGMENT_ROWS": 64,
    "sealed.sealer.MAX_SEGMENT_ROWS": 256,
    "commit.journal.JOURNAL_FIRST_BYTES": 8192,
    "commit.journal.JOURNAL_MAX_BYTES": 16384,
}


@dataclass(frozen=True)
class Step:
    """`rows` events from `first` on by `what` ("append", "many", "batch"), or something that adds none."""

    what: str
    first: int = 0
    rows: int = 0


@dataclass(frozen=True)
class Scenario:
    """`base` events are there before; `ready` says how much of it is prepared before the sweep begins."""

    steps: tuple[Step, ...]
    base: int = 20
    ready: bool = True  # the database is open
    small: bool = False  # segments and journal files are so small that they roll
    killed: bool = False  # the base was left by a killed process
    power: bool = False  # and the machine has started again since


def _appends(first: int, count: int) -> tuple[Step, ...]:
    return tuple(Step("append", n, 1) for n in range(first, first + count))


SCENARIOS = {
    "create": Scenario((Step("open"), Step("create"), *_appends(0, 2), Step("many", 2, 5)), base=0, ready=False),
    "append": Scenario(_appends(20, 6)),
    "batch": Scenario((Step("many", 20, 40), Step("batch", 60, 2500), *_appends(2560, 1))),
    "roll": Scenario(
        (Step("many", 20, 40), Step("many", 60, 70), *_appends(130, 2), Step("many", 132, 60)), small=True
    ),
    "seal": Scenario((Step("compact"), *_appends(300, 1), Step("compact"), *_appends(301, 1)), base=300, small=True),
    "checkpoint": Scenario(
        (*_appends(20, 2), Step("checkpoint"), Step("many", 22, 30), Step("checkpoint"), *_appends(52, 1))
    ),
    "retention": Scenario(
        (Step("trim", 150), *_appends(300, 1), Step("retain"), *_appends(301, 1)), base=300, small=True
    ),
    "recovery": Scenario((Step("open"), *_appends(20, 1)), ready=False, killed=True),
    "reopen": Scenario((Step("open"),), ready=False, killed=True),
    "power": Scenario((Step("open"), *_appends(20, 1)), ready=False, killed=True, power=True),
}


SWEPT = [name for name in SCENARIOS if name != "reopen"]


def row(n: int) -> dict[str, Any]:
    """The n-th event. Every other one has a string that is new."""
    return {"n": n, "word": f"w{n // 2 % 500}", "text": b"%d " % n * (n % 40)}


def table(first: int, count: int) -> dict[str, list[Any]]:
    rows = [row(n) for n in range(first, first + count)]
    return {name: [one[name] for one in rows] for name in COLUMNS}


def make_small(scenario: Scenario) -> None:
    if scenario.small:
        for name, value in SMALL.items():
            module, _, constant = name.rpartition(".")
            setattr(importlib.import_module(f"eventdb.storage.{module}"), constant, value)


class Victim:
    """Runs the steps of a scenario on a directory."""

    def __init__(self, scenario: Scenario, directory: Path, history: Path) -> None:
        self._scenario = scenario
        self._directory = directory
        self._fd = os.open(history, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._db: eventdb.Database | None = None
        if scenario.ready:
            self._open()

    def _note(self, *fact: Any) -> None:
        os.write(self._fd, json.dumps(fact).encode() + b"\n")

    def _open(self) -> None:
        self._db = eventdb.open(self._directory)

    def run(self) -> None:
        for number, step in enumerate(self._scenario.steps):
            self._attempt(number, lambda step=step: getattr(self, f"do_{step.what}")(step))  # type: ignore[misc]
        self._attempt(len(self._scenario.steps), self._close)

    def _attempt(self, number: int, act: Callable[[], object]) -> None:
        """The step happens, or its outcome is unknown; at the second attempt at the latest, after a poisoning one
        more."""
        for _ in range(ATTEMPTS):
            self._note("begin", number)
            try:
                self._note("ack", number, act())
                return
            except EventDBError as error:
                resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
                if isinstance(error, OutcomeUnknown):
                    self._note("unknown", number, str(error))
                    self._reopen()
                    return
                self._note("failed", number, type(error).__name__, str(error))
                if isinstance(error, PoisonedError):
                    self._reopen()
        self._note("untyped", f"step {number} still failed when the fault had passed")

    def _reopen(self) -> None:
        """As an error told the caller to do."""
        db, self._db = self._db, None
        try:
            if db is not None:
                db.close()
        except EventDBError:
            pass
        self._open()

    # -- steps ---------------------------------------------------------------------------------

    @property
    def db(self) -> eventdb.Database:
        if self._db is None:
            self._open()
        assert self._db is not None
        return self._db

    def _close(self) -> None:
        db, self._db = self._db, None
        if db is None:  # a close that failed: another handle must come and go
            db = eventdb.open(self._directory)
        db.close()

    def do_open(self, step: Step) -> None:
        self._open()

    def do_create(self, step: Step) -> None:
        self.db.create_topic("log", COLUMNS, if_not_exists=True)

    def do_append(self, step: Step) -> list[int]:
        return [self.db.topic("log").append(row(step.first)).offset]

    def do_many(self, step: Step) -> list[int]:
        rows = [row(n) for n in range(step.first, step.first + step.rows)]
        return [position.offset for position in self.db.topic("log").append_many(rows)]

    def do_batch(self, step: Step) -> list[int]:
        return list(self.db.topic("log").append_batch(table(step.first, step.rows)))

    def do_checkpoint(self, step: Step) -> None:
        self.db.checkpoint()

    def do_compact(self, step: Step) -> None:
        self.db.compact(full=True)

    def do_trim(self, step: Step) -> None:
        self.db.topic("log").delete_before(step.first)

    def do_retain(self, step: Step) -> None:
        self.db.retain()


def _record_not_written() -> None:
    """A commit changes the index without a record in the journal."""
    Writer.write_record = lambda self, record, position: None  # type: ignore[method-assign]


def _unseen_is_absent() -> None:
    """What cannot be looked at is taken for missing."""
    Files.exists = lambda self, path: os.path.lexists(path)  # type: ignore[method-assign]


def _segments_unlinked_first() -> None:
    """Retention removes files before the commit that says so."""
    whole = retention.trim

    def trim(transaction: Any, log: Any, start: int) -> int:
        directory = f"{transaction._writer.path}/topics/{log.topic_id}/{log.partition}"
        for name in sorted(os.listdir(directory))[:2]:
            os.unlink(f"{directory}/{name}")
        return whole(transaction, log, start)

    retention.trim = trim


PLANTS: dict[str, Callable[[], None]] = {
    "record-not-written": _record_not_written,
    "unseen-is-absent": _unseen_is_absent,
    "segments-unlinked-first": _segments_unlinked_first,
}


def lose_power(directory: Path) -> bool:
    """The checkpoint, if there is one, says that the machine has started again since: the index goes back to it, and
    the journal has to hold what came after."""
    if not (directory / "index/checkpoint").exists():
        return False
    slots = CheckpointFile(Files(), str(directory / "index"), write=True)
    slot = slots.newest()
    if slot is not None:
        slot.boot_id = "an earlier one"
        slots.write(slot)
    slots.close()
    return slot is not None


def prepare(scenario: Scenario, directory: Path) -> None:
    """What is there before: `base` events, partly checkpointed."""
    db = eventdb.open(directory, durability="os")
    log = db.create_topic("log", COLUMNS)
    half = scenario.base // 2
    log.append_many([row(n) for n in range(half)])
    db.checkpoint()
    for n in range(half, scenario.base):
        log.append(row(n))
    if scenario.killed:
        os.kill(os.getpid(), signal.SIGKILL)
    db.close()


def flush_in_turn() -> None:
    """What is flushed beside something else is flushed before it: strace looks at this thread only."""

    def no_thread(*arguments: object) -> int:
        raise RuntimeError("can't start new thread")

    found = SimpleNamespace(allocate_lock=_thread.allocate_lock, start_new_thread=no_thread)
    files._thread = found  # type: ignore[attr-defined]


def main(arguments: Sequence[str]) -> int:
    what, name, directory, *rest = arguments
    scenario = SCENARIOS[name]
    make_small(scenario)
    if what == "prepare":
        prepare(scenario, Path(directory))
        return 0
    history, ready, go, plant, *limit = rest
    if plant:
        PLANTS[plant]()
    flush_in_turn()
    victim = Victim(scenario, Path(directory), Path(history))
    with open(go, "rb") as file:
        mapping = mmap.mmap(file.fileno(), 1, access=mmap.ACCESS_READ)
    if limit:
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit[0]), resource.RLIM_INFINITY))
    Path(ready).touch()
    while not mapping[0]:  # waits without a call that is counted
        time.sleep(0.0005)
    try:
        victim.run()
    except EventDBError as error:
        victim._note("untyped", f"it cannot be opened: {type(error).__name__}: {error}")
    except Exception as error:
        victim._note("untyped", "".join(traceback.format_exception(error, limit=-4, chain=False)))
    return 0
