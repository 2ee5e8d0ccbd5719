"""The select list: its items, `*` with EXCLUDE, REPLACE and RENAME, COLUMNS(...), and the names of the columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from sqlglot import exp

from eventdb.logical.expressions import Call, ColumnRef, Expression, transform
from eventdb.sql.context import Context
from eventdb.sql.expressions import ExpressionBinder
from eventdb.sql.references import AggregateRef, OverRef
from eventdb.sql.scope import Name, Scope


@dataclass(slots=True)
class Item:
    """One column of the select list: its tree, or a column of `*`."""

    name: str
    tree: exp.Expr | None
    column: Name | None = None
    origin: exp.Expr | None = None


def column_of(item: Item) -> Expression:
    """The reference of an item that is a column of `*`."""
    assert item.column is not None
    return ColumnRef(item.column.type, item.column.index, item.column.name)


def aliases_of(node: exp.Select) -> dict[str, exp.Expr]:
    """What the aliases of a select list stand for."""
    return {tree.alias.lower(): tree.this for tree in node.expressions if isinstance(tree, exp.Alias)}


class SelectList:
    """Reads the items of a select list against a scope."""

    def __init__(self, context: Context, scope: Scope) -> None:
        self.context = context
        self.scope = scope

    def items(self, node: exp.Select) -> list[Item]:
        items: list[Item] = []
        for tree in node.expressions:
            star = tree if isinstance(tree, exp.Star) else tree.this if isinstance(tree, exp.Column) else None
            if isinstance(star, exp.Star):
                items.extend(self._star(tree, star))
            elif tree.find(exp.Columns) is not None:
                items.extend(self._columns(tree))
            elif isinstance(tree, exp.Alias):
                items.append(Item(tree.alias, tree.this))
            elif isinstance(tree, exp.Aliases):
                self.context.unsupported("several aliases for one expression", tree)
            else:
                items.append(Item("", tree))
        if not items:
            self.context.fail("the select list is empty", node)
        return items

    def _star(self, tree: exp.Expr, star: exp.Star) -> list[Item]:
        scope = self.scope
        table = tree.table if isinstance(tree, exp.Column) else ""
        if table and not scope.has_table(table):
            scope.find("*", table, self.context, tree)
        columns = list(scope.star(table))
        if not columns:
            self.context.fail("* needs a FROM", tree)
        removed = {part.name.lower(): part for part in star.args.get("except_") or []}
        replaced = {part.alias.lower(): part for part in star.args.get("replace") or []}
        renamed = {part.this.name.lower(): part for part in star.args.get("rename") or []}
        present = {column.name.lower() for column in columns}
        for name, part in (removed | replaced | renamed).items():
            if name not in present:
                scope.missing(name, table, [], self.context, part)
            if (name in removed) + (name in replaced) + (name in renamed) > 1:
                self.context.fail(f"column {name!r} stands in two of EXCLUDE, REPLACE and RENAME", part)
        items = []
        for c in columns:
            name = c.name.lower()
            if name in replaced:
                items.append(Item(c.name, replaced[name].this))
            elif name not in removed:
                items.append(Item(renamed[name].alias if name in renamed else c.name, None, c, tree))
        return items

    def _columns(self, tree: exp.Expr) -> Iterator[Item]:
        """The item once for each column that COLUMNS(* | 'regular expression') in it stands for."""
        chosen = list(tree.find_all(exp.Columns))
        if len({part.sql() for part in chosen}) > 1:
            self.context.unsupported("two different COLUMNS(...) in one expression", tree)
        for found in self._chosen(chosen[0]):
            place = exp.Column(this=exp.Identifier(this=found.name, quoted=True))
            if found.table:
                place.set("table", exp.Identifier(this=found.table, quoted=True))
            inner = tree.this if isinstance(tree, exp.Alias) else tree
            if isinstance(inner, exp.Columns) and found.tree is not None:
                yield Item(tree.alias if isinstance(tree, exp.Alias) else found.name, found.tree)
                continue
            if isinstance(inner, exp.Columns):
                yield Item(tree.alias if isinstance(tree, exp.Alias) else found.name, None, found.column, tree)
                continue
            copied = inner.copy()
            for part in list(copied.find_all(exp.Columns)):
                part.replace(exp.Paren(this=found.tree.copy()) if found.tree is not None else place.copy())
            yield Item(tree.alias if isinstance(tree, exp.Alias) else "", copied)

    def _chosen(self, node: exp.Columns) -> list[_Chosen]:
        inner = node.this
        if isinstance(inner, exp.Star):
            return [_Chosen(item.name, item.column, item.tree) for item in self._star(inner, inner)]
        if isinstance(inner, exp.Literal) and inner.is_string:
            try:
                pattern = re.compile(inner.name)
            except re.error as error:
                self.context.fail(f"COLUMNS({inner.name!r}): {error}", node)
            found = [_Chosen(c.name, c) for c in self.scope.star() if pattern.search(c.name)]
            if not found:
                self.context.fail(f"no column matches COLUMNS({inner.name!r})", node)
            return found
        self.context.unsupported("COLUMNS() of anything but * or a regular expression", node)


@dataclass(frozen=True, slots=True)
class _Chosen:
    """A column COLUMNS(...) stands for, under the name it gets, or the tree that replaces it."""

    name: str
    column: Name | None
    tree: exp.Expr | None = None

    @property
    def table(self) -> str:
        return self.column.table if self.column is not None else ""


def name_of(tree: exp.Expr | None, bound: Expression, binder: ExpressionBinder) -> str:
    """The output name of an expression without an alias: its column, its call as written, or its bound form."""
    if isinstance(tree, (exp.Cast, exp.TryCast)) and not isinstance(tree.this, exp.Literal):
        return name_of(tree.this, bound.children()[0] if bound.children() else bound, binder)
    inner = tree
    while isinstance(inner, exp.Paren):
        inner = inner.this
    if isinstance(inner, exp.Column):
        return inner.name
    if isinstance(tree, (exp.Placeholder, exp.Parameter)):
        return f"${tree.name}"
    written = binder.context.written(tree)
    if written is not None:
        return written
    aggregations, overs = binder.aggregations or [], binder.overs or []

    def named(part: Expression) -> Expression:
        if isinstance(part, AggregateRef):
            return ColumnRef(part.type, 0, str(aggregations[part.index]))
        return ColumnRef(part.type, 0, str(overs[part.index])) if isinstance(part, OverRef) else part

    text = str(transform(bound, named))
    return text[1:-1] if text.startswith("(") and text.endswith(")") and isinstance(bound, Call) else text
