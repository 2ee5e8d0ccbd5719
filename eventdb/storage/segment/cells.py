"""Cells: rows that come as one list of Python values a column go into the segment; columns.py does it for arrays."""

from __future__ import annotations

import struct

from eventdb.config import DICTIONARY_LIMIT, MAX_SEGMENT_ROWS, MIB
from eventdb.errors import SchemaMismatch
from eventdb.storage.commit.staging import PlainValues, null_flags, pack_nullable
from eventdb.storage.index.dictionary import is_short

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from eventdb.storage.commit.staging import Staged
    from eventdb.storage.segment.segment import Segment
    from eventdb.storage.transaction import WriteTransaction

_GUESSED_HEAP_BYTES = 64 * MIB  # at most, for rows that were not looked at yet


def store_cells(transaction: WriteTransaction, staged: Staged, columns: list[list[Any]], want_rows: int) -> int:
    """Rows of the columns stored, at least one; as many as the active (or a new) segment takes."""
    count = min(len(columns[0]), staged.room())
    plain: set[int] = set()
    heap: dict[int, int] = {}
    encoded: dict[int, PlainValues] = {}
    codes: dict[int, list[int]] = {}
    if count == 0:
        _plan_roll(staged, columns, want_rows, plain, heap)
        transaction.roll(staged, want_rows, plain, heap)
        count = min(len(columns[0]), staged.room())
    segment = staged.segment
    assert segment is not None
    row = staged.state.log_end - segment.base
    for i in segment.layout.coded:
        found = _codes_of(staged, i, columns[i][:count])
        if found is None:
            plain.add(i)
            break
        codes[i] = found
    if not plain:
        for i in segment.layout.plain:
            encoded[i] = PlainValues(columns[i][:count])
            column = segment.layout.columns[i]
            count = min(count, encoded[i].count_fitting(column.heap_bytes - segment.heap_end(i, row)))
    if plain or count == 0:
        # The row does not fit this segment: a new one with plain columns or a larger heap does.
        if row == 0:
            plain |= set(segment.layout.plain)
            transaction.replace_empty(staged)
        _plan_roll(staged, columns, want_rows, plain, heap)
        transaction.roll(staged, want_rows, plain, heap)
        return 0
    _store(staged, segment, row, count, columns, codes, encoded)
    return count


def _require_text(staged: Staged, column: int, values: list[Any]) -> None:
    for value in values:
        if value is not None and not isinstance(value, str):
            name = staged.log.schema.fields[column].name
            raise SchemaMismatch(
                f"column {name!r} is VARCHAR: {value!r} is not a string",
                column=name,
                value=value,
                expected="VARCHAR",
            )


def _codes_of(staged: Staged, column: int, values: list[Any]) -> list[int] | None:
    """Codes for str or None values, new ones pending; None if the dictionary is full and the column must go
    plain."""
    dictionary = staged.log.dictionaries[column]
    assert dictionary is not None
    known = dictionary.codes
    try:
        return list(map(known.__getitem__, values))
    except (KeyError, TypeError):
        _require_text(staged, column, values)
    pending = staged.pending.setdefault(column, {})
    fresh = {v for v in values if v not in known and v not in pending}
    length = sum(map(len, fresh))
    if dictionary.is_full(DICTIONARY_LIMIT, len(pending) + len(fresh), length) or not all(map(is_short, fresh)):
        return None
    for value in values:
        if value not in known and value not in pending:
            pending[value] = len(dictionary.values) + len(pending)
    return [known[v] if v in known else pending[v] for v in values]


def _plan_roll(staged: Staged, columns: list[list[Any]], want_rows: int, plain: set[int], heap: dict[int, int]) -> None:
    """Which VARCHAR columns must be plain from now on, and the heap bytes the waiting rows need, going by those of
    the columns."""
    already = () if staged.segment is None else staged.segment.layout.plain
    limits = staged.log.limits
    most_rows = MAX_SEGMENT_ROWS if limits is None else limits.segment_rows(staged.log.schema)
    for i, field in enumerate(staged.log.schema.fields):
        if not field.type.is_coded:
            continue
        dictionary = staged.log.dictionaries[i]
        if dictionary is None or i in already or dictionary.is_full(DICTIONARY_LIMIT - 1):
            plain.add(i)
        if i in plain:
            ends = PlainValues(columns[i][:most_rows]).ends
            guess = ends[-1] * min(want_rows, most_rows) // len(ends)
            heap[i] = max(ends[-1], min(guess, _GUESSED_HEAP_BYTES))


def _store(
    staged: Staged, segment: Segment, row: int, count: int, columns: list[list[Any]],
    codes: dict[int, list[int]], encoded: dict[int, PlainValues],
) -> None:  # fmt: skip
    memory, layout, schema = segment.memory, segment.layout, staged.log.schema
    event_time = staged.log.event_time
    staged.zeroed = None
    for i, column in enumerate(layout.columns):
        values = columns[i] if count == len(columns[i]) else columns[i][:count]
        position = column.value_position + row * column.width
        if column.plain:
            packed = encoded[i].store(memory, column.heap_position, segment.heap_end(i, row), count)
            nulls = null_flags(values) if encoded[i].has_none else b""
        else:
            stored = codes[i][:count] if column.coded else values
            packed, nulls = pack_nullable(column, stored, values, schema.fields[i].name)
        if column.nullable:
            memory[column.null_position + row : column.null_position + row + count] = nulls or bytes(count)
        elif nulls:
            raise SchemaMismatch(f"column {schema.fields[i].name!r} is NOT NULL", column=schema.fields[i].name)
        if i == event_time:
            times = [t for t in values if t is not None] if nulls else values
            if times:
                staged.note_range(min(times), max(times))
        memory[position : position + len(packed)] = packed
    position = layout.append_position + row * 8
    memory[position : position + count * 8] = struct.pack("<q", staged.state.append_us) * count
    staged.add(row, count)
