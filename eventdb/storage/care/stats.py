"""Figures of an open database: what it holds, what it cost, who holds old pages of the index alive."""

from __future__ import annotations

import os

from eventdb.storage.format import PARTITION_KEY, SEGMENT_KEY
from eventdb.storage.index.kv import scan
from eventdb.storage.sealed.sealed import SealedLayout, is_sealed
from eventdb.storage.segment.gap import GAP, held_rows
from eventdb.storage.segment.layout import SegmentLayout
from eventdb.storage.segment.log import PartitionState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from eventdb.storage.index.kv import Index
    from eventdb.storage.snapshot import StoreSnapshot


_SIZES = ("rows", "segments", "bytes", "sealed_segments", "sealed_rows", "sealed_bytes")


def topic_sizes(snapshot: StoreSnapshot) -> dict[int, dict[str, int]]:
    """Topic id -> rows, segments and bytes (of its segment files, allocated ahead), and how many of each are sealed."""
    txn = snapshot.transaction()
    found: dict[int, dict[str, int]] = {}
    for key, _ in scan(txn, b"p"):
        _, topic_id, partition = PARTITION_KEY.unpack(key)
        topic = found.setdefault(topic_id, dict.fromkeys(_SIZES, 0))
        state = PartitionState().unpack(snapshot.partition(key) or b"")
        topic["rows"] += held_rows(txn, topic_id, partition, state)
    for key, value in scan(txn, b"s"):
        if value == GAP:
            continue
        topic = found.setdefault(SEGMENT_KEY.unpack(key)[1], dict.fromkeys(_SIZES, 0))
        layout = SealedLayout.unpack(value) if is_sealed(value) else SegmentLayout.unpack(value)
        topic["segments"] += 1
        topic["bytes"] += layout.size_bytes
        if isinstance(layout, SealedLayout):
            topic["sealed_segments"] += 1
            topic["sealed_rows"] += layout.rows
            topic["sealed_bytes"] += layout.size_bytes
    return found


def reader_figures(index: Index) -> dict[str, object]:
    """Who reads the index now. A reader that stays keeps every page alive that commits have replaced since: the file
    grows by them. `lag` counts index transactions (checkpoints and commits that add keys) since the reader began; the
    pin of a writing process is a reader, too."""
    newest = index.last_txn_id()
    readers = [{"pid": pid, "thread": thread, "lag": max(0, newest - txn)} for pid, thread, txn in index.readers()]
    readers.sort(key=lambda one: -int(str(one["lag"])))
    return {
        "open_readers": len(readers),
        "oldest_reader_pid": readers[0]["pid"] if readers else 0,
        "oldest_reader_lag": readers[0]["lag"] if readers else 0,
        "readers": readers,
    }


def written_bytes() -> int:
    """Bytes this process has caused to be written to devices; 0 where the kernel does not say."""
    try:
        with open("/proc/self/io", encoding="ascii") as file:
            return next((int(line.split()[1]) for line in file if line.startswith("write_bytes")), 0)
    except OSError:
        return 0


def file_bytes(path: str) -> int:
    """Bytes on disk of everything below the directory; files that go meanwhile do not count."""
    total = 0
    for folder, _, names in os.walk(path):
        for name in names:
            try:
                total += os.lstat(f"{folder}/{name}").st_blocks * 512
            except FileNotFoundError:
                continue
    return total
