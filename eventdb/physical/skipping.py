"""Which slices of a log a scan need not read: those that lie outside its time range or match no hint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from eventdb.logical.plan import Scan
from eventdb.physical.context import QueryContext


@dataclass(slots=True)
class FoundParts:
    """The slices a scan reads, and how many it does not."""

    groups: list[tuple[Any, list[Any]]] = field(default_factory=list)  # of each log that has any in range
    skipped_segment_count: int = 0
    skipped_block_count: int = 0

    @property
    def row_count(self) -> int:
        return sum(int(part.row_count) for _, parts in self.groups for part in parts)


def find_parts(scan: Scan, context: QueryContext) -> FoundParts:
    """The slices of the scan's logs, in offset order, that may hold rows of it."""
    if context.counted is not None and context.counted[0] is scan:
        return context.counted[1]  # type: ignore[no-any-return]
    found = FoundParts()
    for log in context.logs_of(scan.topic_id, scan.partition):
        earliest, latest = context.snapshot.offsets(log)
        start = earliest if scan.start_offset is None else max(scan.start_offset, earliest)
        stop = latest if scan.stop_offset is None else min(scan.stop_offset, latest)
        if start >= stop:
            continue
        parts = []
        for part in context.snapshot.slices(log, start, stop, scan.time_range, sought_key(scan, log)):
            if not in_time(scan, part.time_range):
                found.skipped_segment_count += 1
            elif not may_match(scan, log, part):
                found.skipped_block_count += 1
            else:
                parts.append(part)
        found.groups.append((log, parts))
    return found


def count_rows(scan: Scan, context: QueryContext) -> int:
    """How many rows the scan reads. The slices are kept for the operator that reads them."""
    found = find_parts(scan, context)
    context.counted = scan, found
    return found.row_count


def sought_key(scan: Scan, log: Any) -> Any:
    """The key that all rows of the scan have, None if they may have different ones."""
    key = log.schema.key
    for column, function, value in scan.hints:
        if function == "eq" and key is not None and log.schema.index_of(column) == key:
            return value
    return None


def in_time(scan: Scan, held: tuple[int, int] | None) -> bool:
    """Whether rows with these event times (None = not known) may lie in the scan's time range."""
    low, high = scan.time_range
    return held is None or ((low is None or held[1] >= low) and (high is None or held[0] <= high))


def may_match(scan: Scan, log: Any, part: Any) -> bool:
    """Whether the statistics of a slice, if it has any, allow a row that satisfies all hints of the scan."""
    ask = getattr(part, "may_match", None)
    if ask is None:
        return True
    return all(ask(log.schema.index_of(column), function, value) for column, function, value in scan.hints)
