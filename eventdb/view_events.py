"""What happens to views, told to callbacks and to the log `eventdb.views` of the standard library.

Each process that has the database open tells it, whoever maintains. Callbacks run one after another in a thread of
their own, so they may use the database.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from eventdb.errors import UsageError

if TYPE_CHECKING:
    from eventdb.definitions import ViewInfo

CLOSE_WAIT_S = 5.0  # for a callback that runs
EVENTS = ("failed", "restarted")
Callback = Callable[[str, str | None], object]


class ViewEvents:
    """Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callbacks: dict[str, list[Callback]] = {event: [] for event in EVENTS}
        self._states: dict[str, str] | None = None
        self._waiting: queue.SimpleQueue[tuple[str, str, str | None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def on(self, event: str, callback: Callback) -> Callable[[], None]:
        """Calls `callback(view, error)` at each such event from now on; returns what ends that."""
        if event not in EVENTS:
            raise UsageError(f"events are {', '.join(EVENTS)}, not {event!r}")
        if not callable(callback):
            raise UsageError(f"a callback is called with the view's name and its error; {callback!r} cannot be called")
        with self._lock:
            self._callbacks[event].append(callback)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="eventdb-events", daemon=True)
                self._thread.start()

        def end() -> None:
            with self._lock:
                if callback in self._callbacks[event]:
                    self._callbacks[event].remove(callback)

        return end

    def notice(self, views: Iterable[ViewInfo]) -> None:
        """Tells what has changed since the last call."""
        states = {info.name: info.state for info in views}
        errors = {info.name: info.error for info in views}
        with self._lock:
            before, self._states = self._states, states
        for name, state in states.items():
            was = state if before is None else before.get(name, "running")
            if state == "failed" != was:
                self._tell("failed", name, errors[name])
            elif was == "failed" != state:
                self._tell("restarted", name, None)

    def _tell(self, event: str, view: str, error: str | None) -> None:
        import logging

        log = logging.getLogger("eventdb.views")
        if not log.handlers:
            log.addHandler(logging.NullHandler())  # without one, warnings go to stderr of programs that ask for no log
        if error is None:
            log.info("view %r is maintained again", view)
        else:
            log.warning("view %r failed: %s", view, error)
        with self._lock:
            if self._thread is not None:
                self._waiting.put((event, view, error))

    def _run(self) -> None:
        while (found := self._waiting.get()) is not None:
            event, view, error = found
            with self._lock:
                callbacks = list(self._callbacks[event])
            for callback in callbacks:
                try:
                    callback(view, error)
                except Exception:  # it is somebody else's
                    import logging

                    logging.getLogger("eventdb.views").exception("a callback for %r failed", event)

    def close(self) -> None:
        """No callback is called any more, once what was told has been, or after CLOSE_WAIT_S."""
        with self._lock:
            thread, self._thread = self._thread, None
        if thread is not None:
            self._waiting.put(None)
            if thread is not threading.current_thread():
                thread.join(CLOSE_WAIT_S)
