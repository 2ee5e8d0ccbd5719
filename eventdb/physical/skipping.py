"""Which slices of a log a scan need not read: those that lie outside its time range or match no hint."""

from __future__ import annotations

from typing import Any

from eventdb.logical.plan import Scan


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
