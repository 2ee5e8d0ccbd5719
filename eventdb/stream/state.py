"""A view's state in the store: which keys, which bytes.

::

    "v" view id (8 bytes, big-endian) "p"                      progress: how far the view has been maintained
    "v" view id "g" group number (8 bytes, big-endian)         one group: the bytes GroupedState.dump gave
    "v" view id "s"                                            start: the first offset the view takes into account
    "v" view id "w"                                            it has written to its sink (sink.py)
    "v" view id "d"                                            the view was dropped; nothing may be written any more
    "v" view id "q", "c" ...                                   of a circuit: circuit/stored.py

Progress and groups change together, in one commit that is not journaled: they can be computed again from the topic. The
commit of a view with a sink is: rows in its sink cannot be taken back.
Start and drop marks are decisions of a user, so their commits are journaled. Ids are never reused, so a drop mark is
final: a maintainer of another process that has not heard of the drop yet finds it and writes nothing.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from eventdb.errors import CorruptionError, FormatTooNew
from eventdb.stream.watermark import LOWEST_US

STATE_VERSION = 1
#                 version, input offset, watermark, late rows, output end, next group number
_PROGRESS = struct.Struct("<Hqqqqq")
_NUMBER = struct.Struct(">Q")
_OFFSET = struct.Struct("<q")


class Reading(Protocol):
    """A snapshot or a write transaction."""

    def get(self, key: bytes) -> bytes | None: ...
    def range(self, prefix: bytes) -> Iterator[tuple[bytes, bytes]]: ...


class Writing(Reading, Protocol):
    def put(self, key: bytes, value: bytes) -> None: ...
    def delete(self, key: bytes) -> None: ...


@dataclass(frozen=True, slots=True)
class Progress:
    """All rows below `input_offset` are in the state; the output log holds `output_end` rows because of them.

    `watermark_us` is LOWEST_US before the first row. `next_number` is the number the next new group gets.
    """

    input_offset: int
    watermark_us: int = LOWEST_US
    late_row_count: int = 0
    output_end: int = 0
    next_number: int = 0

    def encode(self) -> bytes:
        return _PROGRESS.pack(
            STATE_VERSION,
            self.input_offset,
            self.watermark_us,
            self.late_row_count,
            self.output_end,
            self.next_number,
        )

    @staticmethod
    def decode(data: bytes) -> Progress:
        """FormatTooNew for a later version's record, CorruptionError for anything else that is not one."""
        if len(data) >= 2 and struct.unpack_from("<H", data)[0] > STATE_VERSION:
            raise FormatTooNew("a view's state was written by a newer EventDB: upgrade, or create the view again")
        if len(data) != _PROGRESS.size:
            raise CorruptionError(f"a view's progress record has {len(data)} bytes, expected {_PROGRESS.size}")
        return Progress(*_PROGRESS.unpack(data)[1:])


def view_prefix(view_id: int) -> bytes:
    """What all keys of a view begin with."""
    return b"v" + _NUMBER.pack(view_id)


class StateKeys:
    """The keys of one view and what is read and written under them."""

    __slots__ = ("_dropped", "_groups", "_prefix", "_progress", "_start", "_written")

    def __init__(self, view_id: int) -> None:
        self._prefix = view_prefix(view_id)
        self._progress = self._prefix + b"p"
        self._start = self._prefix + b"s"
        self._dropped = self._prefix + b"d"
        self._groups = self._prefix + b"g"
        self._written = self._prefix + b"w"

    def start(self, store: Reading) -> int:
        """The first offset the view takes into account; 0 unless set."""
        data = store.get(self._start)
        return 0 if data is None else int(_OFFSET.unpack(data)[0])

    def has_begun(self, store: Reading) -> bool:
        """Whether the view's start or any progress is stored."""
        return store.get(self._start) is not None or store.get(self._progress) is not None

    def set_start(self, store: Writing, offset: int) -> None:
        store.put(self._start, _OFFSET.pack(offset))

    def progress(self, store: Reading) -> Progress:
        """The stored progress; before the first commit, that of an empty state at the view's start."""
        data = store.get(self._progress)
        return Progress(self.start(store)) if data is None else Progress.decode(data)

    def has_progress(self, store: Reading) -> bool:
        """Whether any progress is stored."""
        return store.get(self._progress) is not None

    def has_written(self, store: Reading) -> bool:
        """Whether rows were written to the view's sink."""
        return store.get(self._written) is not None

    def note_written(self, store: Writing) -> None:
        if not self.has_written(store):
            store.put(self._written, b"")

    def set_progress(self, store: Writing, progress: Progress) -> None:
        store.put(self._progress, progress.encode())

    def groups(self, store: Reading) -> Iterator[tuple[int, bytes]]:
        """(number, bytes) of every group, by number."""
        skipped = len(self._groups)
        for key, value in store.range(self._groups):
            yield _NUMBER.unpack(bytes(key[skipped:]))[0], bytes(value)

    def put_group(self, store: Writing, number: int, data: bytes) -> None:
        store.put(self._groups + _NUMBER.pack(number), data)

    def delete_group(self, store: Writing, number: int) -> None:
        store.delete(self._groups + _NUMBER.pack(number))

    def reset(self, store: Writing, end: int) -> None:
        """The view has computed nothing yet, of a topic that ends at `end` now."""
        for key in [self._progress, *(bytes(key) for key, _ in store.range(self._groups))]:
            store.delete(key)
        if self.start(store) > end:
            self.set_start(store, end)

    def is_dropped(self, store: Reading) -> bool:
        return store.get(self._dropped) is not None

    def is_left(self, store: Reading) -> bool:
        """Whether anything is stored of the view but the mark that it was dropped."""
        return any(bytes(key) != self._dropped for key, _ in store.range(self._prefix))

    def drop(self, store: Writing) -> None:
        """Deletes the view's state and marks it as dropped."""
        for key in [bytes(key) for key, _ in store.range(self._prefix)]:
            store.delete(key)
        store.put(self._dropped, b"")
