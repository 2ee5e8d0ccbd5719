"""Servers of rivals: on a port of the loopback, in a scratch directory, gone when the benchmark is."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

INSTALLED = Path(os.environ.get("EVENTDB_BENCH_PEERS") or Path(__file__).resolve().parents[2] / ".bench-peers")
CLIENTS = INSTALLED / "python"  # Python clients of the rivals, apart from everybody's environment
BINARIES = INSTALLED / "bin"
JARS = INSTALLED / "kafka" / "jars"
FLINK, SPARK = INSTALLED / "flink", INSTALLED / "spark"  # an environment each; Flink's has a folder `jars`
HINT = "run `python -m bench setup`"
START_TIMEOUT_S = 60.0
_PR_SET_PDEATHSIG = 1


class Unavailable(Exception):
    """This rival cannot be measured here; the message says why."""


def use_clients() -> None:
    """Makes the clients that `python -m bench setup` installed importable; those of the environment come first."""
    if str(CLIENTS) not in sys.path:
        sys.path.append(str(CLIENTS))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class Server:
    """A running server process. Call `stop` (or `kill`); if the benchmark is killed, the kernel kills it too."""

    def __init__(
        self, name: str, command: Sequence[str | Path], directory: Path, ready: Callable[[], bool],
        environment: dict[str, str] | None = None,
    ) -> None:  # fmt: skip
        self._log = directory / f"{name}.log"
        with self._log.open("wb") as output:
            self.process = subprocess.Popen(
                [str(part) for part in command], cwd=directory, stdout=output, stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL, preexec_fn=_die_with_parent, env={**os.environ, **(environment or {})},
            )  # fmt: skip
        deadline = time.monotonic() + START_TIMEOUT_S
        try:
            while not ready():
                if self.process.poll() is not None or time.monotonic() > deadline:
                    tail = self._log.read_text(errors="replace").strip().splitlines()[-3:]
                    raise Unavailable(f"{name} did not start: {' / '.join(tail) or 'no output'}")
                time.sleep(0.002)
        except BaseException:
            self.kill()
            raise

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
