"""The helper process of `eventdb.sealing`, as the maintenance thread of a writing process starts and ends it."""

from __future__ import annotations

import os
import sys

from eventdb.config import SEAL_INTERVAL_MS

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from subprocess import Popen

MOST_OUTPUT_BYTES = 16 << 10  # less than a pipe holds: the helper never waits for a reader
_MAX_PAUSE = 64  # times the interval, after failures


class SealProcess:
    """At most one helper. Used by one thread, and by `stop` from another once that has ended."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._process: Popen[bytes] | None = None
        self._pause = 1
        self._next_ns = 0
        self.failures: list[str] = []  # what the last helper that ended could not seal, a sentence each
        self.started = 0

    def look(self, now_ns: int, has_work: Callable[[], bool]) -> None:
        """Every SEAL_INTERVAL_MS: a helper is started if there is work. After one that failed the pause doubles."""
        if not self._next_ns:
            self._next_ns = now_ns + SEAL_INTERVAL_MS * 1_000_000
        if now_ns < self._next_ns or not sys.executable:
            return
        if self._process is not None:
            status = self._process.poll()
            if status is None:
                return
            with self._process as ended:
                said = b"" if ended.stdout is None else ended.stdout.read()
            self.failures = said.decode(errors="replace").splitlines()
            self._process = None
            self._pause = min(_MAX_PAUSE, self._pause * 2) if status else 1
        self._next_ns = now_ns + self._pause * SEAL_INTERVAL_MS * 1_000_000
        if has_work():
            self._process = self._start()
            self.started += 1

    def _start(self) -> Popen[bytes] | None:
        import subprocess

        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path or os.getcwd() for path in sys.path))
        try:
            return subprocess.Popen(
                [sys.executable, "-m", "eventdb.sealing", self._path],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                start_new_session=True,  # Ctrl-C at the terminal is not for it
            )
        except OSError:
            return None  # no memory, no processes: the rows are safe as they are

    def stop(self) -> None:
        """The helper is gone; what it had not finished is as it was."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with process:  # waits, and closes the pipe
                pass
