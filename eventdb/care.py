"""Looking after a database from outside: restore a backup, check a directory that may not open, repair it."""

from __future__ import annotations

import os

from eventdb.database import Database
from eventdb.errors import OffsetOutOfRange, StorageError, UsageError

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
