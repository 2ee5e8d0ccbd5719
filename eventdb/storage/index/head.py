"""The head: the newest commits, ahead of the index, in a page that every process maps.

A commit that only moves partitions forward (rows into segments that exist, strings that have codes) needs no index
transaction: its journal record is the redo, and the head says where the partitions end now. The next index transaction
folds the head in; a checkpoint always does. Measured against one LMDB transaction a commit: an LMDB commit copies four
pages, none of which may be used again before the next checkpoint (the pin), so 100,000 appends wrote 1.6 GB of index at
45 us each; through the head they write 140 bytes of shared memory each.

Two slots are written in turn, and the 8-byte `sequence` says which one counts (its lowest bit). A commit fills the
other slot and then moves `sequence`: a reader sees the old content or the new one, and a writer that is killed in
between has changed nothing. The CRC, seeded with the sequence, tells a reader that a slot was replaced while it copied
it, on machines that reorder stores too. `sequence` is the commit id: whoever changes anything moves it, index
transactions included.

Content: empty, or META and then for each partition that is ahead of the index: its key, padded to 8 bytes, and
PARTITION. It counts while its lsn exceeds the index's. The page survives a process crash (it is in the page cache);
after a power loss it says nothing and is emptied: the journal is replayed from the checkpoint.
"""

from __future__ import annotations

from zlib import crc32

from eventdb.errors import CorruptionError
from eventdb.storage.format import HEAD, HEAD_ENTRY_BYTES, HEAD_POSITIONS, HEAD_SLOT_BYTES, META, SHARED_SEQUENCE, U64

TYPE_CHECKING = False
if TYPE_CHECKING:
    import mmap

_KEY_BYTES = 7
_PAD = b"\0"
MAX_AHEAD = (HEAD_SLOT_BYTES - HEAD.size - META.size) // HEAD_ENTRY_BYTES
_TRIES = 1_000_000


class Head:
    """Reads need no lock; `write`, `touch` and `reset` need the writer lock. Stays usable as long as the mapping."""

    __slots__ = ("_page", "_sequence")

    def __init__(self, page: mmap.mmap) -> None:
        self._page = page
        # A native 8-byte item: stored in one instruction.
        self._sequence = memoryview(page)[SHARED_SEQUENCE : SHARED_SEQUENCE + 8].cast("Q")

    def sequence(self) -> int:
        """The id of the newest commit; only grows while anybody has the database open."""
        return self._sequence[0]

    def read(self) -> tuple[int, bytes]:
        """(sequence, content) of one moment."""
        page = self._page
        for _ in range(_TRIES):
            sequence = self._sequence[0]
            at = HEAD_POSITIONS[sequence & 1]
            length, crc = HEAD.unpack_from(page, at)
            if length <= HEAD_SLOT_BYTES - HEAD.size:
                at += HEAD.size
                data = page[at : at + length]
                if crc32(data, sequence & 0xFFFFFFFF) == crc or (not length and not crc):
                    return sequence, data
        raise CorruptionError(
            "the file `shared` does not verify: close the database in every process and open it again"
        )

    def fill(self, data: bytes) -> int:
        """The other slot holds `data`; returns the sequence to move to. Nobody sees it before."""
        sequence = self._sequence[0] + 1
        at = HEAD_POSITIONS[sequence & 1]
        self._page[at : at + HEAD.size + len(data)] = HEAD.pack(len(data), crc32(data, sequence & 0xFFFFFFFF)) + data
        return sequence

    def move(self, sequence: int) -> None:
        """What was filled in for `sequence` is the content from now on."""
        self._sequence[0] = sequence

    def write(self, data: bytes) -> int:
        """The content is `data` from now on; returns the new sequence."""
        sequence = self.fill(data)
        self.move(sequence)
        return sequence

    def touch(self) -> int:
        """Same content, next sequence: every other process reloads what it knows before its next commit."""
        return self.write(self.read()[1])

    def reset(self) -> None:
        """Empty, whatever it was. Nobody else has the database open."""
        for at in HEAD_POSITIONS:
            self._page[at : at + HEAD.size] = bytes(HEAD.size)

    def is_empty(self) -> bool:
        return not self.read()[1]


def head_lsn(data: bytes) -> int:
    """The lsn of a content; 0 of an empty one."""
    return U64.unpack_from(data)[0] if data else 0


def pack_head(meta: bytes, ahead: dict[bytes, bytes]) -> bytes:
    parts = [meta]
    for key, value in ahead.items():
        parts += (key, _PAD, value)
    return b"".join(parts)


def entry_of(data: bytes, key: bytes) -> bytes | None:
    """The PARTITION of one partition key in a content; None if it is not in it."""
    for at in range(META.size, len(data), HEAD_ENTRY_BYTES):
        if data.startswith(key, at):
            return data[at + _KEY_BYTES + 1 : at + HEAD_ENTRY_BYTES]
    return None


def ahead_of(data: bytes) -> dict[bytes, bytes]:
    """Partition key -> PARTITION of a content."""
    return {
        data[at : at + _KEY_BYTES]: data[at + _KEY_BYTES + 1 : at + HEAD_ENTRY_BYTES]
        for at in range(META.size, len(data), HEAD_ENTRY_BYTES)
    }
