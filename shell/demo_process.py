"""The demo's two observers: one of the writer process and its acknowledgements, one of the alarms it causes."""

from __future__ import annotations

import datetime as dt
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import eventdb
from eventdb.errors import ClosedError

from .demo_data import Observation


class Writer:
    """The writer process. `acknowledged` maps an offset to the monotonic time in ns just before its append."""

    def __init__(self, path: str, topic: str, events_per_second: float) -> None:
        command = [sys.executable, "-P", "-m", f"{__package__}.demo_writer", path, topic, str(events_per_second)]
        self.acknowledged: dict[int, int] = {}
        self.last_acknowledged = -1  # the highest acknowledged offset
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self._reader = threading.Thread(target=self._read, name="demo-acknowledgements", daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if not line.endswith("\n"):
                return  # torn by the kill: the writer never finished saying it
            first, count, before_ns = map(int, line.split())
            for offset in range(first, first + count):
                self.acknowledged[offset] = before_ns
            self.last_acknowledged = first + count - 1

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def kill(self) -> int:
        """SIGKILL: it can clean up nothing. Returns its exit status (-9) when it is gone and its words are read."""
        self._process.kill()
        return self.join()

    def join(self, timeout_s: float | None = None) -> int:
        """The exit status, when the process has ended and all acknowledgements are read."""
        status = self._process.wait(timeout_s)
        self._reader.join()
        return status

    def complaints(self) -> str:
        """What it wrote to stderr; call after join."""
        assert self._process.stderr is not None
        return self._process.stderr.read().strip()

    def close(self) -> None:
        """Leave no process behind, whatever happened."""
        if self.running:
            self.kill()
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


class Alarms:
    """A subscription that notes when each change arrived."""

    def __init__(self, db: eventdb.Database, query: str) -> None:
        self.received: list[tuple[int, str, dt.datetime, float]] = []  # monotonic ns, station, time, temperature
        self.failure: BaseException | None = None
        self._subscription = db.subscribe(query, start="latest")
        self._thread = threading.Thread(target=self._listen, name="demo-alarms", daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        try:
            for change in self._subscription:
                now_ns = time.monotonic_ns()
                row = dict(zip(self._subscription.columns, change.row, strict=True))
                self.received.append((now_ns, row["station"], row["time"], row["temp"]))
        except ClosedError:
            pass
        except BaseException as error:
            self.failure = error

    def wait_for(self, count: int, timeout_s: float) -> bool:
        """Whether at least `count` alarms have arrived in time."""
        deadline = time.monotonic() + timeout_s
        while len(self.received) < count and time.monotonic() < deadline and self.failure is None:
            time.sleep(0.01)
        return len(self.received) >= count

    def close(self) -> None:
        self._subscription.close()
        self._thread.join(5.0)


def latencies_us(alarms: Alarms, writer: Writer, offset_of: dict[tuple[str, dt.datetime], int]) -> list[float]:
    """From just before the append, in the writer's process, to the change in this one; in microseconds, sorted."""
    acknowledged = writer.acknowledged.copy()
    found = []
    for received_ns, station, at, _ in alarms.received.copy():
        before_ns = acknowledged.get(offset_of.get((station, at), -1))
        if before_ns is not None:
            found.append((received_ns - before_ns) / 1_000)
    return sorted(found)


def percentile(ordered: Sequence[float], share: float) -> float:
    """The value below which `share` of the ordered values lie; 0.0 if there is none."""
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def index_observations(observations: Sequence[Observation]) -> dict[tuple[str, dt.datetime], int]:
    """(station, time) -> offset; an observation is known by them."""
    return {(row["station"], row["time"]): i for i, row in enumerate(observations)}
