"""SQLite's sqllogictest corpus: a draw of it in every run, all of it in a campaign.

The folder is not part of the project: EVENTDB_SQLITE_SLT names it, or it lies at ../shared/corpora/sqlite_slt.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.errors import EventDBError, InternalError

from .sqlite_slt import Record, Report, agrees, digest, parse, result_lines, run, scripts

ROOT = Path(__file__).resolve().parent.parent
FOLDER = Path(os.environ.get("EVENTDB_SQLITE_SLT") or ROOT.parent / "shared" / "corpora" / "sqlite_slt")
DRAW = 0.004
UNSUPPORTED = r"CREATE (UNIQUE )?INDEX"
REFUSED = r"must be in GROUP BY or inside an aggregate|division by zero"  # SQLite: any row's value, and NULL

needs_corpus = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the corpus is not here; set EVENTDB_SQLITE_SLT to SQLite's sqllogictest folder"
)


def run_file(path: Path, share: float) -> Report:
    db = eventdb.open(":memory:")

    def execute(sql: str) -> Sequence[Sequence[Any]]:
        if re.match(r"CREATE TABLE", sql) and "PRIMARY KEY" not in sql.upper():
            sql = re.sub(
                r"^CREATE TABLE", "CREATE TOPIC", sql
            )  # a table of EventDB has a key; rows without one are events
        try:
            return db.sql(sql).fetchall()
        except InternalError as error:
            raise AssertionError(f"{path.name}: {sql}: {error}") from error

    try:
        records = parse(path.read_text(encoding="utf-8"), path.relative_to(FOLDER).as_posix())
        return run(records, execute, errors=EventDBError, unsupported=UNSUPPORTED, refused=REFUSED, share=share, seed=1)
    finally:
        db.close()


@needs_corpus
@pytest.mark.parametrize("path", scripts(FOLDER), ids=lambda path: "-".join(path.relative_to(FOLDER).parts))
def test_a_draw_of_the_corpus_passes(path: Path) -> None:
    report = run_file(path, DRAW)
    assert report.passed
    assert not report.failed, str(report)


@needs_corpus
@pytest.mark.campaign
@pytest.mark.timeout(3600)
def test_the_whole_corpus_passes() -> None:
    whole = Report()
    for path in scripts(FOLDER):
        report = run_file(path, 1.0)
        print(path.relative_to(FOLDER), report)
        whole.add(report)
    print(whole)
    assert whole.passed
    assert not whole.failed, str(whole)
    refused = sum(count for reason, count in whole.skipped.items() if reason.startswith("refused"))
    assert refused < whole.passed / 1000, str(whole)


SCRIPT = """
hash-threshold 8

# what follows is run
statement ok
CREATE

statement error
boom

onlyif mysql # it says
query I rowsort x
no

skipif mysql # not compatible
query TI rowsort label-1
SELECT
----
a
2
b@
10

query TI valuesort label-2
SELECT
----
4 values hashing to {hash}

query I nosort
"""


def answer(sql: str) -> list[tuple[Any, ...]]:
    if sql == "boom":
        raise EventDBError("column 'x' broke at 7")
    return [("b\t", 10.9), ("a", 2)] if sql == "SELECT" else []


def outcome(text: str) -> Report:
    hashed = text.replace("{hash}", digest(["10", "2", "a", "b@"]))
    return run(parse(hashed, "x.test"), answer, errors=EventDBError)


def test_a_script_that_is_kept_passes_and_says_what_it_skipped() -> None:
    report = outcome(SCRIPT)
    assert (report.passed, dict(report.failed), dict(report.skipped)) == (5, {}, {"onlyif mysql": 1})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (("b@\n10", "b@\n11"), "rows differ"),
        (("4 values", "5 values"), "rows differ"),
        (("{hash}", "0" * 32), "rows differ"),
        (("rowsort label-1", "nosort label-1"), "rows differ"),
        (("label-2", "label-1"), "differs from a query with the same label"),
        (("query TI valuesort", "query TII valuesort"), "another number of columns"),
        (("statement error\nboom", "statement ok\nboom"), "EventDBError: column _ broke at _"),
        (("statement error\nboom", "statement error\nCREATE"), "no error"),
    ],
)
def test_a_script_that_is_not_kept_fails_with_its_reason(change: tuple[str, str], reason: str) -> None:
    assert change[0] in SCRIPT
    report = outcome(SCRIPT.replace(*change))
    assert dict(report.failed) == {reason: 1}
    assert "x.test:" in str(report)


def test_what_is_refused_on_purpose_is_counted_as_skipped() -> None:
    report = run(parse("statement ok\nboom\n", "x"), answer, errors=EventDBError, refused="broke at|other")
    assert (report.run, dict(report.skipped)) == (0, {"refused: broke at": 1})


def test_numbers_are_shown_as_c_prints_them() -> None:
    assert result_lines([(True, 2, None, "")], "IRTT", "nosort") == ["1", "2.000", "NULL", "(empty)"]
    assert agrees(["10", "9"], ["10", "9"])
    assert not agrees(["9", "10"], ["10", "9"])


def test_records_for_other_engines_and_behind_halt_are_not_run() -> None:
    records: list[Record] = list(parse("skipif eventdb\nstatement ok\na\n\nhalt\n\nstatement ok\nb\n", "x"))
    assert [(record.sql, record.skip) for record in records] == [("a", "skipif eventdb")]
