"""What the optimiser may know of a scan: rows in range, and how many values a column has at most.

Sealed slices answer from their statistics; of the others some rows are looked at, so a count is an estimate there.
"""

from __future__ import annotations

from typing import Any

from eventdb.logical.plan import Scan
from eventdb.physical.context import QueryContext
from eventdb.physical.fused import scanned_rows
from eventdb.physical.skipping import find_parts

_LOOKED_AT = 4_096


class ScanStatistics:
    """Statistics over a query's snapshot; each answer is worked out once."""

    def __init__(self, context: QueryContext) -> None:
        self._context = context
        self._counts: dict[tuple[int, str], int | None] = {}

    def row_count(self, scan: Scan) -> int:
        return scanned_rows(scan, self._context)

    def distinct_count(self, scan: Scan, column: int) -> int | None:
        name = scan.columns[column]
        key = scan.topic_id, name
        if key not in self._counts:
            self._counts[key] = None if name.startswith("_") else self._count(scan, name)
        return self._counts[key]

    def _count(self, scan: Scan, name: str) -> int | None:
        bounds: list[tuple[int, int]] = []
        for log, parts in find_parts(scan, self._context).groups:
            position = log.schema.index_of(name)
            type = log.schema.fields[position].type
            if type.is_coded or type.is_float:
                return None
            for part in parts:
                found = _bounds(part, position)
                if found is None:
                    return None
                bounds.append(found)
        return max(high for _, high in bounds) - min(low for low, _ in bounds) + 1 if bounds else None


def _bounds(part: Any, position: int) -> tuple[int, int] | None:
    """Least and greatest value of a slice's column, about."""
    known = part.value_range(position) if hasattr(part, "value_range") else None
    if known is not None:
        return int(known[0]), int(known[1])
    if hasattr(part, "has_nulls"):
        return None
    values = part.column(position).values
    values = values[:: max(1, len(values) // _LOOKED_AT)]
    return int(values.min()), int(values.max())
