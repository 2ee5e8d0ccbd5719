"""BEGIN, COMMIT and ROLLBACK: what sessions see of each other, and what becomes of what they change."""

from __future__ import annotations

import contextlib
import gc
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eventdb
from eventdb import ConflictError, ConstraintError, TransactionFailed, UsageError


@pytest.fixture
def db(tmp_path: Path) -> Iterator[eventdb.Database]:
    with eventdb.open(tmp_path / "db", durability="os") as opened:
        make(opened)
        yield opened


def make(db: eventdb.Database) -> None:
    db.sql("CREATE TABLE t (k BIGINT PRIMARY KEY, v BIGINT)")
    db.sql("CREATE TABLE u (x BIGINT)")
    db.sql("CREATE TOPIC e (x BIGINT)")
    db.sql("CREATE TOPIC f (x BIGINT) WITH (partitions = 2)")


def table(source: Any) -> list[tuple[int, int]]:
    return source.sql("SELECT k, v FROM t ORDER BY k").fetchall()  # type: ignore[no-any-return]


def commit_id(db: eventdb.Database) -> int:
    with db.snapshot() as snapshot:
        return snapshot.commit_id


def test_tables_and_topics_are_committed_together(db: eventdb.Database) -> None:
    db.sql("INSERT INTO u VALUES (0)")  # the first commit of a process takes a checkpoint
    start = commit_id(db)
    db.sql("DELETE FROM u")
    one_commit = commit_id(db) - start
    with db.session() as one, db.session() as other:
        one.sql("BEGIN")
        one.sql("INSERT INTO t VALUES (1, 10), (2, 20)")
        one.sql("INSERT INTO u VALUES (5), (5)")
        one.sql("INSERT INTO e VALUES (7)")
        one.sql("INSERT INTO f VALUES (8), (9)")
        one.sql("UPDATE t SET v = v + 1 WHERE k = 1")
        one.sql("DELETE FROM t WHERE k = 2")
        count = "SELECT (SELECT count(*) FROM t), (SELECT count(*) FROM u), (SELECT count(*) FROM e), count(*) FROM f"
        assert one.sql(count).fetchone() == (1, 2, 1, 2)
        assert other.sql(count).fetchone() == (0, 0, 0, 0)
        before = commit_id(db)
        one.sql("COMMIT")
        assert commit_id(db) - before == one_commit
        assert other.sql(count).fetchone() == (1, 2, 1, 2)
        assert table(db) == [(1, 11)]
    assert db.check(deep=True) == []


@pytest.mark.parametrize(
    "words",
    [
        ("BEGIN", "COMMIT"),
        ("START TRANSACTION", "END"),
        ("BEGIN WORK", "COMMIT WORK"),
        ("BEGIN TRANSACTION READ WRITE, ISOLATION LEVEL SNAPSHOT", "END TRANSACTION"),
    ],
)
def test_words_that_begin_and_end_a_transaction(db: eventdb.Database, words: tuple[str, str]) -> None:
    db.sql(words[0])
    db.sql("INSERT INTO t VALUES (1, 1)")
    db.sql(words[1])
    for undo in ("ROLLBACK", "ABORT", "ROLLBACK TRANSACTION;"):
        db.sql("BEGIN")
        db.sql("DELETE FROM t")
        assert table(db) == []
        db.sql(undo)
    assert table(db) == [(1, 1)]


def test_a_transaction_of_db_sql_is_that_of_its_thread(db: eventdb.Database) -> None:
    db.sql("BEGIN")
    db.sql("INSERT INTO t VALUES (1, 1)")
    seen: list[Any] = []

    def other() -> None:
        seen.append(table(db))
        db.topic("e").append({"x": 1})
        db.sql("BEGIN")
        db.sql("INSERT INTO t VALUES (2, 2)")

    thread = threading.Thread(target=other)
    thread.start()
    thread.join()
    assert seen == [[]]
    db.sql("COMMIT")
    gc.collect()
    assert table(db) == [(1, 1)]  # what the other thread left open ended with it
    assert db._transactions == []


def test_what_would_not_be_part_of_it_is_refused(db: eventdb.Database) -> None:
    topic, keyed = db.topic("e"), db.table("t")
    topic.append({"x": 0})
    db.sql("BEGIN")
    for write in (lambda: topic.append({"x": 1}), lambda: keyed.put({"k": 1}), lambda: db.transaction().__enter__()):
        with pytest.raises(UsageError):
            write()
    db.sql("ROLLBACK")
    topic.append({"x": 1})
    with db.transaction(), pytest.raises(UsageError):
        db.sql("BEGIN")
    assert not db.session().in_transaction


def test_statements_that_define_are_refused_and_leave_it_open(db: eventdb.Database) -> None:
    db.sql("BEGIN")
    db.sql("INSERT INTO t VALUES (1, 1)")
    for text in ("CREATE TABLE z (i BIGINT)", "DROP TABLE t", "CREATE TABLE z AS SELECT 1 AS a",
                 "CREATE VIEW z AS SELECT 1 AS a", "ALTER TABLE t RENAME TO z"):  # fmt: skip
        with pytest.raises(eventdb.UnsupportedError, match="transaction"):
            db.sql(text)
    db.sql("TRUNCATE t")
    db.sql("ROLLBACK")
    assert table(db) == []


def test_a_statement_that_fails_ends_all_but_one_that_is_wrong_does_not(db: eventdb.Database) -> None:
    with db.session() as session:
        session.sql("BEGIN")
        session.sql("INSERT INTO t VALUES (1, 1)")
        with pytest.raises(eventdb.ParseError):
            session.sql("SELEC 1")
        with pytest.raises(eventdb.BindError):
            session.sql("SELECT nothing FROM t")
        with pytest.raises(ConstraintError):
            session.sql("INSERT INTO t VALUES (2, 2), (1, 1)")
        with pytest.raises(TransactionFailed, match="INSERT INTO t VALUES") as caught:
            session.sql("SELECT 1")
        assert isinstance(caught.value.__cause__, ConstraintError)
        with pytest.raises(TransactionFailed):
            session.sql("COMMIT")
        assert not session.in_transaction
        assert table(session) == []


def test_begin_twice_and_ends_of_nothing_are_refused(db: eventdb.Database) -> None:
    for word in ("COMMIT", "ROLLBACK"):
        with pytest.raises(UsageError, match="BEGIN"):
            db.sql(word)
    db.sql("BEGIN")
    with pytest.raises(UsageError, match="open"):
        db.sql("BEGIN")
    db.sql("COMMIT")
    with db.snapshot() as snapshot, pytest.raises(UsageError):
        snapshot.sql("BEGIN")


@pytest.mark.parametrize("text", ["SAVEPOINT a", "RELEASE a", "ROLLBACK TO a", "BEGIN IMMEDIATE", "COMMIT AND CHAIN",
                                  "BEGIN ISOLATION LEVEL SERIALIZABLE"])  # fmt: skip
def test_what_transactions_do_not_do_is_named(db: eventdb.Database, text: str) -> None:
    with pytest.raises(eventdb.UnsupportedSQL):
        db.sql(text)


def test_a_read_only_transaction_refuses_changes(db: eventdb.Database) -> None:
    db.sql("BEGIN READ ONLY")
    with pytest.raises(UsageError, match="READ ONLY"):
        db.sql("INSERT INTO t VALUES (1, 1)")
    db.sql("ROLLBACK")


def test_a_lost_update_is_a_conflict_that_names_the_key(db: eventdb.Database) -> None:
    db.sql("INSERT INTO t VALUES (1, 1), (2, 2)")
    with db.session() as one, db.session() as other:
        for session in (one, other):
            session.sql("BEGIN")
            session.sql("UPDATE t SET v = v + 1 WHERE k = 2")
        one.sql("COMMIT")
        with pytest.raises(ConflictError, match="k = 2") as caught:
            other.sql("COMMIT")
        assert (caught.value.table, caught.value.key) == ("t", 2)
        assert not other.in_transaction
    assert table(db) == [(1, 1), (2, 3)]


def test_an_open_transaction_keeps_nobody_waiting(tmp_path: Path) -> None:
    db = eventdb.open(tmp_path / "db", durability="os")
    make(db)
    left = db.session()
    left.sql("BEGIN")
    left.sql("INSERT INTO t VALUES (1, 1)")
    with eventdb.open(tmp_path / "db", durability="os") as again:
        again.sql("INSERT INTO t VALUES (1, 5)")
    db.close()
    with pytest.raises(eventdb.ClosedError):
        left.sql("COMMIT")
    with eventdb.open(tmp_path / "db") as again:
        assert table(again) == [(1, 5)]


def test_many_threads_count_without_losing_one(db: eventdb.Database) -> None:
    db.sql("INSERT INTO t VALUES (1, 0)")
    conflicts = []

    def count() -> None:
        with db.session() as session:
            for _ in range(10):
                while True:
                    session.sql("BEGIN")
                    session.sql("UPDATE t SET v = v + 1 WHERE k = 1")
                    try:
                        session.sql("COMMIT")
                        break
                    except ConflictError:
                        conflicts.append(1)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert table(db) == [(1, 40)]


# --- against a model --------------------------------------------------------------------------------------------------

KEYS = st.integers(0, 3)
SESSIONS = st.integers(0, 2)
KINDS = ("begin",) * 6 + ("commit",) * 5 + ("update", "upsert", "row") * 4 + ("rollback", "insert", "delete", "merge")
KINDS += ("event", "unrow")
STEPS = st.lists(st.tuples(SESSIONS, st.sampled_from(KINDS), KEYS, st.integers(-9, 9)), min_size=40, max_size=60)
SQL = {
    "insert": "INSERT INTO t VALUES ($1, $2)",
    "update": "UPDATE t SET v = v + $2 WHERE k >= $1",
    "delete": "DELETE FROM t WHERE k = $1 AND $2 = $2",
    "upsert": "INSERT INTO t VALUES ($1, $2) ON CONFLICT (k) DO UPDATE SET v = t.v * 2 + excluded.v",
    "merge": "MERGE INTO t USING (SELECT $1::BIGINT AS k, $2::BIGINT AS v) s ON t.k <= s.k AND t.k > s.k - 2 "
    "WHEN MATCHED AND t.k = s.k THEN DELETE WHEN MATCHED THEN UPDATE SET v = s.v "
    "WHEN NOT MATCHED THEN INSERT VALUES (s.k, s.v)",
    "event": "INSERT INTO e SELECT $2::BIGINT WHERE $1 = $1",
    "row": "INSERT INTO u VALUES ($1)",
    "unrow": "DELETE FROM u WHERE x = $1 AND $2 = $2",
}


class State:
    """Rows by key with the number of the change that made them; events; rows without a key by number."""

    def __init__(self) -> None:
        self.rows: dict[Any, tuple[int, int]] = {}  # key or ("u", number) -> (value, change)
        self.events: list[int] = []

    def copy(self) -> State:
        made = State()
        made.rows, made.events = dict(self.rows), list(self.events)
        return made


class Model:
    """First committer wins, on keys."""

    def __init__(self) -> None:
        self.committed = State()
        self.changes = 0
        self.open: dict[int, tuple[State, State, set[Any]] | None] = {}  # snapshot, own state, changed keys
        self.begun: set[int] = set()
        self.failed: set[int] = set()

    def view(self, session: int) -> State:
        if session not in self.begun:
            return self.committed
        if session not in self.open:
            self.open[session] = (self.committed.copy(), self.committed.copy(), set())
        found = self.open[session]
        assert found is not None
        return found[1]

    def commit(self, session: int) -> type[Exception] | None:
        self.begun.remove(session)
        found = self.open.pop(session, None)
        if session in self.failed:
            self.failed.remove(session)
            return TransactionFailed
        if found is None:
            return None
        snapshot, own, changed = found
        errors = []
        for key in changed:
            base, now = snapshot.rows.get(key), self.committed.rows.get(key)
            if base is None and key not in own.rows:
                continue
            if base is None and now is not None:
                errors.append(ConstraintError)
            elif base != now:
                errors.append(ConflictError)
        if errors:
            return EitherError if len(set(errors)) > 1 else errors[0]
        for key in changed:
            self.committed.rows.pop(key, None)
            if key in own.rows:
                self.committed.rows[key] = own.rows[key]
        self.committed.events += own.events[len(snapshot.events) :]
        return None

    def change(self, session: int, what: str, key: int, value: int) -> type[Exception] | None:
        if session in self.failed:
            return TransactionFailed
        state = self.view(session)
        new = self.effect(state, what, key, value)
        if new is None:
            if session in self.begun:
                self.failed.add(session)
            return ConstraintError
        for k, v in new.items():
            self.changes += 1
            state.rows.pop(k, None)
            if v is not None:
                state.rows[k] = (v, self.changes)
        if session in self.begun:
            found = self.open[session]
            assert found is not None
            found[2].update(new)
        return None

    def effect(self, state: State, what: str, key: int, value: int) -> dict[Any, int | None] | None:
        """The new values of the keys that change; None if the statement fails."""
        rows = {k: v for k, (v, _) in state.rows.items() if isinstance(k, int)}
        if what == "event":
            state.events.append(value)
            return {}
        if what == "row":
            self.changes += 1
            return {("u", self.changes): key}
        if what == "unrow":
            return {k: None for k, (v, _) in state.rows.items() if not isinstance(k, int) and v == key}
        if what == "insert":
            return None if key in rows else {key: value}
        if what == "update":
            return {k: v + value for k, v in rows.items() if k >= key}
        if what == "delete":
            return {key: None} if key in rows else {}
        if what == "upsert":
            return {key: rows[key] * 2 + value if key in rows else value}
        matched = {k: None if k == key else value for k in (key - 1, key) if k in rows}
        return matched or {key: value}


class EitherError(Exception):
    """ConflictError or ConstraintError."""


def run_steps(path: Path, steps: list[tuple[int, str, int, int]]) -> set[type]:
    """The kinds of errors that were met."""
    met: set[type] = set()
    with eventdb.open(path, durability="os") as db:
        make(db)
        model = Model()
        sessions = [db.session() for _ in range(3)]
        for number, what, key, value in steps:
            session = sessions[number]
            expected: type[Exception] | None = None
            if what == "begin":
                expected = UsageError if number in model.begun else None
                model.begun.add(number)
            elif what in ("commit", "rollback"):
                if number not in model.begun:
                    expected = UsageError
                elif what == "commit":
                    expected = model.commit(number)
                else:
                    model.begun.remove(number)
                    model.failed.discard(number)
                    model.open.pop(number, None)
            else:
                expected = model.change(number, what, key, value)
            text, given = SQL.get(what, what), [key, value] if what in SQL else None
            if what == "row":
                given = [key]
            found: Exception | None = None
            try:
                session.sql(text, given)
            except (ConflictError, UsageError) as error:
                found = error
            kinds = (ConflictError, ConstraintError) if expected is EitherError else (expected or type(None))
            assert isinstance(found, kinds), (what, expected, found)
            met.add(type(found))
            for other in range(3) if what == "commit" else (number,):
                check(sessions[other], model, other)
        for session in sessions:
            session.close()
        model.begun.clear()
        check(db, model, 0)
        assert db.check(deep=True) == []
    return met


def check(source: Any, model: Model, number: int) -> None:
    """What a session sees is what the model says. A failed one sees nothing."""
    if number in model.failed and number in model.begun:
        return
    state = model.view(number)
    assert table(source) == sorted((k, v) for k, (v, _) in state.rows.items() if isinstance(k, int))
    rows = sorted(v for k, (v, _) in state.rows.items() if not isinstance(k, int))
    assert source.sql("SELECT x FROM u ORDER BY x").fetchall() == [(x,) for x in rows]
    assert source.sql("SELECT x FROM e ORDER BY _offset").fetchall() == [(x,) for x in state.events]


@settings(max_examples=4, deadline=None)
@given(STEPS)
def test_sessions_do_what_a_model_does(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, str, int, int]]
) -> None:
    run_steps(tmp_path_factory.mktemp("s") / "db", steps)


@pytest.mark.parametrize("seed", range(2))
def test_sessions_do_what_a_model_does_for_long(tmp_path: Path, seed: int) -> None:
    """Hypothesis begins with what is simple; conflicts need many steps."""
    drawn = random.Random(seed)
    steps = [(drawn.randrange(3), drawn.choice(KINDS), drawn.randrange(4), drawn.randint(-9, 9)) for _ in range(120)]
    errors = run_steps(tmp_path / "db", steps)
    assert {ConflictError, ConstraintError} <= errors


def test_a_thread_that_ended_in_a_failed_transaction_leaves_nothing_open(db: eventdb.Database) -> None:
    reads = len(db._store._index.open_reads)

    def fail() -> None:
        db.sql("BEGIN")
        db.sql("INSERT INTO t VALUES (1, 1)")
        with contextlib.suppress(ConstraintError):
            db.sql("INSERT INTO t VALUES (1, 1)")

    gc.collect()
    gc.disable()
    try:
        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        del thread
        assert db._transactions == []
        assert len(db._store._index.open_reads) == reads
    finally:
        gc.enable()


def test_a_failed_transaction_names_the_error_with_its_fields_and_causes(db: eventdb.Database) -> None:
    def broken(x: int) -> int:
        raise LookupError("no such thing")

    db.create_function("broken", broken, ["BIGINT"], "BIGINT")
    with db.session() as session:
        session.sql("BEGIN")
        with pytest.raises(eventdb.FunctionError) as caught:
            session.sql("INSERT INTO t SELECT broken(1), 1")
        with pytest.raises(TransactionFailed, match="no such thing") as told:
            session.sql("SELECT 1")
        cause = told.value.__cause__
        assert isinstance(cause, eventdb.FunctionError)
        assert (cause.function, str(cause), cause.sql) == ("broken", str(caught.value), caught.value.sql)
        assert isinstance(cause.original, LookupError)
        assert cause.original.args == ("no such thing",)
        assert cause.original.__traceback__ is None
