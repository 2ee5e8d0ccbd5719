"""Verification of a table: its rows, its marks and its index of keys tell one story."""

from __future__ import annotations

from eventdb.storage.format import TABLE, U64, row_key_prefix, table_key
from eventdb.storage.index.kv import scan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from eventdb.storage.segment.segment import Segment


def check_table(
    txn: Any, topic_id: int, partition: int, end: int, segments: Sequence[tuple[Segment, int]]
) -> list[str]:  # fmt: skip
    """Problems of a table that ends at offset `end` in the transaction. `segments` are its segments and their rows."""
    problems = []
    current: set[int] = set()
    following: dict[int, int] = {}  # offset of a superseded version -> of the one that took its place
    last = -1
    for segment, rows in segments:
        layout = segment.layout
        marks = segment.value_views[layout.marks][:rows].tolist()
        offsets = list(range(segment.base, segment.base + rows))
        if layout.offsets >= 0:
            offsets = segment.value_views[layout.offsets][:rows].tolist()
        if sorted(set(offsets)) != offsets or (offsets and (offsets[0] <= last or offsets[0] < segment.base)):
            problems.append(f"segment {segment.base} has offsets out of order")
        last = offsets[-1] if offsets else last
        wrong = sum(mark and mark <= offset for mark, offset in zip(marks, offsets, strict=True))
        if wrong:
            problems.append(f"segment {segment.base} has {wrong} rows that earlier rows took the place of")
        current.update(o for o, mark in zip(offsets, marks, strict=True) if not mark or mark > end)
        following.update((o, mark - 1) for o, mark in zip(offsets, marks, strict=True) if o + 1 < mark <= end)
    named = {o for _, value in scan(txn, row_key_prefix(topic_id, partition)) for (o,) in U64.iter_unpack(value)}
    named = {_last(o, following) for o in named}
    if named != current:
        missing, extra = len(current - named), len(named - current)
        problems.append(f"{missing} current rows are not in the index of keys, which names {extra} others")
    value = txn.get(table_key(topic_id, partition))
    count = 0 if value is None else TABLE.unpack_from(value)[0]
    if count != len(current):
        problems.append(f"the table has {len(current)} rows, its count says {count}")
    return problems


def _last(offset: int, following: dict[int, int]) -> int:
    while offset in following:
        offset = following[offset]
    return offset
