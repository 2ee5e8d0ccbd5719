"""Joins inside a fused pipeline: a row of the scan finds its one partner in a table, and reads its columns.

The columns of the held sides follow those of the scan: a pipeline's expressions read both by position.
"""

from __future__ import annotations

from dataclasses import dataclass

from eventdb.batch import Dictionary
from eventdb.logical.expressions import Expression
from eventdb.logical.plan import Join, Scan
from eventdb.physical.built import Built
from eventdb.physical.compiled_input import ScanInput
from eventdb.physical.context import QueryContext
from eventdb.schema import DataType


@dataclass(frozen=True, slots=True, eq=False)
class Lookup:
    """One join. `keys` are over the scan's columns and those of the lookups before it; its own begin at `first`."""

    number: int
    join: Join
    built: Built
    keys: tuple[Expression, ...]
    first: int

    @property
    def adds_columns(self) -> bool:
        return self.join.kind not in ("semi", "anti")

    @property
    def keeps_all(self) -> bool:
        return self.join.kind in ("left", "single")


def is_lookup(join: Join) -> bool:
    """Whether the join gives each left row at most once, by a table that is there."""
    built = join.right
    if not isinstance(built, Built) or built.table is None:
        return False
    if join.kind in ("semi", "anti"):
        return join.residual is None
    return built.table.is_unique and (join.kind == "inner" or (join.kind in ("left", "single") and not join.residual))


class JoinedInput(ScanInput):
    """A scan's columns, then those of its lookups."""

    def __init__(self, scan: Scan, lookups: tuple[Lookup, ...], context: QueryContext, in_flight: int = 0) -> None:
        super().__init__(scan, context, in_flight)
        self._made = [
            (lookup, position)
            for lookup in lookups if lookup.adds_columns
            for position in range(len(lookup.built.fields))
        ]  # fmt: skip

    def lookup(self, index: int) -> tuple[Lookup, int] | None:
        """The lookup that gives a column, and the column's position there; None for the scan's own."""
        place = index - len(self.scan.columns)
        return None if place < 0 else self._made[place]

    def type_of(self, index: int) -> DataType:
        found = self.lookup(index)
        return super().type_of(index) if found is None else found[0].built.fields[found[1]].type

    def is_nullable(self, index: int) -> bool:
        found = self.lookup(index)
        if found is None:
            return super().is_nullable(index)
        return found[0].keeps_all or found[0].built.rows.columns[found[1]].validity is not None

    def _dictionary(self, index: int) -> Dictionary:
        found = self.lookup(index)
        if found is None:
            return super()._dictionary(index)
        dictionary = found[0].built.rows.columns[found[1]].dictionary
        assert dictionary is not None
        return dictionary

    def column_range(self, index: int) -> tuple[int, int] | None:
        found = self.lookup(index)
        if found is None:
            return super().column_range(index)
        values = found[0].built.rows.columns[found[1]].values
        return (int(values.min()), int(values.max())) if len(values) else (0, 0)
