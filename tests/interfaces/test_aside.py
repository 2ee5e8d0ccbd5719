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
from eventdb import aside
from eventdb.aside import run_aside
from eventdb.errors import QueryCancelled, QueryTimeout
from eventdb.physical.context import CancelToken
from eventdb.session import Session


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
