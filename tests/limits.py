"""Limits of the storage that tests make small, as module and name below eventdb.storage."""

from __future__ import annotations

SEGMENT_ROWS = tuple(
    f"{module}_SEGMENT_ROWS" for module in ("segment.layout.FIRST", "segment.layout.MAX", "transaction.MAX")
)
