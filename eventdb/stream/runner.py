"""Maintenance: one thread keeps the stored part of every view near the end of its topic.

Nobody waits for it: readers and subscribers advance their own queries. It exists so that they start from a recent
state, and so that windows' rows are stored. One process at a time does it, the holder of the lease. A pass reads the
new rows of each topic once for all its views, advances every view, and commits all of it together: state, progress and
output rows. The commit is not journaled: after a power loss views are at the last checkpoint and catch up again.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from eventdb.config import MORSEL_ROWS, VIEW_TAKEOVER_MS
from eventdb.errors import (
    ClosedError,
    CorruptionError,
    EvaluationError,
    EventDBError,
    ForkError,
    InternalError,
    PoisonedError,
    ViewFailed,
)
from eventdb.stream.continuous_query import ContinuousQuery, OutputRows
from eventdb.stream.lease import Lease
from eventdb.stream.source import InputRows
from eventdb.stream.state import Progress
from eventdb.stream.view import ViewSpec, load_query, require_rows, save_query, view_failure

if TYPE_CHECKING:
    from eventdb.storage.snapshot import StoreSnapshot
    from eventdb.storage.store import Store
    from eventdb.storage.transaction import WriteTransaction

STEP_ROWS = 2 * MORSEL_ROWS  # rows a view takes in between two commits while it catches up
GATHER_S = 0.02  # new rows are left to gather this long before a pass
IDLE_S = 0.05  # how often the thread looks whether it should stop
RETRY_S = 1.0  # after an error that may go away, such as a full disk


class _Task:
    """One view in memory. `base` is the stored progress that `query` goes on from."""

    def __init__(self, spec: ViewSpec) -> None:
        self.spec = spec
        self.base = Progress(0)
        self.query: ContinuousQuery | None = None
        self.outputs: list[OutputRows] = []
        self.row_limit = STEP_ROWS
        self.careful_until = -1
        self.retry_at_s = 0.0
        self.failure: ViewFailed | None = None
        self.reported = False

    def reload(self) -> None:
        """Forgets what is not stored; the next pass loads what is."""
        self.query = None
        self.outputs = []

    def limit(self, offset: int) -> int:
        if offset >= self.careful_until:
            self.row_limit = STEP_ROWS
        return self.row_limit

    def narrow(self, start: int, stop: int) -> None:
        """Rows [start, stop) broke an expression: take half as many from here on, until past them."""
        self.row_limit = max((stop - start) // 2, 1)
        self.careful_until = stop
        self.reload()


class Runner:
    """Maintains the running views of a database on a thread of its own, from `start` to `close`.

    `specs` gives the running views and is asked again whenever `generation` returns another number. `on_failure` is
    told once of a view that stopped on a row; the rows before it are stored. `problems` holds, by view name, the last
    error that keeps a view from being maintained without being its own fault (a full disk).
    """

    def __init__(
        self,
        store: Store,
        lease_path: str,
        specs: Callable[[], Sequence[ViewSpec]],
        generation: Callable[[], int],
        on_failure: Callable[[ViewSpec, ViewFailed], None],
    ) -> None:
        self._store = store
        self._lease = Lease(lease_path)
        self._specs = specs
        self._generation = generation
        self._on_failure = on_failure
        self._tasks: dict[int, _Task] = {}
        self._seen_generation: int | None = None
        self._stop = threading.Event()
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None
        self.problems: dict[str, EventDBError] = {}
        self.error: BaseException | None = None

    @property
    def is_maintaining(self) -> bool:
        """Whether this process holds the lease."""
        return self._lease.held

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="eventdb-views", daemon=True)
            self._thread.start()

    def hurry(self) -> None:
        """Lets the next pass begin without leaving rows to gather: somebody waits for it."""
        self._hurry.set()

    def close(self) -> None:
        """Stops the thread and gives the lease back. A pass that runs finishes first."""
        self._stop.set()
        self._hurry.set()
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        self._thread = None

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                try:
                    if self._lease.acquire():
                        self._step()
                    else:
                        self._stop.wait(VIEW_TAKEOVER_MS / 1000)
                except (ClosedError, ForkError, PoisonedError):
                    return
                except EventDBError as error:
                    for task in self._tasks.values():
                        self.problems[task.spec.name] = error
                        task.reload()
                    self._stop.wait(RETRY_S)
        except BaseException as error:  # a bug must be visible, and must not take the process down
            self.error = error
        finally:
            self._lease.release()
            self._tasks.clear()

    def _step(self) -> None:
        commit_id = self._store.commit_id()
        self._refresh()
        if self.run_pass():
            return
        if self._store.wait(commit_id, IDLE_S) != commit_id and not self._stop.is_set():
            self._hurry.wait(GATHER_S)
            self._hurry.clear()

    def _refresh(self) -> None:
        generation = self._generation()
        if generation == self._seen_generation:
            return
        specs = {spec.id: spec for spec in self._specs()}
        self._seen_generation = generation
        for view_id in [view_id for view_id in self._tasks if view_id not in specs]:
            task = self._tasks.pop(view_id)
            self.problems.pop(task.spec.name, None)
        for view_id, spec in specs.items():
            if view_id not in self._tasks:
                self._tasks[view_id] = _Task(spec)

    def run_pass(self) -> bool:
        """Takes in a bounded number of new rows for every view and commits; False when there were none."""
        tasks = [t for t in self._tasks.values() if t.failure is None and t.retry_at_s <= time.monotonic()]
        moved = []
        with self._store.snapshot() as snapshot:
            shared: dict[tuple[int, tuple[str, ...], int, int], list[InputRows]] = {}
            for task in tasks:
                with self._isolated(task):
                    if self._advance(task, snapshot, shared):
                        moved.append(task)
        again = self._commit(moved)
        for task in self._tasks.values():
            if task.failure is not None and not task.reported:
                self._on_failure(task.spec, task.failure)
                task.reported = True
        for task in tasks:
            again = again or task.failure is not None or (task.query is None and task.retry_at_s <= time.monotonic())
        return again

    @contextmanager
    def _isolated(self, task: _Task) -> Iterator[None]:
        """An error of one view that is not a row's fault is noted, and the view tried again later."""
        try:
            yield
        except (ClosedError, ForkError, PoisonedError):
            raise
        except Exception as error:
            self._postpone(task, error)

    def _postpone(self, task: _Task, error: Exception) -> None:
        known = error if isinstance(error, EventDBError) else InternalError(f"view {task.spec.name}: {error!r}")
        self.problems[task.spec.name] = known
        task.retry_at_s = time.monotonic() + RETRY_S
        task.reload()

    def _advance(
        self,
        task: _Task,
        snapshot: StoreSnapshot,
        shared: dict[tuple[int, tuple[str, ...], int, int], list[InputRows]],
    ) -> bool:
        """Whether the view's query has moved on and is to be committed."""
        spec = task.spec
        first, end = snapshot.offsets(spec.input_log)
        try:
            if task.query is None:
                task.base = spec.keys.progress(snapshot)
                task.query = load_query(spec, snapshot, first)
            require_rows(spec, task.query, first)
        except ViewFailed as error:
            task.failure = error
            return False
        query = task.query
        start = query.input_offset
        stop = min(end, start + task.limit(start))
        if start >= stop:
            return False
        key = (spec.program.facts.id, spec.program.scan.columns, start, stop)
        if key not in shared:
            shared[key] = list(spec.read(snapshot, start, stop))
        for rows in shared[key]:
            try:
                output = query.advance(rows)
            except EvaluationError as error:
                if rows.end_offset - start == 1:
                    task.failure = view_failure(spec, rows, 0, error)
                else:
                    task.narrow(start, rows.end_offset)
                return False
            if output is not None:
                task.outputs.append(output)
        query.skip_to(stop)  # the rows may end before a gap
        return True

    def _commit(self, tasks: list[_Task]) -> bool:
        """Commits what the tasks have; True when there may be more to do at once."""
        if not tasks:
            return False
        with self._store.write(journaled=False) as transaction:
            saved = [self._save(task, transaction) for task in tasks]
        for task, was_saved in zip(tasks, saved, strict=True):
            self.problems.pop(task.spec.name, None)
            task.outputs = []
            if was_saved and task.query is not None:
                task.base = task.query.progress
            else:
                task.reload()
        return True

    def _save(self, task: _Task, transaction: WriteTransaction) -> bool:
        assert task.query is not None
        try:
            return save_query(transaction, task.spec, task.base, task.query, task.outputs)
        except (CorruptionError, InternalError) as error:
            # The commit is undone for all views; without this one the next pass succeeds.
            self._postpone(task, error)
            raise
