"""Every limit and default, with its unit in its name. Nothing here is read from the environment."""

from __future__ import annotations

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

# --- segments -------------------------------------------------------------------------------------
FIRST_SEGMENT_ROWS = 1_024
SEGMENT_GROWTH = 4
MAX_SEGMENT_ROWS = 1 << 20
HEAP_BYTES_PER_ROW = 32
SEGMENT_HEAP_BYTES = 128 * MIB  # a column's heap at most, unless the rows that are waiting need more
SEGMENTS_PER_LIMIT = 8  # segments that max_bytes or max_rows of a topic is divided into, so that old ones can go
MAX_VALUE_BYTES = 64 * MIB
DICTIONARY_LIMIT = 65_536  # distinct values of a VARCHAR column; beyond it new segments store the column plainly

# --- sealing --------------------------------------------------------------------------------------
SEALED_BLOCK_ROWS = 1 << 16
SEALED_BLOCK_BYTES = 8 * MIB  # of plainly stored values: with more, blocks have fewer rows
SEALED_CACHE_BYTES = 64 * MIB  # decoded blocks that a process keeps
SEAL_LEAST_ROWS = 1 << 16  # full segments with fewer rows together wait, until they are old
SEAL_AFTER_US = 3_600_000_000  # the age of its first row that makes a segment old, full or not; `seal_after` of a topic
SEAL_OLD_LEAST_ROWS = 1 << 10  # old segments with fewer rows together stay as they are: there is nothing to win
SEAL_INTERVAL_MS = 10_000  # between two looks whether something is to be sealed
SEAL_AT_CLOSE_MS = 1_000  # begun no later than this after the close
SEAL_AT_CLOSE_ROWS = 1 << 18  # larger segments would keep the program waiting: they are left to a helper

# --- tables ---------------------------------------------------------------------------------------
COMPACT_LEAST_ROWS = 1 << 16  # superseded rows of a table, outside the segment that is written, that are left alone
COMPACT_SHARE = 2  # a table is compacted when its superseded rows are the 2nd part of all it stores, or more
COMPACT_PATIENCE_MS = 15_000  # how long a background compaction waits for readers of older states

# --- journal and checkpoints ----------------------------------------------------------------------
JOURNAL_FIRST_BYTES = 64 * KIB
JOURNAL_MAX_BYTES = 16 * MIB
JOURNAL_PIECE_BYTES = 64 * KIB  # of zeros, where a file is full in moments; one page elsewhere
SPARE_PIECE_BYTES = 1 * MIB  # the next journal file is flushed in pieces while it is made ahead
SPARE_AFTER_MS = 2_000  # a file that was full sooner has its successor made at once, others when they are half full
MAX_PAYLOAD_BYTES = 256 * KIB  # larger batches go to the segment first and the record names them
CHECKPOINT_INTERVAL_MS = 5_000
CHECKPOINT_JOURNAL_BYTES = 64 * MIB
CHECKPOINT_INDEX_BYTES = 32 * MIB  # pages the index may not use again before the next checkpoint
RESERVE_BYTES = 1 * MIB
DEFAULT_FLUSH_INTERVAL_MS = 100

GATHER_LONGEST_S = 0.005  # how long a row waits at most for those of other threads to share its flush
GATHER_PAUSE_GROUPS = 64  # how many commits wait for nobody at most, after others did not come

# --- index ----------------------------------------------------------------------------------------
INDEX_MAP_BYTES = 64 * GIB  # address space, not disk
INDEX_MAX_READERS = 1_024
INDEX_ROOM_WAIT_S = 3.0  # how long a writer waits for snapshots to end, so that the address space can grow
INDEX_VERIFY_BYTES = 64 * MIB  # an index up to this size is verified as a whole when the database is opened

# --- processes ------------------------------------------------------------------------------------
LOCK_TIMEOUT_MS = 30_000
WAIT_POLL_MS = 20  # how often a sleeping reader looks by itself, should a wake-up be lost
VIEW_TAKEOVER_MS = 500
DDL_CHECK_NS = 50_000_000  # how often a handle of a topic or table looks for DDL of other processes

# --- retention ------------------------------------------------------------------------------------
RETENTION_INTERVAL_MS = 2_000
RETENTION_ROLL_SHARE = 8  # the active segment is closed when its first row is 1/8 of `retention` old
CLOCK_JUMP_US = 60_000_000  # the wall clock may move this far against the monotonic one between two looks
CLOCK_GAP_US = 3_600_000_000  # and, when a process begins to look, from the newest append
CLOCK_GRACE_MS = 600_000  # after more than that nothing is removed by age for so long: a wrong clock gets corrected
READER_GRACE_MS = 600_000  # a removed file waits so long for readers that began before

# --- queries --------------------------------------------------------------------------------------
DEFAULT_RECURSION_ROUNDS = 100_000  # of WITH RECURSIVE; SET recursion_limit
DEFAULT_MEMORY_BYTES = 256 * MIB
MORSEL_ROWS = 131_072
TILE_ROWS = 1_024  # of sealed columns that a compiled pipeline unpacks at a time
COMPILE_MIN_ROWS = 200_000  # a scan smaller than this is interpreted unless its kernel is already cached
MAX_STATEMENT_BYTES = 1 * MIB
MAX_EXPRESSION_DEPTH = 256

# --- producers ------------------------------------------------------------------------------------
PRODUCER_LINGER_MS = 5
PRODUCER_MAX_ROWS = 10_000

MAX_TOPIC_NAME_CHARS = 249
MAX_COLUMNS = 1_000
