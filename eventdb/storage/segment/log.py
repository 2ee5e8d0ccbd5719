"""PartitionLog: this process's handle of one ordered log of a topic. It caches; the index decides."""

from __future__ import annotations

import contextlib

from eventdb.errors import CorruptionError
from eventdb.storage.commit.append import make_encoder
from eventdb.storage.format import (
    NO_MAX_TIME,
    NO_MIN_TIME,
    NO_SEGMENT,
    PARTITION,
    PARTITION_DERIVED,
    partition_key,
    segment_key,
)
from eventdb.storage.index.dictionary import DictionaryCache
from eventdb.storage.index.keys import row_key_encoder
from eventdb.storage.sealed.sealed import SealedLayout, SealedSegment, is_sealed, open_sealed
from eventdb.storage.segment.layout import SegmentLayout
from eventdb.storage.segment.segment import Segment, open_segment

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from eventdb.schema import Schema
    from eventdb.storage.commit.put import MarkedSegments
    from eventdb.storage.device.files import Files
    from eventdb.storage.segment.limits import Limits
    from eventdb.storage.snapshot import SegmentList, StoreSnapshot

_MAX_MAPPED = 256  # read mappings kept; each holds a descriptor
_MAX_MARKABLE = 64  # write mappings of a table's older segments kept


class PartitionState:
    """The PARTITION value: offsets, the active segment, its time range."""

    __slots__ = ("append_us", "base", "flags", "log_end", "log_start", "max_time", "min_time")

    def __init__(self) -> None:
        self.log_start = self.log_end = 0
        self.base = NO_SEGMENT
        self.min_time = NO_MIN_TIME
        self.max_time = NO_MAX_TIME
        self.append_us = self.flags = 0

    def pack(self) -> bytes:
        return PARTITION.pack(
            self.log_start, self.log_end, self.base, self.min_time, self.max_time, self.append_us, self.flags
        )

    def unpack(self, value: bytes) -> PartitionState:
        (self.log_start, self.log_end, self.base, self.min_time, self.max_time, self.append_us, self.flags) = (
            PARTITION.unpack(value)
        )
        return self

    def copy(self) -> PartitionState:
        other = PartitionState()
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        return other

    @property
    def derived(self) -> bool:
        return bool(self.flags & PARTITION_DERIVED)


class PartitionLog:
    """Get it from Store.log(). `state` and `segment` belong to the writer and are current only under the writer lock,
    while `generation` equals the writer's."""

    def __init__(
        self, files: Files, directory: str, uuid: bytes, topic_id: int, schema: Schema, event_time: int | None,
        partition: int, dictionaries: list[DictionaryCache | None], primary_key: tuple[int, ...] = (),
    ) -> None:  # fmt: skip
        self._files = files
        self._directory = directory
        self._uuid = uuid
        self.topic_id = topic_id
        self.schema = schema
        self.event_time = event_time
        self.partition = partition
        self.dictionaries = dictionaries
        self.primary_key = primary_key  # positions of a table's key columns; () for a topic
        self.key = partition_key(topic_id, partition)
        self.state = PartitionState()
        self.segment: Segment | None = None
        self.generation = -1
        self.touched = (-1, NO_SEGMENT)  # checkpoint sequence and segment base of the last dirty mark of this process
        self.marked: dict[int, int] = {}  # of a table: segment base -> checkpoint sequence of its last dirty mark
        self.marked_segments: MarkedSegments | None = None
        # Index transaction a table's keys were looked up in last; of its segments, if known: bases, values, and those
        # that are mapped, by position in the two.
        self.looked_into: tuple[int, list[int], list[bytes], dict[int, Segment]] = (-1, [], [], {})
        self.key_of: Callable[[Sequence[Any]], bytes] = row_key_encoder(schema, primary_key) if primary_key else bytes
        self.durable_base = NO_SEGMENT  # of a segment whose directory entry this process has flushed
        self.encoder: Any = None  # append.py's function for `segment`
        self.capacity = 0  # rows of `segment` that the short way (append.py) may fill
        self.limits: Limits | None = None
        self.beside: PartitionLog | None = None  # rows (offset in this log, ...): what some of its rows carry
        self.fresh: Callable[[], StoreSnapshot] | None = None  # the newest snapshot, for who finds a file gone
        self._mapped: dict[int, Segment | SealedSegment] = {}
        self._markable: dict[int, Segment] = {}
        # Of raw segments that a key was looked for in: base -> the segment, rows covered, hash_index.HashIndex of them.
        self.hash_indexes: dict[int, tuple[Segment, int, Any]] = {}
        self.entries: SegmentList | None = None  # for who looks for times, or for offsets again and again
        # Index transactions: the last one that offsets were looked for in, and whose strings are all in `dictionaries`.
        self.asked_at = self.met_at = -1
        # The index transaction a reader saw last, the active segment's base in it, and that segment: its codes are
        # known.
        self.newest: tuple[int, int, Segment] | None = None

    def load(self, txn: Any) -> None:
        """`state` and `segment` are those of the write transaction."""
        value = txn.get(self.key)
        state = PartitionState()
        if value is not None:
            state.unpack(value)
        segment = self.segment
        if state.base == NO_SEGMENT:
            segment = None
        elif segment is None or segment.base != state.base or not segment.writable:
            segment = self.open_for_writing(txn, state.base)
        for dictionary in self.dictionaries:
            if dictionary is not None:
                dictionary.refresh(txn)
        self.adopt(state, segment)

    def adopt(self, state: PartitionState, segment: Segment | None) -> None:
        """The writer's view is the given one."""
        self.state = state
        if segment is None:
            self.encoder = None
        elif segment is not self.segment or self.encoder is None:
            self.encoder = None if state.derived else make_encoder(self, segment)
            self.capacity = segment.layout.capacity
        if segment is not None and self.limits is not None:
            self.capacity = self.limits.room(segment.layout.capacity, state.log_start, state.base)
        self.segment = segment

    def open_for_writing(self, txn: Any, base: int) -> Segment:
        value = txn.get(segment_key(self.topic_id, self.partition, base))
        if value is None or is_sealed(value):
            raise CorruptionError(f"topic {self.topic_id}: the index names segment {base} but does not describe it")
        return self._open(base, SegmentLayout.unpack(value), write=True)

    def _open(self, base: int, layout: SegmentLayout, *, write: bool) -> Segment:
        return open_segment(
            self._files, self._directory, self._uuid, self.topic_id, self.partition, base, layout, write=write
        )

    def mapped(self, base: int, value: bytes) -> Segment | SealedSegment:
        """The segment of an index entry, mapped for reading. The newest mappings are kept. MissingFile."""
        if is_sealed(value):
            return self._mapped_sealed(base, SealedLayout.unpack(value))
        segment = self._mapped.get(base)
        if (
            segment is None
            or isinstance(segment, SealedSegment)
            or not value.endswith(segment.layout.descriptor)  # a table's was compacted meanwhile
        ):
            active = self.segment
            if (
                active is not None
                and active.base == base
                and active.layout.descriptor == value[-len(active.layout.descriptor) :]
            ):
                return active
            segment = self._open(base, SegmentLayout.unpack(value), write=False)
            self._keep(base, segment)
        return segment

    def mapped_raw(self, base: int, value: bytes) -> Segment:
        """A table's segment, mapped for reading: tables are not sealed."""
        segment = self.mapped(base, value)
        if isinstance(segment, SealedSegment):
            raise CorruptionError(f"{segment.path}: the segment of a table is sealed", path=segment.path)
        return segment

    def _mapped_sealed(self, base: int, layout: SealedLayout) -> SealedSegment:
        found = self._mapped.get(base)
        if isinstance(found, SealedSegment) and (found.layout.generation, found.layout.directory_crc) == (
            layout.generation, layout.directory_crc,
        ):  # fmt: skip
            return found
        segment = open_sealed(
            self._files, self._directory, self._uuid, self.topic_id, self.partition, base, layout
        )  # fmt: skip
        # What it replaced is let go, so that the space of unlinked files returns.
        for cache in (self._mapped, self.hash_indexes):
            for other in [b for b in list(cache) if base <= b < base + layout.rows]:
                cache.pop(other, None)
        self._keep(base, segment)
        return segment

    def _keep(self, base: int, segment: Segment | SealedSegment) -> None:
        if len(self._mapped) >= _MAX_MAPPED:
            with contextlib.suppress(StopIteration, RuntimeError):  # another thread was faster
                self._mapped.pop(next(iter(self._mapped)), None)
        self._mapped[base] = segment

    def holds(self, segment: Segment) -> bool:
        """Whether the segment is mapped here: it was not sealed or removed since, as far as this process has looked."""
        return segment is self.segment or self._mapped.get(segment.base) is segment

    def forget_before(self, base: int) -> bool:
        """Mappings of segments before `base` go, so that removed files give their space back; True if the writer's is
        among them, which only the holder of the writer lock may drop."""
        for cache in (self._mapped, self.hash_indexes):
            for old in [old for old in list(cache) if old < base]:
                cache.pop(old, None)
        newest, segment = self.newest, self.segment
        if newest is not None and newest[1] < base:
            self.newest = None
        return segment is not None and segment.base < base

    def keep_only(self, bases: Sequence[int]) -> None:
        """Mappings of a table's segments that the index does not name any more go."""
        for cache in (self._mapped, self._markable):
            for old in set(cache) - set(bases):
                cache.pop(old, None)

    def markable(self, txn: Any, base: int) -> Segment:
        """A table's segment, mapped for writing: its older rows can be marked. The newest mappings are kept."""
        segment = self._markable.get(base)
        value = txn.get(segment_key(self.topic_id, self.partition, base)) or b""
        if segment is None or not value.endswith(segment.layout.descriptor):  # else it was compacted meanwhile
            active = self.segment
            segment = active if active is not None and active.base == base else self.open_for_writing(txn, base)
            while len(self._markable) >= _MAX_MARKABLE:
                del self._markable[next(iter(self._markable))]
            self._markable[base] = segment
        return segment

    def drop_writer_state(self) -> None:
        """The writer's view is stale (an aborted transaction); the next one reloads it."""
        self.generation = -1
        self.segment = None
        self.encoder = None
        self.touched = (-1, NO_SEGMENT)
        self.marked = {}
        self.marked_segments = None

    def drop(self) -> None:
        """Forgets everything cached; mappings in use stay valid."""
        self.drop_writer_state()
        self._mapped = {}
        self._markable = {}
        self.hash_indexes = {}
        self.entries = None
        self.asked_at = self.met_at = -1
        self.newest = None
        self.looked_into = (-1, [], [], {})
