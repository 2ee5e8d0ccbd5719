"""Kernels for queries that must not wait: from memory, from disk, or compiled in a helper process meanwhile.

`find` never blocks. A kernel that is not in memory is fetched by one background thread of the process: it imports Numba
(0.3 s, once), asks the helper to compile what is not on disk, and loads the file. The helper ends when
idle.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable

from eventdb.kernels import cache

Kernel = Callable[..., int]

_IDLE_S = 10.0


class Request:
    """A kernel that is being fetched. `kernel` is set when it is there, `error` when it will never be."""

    __slots__ = ("_event", "error", "kernel", "source", "tokens")

    def __init__(self, source: str, tokens: tuple[str, ...]) -> None:
        self.source = source
        self.tokens = tokens
        self.kernel: Kernel | None = None
        self.error: str | None = None
        self._event = threading.Event()

    @property
    def settled(self) -> bool:
        return self._event.is_set()

    def settle(self, kernel: Kernel | None, error: str | None = None) -> None:
        self.kernel, self.error = kernel, error
        self._event.set()

    def wait(self, timeout_s: float | None = None) -> bool:
        """Whether it is settled within the timeout."""
        return self._event.wait(timeout_s)


class _Helper:
    """The helper process; started at the first request that needs it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def compile(self, source: str, tokens: tuple[str, ...]) -> str | None:
        """None when the kernel is on disk now, else what went wrong."""
        try:
            if self._process is None or self._process.poll() is not None:
                self._process = self._start()
            process = self._process
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps({"source": source, "tokens": tokens}) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError as error:
            return f"the compile helper failed: {error}"
        if not line:
            self.stop()
            return "the compile helper ended"
        answer = json.loads(line)
        return None if answer["ok"] else str(answer["error"])

    @staticmethod
    def _start() -> subprocess.Popen[str]:
        if not sys.executable:
            raise OSError("this process does not know its Python interpreter")
        environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path or os.getcwd() for path in sys.path))
        return subprocess.Popen(
            [sys.executable, "-m", "eventdb.kernels.compile_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            start_new_session=True,  # Ctrl-C at the terminal stops the query, not the compile
        )

    def stop(self) -> None:
        if self._process is not None:
            process, self._process = self._process, None
            if process.stdin is not None:
                process.stdin.close()
            if process.stdout is not None:
                process.stdout.close()
            process.wait()


class KernelService:
    """One per process. All methods may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests: dict[str, Request] = {}
        self._queue: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._running = False
        self._pid = os.getpid()

    def find(self, source: str, tokens: tuple[str, ...]) -> Request:
        """The request for a kernel; settled at once if it is in memory. Otherwise it is on its way."""
        key = cache.kernel_key(source, *tokens)
        with self._lock:
            if self._pid != os.getpid():  # a forked child has neither the thread nor the helper
                self._requests = {k: r for k, r in self._requests.items() if r.settled}
                self._queue, self._running, self._pid = queue.SimpleQueue(), False, os.getpid()
            found = self._requests.get(key)
            if found is None:
                found = self._requests[key] = Request(source, tokens)
                if cache.directory() is None:
                    found.settle(None, "there is no private kernel directory")
                    return found
                self._queue.put(found)
                if not self._running:
                    try:
                        threading.Thread(target=self._serve, name="eventdb-kernels", daemon=True).start()
                        self._running = True
                    except RuntimeError as error:  # no memory for a thread: the query interprets, another one may ask
                        del self._requests[key]
                        self._queue = queue.SimpleQueue()
                        found.settle(None, str(error))
            return found

    def is_in_memory(self, source: str, tokens: tuple[str, ...]) -> bool:
        """Whether `find` would be settled with a kernel."""
        found = self._requests.get(cache.kernel_key(source, *tokens))
        return found is not None and found.kernel is not None

    def _serve(self) -> None:
        helper = _Helper()
        try:
            while True:
                try:
                    request = self._queue.get(timeout=_IDLE_S)
                except queue.Empty:
                    with self._lock:
                        if self._queue.empty():
                            self._running = False
                            return
                    continue
                try:
                    self._fetch(request, helper)
                except Exception as error:  # a thread has nobody to raise to: the query interprets and says why
                    request.settle(None, f"{type(error).__name__}: {error}")
        finally:
            helper.stop()

    @staticmethod
    def _fetch(request: Request, helper: _Helper) -> None:
        key = cache.kernel_key(request.source, *request.tokens)
        error = None if cache.exists(key) else helper.compile(request.source, request.tokens)
        if error is not None:
            request.settle(None, error)
            return
        from eventdb.kernels import jit

        kernel = jit.load(request.source, request.tokens)
        if kernel is None:  # written for another processor, or damaged
            error = helper.compile(request.source, request.tokens)
            kernel = jit.load(request.source, request.tokens) if error is None else None
        if kernel is not None:
            jit.warm_families(request.source)
        request.settle(kernel, None if kernel is not None else error or "the stored kernel does not load")


SERVICE = KernelService()


def build_now(source: str, tokens: tuple[str, ...]) -> Kernel:
    """The kernel, compiled in this process if need be."""
    from eventdb.kernels import jit

    return jit.build(source, tokens)
