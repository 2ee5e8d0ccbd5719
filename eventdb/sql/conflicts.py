"""ON CONFLICT, and SQLite's words for it."""

from __future__ import annotations

from eventdb.logical.expressions import ColumnRef
from eventdb.sql.changes import assignments, columns_of_table, where
from eventdb.sql.context import Context
from eventdb.sql.scope import Name, Scope
from eventdb.sql.statements import Conflict, TableInfo
from eventdb.sql.words import Words


def on_conflict(words: Words, context: Context, table: TableInfo, alias: str) -> Conflict:
    """ON CONFLICT [(key columns)] DO NOTHING | DO UPDATE SET ... [WHERE ...]."""
    words.expect("ON", "CONFLICT")
    if words.word() == "ON" or words.word() == "CONSTRAINT":
        raise words.unsupported("ON CONFLICT ON CONSTRAINT", "a table has one key: name its columns, or nothing")
    if words.accept("("):
        _key_columns(words, table)
    if words.word() == "WHERE":
        raise words.unsupported("ON CONFLICT ... WHERE", "a table has one key, its PRIMARY KEY")
    words.expect("DO")
    if words.accept("NOTHING"):
        words.end()
        return Conflict(None)
    words.expect("UPDATE")
    if words.ended:
        return or_replace(table, "REPLACE")
    words.expect("SET")
    width = len(table.schema)
    names = [Name(alias, f.name, f.type, i) for i, f in enumerate(table.schema)]
    names += [Name("excluded", n.name, n.type, width + n.index, in_star=False, bare=False) for n in names]
    scope = Scope(names, [alias, "excluded"])
    changed = assignments(words, context, table, alias, scope)
    condition = where(words, context, scope, "ON CONFLICT")
    words.end()
    kept = columns_of_table(table)
    return Conflict(tuple(changed.get(i, kept[i]) for i in range(width)), condition)


def or_replace(table: TableInfo, verb: str) -> Conflict:
    """What INSERT OR REPLACE and INSERT OR IGNORE, SQLite's spelling, do with a row whose key is taken."""
    width = len(table.schema)
    kept = tuple(ColumnRef(f.type, width + i, f.name) for i, f in enumerate(table.schema))
    return Conflict(kept if verb == "REPLACE" else None)


def _key_columns(words: Words, table: TableInfo) -> None:
    """The columns of ON CONFLICT (...), which must be the primary key."""
    at = words.index
    found = set()
    while True:
        name = words.name("a column")
        index = table.schema.find(name)
        if index is None:
            raise words.error(f"no column {name!r}; the columns are {', '.join(table.schema.names)}", at)
        found.add(index)
        if words.accept(")"):
            break
        words.expect(",")
    if found != set(table.primary_key):
        key = ", ".join(table.schema.names[i] for i in table.primary_key)
        fix = (
            f"ON CONFLICT needs the primary key of {table.name}: ({key})" if key else f"{table.name} has no primary key"
        )
        raise words.error(fix, at)
