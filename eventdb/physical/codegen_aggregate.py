"""Aggregates as cells that the row loop updates, how cells of two threads merge, and how they become columns.

Every aggregation is made of primitive cells: rows, values present, sum, least, greatest, mean and squared deviations.
A group is a row of one int64 and one float64 array (`AggregateCells.widths`); an ungrouped query has one group, kept in
registers during a morsel. A cell is meaningful once its count is positive.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from eventdb.batch import Array, Column, Dictionary
from eventdb.decimal_columns import column_of_numbers, numbers_of
from eventdb.logical.expressions import Aggregation, ColumnRef, Expression
from eventdb.physical.codegen import CannotCompile, PipelineText, Value, register_kind
from eventdb.physical.codegen_expression import ExpressionWriter
from eventdb.schema import DOUBLE, DataType

_SPREADS = ("stddev_samp", "stddev_pop", "var_samp", "var_pop")
# What every value replaces. NaN, the greatest value, is replaced by any number when the least is sought.
_FIRST_VALUES = {"min_i": (1 << 63) - 1, "max_i": -(1 << 63), "min_f": np.nan, "max_f": -np.inf}
GENERATED = ("count_star", "count", "sum", "avg", "min", "max", "bool_and", "bool_or", *_SPREADS)


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of a group: `store` 'i' or 'f' names the array, `position` its place in the group's row."""

    kind: str
    store: str
    position: int
    count: Cell | None = None


Result = tuple[Cell | None, Cell | None, Dictionary | None]
"""Of an aggregation: the cell of its value, the cell that counts, the strings its value is a rank among."""


@dataclass(slots=True)
class Input:
    """What several aggregations share: an argument under a filter."""

    value: Value
    present: str | None
    ranks: Dictionary | None
    narrow: bool


class AggregateCells:
    """Allocates cells for aggregations and writes their updates. `grouped`: cells live in memory at a group's row."""

    def __init__(
        self, text: PipelineText, writer: ExpressionWriter, aggregations: tuple[Aggregation, ...], grouped: bool
    ) -> None:
        self._text = text
        self._writer = writer
        self._grouped = grouped
        self._aggregations = aggregations
        self._cells: dict[tuple[Any, ...], Cell] = {}
        self._updates: list[tuple[Cell, Input, Cell | None]] = []
        self._widths = {"i": 0, "f": 0}
        self._results: list[Result] = []
        # Counts beside the floats keep a group in one cache line; they are exact up to 2**53 rows.
        kinds = {register_kind(a.args[0].type) for a in aggregations if a.args and not a.args[0].type.is_coded}
        integral = any(
            a.function not in ("count", "count_star", *_SPREADS) and register_kind(a.args[0].type) in "ib"
            for a in aggregations
            if a.args
        )
        self._count_store = "f" if grouped and kinds & {"f", "e"} and not integral else "i"
        self.rows = self._cell(("rows", None, None), "count", self._count_store)

    @property
    def widths(self) -> tuple[int, int]:
        """Cells of a group in the int64 and in the float64 array (at least 1)."""
        return max(1, self._widths["i"]), max(1, self._widths["f"])

    def fill(self, integers: Array, floats: Array) -> None:
        """Makes zeroed cells of new groups, flat arrays of both kinds, ready for their first value."""
        stores = {"i": integers.reshape(-1, self.widths[0]), "f": floats.reshape(-1, self.widths[1])}
        for cell in self._cells.values():
            if cell.kind in _FIRST_VALUES:
                stores[cell.store][:, cell.position] = _FIRST_VALUES[cell.kind]

    def primitives(self) -> Iterator[tuple[tuple[Any, ...], Cell]]:
        """(what it is made of, cell), counts first; the squares of a mean come with it."""
        for wanted in (True, False):
            for key, cell in self._cells.items():
                if (cell.kind == "count") == wanted and cell.kind != "m2":
                    yield key, cell

    def encoded(self, cell: Cell, column: Column) -> Array:
        """The values of an aggregate that the interpreted engine computed, as the cell holds them; 0 for NULL."""
        ranks = next((r for c, _, r in self._results if c == cell and r is not None), None)
        if ranks is not None:
            assert column.dictionary is not None
            values = np.array([ranks.code_of(v) for v in column.dictionary.values] or [0])[column.values]
        else:
            values = numbers_of(column) if column.type.is_wide else column.values
            if values.dtype == object:
                raise CannotCompile("a partial sum passes 64 bits")
        return values if column.validity is None else np.where(column.validity, values, 0)

    def _cell(self, key: tuple[Any, ...], kind: str, store: str, count: Cell | None = None) -> Cell:
        found = self._cells.get(key)
        if found is None:
            found = self._cells[key] = Cell(kind, store, self._widths[store], count)
            self._widths[store] += 1
        return found

    # --- the loop ---

    def _place(self, cell: Cell) -> str:
        if self._grouped:
            return f"a{cell.store}[base_{cell.store} + np.uint64({cell.position})]"
        return f"r{cell.store}{cell.position}"

    def write(self, slot: str) -> None:
        """Writes the update of every aggregation for the current row; `slot` is the group's row (grouped)."""
        text = self._text
        inputs: dict[tuple[Any, ...], Input] = {}
        for aggregation in self._aggregations:
            self._results.append(self._plan(aggregation, inputs))
        if self._grouped:
            width_i, width_f = self.widths
            text.emit(f"base_i = np.uint64({slot}) * np.uint64({width_i})")
            text.emit(f"base_f = np.uint64({slot}) * np.uint64({width_f})")
        counts: dict[Cell, Input | None] = {self.rows: None}
        for cell, source, count in self._updates:
            if cell.kind == "count":
                counts[cell] = source
                continue
            if source.present is None:
                self._update(cell, source, count)
            else:
                with text.only_if(source.present):
                    self._update(cell, source, count)
        one = {"i": "1", "f": "1.0"}
        for cell, counted in counts.items():  # last: a count of 0 tells the updates that the group is new
            line = f"{self._place(cell)} += {one[cell.store]}"
            if counted is None or counted.present is None:
                text.emit(line)
            elif self._grouped:
                with text.only_if(counted.present):
                    text.emit(line)
            else:
                text.emit(f"{self._place(cell)} += {counted.present}")

    def registers(self) -> None:
        """For an ungrouped query: cells are registers from the first row of a morsel to its last."""
        for cell in self._cells.values():
            self._text.before(f"{self._place(cell)} = a{cell.store}[{cell.position}]")
            self._text.after(f"a{cell.store}[{cell.position}] = {self._place(cell)}")

    def _update(self, cell: Cell, source: Input, count: Cell | None) -> None:
        text, place, code = self._text, self._place(cell), source.value.code
        if cell.kind == "sum_i":
            if source.narrow:
                text.emit(f"{place} += {code}")
            else:
                total, wrapped = text.name(), text.name()
                text.emit(f"{total}, {wrapped} = checked_add({place}, {code})")
                text.emit(f"{place} = {total}")
                text.fail_if(wrapped)
        elif cell.kind == "sum_f":
            text.emit(
                f"{place} = fast_add({place}, np.float64({code}))"
                if not self._grouped
                else f"{place} += np.float64({code})"
            )
        elif cell.kind == "mean":
            assert count is not None
            seen = self._place(count)
            squares = self._place(Cell("m2", "f", cell.position + 1))
            value = text.assign(f"np.float64({code})")
            step = text.assign(f"{value} - {place}")
            text.emit(f"{place} += {step} / ({seen} + 1)")
            text.emit(f"{squares} += {step} * ({value} - {place})")
        else:
            self._update_extreme(cell, code, place)

    def _update_extreme(self, cell: Cell, code: str, place: str) -> None:
        """least / greatest. NaN is the greatest value: the rare branch sorts it out, the usual is one comparison."""
        text = self._text
        held = text.assign(place)
        if cell.store == "i":
            with text.only_if(f"{code} {'<' if cell.kind == 'min_i' else '>'} {held}"):
                text.emit(f"{place} = {code}")
            return
        value = text.assign(f"np.float64({code})")
        least = cell.kind == "min_f"
        rare = text.only_if(f"not ({value} {'>=' if least else '<='} {held})")
        with rare, text.only_if(f"{value} == {value}" if least else f"{held} == {held}"):
            text.emit(f"{place} = {value}")

    # --- which cells an aggregation needs ---

    def _plan(self, aggregation: Aggregation, inputs: dict[tuple[Any, ...], Input]) -> Result:
        """(value cell, count cell, dictionary of ranks) of an aggregation; schedules the updates."""
        name = aggregation.function
        if name not in GENERATED or (aggregation.distinct and name not in ("min", "max", "bool_and", "bool_or")):
            raise CannotCompile(f"{aggregation} is not generated")
        if name == "count_star" and aggregation.filter is None:
            return None, self.rows, None
        argument = aggregation.args[0] if aggregation.args else None
        if argument is not None and argument.type.is_wide and name not in ("count", "min", "max"):
            raise CannotCompile("arithmetic of more than 18 digits")
        key = (argument, aggregation.filter, name in ("min", "max"))
        if key not in inputs:
            inputs[key] = self._input(argument, aggregation.filter, name in ("min", "max"))
        source = inputs[key]
        count = self._count(argument, aggregation.filter, source)
        if name in ("count", "count_star"):
            return None, count, None
        kind = source.value.kind
        if name in ("sum", "avg", "bool_and", "bool_or"):
            cell_kind = "sum_f" if kind in "fe" else "sum_i"
        elif name in _SPREADS:
            cell_kind = "mean"
        else:
            cell_kind = f"{name}_{'f' if kind in 'fe' else 'i'}"
        store = "f" if cell_kind in ("sum_f", "mean", "min_f", "max_f") else "i"
        cell_key = (cell_kind, argument, aggregation.filter)
        new = cell_key not in self._cells
        cell = self._cell(cell_key, cell_kind, store, count)
        if new:
            if cell_kind == "mean":
                self._cell(("m2", argument, aggregation.filter), "m2", "f", count)
            self._updates.append((cell, source, count))
        return cell, count, source.ranks

    def _count(self, argument: Expression | None, condition: Expression | None, source: Input) -> Cell:
        if source.present is None:
            return self.rows
        key = ("present", None if source.value.valid is None else argument, condition)
        new = key not in self._cells
        cell = self._cell(key, "count", self._count_store)
        if new:
            self._updates.append((cell, source, None))
        return cell

    def _input(self, argument: Expression | None, condition: Expression | None, ranked: bool) -> Input:
        writer, text = self._writer, self._text
        if condition is not None:
            from eventdb.logical.functions import may_raise

            if argument is not None and may_raise(argument):
                raise CannotCompile("an aggregate whose filter guards an expression that can raise")
        holds = None if condition is None else writer.is_true(condition)
        if argument is None:
            return Input(Value("1", "i"), holds, None, True)
        ranks: Dictionary | None = None
        if argument.type.is_coded:
            value, ranks = self._ranks(argument) if ranked else (self._presence(argument), None)
        else:
            value = writer.value(argument)
            if value.kind == "b":
                value = Value(text.assign(f"1 if {value.code} else 0"), "i", value.valid)
        narrow = argument.type.width_bytes < 8 and argument.type.name != "FLOAT"
        return Input(value, writer.both(value.valid, holds), ranks, narrow)

    def _presence(self, argument: Expression) -> Value:
        """A string that is only counted: whether it is there."""
        if isinstance(argument, ColumnRef):
            return Value("0", "i", self._writer.validity(argument.index))
        table = self._writer.code_table(argument)
        return Value("0", "i", self._table_validity(table.column, table.validity))

    def _table_validity(self, column: int, validity: Array | None) -> str | None:
        if validity is None:
            return None
        slot, _ = self._writer.slot(column)
        return self._text.assign(f"{self._text.table(validity)}[{slot}]")

    def _ranks(self, argument: Expression) -> tuple[Value, Dictionary]:
        """The rank of a string among all values of its dictionary, and the values in that order."""
        table = self._writer.code_table(argument)
        values = table.dictionary.values
        order = sorted(range(len(values)), key=values.__getitem__)
        rank = np.empty(max(1, len(order)), dtype=np.int32)
        rank[order] = np.arange(len(order), dtype=np.int32)
        slot, _ = self._writer.slot(table.column)
        code = self._text.assign(f"np.int64({self._text.table(rank[table.table])}[{slot}])")
        valid = self._table_validity(table.column, table.validity)
        return Value(code, "i", valid), Dictionary([values[i] for i in order])

    # --- after the loop ---

    def merge(self, into: tuple[Array, Array], other: tuple[Array, Array]) -> None:
        """Adds the groups of `other` to those of `into`, row by row: (groups, width) arrays of both kinds."""
        a, b = dict(zip("if", into, strict=True)), dict(zip("if", other, strict=True))
        with np.errstate(all="ignore"):
            for cell in self._cells.values():
                if cell.kind != "count":
                    self._merge_cell(cell, a, b)
            for cell in self._cells.values():
                if cell.kind == "count":
                    a[cell.store][:, cell.position] += b[cell.store][:, cell.position]

    def _merge_cell(self, cell: Cell, a: dict[str, Array], b: dict[str, Array]) -> None:
        mine, theirs = a[cell.store][:, cell.position], b[cell.store][:, cell.position]
        if cell.kind == "sum_f":
            mine += theirs
            return
        if cell.kind == "sum_i":
            total = mine + theirs
            if (((mine ^ total) & (theirs ^ total)) < 0).any():
                raise CannotCompile("a partial sum passes 64 bits")
            mine[:] = total
            return
        if cell.kind == "m2":
            return  # with its mean
        assert cell.count is not None
        seen = (a[cell.count.store][:, cell.count.position], b[cell.count.store][:, cell.count.position])
        if cell.kind == "mean":
            self._merge_spread(cell, a["f"], b["f"], seen)
            return
        better = theirs < mine if cell.kind.startswith("min") else theirs > mine
        if cell.store == "f":
            better |= np.isnan(mine) & ~np.isnan(theirs) if cell.kind == "min_f" else np.isnan(theirs)
        take = (seen[1] > 0) & ((seen[0] == 0) | better)
        mine[take] = theirs[take]

    @staticmethod
    def _merge_spread(cell: Cell, a: Array, b: Array, seen: tuple[Array, Array]) -> None:
        """Chan, Golub and LeVeque's pairwise update of mean and squared deviations."""
        n, m = seen[0].astype(np.float64), seen[1].astype(np.float64)
        total = np.where(n + m > 0, n + m, 1.0)
        at, square = cell.position, cell.position + 1
        step = b[:, at] - a[:, at]
        a[:, square] = np.where(m > 0, a[:, square] + b[:, square] + step * step * n * m / total, a[:, square])
        a[:, at] = np.where(m > 0, a[:, at] + step * m / total, a[:, at])

    def columns(self, integers: Array, floats: Array, types: tuple[DataType, ...]) -> list[Column]:
        """The results of the aggregations for the groups of two (groups, width) arrays."""
        stores = {"i": integers, "f": floats}
        return [
            self._column(aggregation, result, type, stores)
            for aggregation, result, type in zip(self._aggregations, self._results, types, strict=True)
        ]

    def _column(self, aggregation: Aggregation, result: Result, type: DataType, stores: dict[str, Array]) -> Column:
        cell, count, ranks = result
        assert count is not None
        counts = stores[count.store][:, count.position].astype(np.int64)
        if cell is None:
            return Column(type, counts)
        values = stores[cell.store][:, cell.position]
        name = aggregation.function
        valid = counts > (1 if name.endswith("_samp") else 0)
        validity = None if valid.all() else valid
        if name in ("avg", *_SPREADS):
            return Column(DOUBLE, self._quotient(aggregation, cell, values, counts, stores), validity)
        if name == "bool_and":
            return Column(type, values == counts, validity)
        if name == "bool_or":
            return Column(type, values > 0, validity)
        if ranks is not None:
            if not len(ranks):
                ranks = Dictionary(["" if type.name == "VARCHAR" else b""])
            return Column(type, np.where(valid, values, 0).astype(np.int32), validity, ranks)
        if name == "sum" and type.is_wide:
            return column_of_numbers(type, values, validity)
        return Column(type, np.ascontiguousarray(values).astype(type.physical, copy=False), validity)

    @staticmethod
    def _quotient(
        aggregation: Aggregation, cell: Cell, values: Array, counts: Array, stores: dict[str, Array]
    ) -> Array:
        name = aggregation.function
        some = np.maximum(counts, 1)
        with np.errstate(all="ignore"):
            if name == "avg":
                result = values.astype(np.float64) / some
                scale = aggregation.args[0].type.scale
                return result / 10.0**scale if scale else result
            squares = stores["f"][:, cell.position + 1]
            variance = squares / np.maximum(counts - 1, 1) if name.endswith("_samp") else squares / some
            variance = np.where(variance < 0, 0.0, variance)
            return np.sqrt(variance) if name.startswith("stddev") else variance
