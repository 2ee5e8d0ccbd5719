"""Gone files: segment files that the index no longer names, and when they are unlinked.

Whoever takes a segment out of the index (retention, the sealer, a table's compaction) notes its file there in the same
commit, and leaves the file alone. What the order is, so that a crash at any point leaves every file that somebody may
still look for, and none for ever:

1. the commit drops the index entry and notes the file: key and note are there together or not at all, and a replay that
   repeats the commit counts the note from then on (recovery.py), as transactions are numbered anew after a power loss;
2. a checkpoint makes that durable: from then on no recovery can come back to the entry, nor ask for the file;
3. once no reader of any process is older than the commit (a process's pin is a reader, too), or has had its time, the
   file is unlinked, never cut: it may be mapped. A reader that comes too late finds rows that lie in another segment
   now there (snapshot.py). Not so in a table, where the index of keys leads through removed versions: its files wait
   for their readers however long, and stats names those;
4. the directory is flushed, and only then the notes go. A note that outlives its file is harmless.
"""

from __future__ import annotations

from eventdb.errors import OutcomeUnknown
from eventdb.storage.commit.journal import Tail
from eventdb.storage.device.files import storage_error
from eventdb.storage.format import GONE, META_KEY, PARTITION_KEY, gone_key, table_key, topic_directory
from eventdb.storage.index.kv import scan
from eventdb.storage.sealed.sealed import file_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Container
    from typing import Any

    from eventdb.storage.commit.commit import Writer


class GoneFile:
    """A note: its key, the checkpoint sequence and the index transaction of the removal, and the file's path."""

    __slots__ = ("key", "path", "sequence", "txn_id")

    def __init__(self, key: bytes, note: bytes) -> None:
        _, topic_id, partition = PARTITION_KEY.unpack_from(key)
        self.key = key
        self.path = f"{topic_directory(topic_id, partition)}/{key[PARTITION_KEY.size :].decode('ascii', 'replace')}"
        self.sequence, self.txn_id = GONE.unpack(note)

    def is_of(self, logs: Container[bytes]) -> bool:
        """Whether it held rows of one of the logs, named by what follows the first byte of their PARTITION_KEY."""
        return self.key[1 : PARTITION_KEY.size] in logs


def note_of(writer: Writer, txn: Any, topic_id: int, partition: int, base: int, value: bytes) -> tuple[bytes, bytes]:
    """The key and value that note the file of a SEGMENT value, in the write transaction that takes it away."""
    key = gone_key(topic_id, partition, file_name(base, value))
    return key, GONE.pack(writer.tail.checkpoint_sequence, txn.id())


def gone_files(writer: Writer) -> list[GoneFile]:
    with writer.index.begin_read() as txn:
        return [GoneFile(key, note) for key, note in scan(txn, b"g")]


def collect(writer: Writer, overdue: Container[int] = ()) -> int:
    """Gone files that nobody can need are unlinked, those of removals in the `overdue` transactions whoever reads.
    Returns how many. Several processes may do it at the same time."""
    if not gone_files(writer):
        return 0
    writer.checkpoint()
    oldest = writer.index.oldest_reader()
    with writer.index.begin_read() as txn:
        tail = Tail()
        tail.unpack(txn.get(META_KEY) or tail.pack())
        tables = {key[1:] for key, _ in scan(txn, table_key(0, 0)[:1])}
    ready = [
        file
        for file in gone_files(writer)
        if file.sequence < tail.checkpoint_sequence
        and (file.txn_id <= oldest or (file.txn_id in overdue and not file.is_of(tables)))
    ]
    for file in ready:
        path = f"{writer.path}/{file.path}"
        try:
            writer.files.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise storage_error(error, "removing", path) from error
    _flush_directories(writer, {f"{writer.path}/{file.path}".rpartition("/")[0] for file in ready})
    if ready:
        _forget(writer, [file.key for file in ready])
    return len(ready)


def _flush_directories(writer: Writer, paths: set[str]) -> None:
    for path in sorted(paths):
        writer.flushes += 1
        try:
            writer.files.fsync_dir(path)
        except FileNotFoundError:
            continue  # the topic was dropped meanwhile
        except OSError as error:
            reason = f"flushing {path} failed: {error.strerror or error}"
            writer.poison(reason)
            raise OutcomeUnknown(reason, path=path) from error


def _forget(writer: Writer, keys: list[bytes]) -> None:
    """The notes go. Not journaled: after a power loss they are there again, and find nothing to unlink."""
    txn = writer.enter()
    try:
        for key in keys:
            txn.delete(key)
        pending, txn = txn, None
        writer.commit(pending, None)
    finally:
        writer.leave(txn)
