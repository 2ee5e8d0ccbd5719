"""Every byte the storage layer writes: constants, layouts, keys. All integers are little-endian, except in keys
(big-endian, so that they sort).

Directory::

    FORMAT                      magic, version, uuid, CRC. Written last at creation: without it, this is no database
    LOCK                        flock'd for one commit at a time. Never deleted
    ALIVE                       flock'd shared by every process that has the database open; exclusively: it is alone
    shared                      mapped by everybody: poison flag, holder of LOCK, wake-up slots, and the head (head.py):
                                commits that are ahead of the index. Says nothing that must survive a power loss
    reserve                     space given back when recovery meets a full disk
    index/data.mdb, lock.mdb    LMDB: what is committed
    index/checkpoint            two slots: the LMDB meta pages of the last two checkpoints
    journal/J-<epoch>-<number>  records of commits since the checkpoint
    topics/<topic>/<partition>/<base offset, 20 digits>[-<generation>].seg  raw segment
    topics/<topic>/<partition>/<base offset, 20 digits>[.generation].col  sealed segment
    SEAL                        flock'd by who seals segments. Never deleted
    BACKUP.incomplete           only while, or after, a backup into this directory is interrupted: it does not open

Index keys; every value is followed by a CRC of key and value (kv.py)::

    m                            -> META      the tail of the journal and the applied lsn
    p topic partition            -> PARTITION offsets, active segment, time range
    s topic partition base       -> SEGMENT   capacity, time range, columns
    d topic column code          -> the bytes of a dictionary value
    D topic column last code     -> CHUNK, compressed: as many values up to that code, joined by CHUNK_JOINT
    w topic partition base       -> 0 | 1     segment written since the checkpoint (1: its file is new)
    k topic partition key        -> U64 each  table: offset of the row that has the key now (keys.py)
    n topic partition            -> TABLE     table: how many rows it has, and what compaction did
    g topic partition file name  -> GONE      file of a segment that the index no longer names, to be unlinked (gone.py)
    c topic partition base       -> rows u32, crc u32 of each region's bytes of those rows (Segment.regions)
    u user key                   -> user value
    h                            -> 16 bytes that say which history the offsets belong to: a restored copy has another

Journal record, 8-byte aligned::

    RECORD_HEAD | header crc u32 | payload, padded with zeros

The header CRC covers the header, whose fields name the epoch, file number and position, and is seeded with the
database's uuid: a record copied or left over from elsewhere never verifies. `previous` is the header CRC of the record
before.

Segment file::

    header page(s): SEGMENT_HEAD, columns, CRC      then per column, 64-byte aligned and in this order:
    [nulls: 1 byte per row, 1 = NULL, if nullable] [values: width bytes per row | int64 end positions] [heap, if plain]
    and last the int64 append times, where 0 says: as in the row before. Every TIME_STRIDE_ROWS-th row holds its time.

A new segment file is all zeros. So whoever stores many rows in one may leave out the nulls of columns without any, and
nearly all append times. Rows that follow others are stored in full: an aborted commit may have left scrap there.

Sealed segment file::

    SEALED_HEAD, columns, CRC      then blocks, 64-byte aligned: all of column 0, all of column 1 ..., the append times
    key index, if the topic has a key (hash_index.py)
    directory: SEALED_BLOCK for each block, in that order      SEALED_FOOT, CRC

A block holds `block rows` rows of a column (the last one fewer) as nodes (nodes.py): validity, if there are NULLs;
values. A plain column has codes, lengths and the heap of its distinct values instead of values. What lies under a NULL
is the value before it.
"""

from __future__ import annotations

from struct import Struct

DATABASE_MAGIC = b"EVENTDB\0"
FORMAT_VERSION = 1
# The same in every version, so that each knows the others: magic, version, 0, 0, uuid, created_us; then crc u32
FORMAT = Struct("<8sHHI16sQ")
CRC = Struct("<I")
U32 = CRC
U64 = Struct("<Q")

# --- index ----------------------------------------------------------------------------------------
META_KEY = b"m"
HISTORY_KEY = b"h"
META = Struct("<QIIQIIQQQQ")
#      lsn, epoch, file number, position_bytes, chain crc, 0, file size, durable lsn, checkpoint sequence, first
# unsynced bulk lsn
PARTITION_KEY = Struct(">cIH")
PARTITION = Struct(
    "<QQQqqqQ"
)  # log start, log end, active segment base, its min and max event time, last append time, flags
SEGMENT_KEY = Struct(">cIHQ")
SEGMENT = Struct("<QqqI")  # capacity, min and max event time (final once rolled), column count; then COLUMN each
COLUMN = Struct("<BBHQ")  # type code, flags, width, heap bytes
DICTIONARY_KEY = Struct(">cIHI")
TOPIC_PREFIX = Struct(">cI")

NO_SEGMENT = (1 << 64) - 1
GONE = Struct("<QQ")  # checkpoint sequence and index transaction of the removal
NO_MIN_TIME = (1 << 63) - 1
NO_MAX_TIME = -(1 << 63)
PARTITION_DERIVED = 1  # rows come from unjournaled commits only
PARTITION_BESIDE = 2  # some rows carry what lies in the log beside this one
PARTITION_GAPS = 4  # some offsets are lost: their entries have neither capacity nor columns (segment/gap.py)

SEGMENT_SEALED = 1 << 31  # in the column count: the segment is sealed, its capacity its rows, and SEALED_TAIL follows
SEALED_TAIL = Struct("<QIII")  # file size, crc of the directory, generation, block rows

COLUMN_NULLABLE = 1
COLUMN_CODED = 2
COLUMN_PLAIN = 4
COLUMN_OFFSETS = 16  # of a compacted segment, last: the rows' offsets; `heap bytes` is the file's generation
COLUMN_MARKS = 8  # of a table: 0 = current, else 1 + the offset of the row that took its place (marks.py)

TYPE_CODES = {
    "BOOLEAN": 1,
    "TINYINT": 2,
    "SMALLINT": 3,
    "INTEGER": 4,
    "BIGINT": 5,
    "FLOAT": 6,
    "DOUBLE": 7,
    "DECIMAL": 8,
    "VARCHAR": 9,
    "BLOB": 10,
    "DATE": 11,
    "TIMESTAMP": 12,
    "INTERVAL": 13,
}
TYPE_NAMES = {code: name for name, code in TYPE_CODES.items()}

# --- segments -------------------------------------------------------------------------------------
SEGMENT_MAGIC = b"EVDBSEG1"
SEGMENT_HEAD = Struct("<8s16sIHHQQI")  # magic, uuid, topic, partition, 0, base, capacity, column count
PAGE_BYTES = 4096
ALIGN_BYTES = 64
TIME_STRIDE_ROWS = 8192  # a reader looks back this far at most; 64 KiB, so that the times of a bulk touch few pages
DICTIONARY_MAX_BYTES = (
    8 << 20
)  # of one column's dictionary, in memory of every process; beyond it the column goes plain
CHUNK = Struct("<IIB")  # values, bytes before compression, CHUNK_ZLIB or CHUNK_BZ2
CHUNK_ZLIB, CHUNK_BZ2 = 0, 1
CHUNK_JOINT = b"\xff"  # no byte of UTF-8
CHUNK_LEAST_VALUES = 64  # new in one commit: fewer are stored one by one
CHUNK_BYTES = 256 << 10  # before compression, about
CHUNK_BZ2_CODES = 8192  # the first values of a column, which a small topic has: bz2 saves a fifth of zlib's bytes,
CHUNK_BZ2_BYTES = 128 << 10  # but takes 0.1 us a byte to write and 0.04 us to read, so chunks beyond are zlib's
DICTIONARY_VALUE_BYTES = 2048  # a longer value makes its column plain at once

# --- sealed segments ------------------------------------------------------------------------------
SEALED_MAGIC = b"EVDBCOL1"
SEALED_HEAD = Struct("<8s16sIHHQQIII")
#      magic, uuid, topic, partition, 0, base, rows, block rows, column count, generation
SEALED_BLOCK = Struct("<QIIIIBBHIqq")
#      position, bytes, crc, NULLs, distinct values (estimate), kind of the value node, flags, 0, 0, least and greatest
# value. Of doubles the bits, of plain strings the first 8 bytes (big-endian, biased), of coded ones the codes
SEALED_FOOT = Struct("<QIIQII")
#      position, bytes and crc of the directory, and of the key index (0 = none); then crc u32
HASH_INDEX = Struct("<II")  # buckets, entries; then u32 each: where every bucket begins and the last one ends; entries
BLOCK_RANGED = 1  # flag: least and greatest value are known
BLOCK_NAN = 2  # flag: some value is NaN, which is outside the range

# --- journal --------------------------------------------------------------------------------------
RECORD_MAGIC = 0x314A4445  # "EDJ1"
RECORD_MAGIC_BYTES = RECORD_MAGIC.to_bytes(4, "little")
RECORD_HEAD = Struct("<IBBHIIQQQIII")
#      magic, type, flags, 0, epoch, file number, position_bytes, lsn, durable lsn, previous crc, payload bytes, payload
# crc
RECORD_BYTES = RECORD_HEAD.size + 4
OPEN_RECORD = 1  # first of a file
COMMIT_RECORD = 2
ROLL_RECORD = 3  # last of a file: the log goes on in the next one
BULK_UNSYNCED = 1  # flag: the rows named by the record were not flushed before it; they may be gone
ROLL_PAYLOAD = Struct("<IIQ")  # next file number, crc of its first record, its size in bytes
ROLL_BYTES = RECORD_BYTES + ROLL_PAYLOAD.size

OP_SEGMENT = 1  # OP_PLACE, u32 length, SEGMENT value        a new segment file
OP_CHUNK = 2  # OP_PLACE, OP_ROWS, PARTITION, column bytes   rows
OP_BULK = 3  # OP_PLACE, OP_ROWS, PARTITION, u32 crc         rows that are in the segment already
OP_PUT = 4  # OP_KEY, key, value
OP_DELETE = 5  # OP_KEY, key
OP_FORGET = 6  # OP_PLACE                                    a dropped topic
OP_MARKS = 7  # OP_PLACE, u32 length, MARK each              rows of a table that were superseded
OP_PLACE = Struct("<BIHQ")  # op, topic, partition, segment base
OP_ROWS = Struct("<II")  # first row in the segment, row count
OP_KEY = Struct("<BHI")  # op, key bytes, value bytes
MARK = Struct("<IQ")  # row in the segment, mark

# --- tables ---------------------------------------------------------------------------------------
TABLE = Struct("<QQ")  # rows, versions that compaction removed
#      and, once it was compacted, U64: what was superseded below this offset may be gone
SUPERSEDED_BY = "_superseded_by"  # the hidden last column of a table's log
KEY_LIMIT_BYTES = 400  # LMDB takes 511; a longer key is found by its digest
KEY_WHOLE = b"\0"
KEY_DIGEST = b"\1"

# --- checkpoint slots -----------------------------------------------------------------------------
SLOT_MAGIC = b"EVDBCKP1"
SLOT = Struct("<8sQII40sQIIQIIQ")
#      magic, sequence, flags, page bytes, boot id, lsn, epoch, file number, position_bytes, chain crc, crc of the index
# file (0 = not known), file size; crc u32
SLOT_CLEAN = 1
SLOT_LIVE = 2  # index_crc is that of the live pages (live_pages.py); of the whole file before there was this flag
BACKUP_BOOT = "backup"  # boot id in the slot of a backup that nobody has written to
INCOMPLETE_NAME = "BACKUP.incomplete"  # a backup into this directory has begun and not ended

# --- the shared pages -----------------------------------------------------------------------------
SHARED_BYTES = 3 * 4096
SHARED_POISON = 0  # u8
SHARED_HOLDER = 8  # u32: pid of the last process that locked LOCK
SHARED_WAITING = 12  # u32: pid of a process that waits for LOCK, 0 = none: others let it go first (lock.py)
SHARED_SEQUENCE = 16  # u64: commit id; its lowest bit chooses the head's slot
HEAD_POSITIONS = (4096, 8192)
HEAD_SLOT_BYTES = 4096
HEAD = Struct(
    "<II"
)  # content bytes, crc seeded with the sequence; then META, and per partition its key, a zero byte, PARTITION
HEAD_ENTRY_BYTES = PARTITION_KEY.size + 1 + PARTITION.size
SHARED_LOCK = 24
LOCK_SEEN = Struct("<QQ")  # inode of LOCK, as whoever opened the database first saw it, and of `shared` itself
SHARED_NEWEST = 40  # i64: the newest append time, in us; rows of a later commit have a later one
SHARED_SLOTS = 64  # one byte per waiter slot: 1 = armed
SLOT_COUNT = 64


# --- encoded arrays (nodes.py) ----------------------------------------------------------------------
NODE = Struct("<BBBBIqII")
#      kind, bytes per value, bits, extra, count, base, payload bytes, 0; then the payload, padded to 8 bytes.
# Arithmetic is modulo 2**bits of the value.


class Kind:
    """Of a node. `+` joins nodes that follow each other in the payload."""

    CONSTANT = 0  # every value is base
    RAW = 1  # the values as they are
    PACKED = 2  # base + `bits` bits each, in lanes of 64 or (below 8 bytes per value) 32 bits: see kernels/packing.py
    DELTA = 3  # base + the running sum of a node of 8-byte values
    RUNS = 4  # base = how many runs: their values + their lengths (4 bytes)
    DICTIONARY = 5  # base = how many distinct values: these + a code (4 bytes) for each row
    PLANES = 6  # base + bits / 8 bytes each: all lowest bytes, then all second bytes ..., together in one zstd frame
    PATCHED = 7  # base = how many exceptions: all values + rows of the exceptions (4 bytes) + their values
    SCALED = 8  # base + a node times a number: the node + the number (a node of one 8-byte value)
    DECIMAL = 9  # doubles or floats: a node of 8-byte integers divided by 10**extra
    SPLIT = 10  # a node of the high bits, shifted left by `bits`, or-ed with a node of the low ones


def align(position: int, to: int = ALIGN_BYTES) -> int:
    return -(-position // to) * to


def partition_key(topic_id: int, partition: int) -> bytes:
    return PARTITION_KEY.pack(b"p", topic_id, partition)


def segment_key(topic_id: int, partition: int, base: int) -> bytes:
    return SEGMENT_KEY.pack(b"s", topic_id, partition, base)


def dirty_key(topic_id: int, partition: int, base: int) -> bytes:
    return SEGMENT_KEY.pack(b"w", topic_id, partition, base)


def gone_key(topic_id: int, partition: int, name: str) -> bytes:
    return PARTITION_KEY.pack(b"g", topic_id, partition) + name.encode()


def sum_key(topic_id: int, partition: int, base: int) -> bytes:
    return SEGMENT_KEY.pack(b"c", topic_id, partition, base)


def dictionary_key(topic_id: int, column: int, code: int) -> bytes:
    return DICTIONARY_KEY.pack(b"d", topic_id, column, code)


def table_key(topic_id: int, partition: int) -> bytes:
    return PARTITION_KEY.pack(b"n", topic_id, partition)


def row_key_prefix(topic_id: int, partition: int) -> bytes:
    return PARTITION_KEY.pack(b"k", topic_id, partition)


def horizon_of(table: bytes) -> int:
    """Below which offset superseded rows may be gone, from a table's TABLE value; 0 if all are there."""
    return U64.unpack_from(table, TABLE.size)[0] if len(table) > TABLE.size else 0


def chunk_key(topic_id: int, column: int, last_code: int) -> bytes:
    return DICTIONARY_KEY.pack(b"D", topic_id, column, last_code)


def topic_directory(topic_id: int, partition: int) -> str:
    return f"topics/{topic_id}/{partition}"


def generation_of(value: bytes) -> int:
    """The generation of a segment's file, from its SEGMENT value; 0 of one that was never compacted, or is sealed."""
    if SEGMENT.unpack_from(value)[3] & SEGMENT_SEALED:
        return 0
    _, flags, _, heap_bytes = COLUMN.unpack_from(value, len(value) - COLUMN.size)
    return heap_bytes if flags & COLUMN_OFFSETS else 0


def segment_name(base: int, generation: int = 0) -> str:
    return f"{base:020d}-{generation}.seg" if generation else f"{base:020d}.seg"


def sealed_name(base: int, generation: int) -> str:
    return f"{base:020d}.{generation}.col" if generation else f"{base:020d}.col"


def journal_name(epoch: int, number: int) -> str:
    return f"J-{epoch}-{number}"


def parse_journal_name(name: str) -> tuple[int, int] | None:
    """(epoch, file number) of a journal file's name, None for anything else."""
    parts = name.split("-")
    if len(parts) == 3 and parts[0] == "J" and parts[1].isdecimal() and parts[2].isdecimal():
        return int(parts[1]), int(parts[2])
    return None
