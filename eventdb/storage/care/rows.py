"""What is wrong with the rows of a raw segment: one judgement, for check and for repair."""

from __future__ import annotations

from eventdb.storage.index.dictionary import has_code
from eventdb.storage.segment.sums import read_sum, verify_rows

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from eventdb.storage.segment.segment import Segment
    from eventdb.storage.segment.sums import Place

_FEW_ROWS = 1_024  # looked at, the newest ones, unless the check is deep


def row_problems(txn: Any, place: Place, segment: Segment, rows: int, *, deep: bool) -> list[str]:
    """Sentences, [] if nothing is wrong with the first `rows` rows. `deep` looks at all of them and at their checksums.
    CorruptionError if the device does not give them."""
    problems: list[str] = []
    if not rows:
        return problems
    step = rows if deep else min(rows, _FEW_ROWS)
    segment.require_rows(rows - step, rows)
    for i, column in enumerate(segment.layout.columns):
        stored = segment.value_views[i][rows - step : rows].tolist()
        view = segment.null_views[i]
        nulls = bytes(step) if view is None else bytes(view[rows - step : rows])
        if set(nulls) - {0, 1}:
            problems.append(f"column {i} has null bytes other than 0 and 1")
        if column.coded:
            used = max((c for c, null in zip(stored, nulls, strict=True) if not null), default=-1)
            low = min((c for c, null in zip(stored, nulls, strict=True) if not null), default=0)
            if low < 0 or (used >= 0 and not has_code(txn, place[0], i, used)):
                problems.append(f"column {i} uses code {used if low >= 0 else low}, which its dictionary does not have")
        elif column.plain and (stored != sorted(stored) or stored[-1] > column.heap_bytes or stored[0] < 0):
            problems.append(f"column {i} has end positions that are out of order or beyond its heap")
    times = segment.append_times(rows - step, rows)
    if 0 in times:
        problems.append("an append time is missing")
    if times != sorted(times):
        problems.append("append times are out of order")
    return problems + verify_rows(segment, read_sum(txn, place), rows) if deep else problems


def mended_nulls(segment: Segment, rows: int) -> list[tuple[int, bytes]]:
    """(position_bytes, content) of each validity region of the first `rows` rows that has other bytes than 0 and 1:
    what is neither becomes NULL, as readers take it."""
    found = []
    for column, view in zip(segment.layout.columns, segment.null_views, strict=False):
        nulls = b"" if view is None else bytes(view[:rows])
        if set(nulls) - {0, 1}:
            found.append((column.null_position, bytes(map(bool, nulls))))
    return found
