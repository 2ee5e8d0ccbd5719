"""Looking after a database from outside: restore a backup, check a directory that may not open, repair it."""

from __future__ import annotations

import os

from eventdb.database import Database
from eventdb.errors import NotADatabase, OffsetOutOfRange, StorageError, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Mapping
    from typing import Any

    from eventdb.storage.cut import Cut


def restore(
    backup: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    to_offset: Mapping[str, int] | None = None,
    to_time: dt.datetime | None = None,
) -> dict[str, object]:
    """Makes `path`, which is new or an empty directory, a database with the content of `backup`.

    `to_offset` maps a topic to the offset its log then ends at (rows at and after it are left out); `to_time` leaves
    out what was appended after that moment (append time, not event time; without time zone it is UTC), in every topic.
    What was computed from rows follows: views are computed again from the log, and producers may send again what was
    cut. Returns what Database.backup returns. TopicNotFound, OffsetOutOfRange; the backup is never changed.
    """
    target = os.fsdecode(os.fspath(path))
    if os.path.lexists(target) and not (os.path.isdir(target) and not os.listdir(target)):
        raise StorageError(f"{target} exists: restore to a new or empty directory", path=target)
    with Database(backup, read_only=True) as source:
        cut = _cut(source, to_offset, to_time)
        return source._store.backup(target, source._catalog.copy_to, cut)


def repair(path: str | os.PathLike[str], *, accept_loss: bool = False) -> dict[str, list[str]]:
    """Makes a damaged database openable again. Nobody may have it open.

    Returns {"repaired": [...], "lost": [...]}, a sentence each. What is lost is named by topic and offsets, or records
    of the journal; without `accept_loss` a repair that would lose anything is refused with a CorruptionError that
    lists it, and changes nothing. Replaced files lie in the folder `quarantine` of the database.
    """
    from eventdb.storage.files import Clock, Files
    from eventdb.storage.repair import Repair

    name = os.path.abspath(os.fsdecode(os.fspath(path)))
    if not os.path.isdir(name):
        raise NotADatabase(f"{name} is not a directory", path=name)
    return Repair(Files(), Clock(), name, accept_loss, lambda: Database(name).close()).run()


def check(path: str | os.PathLike[str], *, deep: bool = False) -> list[str]:
    """Problems of the database at `path`, [] when whole; of one that does not open, too.

    The work is done in a process of its own: damage can kill whoever reads it, but not the caller. `deep` reads every
    row. StorageError if there is no directory.
    """
    import json
    import subprocess
    import sys

    name = os.path.abspath(os.fsdecode(os.fspath(path)))
    if not os.path.isdir(name):
        raise NotADatabase(f"{name} is not a directory", path=name)
    command = [sys.executable, "-c", _CHECK, name, "deep" if deep else ""]
    ended = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    )
    if ended.returncode == 0:
        found: list[str] = json.loads(ended.stdout.splitlines()[-1])
        return found
    reason = f"signal {-ended.returncode}" if ended.returncode < 0 else ended.stderr.strip()[-500:]
    return [f"{name}: reading it ended the process that checked it ({reason}): run repair"]


_CHECK = """
import json, sys
from eventdb.care import problems_of
print(json.dumps(problems_of(sys.argv[1], bool(sys.argv[2]))))
"""


def problems_of(path: str, deep: bool) -> list[str]:
    """What check() finds, in this process."""
    from eventdb.errors import EventDBError

    try:
        with Database(path, read_only=True) as db:
            return db._store.check(deep)
    except EventDBError as error:
        return [f"it does not open: {error}"]


def _cut(source: Database, to_offset: Mapping[str, int] | None, to_time: dt.datetime | None) -> Cut:
    from eventdb.storage.cut import Cut
    from eventdb.values import datetime_to_us

    offsets: dict[tuple[int, int], int] = {}
    for name, offset in (to_offset or {}).items():
        if isinstance(offset, bool) or not isinstance(offset, int):
            raise UsageError(f"to_offset: {offset!r} for topic {name!r} is not an integer")
        info = source._catalog.topic(name)
        with source._store.snapshot() as snapshot:
            start, end = snapshot.offsets(source._log_of(info))
        if not start <= offset <= end:
            raise OffsetOutOfRange(
                f"cannot restore topic {name!r} to offset {offset}: the backup holds {start}..{end}",
                offset=offset, earliest=start, latest=end,
            )  # fmt: skip
        offsets[info.id, 0] = offset
    time_us = None if to_time is None else datetime_to_us(to_time)
    views = [(info, source._views_of().spec(info).input_log.topic_id) for info in source._catalog.views()]

    def also(txn: Any, ends: dict[tuple[int, int], int]) -> None:
        from eventdb.producer import cut_sequences
        from eventdb.storage.recovery import forget_keys
        from eventdb.stream.state import StateKeys

        if not offsets and time_us is None:
            return
        keys = _UserKeys(txn)
        for info, topic_id in views:
            StateKeys(info.id).reset(keys, ends.get((topic_id, 0), 0))
            if info.output_topic_id is not None:
                forget_keys(txn, info.output_topic_id)
        cut_sequences(keys, {topic_id: end for (topic_id, partition), end in ends.items() if partition == 0})

    return Cut(offsets, time_us, also)


class _UserKeys:
    """The user keys of an index transaction."""

    def __init__(self, txn: Any) -> None:
        self._txn = txn

    def get(self, key: bytes) -> bytes | None:
        return self._txn.get(b"u" + key)  # type: ignore[no-any-return]

    def put(self, key: bytes, value: bytes) -> None:
        self._txn.put(b"u" + key, value)

    def delete(self, key: bytes) -> None:
        self._txn.delete(b"u" + key)

    def range(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]:
        from eventdb.storage.kv import scan

        for key, value in scan(self._txn, b"u" + prefix):
            yield key[1:], value
