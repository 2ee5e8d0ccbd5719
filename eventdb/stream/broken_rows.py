"""Rows that break an expression: which ones they are, and where they go when their view goes on without them.

The rows of a topic are told apart by expressions over them alone: conditions and columns directly over the scan, and
the keys and arguments of a GROUP BY over those. What an expression over a join or over groups cannot take is no single
row's fault.

With a dead-letter topic each broken row is noted there once, in a journaled commit of its own before that of the state
that skips it; a mark beside it says how far that has come, so a state that is lost in between does not note it again::

    "v" view id "l" topic id (8 bytes) partition (4 bytes, both big-endian)     the offset of the last row noted
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import math
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from eventdb.batch import RecordBatch
from eventdb.errors import EvaluationError
from eventdb.schema import BIGINT, INTEGER, VARCHAR, Field, Schema
from eventdb.stream.state import StateKeys, Writing, view_prefix

if TYPE_CHECKING:
    from eventdb.storage.segment.log import PartitionLog
    from eventdb.storage.transaction import WriteTransaction

LETTERS = Schema(
    [
        Field("view_name", VARCHAR, True), Field("topic_name", VARCHAR, True),
        Field("source_partition", INTEGER, True), Field("source_offset", BIGINT, True),
        Field("error", VARCHAR, True), Field("content", VARCHAR, True),
    ]
)  # fmt: skip
_MARK = struct.Struct(">QI")
_OFFSET = struct.Struct("<q")


@dataclass(frozen=True, slots=True)
class BrokenRow:
    """`content` is the row as JSON."""

    topic_id: int
    topic: str
    partition: int
    offset: int
    error: str
    content: str = ""


def broken_positions(run: Callable[[RecordBatch], object], batch: RecordBatch) -> Iterator[tuple[int, EvaluationError]]:
    """The positions of the rows on which `run` raises, ascending, by trying halves: rows x log(rows) for each."""
    stack = [(0, batch.row_count)]
    while stack:
        low, high = stack.pop()
        try:
            run(batch.slice(low, high))
        except EvaluationError as error:
            if high - low == 1:
                yield low, error
            else:
                middle = (low + high) // 2
                stack += [(middle, high), (low, middle)]


def row_values(snapshot: Any, log: PartitionLog, offset: int) -> dict[str, Any]:
    """All columns of one row, as Python values."""
    names = [field.name for field in log.schema]
    for part in snapshot.slices(log, offset, offset + 1):
        columns = [part.column(i) for i in range(len(names))]
        return dict(zip(names, RecordBatch(names, columns, part.row_count).to_pylist()[0], strict=True))
    return {}


def row_json(snapshot: Any, log: PartitionLog, offset: int) -> str:
    """One row as JSON: times in ISO 8601, bytes in base64, decimals and what JSON has no number for as text."""
    values = row_values(snapshot, log, offset)
    return json.dumps({name: _plain(value) for name, value in values.items()}, ensure_ascii=False)


def _plain(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, dt.datetime | dt.date | dt.time):
        return value.isoformat()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def store_letters(
    transaction: WriteTransaction, view_id: int, view: str, log: PartitionLog, rows: Iterable[BrokenRow]
) -> None:
    """Appends those of the rows that are not noted yet, in a journaled transaction."""
    if StateKeys(view_id).is_dropped(transaction):
        return
    marks: dict[bytes, int] = {}
    letters = []
    for row in rows:
        key = view_prefix(view_id) + b"l" + _MARK.pack(row.topic_id, row.partition)
        if key not in marks:
            data = transaction.get(key)
            marks[key] = -1 if data is None else _OFFSET.unpack(data)[0]
        if row.offset > marks[key]:
            marks[key] = row.offset
            letters.append((view, row.topic, row.partition, row.offset, row.error, row.content))
    if letters:
        transaction.append_rows(log, letters)
        for key, offset in marks.items():
            transaction.put(key, _OFFSET.pack(offset))


def copy_marks(store: Writing, view_id: int, to: int) -> None:
    """What is noted for one view counts as noted for another one, which computes the same anew."""
    prefix = view_prefix(view_id) + b"l"
    for key, value in list(store.range(prefix)):
        store.put(view_prefix(to) + bytes(key)[len(prefix) - 1 :], bytes(value))


def cut_marks(store: Writing, view_id: int, ends: dict[tuple[int, int], int]) -> None:
    """Topics end earlier, at `ends` by id and partition: rows behind are noted again."""
    prefix = view_prefix(view_id) + b"l"
    for key, value in list(store.range(prefix)):
        end = ends.get(_MARK.unpack(bytes(key)[len(prefix) :]))
        if end is not None and _OFFSET.unpack(value)[0] >= end:
            store.put(bytes(key), _OFFSET.pack(end - 1))
