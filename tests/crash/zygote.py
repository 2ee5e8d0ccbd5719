"""A process that has imported everything and opened nothing: forking a writer or checker from it costs a millisecond.

It reads one JSON command per line and answers with one JSON line:

    {"run": "tests.crash.writer", "arguments": [...], "output": path}  ->  {"pid": 123}
    {"wait": 123, "seconds": 10}                                       ->  {"status": -9} or {"status": null}
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PRELOADED = (
    "eventdb.database", "eventdb.arrow", "eventdb.producer", "eventdb.transaction", "lmdb._envid",
    "pandas",  # pyarrow loads it for the first array
)  # fmt: skip


class Zygote:
    """The harness's end. Processes run in their own session; `kill` is SIGKILL."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.crash.zygote"]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._running: set[int] = set()
        self._ended: dict[int, int] = {}

    def _ask(self, command: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the zygote process ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def run(self, module: str, arguments: Sequence[object], output: str) -> int:
        """Starts `module.main(arguments)` in a new process and returns its pid; what it prints goes to `output`."""
        pid: int = self._ask({"run": module, "arguments": [str(one) for one in arguments], "output": output})["pid"]
        self._running.add(pid)
        self._ended.pop(pid, None)
        return pid

    def wait(self, pid: int, seconds: float) -> int | None:
        """The exit status (negative: the signal), None if it still runs after `seconds`; the same when asked again."""
        if pid in self._ended:
            return self._ended[pid]
        status: int | None = self._ask({"wait": pid, "seconds": seconds})["status"]
        if status is not None:
            self._running.discard(pid)
            self._ended[pid] = status
        return status

    def kill(self, pid: int) -> None:
        """Kills and reaps a process that `run` started; nothing if it was reaped already."""
        if pid in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self.wait(pid, 60)

    def __enter__(self) -> Zygote:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pid in list(self._running):
            self.kill(pid)
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(30)


def _child(module: str, arguments: list[str], output: str) -> None:
    status = 99
    try:
        os.setsid()
        fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        null = os.open(os.devnull, os.O_RDONLY)
        os.dup2(null, 0)
        os.dup2(fd, 1)
        os.dup2(fd, 2)
        status = importlib.import_module(module).main(arguments)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _wait(pid: int, seconds: float) -> int | None:
    until = time.monotonic() + seconds
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= until:
            return None
        time.sleep(0.002)


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in PRELOADED:
        importlib.import_module(name)
    for line in sys.stdin:
        command = json.loads(line)
        if "run" in command:
            pid = os.fork()
            if pid == 0:
                _child(command["run"], command["arguments"], command["output"])
            answer = {"pid": pid}
        else:
            answer = {"status": _wait(command["wait"], command["seconds"])}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
