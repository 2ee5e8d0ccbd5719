"""Arrow IPC and Feather files, mapped into memory where the file system is local."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow as pa

from eventdb.external.locations import Location


def open_ipc(
    file: Location, compression: str | None, columns: Sequence[str] | None = None
) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    """The file's schema and a lazy stream of the chosen columns (None: none are read). ArrowInvalid."""
    compressed = compression is not None or file.path.lower().endswith((".gz", ".zst", ".bz2", ".lz4"))
    if compressed:
        return _stream(file.open_stream(compression), columns)
    source = pa.memory_map(file.path) if file.is_local else file.open_file()
    try:
        whole = pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        return _stream(source, columns)
    schema = whole.schema
    if columns is None:
        return schema, iter(())
    if columns and all(name in schema.names for name in columns):
        options = pa.ipc.IpcReadOptions(included_fields=[schema.get_field_index(name) for name in columns])
        whole = pa.ipc.open_file(source, options=options)
    return schema, (whole.get_batch(i) for i in range(whole.num_record_batches))


def _stream(source: Any, columns: Sequence[str] | None) -> tuple[pa.Schema, Iterator[pa.RecordBatch]]:
    opened = pa.ipc.open_stream(source)
    return opened.schema, iter(()) if columns is None else iter(opened)
