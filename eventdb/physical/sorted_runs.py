"""SortedRuns: rows sorted piece by piece, written to disk, and merged.

Runs are stretches of the input, so equal rows of an earlier run come first and the merge is stable. The merge holds a
block of each run. Of all rows held, those up to the least last row of a block are next: no row still on disk comes
before them. They are sorted together, which costs no comparison in Python and works for strings of any dictionary.
Where there are more runs than blocks fit in memory, neighbours are merged into longer runs first.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from eventdb.batch import Array, Column, Dictionary, RecordBatch
from eventdb.physical.spill import SpilledBatch, SpillFile

Keys = Callable[[RecordBatch], list[Column]]
Order = Callable[[Sequence[Column], int], Array]


class _Run:
    """The rows of a run that are not given out yet: `held`, then those on disk."""

    def __init__(self, blocks: Sequence[SpilledBatch]) -> None:
        self.blocks = deque(blocks)
        self.held: RecordBatch | None = None

    def fill(self, file: SpillFile) -> bool:
        """Whether it has rows; some are held then."""
        if self.held is None and self.blocks:
            self.held = file.read(self.blocks.popleft())
        return self.held is not None

    def drop(self, count: int) -> None:
        assert self.held is not None
        self.held = None if count == self.held.row_count else self.held.slice(count, self.held.row_count)


class SortedRuns:
    """Sorted runs in one temporary file. `keys` evaluates the sort keys of rows, `order` sorts them."""

    def __init__(self, folder: str, keys: Keys, order: Order) -> None:
        self._file = SpillFile(folder)
        self._keys, self._order = keys, order
        self._runs: list[_Run] = []
        self._shared: list[Dictionary] = []
        self._row_count = self.block_rows = self.block_bytes = 0  # of the largest block

    @property
    def run_count(self) -> int:
        return len(self._runs)

    @property
    def size_bytes(self) -> int:
        return self._file.size_bytes

    @property
    def row_bytes(self) -> int:
        """What a row takes on disk, strings with it; 0 as long as there is none."""
        return self.size_bytes // max(1, self._row_count)

    def close(self) -> None:
        self._file.close()

    def add(self, batches: Sequence[RecordBatch], block_rows: int) -> None:
        """The rows, which follow all those before in the input, become a run of blocks of so many rows."""
        batch = RecordBatch.concat(batches)
        if len(batches) > 1:  # a dictionary that several batches use is one of a topic
            one = [c.dictionary for c in batches[0].columns]
            same = [d for d, c in zip(one, batch.columns, strict=True) if d is not None and d is c.dictionary]
            self._shared += [d for d in same if not any(d is known for known in self._shared)]
        rows = self._order(self._keys(batch), batch.row_count)
        pieces = (batch.take(rows[start : start + block_rows]) for start in range(0, batch.row_count, block_rows))
        self._runs.append(_Run([self._write(piece) for piece in pieces]))
        self._row_count += batch.row_count

    def _write(self, block: RecordBatch) -> SpilledBatch:
        before = self.size_bytes
        spilled = self._file.write(block, self._shared)
        self.block_rows = max(self.block_rows, block.row_count)
        self.block_bytes = max(self.block_bytes, self.size_bytes - before)
        return spilled

    def merged(self, width: int, check: Callable[[], None]) -> Iterator[RecordBatch]:
        """All rows in order, from the blocks of `width` runs at a time (at least 2). `check` is called in between; it
        may raise."""
        while len(self._runs) > width:
            starts = range(0, len(self._runs), width)
            self._runs = [_Run(self._rewritten(self._runs[start : start + width], check)) for start in starts]
        yield from self._merged(self._runs, check)

    def _rewritten(self, runs: list[_Run], check: Callable[[], None]) -> list[SpilledBatch]:
        """The blocks of the one run that some runs become."""
        if len(runs) == 1:
            return list(runs[0].blocks)
        blocks: list[SpilledBatch] = []
        kept: list[RecordBatch] = []
        kept_rows, most = 0, self.block_rows
        for batch in self._merged(runs, check):
            kept.append(batch)
            kept_rows += batch.row_count
            if kept_rows >= most:
                whole = RecordBatch.concat(kept)
                stop = kept_rows - kept_rows % most
                blocks += [self._write(whole.slice(start, start + most)) for start in range(0, stop, most)]
                kept, kept_rows = [whole.slice(stop, kept_rows)], kept_rows - stop
        if kept_rows:
            blocks.append(self._write(RecordBatch.concat(kept)))
        return blocks

    def _merged(self, all_runs: list[_Run], check: Callable[[], None]) -> Iterator[RecordBatch]:
        while True:
            check()
            runs = [run for run in all_runs if run.fill(self._file)]
            if not runs:
                return
            if len(runs) == 1:
                only = runs[0].held
                assert only is not None
                runs[0].held = None
                yield only
                continue
            yield self._next(runs)

    def _next(self, runs: list[_Run]) -> RecordBatch:
        """The next rows of the runs, which are dropped from them."""
        runs = self._near(runs)
        held = [run.held for run in runs if run.held is not None]
        whole = RecordBatch.concat(held)
        order = self._order(self._keys(whole), whole.row_count)
        ends = np.cumsum([batch.row_count for batch in held])
        unread = [int(end) - 1 for end, run in zip(ends, runs, strict=True) if run.blocks]
        count = whole.row_count
        if unread:
            place = np.empty(count, dtype=np.int64)
            place[order] = np.arange(count)
            count = int(place[unread].min()) + 1
        chosen = order[:count]
        for run, number in zip(
            runs, np.bincount(np.searchsorted(ends, chosen, "right"), minlength=len(runs)), strict=True
        ):
            if number:
                run.drop(int(number))
        return whole.take(chosen)

    def _near(self, runs: list[_Run]) -> list[_Run]:
        """The runs whose first row comes before the least last row of a block: others have nothing to add yet."""
        edges = []
        for run in runs:
            assert run.held is not None
            edges += [run.held.slice(0, 1), run.held.slice(run.held.row_count - 1, run.held.row_count)]
        batch = RecordBatch.concat(edges)
        order = self._order(self._keys(batch), batch.row_count)
        place = np.empty(len(order), dtype=np.int64)
        place[order] = np.arange(len(order))
        unread = [int(place[2 * i + 1]) for i, run in enumerate(runs) if run.blocks]
        if not unread:
            return runs
        return [run for i, run in enumerate(runs) if place[2 * i] <= min(unread)]
