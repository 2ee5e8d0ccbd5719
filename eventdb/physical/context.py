"""QueryContext: everything a running query may touch, handed to every operator.

The snapshot fixes which rows exist, the budget bounds memory, the token stops the query, the metrics feed EXPLAIN
ANALYZE. Storage is seen only through the protocols here, so tests run operators over plain lists of batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from eventdb.batch import Array, Column, RecordBatch
from eventdb.config import DEFAULT_MEMORY_BYTES, DEFAULT_RECURSION_ROUNDS, MIB
from eventdb.errors import MemoryLimitExceeded, QueryCancelled, QueryTimeout, UnsupportedError
from eventdb.physical.budget import MemoryBudget
from eventdb.schema import Schema

_LEAST_SHARE = 128


class SegmentSlice(Protocol):
    """Rows of one segment, in offset order. Columns stay valid as long as they are referenced."""

    @property
    def first_offset(self) -> int: ...
    @property
    def row_count(self) -> int: ...
    @property
    def time_range(self) -> tuple[int, int] | None: ...
    def column(self, index: int) -> Column: ...
    def append_times(self) -> Array: ...


class PartitionLog(Protocol):
    """One ordered log. `event_time` is the position of the event-time column, None when append time is used."""

    @property
    def schema(self) -> Schema: ...
    @property
    def event_time(self) -> int | None: ...


class StoreSnapshot(Protocol):
    def offsets(self, log: Any) -> tuple[int, int]: ...
    def slices(
        self, log: Any, start: int, stop: int, times: tuple[int | None, int | None] = ..., key: Any = ...
    ) -> Sequence[Any]: ...
    def key_offsets(self, log: Any, keys: Sequence[tuple[Any, ...]]) -> Sequence[int]: ...
    def has_superseded(self, log: Any) -> bool: ...


class CancelToken:
    """Stops a query from another thread or at a deadline. `check` is called at least once per batch. `wake`, if it is
    set, is called by `cancel`: somebody waits for the query."""

    __slots__ = ("_cancelled", "deadline_s", "timeout_s", "wake", "why")

    def __init__(self, timeout_s: float | None = None) -> None:
        self._cancelled = False
        self.why = "the query was cancelled"
        self.wake: Callable[[], None] | None = None
        self.timeout_s = timeout_s
        self.deadline_s = None if timeout_s is None else time.monotonic() + timeout_s

    def cancel(self) -> None:
        self._cancelled = True
        wake = self.wake
        if wake is not None:
            wake()

    @property
    def cancelled(self) -> bool:
        return self._cancelled

    def check(self) -> None:
        """Returns, or raises QueryCancelled or QueryTimeout."""
        if self._cancelled:
            raise QueryCancelled(self.why)
        if self.deadline_s is not None and time.monotonic() > self.deadline_s:
            raise QueryTimeout(f"the query ran longer than its timeout of {self.timeout_s:g} s")


@dataclass(slots=True)
class OperatorMetrics:
    """What one operator did: rows and batches it returned, time inside it and everything below it."""

    row_count: int = 0
    batch_count: int = 0
    elapsed_us: int = 0
    memory_bytes: int = 0


def _no_logs(topic_id: int) -> Any:
    raise UnsupportedError(f"this query context has no topics (topic {topic_id})", construct="Scan")


def _no_key(topic_id: int) -> str | None:
    return None


def _no_views(view_id: int, columns: Sequence[str]) -> Iterator[RecordBatch]:
    raise UnsupportedError(f"this query context has no views (view {view_id})", construct="ViewScan")


@dataclass(slots=True, eq=False)
class QueryContext:
    """What a query runs in. One per execution; not shared between queries.

    `logs` gives the first log of a topic id, `partitions` all of them (None: topics have one), `topic_key` the name of
    its key column (None without one), `view_content` the rows of a view at `snapshot`. `metrics` is None unless EXPLAIN
    ANALYZE asked for it. `recursion_limit` bounds the rounds of WITH RECURSIVE.
    """

    snapshot: Any = None
    logs: Callable[[int], Any] = _no_logs
    partitions: Callable[[int], Sequence[Any]] | None = None
    view_content: Callable[[int, Sequence[str]], Iterator[RecordBatch]] = _no_views
    topic_key: Callable[[int], str | None] = _no_key
    memory_limit_bytes: int = DEFAULT_MEMORY_BYTES
    threads: int = 1
    cancel: CancelToken = field(default_factory=CancelToken)
    execution: str = "auto"
    disabled_rules: frozenset[str] = frozenset()  # of those that run when a query starts
    metrics: dict[int, OperatorMetrics] | None = None
    counted: tuple[Any, Any] | None = None  # a scan whose slices were looked up to count them, and what was found
    shared: dict[Any, Any] = field(default_factory=dict)  # Shared -> what its places read (SharedSource)
    scanned: dict[int, tuple[Any, int]] = field(default_factory=dict)  # id of a scan -> it, and how many rows it has
    recursion_limit: int = DEFAULT_RECURSION_ROUNDS
    working: dict[int, list[RecordBatch]] = field(default_factory=dict)  # of each RecursiveUnion: its last round's rows
    budget: MemoryBudget | None = None  # shared with the database's other queries; None: this query has its own
    spill_folder: str | None = None  # where rows beyond the budget go; None: a query that needs it is refused
    _held: dict[int, int] = field(default_factory=dict)

    def logs_of(self, topic_id: int, partition: int | None = None) -> list[Any]:
        """The logs of a topic's partitions, or of one of them."""
        logs = [self.logs(topic_id)] if self.partitions is None else list(self.partitions(topic_id))
        return logs if partition is None else [log for log in logs if getattr(log, "partition", 0) == partition]

    def measure(self) -> None:
        """From here on operators record their rows and time (EXPLAIN ANALYZE)."""
        if self.metrics is None:
            self.metrics = {}

    def metrics_of(self, operator: object) -> OperatorMetrics:
        if self.metrics is None:
            self.metrics = {}
        return self.metrics.setdefault(id(operator), OperatorMetrics())

    def hold(self, operator: object, what: str, held_bytes: int, *, spills: bool = False) -> None:
        """Declares that `operator` holds `held_bytes` now. MemoryLimitExceeded when all together pass the limit; `what`
        names the construct in the message. One that `spills` is refused only where no rows can go to disk: it asks
        `may_hold` before, and others have grown since if the limit is passed."""
        self._held[id(operator)] = held_bytes
        if self.metrics is not None:
            entry = self.metrics_of(operator)
            entry.memory_bytes = max(entry.memory_bytes, held_bytes)
        total = self._held_bytes()
        if spills and self.spill_folder is not None:
            return
        if total > self.memory_limit_bytes:
            raise MemoryLimitExceeded(
                f"{what} needs {total / MIB:.1f} MB, more than memory_limit ({self.memory_limit_bytes / MIB:.1f} MB): "
                "open the database with a larger memory_limit, or reduce the rows first (a WHERE clause, fewer "
                "columns, fewer groups)"
            )

    def release(self, operator: object) -> None:
        """`operator` holds nothing any more. Never an error: another one may be past the limit and telling so."""
        self._held.pop(id(operator), None)
        self._held_bytes()

    def release_all(self) -> None:
        """The query is over: whatever it held is free."""
        self.shared.clear()
        self._held.clear()
        self._held_bytes()

    def may_hold(self, operator: object, held_bytes: int, share: float = 0.5) -> bool:
        """Whether `operator` can hold so much: its share of what the others do not hold, the rest is left to them; and
        always a little, or queries side by side would cut their rows to nothing."""
        if self.budget is not None:
            others = self.budget.others_bytes(id(self._held)) + self.held_bytes - self._held.get(id(operator), 0)
        else:
            others = self.held_bytes - self._held.get(id(operator), 0)
        most = max(int((self.memory_limit_bytes - others) * share), self.memory_limit_bytes // _LEAST_SHARE)
        return held_bytes <= most

    def _held_bytes(self) -> int:
        """What counts against the limit."""
        own = sum(self._held.values())
        return own if self.budget is None else self.budget.hold(id(self._held), own)  # copies of a context share it

    @property
    def held_bytes(self) -> int:
        return sum(self._held.values())
