"""A small sqllogictest runner: scripts of statements and queries with the results they must give.

    # a comment
    statement ok                      the SQL below, up to an empty line, succeeds
    statement error [regex]           ... raises an EventDBError whose message the regex finds
    query TYPES [nosort|rowsort|valuesort]
    SQL
    ----
    expected rows                     one row a line, values separated by a tab; up to an empty line
    skipif LABEL / onlyif LABEL       for the next record only
    halt                              the rest is not run

TYPES has a letter per column: I integer, R FLOAT, DOUBLE or DECIMAL, T anything else. NULL is written NULL, the empty
string (empty), booleans true and false, floats with 9 significant digits, line ends and tabs in strings as \\n and \\t.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

Execute = Callable[[str], tuple[Sequence[str], Iterable[Sequence[Any]]]]
"""SQL -> (type names of the columns, rows of Python values); raises what the database raises."""


class SltError(AssertionError):
    """A record that did not behave; the message names the file, the line and the SQL."""


@dataclass(slots=True)
class Record:
    """One statement or query of a script."""

    line: int
    kind: str
    sql: str = ""
    types: str = ""
    sort: str = "nosort"
    error: str | None = None
    expected: list[str] = field(default_factory=list)
    skip: set[str] = field(default_factory=set)
    only: set[str] = field(default_factory=set)


def parse_script(text: str, name: str) -> Iterator[Record]:
    """The records of a script. SltError where it is malformed."""
    lines = text.splitlines()
    position = 0
    skip: set[str] = set()
    only: set[str] = set()
    while position < len(lines):
        words = lines[position].split()
        position += 1
        if not words or words[0].startswith("#") or words[0] == "hash-threshold":
            continue
        if words[0] in ("skipif", "onlyif") and len(words) >= 2:
            (skip if words[0] == "skipif" else only).add(words[1])
            continue
        if words[0] == "halt":
            return
        record = Record(position, words[0], skip=skip, only=only)
        skip, only = set(), set()
        if words[0] == "statement" and words[1:2] in (["ok"], ["error"]):
            if words[1] == "error":
                record.error = lines[position - 1].split(None, 2)[2] if len(words) > 2 else ""
        elif words[0] == "query" and len(words) >= 2 and re.fullmatch(r"[IRT]+", words[1]):
            record.types = words[1]
            record.sort = words[2] if len(words) > 2 else "nosort"
            if record.sort not in ("nosort", "rowsort", "valuesort"):
                raise SltError(f"{name}:{position}: unknown sort {record.sort!r}")
        else:
            raise SltError(f"{name}:{position}: cannot read {lines[position - 1]!r}")
        position = _read_body(lines, position, record, name)
        yield record


def _read_body(lines: list[str], position: int, record: Record, name: str) -> int:
    sql: list[str] = []
    while position < len(lines) and lines[position].strip() and lines[position] != "----":
        sql.append(lines[position])
        position += 1
    record.sql = "\n".join(sql)
    if not record.sql:
        raise SltError(f"{name}:{record.line}: no SQL")
    if record.kind == "query":
        if position >= len(lines) or lines[position] != "----":
            raise SltError(f"{name}:{record.line}: a query needs ---- and its rows")
        position += 1
        while position < len(lines) and lines[position]:
            record.expected.append(lines[position])
            position += 1
    return position


def shown(value: Any) -> str:
    """A value as scripts write it."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.9g}"
    if isinstance(value, dt.datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, bytes):
        return "x" + value.hex()
    if isinstance(value, str | int | Decimal | dt.date | dt.timedelta):
        text = str(value)
        return text.replace("\n", "\\n").replace("\t", "\\t") if text else "(empty)"
    raise SltError(f"cannot show {value!r}")


def letter_of(type: str) -> str:
    if type in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT"):
        return "I"
    return "R" if type in ("FLOAT", "DOUBLE") or type.startswith("DECIMAL") else "T"


def arrange(rows: list[str], sort: str) -> list[str]:
    if sort == "rowsort":
        return sorted(rows)
    if sort == "valuesort":
        return sorted(value for row in rows for value in row.split("\t"))
    return rows


def run_script(
    text: str, execute: Execute, *, name: str, labels: frozenset[str] = frozenset(), errors: type[Exception] = Exception
) -> int:
    """Runs a script; returns how many records ran. SltError at the first that does not behave."""
    count = 0
    for record in parse_script(text, name):
        if record.skip & labels or (record.only and not record.only & labels):
            continue
        count += 1
        where = f"{name}:{record.line}"
        if record.kind == "statement":
            _run_statement(record, execute, where, errors)
        else:
            _run_query(record, execute, where)
    return count


def _run_statement(record: Record, execute: Execute, where: str, errors: type[Exception]) -> None:
    try:
        _, rows = execute(record.sql)
        list(rows)
    except errors as error:
        if record.error is None:
            raise SltError(f"{where}: {type(error).__name__}: {error}\n{record.sql}") from error
        if not re.search(record.error, str(error)):
            raise SltError(f"{where}: the error is {str(error)!r}, not {record.error!r}\n{record.sql}") from error
        return
    if record.error is not None:
        raise SltError(f"{where}: no error\n{record.sql}")


def _run_query(record: Record, execute: Execute, where: str) -> None:
    try:
        types, rows = execute(record.sql)
        found = ["\t".join(map(shown, row)) for row in rows]
    except Exception as error:
        raise SltError(f"{where}: {type(error).__name__}: {error}\n{record.sql}") from error
    letters = "".join(map(letter_of, types))
    if letters != record.types:
        raise SltError(f"{where}: columns are {letters} ({', '.join(types)}), not {record.types}\n{record.sql}")
    found, expected = arrange(found, record.sort), arrange(record.expected, record.sort)
    if found != expected:
        listed = "\n".join(found)
        raise SltError(f"{where}: rows differ\n{record.sql}\n-- found\n{listed}\n-- expected\n" + "\n".join(expected))
