"""Opens the logs that take part in a benchmark and leaves out, with a line, those that are not on this machine."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.log import BareFile, ColumnarLog, EventLog, Log
from bench.measure import Report
from bench.payload import Numbers, digest
from bench.peers.server import Unavailable

Opener = Callable[[Path], Any]  # a Log


def peer(module: str, name: str, *arguments: Any) -> Opener:
    """Opens a rival (or calls its function); its module is imported then, for it may be missing."""
    return lambda path: getattr(importlib.import_module(f"bench.peers.{module}"), name)(path, *arguments)


def ours(durability: str, columns: bool = False) -> Opener:
    return lambda path: (ColumnarLog if columns else EventLog)(path, durability)


def bare(room_bytes: int) -> Opener:
    return lambda path: BareFile(path, room_bytes)


@contextlib.contextmanager
def logs(work: Path, openers: Mapping[str, Opener], report: Report) -> Iterator[dict[str, Log]]:
    """The logs that could be opened, each in a place of its own; all closed afterwards."""
    with contextlib.ExitStack() as stack:
        found: dict[str, Log] = {}
        for i, (name, opener) in enumerate(openers.items()):
            try:
                log = opener(work / f"log{i}")
            except Unavailable as error:
                report.note(f"{name}: skipped, {error}")
                continue
            stack.callback(log.close)
            found[name] = log
        yield found


def check_same(found: Mapping[str, Log], given: Mapping[str, Numbers]) -> None:
    """Every log holds exactly the events it was given."""
    for name, log in found.items():
        if isinstance(log, BareFile):
            continue
        stored, wanted = digest(log.contents()), digest(given[name].all())
        if stored != wanted:
            raise AssertionError(f"{name} holds {stored}, was given {wanted} (count, sum, checksum)")


def ahead(report: Report, what: str, mine_s: float, theirs: Mapping[str, float]) -> None:
    """A line per rival: our time and theirs; the bar is to take less."""
    for name, theirs_s in theirs.items():
        report.faster(f"{what} / {name}", mine_s, theirs_s, 1, "")
