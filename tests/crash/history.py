"""The history of a crash test: what writers began, what they were told is stored, what checkers found.

One line per fact, each written with one O_APPEND write to a file outside the database, so that killing the writer
cannot lose it, nor tear it but at the edge of a page: then it did not happen. An operation without an acknowledgement
may have happened or not; the next checker finds out and records that, and from then on it is a fact too.

    ["begin", writer, op, kind, [[topic, first n, rows], ...], monotonic s]
    ["ack",   writer, op, [runs of offsets per part], monotonic s]
    ["same",  writer, n, offset]               a repeated send was answered with this offset
    ["found", writer, op, [runs of offsets per part]]    by a checker: all that is left of it, for good
    ["wrong", writer, text]                    a reader saw something it must never see
    ["saw",   reader, began s, {topic: end}, topic, first, [[writer, n], ...]]    one cut, looked at by an observer

Offsets are written as runs, [first, count, first, count, ...].
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

SEND = "send"  # the one kind that is not atomic: every event of it is on its own, in order


def _runs(offsets: Sequence[int]) -> list[int]:
    runs: list[int] = []
    for offset in offsets:
        if runs and offset == runs[-2] + runs[-1]:
            runs[-1] += 1
        else:
            runs += [offset, 1]
    return runs


def _expand(runs: list[int]) -> list[int]:
    return [first + i for first, count in zip(runs[::2], runs[1::2], strict=True) for i in range(count)]


class Recorder:
    """Appends facts to the history file."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _write(self, *fact: Any) -> None:
        os.write(self._fd, b"\n" + json.dumps(fact, separators=(",", ":")).encode() + b"\n")  # apart from a torn one

    def begin(self, writer: str, op: str, kind: str, parts: list[tuple[str, int, int]]) -> None:
        self._write("begin", writer, op, kind, parts, time.monotonic())

    def ack(self, writer: str, op: str, offsets: list[list[int]]) -> None:
        self._write("ack", writer, op, [_runs(part) for part in offsets], time.monotonic())

    def same(self, writer: str, n: int, offset: int) -> None:
        self._write("same", writer, n, offset)

    def found(self, writer: str, op: str, offsets: list[list[int]]) -> None:
        self._write("found", writer, op, [_runs(part) for part in offsets])

    def wrong(self, writer: str, text: str) -> None:
        self._write("wrong", writer, text)

    def saw(
        self, reader: str, began_s: float, ends: dict[str, int], topic: str, first: int, seen: list[tuple[str, int]]
    ) -> None:
        self._write("saw", reader, began_s, ends, topic, first, seen)

    def close(self) -> None:
        os.close(self._fd)


@dataclass
class Sight:
    """What an observer saw in one cut that it opened after `began_s`: where topics end, and some events of one."""

    reader: str
    began_s: float
    ends: dict[str, int]
    topic: str
    first: int
    seen: list[tuple[str, int]]


@dataclass
class Operation:
    """One call of a writer. `offsets` is what is known to be stored, part by part; None while nothing is known."""

    writer: str
    op: str
    kind: str
    parts: list[tuple[str, int, int]]
    began_s: float
    acked_s: float | None = None
    offsets: list[list[int]] | None = None
    settled: bool = False  # a checker recorded what is left of it

    @property
    def rows(self) -> int:
        return sum(count for _, _, count in self.parts)


@dataclass
class History:
    """A parsed history, in the order of the file."""

    operations: list[Operation] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    sights: list[Sight] = field(default_factory=list)

    @property
    def acked(self) -> int:
        return sum(op.acked_s is not None for op in self.operations)

    def in_flight(self) -> dict[str, Operation]:
        """By writer, the operation that began and has no answer yet."""
        open_ones = {op.writer: op for op in self.operations}
        return {name: op for name, op in open_ones.items() if op.acked_s is None and not op.settled}


class Tail:
    """The newest facts of a history, read without parsing all of it."""

    def __init__(self, path: str) -> None:
        self._path = path

    def _read(self) -> bytes:
        try:
            with open(self._path, "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""

    def acks(self, writer: str) -> int:
        """How many acknowledgements a writer has."""
        return self._read().count(f'["ack","{writer}",'.encode())

    def sights(self, reader: str) -> int:
        """How many cuts an observer has looked at."""
        return self._read().count(f'["saw","{reader}",'.encode())

    def running(self, writer: str) -> str | None:
        """The kind of operation a writer has begun and not finished."""
        text = self._read()
        begun = text.rfind(f'["begin","{writer}",'.encode())
        if begun < 0 or max(text.rfind(f'["{what}","{writer}",'.encode()) for what in ("ack", "found")) > begun:
            return None
        line, whole, _ = text[begun:].partition(b"\n")
        fact = _fact(line) if whole else None
        return None if fact is None else fact[3]


def _fact(line: bytes) -> list[Any] | None:
    """None if the line was torn."""
    try:
        found: list[Any] = json.loads(line)
    except ValueError:
        return None
    return found


def read_history(path: str) -> History:
    """All complete lines of the file; a missing file is an empty history."""
    history = History()
    known: dict[tuple[str, str], Operation] = {}
    sent: dict[tuple[str, int], int] = {}
    try:
        with open(path, "rb") as file:
            lines = file.read().split(b"\n")[:-1]
    except FileNotFoundError:
        return history
    for line in lines:
        fact = _fact(line)
        if fact is None:
            continue
        what, writer, *rest = fact
        if what == "begin":
            op, kind, parts, at = rest
            known[writer, op] = Operation(writer, op, kind, [tuple(part) for part in parts], at)
            history.operations.append(known[writer, op])
        elif what == "ack":
            operation = known[writer, rest[0]]
            operation.offsets, operation.acked_s = [_expand(part) for part in rest[1]], rest[2]
            _note_sent(operation, sent)
        elif what == "found":
            operation = known[writer, rest[0]]
            operation.offsets, operation.settled = [_expand(part) for part in rest[1]], True
            _note_sent(operation, sent)
        elif what == "same":
            if sent.get((writer, rest[0])) != rest[1]:
                known_at = sent.get((writer, rest[0]))
                history.wrong.append(f"{writer}: event {rest[0]} lies at {known_at}, its repeat was answered {rest[1]}")
        elif what == "saw":
            began_s, ends, topic, first, seen = rest
            history.sights.append(Sight(writer, began_s, ends, topic, first, [tuple(one) for one in seen]))
        else:
            history.wrong.append(f"{writer}: {rest[0]}")
    return history


def _note_sent(operation: Operation, sent: dict[tuple[str, int], int]) -> None:
    """Remembers where the events of an idempotent producer lie, to judge the answers to its repeats."""
    if operation.kind == SEND and operation.offsets:
        first = operation.parts[0][1]
        for index, offset in enumerate(operation.offsets[0]):
            sent[operation.writer, first + index] = offset
