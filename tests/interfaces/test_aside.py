"""A query that does not look at its token is left behind, whatever it does, and cleans up when it ends."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import eventdb
import eventdb.dbapi
from eventdb import aside
from eventdb.aside import run_aside
from eventdb.errors import QueryCancelled, QueryTimeout
from eventdb.physical.context import CancelToken
from eventdb.session import Session
from eventdb.storage.snapshot import StoreSnapshot


class Stuck:
    """Work that goes on until it is let go, and never looks at a token."""

    def __init__(self) -> None:
        self.started, self.let_go, self.ended = threading.Event(), threading.Event(), threading.Event()

    def __call__(self) -> str:
        self.started.set()
        self.let_go.wait(60)
        self.ended.set()
        return "done"


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    work = Stuck()
    yield work
    work.let_go.set()


def test_what_the_work_returns_or_raises_is_the_outcome() -> None:
    assert [run_aside(lambda i=i: i * 2, CancelToken()) for i in range(10)] == list(range(0, 20, 2))  # type: ignore[misc]
    with pytest.raises(ZeroDivisionError):
        run_aside(lambda: 1 // 0, CancelToken(60))
    with pytest.raises(QueryTimeout):
        run_aside(lambda: CancelToken(1e-9).check(), CancelToken(60))


def test_a_deadline_gives_control_back_while_the_work_is_stuck(stuck: Stuck) -> None:
    token = CancelToken(0.02)
    with pytest.raises(QueryTimeout, match=r"0\.02 s"):
        run_aside(stuck, token)
    assert not stuck.ended.is_set()
    assert token.cancelled
    assert run_aside(lambda: "others go on", CancelToken()) == "others go on"
    stuck.let_go.set()
    assert stuck.ended.wait(60)


def test_a_cancel_gives_control_back_while_the_work_is_stuck(stuck: Stuck) -> None:
    token = CancelToken()
    thread = threading.Thread(target=lambda: (stuck.started.wait(60), token.cancel()))
    thread.start()
    with pytest.raises(QueryCancelled):
        run_aside(stuck, token)
    assert not stuck.ended.is_set()
    thread.join()


def test_a_keyboard_interrupt_gives_control_back_and_cancels_the_work(stuck: Stuck) -> None:
    token = CancelToken()
    thread = threading.Thread(target=lambda: (stuck.started.wait(60), os.kill(os.getpid(), signal.SIGINT)))
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        run_aside(stuck, token)
    assert not stuck.ended.is_set()
    assert token.cancelled
    thread.join()


def test_a_child_after_a_fork_has_threads_of_its_own() -> None:
    run_aside(lambda: None, CancelToken())  # one is idle here, and is not in the child
    child = os.fork()
    if not child:
        os._exit(run_aside(lambda: 7, CancelToken(30)))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_child_that_is_forked_while_another_thread_holds_the_lock_runs_queries() -> None:
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with aside._lock:
            held.set()
            done.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(60)
    child = os.fork()
    if not child:
        signal.alarm(20)
        os._exit(run_aside(lambda: 7, CancelToken(30)))
    done.set()
    holder.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


@pytest.fixture
def db(tmp_path: Path) -> Iterator[eventdb.Database]:
    with eventdb.open(tmp_path / "db", durability="os") as opened:
        opened.create_topic("t", {"n": "BIGINT"})
        opened.topic("t").append_batch({"n": range(30_000)})
        yield opened


ENDS: dict[str, tuple[type[BaseException], Callable[[eventdb.Database], None]]] = {
    "interrupt": (QueryCancelled, lambda db: db.interrupt()),
    "Ctrl-C": (KeyboardInterrupt, lambda db: os.kill(os.getpid(), signal.SIGINT)),
    "timeout": (QueryTimeout, lambda db: None),
}


@pytest.mark.parametrize("end", ENDS)
def test_a_stuck_query_ends_at_once_and_keeps_its_snapshot_until_it_is_done(
    db: eventdb.Database, end: str, stuck: Stuck, monkeypatch: pytest.MonkeyPatch
) -> None:
    bounded = Session._bounded
    contexts: list[Any] = []

    def slow(rows: Any, context: Any) -> Any:
        contexts.append(context)
        if len(contexts) == 1:
            stuck()
        return bounded(rows, context)

    monkeypatch.setattr(Session, "_bounded", staticmethod(slow))
    error, act = ENDS[end]
    thread = threading.Thread(target=lambda: (stuck.started.wait(60), act(db)))
    thread.start()
    with pytest.raises(error):
        db.sql("SELECT n FROM t ORDER BY -n", timeout=0.2 if end == "timeout" else None)
    thread.join()
    assert contexts[0].snapshot.commit_id > 0
    assert contexts[0].snapshot.transaction() is not None  # raises once it is closed
    db.topic("t").append({"n": -1})
    assert db.sql("SELECT count(*) FROM t").fetchone() == (30_001,)
    stuck.let_go.set()
    db._session_of().close()  # waits for it
    with pytest.raises(eventdb.ClosedError):
        contexts[0].snapshot.transaction()


def test_queries_of_many_threads_are_interrupted_together(db: eventdb.Database) -> None:
    slow = "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 900000000) SELECT max(n) FROM r"
    db.sql("SET recursion_limit = 1000000000")
    outcomes: list[str] = []

    def run() -> None:
        try:
            db.sql(slow)
        except QueryCancelled:
            outcomes.append("cancelled")

    threads = [threading.Thread(target=run) for _ in range(6)]
    for thread in threads:
        thread.start()
    session = db._session_of()
    while len(session._running) < 6:
        threading.Event().wait(0.001)
    db.interrupt()
    for thread in threads:
        thread.join(60)
    assert outcomes == ["cancelled"] * 6
    assert db.sql("SELECT count(*) FROM t").fetchone() == (30_000,)


def test_work_runs_here_where_no_thread_can_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(worker: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(aside._Worker, "start", refuse)
    monkeypatch.setattr(aside, "_idle", [])
    assert run_aside(threading.get_ident, CancelToken()) == threading.get_ident()


class Lost(list[Any]):
    """Idle workers of whom the caller gets none: a signal handler raises after it has taken one out."""

    def pop(self, index: Any = -1) -> Any:
        super().pop(index)
        raise KeyboardInterrupt


def test_a_worker_ends_that_an_interrupt_has_lost_before_it_was_given_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aside, "IDLE_S", 0.02)
    worker = aside._Worker()
    monkeypatch.setattr(aside, "_idle", Lost([worker]))
    worker.start()
    with pytest.raises(KeyboardInterrupt):
        run_aside(lambda: None, CancelToken())
    worker.join(60)
    assert not worker.is_alive()


def test_work_that_an_interrupt_kept_from_beginning_is_known_not_to_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[str] = []
    monkeypatch.setattr(aside, "_idle", Lost([aside._Worker()]))
    token = CancelToken()
    with pytest.raises(KeyboardInterrupt):
        run_aside(lambda: done.append("work"), token, lambda: done.append("undone"))
    assert done == ["undone"]
    assert token.cancelled
    monkeypatch.setattr(aside, "_idle", [])
    with pytest.raises(ZeroDivisionError):
        run_aside(lambda: 1 // 0, CancelToken(), lambda: done.append("undone"))
    assert done == ["undone"]


def test_a_query_that_an_interrupt_kept_from_beginning_lets_its_snapshot_go(
    db: eventdb.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aside, "_idle", Lost([aside._Worker()]))
    with pytest.raises(KeyboardInterrupt) as caught:
        db.sql("SELECT n FROM t ORDER BY -n")
    assert not db._session_of()._running, caught  # while the traceback keeps what was on its way


PLACES: dict[str, Callable[[eventdb.Database], tuple[Any, Callable[[], None]]]] = {}


def place(make: Callable[[eventdb.Database], tuple[Any, Callable[[], None]]]) -> Any:
    PLACES[make.__name__] = make
    return make


@place
def in_a_session(db: eventdb.Database) -> tuple[Any, Callable[[], None]]:
    session = db.session()
    session.sql("BEGIN")
    session.sql("INSERT INTO t VALUES (1)")
    return session.sql, session.rollback


@place
def in_a_connection(db: eventdb.Database) -> tuple[Any, Callable[[], None]]:
    connection = eventdb.dbapi.connect(db)
    connection.execute("INSERT INTO t VALUES (1)")

    def run(text: str, timeout: float | None = None) -> Any:
        try:
            return connection.execute(text, timeout=timeout)
        except eventdb.dbapi.Error as error:
            raise error.__cause__ or error from None

    return run, connection.rollback


@place
def in_a_snapshot(db: eventdb.Database) -> tuple[Any, Callable[[], None]]:
    snapshot = db.snapshot()
    return snapshot.sql, snapshot.close


class Slow:
    """The first query is stuck when it has begun; `contexts` are those of all."""

    def __init__(self, stuck: Stuck, monkeypatch: pytest.MonkeyPatch) -> None:
        self.contexts: list[Any] = []
        bounded = Session._bounded

        def slow(rows: Any, context: Any) -> Any:
            self.contexts.append(context)
            if len(self.contexts) == 1:
                stuck()
            return bounded(rows, context)

        monkeypatch.setattr(Session, "_bounded", staticmethod(slow))


def interrupt_when_stuck(db: eventdb.Database, stuck: Stuck) -> None:
    threading.Thread(target=lambda: (stuck.started.wait(60), db.interrupt())).start()


QUERY = "SELECT n FROM t ORDER BY -n"


@pytest.mark.parametrize("where", PLACES)
@pytest.mark.parametrize("end", ENDS)
def test_a_stuck_query_over_a_given_snapshot_ends_at_once_and_keeps_it_until_it_is_done(
    db: eventdb.Database, end: str, where: str, stuck: Stuck, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, let_go = PLACES[where](db)
    contexts = Slow(stuck, monkeypatch).contexts
    error, act = ENDS[end]
    thread = threading.Thread(target=lambda: (stuck.started.wait(60), act(db)))
    thread.start()
    with pytest.raises(error):
        run(QUERY, timeout=0.2 if end == "timeout" else None)
    thread.join()
    assert not stuck.ended.is_set()
    let_go()  # the transaction is over at once
    assert contexts[0].snapshot.transaction() is not None  # raises once it is closed
    stuck.let_go.set()
    db._session_of().close()
    with pytest.raises(eventdb.ClosedError):
        contexts[0].snapshot.transaction()


def test_the_next_query_over_a_snapshot_waits_for_one_that_was_left(
    db: eventdb.Database, stuck: Stuck, monkeypatch: pytest.MonkeyPatch
) -> None:
    with db.snapshot() as snapshot:
        Slow(stuck, monkeypatch)
        interrupt_when_stuck(db, stuck)
        with pytest.raises(QueryCancelled):
            snapshot.sql(QUERY)
        with pytest.raises(QueryTimeout):
            snapshot.sql("SELECT count(*) FROM t", timeout=0.05)
        threading.Timer(0.05, stuck.let_go.set).start()
        assert snapshot.sql("SELECT count(*) FROM t").fetchone() == (30_000,)
        assert stuck.ended.is_set()


@pytest.mark.parametrize("change", ["INSERT INTO t SELECT n + 1 FROM t ORDER BY -n", "DELETE FROM k WHERE k % 2 = 0"])
@pytest.mark.parametrize("begin", [False, True])
def test_a_change_that_is_stuck_reading_ends_at_once_and_changes_nothing(
    db: eventdb.Database, change: str, begin: bool, stuck: Stuck, monkeypatch: pytest.MonkeyPatch
) -> None:
    db.sql("CREATE TABLE k (k BIGINT PRIMARY KEY)")
    db.sql("INSERT INTO k SELECT n FROM t")
    with db.session() as session:
        if begin:
            session.sql("BEGIN")
        Slow(stuck, monkeypatch)
        interrupt_when_stuck(db, stuck)
        with pytest.raises(QueryCancelled):
            session.sql(change)
        assert not stuck.ended.is_set()
        stuck.let_go.set()
    assert db.sql("SELECT (SELECT count(*) FROM t), count(*) FROM k").fetchone() == (30_000, 30_000)


@pytest.mark.parametrize("begin", [False, True])
def test_closing_cancels_queries_and_does_not_close_under_one_that_goes_on(
    db: eventdb.Database, begin: bool, stuck: Stuck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventdb.session.CLOSE_WAIT_S", 0.05)
    contexts = Slow(stuck, monkeypatch).contexts
    told: list[str] = []

    def query() -> None:
        if begin:
            db.sql("BEGIN")
        with pytest.raises(QueryCancelled) as caught:
            db.sql(QUERY)
        told.append(str(caught.value))

    thread = threading.Thread(target=query)
    thread.start()
    stuck.started.wait(60)
    with pytest.raises(QueryTimeout, match="1 queries"):
        db.close()
    thread.join(60)
    assert told == ["the query was cancelled: its database was closed"]
    assert contexts[0].snapshot.transaction() is not None
    with pytest.raises(eventdb.ClosedError):
        db.sql("SELECT count(*) FROM t")
    stuck.let_go.set()
    db.close()
    with pytest.raises(eventdb.ClosedError):
        contexts[0].snapshot.transaction()


def test_a_connection_that_could_not_be_closed_can_be_closed_again(
    tmp_path: Path, stuck: Stuck, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eventdb.session.CLOSE_WAIT_S", 0.05)
    connection = eventdb.connect(tmp_path / "new", durability="os")
    connection.execute("CREATE TABLE t (n BIGINT PRIMARY KEY)")
    connection.executemany("INSERT INTO t VALUES (?)", [(i,) for i in range(30_000)])
    connection.commit()
    Slow(stuck, monkeypatch)
    interrupt_when_stuck(connection.database, stuck)
    with pytest.raises(eventdb.dbapi.OperationalError, match="cancelled"):
        connection.execute(QUERY)
    with pytest.raises(eventdb.dbapi.OperationalError, match="close it again"):
        connection.close()
    stuck.let_go.set()
    connection.close()
    with eventdb.open(tmp_path / "new", durability="os") as again:
        assert again.sql("SELECT count(*) FROM t").fetchone() == (30_000,)


@pytest.mark.parametrize("many", [False, True])
def test_a_change_that_ctrl_c_stops_fails_its_transaction(
    db: eventdb.Database, many: bool, stuck: Stuck, monkeypatch: pytest.MonkeyPatch
) -> None:
    """COMMIT stored the transaction without it."""
    db.sql("CREATE TABLE k (k BIGINT PRIMARY KEY)")
    thread = threading.Thread(target=lambda: (stuck.started.wait(60), os.kill(os.getpid(), signal.SIGINT)))
    with db.session() as session:
        session.sql("BEGIN")
        session.sql("INSERT INTO k VALUES (-1)")
        Slow(stuck, monkeypatch)
        thread.start()
        text = "INSERT INTO k SELECT n FROM t WHERE n <> ? ORDER BY -n"
        with pytest.raises(KeyboardInterrupt):
            session.run_many(text, [[0], [1]]) if many else session.sql(text, [0])
        with pytest.raises(eventdb.TransactionFailed, match="KeyboardInterrupt"):
            session.sql("COMMIT")
    thread.join()
    assert db.sql("SELECT count(*) FROM k").fetchone() == (0,)


def test_an_interrupt_while_a_query_lets_its_snapshot_go_leaves_nothing_that_closing_waits_for(
    db: eventdb.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    let_go = StoreSnapshot.let_go

    def interrupted(snapshot: StoreSnapshot) -> None:
        monkeypatch.setattr(StoreSnapshot, "let_go", let_go)
        raise KeyboardInterrupt

    with db.snapshot() as snapshot:
        for source in (db, snapshot):
            monkeypatch.setattr(StoreSnapshot, "let_go", interrupted)
            with pytest.raises(KeyboardInterrupt):
                source.sql("SELECT n FROM t WHERE _offset = 5")
            assert not db._session_of()._running
