"""Upkeep: what keeps an open database healthy. The part of Database that looks after files, not after events."""

from __future__ import annotations

import os
from contextlib import suppress

from eventdb.errors import CorruptionError, StorageError, UsageError
from eventdb.storage.index.key_index import row_count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from eventdb.catalog import Catalog
    from eventdb.definitions import TopicInfo
    from eventdb.storage.segment.log import PartitionLog
    from eventdb.storage.snapshot import StoreSnapshot
    from eventdb.storage.store import Store
    from eventdb.table import Table
    from eventdb.views import Views


class Upkeep:
    """Database is the only one that inherits it; the fields and questions below are its own."""

    path: str
    _store: Store
    _catalog: Catalog
    _check_open: Callable[[], None]
    _check_writable: Callable[[], None]
    _refresh_catalog: Callable[[], None]
    _views_of: Callable[[], Views]
    _table_handle: Callable[[TopicInfo], Table]
    _logs_of: Callable[[TopicInfo], list[PartitionLog]]

    def _drop(self: Any, name: str, kind: str, if_exists: bool) -> None:
        from eventdb.dropping import drop_named

        drop_named(self, name, kind, if_exists)

    def _sweep_unfinished(self: Any) -> None:
        """Tables that a process did not come to the end of making before it died are gone. What cannot be taken away
        (a full disk, say) is tried again at the next open; nobody can name it meanwhile."""
        if any(info.is_hidden for info in self._catalog.topics()):
            from eventdb.making import sweep

            with suppress(StorageError):
                sweep(self)

    @property
    def recovery_report(self) -> dict[str, object]:
        """What opening the directory found and did: how it was left, records replayed, bytes cut."""
        return dict(self._store.recovery_report)

    def checkpoint(self) -> None:
        """Makes a durable cut of everything committed, so that recovery starts here.

        Runs by itself every few seconds.
        """
        self._check_writable()
        self._store.checkpoint()

    def compact(self, *, full: bool = False) -> dict[str, int]:
        """Seals history now: segments that are full are rewritten as compressed blocks; with `full` also those that new
        events still go to. Tables lose the versions that nobody can see any more. Offsets and contents stay, readers
        and writers go on.

        Runs by itself in the background. Returns the segments and rows sealed, their bytes before and after, the
        versions removed, and how many tables an older snapshot held as they are. DatabaseLocked if another process has
        been sealing for 30 seconds; CorruptionError naming what could not be done because its files are damaged, when
        everything else was.
        """
        self._check_writable()
        if not isinstance(full, bool):
            raise UsageError(f"full is True or False, not {full!r}")
        sealer = self._store.sealer()
        report = sealer.compact(full=full) | {"versions_removed": 0, "tables_held": 0}
        failures = list(sealer.failed.values())
        self._refresh_catalog()
        for info in self._catalog.topics():
            if info.kind == "table":
                try:
                    found = self._table_handle(info).compact(full=full)
                except CorruptionError as error:
                    failures.append(f"table {info.name!r} cannot be compacted: {error}")
                    continue
                report["versions_removed"] += found["removed"]
                report["tables_held"] += found["held"]
        if failures:
            raise CorruptionError(
                f"{'; '.join(failures)}. Everything else is done; run check(deep=True) and repair", path=self.path
            )
        return report

    def backup(self, path: str | os.PathLike[str]) -> dict[str, object]:
        """Makes the directory `path` a backup of this moment, while writers go on; a database that opens like any.

        `path` is new or empty, or holds an earlier backup of this database: then only what is new is copied. Returns
        path, incremental, last_record (of the journal), rows, segments_copied and bytes_copied. If it is interrupted,
        the old backup is there, or the directory refuses to open until the backup is run again.
        """
        from eventdb.options import checked_path

        self._check_open()
        return self._store.backup(checked_path(path), self._catalog.copy_to)

    def check(self, deep: bool = False) -> list[str]:
        """Problems found in the files, [] when whole. `deep` also reads every row, in a process of its own, if one
        can be started.

        `eventdb.check(path)` does the same for a database that does not open.
        """
        self._check_open()
        if not deep:
            return self._store.check()
        from eventdb.care import check_apart

        found = check_apart(os.path.abspath(self.path), True)
        return self._store.check(deep=True) if found is None else found

    def on(self, event: str, callback: Callable[[str, str | None], object]) -> Callable[[], None]:
        """Calls `callback(view, error)` when a view has "failed", or is "restarted" after that (`error` is None then),
        whichever process maintains it; in a thread of its own. Returns a function that ends this. What happens is also
        logged, as `eventdb.views` of the standard library's logging.
        """
        self._check_writable()
        self._refresh_catalog()
        views = self._views_of()
        views.start()
        views.events.notice(self._catalog.views())
        return views.events.on(event, callback)

    def stats(self) -> dict[str, object]:
        """Counters of storage, rows and bytes of each topic and table, the progress of each view, and who reads.

        `sealed` counts the sealed segments, their rows and bytes; `sealing` what this process has sealed, and
        under `failed` why partitions are not sealed, a sentence each.
        `write_amplification` is bytes_written (by this process, to devices) / bytes_appended; `oldest_reader_lag` is
        how many index transactions ago the oldest open reader began: it keeps replaced pages alive.
        """
        from eventdb.storage.care.stats import topic_sizes

        self._check_open()
        self._refresh_catalog()
        found = dict(self._store.stats())
        with self._store.snapshot() as snapshot:
            sizes = topic_sizes(snapshot)
            infos = [info for info in self._catalog.topics() if info.kind != "view"]
            found["topics"] = {info.name: self._row_count(info, snapshot) for info in infos}
        found["topic_bytes"] = {info.name: sizes.get(info.id, {}).get("bytes", 0) for info in infos}
        sealed = ("segments", "rows", "bytes")
        found["sealed"] = {name: sum(one[f"sealed_{name}"] for one in sizes.values()) for name in sealed}
        if self._catalog.views():
            found["views"] = self._views_of().stats()
        return found

    def _row_count(self, info: TopicInfo, snapshot: StoreSnapshot) -> int:
        """The events of a topic, or the rows of a table, in the snapshot."""
        logs = self._logs_of(info)
        if info.kind == "table":
            return row_count(snapshot, logs[0])
        return sum(map(snapshot.held_rows, logs))
