"""Queries to plans: WITH, SELECT, VALUES, set operations, and ORDER BY and LIMIT over a whole query."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import zip_longest

from sqlglot import exp

from eventdb.logical.expressions import ColumnRef, Expression, Literal
from eventdb.logical.functions import may_be_null
from eventdb.logical.plan import OutputField, Plan, Project, UnionAll, Values
from eventdb.logical.subqueries import is_correlated
from eventdb.schema import BOOLEAN, VARCHAR, DataType
from eventdb.sql.context import Context
from eventdb.sql.expressions import ExpressionBinder
from eventdb.sql.ordering import CONSTANT, TailBinder, Target, is_constant
from eventdb.sql.projection import assign, renamed, says_default
from eventdb.sql.recursion import bind_recursive, is_recursive
from eventdb.sql.scope import Scope
from eventdb.sql.selects import SelectBinder
from eventdb.sql.set_operations import SetOperationBinder, written_items

DESCRIBED = ("column_name", "column_type", "nullable", "role", "settings")


class QueryBinder:
    """Binds queries to plans."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def bind(self, node: exp.Expr, ctes: dict[str, Plan]) -> Plan:
        """The plan of a query tree. `ctes` are the names of enclosing WITH clauses."""
        with self.nested(ctes):
            if node.args.get("with_") is not None:
                ctes = self.context.ctes = self._with(node.args["with_"], ctes)
            return self._bound(node, ctes)

    @contextmanager
    def nested(self, ctes: dict[str, Plan]) -> Iterator[None]:
        """Inside the block expressions may hold queries, which see `ctes`."""
        context = self.context
        before = context.bind_query, context.ctes
        context.bind_query, context.ctes = self.bind, ctes
        try:
            yield
        finally:
            context.bind_query, context.ctes = before

    def _bound(self, node: exp.Expr, ctes: dict[str, Plan]) -> Plan:
        if isinstance(node, exp.Select):
            return SelectBinder(self.context, self.bind).bind(node, ctes)
        if isinstance(node, exp.SetOperation):
            operations = SetOperationBinder(self.context, lambda query: self.bind(query, ctes))
            return self._tail(operations.bind(node), node)
        if isinstance(node, exp.Values):
            return self._tail(self.values(node), node)
        if isinstance(node, exp.Subquery):
            if node.args.get("joins"):
                self.context.unsupported("JOIN in a parenthesised query", node, "write SELECT * FROM (...) JOIN ...")
            return self._tail(self.bind(node.this, ctes), node)
        if isinstance(node, exp.Describe):
            return self._described(node.this, ctes)
        if isinstance(node, exp.Paren):
            return self.bind(node.this, ctes)
        if not isinstance(node, exp.Query):
            self.context.fail("expected a query: SELECT, VALUES, WITH or FROM", node)
        self.context.unsupported(type(node).__name__.upper(), node)

    def named_queries(self, node: exp.Expr) -> dict[str, Plan]:
        """The plans of the WITH clause of a tree."""
        return self._with(node.args["with_"], {})

    def _described(self, node: exp.Expr, ctes: dict[str, Plan]) -> Plan:
        """FROM (DESCRIBE query): its columns, as the statement DESCRIBE shows them."""
        query = exp.select("*").from_(node.copy()) if isinstance(node, exp.Table) else node
        fields = self.bind(query, ctes).fields
        rows = [(f.name, str(f.type), f.nullable, None, None) for f in fields]
        types = (VARCHAR, VARCHAR, BOOLEAN, VARCHAR, VARCHAR)
        output = tuple(OutputField(name, type) for name, type in zip(DESCRIBED, types, strict=True))
        return Values(tuple(tuple(map(Literal, types, row)) for row in rows), output)

    def _with(self, node: exp.Expr, ctes: dict[str, Plan]) -> dict[str, Plan]:
        known = dict(ctes)
        here: set[str] = set()
        for cte in node.expressions:
            name = cte.alias.lower()
            if name in here:
                self.context.fail(f"WITH names {cte.alias!r} twice", cte.args["alias"])
            here.add(name)
            if node.args.get("recursive") and is_recursive(cte):
                known[name] = bind_recursive(self.context, cte, known, self.bind)
                continue
            plan = self.bind(cte.this, known)
            columns = [part.name for part in cte.args["alias"].args.get("columns") or []]
            if columns:
                if len(columns) != len(plan.fields):
                    self.context.fail(f"{len(columns)} column names for {len(plan.fields)} columns", cte.args["alias"])
                plan = renamed(plan, columns)
            if self.context.enclosing and is_correlated(plan):
                self.context.correlated.append((plan, len(self.context.enclosing)))
            known[name] = plan
        return known

    # -- VALUES, and the tail ------------------------------------------------------------------------------------------

    def values(
        self, node: exp.Values, targets: list[tuple[str, DataType]] | None = None, defaults: Sequence[Literal] = ()
    ) -> Plan:
        """VALUES rows; with `targets` each column is converted to (name, type) as INSERT does, and the word DEFAULT
        stands for its entry in `defaults`."""
        binder = ExpressionBinder(self.context, Scope([], []), "VALUES")
        rows: list[list[Expression]] = []
        for tree in node.expressions:
            cells = (
                tree.expressions
                if isinstance(tree, exp.Tuple)
                else [tree.this if isinstance(tree, exp.Paren) else tree]
            )
            wanted = len(targets) if targets is not None else len(rows[0]) if rows else len(cells)
            if len(cells) != wanted:
                self.context.fail(f"this row has {len(cells)} values, expected {wanted}", tree)
            if targets is None:
                row = [binder.bind(cell) for cell in cells]
            else:
                row = [
                    default if default is not None and says_default(c) else assign(binder, binder.bind(c), t, n, c)
                    for default, (n, t), c in zip_longest(defaults, targets, cells)
                ]
            rows.append(row)
        if targets is None:
            columns = [binder.unify(column, node, "VALUES") for column in zip(*rows, strict=True)]
            rows = [list(row) for row in zip(*columns, strict=True)]
        names = [n for n, _ in targets] if targets is not None else [f"col{i}" for i in range(len(rows[0]))]
        nullable = [any(may_be_null(row[i], ()) for row in rows) for i in range(len(names))]
        fields = tuple(OutputField(n, rows[0][i].type, nullable[i]) for i, n in enumerate(names))
        literal = [tuple(e for e in row if isinstance(e, Literal)) for row in rows]
        if all(len(row) == len(names) for row in literal):
            return Values(tuple(literal), fields)
        one = Values(((),), ())
        inputs = tuple(Project(one, tuple(row), fields) for row in rows)
        return inputs[0] if len(inputs) == 1 else UnionAll(inputs, fields)

    def _tail(self, plan: Plan, node: exp.Expr) -> Plan:
        """ORDER BY and LIMIT over a whole query: its columns by name, ordinal or expression."""
        order = node.args.get("order")
        keys: list[tuple[Target, exp.Expr]] = []
        refs: list[Expression] = [ColumnRef(f.type, i, f.name) for i, f in enumerate(plan.fields)]
        if order is not None:
            binder = ExpressionBinder(self.context, Scope.of_fields(plan.fields, ""), "ORDER BY")
            places = written_items(node, [f.name for f in plan.fields])
            own = {f.name.lower() for f in plan.fields}
            for item in order.expressions:
                tree = item.this
                place = places.get(tree.sql().lower())
                if isinstance(tree, exp.Var) and tree.name.upper() == "ALL":
                    keys.extend((i, item) for i in range(len(refs)))
                elif place is not None and not (isinstance(tree, exp.Column) and tree.sql().lower() in own):
                    keys.append((place, item))
                elif isinstance(tree, exp.Literal) and not tree.is_string and tree.this.isdigit():
                    number = int(tree.this)
                    if not 1 <= number <= len(refs):
                        self.context.fail(f"ORDER BY {number}: the query has {len(refs)} columns", tree)
                    keys.append((number - 1, item))
                elif is_constant(tree):
                    self.context.fail(f"ORDER BY {CONSTANT}", tree)
                else:
                    keys.append((binder.bind(tree), item))
        if not keys:
            return TailBinder(self.context).limit(plan, node)
        return TailBinder(self.context).ordered(node, plan, refs, [f.name for f in plan.fields], keys, False)
