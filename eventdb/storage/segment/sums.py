"""Checksums of stored rows: raw segments have none, so each checkpoint notes those of the rows it makes durable.

One per region of a segment (a column's values, validity, heap), over the rows from the first to the checkpoint's end.
Rows below a partition's end never change, so a sum is extended, never computed again. check(deep), backups and repair
compare them with the files. The marks of a table's rows change and are not part of it (check_table.py knows what they
must say); a file that compaction writes is summed at the next checkpoint.
"""

from __future__ import annotations

from zlib import crc32

from eventdb.errors import CorruptionError, StorageError
from eventdb.storage.format import SEGMENT_KEY, U32, partition_key, segment_key, sum_key
from eventdb.storage.index.kv import scan
from eventdb.storage.sealed.sealed import is_sealed
from eventdb.storage.segment.layout import SegmentLayout
from eventdb.storage.segment.log import PartitionState
from eventdb.storage.segment.segment import open_segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from eventdb.storage.device.files import Files
    from eventdb.storage.segment.segment import Segment

Place = tuple[int, int, int]  # topic, partition, base
Sum = tuple[int, tuple[int, ...]]  # rows, crc of each region
NOTHING: Sum = (0, ())
_CHUNK_BYTES = 1 << 24


def extend(segment: Segment, before: Sum, rows: int) -> Sum:
    """The sum of the first `rows` rows, from one of fewer."""
    done, crcs = before
    found = []
    segment.require_rows(done, rows)
    for i, (position, length) in enumerate(segment.regions(done, rows - done)):
        crc = crcs[i] if done else 0
        for at in range(position, position + length, _CHUNK_BYTES):  # a bounded piece at a time without the GIL
            crc = crc32(segment.memory[at : min(at + _CHUNK_BYTES, position + length)], crc)
        found.append(crc)
    return rows, tuple(found)


def open_at(files: Files, path: str, uuid: bytes, place: Place, layout: SegmentLayout) -> Segment:
    """The segment of the place, mapped for reading; typed errors as open_segment's."""
    topic_id, partition, base = place
    return open_segment(files, path, uuid, topic_id, partition, base, layout, write=False)


def pack(found: Sum) -> bytes:
    return b"".join(map(U32.pack, (found[0], *found[1])))


def unpack(value: bytes) -> Sum:
    """CorruptionError if it is not one."""
    if len(value) < 4 or len(value) % 4:
        raise CorruptionError(f"a checksum entry has {len(value)} bytes")
    numbers = [number for (number,) in U32.iter_unpack(value)]
    return numbers[0], tuple(numbers[1:])


def read_sum(txn: Any, place: Place) -> Sum:
    value = txn.get(sum_key(*place))
    return NOTHING if value is None else unpack(value)


def verify_rows(segment: Segment, noted: Sum, rows: int) -> list[str]:
    """What does not verify, one sentence for each region."""
    if noted[0] > rows:
        return [f"its checksums cover {noted[0]} rows, but it holds {rows}"]
    if not noted[0]:
        return []
    try:
        found = extend(segment, NOTHING, noted[0])[1]
    except CorruptionError as error:
        return [str(error)]
    if len(found) != len(noted[1]):
        return [f"it has {len(found)} regions, its checksums {len(noted[1])}"]
    return [
        f"{name} of rows 0..{noted[0]} does not verify (crc {now:08x}, expected {then:08x})"
        for name, now, then in zip(segment.region_names(), found, noted[1], strict=True)
        if now != then
    ]


def rows_of(txn: Any, place: Place, layout: SegmentLayout) -> int:
    """Committed rows of a segment, as the index says."""
    if layout.offsets >= 0:
        return layout.capacity
    return min(_offsets_of(txn, place), layout.capacity)  # compaction may have removed what followed it


def _offsets_of(txn: Any, place: Place) -> int:
    """How many offsets lie from the segment's base to the next one's, or to the end."""
    topic_id, partition, base = place
    for key, _ in scan(txn, segment_key(topic_id, partition, 0)[:-8], segment_key(topic_id, partition, base + 1)):
        return int(SEGMENT_KEY.unpack(key)[3]) - base
    value = txn.get(partition_key(topic_id, partition))
    return 0 if value is None else max(0, PartitionState().unpack(value).log_end - base)


class Sums:
    """The sums this process has computed: of dirty segments, ahead of what the index holds.

    Several threads may run at once: the part of a checkpoint that needs no lock (`advance`, by the maintenance thread
    and by whoever calls checkpoint()) beside one that holds the writer lock (`put`). So `_ahead` is never changed, only
    replaced. Whoever replaces it last may take back what another one added: that is computed again, from a sum of fewer
    rows, which stays right.
    """

    def __init__(self, files: Files, path: str, uuid: bytes) -> None:
        self._files = files
        self._path = path
        self._uuid = uuid
        self._ahead: dict[Place, tuple[bytes, Sum]] = {}  # with the descriptor of the file: compaction replaces it

    def advance(self, txn: Any, dirty: list[tuple[bytes, bytes]]) -> None:
        """The sums of the marked segments cover the transaction's rows. Needs no lock."""
        self._ahead = self._advanced(txn, dirty)

    def _advanced(self, txn: Any, dirty: list[tuple[bytes, bytes]]) -> dict[Place, tuple[bytes, Sum]]:
        before_all = self._ahead
        ahead: dict[Place, tuple[bytes, Sum]] = {}
        for place in {SEGMENT_KEY.unpack(key)[1:] for key, _ in dirty}:
            value = txn.get(segment_key(*place))
            if value is None or is_sealed(value):
                continue  # dropped, or sealed since
            layout = SegmentLayout.unpack(value)
            rows = rows_of(txn, place, layout)
            known, before = before_all.get(place, (b"", NOTHING))
            if known != layout.descriptor:
                before = read_sum(txn, place)
            if rows > before[0]:
                try:
                    segment = open_at(self._files, self._path, self._uuid, place, layout)
                    before = extend(segment, before, rows)
                except StorageError:  # whoever reads it is told; a checkpoint of the others goes on
                    if place in before_all:
                        ahead[place] = before_all[place]
                    continue
            ahead[place] = (layout.descriptor, before)
        return ahead

    def put(self, txn: Any, dirty: list[tuple[bytes, bytes]]) -> None:
        """The index holds the sums of the marked segments as of the transaction. Writer lock held. IndexFault."""
        for place, (_, found) in self._advanced(txn, dirty).items():
            if found[0]:
                txn.put(sum_key(*place), pack(found))
        self._ahead = {}


__all__ = ["NOTHING", "Place", "Sum", "Sums", "extend", "pack", "read_sum", "unpack", "verify_rows"]
