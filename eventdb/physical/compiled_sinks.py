"""Where the rows of a compiled aggregation go: one group, a directly addressed array, or a hash table.

A sink writes its lines into the pipeline, makes a state for each thread, and turns the merged states into one batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import numpy as np

from eventdb.batch import Array, Column
from eventdb.logical.expressions import Aggregation, Expression
from eventdb.physical.codegen import PipelineText
from eventdb.physical.codegen_aggregate import AggregateCells
from eventdb.physical.codegen_expression import ExpressionWriter
from eventdb.physical.codegen_group import (
    MAX_DIRECT_SLOTS,
    HashLayout,
    Key,
    combine_numbers,
    digit_order,
    plan_key,
    slot_count,
    split_number,
    write_hash_lookup,
    write_hash_words,
    write_number,
)
from eventdb.physical.compiled_input import ScanInput

_FIRST_GROUPS = 4_096
_SLOTS_PER_ROW = 4


@dataclass(slots=True)
class Groups:
    """Merged groups: key columns and the cells of each, as (groups, width) arrays."""

    keys: list[Column]
    integers: Array
    floats: Array


class CellState:
    """The cells of one thread."""

    def __init__(self, groups: int, cells: AggregateCells) -> None:
        self.cells = cells
        widths = cells.widths
        # Zeros come from the system untouched: without least and greatest values unused groups cost nothing.
        self.integers = np.zeros(groups * widths[0], dtype=np.int64)
        self.floats = np.zeros(groups * widths[1], dtype=np.float64)
        cells.fill(self.integers, self.floats)

    @property
    def nbytes(self) -> int:
        return int(self.integers.nbytes + self.floats.nbytes)

    @property
    def float_bits(self) -> Array:
        return self.floats.view(np.int64)


class HashState(CellState):
    """The groups of one thread: cells, key words, hashes and the table that finds them."""

    def __init__(self, cells: AggregateCells, words: int, limit: int = _FIRST_GROUPS) -> None:
        super().__init__(limit, cells)
        self.words = words
        self.keys = np.zeros(limit * words, dtype=np.int64)
        self.hashes = np.zeros(limit, dtype=np.int64)
        self.table = np.full(2 * limit, -1, dtype=np.int32)
        self.control = np.array([0, limit, 0], dtype=np.int64)  # groups, limit, first row of the next call

    @property
    def count(self) -> int:
        return int(self.control[0])

    @property
    def nbytes(self) -> int:
        return int(
            self.integers.nbytes + self.floats.nbytes + self.keys.nbytes + self.hashes.nbytes + self.table.nbytes
        )

    def grow(self, least: int) -> None:
        """Makes room for at least `least` groups (a power of two of them)."""
        from eventdb.kernels.hashing import place_all

        limit = int(self.control[1])
        if least <= limit:
            return
        while limit < least:
            limit *= 2
        count = self.count
        width_i, width_f = self.cells.widths
        self.integers = _longer(self.integers, limit * width_i, count * width_i)
        self.floats = _longer(self.floats, limit * width_f, count * width_f)
        self.cells.fill(self.integers[count * width_i :], self.floats[count * width_f :])
        self.keys = _longer(self.keys, limit * self.words, count * self.words)
        self.hashes = _longer(self.hashes, limit, count)
        self.table = np.full(2 * limit, -1, dtype=np.int32)
        self.control[1] = limit
        place_all(self.table, self.hashes, self.count)


def _longer(array: Array, size: int, used: int) -> Array:
    """A zeroed array of `size` that begins with the first `used` values of another."""
    result = np.zeros(size, dtype=array.dtype)
    result[:used] = array[:used]
    return result


class AggregateSink(ABC):
    """Base: the cells, and what all sinks offer."""

    cells: AggregateCells

    def __init__(self, aggregations: tuple[Aggregation, ...]) -> None:
        self.aggregations = aggregations

    @abstractmethod
    def write(self, text: PipelineText, writer: ExpressionWriter) -> None:
        """The text of what the loop does with a row."""

    def range(self) -> tuple[str, str]:
        """The first row of the loop and what the kernel returns when it is through, as text."""
        return "0", "0"

    @abstractmethod
    def new_state(self) -> Any:
        """The state of a thread."""

    def call(self, kernel: Any, arguments: list[Any], morsel: Any, rows: int) -> int:
        """Runs the kernel over a morsel whose state is set; negative if a row was bad."""
        return int(kernel(rows, *[argument.fill(morsel) for argument in arguments]))

    @abstractmethod
    def merge(self, states: list[Any]) -> Groups:
        """The groups of all threads."""

    def _cell_arguments(self, text: PipelineText) -> None:
        text.named_argument("ai", "i8[w]", lambda morsel: morsel.state.integers)
        text.named_argument("af", "f8[w]", lambda morsel: morsel.state.floats)

    def _rows_of(self, state: CellState) -> tuple[Array, Array]:
        width_i, width_f = self.cells.widths
        return state.integers.reshape(-1, width_i), state.floats.reshape(-1, width_f)


class UngroupedSink(AggregateSink):
    """No keys: one group, kept in registers within a morsel."""

    def write(self, text: PipelineText, writer: ExpressionWriter) -> None:
        self._cell_arguments(text)
        self.cells = AggregateCells(text, writer, self.aggregations, grouped=False)
        self.cells.write("0")
        self.cells.registers()

    def new_state(self) -> CellState:
        return CellState(1, self.cells)

    def merge(self, states: list[CellState]) -> Groups:
        first = self._rows_of(states[0])
        for state in states[1:]:
            self.cells.merge(first, self._rows_of(state))
        return Groups([], *first)


class DirectSink(AggregateSink):
    """Few possible keys: the key's number is the group's place."""

    def __init__(self, aggregations: tuple[Aggregation, ...], keys: list[Key], slots: int) -> None:
        super().__init__(aggregations)
        self.keys = keys
        self.slots = slots
        self._order = digit_order(keys)

    def write(self, text: PipelineText, writer: ExpressionWriter) -> None:
        self._cell_arguments(text)
        number = write_number(writer, self.keys, self._order)
        self.cells = AggregateCells(text, writer, self.aggregations, grouped=True)
        self.cells.write(number)

    def new_state(self) -> CellState:
        return CellState(self.slots, self.cells)

    def numbers(self, columns: list[Column]) -> Array:
        """The slots of key columns."""
        return combine_numbers(columns, self.keys, self._order)

    def merge(self, states: list[CellState]) -> Groups:
        from eventdb.kernels import slots as kernels

        first = states[0]
        width_i, width_f = self.cells.widths
        place = self.cells.rows.position
        store = "if".index(self.cells.rows.store)
        slots = np.empty(self.slots + 1, dtype=np.int64)
        for state in states[1:]:
            count = kernels.adopt(
                first.integers,
                width_i,
                first.float_bits,
                width_f,
                state.integers,
                state.float_bits,
                store,
                place,
                slots,
            )
            if count:
                shared = slots[:count]
                mine, theirs = self._rows_of(first), self._rows_of(state)
                part = (mine[0][shared], mine[1][shared])
                self.cells.merge(part, (theirs[0][shared], theirs[1][shared]))
                for target, merged in zip(mine, part, strict=True):
                    target[shared] = merged
        count = kernels.used((first.integers, first.float_bits)[store], (width_i, width_f)[store], place, slots)
        digits = split_number(slots[:count], self.keys, self._order)
        columns = [key.column(digits[i]) for i, key in enumerate(self.keys)]
        integers, floats = np.empty(count * width_i, dtype=np.int64), np.empty(count * width_f, dtype=np.float64)
        kernels.take(first.integers, width_i, slots, count, integers)
        kernels.take(first.float_bits, width_f, slots, count, floats.view(np.int64))
        return Groups(columns, integers.reshape(count, width_i), floats.reshape(count, width_f))


class HashSink(AggregateSink):
    """Any keys: an open-addressing table finds the group."""

    def __init__(self, aggregations: tuple[Aggregation, ...], keys: list[Key]) -> None:
        super().__init__(aggregations)
        self.keys = keys
        self.layout: HashLayout

    def write(self, text: PipelineText, writer: ExpressionWriter) -> None:
        self._cell_arguments(text)
        text.named_argument("table", "i4[w]", lambda morsel: morsel.state.table)
        text.named_argument("gk", "i8[w]", lambda morsel: morsel.state.keys)
        text.named_argument("gh", "i8[w]", lambda morsel: morsel.state.hashes)
        text.named_argument("st", "i8[w]", lambda morsel: morsel.state.control)
        for line in ("mask = np.uint64(len(table) - 1)", "groups = st[0]", "limit = st[1]", "start = st[2]"):
            text.before(line)
        text.after("st[0] = groups")
        self.layout, words = write_hash_words(writer, self.keys)
        group = write_hash_lookup(text, words)
        self.cells = AggregateCells(text, writer, self.aggregations, grouped=True)
        self.cells.write(group)

    def range(self) -> tuple[str, str]:
        return "start", "n"

    def new_state(self) -> HashState:
        return HashState(self.cells, self.layout.width)

    def call(self, kernel: Any, arguments: list[Any], morsel: Any, rows: int) -> int:
        state: HashState = morsel.state
        state.control[2] = 0
        while True:
            done = super().call(kernel, arguments, morsel, rows)
            if done < 0 or done >= rows:
                return done
            state.grow(4 * int(state.control[1]))
            state.control[2] = done

    def fold(self, first: HashState, state: HashState) -> None:
        """Adds the groups of `state` (its table is not looked at) to `first`."""
        from eventdb.kernels.hashing import absorb

        if not state.count:
            return
        first.grow(first.count + state.count)
        groups = np.empty(state.count, dtype=np.int64)
        first.control[0] = absorb(
            first.table,
            first.keys,
            first.hashes,
            first.count,
            first.words,
            state.keys,
            state.hashes,
            state.count,
            groups,
        )
        mine, theirs = self._rows_of(first), self._rows_of(state)
        part = (mine[0][groups], mine[1][groups])
        self.cells.merge(part, (theirs[0][: state.count], theirs[1][: state.count]))
        for target, merged in zip(mine, part, strict=True):
            target[groups] = merged

    def merge(self, states: list[HashState]) -> Groups:
        states = sorted(states, key=lambda state: -state.count)
        first = states[0]
        for state in states[1:]:
            self.fold(first, state)
        width_i, width_f = self.cells.widths
        count = first.count
        columns = self.layout.columns(first.keys[: count * first.words].reshape(count, first.words))
        return Groups(
            columns,
            first.integers[: count * width_i].reshape(count, width_i),
            first.floats[: count * width_f].reshape(count, width_f),
        )


def choose_sink(
    keys: tuple[Expression, ...],
    aggregations: tuple[Aggregation, ...],
    writer: ExpressionWriter,
    source: ScanInput,
    threads: int,
    memory_bytes: int,
) -> AggregateSink:
    """The sink that fits the keys, the number of rows and the memory."""
    if not keys:
        return UngroupedSink(aggregations)
    planned = [plan_key(key, writer, source.column_range) for key in keys]
    slots = slot_count(planned)
    # Each thread has its own slots: they must stay a fair part of the memory, however few rows fall into each.
    slot_bytes = 8 * (2 * len(aggregations) + 1) * threads
    most = min(MAX_DIRECT_SLOTS, max(65_536, _SLOTS_PER_ROW * source.row_count), memory_bytes // slot_bytes)
    if slots is not None and slots <= most:
        return DirectSink(aggregations, planned, slots)
    return HashSink(aggregations, planned)
