"""What a partition may hold, and the refusal of rows beyond it."""

from __future__ import annotations

from eventdb.config import HEAP_BYTES_PER_ROW, MAX_SEGMENT_ROWS, SEGMENTS_PER_LIMIT
from eventdb.errors import TopicFull
from eventdb.storage.format import PAGE_BYTES, SEGMENT_KEY
from eventdb.storage.index.kv import scan
from eventdb.storage.sealed.sealed import SealedLayout, is_sealed
from eventdb.storage.segment.gap import GAP
from eventdb.storage.segment.layout import SegmentLayout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from eventdb.schema import Schema
    from eventdb.storage.commit.staging import Staged
    from eventdb.storage.segment.log import PartitionLog
    from eventdb.storage.transaction import WriteTransaction


class Limits:
    """The share one partition has of its topic's settings; None = no limit. `name` is the topic's, for messages.

    `reject` says that rows beyond max_bytes or max_rows are refused; otherwise retention removes the oldest.
    """

    __slots__ = ("max_bytes", "max_rows", "name", "partitions", "reject", "retention_us")

    def __init__(
        self, name: str, partitions: int = 1, retention_us: int | None = None, max_bytes: int | None = None,
        max_rows: int | None = None, *, reject: bool = False,
    ) -> None:  # fmt: skip
        self.name = name
        self.partitions = partitions
        self.retention_us = retention_us
        self.max_bytes = max_bytes
        self.max_rows = max_rows
        self.reject = reject

    @staticmethod
    def of(name: str, options: dict[str, str]) -> Limits | None:
        """The share of each partition in what a topic's options allow; None without limits."""
        count = int(options.get("partitions", "1"))
        retention, size, rows = (options.get(option) for option in ("retention", "max_bytes", "max_rows"))
        if retention is None and size is None and rows is None:
            return None
        return Limits(
            name,
            count,
            None if retention is None else int(retention),
            None if size is None else int(size) // count,
            None if rows is None else int(rows) // count,
            reject=options.get("on_full") == "reject",
        )

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Limits) and all(getattr(self, n) == getattr(other, n) for n in self.__slots__)

    __hash__ = None  # type: ignore[assignment]

    @property
    def trims(self) -> bool:
        """Whether retention has anything to do."""
        return self.retention_us is not None or (
            not self.reject and (self.max_bytes is not None or self.max_rows is not None)
        )

    def room(self, capacity: int, log_start: int, base: int) -> int:
        """Rows of the active segment that may be filled without another look at the limits."""
        if not self.reject or self.max_rows is None:
            return capacity
        return max(0, min(capacity, log_start + self.max_rows - base))

    def segment_rows(self, schema: Schema) -> int:
        """Rows of one segment at most: several must fit the limits, for only whole ones can go."""
        rows = MAX_SEGMENT_ROWS
        if self.max_rows is not None:
            rows = min(rows, self.max_rows // SEGMENTS_PER_LIMIT)
        if self.max_bytes is not None:
            width = 8 + sum(
                f.nullable + (8 + HEAP_BYTES_PER_ROW if f.type.is_coded else f.type.width_bytes) for f in schema.fields
            )
            rows = min(rows, (self.max_bytes // SEGMENTS_PER_LIMIT - PAGE_BYTES) // width)
        return max(rows, 8)


def stored_bytes(value: bytes) -> int:
    """The size of the file a SEGMENT value describes; a gap has none."""
    if value == GAP:
        return 0
    return SealedLayout.unpack(value).size_bytes if is_sealed(value) else SegmentLayout.unpack(value).size_bytes


def segments(txn: Any, log: PartitionLog) -> Iterator[tuple[int, bytes]]:
    """(base, SEGMENT value) of the log's segments in offset order."""
    for key, value in scan(txn, SEGMENT_KEY.pack(b"s", log.topic_id, log.partition, 0)[:-8]):
        yield SEGMENT_KEY.unpack(key)[3], value


def require_room(transaction: WriteTransaction, staged: Staged) -> None:
    """TopicFull if what is staged passes a limit whose topic rejects."""
    limits, state = staged.log.limits, staged.state
    if limits is None or not limits.reject or not staged.chunks:
        return
    rows = state.log_end - state.log_start
    if limits.max_rows is not None and rows > limits.max_rows:
        raise _full(transaction, staged, "max_rows", limits.max_rows, f"{rows} rows")
    if limits.max_bytes is not None and staged.created:
        size = sum(stored_bytes(value) for base, value in segments(transaction._txn, staged.log))
        size += sum(segment.layout.size_bytes for segment, _ in staged.created.values())
        if size > limits.max_bytes:
            raise _full(transaction, staged, "max_bytes", limits.max_bytes, f"{size} bytes of segments")


def _full(transaction: WriteTransaction, staged: Staged, name: str, limit: int, found: str) -> TopicFull:
    limits = staged.log.limits
    assert limits is not None
    share = f", a share of 1/{limits.partitions}" if limits.partitions > 1 else ""
    return TopicFull(
        f"topic {limits.name!r} is full: partition {staged.log.partition} would hold {found}, {name} allows {limit}"
        f"{share}, and on_full is 'reject'; nothing was stored. Remove old events (delete_before), raise {name}, or "
        "set on_full = 'oldest'",
        path=transaction._writer.path,
        limit=name,
        partition=staged.log.partition,
    )
