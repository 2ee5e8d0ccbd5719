"""A runner for DuckDB's sqllogictest scripts: what of them EventDB keeps, what not, and why records are skipped.

The dialect, beyond slt_runner.py: rows with tabs or one value a line, hashes of all values, `<REGEX>:`, `loop` and
`foreach`, `require`, `skipif`, connections with names. A change that is a query gives the number of rows. Statements
are translated where EventDB has another word for the same thing: integers of 128 bits or without sign are BIGINT, `/`
leaves the integers; {TEST_DIR} is a folder of the script's own. A statement that shall fail passes with an error of the
kind that is expected; that something is not built is none. The text of a plan is not compared. What EventDB has nothing
for is skipped, or counted as not built where the dialect has it; every reason stands in duckdb_skips.txt, and a record
that needs a table which was not made is skipped with it.

    python -m tests.duckdb_slt FOLDER ...        counts, reasons and the classes of failures
"""

from __future__ import annotations

import datetime as dt
import hashlib
import math
import os
import re
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import eventdb
from eventdb.errors import (
    BindError,
    ConstraintError,
    EvaluationError,
    EventDBError,
    InternalError,
    ParseError,
    SchemaMismatch,
    UnsupportedError,
    UnsupportedSQL,
)
from eventdb.sql.parser import split

FOLDERS = (
    "aggregate", "window", "order", "topn", "limit", "projection", "conjunction", "filter", "insert", "merge",
    "returning", "update", "delete", "upsert", "prepared", "select", "subquery", "setops", "cte", "join", "overflow",
    "error",
)  # fmt: skip
SKIPS = Path(__file__).parent / "duckdb_skips.txt"
TIMEOUT_S = 30
LATER = "not built: "


def corpus() -> Path | None:
    """The folder of the scripts: $EVENTDB_DUCKDB_SLT, or shared/corpora/duckdb_slt beside the repository."""
    given = os.environ.get("EVENTDB_DUCKDB_SLT")
    path = Path(given) if given else Path(__file__).resolve().parents[2] / "shared" / "corpora" / "duckdb_slt"
    return path if path.is_dir() else None


@dataclass(slots=True)
class Record:
    """One statement or query, with the variables of the loops around it put in."""

    line: int
    kind: str
    sql: str
    types: str = ""
    sort: str = "nosort"
    expected: list[str] = field(default_factory=list)
    skipped: str = ""
    connection: str = ""
    label: str = ""  # queries with one label have the same result


@dataclass(frozen=True, slots=True)
class Outcome:
    file: str
    line: int
    kind: str  # passed, failed, skipped, later (part of the dialect, not built)
    reason: str = ""
    sql: str = ""


# --- reading ------------------------------------------------------------------------------------------------------


def records(text: str) -> Iterator[Record]:
    """The records of a script in the order they run. A script that needs what is not there gives skipped ones."""
    yield from _block(text.splitlines(), 0, {}, [""])


def _block(lines: list[str], offset: int, values: dict[str, str], required: list[str]) -> Iterator[Record]:
    position = 0
    unless = ""
    while position < len(lines):
        line = lines[position]
        words = line.split()
        position += 1
        if not words or words[0].startswith("#"):
            continue
        if words[0] in ("loop", "foreach", "concurrentloop", "concurrentforeach"):
            end = _end_of_loop(lines, position)
            body = lines[position:end]
            if words[0] in ("loop", "concurrentloop"):
                choices = [str(i) for i in range(int(words[2]), min(int(words[3]), int(words[2]) + 50))]
            else:
                choices = [value for word in words[2:] for value in _CHOICES.get(word, [word])]
            for choice in choices:
                yield from _block(body, offset + position, values | {words[1]: choice}, required)
            position = end + 1
        elif words[0] in ("require", "require-env", "load", "restart", "halt", "template", "include", "unzip"):
            if words[0] == "halt":
                return
            if words[1:2] not in (["vector_size"], ["skip_reload"], ["no_alternative_verify"], ["parquet"]):
                required[0] = required[0] or f"script: {' '.join(words[:2])}"
        elif words[0] in ("skipif", "onlyif"):
            unless = f"script: {words[0]}" if words[0] == "onlyif" else ""
        elif words[0] in ("statement", "query"):
            record, position = _record(lines, position, words, offset, values)
            record.skipped = required[0] or unless
            unless = ""
            yield record


_CHOICES = {
    "<integral>": ["tinyint", "smallint", "integer", "bigint"],
    "<signed>": ["tinyint", "smallint", "integer", "bigint"],
    "<numeric>": ["tinyint", "smallint", "integer", "bigint", "float", "double"],
    "<alltypes>": ["bool", "tinyint", "smallint", "integer", "bigint", "float", "double", "varchar"],
}


def _end_of_loop(lines: list[str], position: int) -> int:
    depth = 1
    for i in range(position, len(lines)):
        word = lines[i].split()[:1]
        depth += (word in (["loop"], ["foreach"], ["concurrentloop"], ["concurrentforeach"])) - (word == ["endloop"])
        if depth == 0:
            return i
    return len(lines)


def _record(
    lines: list[str], position: int, words: list[str], offset: int, values: dict[str, str]
) -> tuple[Record, int]:
    def put_in(text: str) -> str:
        for name, value in values.items():
            text = text.replace("${" + name + "}", value).replace("{" + name + "}", value)
        return text

    kind = "query" if words[0] == "query" else f"statement {words[1]}"
    record = Record(offset + position, kind, "")
    rest = words[2:]
    if kind == "query":
        record.types = words[1]
        if rest[:1] and rest[0] in ("nosort", "rowsort", "valuesort"):
            record.sort, record.label, rest = rest[0], "".join(rest[1:2]), []
    record.connection = rest[0] if rest else ""
    sql: list[str] = []
    while position < len(lines) and lines[position].strip() and lines[position] != "----":
        sql += [] if lines[position].startswith("#") else [lines[position]]
        position += 1
    record.sql = put_in("\n".join(sql)).strip().rstrip(";")
    if position < len(lines) and lines[position] == "----":
        position += 1
        while position < len(lines) and lines[position].strip():
            record.expected.append(put_in(lines[position]))
            position += 1
    return record, position


# --- running ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class Skips:
    """The reviewed reasons: regular expressions over SQL, and over the messages of errors. A reason of what is part of
    the dialect and not built begins with LATER."""

    sql: list[tuple[re.Pattern[str], str]]
    error: list[tuple[re.Pattern[str], str]]

    @staticmethod
    def read(path: Path = SKIPS) -> Skips:
        found = Skips([], [])
        for line in path.read_text(encoding="utf-8").splitlines():
            if line.strip() and not line.startswith("#"):
                kind, verdict, pattern, reason = (part.strip() for part in line.split("\t"))
                rules = {"sql": found.sql, "error": found.error}[kind]
                rules.append((re.compile(pattern, re.I | re.S), {"skip": "", "later": LATER}[verdict] + reason))
        return found

    @staticmethod
    def match(rules: list[tuple[re.Pattern[str], str]], text: str) -> str:
        return next((reason for pattern, reason in rules if pattern.search(text)), "")


_MAKES = re.compile(
    r"(?:^\s*create\s+(?:or\s+replace\s+)?(?:temp\s+|temporary\s+)?(?:table|view|type|macro|function|sequence|"
    r"(?:unique\s+)?index\s+[\w\"]*\s*on)\s+(?:if\s+not\s+exists\s+)?|^\s*(?:alter\s+table|copy|prepare)\s+|\binsert\s+(?:or\s+\w+\s+)?into\s+"
    r"|\bupdate\s+|\bdelete\s+from\s+|\bmerge\s+into\s+)([\w.\"]+)", re.I,
)  # fmt: skip
_WIDE = re.compile(r"\b(hugeint|uhugeint|utinyint|usmallint|uinteger|ubigint|uint128|int128)\b", re.I)


_DIVISION = re.compile(r"('(?:[^']|'')*'|\"[^\"]*\"|--[^\n]*|/\*.*?\*/|//)|(?<!/)/(?![/*])", re.S)


def translated(sql: str) -> str:
    """A statement with EventDB's words: BIGINT for wider integers, _offset for rowid, and a
    division that leaves the integers, as DuckDB's does."""
    sql = re.sub(r"\browid\b", "_offset", _WIDE.sub("BIGINT", sql), flags=re.I)
    return _DIVISION.sub(lambda found: found.group(1) or "* 1e0 /", sql)


class Script:
    """One script against a database of its own."""

    def __init__(self, path: Path, name: str, skips: Skips, execution: str = "auto") -> None:
        self.name = name
        self.skips = skips
        self.missing: dict[str, str] = {}
        self.text = path.read_text(encoding="utf-8", errors="replace")
        self.execution = execution
        self.own_order = False  # the script chose where NULLs stand
        self.sessions: dict[str, Any] = {}
        self.at_once = False
        self.folder = ""
        self.labels: dict[str, list[str]] = {}

    def run(self) -> Iterator[Outcome]:
        with tempfile.TemporaryDirectory() as folder, eventdb.open(":memory:") as db:
            self.folder = folder
            db.sql(f"SET timeout = {TIMEOUT_S}")
            db.sql(f"SET execution = '{self.execution}'")
            for record in records(self.text):
                kind, reason = self._outcome(db, record)
                yield Outcome(self.name, record.line, kind, reason, record.sql)

    def _outcome(self, db: Any, record: Record) -> tuple[str, str]:
        sql = translated(record.sql).replace("{TEST_DIR}", self.folder)
        self.own_order = self.own_order or "default_null_order" in sql.lower()
        explained = record.kind == "query" and bool(re.match(r"\s*explain\b", sql, re.I))
        reason = (
            record.skipped or ("the text of DuckDB's plans" if explained else "") or Skips.match(self.skips.sql, sql)
        )
        if not reason:
            needs = [why for table, why in self.missing.items() if re.search(rf"\b{re.escape(table)}\b", sql, re.I)]
            reason = f"needs a table that was not made ({needs[0]})" if needs else ""
        self.at_once = self.at_once or "immediate_transaction_mode" in sql
        if reason:
            self._forget(sql, reason)
            return ("later" if LATER in reason else "skipped"), reason
        try:
            names, types, rows = self._execute(db, sql, record.connection)
        except InternalError as error:
            return "failed", f"InternalError: {error}"
        except EventDBError as error:
            return self._error(record, sql, error)
        if record.kind == "statement error":
            return "failed", "no error"
        if record.kind != "query":
            return "passed", ""
        del names, types
        if record.label:
            bag = sorted(map(repr, rows))
            same = self.labels.setdefault(record.label, bag) == bag
            if not record.expected:
                return ("passed", "") if same else ("failed", f"not the rows of {record.label}")
        verdict = compare(record, rows)
        inner = re.search(r"\border\s+by\b.*\b(order\s+by|limit)\b", sql, re.I | re.S)  # a window, too
        if self.own_order and (verdict[1] == "wrong order" or (verdict[1] == "wrong result" and inner)):
            return "skipped", "the script sets where NULLs stand"
        return verdict

    def _error(self, record: Record, sql: str, error: EventDBError) -> tuple[str, str]:
        message = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        reason = Skips.match(self.skips.error, message)
        kind = "later" if reason.startswith(LATER) else "skipped"
        if record.kind == "statement error":
            if reason:
                return kind, reason
            return ("passed", "") if is_expected(record.expected, error) else ("failed", f"another error: {message}")
        if record.kind == "statement maybe":
            return "passed", ""
        self._forget(sql, reason or message)
        return (kind, reason) if reason else ("failed", message)

    def _forget(self, sql: str, reason: str) -> None:
        """A table that could not be made or filled is not to be counted on."""
        for made in _MAKES.finditer(sql):
            self.missing.setdefault(made.group(1).strip('"').split(".")[-1], reason.split(" (")[0])

    def _execute(self, db: Any, sql: str, connection: str) -> tuple[list[str], list[str], list[tuple[Any, ...]]]:
        sql = re.sub(r"^(\s*create\s+(?:or\s+replace\s+)?)(?:temp|temporary)\s+", r"\1", sql, flags=re.I)
        session = self.sessions.get(connection)
        if session is None:
            session = self.sessions[connection] = db.session()
        for statement in split(sql):
            result = session.sql(statement)
            if self.at_once and session.in_transaction:
                session.sql("SELECT 1")  # BEGIN takes the snapshot, not the first statement after it
        made = re.match(
            r"\s*create\s+(?:or\s+replace\s+)?(?:table|view)\s+(?:if\s+not\s+exists\s+)?([\w.\"]+)", sql, re.I
        )
        if made:
            self.missing.pop(made.group(1).strip('"').split(".")[-1], None)
        if not result.columns and _CHANGE.match(sql):
            return ["Count"], ["BIGINT"], [(result.rowcount,)]
        return list(result.columns), [str(type) for type in result.types], result.fetchall()


_KINDS: dict[str, tuple[type[EventDBError], ...]] = {
    "parser error": (ParseError, BindError, UnsupportedSQL),
    "constraint error": (ConstraintError, SchemaMismatch, BindError),
    "out of range error": (EvaluationError, BindError),
    "conversion error": (EvaluationError, BindError),
}
"""What DuckDB calls an error -> what it may be here: much that it meets while it runs is found while binding."""
_ABSENT = re.compile(r"^no function (\w+)\(\)")


@lru_cache(maxsize=1)
def functions_of_duckdb() -> frozenset[str]:
    import duckdb

    return frozenset(name for (name,) in duckdb.sql("SELECT function_name FROM duckdb_functions()").fetchall())


def is_expected(expected: list[str], error: EventDBError) -> bool:
    """Whether an error is of the kind a script expects: any that says what is wrong if it does not say more, but not
    that EventDB lacks something, unless DuckDB does so, too."""
    text = " ".join(expected).lower()
    if isinstance(error, UnsupportedSQL | UnsupportedError):
        return (
            re.search(r"not implemented|(not|n't) (yet )?support|unsupported|parser error|syntax error", text)
            is not None
        )
    absent = _ABSENT.search(str(error))
    if absent and absent.group(1) in functions_of_duckdb():
        return re.search("binder error|catalog error|no function matches|does not exist", text) is not None
    return all(isinstance(error, classes) for kind, classes in _KINDS.items() if kind in text)


_CHANGE = re.compile(
    r"\s*(insert|update|delete|merge|truncate|with|execute|create\s+(or\s+replace\s+)?table\s.*\bas\b)", re.I | re.S
)


# --- comparing ----------------------------------------------------------------------------------------------------


def shown(value: Any) -> str:
    """A value as DuckDB prints it."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        if math.isinf(value):
            return "inf" if value > 0 else "-inf"
        return "nan" if math.isnan(value) else repr(value)
    if isinstance(value, dt.datetime):
        text = value.isoformat(sep=" ")
        return text.rstrip("0") if value.microsecond else text
    if isinstance(value, dt.timedelta):
        days, rest = divmod(value, dt.timedelta(days=1))
        clock = f"{rest.seconds // 3600:02}:{rest.seconds // 60 % 60:02}:{rest.seconds % 60:02}"
        return " ".join(part for part in (f"{days} days" if days else "", clock if rest or not days else "") if part)
    return str(value) if value != "" else "(empty)"


def compare(record: Record, rows: list[tuple[Any, ...]]) -> tuple[str, str]:
    width = len(record.types)
    if rows and len(rows[0]) != width:
        return "failed", f"wrong number of columns: {len(rows[0])}, not {width}"
    found = [[shown(value) for value in row] for row in rows]
    hashed = re.fullmatch(r"(\d+) values hashing to (\w+)", record.expected[0]) if len(record.expected) == 1 else None
    if record.sort == "rowsort":
        found.sort()
    if hashed:
        values = [value for row in found for value in row]
        if record.sort == "valuesort":
            values.sort()
        digest = hashlib.md5("".join(f"{value}\n" for value in values).encode()).hexdigest()
        same = len(values) == int(hashed.group(1)) and digest == hashed.group(2)
        return ("passed", "") if same else ("failed", "wrong result (hash)")
    if len(record.expected) == len(rows) * width and width > 1 and not any("\t" in e for e in record.expected):
        expected = [record.expected[i : i + width] for i in range(0, len(record.expected), width)]
    else:
        expected = [re.split("\t+", line.strip("\t")) for line in record.expected]
    if record.sort == "rowsort":
        expected.sort()
    if record.sort == "valuesort":
        found, expected = ([[v] for v in sorted(v for row in side for v in row)] for side in (found, expected))
    if len(found) != len(expected):
        return "failed", "wrong number of rows"
    same = all(len(a) == len(b) and all(map(equal, a, b)) for a, b in zip(found, expected, strict=True))
    if same:
        return "passed", ""
    found, expected = (sorted([_BITS.get(value, value) for value in row] for row in side) for side in (found, expected))
    if not all(all(map(equal, a, b)) for a, b in zip(found, expected, strict=True)):
        return "failed", "wrong result"
    return ("failed", "wrong order") if _is_ordered(record.sql) else ("passed", "")


def _is_ordered(sql: str) -> bool:
    """Whether ORDER BY stands outside of all brackets: else the order of the rows means nothing."""
    flat = sql
    while (inner := re.sub(r"\([^()]*\)", "", flat)) != flat:
        flat = inner
    return re.search(r"\border\s+by\b", flat, re.I) is not None


def equal(found: str, expected: str) -> bool:
    """The same text, a match of a <REGEX>, or numbers that are as good as equal."""
    if found == expected or (expected in ("1", "0", "True", "False") and found == _TRUTH[expected]):
        return True
    if expected.startswith(("<REGEX>:", "<!REGEX>:")):
        kind, _, pattern = expected.partition(":")
        return (re.fullmatch(pattern, found, re.S) is not None) == (kind == "<REGEX>")
    try:
        return math.isclose(float(found), float(expected), rel_tol=1e-6, abs_tol=1e-9)
    except ValueError:
        return False


_BITS = {"true": "1", "false": "0", "True": "1", "False": "0"}
_TRUTH = {"1": "true", "0": "false", "True": "true", "False": "false"}


# --- folders ------------------------------------------------------------------------------------------------------


def scripts(root: Path, folder: str) -> list[Path]:
    """The scripts of a folder; the slow ones (test_slow) are not among them."""
    return sorted((root / folder).rglob("*.test"))


def run_scripts(root: Path, paths: list[Path], execution: str = "auto") -> list[Outcome]:
    skips = Skips.read()
    return [outcome for path in paths for outcome in Script(path, str(path.relative_to(root)), skips, execution).run()]


def report(name: str, outcomes: list[Outcome]) -> str:
    """The counts of a folder as one line."""
    counts = Counter(outcome.kind for outcome in outcomes)
    ran = counts["passed"] + counts["failed"]
    rate = 100 * counts["passed"] / ran if ran else 0.0
    return (
        f"{name:12} passed {counts['passed']:5} failed {counts['failed']:4} {rate:6.1f} %"
        f" not built {counts['later']:4} skipped {counts['skipped']:4}"
    )


def main(names: list[str]) -> None:
    root = corpus()
    if root is None:
        raise SystemExit("no corpus: set EVENTDB_DUCKDB_SLT to the folder of DuckDB's scripts")
    details = "-v" in names
    every: list[Outcome] = []
    for name in [name for name in names if name != "-v"] or FOLDERS:
        outcomes = run_scripts(root, scripts(root, name))
        every += outcomes
        print(report(name, outcomes), flush=True)
    for kind in ("skipped", "later", "failed"):
        print(f"--- {kind}")
        for reason, count in Counter(o.reason for o in every if o.kind == kind).most_common(None if details else 40):
            print(f"{count:5} {reason[:160]}")
    if details:
        for outcome in every:
            if outcome.kind == "failed":
                print(f"{outcome.file}:{outcome.line}: {outcome.reason[:200]}\n    {outcome.sql[:300]!r}")


if __name__ == "__main__":
    main(sys.argv[1:])
