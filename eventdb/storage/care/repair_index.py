"""Repair of the index: from a checkpoint's meta pages, or from whatever pairs of its file verify."""

from __future__ import annotations

from eventdb.config import INDEX_VERIFY_BYTES
from eventdb.errors import CorruptionError, EventDBError
from eventdb.storage.commit.checkpoint import CheckpointFile, Slot
from eventdb.storage.format import META_KEY, SEGMENT_KEY, journal_name, topic_directory
from eventdb.storage.index.kv import DATA_NAME, IndexFault, scan, structure_problems
from eventdb.storage.index.live_pages import live_crc
from eventdb.storage.index.salvage import find_pairs, newest, replaced
from eventdb.storage.sealed.sealed import file_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from eventdb.storage.care.repair_site import RepairSite
    from eventdb.storage.commit.journal import Tail


class IndexRepair:
    """Builds an index in a folder of its own, `stage`, which takes the place of the damaged one at the end."""

    def __init__(self, site: RepairSite) -> None:
        self._site = site
        self.stage = f"{site.path}/index.repair"

    def slots(self) -> list[Slot]:
        """Of the checkpoint file, the newest first."""
        try:
            file = CheckpointFile(self._site.files, f"{self._site.path}/index", write=False)
        except (OSError, EventDBError):
            return []
        try:
            found, damaged = file.whole(), file.has_damage()
        finally:
            file.close()
        if damaged and found:
            tail = found[0].tail
            if not self._site.files.exists(f"{self._site.path}/journal/{journal_name(tail.epoch, tail.number)}"):
                return []  # the damaged one was newer: what the other one goes on with is gone, as it should be
        return found

    def verifies(self, folder: str, slot: Slot | None) -> bool:
        """Whether LMDB may open the folder's index and every value in it verifies."""
        try:
            fd = self._site.files.open(f"{folder}/{DATA_NAME}")
            try:
                found = live_crc(self._site.files, fd, INDEX_VERIFY_BYTES)
            finally:
                self._site.files.close(fd)
            if slot is not None and slot.clean and slot.index_crc not in (0, found):
                return False
            if structure_problems(folder):
                return False
            with self._site.opened(folder) as index, index.begin_read() as txn:
                for _ in scan(txn, b""):
                    pass
                return txn.get(META_KEY) is not None
        except (OSError, EventDBError, IndexFault):
            return False

    def build(self, slots: list[Slot]) -> None:
        """The staged folder holds an index that verifies."""
        files = self._site.files
        try:
            data = self._site.read(f"{self._site.path}/index/{DATA_NAME}")
        except (OSError, EventDBError):
            data = b""
        tries: list[Slot | None] = [None, *slots]
        for slot in tries:
            pages = b"" if slot is None else slot.pages
            self.clear()
            files.mkdir(self.stage)
            fd = files.create(f"{self.stage}/{DATA_NAME}")
            try:
                files.write_fully(fd, pages + data[len(pages) :], 0)
            finally:
                files.close(fd)
            if self.verifies(self.stage, None):
                what = "as it is" if slot is None else f"at the checkpoint of record {slot.tail.lsn}"
                self._site.done.append(f"index/{DATA_NAME} is whole {what}; its checkpoint was written anew")
                if slot is None and slots and slots[0].clean:
                    self._site.lost.append(
                        f"index/{DATA_NAME} is not the file that was closed last: values in it may be older ones"
                    )
                return
        self._salvage(data, slots[0].pages if slots else b"")

    def _salvage(self, data: bytes, pages: bytes) -> None:
        files = self._site.files
        found = find_pairs(data, len(pages) // 2 or 4096)
        if META_KEY not in found:
            raise CorruptionError(f"nothing of index/{DATA_NAME} is readable: restore a backup", path=self._site.path)
        self.clear()
        files.mkdir(self.stage)
        chosen = {key: newest(key, values) for key, values in found.items()}
        unsure = sum(value is None for value in chosen.values())
        segments = {key: value for key, value in chosen.items() if key[:1] == b"s" and value is not None}
        for key in replaced(segments):  # entries of pages that are free: their files are gone
            _, topic_id, partition, base = SEGMENT_KEY.unpack(key)
            name = f"{topic_directory(topic_id, partition)}/{file_name(base, segments[key])}"
            if not files.exists(f"{self._site.path}/{name}"):
                del chosen[key]
        with self._site.opened(self.stage) as index:
            with index.begin_write() as txn:
                for key, value in chosen.items():
                    if value is not None:
                        txn.put(key, value)
            index.sync()
        self._site.done.append(f"index/{DATA_NAME} was built anew from {len(found)} entries that verify")
        self._site.lost.append(
            f"index/{DATA_NAME}: entries on its damaged pages; {unsure} entries with several versions "
            "(progress of views and producers); what was deleted lately may be back"
        )

    def install(self, tail: Tail, clean: bool) -> None:
        """The staged index is the database's; the old one lies in quarantine."""
        files, path = self._site.files, self._site.path
        with self._site.opened(self.stage) as index:
            index.sync()
            pages = index.meta_pages()
        files.unlink(f"{self.stage}/lock.mdb")
        CheckpointFile.create(files, self.stage, Slot(0, 1, clean, "repair", tail, pages))
        files.fsync_dir(self.stage)
        self._site.put_aside("index")
        files.rename(self.stage, f"{path}/index")
        files.fsync_dir(path)

    def restart_from(self, slot: Slot) -> None:
        """The next open takes the checkpoint for the state and replays the journal after it."""
        again = Slot(slot.position ^ 1, slot.sequence + 1, False, "repair", slot.tail, slot.pages)
        self.write_slot(again)

    def write_slot(self, slot: Slot) -> None:
        """The checkpoint file holds the slot, durably."""
        target = CheckpointFile(self._site.files, f"{self._site.path}/index", write=True)
        try:
            target.write(slot)
            target.flush()
        finally:
            target.close()

    def clear(self) -> None:
        """The staged folder is gone."""
        if self._site.files.is_directory(self.stage):
            for name in self._site.files.listdir(self.stage):
                self._site.files.unlink(f"{self.stage}/{name}")
            self._site.files.rmdir(self.stage)
