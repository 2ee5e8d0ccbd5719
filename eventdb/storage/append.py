"""The shortest way of one row to a commit: what WriteTransaction does for many rows, unrolled for one.

For each segment a function is generated that checks, packs and stores one row without loops. It applies when every
value has its place already: known dictionary values, room in the segment and in the journal file. Anything else is left
to WriteTransaction, which also owns every error message.

A table's row that takes the place of another one goes this way too (put.py): its mark is part of the record, and is
stored between the record and the head.
"""

from __future__ import annotations

import struct
from fcntl import LOCK_EX, LOCK_NB, LOCK_UN
from os import getpid
from zlib import crc32

from eventdb.config import MAX_PAYLOAD_BYTES
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
from eventdb.storage.head import MAX_AHEAD, pack_head
from eventdb.storage.put import NO_ROW, describe_mark, insert_row, superseded

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from eventdb.storage.commit import Writer
    from eventdb.storage.journal import Tail
    from eventdb.storage.log import PartitionLog
    from eventdb.storage.put import Mark
    from eventdb.storage.segment import ColumnLayout, Segment

_STATE_START = OP_PLACE.size + OP_ROWS.size
_STATE_STOP = _STATE_START + PARTITION.size
_HOLDER = slice(SHARED_HOLDER, SHARED_HOLDER + 4)
_WAITING = slice(SHARED_WAITING, SHARED_WAITING + 4)
_NOBODY = bytes(4)
_ZERO = bytes(8)
_EXCLUSIVE = LOCK_EX | LOCK_NB
_factories: dict[tuple[object, ...], Any] = {}
DECLINED = -1


def _generate(columns: tuple[tuple[str, bool, str], ...], event_time: int | None) -> Any:
    """bind(...) -> encode(row, i, log_start, low, high, now, flags), for columns of (struct code, nullable, kind). The
    kind is one of '' (fixed width), 'coded', 'text' and 'bytes' (plain), 'marks'.

    encode returns the chunk operation of the row, having stored it at row i; KeyError, ValueError, struct.error or
    TypeError (or AttributeError), having stored nothing, if the row needs the long way.
    """
    names = [f"v{i}" for i, (_, _, kind) in enumerate(columns) if kind != "marks"]
    body, stores = [f"({', '.join(names)},) = row"], []
    packed: list[list[str]] = [[]]  # arguments of one packing, the name of the bytes behind it, and so on
    arguments = []
    sizes = ["length" if not any(kind in ("text", "bytes") for _, _, kind in columns) else "fixed"]
    for i, (_, nullable, kind) in enumerate(columns):
        value = f"v{i}"
        if kind == "marks":
            arguments.append(f"s{i}")
            stores.append(f"s{i}[i] = 0")
            continue
        if kind in ("text", "bytes"):
            encoded = f"{value}.encode('utf-8', 'surrogatepass')" if kind == "text" else f"bytes({value})"
            body.append(f"b{i} = b'' if {value} is None else {encoded}")
            if not nullable:
                body.append(f"if {value} is None: raise ValueError")
            body.append(f"start{i} = s{i}[i - 1] if i else 0")
            body.append(f"x{i} = start{i} + len(b{i})")
            body.append(f"if x{i} > room{i}: raise ValueError")
            sizes.append(f"len(b{i})")
            arguments += [f"room{i}", f"heap{i}"]
            stores.append(f"memory[heap{i} + start{i} : heap{i} + x{i}] = b{i}")
        elif kind == "coded":
            body.append(f"x{i} = codes{i}[{value}]")
            arguments.append(f"codes{i}")
            if not nullable:
                body.append(f"if {value} is None: raise ValueError")
        elif nullable:
            body.append(f"x{i} = 0 if {value} is None else {value}")
        else:
            body.append(f"x{i} = {value}")
        arguments.append(f"s{i}")
        stores.append(f"s{i}[i] = x{i}")
        if nullable:
            packed[-1].append(f"p{i}")
            body.append(f"p{i} = {value} is None")
            arguments.append(f"n{i}")
            stores.append(f"n{i}[i] = p{i}")
        packed[-1].append(f"x{i}")
        if kind in ("text", "bytes"):
            packed += [[f"b{i}"], []]
    if event_time is not None:
        body.append(f"t = v{event_time}")
        body.append("if t is not None:")
        body.append("    if t < low: low = t")
        body.append("    if t > high: high = t")
    if len(sizes) > 1:
        body.append(f"length = {' + '.join(sizes)}")
        body.append(f"if length > {MAX_PAYLOAD_BYTES}: raise ValueError")
    head = f"{OP_CHUNK}, topic, partition, base, i, 1, log_start, base + i + 1, base, low, high, now, flags, length"
    packed[0].insert(0, head)
    packed[-1].append("now")
    parts = [f"pack{n}({', '.join(part)})" if n % 2 == 0 else part[0] for n, part in enumerate(packed)]
    body.append(f"data = {parts[0]}" if len(parts) == 1 else f"data = b''.join(({', '.join(parts)}))")
    packs = ", ".join(f"pack{n}" for n in range(0, len(packed), 2))
    source = [f"def bind({packs}, topic, partition, base, {sizes[0]}, times, memory, {', '.join(arguments)}):"]
    source.append("    def encode(row, i, log_start, low, high, now, flags):")
    source += [f"        {line}" for line in [*body, *stores, "times[i] = now", "return data, low, high"]]
    source.append("    return encode")
    scope: dict[str, Any] = {}
    exec("\n".join(source), scope)  # the text holds numbers and our own names only
    return scope["bind"]


def make_encoder(log: PartitionLog, segment: Segment) -> Any:
    """The encode function of a segment; None if it has too many columns."""
    layout = segment.layout
    if len(layout.columns) > 200 or layout.offsets >= 0:
        return None
    columns = tuple((c.struct_code, c.nullable, _kind(c)) for c in layout.columns)
    factory = _factories.get((columns, log.event_time))
    if factory is None:
        codes = ["".join(part.format.lstrip("<") for part in (OP_PLACE, OP_ROWS, PARTITION, U32))]
        for code, nullable, kind in columns:
            if kind != "marks":
                codes[-1] += ("B" if nullable else "") + code
            if kind in ("text", "bytes"):
                codes.append("")
        codes[-1] += "q"
        packers = [struct.Struct("<" + part) for part in codes]
        length = sum(packer.size for packer in packers) - _STATE_STOP - U32.size
        packs = [packer.pack for packer in packers]
        factory = _factories[(columns, log.event_time)] = (_generate(columns, log.event_time), packs, length)
    bind, packs, length = factory
    arguments: list[Any] = []
    for i, (column, (_, _, kind)) in enumerate(zip(layout.columns, columns, strict=True)):
        if column.plain:
            arguments += [column.heap_bytes, column.heap_position]
        elif kind == "coded":
            dictionary = log.dictionaries[i]
            assert dictionary is not None
            arguments.append(dictionary.codes)
        arguments.append(segment.value_views[i])
        if column.nullable:
            arguments.append(segment.null_views[i])
    return bind(
        *packs, log.topic_id, log.partition, segment.base, length, segment.value_views[-1], segment.memory, *arguments
    )


def _kind(column: ColumnLayout) -> str:
    if column.plain:
        return "text" if column.text else "bytes"
    return "marks" if column.marks else "coded" if column.coded else ""


def append_row(writer: Writer, log: PartitionLog, row: tuple[Any, ...], key: bytes | None = None) -> int:
    """The offset of the row, committed; DECLINED, nothing done, if it must take the long way. Errors: Writer.commit.

    With the `key` of a table's row (keys.py) it supersedes the row that has the key, or is the first that has it.
    """
    if writer.busy or getpid() != writer.pid or writer.shared[_WAITING] != _NOBODY:
        return DECLINED  # whoever finds the writer busy joins the group that commits next
    files = writer.files
    with writer.mutex:  # a `with` of a C object: Ctrl-C cannot come between taking it and the block
        if writer.busy or not writer.prepared or writer.closed:
            return DECLINED
        writer.busy = True
        try:
            try:
                files.flock(writer.lock_fd, _EXCLUSIVE)
            except OSError:
                return DECLINED
            return _store(writer, log, row, key)
        except BaseException:
            log.drop_writer_state()
            raise
        finally:
            writer.busy = False
            files.flock(writer.lock_fd, LOCK_UN)


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
            return insert_row(writer, log, row, key, max(now, state.append_us))
    if now < state.append_us:
        now = state.append_us
    try:
        data, low, high = encode(row, i, state.log_start, state.min_time, state.max_time, now, state.flags)
    except (KeyError, ValueError, TypeError, AttributeError, OverflowError, struct.error):
        return DECLINED
    if mark is not None:
        data += describe_mark(log, mark)
    after = position + ((RECORD_BYTES + len(data) + 7) & -8)
    if after + ROLL_BYTES > tail.size:
        return DECLINED
    _commit(writer, tail, log.key, data, after, mark)
    state.log_end += 1
    state.min_time = low
    state.max_time = high
    state.append_us = now
    return state.log_end - 1


def _commit(writer: Writer, tail: Tail, key: bytes, data: bytes, after: int, mark: Mark | None) -> None:
    """The row's operation is in the journal, up to the byte `after`, and the head says so."""
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
    writer.sequence = -1  # from here on, anything unexpected makes the next commit reload
    meta = META.pack(
        lsn, tail.epoch, tail.number, after, crc, 0, tail.size, durable, tail.checkpoint_sequence, tail.bulk_lsn
    )
    writer.ahead[key] = data[_STATE_START:_STATE_STOP]
    # Before the flush, while this code's memory is in the cache: behind it one store remains.
    sequence = writer.head.fill(pack_head(meta, writer.ahead))
    writer.write_record(b"".join((head, U32.pack(crc), data, _ZERO[: -(RECORD_BYTES + len(data)) % 8])), position)
    if mark is not None:
        view, row, by, _ = mark
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
