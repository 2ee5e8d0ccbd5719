"""Reads what is left after a crash and compares it with the history: the judge of every crash test.

    python -m tests.crash.checker DIRECTORY HISTORY [--power] [--durability commit] [--cut-s 12.5]

Run it when no writer is alive. It opens the directory (which recovers it), reads every event and reports

    unopenable   the directory does not open, or its own check finds a problem
    lost         an acknowledged event is not there
    moved        it is there at another offset than acknowledged
    duplicate    an event is there twice
    phantom      an event is there that nobody wrote, or that an earlier checker had found to be gone
    changed      a value is not what was written
    torn         a part of an atomic operation is there and a part is not
    hole         offsets or the events of one writer have a gap: what is left is not a prefix
    disorder     events of one writer are not in the order it wrote them
    view         a materialized view differs from what its query gives over the same events
    sink         a view has not written each of its rows once into its topic or table

and, of what observers saw while writers were at work (sights.py),

    aborted      an event was seen that is not there: it never happened
    inconsistent an offset showed one event and holds another
    backwards    a later cut of one observer ends earlier than the one before
    unseen       a cut lacks what was acknowledged before it was opened
    torn         a cut holds a part of an atomic operation

A kill may take nothing that was acknowledged, in any durability mode. With `--power`, the modes other than "commit"
may lose the newest commits; what is left must still be a prefix of them. What it found is then recorded as settled: an
event that is gone now must never come back. Prints one JSON object; exit status 0 when nothing is wrong, 1 otherwise.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

import eventdb
from tests.crash import plants
from tests.crash.history import SEND, History, Operation, Recorder, read_history
from tests.crash.sights import judge_sights
from tests.crash.sinks import judge_sinks
from tests.crash.workload import TOPICS, VIEWS, event


class Checker:
    """Judges one directory against one history. `problems` are (kind, text) pairs."""

    def __init__(self, history: History, *, may_lose: bool) -> None:
        self._history = history
        self._may_lose = may_lose
        self.problems: list[tuple[str, str]] = []
        self.events = 0
        self.lost_acked: list[Operation] = []
        self._owners: dict[tuple[str, int], tuple[Operation, int]] = {}
        self.places: dict[tuple[str, int], int] = {}  # (writer, n) -> offset, of the events that are there
        for operation in history.operations:
            self._claim(operation)
        for text in history.wrong:
            self.problems.append(("reader", text))

    def _claim(self, operation: Operation) -> None:
        """Which events may exist: all rows of an operation, or what an earlier checker found to be left of it."""
        for part, (_, first, count) in enumerate(operation.parts):
            left = len(operation.offsets[part]) if operation.settled and operation.offsets is not None else count
            for n in range(first, first + left):
                self._owners[operation.writer, n] = (operation, part)

    def read(self, topic: eventdb.Topic) -> None:
        """Every event of a topic, against the operations that wrote it."""
        expected = topic.offsets()[0]
        following: dict[str, int] = defaultdict(int)
        for found in topic.read():
            self.events += 1
            writer, n = found["writer"], found["n"]
            where = f"{topic.name} offset {found.offset}: event {writer}/{n}"
            if found.offset != expected:
                self.problems.append(("hole", f"{where} where offset {expected} was due"))
            expected = found.offset + 1
            owner = self._owners.get((writer, n))
            if owner is None or owner[0].parts[owner[1]][0] != topic.name:
                self.problems.append(("phantom", f"{where} was never written or is gone for good"))
                continue
            if (writer, n) in self.places:
                self.problems.append(("duplicate", f"{where} lies at {self.places[writer, n]} too"))
                continue
            self.places[writer, n] = found.offset
            if found.row != event(writer, n):
                self.problems.append(("changed", f"{where} is {found.row!r:.300}"))
            if n < following[writer]:
                self.problems.append(("disorder", f"{where} comes after {following[writer] - 1}"))
            following[writer] = n + 1
        end = topic.offsets()[1]
        if expected != end:
            self.problems.append(("hole", f"{topic.name}: reading ends at {expected}, the topic at {end}"))

    def judge(self) -> None:
        """Every operation, against the events that were read."""
        gone: dict[str, Operation] = {}
        for operation in self._history.operations:
            what = f"{operation.kind} {operation.writer}/{operation.op}"
            left = self.left_of(operation)
            if operation.offsets is not None:
                self._judge_known(operation, left, what)
            present = sum(map(len, left))
            wanted = self._expected_rows(operation)
            if operation.kind != SEND and 0 < present < operation.rows:
                self.problems.append(("torn", f"{what}: {present} of {operation.rows} events are there"))
            if present and operation.writer in gone:
                before = gone[operation.writer]
                self.problems.append(("hole", f"{what} is there, the earlier {before.kind} {before.op} is not"))
            if present < wanted and not operation.settled:
                gone.setdefault(operation.writer, operation)
        self._judge_counts()
        self._judge_prefix()

    def _expected_rows(self, operation: Operation) -> int:
        if operation.settled and operation.offsets is not None:
            return sum(map(len, operation.offsets))
        return operation.rows

    def _judge_known(self, operation: Operation, left: list[list[int]], what: str) -> None:
        known = operation.offsets
        assert known is not None
        if left == known:
            return
        missing = sum(map(len, known)) - sum(map(len, left))
        if missing <= 0 or any(had[: len(have)] != have for had, have in zip(known, left, strict=True)):
            self.problems.append(("moved", f"{what}: known to lie at {known!r:.200}, found at {left!r:.200}"))
        elif self._may_lose and not operation.settled:
            self.lost_acked.append(operation)
        else:
            who = "an earlier checker read" if operation.settled else "acknowledged"
            self.problems.append(("lost", f"{what}: {missing} events are gone that were {who}, at {known!r:.200}"))

    def _judge_counts(self) -> None:
        """The events of a writer are 0, 1, 2...: over all topics none is left out."""
        counts = Counter(writer for writer, _ in self.places)
        last: dict[str, int] = {}
        for writer, n in self.places:
            last[writer] = max(last.get(writer, 0), n)
        for writer, count in counts.items():
            if last[writer] + 1 != count:
                self.problems.append(("hole", f"{writer} has {count} events, the last of them is {last[writer]}"))

    def _judge_prefix(self) -> None:
        """What began after another operation was acknowledged comes after it, and cannot be there without it."""
        if not self.lost_acked:
            return
        first = min(self.lost_acked, key=lambda op: op.acked_s or 0.0)
        for operation in self._history.operations:
            later = not operation.settled and operation.began_s > (first.acked_s or 0.0)
            if later and any(self.left_of(operation)):
                what = f"{operation.kind} {operation.writer}/{operation.op}"
                self.problems.append(("hole", f"{what} is there, {first.writer}/{first.op} before it is not"))

    def left_of(self, operation: Operation) -> list[list[int]]:
        """The offsets of its events that are there, part by part."""
        left = []
        for _, first, count in operation.parts:
            mine = []
            for n in range(first, first + count):
                owner = self._owners.get((operation.writer, n))
                if owner is not None and owner[0] is operation and (operation.writer, n) in self.places:
                    mine.append(self.places[operation.writer, n])
            left.append(mine)
        return left

    def settle(self, recorder: Recorder) -> None:
        """Records what became of every operation whose fate was open, and of acknowledged ones that were lost."""
        for operation in self._history.operations:
            if not operation.settled and (operation.acked_s is None or operation in self.lost_acked):
                recorder.found(operation.writer, operation.op, self.left_of(operation))


def judge_views(db: eventdb.Database) -> list[tuple[str, str]]:
    """The views that are there, each against its own query, over one snapshot."""
    there = {row[0] for row in db.sql("SHOW VIEWS").fetchall()}
    problems = []
    with db.snapshot() as snapshot:
        for name, query in VIEWS.items():
            if name in there:
                kept = sorted(snapshot.sql(f"SELECT * FROM {name}").fetchall(), key=repr)
                batch = sorted(snapshot.sql(query).fetchall(), key=repr)
                if kept != batch:
                    problems.append(("view", f"{name} holds {kept!r:.300}, its query gives {batch!r:.300}"))
    return problems


def check(
    directory: str, history_path: str, *, durability: str, power: bool, cut_s: float, view: bool
) -> dict[str, Any]:
    """The report on a directory nobody has open; opens and closes it."""
    history = read_history(history_path)
    checker = Checker(history, may_lose=power and durability != "commit")
    report: dict[str, Any] = {"acked": history.acked, "in_flight": len(history.in_flight())}
    report["sights"] = len(history.sights)
    try:
        with eventdb.open(directory, durability=durability) as db:
            report["recovery"] = {key: str(value) for key, value in db.recovery_report.items()}
            # In this process: a child of it would see another boot id.
            checker.problems += [("unopenable", text) for text in db._store.check(deep=True)]
            made = set(db.topics())
            if made >= set(TOPICS):
                for name in TOPICS:
                    checker.read(db.topic(name))
            if view:
                checker.problems += judge_views(db) + judge_sinks(db)
        checker.judge()
        checker.problems += judge_sights(history, checker.places)
    except Exception as error:
        checker.problems.append(("unopenable", f"{type(error).__name__}: {error}"))
    if not checker.problems:
        recorder = Recorder(history_path)
        checker.settle(recorder)
        recorder.close()
    acked = [op.acked_s for op in checker.lost_acked if op.acked_s is not None]
    report |= {
        "events": checker.events,
        "lost_acked": len(acked),
        "loss_window_s": max(0.0, cut_s - min(acked)) if acked and cut_s else 0.0,
        "problems": [f"{kind}: {text}" for kind, text in checker.problems[:20]],
        "kinds": sorted({kind for kind, _ in checker.problems}),
    }
    return report


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("history")
    parser.add_argument("--durability", default="commit")
    parser.add_argument("--power", action="store_true", help="the machine lost its power")
    parser.add_argument("--cut-s", type=float, default=0.0, help="when, on the monotonic clock")
    parser.add_argument("--boot-id", default="", help="the boot id this process sees")
    parser.add_argument("--view", action="store_true", help="check the materialized view too")
    options = parser.parse_args(arguments)
    if options.boot_id:
        plants.set_boot_id(options.boot_id)
    report = check(
        options.directory,
        options.history,
        durability=options.durability,
        power=options.power,
        cut_s=options.cut_s,
        view=options.view,
    )
    print(json.dumps(report))
    return 1 if report["problems"] else 0


if __name__ == "__main__":
    sys.exit(main())
