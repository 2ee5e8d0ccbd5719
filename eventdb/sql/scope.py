"""The names a clause can see: columns of the FROM items, by position in the plan below."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import Any, NoReturn

from eventdb.logical.expressions import ColumnRef
from eventdb.logical.plan import Fields
from eventdb.schema import DataType
from eventdb.sql.context import Context


@dataclass(frozen=True, slots=True)
class Name:
    """A column as a query sees it. `in_star`: part of `*`; `bare`: found without its table's name (not after USING)."""

    table: str
    name: str
    type: DataType
    index: int
    in_star: bool = True
    bare: bool = True


class Scope:
    """Columns in order, found without case. `tables` are the aliases in scope, in order."""

    def __init__(self, names: list[Name], tables: list[str]) -> None:
        self.names = names
        self.tables = tables
        self._bare: dict[str, list[Name]] = {}
        self._qualified: dict[tuple[str, str], list[Name]] = {}
        for name in names:
            key = name.name.lower()
            if name.bare:
                self._bare.setdefault(key, []).append(name)
            self._qualified.setdefault((name.table.lower(), key), []).append(name)

    @staticmethod
    def of_fields(fields: Fields, table: str) -> Scope:
        """All fields of a plan under one table name."""
        return Scope([Name(table, f.name, f.type, i) for i, f in enumerate(fields)], [table] if table else [])

    def joined(self, other: Scope, width: int) -> Scope:
        """Left columns, then right ones moved by the left plan's width."""
        moved = [replace(name, index=name.index + width) for name in other.names]
        return Scope([*self.names, *moved], [*self.tables, *other.tables])

    def has_table(self, table: str) -> bool:
        """Whether an alias is in scope."""
        return self._table(table) is not None

    def _table(self, table: str) -> str | None:
        """The alias in lower case that a qualifier means: itself, or the one that ends in .qualifier (b for s.b)."""
        known = [alias.lower() for alias in self.tables]
        if table.lower() in known:
            return table.lower()
        found = [alias for alias in known if alias.endswith(f".{table.lower()}")]
        return found[0] if len(found) == 1 else None

    def find(self, name: str, table: str, context: Context, node: Any) -> ColumnRef | None:
        """The column, or None. BindError if the name is ambiguous or the table is not in scope."""
        if table:
            alias = self._table(table)
            found = self._qualified.get((alias or table.lower(), name.lower()), [])
            if not found and alias is None:
                near = get_close_matches(table, self.tables, 1)
                hint = f"; did you mean {near[0]}?" if near else f"; in scope: {', '.join(self.tables) or 'nothing'}"
                context.fail(f"no table {table!r} in this FROM{hint}", node)
        else:
            found = self._bare.get(name.lower(), [])
        if not found:
            return None
        if len(found) > 1 and len({match.index for match in found}) > 1:
            owners = ", ".join(f"{match.table}.{match.name}" for match in found)
            context.fail(f"column {name!r} is ambiguous: {owners}", node)
        return ColumnRef(found[0].type, found[0].index, found[0].name)

    def missing(self, name: str, table: str, extra: list[str], context: Context, node: Any) -> NoReturn:
        """Raise the BindError for a column that is not there, with near names."""
        shown = [n.name for n in self.names if not table or n.table.lower() == table.lower()] + extra
        near = get_close_matches(name.lower(), [column.lower() for column in shown], 1)
        match = next((column for column in shown if near and column.lower() == near[0]), None)
        listed = ", ".join(dict.fromkeys(n for n in shown if not n.startswith("_")))
        hint = f"did you mean {match}?" if match else f"the columns are {listed}" if listed else "there is no FROM"
        context.fail(f"no column {f'{table}.' if table else ''}{name}; {hint}", node)

    def star(self, table: str = "") -> Iterator[Name]:
        """The columns of `*` or `table.*`."""
        alias = self._table(table) if table else None
        for name in self.names:
            if table:
                if name.table.lower() == alias and (name.in_star or not name.bare):
                    yield name
            elif name.in_star:
                yield name
