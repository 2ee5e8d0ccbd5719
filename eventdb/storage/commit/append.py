"""The shortest way of one row to a commit: what WriteTransaction does for many rows, unrolled for one.

For each segment a function is generated that checks, packs and stores one row without loops. It applies when every
value has its place already: known dictionary values, room in the segment and in the journal file. Anything else is left
to WriteTransaction, which also owns every error message.

A table's row that takes the place of another one goes this way too (put.py): its mark is part of the record, and is
stored between the record and the head. Rows of several threads go it together (together.py).
"""

from __future__ import annotations

import struct
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN
from os import getpid
from zlib import crc32

from eventdb.config import MAX_PAYLOAD_BYTES
from eventdb.storage.commit.put import NO_ROW, describe_mark, insert_row, superseded
from eventdb.storage.format import (
    COMMIT_RECORD,
    META,
    OP_CHUNK,
    OP_PLACE,
    OP_ROWS,
    PARTITION,
    RECORD_BYTES,
    RECORD_HEAD,
    RECORD_MAGIC,
    ROLL_BYTES,
    SHARED_HOLDER,
    SHARED_POISON,
    SHARED_WAITING,
    U32,
)
from eventdb.storage.index.head import MAX_AHEAD, pack_head

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from eventdb.storage.commit.commit import Writer
    from eventdb.storage.commit.journal import Tail
    from eventdb.storage.commit.put import Mark
    from eventdb.storage.segment.layout import ColumnLayout
    from eventdb.storage.segment.log import PartitionLog
    from eventdb.storage.segment.segment import Segment

_STATE_START = OP_PLACE.size + OP_ROWS.size
_STATE_STOP = _STATE_START + PARTITION.size
STATE = slice(_STATE_START, _STATE_STOP)  # of an encoded row: the PARTITION value it leads to
_HOLDER = slice(SHARED_HOLDER, SHARED_HOLDER + 4)
_WAITING = slice(SHARED_WAITING, SHARED_WAITING + 4)
_NOBODY = bytes(4)
_ZERO = bytes(8)
_EXCLUSIVE = LOCK_EX | LOCK_NB
_HEADS = (OP_PLACE, OP_ROWS, PARTITION, U32)
_HEAD = f"{OP_CHUNK}, topic, partition, base, i, 1, log_start, base + i + 1, base, low, high, now, flags, length"
UNFIT = (KeyError, ValueError, TypeError, AttributeError, OverflowError, struct.error)
_factories: dict[tuple[object, ...], Any] = {}
DECLINED = -1


def _generate(columns: tuple[ColumnLayout, ...], event_time: int | None) -> Any:
    """make(segment, topic, partition, codes) -> encode(row, i, log_start, low, high, now, flags), for such columns.

    encode returns the chunk operation of the row, having stored it at row i; one of UNFIT, having stored nothing, if
    the row needs the long way.
    """
    body = [f"({' '.join(f'v{i},' for i, column in enumerate(columns) if not column.marks)}) = row"]
    given: list[str] = []  # what the function knows of the segment: a name = an expression
    stores: list[str] = []
    # The operation: fixed parts, each packed at once, and between them the heap bytes of plain columns.
    parts: list[tuple[list[str], list[str]]] = [(["<", *(p.format.lstrip("<") for p in _HEADS)], [_HEAD])]
    length = ["0"]
    joined = []
    for i, column in enumerate(columns):
        given.append(f"s{i} = segment.value_views[{i}]")
        if column.marks:  # the row is the current one of its key
            stores.append(f"s{i}[i] = 0")
            continue
        if not column.nullable:
            body.append(f"if v{i} is None: raise ValueError")
        if column.nullable:
            given.append(f"n{i} = segment.null_views[{i}]")
            body.append(f"p{i} = v{i} is None")
            stores.append(f"n{i}[i] = p{i}")
            parts[-1][0].append("B")
            parts[-1][1].append(f"p{i}")
        if column.plain:
            given.append(f"h{i} = segment.layout.columns[{i}].heap_position")
            given.append(f"room{i} = segment.layout.columns[{i}].heap_bytes")
            spelled = f'v{i}.encode("utf-8", "surrogatepass")' if column.text else f"bytes(v{i})"
            body.append(f'b{i} = b"" if v{i} is None else {spelled}')
            body.append(f"a{i} = s{i}[i - 1] if i else 0")
            body.append(f"x{i} = a{i} + len(b{i})")
            body.append(f"if x{i} > room{i}: raise ValueError")
            stores.append(f"memory[h{i} + a{i} : h{i} + x{i}] = b{i}")
            length.append(f"len(b{i})")
        elif column.coded:
            given.append(f"codes{i} = codes[{i}]")
            body.append(f"x{i} = codes{i}[v{i}]")
        else:
            body.append(f"x{i} = 0 if v{i} is None else v{i}" if column.nullable else f"x{i} = v{i}")
        stores.append(f"s{i}[i] = x{i}")
        parts[-1][0].append(column.struct_code)
        parts[-1][1].append(f"x{i}")
        if column.plain:
            joined.append(f"b{i}")
            parts.append((["<"], []))
    parts[-1][0].append("q")
    parts[-1][1].append("now")
    structs = [struct.Struct("".join(formats)) for formats, _ in parts]
    length[0] = str(sum(one.size for one in structs) - _STATE_STOP - U32.size)
    if event_time is not None:
        body += [f"t = v{event_time}", "if t is not None:", "    if t < low: low = t", "    if t > high: high = t"]
    body.append(f"length = {' + '.join(length)}")
    if joined:
        body.append(f"if length > {MAX_PAYLOAD_BYTES}: raise ValueError")
    packed = [f"pack{k}({', '.join(names)})" for k, (_, names) in enumerate(parts)]
    data = ", ".join(f"{part}, {heap}" for part, heap in zip(packed, joined, strict=False))
    body.append(f'data = b"".join(({data}, {packed[-1]}))' if joined else f"data = {packed[0]}")
    lines = ["def make(segment, topic, partition, codes):"]
    lines += [
        f"    {line}" for line in ("base, memory = segment.base, segment.memory", "times = segment.value_views[-1]")
    ]
    lines += [f"    {line}" for line in given]
    lines.append("    def encode(row, i, log_start, low, high, now, flags):")
    lines += [f"        {line}" for line in (*body, *stores, "times[i] = now", "return data, low, high")]
    lines.append("    return encode")
    scope: dict[str, Any] = {f"pack{k}": one.pack for k, one in enumerate(structs)}
    exec("\n".join(lines), scope)  # the text holds numbers and our own names only
    return scope["make"]


def make_encoder(log: PartitionLog, segment: Segment) -> Any:
    """The encode function of a segment; None if it has too many columns."""
    layout = segment.layout
    if layout.offsets >= 0 or len(layout.columns) > 200:
        return None
    kinds = tuple((c.struct_code, c.nullable, c.coded, c.plain, c.text, c.marks) for c in layout.columns)
    make = _factories.get((kinds, log.event_time))
    if make is None:
        make = _factories[(kinds, log.event_time)] = _generate(layout.columns, log.event_time)
    codes = [None if dictionary is None else dictionary.codes for dictionary in log.dictionaries]
    return make(segment, log.topic_id, log.partition, codes)


def append_row(writer: Writer, log: PartitionLog, row: tuple[Any, ...], key: bytes | None = None) -> int:
    """The offset of the row, committed; DECLINED, nothing done, if it must take the long way. Errors: Writer.commit.

    With the `key` of a table's row (keys.py) it supersedes the row that has the key, or is the first that has it.
    """
    if writer.busy or getpid() != writer.pid or writer.shared[_WAITING] != _NOBODY:
        return DECLINED  # whoever finds the writer busy joins the group that commits next
    with writer.mutex:  # a `with` of a C object: Ctrl-C cannot come between taking it and the block
        if writer.busy or not writer.prepared or writer.closed:
            return DECLINED
        writer.busy = True
        try:
            try:
                writer.flock(writer.lock_fd, _EXCLUSIVE)
            except OSError:
                return DECLINED
            return _store(writer, log, row, key)
        except BaseException:
            log.drop_writer_state()
            raise
        finally:
            writer.busy = False
            writer.flock(writer.lock_fd, LOCK_UN)


def _store(writer: Writer, log: PartitionLog, row: tuple[Any, ...], key: bytes | None) -> int:
    """append_row() with the lock held."""
    shared = writer.shared
    now = writer.clock.time_us()
    if shared[SHARED_POISON] or now >= writer.look_us or now < writer.look_us - 1_000_000:
        return DECLINED
    shared[_HOLDER] = writer.pid_bytes
    tail = writer.tail
    file = writer.journal.file
    state = log.state
    encode = log.encoder
    position = tail.position
    if (
        writer.head.sequence() != writer.sequence
        or encode is None
        or log.generation != writer.generation
        or file is None
        or file.mapping[position : position + 8] != _ZERO
        or (tail.bulk_lsn and writer.synced)
        or log.touched != (tail.checkpoint_sequence, state.base)
    ):
        return DECLINED
    i = state.log_end - state.base
    if i >= log.capacity or (len(writer.ahead) >= MAX_AHEAD and log.key not in writer.ahead):
        return DECLINED
    mark: Mark | None = None
    if key is not None:
        mark = superseded(writer, log, key)
        if mark is None:
            return DECLINED
        if mark is NO_ROW:
            return insert_row(writer, log, row, key, writer.commit_time_us())
    newest = writer.newest_us
    if now <= newest[0]:
        now = newest[0] + 1
    try:
        data, low, high = encode(row, i, state.log_start, state.min_time, state.max_time, now, state.flags)
    except UNFIT:
        return DECLINED
    if mark is not None:
        data += describe_mark(log, mark)
    after = position + ((RECORD_BYTES + len(data) + 7) & -8)
    if after + ROLL_BYTES > tail.size:
        return DECLINED
    newest[0] = now
    writer.sequence = -1  # from here on, anything unexpected makes the next commit reload
    writer.ahead[log.key] = data[STATE]
    commit_record(writer, tail, data, after, () if mark is None else (mark,))
    state.log_end += 1
    state.min_time = low
    state.max_time = high
    state.append_us = now
    return state.log_end - 1


def commit_record(writer: Writer, tail: Tail, data: bytes, after: int, marks: Sequence[Mark]) -> None:
    """The operations `data` are in the journal, up to the byte `after`, and the head says so. Lock held.

    The writer's `ahead` says already where they lead, and its `sequence` that it is not yet so.
    """
    position = tail.position
    seed = writer.journal.seed
    lsn = tail.lsn + 1
    durable = tail.durable_lsn
    if writer.flushed_lsn > durable:
        durable = min(writer.flushed_lsn, tail.flushed())
    head = RECORD_HEAD.pack(
        RECORD_MAGIC, COMMIT_RECORD, 0, 0, tail.epoch, tail.number, position, lsn, durable, tail.chain, len(data),
        crc32(data, seed),
    )  # fmt: skip
    crc = crc32(head, seed)
    if writer.synced:
        durable = lsn
    meta = META.pack(
        lsn, tail.epoch, tail.number, after, crc, 0, tail.size, durable, tail.checkpoint_sequence, tail.bulk_lsn
    )
    # Before the flush, while this code's memory is in the cache: behind it one store remains.
    sequence = writer.head.fill(pack_head(meta, writer.ahead))
    writer.write_record(b"".join((head, U32.pack(crc), data, _ZERO[: -(RECORD_BYTES + len(data)) % 8])), position)
    for view, row, by, _ in marks:
        view[row] = by
    writer.head.move(sequence)
    tail.lsn = writer.own_lsn = lsn
    tail.position = after
    tail.chain = crc
    tail.durable_lsn = durable
    writer.sequence = sequence
    if writer.synced:
        writer.flushed_lsn = lsn
    writer.commits += 1
    writer.journal_bytes += after - position
    writer.bytes_appended += after - position
