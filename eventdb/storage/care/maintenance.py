"""The background thread of a writing process: flushes in interval mode, checkpoints, lets an idle pin go."""

from __future__ import annotations

import threading
import weakref
from time import monotonic

from eventdb.config import CHECKPOINT_INDEX_BYTES, CHECKPOINT_INTERVAL_MS, CHECKPOINT_JOURNAL_BYTES
from eventdb.errors import EventDBError
from eventdb.storage.sealed.seal_process import SealProcess

TYPE_CHECKING = False
if TYPE_CHECKING:
    from eventdb.storage.care.retention import Retention
    from eventdb.storage.commit.commit import Writer
    from eventdb.storage.sealed.sealer import Sealer

_IDLE_CHECKPOINTS = 12  # intervals without a commit after which the pin goes


class Maintenance:
    """Started at the first commit; a daemon, so that it never keeps a program alive."""

    def __init__(
        self, writer: Writer, interval_ms: int | None, retention: Retention, sealer: Sealer | None = None
    ) -> None:
        self._writer = weakref.ref(writer)
        self._retention = weakref.ref(retention)
        self._sealer = sealer
        self._helper = SealProcess(writer.path)
        self._interval_ms = interval_ms
        self._stop = threading.Event()
        self._rolled = threading.Event()  # a journal file was begun, or the thread is to stop
        writer.on_roll = self._rolled.set
        self._thread: threading.Thread | None = None
        self.last_error = ""

    def start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="eventdb-maintenance", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stop.set()
            self._rolled.set()
            if thread is not threading.current_thread():
                thread.join()
        self._helper.stop()

    def _seal(self, writer: Writer) -> None:
        """Full segments are sealed by a helper process: this one may be busy, or too small to load NumPy."""
        if self._sealer is not None:
            self._helper.look(writer.clock.monotonic_ns(), self._sealer.has_work)
            self._sealer.helper_failed = self._helper.failures

    def _waited(self, step_s: float) -> bool:
        """After a step: True, and at once when it is to stop: False. A journal file that was begun meanwhile gets its
        successor without delay: it may be full before the next step."""
        end = monotonic() + step_s
        while self._rolled.wait(max(0.0, end - monotonic())):
            self._rolled.clear()
            writer = self._writer()
            if self._stop.is_set() or writer is None or writer.closed:
                return False
            self._prepare(writer)
            del writer
        return not self._stop.is_set()

    def _prepare(self, writer: Writer) -> None:
        try:
            writer.prepare_spare()
        except EventDBError as error:
            self.last_error = str(error)

    def _run(self) -> None:
        step_s = (self._interval_ms or 200) / 1000
        idle = 0
        seen = -1
        while self._waited(step_s):
            writer = self._writer()
            if writer is None or writer.closed or writer.poison_reason:
                return
            try:
                self._prepare(writer)
                if self._interval_ms is not None:
                    writer.flush_journal()
                age_ms = (writer.clock.monotonic_ns() - writer.checkpoint_ns) // 1_000_000
                grown_bytes = writer.index.size_bytes() - writer.index_bytes
                full = writer.journal_bytes > CHECKPOINT_JOURNAL_BYTES or grown_bytes > CHECKPOINT_INDEX_BYTES
                if full or age_ms >= CHECKPOINT_INTERVAL_MS:
                    writer.index.reap_readers()  # of dead processes: the pages they hold can be used again
                    idle = idle + 1 if seen == writer.commits else 0
                    if seen != writer.commits or not idle:
                        writer.checkpoint()
                        seen = writer.commits
                    elif idle >= _IDLE_CHECKPOINTS:
                        writer.release_idle_pin(seen)
                        idle = 0
                    writer.checkpoint_ns = writer.clock.monotonic_ns()
                retention = self._retention()
                if retention is not None:
                    retention.step()
                self._seal(writer)
            except EventDBError as error:
                # A full disk passes, a failed flush has poisoned the database: whoever writes next is told.
                self.last_error = str(error)
            finally:
                writer = retention = None
