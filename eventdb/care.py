"""Looking after a database from outside: restore a backup, check a directory that may not open, repair it."""

from __future__ import annotations

import os

from eventdb.catalog import Catalog
from eventdb.database import Database
from eventdb.errors import NotADatabase, OffsetOutOfRange, StorageError, UnsupportedError, UsageError
from eventdb.options import checked_path
from eventdb.partitioner import check_partition

TYPE_CHECKING = False
if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator, Mapping
    from typing import Any

    from eventdb.schema import Schema
    from eventdb.storage.care.cut import Cut


def restore(
    backup: str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    to_offset: Mapping[str, int | Mapping[int, int]] | None = None,
    to_time: dt.datetime | None = None,
) -> dict[str, object]:
    """Makes `path`, which is new or an empty directory, a database with the content of `backup`.

    `to_offset` maps a topic to the offset its log then ends at (rows at and after it are left out), of several
    partitions to a mapping of partition to offset; partitions that are not named stay whole. `to_time` leaves out what
    was appended after that moment (append time, not event time; without time zone it is UTC), in every partition of
    every topic. A table is then as it was when its log ended there; UnsupportedError if compaction has removed what
    that state needs (what was superseded before the last compaction may be gone).
    What was computed from rows follows: views are computed again from the log, and producers may send again what was
    cut. Returns what Database.backup returns, and `views_shortened`: a sentence for each view that began with events
    that are gone from its topic, and is computed from those that are left. TopicNotFound, OffsetOutOfRange;
    the backup is never changed.
    """
    target = checked_path(path)
    if os.path.lexists(target) and not (os.path.isdir(target) and not os.listdir(target)):
        raise StorageError(f"{target} exists: restore to a new or empty directory", path=target)
    with Database(backup, read_only=True) as source:
        shortened: dict[str, str] = {}
        cut = _cut(source, to_offset, to_time, shortened)
        there = os.path.isdir(target)
        try:
            report = source._store.backup(target, source._catalog.copy_to, cut)
            return report | {"views_shortened": list(shortened.values())}
        except UnsupportedError:
            _empty(target, remove=not there)
            raise


def _empty(directory: str, *, remove: bool) -> None:
    """What a refused restore made is gone."""
    import shutil

    for name in os.listdir(directory):
        path = os.path.join(directory, name)
        shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)
    if remove:
        os.rmdir(directory)


def repair(path: str | os.PathLike[str], *, accept_loss: bool = False) -> dict[str, list[str]]:
    """Makes a damaged database openable again. Nobody may have it open.

    Returns {"repaired": [...], "lost": [...]}, a sentence each. What is lost is named by topic and offsets, or records
    of the journal; without `accept_loss` a repair that would lose anything is refused with a CorruptionError that
    lists it, and changes nothing. Replaced files lie in the folder `quarantine` of the database.
    """
    from eventdb.headers import BESIDE
    from eventdb.storage.care.repair import Repair
    from eventdb.storage.device.files import Clock, Files

    name = os.path.abspath(os.fsdecode(os.fspath(path)))
    if not os.path.isdir(name):
        raise NotADatabase(f"{name} is not a directory", path=name)

    def table_of(topic_id: int) -> tuple[Schema, tuple[int, ...]]:
        catalog = Catalog(os.path.join(name, "catalog.sqlite"), read_only=True)
        try:
            info = catalog.topic_by_id(topic_id)
        finally:
            catalog.close()
        assert info is not None  # recovery has collected what belongs to no topic
        return info.schema, info.primary_key

    return Repair(Files(), Clock(), name, accept_loss, lambda: Database(name).close(), table_of, BESIDE).run()


def check(path: str | os.PathLike[str], *, deep: bool = False) -> list[str]:
    """Problems of the database at `path`, [] when whole; of one that does not open, too.

    The work is done in a process of its own: damage can kill whoever reads it, but not the caller. Where none can be
    started (this user may not run or read the interpreter), it is done in this one. `deep` reads every row.
    NotADatabase if there is no directory.
    """
    name = os.path.abspath(os.fsdecode(os.fspath(path)))
    if not os.path.isdir(name):
        raise NotADatabase(f"{name} is not a directory", path=name)
    found = check_apart(name, deep)
    return problems_of(name, deep) if found is None else found


def check_apart(name: str, deep: bool) -> list[str] | None:
    """What check() finds, by a process of its own; None if it could not begin."""
    import json
    import subprocess
    import sys

    if not sys.executable:
        return None
    command = [sys.executable, "-c", _CHECK, name, "deep" if deep else ""]
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        )
    except OSError:
        return None
    lines = ended.stdout.splitlines()
    if not lines or lines[0] != _BEGUN:
        return None  # it did not get as far as looking at the database
    if ended.returncode == 0:
        found: list[str] = json.loads(lines[-1])
        return found
    reason = f"signal {-ended.returncode}" if ended.returncode < 0 else ended.stderr.strip()[-500:]
    return [f"{name}: reading it ended the process that checked it ({reason}): run repair"]


_BEGUN = "begun"
_CHECK = """
import json, sys
from eventdb.care import problems_of
print("begun", flush=True)
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


def _cut(
    source: Database, to_offset: Mapping[str, int | Mapping[int, int]] | None, to_time: dt.datetime | None,
    shortened: dict[str, str],
) -> Cut:  # fmt: skip
    from datetime import datetime

    from eventdb.headers import BESIDE
    from eventdb.storage.care.cut import Cut
    from eventdb.values import datetime_to_us

    if to_offset is not None and not hasattr(to_offset, "items"):
        raise UsageError(f"to_offset is a dict of topic to offset, not {to_offset!r}")
    if to_time is not None and not isinstance(to_time, datetime):
        raise UsageError(f"to_time is a datetime, not {to_time!r}")
    offsets: dict[tuple[int, int], int] = {}
    for name, wanted in (to_offset or {}).items():
        info = source._catalog.topic(name)
        with source._store.snapshot() as snapshot:
            for partition, offset in _offsets_of(name, wanted, info.partitions).items():
                start, end = snapshot.offsets(source._logs_of(info)[partition])
                if not start <= offset <= end:
                    raise OffsetOutOfRange(
                        f"cannot restore topic {name!r}{f' partition {partition}' * (info.partitions > 1)} to offset "
                        f"{offset}: the backup holds {start}..{end}",
                        offset=offset, earliest=start, latest=end,
                    )  # fmt: skip
                offsets[info.id, partition] = offset
    time_us = None if to_time is None else datetime_to_us(to_time)
    views = source._views_of().stored() if source._catalog.views() else []

    def also(txn: Any, ends: dict[tuple[int, int], int]) -> None:
        from eventdb.producer import cut_sequences
        from eventdb.storage.care.recovery import forget_keys
        from eventdb.storage.format import partition_key
        from eventdb.storage.segment.log import PartitionState
        from eventdb.stream.broken_rows import cut_marks
        from eventdb.stream.circuit.query import CircuitSpec
        from eventdb.stream.state import StateKeys

        if not offsets and time_us is None:
            return
        keys = _UserKeys(txn)
        for info, spec in views:
            cut_marks(keys, info.id, ends)
            if isinstance(spec, CircuitSpec):
                spec.keys.reset(keys)
                if info.output_topic_id is not None:
                    forget_keys(txn, info.output_topic_id)
                continue
            topic_id = spec.program.facts.id
            state = StateKeys(info.id)
            begun = state.has_begun(keys)
            state.reset(keys, ends.get((topic_id, 0), 0))
            value = txn.get(partition_key(topic_id, 0))
            earliest = 0 if value is None else PartitionState().unpack(value).log_start
            if (start := state.start(keys)) < earliest:
                state.set_start(keys, earliest)
                if begun:
                    shortened[info.name] = (
                        f"view {info.name} took events from offset {start} on into account, but its topic begins at "
                        f"{earliest} now: it is computed from there"
                    )
            if info.output_topic_id is not None:
                forget_keys(txn, info.output_topic_id)
        cut_sequences(keys, {topic_id: end for (topic_id, partition), end in ends.items() if partition == 0})

    tables = {info.id: (info.name, info.schema, info.primary_key)
              for info in source._catalog.topics() if info.kind == "table"}  # fmt: skip
    return Cut(offsets, time_us, tables, BESIDE, also)


def _offsets_of(name: str, wanted: object, partitions: int) -> dict[int, int]:
    """Partition -> offset. UsageError naming the topic."""
    found = wanted if hasattr(wanted, "items") else {0: wanted}
    if found is not wanted and partitions > 1 and isinstance(wanted, int):
        raise UsageError(
            f"to_offset: topic {name!r} has {partitions} partitions, and offsets belong to one: "
            f"pass {{{name!r}: {{partition: offset, ...}}}}"
        )
    offsets: dict[int, int] = {}
    for partition, offset in found.items():
        if isinstance(offset, bool) or not isinstance(offset, int):
            raise UsageError(f"to_offset: {offset!r} for topic {name!r} is not an integer")
        check_partition(partition, partitions, name)
        offsets[partition] = offset
    return offsets


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
        from eventdb.storage.index.kv import scan

        for key, value in scan(self._txn, b"u" + prefix):
            yield key[1:], value
