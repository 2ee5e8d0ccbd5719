"""RETURNING: what a statement that changes rows gives back of each of them."""

from __future__ import annotations

from eventdb.schema import BIGINT, VARCHAR, Schema
from eventdb.sql.context import Context
from eventdb.sql.expressions import ExpressionBinder
from eventdb.sql.scope import Name, Scope
from eventdb.sql.select_list import SelectList, column_of, name_of
from eventdb.sql.statements import Returning
from eventdb.sql.words import Words

OFFSET = "_offset"


def returned(words: Words, context: Context, schema: Schema, alias: str, merge: bool = False) -> Returning:
    """RETURNING item, ...: a select list over the columns of the row as it is now (of a DELETE: as it was), `_offset`,
    and in MERGE `merge_action`."""
    at = words.index
    words.expect("RETURNING")
    if words.ended:
        words.wrong("expected what to return")
    names = [Name(alias, f.name, f.type, i) for i, f in enumerate(schema)]
    width = len(schema)
    names.append(Name(alias, OFFSET, BIGINT, width, in_star=False))
    if merge:
        names.append(Name("", "merge_action", VARCHAR, width + 1, in_star=False))
    scope = Scope(names, [alias])
    tree = words.source.select(at + 1, words.stop, "SELECT", "RETURNING")
    words.index = words.stop
    binder = ExpressionBinder(context, scope, "RETURNING")
    values, titles = [], []
    for item in SelectList(context, scope).items(tree):
        value = column_of(item) if item.tree is None else binder.bind(item.tree)
        values.append(value)
        titles.append(item.name or name_of(item.tree, value, binder))
    return Returning(tuple(values), tuple(titles), width)
