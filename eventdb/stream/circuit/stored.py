"""The state of a circuit in the store: positions, and the pieces of each part (part.py).

::

    "v" view id (8 bytes, big-endian) "q"                                 progress: the positions, what the pieces hold
    "v" view id "c" part (2 bytes) number (8 bytes, both big-endian)      a piece of the part

They change together, in one commit that is not journaled: all of it can be computed again from the inputs. Pieces with
what changed are added until they are as large as all there is; then that is written in their place. So writing costs no
more than twice what changes, reading no more than twice what there is.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from hashlib import sha256

from eventdb.errors import CorruptionError
from eventdb.logical.plan import Plan, Scan, explain_lines
from eventdb.physical.state_bytes import decode, encode
from eventdb.stream.circuit.closed_rows import NO_OUTPUT, Output
from eventdb.stream.circuit.part import Part
from eventdb.stream.state import Reading, Writing, view_prefix

STATE_VERSION = 4
LEAST_BYTES = 1 << 16  # pieces are left alone until there are so many bytes of them
_PIECE = struct.Struct(">HQ")


@dataclass(frozen=True, slots=True)
class Progress:
    """`positions`: per input, per partition, the offset of the next row to take in; -1 before the first. `next_piece`
    is the number of the next piece; `added_bytes` are in pieces of changes, `whole_bytes` in those they are added to.
    `output` is what there is of the rows of windows that have closed.
    """

    positions: tuple[tuple[int, ...], ...]
    next_piece: int = 0
    added_bytes: int = 0
    whole_bytes: int = 0
    output: Output = NO_OUTPUT


def fingerprint(plan: Plan, *settings: str) -> bytes:
    """Of what the pieces mean: another plan has other parts, and another topic of the same name other rows."""
    read = [str(scan.topic_id) for scan in scans(plan)]
    return sha256("\n".join((str(STATE_VERSION), *settings, *read, *explain_lines(plan))).encode()).digest()


def scans(plan: Plan) -> Iterator[Scan]:
    if isinstance(plan, Scan):
        yield plan
    for child in plan.children:
        yield from scans(child)


class CircuitKeys:
    """The keys of one view and what is read and written under them."""

    def __init__(self, view_id: int, mark: bytes) -> None:
        """`mark`: the fingerprint of its plan. State with another one is as good as none."""
        prefix = view_prefix(view_id)
        self._progress = prefix + b"q"
        self._pieces = prefix + b"c"
        self._mark = mark

    def progress(self, store: Reading) -> Progress | None:
        """None if there is no state of this plan."""
        data = store.get(self._progress)
        if data is None:
            return None
        try:
            mark, *rest = decode(data)
            if mark != self._mark:
                return None
            positions, next_piece, added_bytes, whole_bytes, output = rest
            return Progress(positions, next_piece, added_bytes, whole_bytes, Output(*output))
        except (ValueError, TypeError) as error:
            raise CorruptionError("a view's progress record does not decode") from error

    def load(self, store: Reading, parts: Sequence[Part]) -> None:
        """Restores the parts from their pieces."""
        for i, part in enumerate(parts):
            for _, data in store.range(self._pieces + _PIECE.pack(i, 0)[:2]):
                part.restore(bytes(data))

    def save(
        self, store: Writing, base: Progress | None, parts: Sequence[Part], positions: tuple[tuple[int, ...], ...],
        output: Output = NO_OUTPUT, *, anew: bool,
    ) -> Progress:  # fmt: skip
        """Adds what changed since `base`, or writes all there is; returns the new progress. `anew`: the parts do not go
        on from what is stored."""
        pieces = [part.delta() for part in parts]
        added = sum(len(piece) for piece in pieces if piece is not None)
        if base is not None and not anew and base.added_bytes + added <= max(base.whole_bytes, LEAST_BYTES):
            progress = Progress(positions, base.next_piece + 1, base.added_bytes + added, base.whole_bytes, output)
        else:
            self._clear(store)
            pieces = [part.whole() for part in parts]
            whole = sum(len(piece) for piece in pieces if piece is not None)
            progress = Progress(positions, 0 if base is None else base.next_piece + 1, 0, whole, output)
        for i, piece in enumerate(pieces):
            if piece is not None:
                store.put(self._pieces + _PIECE.pack(i, progress.next_piece), piece)
        store.put(
            self._progress,
            encode(
                (
                    self._mark,
                    positions,
                    progress.next_piece,
                    progress.added_bytes,
                    progress.whole_bytes,
                    astuple(output),
                )
            ),
        )
        return progress

    def _clear(self, store: Writing) -> None:
        for key in [bytes(key) for key, _ in store.range(self._pieces)]:
            store.delete(key)

    def reset(self, store: Writing) -> None:
        """The view has computed nothing yet."""
        self._clear(store)
        store.delete(self._progress)
