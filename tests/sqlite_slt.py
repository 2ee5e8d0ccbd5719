"""SQLite's sqllogictest scripts: read, run, and counted by outcome and reason.

The format (sqlite.org/sqllogictest): as in slt_runner.py, but with one value a line whatever the number of columns,
`N values hashing to MD5` in place of long results, a label behind the sort mode whose queries must agree, and values
written as C prints them: I as an integer, R with three decimals, T with '@' for what cannot be printed.
"""

from __future__ import annotations

import hashlib
import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Execute = Callable[[str], Sequence[Sequence[Any]]]
"""SQL -> rows of Python values; raises what the database raises."""

ENGINE = "eventdb"


@dataclass(slots=True)
class Record:
    """A statement or query. `skip` says why it is not run, if it is not."""

    place: str
    kind: str
    sql: str
    wants_error: bool = False
    types: str = ""
    sort: str = "nosort"
    label: str = ""
    expected: list[str] = field(default_factory=list)
    skip: str = ""


@dataclass(slots=True)
class Report:
    """How many records passed, failed and were skipped, by reason, and an example of each failure."""

    passed: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    skipped: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def fail(self, reason: str, example: str) -> None:
        self.failed[reason] += 1
        self.examples.setdefault(reason, example)

    def add(self, other: Report) -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped
        self.examples = other.examples | self.examples

    @property
    def run(self) -> int:
        return self.passed + sum(self.failed.values())

    def __str__(self) -> str:
        lines = [f"{self.passed} of {self.run} passed, {sum(self.skipped.values())} skipped"]
        lines += [f"  skipped {count:6d}: {reason}" for reason, count in self.skipped.most_common()]
        for reason, count in self.failed.most_common():
            lines += [f"  failed {count:7d}: {reason}", f"      {self.examples[reason]}"]
        return "\n".join(lines)


def parse(text: str, name: str, engine: str = ENGINE) -> Iterator[Record]:
    """The records of a script, those for other engines marked as skipped. ValueError where it is malformed."""
    first = 1
    for block in re.split(r"\n[ \t]*\n", text.replace("\r\n", "\n")):
        lines = [(first + i, line) for i, line in enumerate(block.split("\n"))]
        first += len(lines) + 1
        lines = [(number, line) for number, line in lines if line.strip() and not line.startswith("#")]
        if not lines:
            continue
        record = _record(lines, name, engine)
        if record is None:
            return
        if record.kind:
            yield record


def _record(lines: list[tuple[int, str]], name: str, engine: str) -> Record | None:
    """The record of a block; of kind '' for a setting, None for `halt`."""
    skip = ""
    while lines:
        number, line = lines.pop(0)
        words = line.partition("#")[0].split()
        if words[0] in ("skipif", "onlyif"):
            if (words[1] == engine) is (words[0] == "skipif"):
                skip = f"{words[0]} {words[1]}"
            continue
        if words[0] == "halt" and not skip:
            return None
        if words[0] in ("halt", "hash-threshold"):
            continue
        record = Record(f"{name}:{number}", words[0], "", skip=skip)
        texts = [text for _, text in lines]
        end = texts.index("----") if "----" in texts else len(texts)
        record.sql, record.expected = "\n".join(texts[:end]), texts[end + 1 :]
        if words[0] == "statement" and words[1] in ("ok", "error"):
            record.wants_error = words[1] == "error"
        elif words[0] == "query":
            record.types = words[1]
            record.sort = words[2] if len(words) > 2 else "nosort"
            record.label = words[3] if len(words) > 3 else ""
        else:
            raise ValueError(f"{record.place}: cannot read {line!r}")
        return record
    return Record("", "", "")


def shown(value: Any, type: str) -> str:
    """A value as C prints it for a column of type I, R or T."""
    if value is None:
        return "NULL"
    if type == "I":
        return str(int(value)) if not isinstance(value, str) else "0"
    if type == "R":
        return f"{float(value):.3f}"
    text = str(int(value)) if isinstance(value, bool) else str(value)
    return re.sub(r"[^ -~]", "@", text) if text else "(empty)"


def result_lines(rows: Iterable[Sequence[Any]], types: str, sort: str) -> list[str]:
    """The values of a result, one a line, in the order of the sort mode."""
    shown_rows = [[shown(value, type) for value, type in zip(row, types, strict=True)] for row in rows]
    if sort == "rowsort":
        shown_rows.sort()
    values = [value for row in shown_rows for value in row]
    return sorted(values) if sort == "valuesort" else values


def digest(lines: Sequence[str]) -> str:
    return hashlib.md5("".join(line + "\n" for line in lines).encode()).hexdigest()


def agrees(found: Sequence[str], expected: Sequence[str]) -> bool:
    """Whether a result is the expected one, written out or as a hash."""
    hashed = re.fullmatch(r"(\d+) values hashing to ([0-9a-f]{32})", expected[0]) if len(expected) == 1 else None
    if hashed is not None:
        return len(found) == int(hashed[1]) and digest(found) == hashed[2]
    return list(found) == list(expected)


def run(
    records: Iterable[Record], execute: Execute, *, errors: type[Exception] = Exception, unsupported: str = "",
    refused: str = "", share: float = 1.0, seed: int = 0,
) -> Report:  # fmt: skip
    """Runs the statements, and a random share of the queries. A statement that `unsupported` (a regex) finds is left
    out with that as its reason, and so is one whose error `refused` finds: there SQLite answers and other databases,
    this one among them, do not. Errors other than `errors` get through: the database broke."""
    report = Report()
    draw = random.Random(seed)
    hashes: dict[str, str] = {}
    for record in records:
        if record.skip:
            report.skipped[record.skip] += 1
            continue
        if record.kind == "query" and share < 1.0 and draw.random() >= share:
            continue
        left_out = re.match(unsupported, record.sql, re.IGNORECASE) if unsupported else None
        if left_out is not None:
            report.skipped[left_out[0].upper()] += 1
            continue
        try:
            rows = execute(record.sql)
            lines = result_lines(rows, record.types, record.sort) if record.kind == "query" else []
        except errors as error:
            known = re.search(refused, str(error)) if refused else None
            if record.wants_error:
                report.passed += 1
            elif known is not None:
                report.skipped[f"refused: {known[0]}"] += 1
            else:
                report.fail(reason_of(error), f"{record.place}: {record.sql}: {error}")
            continue
        except ValueError:
            report.fail("another number of columns", f"{record.place}: {record.sql}")
            continue
        if record.wants_error:
            report.fail("no error", f"{record.place}: {record.sql}")
        elif record.kind == "query" and not agrees(lines, record.expected):
            report.fail("rows differ", f"{record.place}: {record.sql}: {lines[:6]}, not {record.expected[:6]}")
        elif record.label and hashes.setdefault(record.label, digest(lines)) != digest(lines):
            report.fail("differs from a query with the same label", f"{record.place}: {record.sql}")
        else:
            report.passed += 1
    return report


def reason_of(error: Exception) -> str:
    """An error's class and message without what differs from case to case."""
    message = re.sub(r"'[^']*'|-?\d+(\.\d+)?", "_", str(error).splitlines()[0])
    return f"{type(error).__name__}: {re.sub(r'column _?[a-z]*[0-9_]*[.a-z0-9_]*', 'column _', message)[:120]}"


def scripts(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.test"))
