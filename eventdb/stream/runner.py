"""Maintenance: one thread keeps the stored part of every view near the end of its topic.

Nobody waits for it: readers and subscribers advance their own queries. It exists so that they start from a recent
state, and so that windows' rows are stored. One process at a time does it, the holder of the lease. A pass reads the
new rows of each topic once for all its views, advances every view, and commits all of it together: state, progress and
output rows. The commit is not journaled: after a power loss views are at the last checkpoint and catch up again. A view
with a sink (sink.py) has a journaled commit of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from eventdb.config import VIEW_TAKEOVER_MS
from eventdb.errors import (
    ClosedError,
    CorruptionError,
    EventDBError,
    ForkError,
    InternalError,
    PoisonedError,
    ViewFailed,
)
from eventdb.stream.circuit.query import CircuitSpec
from eventdb.stream.lease import Lease
from eventdb.stream.task import CircuitTask, Shared, Task, ViewTask
from eventdb.stream.view import ViewSpec

if TYPE_CHECKING:
    from eventdb.storage.store import Store
    from eventdb.storage.transaction import WriteTransaction

GATHER_S = 0.02  # new rows are left to gather this long before a pass
IDLE_S = 0.05  # how often the thread looks whether it should stop
RETRY_S = 1.0  # after an error that may go away, such as a full disk


class Runner:
    """Maintains the running views of a database on a thread of its own, from `start` to `close`.

    `specs` gives the running views and is asked again whenever `generation` returns another number. `on_failure` is
    told once of a view, by id, that stopped on a row; the rows before it are stored. `on_current` is told, after each
    pass, of the views among `awaited` whose stored state has all that the pass could see; `on_change` that `generation`
    has changed while another process maintains. `problems` holds, by view id,
    the last error that keeps a view from being maintained without being its own fault (a full disk).
    """

    def __init__(
        self,
        store: Store,
        lease_path: str,
        specs: Callable[[], Sequence[ViewSpec | CircuitSpec]],
        generation: Callable[[], int],
        on_failure: Callable[[int, ViewFailed], None],
        on_current: Callable[[int], None] = lambda view_id: None,
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        self._store = store
        self._lease = Lease(lease_path)
        self._specs = specs
        self._generation = generation
        self._on_failure = on_failure
        self._on_current = on_current
        self._on_change = on_change
        self.awaited: Collection[int] = ()
        self._tasks: dict[int, Task] = {}
        self._seen_generation: int | None = None
        self._looked_generation: int | None = None
        self._stop = threading.Event()
        self._hurry = threading.Event()
        self._thread: threading.Thread | None = None
        self.problems: dict[int, EventDBError] = {}
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
                        self._look()
                        self._stop.wait(VIEW_TAKEOVER_MS / 1000)
                except (ClosedError, ForkError, PoisonedError):
                    return
                except EventDBError as error:
                    for task in self._tasks.values():
                        self.problems[task.id] = error
                        task.meter.restarts += task.is_loaded
                        task.meter.error = str(error)
                        task.reload()
                    self._stop.wait(RETRY_S)
        except BaseException as error:  # a bug must be visible, and must not take the process down
            self.error = error
        finally:
            self._lease.release()
            self._tasks.clear()

    def _look(self) -> None:
        """Another process maintains: what that has changed is told here, too."""
        generation = self._generation()
        if generation != self._looked_generation:
            self._looked_generation = generation
            self._on_change()

    def _step(self) -> None:
        commit_id = self._store.commit_id()
        self._refresh()
        if self.run_pass():
            return
        self._tell([task for task in self._tasks.values() if task.meter.is_due()])
        if self._store.wait(commit_id, IDLE_S) != commit_id and not self._stop.is_set():
            self._hurry.wait(GATHER_S)
            self._hurry.clear()

    def _refresh(self) -> None:
        generation = self._generation()
        if generation == self._seen_generation:
            return
        specs = {spec.id: spec for spec in self._specs()}
        self._seen_generation = generation
        for view_id in [view_id for view_id, task in self._tasks.items() if specs.get(view_id) is not task.of]:
            del self._tasks[view_id]
            self.problems.pop(view_id, None)
        for view_id, spec in specs.items():
            if view_id not in self._tasks:
                self._tasks[view_id] = ViewTask(spec) if isinstance(spec, ViewSpec) else CircuitTask(spec)

    def run_pass(self) -> bool:
        """Takes in a bounded number of new rows for every view and commits; False when there were none."""
        tasks = [t for t in self._tasks.values() if t.failure is None and t.retry_at_s <= time.monotonic()]
        moved = []
        with self._store.snapshot() as snapshot:
            shared: Shared = {}
            for task in tasks:
                with self._isolated(task):
                    if task.advance(snapshot, shared):
                        moved.append(task)
        again = self._commit(moved)
        for task in self._tasks.values():
            if task.failure is not None and not task.reported:
                self._on_failure(task.id, task.failure)
                task.reported = True
        for task in tasks:
            if task.id in self.awaited and task.is_current and task.is_loaded:
                self._on_current(task.id)
        for task in tasks:
            again = again or task.failure is not None or (not task.is_loaded and task.retry_at_s <= time.monotonic())
        return again

    @contextmanager
    def _isolated(self, task: Task) -> Iterator[None]:
        """An error of one view that is not a row's fault is noted, and the view tried again later."""
        try:
            yield
        except (ClosedError, ForkError, PoisonedError):
            raise
        except Exception as error:
            if isinstance(error, ViewFailed) and task.has_sink:  # of a row that does not fit there
                task.failure = error
            self._postpone(task, error)

    def _postpone(self, task: Task, error: Exception) -> None:
        known = error if isinstance(error, EventDBError) else InternalError(f"view {task.name}: {error!r}")
        self.problems[task.id] = known
        task.meter.restarts += 1
        task.meter.error = str(known)
        task.retry_at_s = time.monotonic() + RETRY_S
        task.reload()

    def _commit(self, tasks: list[Task]) -> bool:
        """Commits what the tasks have; True when there may be more to do at once."""
        if not tasks:
            return False
        if any(task.broken for task in tasks):
            with self._store.write() as transaction:
                for task in tasks:
                    task.note_broken(transaction)
        together = [task for task in tasks if not task.has_sink]
        if together:
            with self._store.write(journaled=False) as transaction:
                saved = [self._save(task, transaction) for task in together]
            for task, was_saved in zip(together, saved, strict=True):
                self._saved(task, was_saved)
        for task in tasks:
            if task.has_sink:
                with self._isolated(task):
                    with self._store.write() as transaction:
                        was_saved = task.save(transaction)
                    self._saved(task, was_saved)
        self._tell([task for task in tasks if task.meter.is_due()])
        return True

    def _saved(self, task: Task, was_saved: bool) -> None:
        self.problems.pop(task.id, None)
        task.meter.error = ""
        task.saved(was_saved)

    def _tell(self, tasks: Sequence[Task]) -> None:
        """Stores the figures of the tasks."""
        if tasks:
            with self._store.write(journaled=False) as transaction:
                for task in tasks:
                    task.meter.tell(transaction, task.state_rows)

    def _save(self, task: Task, transaction: WriteTransaction) -> bool:
        try:
            return task.save(transaction)
        except (CorruptionError, InternalError) as error:
            # The commit is undone for all views; without this one the next pass succeeds.
            self._postpone(task, error)
            raise
