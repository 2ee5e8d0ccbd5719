"""Verification: what a snapshot refers to is there and makes sense."""

from __future__ import annotations

import time

from eventdb.errors import EventDBError
from eventdb.storage.care.rows import row_problems
from eventdb.storage.commit.checkpoint import CheckpointFile
from eventdb.storage.format import NO_SEGMENT, PARTITION_KEY, SEGMENT_KEY, partition_key, table_key
from eventdb.storage.index.entries import damaged_blocks
from eventdb.storage.index.kv import scan
from eventdb.storage.sealed.sealed import SealedLayout, is_sealed, open_sealed
from eventdb.storage.segment.gap import GAP
from eventdb.storage.segment.layout import SegmentLayout
from eventdb.storage.segment.log import PartitionState
from eventdb.storage.segment.segment import Segment, open_segment
from eventdb.storage.tables.check_table import check_table

_SETTLE_S = 0.2  # a checkpoint that is being written is whole by then

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from eventdb.storage.device.files import Files
    from eventdb.storage.snapshot import StoreSnapshot


def check_store(files: Files, path: str, uuid: bytes, snapshot: StoreSnapshot, *, deep: bool) -> list[str]:
    """Problems, one sentence each."""
    problems: list[str] = []
    txn = snapshot.transaction()
    try:
        slots = CheckpointFile(files, f"{path}/index", write=False)
        try:
            if slots.newest() is None:
                problems.append("index/checkpoint: no slot verifies")
            elif slots.has_damage():
                time.sleep(_SETTLE_S)
                if slots.has_damage():
                    problems.append("index/checkpoint: a slot does not verify; close the database and run repair")
        finally:
            slots.close()
    except (OSError, EventDBError) as error:
        problems.append(f"index/checkpoint: {error}")
    for key, _ in scan(txn, b"p"):
        _, topic_id, partition = PARTITION_KEY.unpack(key)
        value = snapshot.partition(key) or b""
        problems += _check_partition(files, path, uuid, txn, topic_id, partition, PartitionState().unpack(value), deep)
    for key, _ in scan(txn, b"s"):
        _, topic_id, partition, base = SEGMENT_KEY.unpack(key)
        if txn.get(partition_key(topic_id, partition)) is None:
            problems.append(f"topic {topic_id}/{partition}: segment {base} belongs to no partition")
    return problems


def _check_partition(
    files: Files, path: str, uuid: bytes, txn: Any, topic_id: int, partition: int, state: PartitionState, deep: bool
) -> list[str]:  # fmt: skip
    where = f"topic {topic_id}/{partition}"
    problems = []
    bases = []
    segments: list[tuple[Segment, int]] = []
    prefix = SEGMENT_KEY.pack(b"s", topic_id, partition, 0)[:-8]
    entries = list(scan(txn, prefix))
    for i, (key, value) in enumerate(entries):
        base = SEGMENT_KEY.unpack(key)[3]
        bases.append(base)
        end = SEGMENT_KEY.unpack(entries[i + 1][0])[3] if i + 1 < len(entries) else state.log_end
        if value == GAP:
            continue
        try:
            if is_sealed(value):
                problems += [f"{where}: segment {base}: {t}" for t in _check_sealed(
                    files, path, uuid, topic_id, partition, base, SealedLayout.unpack(value), end - base, deep
                )]  # fmt: skip
                continue
            layout = SegmentLayout.unpack(value)
            rows = layout.capacity if layout.offsets >= 0 else end - base
            if layout.marks >= 0 and base != state.base:
                rows = min(rows, layout.capacity)  # what follows it may have been compacted away
            if not 0 <= rows <= layout.capacity:
                problems.append(
                    f"{where}: segment {base} should hold {end - base} rows but has room for {layout.capacity}"
                )
                continue
            segment = open_segment(files, path, uuid, topic_id, partition, base, layout, write=False)
            found = row_problems(txn, (topic_id, partition, base), segment, rows, deep=deep)
            problems += [f"{where}: segment {base}: {text}" for text in found]
            segments.append((segment, rows))
        except EventDBError as error:
            problems.append(f"{where}: {error}")
    if state.base != NO_SEGMENT and (not bases or bases[-1] != state.base):
        problems.append(f"{where}: the active segment {state.base} is not the last one of {bases[-3:]}")
    table = txn.get(table_key(topic_id, partition)) is not None
    if state.log_start < state.log_end and not bases and not table:
        problems.append(f"{where}: no segment holds offsets {state.log_start}..{state.log_end}")
    if not state.log_start <= state.log_end or (bases and bases[0] > state.log_start and not table):
        problems.append(f"{where}: offsets {state.log_start}..{state.log_end} do not fit the first segment {bases[:1]}")
    if deep and table and len(segments) == len(bases):
        problems += [f"{where}: {text}" for text in check_table(txn, topic_id, partition, state.log_end, segments)]
    return problems


def _check_sealed(
    files: Files, path: str, uuid: bytes, topic_id: int, partition: int, base: int, layout: SealedLayout, rows: int,
    deep: bool,
) -> list[str]:  # fmt: skip
    """A deep check reads and verifies every block; the file and its directory are verified in any case."""
    if layout.rows < rows:  # more are what a restore to an earlier end has cut off
        return [f"it should hold {rows} rows but holds {layout.rows}"]
    segment = open_sealed(files, path, uuid, topic_id, partition, base, layout)
    return damaged_blocks(segment) if deep else []
