"""Repair of the journal: it ends where it can still be replayed."""

from __future__ import annotations

import contextlib
from struct import error as StructError

from eventdb.errors import EventDBError
from eventdb.storage.care.recovery import parse
from eventdb.storage.commit.journal import Journal
from eventdb.storage.format import OP_BULK, OP_CHUNK, journal_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from eventdb.storage.care.repair_site import RepairSite
    from eventdb.storage.commit.journal import Record, Tail


class JournalRepair:
    """First `look`, which changes nothing, then `cut`."""

    def __init__(self, site: RepairSite, uuid: bytes) -> None:
        self._site = site
        self._uuid = uuid
        self.lost_ends: dict[tuple[int, int], int] = {}  # partition -> the offset behind its lost rows, if known

    def look(self, tail: Tail) -> tuple[Tail, bool] | None:
        """Where the journal must end to replay, and whether anything of it can; None if it replays as it is."""
        journal = Journal(self._site.files, f"{self._site.path}/journal", self._uuid)
        at = tail.copy()
        try:
            for _ in journal.walk(at, write=False):
                pass
        except (FileNotFoundError, EventDBError) as error:
            self._site.lost.append(f"journal: {error}: the commits after record {at.lsn}")
            return at, journal.file is not None
        finally:
            file, journal.file = journal.file, None
        later = [record for record in journal.valid_after(at) if record.lsn > at.lsn]
        if file is not None:
            journal.close_file(file)
        if not any(record.durable_lsn > at.lsn for record in later):
            return None
        self._site.lost.append(
            f"journal/{journal_name(at.epoch, at.number)}: record {at.lsn + 1} at byte {at.position} is damaged; lost "
            f"are the commits of records {at.lsn + 1}..{max(r.lsn for r in later)}{self._rows_lost(later)}"
        )
        return at, True

    def cut(self, at: Tail, readable: bool) -> None:
        """The journal ends at the tail; its files lie in quarantine."""
        files, folder = self._site.files, f"{self._site.path}/journal"
        name = journal_name(at.epoch, at.number)
        kept = self._site.read(f"{folder}/{name}") if readable else b""
        for other in files.listdir(folder):
            number = other.split("-")
            if len(number) == 3 and (int(number[1]), int(number[2])) >= (at.epoch, at.number):
                self._site.put_aside(f"journal/{other}")
        fd = files.create(f"{folder}/{name}")
        try:
            size = max(len(kept), 4096)
            files.fill_zeros(fd, size)
            files.write_fully(fd, kept[: at.position], 0)
            files.fsync(fd)
        finally:
            files.close(fd)
        files.fsync_dir(folder)

    def _rows_lost(self, records: list[Record]) -> str:
        """Which offsets the records would have added, for a message; notes them."""
        ends: dict[tuple[int, int], list[int]] = {}
        for record in records:
            with contextlib.suppress(EventDBError, ValueError, IndexError, StructError):
                for one in parse(record):
                    if one.op in (OP_CHUNK, OP_BULK):
                        first = one.base + one.row
                        ends.setdefault((one.topic_id, one.partition), []).extend((first, first + one.count))
        self.lost_ends = {log: max(found) for log, found in ends.items()}
        return "".join(
            f", of topic {topic}/{partition} offsets up to {max(offsets)} (of records that are readable: from "
            f"{min(offsets)})"
            for (topic, partition), offsets in sorted(ends.items())
        )
