"""SELECT, VALUES and UNION ALL: clauses in their logical order, to a plan.

FROM -> WHERE -> GROUP BY and aggregates -> HAVING -> select list -> DISTINCT -> ORDER BY -> LIMIT. An ORDER BY
expression that is not selected becomes a hidden column and is projected away at the end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import zip_longest

from sqlglot import exp

from eventdb.logical.expressions import (
    Aggregation,
    Call,
    ColumnRef,
    Expression,
    IntervalValue,
    Literal,
    SortKey,
    transform,
    walk,
)
from eventdb.logical.functions import common_type, may_be_null
from eventdb.logical.plan import (
    Aggregate,
    Distinct,
    Fields,
    Filter,
    Limit,
    OutputField,
    Plan,
    Project,
    Sort,
    UnionAll,
    Values,
)
from eventdb.schema import BOOLEAN, NULL, VARCHAR, DataType
from eventdb.sql.context import Context
from eventdb.sql.expressions import AggregateRef, ExpressionBinder
from eventdb.sql.relations import WINDOW_COLUMNS, Relation, RelationBinder, conjunct_trees, conjuncts
from eventdb.sql.scope import Name, Scope
from eventdb.sql.tokens import FUNCTION_PREFIX


@dataclass(slots=True)
class Item:
    """One column of the select list: its tree, or a column of `*`."""

    name: str
    tree: exp.Expr | None
    column: Name | None = None
    origin: exp.Expr | None = None


@dataclass(slots=True)
class Selection:
    """What the clauses of one SELECT share."""

    relation: Relation
    items: list[Item]
    binder: ExpressionBinder
    keys: list[Expression] = field(default_factory=list)
    aggregated: bool = False
    having: Expression | None = None
    outputs: list[Expression] = field(default_factory=list)


class QueryBinder:
    """Binds queries to plans."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def bind(self, node: exp.Expr, ctes: dict[str, Plan]) -> Plan:
        """The plan of a query tree. `ctes` are the names of enclosing WITH clauses."""
        if node.args.get("with_") is not None:
            ctes = self._with(node.args["with_"], ctes)
        if isinstance(node, exp.Select):
            return self._select(node, ctes)
        if isinstance(node, exp.Union):
            return self._union(node, ctes)
        if isinstance(node, exp.Values):
            return self._tail(self.values(node), node)
        if isinstance(node, exp.Subquery):
            if node.args.get("joins"):
                self.context.unsupported("JOIN in a parenthesised query", node, "write SELECT * FROM (...) JOIN ...")
            return self._tail(self.bind(node.this, ctes), node)
        if isinstance(node, exp.Paren):
            return self.bind(node.this, ctes)
        if not isinstance(node, exp.Query):
            self.context.fail("expected a query: SELECT, VALUES, WITH or FROM", node)
        self.context.unsupported(type(node).__name__.upper(), node)

    def _with(self, node: exp.Expr, ctes: dict[str, Plan]) -> dict[str, Plan]:
        if node.args.get("recursive"):
            self.context.unsupported("WITH RECURSIVE", node)
        known = dict(ctes)
        here: set[str] = set()
        for cte in node.expressions:
            name = cte.alias.lower()
            if name in here:
                self.context.fail(f"WITH names {cte.alias!r} twice", cte.args["alias"])
            here.add(name)
            plan = self.bind(cte.this, known)
            columns = [part.name for part in cte.args["alias"].args.get("columns") or []]
            if columns:
                if len(columns) != len(plan.fields):
                    self.context.fail(f"{len(columns)} column names for {len(plan.fields)} columns", cte.args["alias"])
                plan = _renamed(plan, columns)
            known[name] = plan
        return known

    # -- SELECT ----------------------------------------------------------------------------------------------------

    def _select(self, node: exp.Select, ctes: dict[str, Plan]) -> Plan:
        relations = RelationBinder(self.context, ctes, self.bind)
        where = conjunct_trees(node.args["where"].this) if node.args.get("where") is not None else []
        relation = relations.bind_from(node, where)
        aliases = _aliases(node)
        if where:
            binder = ExpressionBinder(self.context, relation.scope, "WHERE", aliases=aliases)
            terms = [binder.predicate(term) for term in where]
            flat = [part for term in terms for part in conjuncts(term)]
            predicate = flat[0] if len(flat) == 1 else Call(BOOLEAN, "and", tuple(flat))
            relation = Relation(Filter(relation.plan, predicate), relation.scope)
        relation, window = self._window_of_group(node, relation, relations)
        binder = ExpressionBinder(self.context, relation.scope, "SELECT", [], aliases)
        binder.replaced = window
        selection = Selection(relation, self._items(node, relation.scope), binder)
        self._group(node, selection)
        for item in selection.items:
            output = self._column(item) if item.tree is None else binder.bind(item.tree)
            if item.origin is not None:
                binder.places.setdefault(output, item.origin)
            item.name = item.name or self._name_of(item.tree, output, binder)
            selection.outputs.append(output)
        if node.args.get("having") is not None:
            binder.clause = "HAVING"
            selection.having = binder.predicate(node.args["having"].this)
        return self._finish(node, selection)

    @staticmethod
    def _column(item: Item) -> Expression:
        assert item.column is not None
        return ColumnRef(item.column.type, item.column.index, item.column.name)

    def _name_of(self, tree: exp.Expr | None, bound: Expression, binder: ExpressionBinder) -> str:
        """The output name of an expression without an alias: its column, its call as written, or its bound form."""
        if isinstance(tree, (exp.Cast, exp.TryCast)) and not isinstance(tree.this, exp.Literal):
            return self._name_of(tree.this, bound.children()[0] if bound.children() else bound, binder)
        inner = tree
        while isinstance(inner, exp.Paren):
            inner = inner.this
        if isinstance(inner, exp.Column):
            return inner.name
        if isinstance(tree, (exp.Placeholder, exp.Parameter)):
            return f"${tree.name}"
        written = self.context.written(tree)
        if written is not None:
            return written
        aggregations = binder.aggregations or []

        def named(part: Expression) -> Expression:
            return ColumnRef(part.type, 0, str(aggregations[part.index])) if isinstance(part, AggregateRef) else part

        text = str(transform(bound, named))
        return text[1:-1] if text.startswith("(") and text.endswith(")") and isinstance(bound, Call) else text

    def _items(self, node: exp.Select, scope: Scope) -> list[Item]:
        items: list[Item] = []
        for tree in node.expressions:
            star = tree if isinstance(tree, exp.Star) else tree.this if isinstance(tree, exp.Column) else None
            if isinstance(star, exp.Star):
                items.extend(self._star(tree, star, scope))
            elif isinstance(tree, exp.Alias):
                items.append(Item(tree.alias, tree.this))
            elif isinstance(tree, exp.Aliases):
                self.context.unsupported("several aliases for one expression", tree)
            else:
                items.append(Item("", tree))
        if not items:
            self.context.fail("the select list is empty", node)
        return items

    def _star(self, tree: exp.Expr, star: exp.Star, scope: Scope) -> list[Item]:
        table = tree.table if isinstance(tree, exp.Column) else ""
        if table and table.lower() not in (known.lower() for known in scope.tables):
            scope.find("*", table, self.context, tree)
        columns = list(scope.star(table))
        if not columns:
            self.context.fail("* needs a FROM", tree)
        removed = {part.name.lower(): part for part in star.args.get("except_") or []}
        replaced = {part.alias.lower(): part for part in star.args.get("replace") or []}
        present = {column.name.lower() for column in columns}
        for name, part in (removed | replaced).items():
            if name not in present:
                scope.missing(part.alias_or_name, table, [], self.context, part)
        return [
            Item(c.name, replaced[c.name.lower()].this) if c.name.lower() in replaced else Item(c.name, None, c, tree)
            for c in columns
            if c.name.lower() not in removed
        ]

    # -- GROUP BY --------------------------------------------------------------------------------------------------

    def _window_of_group(
        self, node: exp.Select, relation: Relation, relations: RelationBinder
    ) -> tuple[Relation, dict[str, Expression]]:
        """GROUP BY TUMBLE(ts, '1m') or HOP(ts, slide, size): the input put into windows, and the window columns."""
        group = node.args.get("group")
        for tree in group.expressions if group is not None else []:
            name = _window_function(tree)
            if name is None:
                continue
            order = ["slide", "size"] if name == "hop" else ["size"]
            if len(tree.expressions) != len(order) + 1:
                wanted = "HOP(ts, slide, size)" if name == "hop" else "TUMBLE(ts, size)"
                self.context.fail(f"in GROUP BY write {wanted}", tree)
            binder = ExpressionBinder(self.context, relation.scope, "GROUP BY")
            time = binder.bind(tree.expressions[0])
            for key, value in zip(order, tree.expressions[1:], strict=True):
                if isinstance(value, (exp.Kwarg, exp.PropertyEQ)) and value.this.name.lower() != key:
                    self.context.fail(f"{name}(): expected {key} here; the order is {', '.join(order)}", value)
            widths = {
                key: value.expression if isinstance(value, (exp.Kwarg, exp.PropertyEQ)) else value
                for key, value in zip(order, tree.expressions[1:], strict=True)
            }
            base = len(relation.plan.fields)
            windowed = relations.windowed(relation, time, widths, name, tree, binder)
            fields = windowed.plan.fields[base:]
            refs: dict[str, Expression] = {f.name: ColumnRef(f.type, base + i, f.name) for i, f in enumerate(fields)}
            return Relation(windowed.plan, relation.scope), refs
        return relation, {}

    def _group(self, node: exp.Select, selection: Selection) -> None:
        group = node.args.get("group")
        if group is None:
            return
        selection.aggregated = True
        if group.args.get("all"):
            self._group_all(selection)
            return
        keys = selection.keys
        for tree in group.expressions:
            if _window_function(tree) is not None:
                if sum(_window_function(other) is not None for other in group.expressions) > 1:
                    self.context.unsupported("two windows in GROUP BY", tree)
                keys.extend(selection.binder.replaced[name] for name in self._window_keys())
                continue
            key = self._group_key(tree, selection)
            if isinstance(key, Literal):
                self.context.fail("GROUP BY a constant", tree)
            if key not in keys:
                keys.append(key)

    def _window_keys(self) -> list[str]:
        """The window columns a statement that groups by TUMBLE or HOP uses; the start always."""
        words = self.context.words
        ends = any(word.endswith(("tumble_end", "hop_end")) for word in words)
        return [
            name
            for name in WINDOW_COLUMNS
            if name == "window_start" or name in words or (name == "window_end" and ends)
        ]

    def _group_key(self, tree: exp.Expr, selection: Selection) -> Expression:
        binder = ExpressionBinder(self.context, selection.relation.scope, "GROUP BY", aliases=selection.binder.aliases)
        binder.replaced = selection.binder.replaced
        if isinstance(tree, exp.Literal) and not tree.is_string and tree.this.isdigit():
            item = self._ordinal(tree, selection, "GROUP BY")
            return self._column(item) if item.tree is None else binder.bind(item.tree)
        key = binder.bind(tree)
        selection.binder.places.update(binder.places)
        return key

    def _ordinal(self, tree: exp.Literal, selection: Selection, clause: str) -> Item:
        number = int(tree.this)
        if not 1 <= number <= len(selection.items):
            self.context.fail(f"{clause} {number}: the select list has {len(selection.items)} columns", tree)
        return selection.items[number - 1]

    def _group_all(self, selection: Selection) -> None:
        """Every select item without an aggregate is a key."""
        probe = ExpressionBinder(self.context, selection.relation.scope, "SELECT", [], selection.binder.aliases)
        for item in selection.items:
            bound = self._column(item) if item.tree is None else probe.bind(item.tree)
            has_aggregate = any(isinstance(part, AggregateRef) for part in walk(bound))
            if not has_aggregate and not isinstance(bound, Literal) and bound not in selection.keys:
                selection.keys.append(bound)

    # -- the rest of the clauses -----------------------------------------------------------------------------------

    def _finish(self, node: exp.Select, selection: Selection) -> Plan:
        binder = selection.binder
        distinct = node.args.get("distinct")
        if distinct is not None and distinct.args.get("on") is not None:
            self.context.unsupported("DISTINCT ON", node)
        order = self._order(node, selection)
        aggregations = binder.aggregations or []
        plan = selection.relation.plan
        aggregated = selection.aggregated or bool(aggregations) or selection.having is not None
        outputs = selection.outputs
        if aggregated:
            plan = _aggregate(plan, selection.keys, aggregations)
            over = _OverGroups(self.context, binder, selection.keys, plan)
            if selection.having is not None:
                plan = Filter(plan, over.rewrite(selection.having))
            outputs = [over.rewrite(output) for output in outputs]
            order = [(over.rewrite(e) if not isinstance(e, int) else e, o) for e, o in order]
        names = [item.name for item in selection.items]
        return self._ordered(node, plan, outputs, names, order, distinct is not None)

    def _ordered(
        self, node: exp.Expr, plan: Plan, outputs: list[Expression], names: list[str],
        order: list[tuple[Expression | int, exp.Expr]], distinct: bool,
    ) -> Plan:  # fmt: skip
        """Project, DISTINCT, ORDER BY, LIMIT."""
        visible = len(outputs)
        columns = list(outputs)
        keys: list[SortKey] = []
        for target, tree in order:
            if isinstance(target, int):
                index = target
            elif target in columns:
                index = columns.index(target)
            else:
                if distinct:
                    self.context.fail("with DISTINCT, ORDER BY must name selected columns", tree)
                columns.append(target)
                index = len(columns) - 1
            ref = ColumnRef(columns[index].type, index, names[index] if index < visible else str(columns[index]))
            keys.append(SortKey(ref, bool(tree.args.get("desc")), bool(tree.args.get("nulls_first"))))
        self._check_months(columns, node)
        hidden = [str(column) for column in columns[visible:]]
        result: Plan = project(plan, columns, [*names, *hidden])
        if distinct:
            result = Distinct(result)
        if keys:
            result = Sort(result, tuple(keys))
        result = self._limit(result, node)
        if hidden:
            kept = [ColumnRef(f.type, i, f.name) for i, f in enumerate(result.fields[:visible])]
            result = project(result, kept, names)
        return result

    def _check_months(self, columns: list[Expression], node: exp.Expr) -> None:
        for column in columns:
            if column.type.name == "INTERVAL":
                for part in walk(column):
                    if isinstance(part, Literal) and isinstance(part.value, IntervalValue) and part.value.months:
                        self.context.unsupported("a calendar interval (months, years) as a value", node)

    def _order(self, node: exp.Select, selection: Selection) -> list[tuple[Expression | int, exp.Expr]]:
        """Each ORDER BY item as a position of the select list or an expression over the input."""
        order = node.args.get("order")
        result: list[tuple[Expression | int, exp.Expr]] = []
        binder = selection.binder
        binder.clause = "ORDER BY"
        for item in order.expressions if order is not None else []:
            tree = item.this
            if isinstance(tree, exp.Var) and tree.name.upper() == "ALL":
                result.extend((i, item) for i in range(len(selection.items)))
            elif isinstance(tree, exp.Literal) and not tree.is_string and tree.this.isdigit():
                result.append((selection.items.index(self._ordinal(tree, selection, "ORDER BY")), item))
            else:
                named = self._output_named(tree, selection)
                result.append((named if named is not None else binder.bind(tree), item))
        return result

    @staticmethod
    def _output_named(tree: exp.Expr, selection: Selection) -> int | None:
        """The one select item a bare name stands for."""
        if not isinstance(tree, exp.Column) or tree.table:
            return None
        found = [i for i, item in enumerate(selection.items) if item.name.lower() == tree.name.lower()]
        return found[0] if found and len({selection.outputs[i] for i in found}) == 1 else None

    def _limit(self, plan: Plan, node: exp.Expr) -> Plan:
        limit, offset = node.args.get("limit"), node.args.get("offset")
        if limit is None and offset is None:
            return plan
        if isinstance(limit, exp.Fetch):
            row_count = self._count(limit.args.get("count") or exp.Literal.number(1), "FETCH")
        else:
            row_count = self._count(limit.expression if limit is not None else None, "LIMIT")
        skip = self._count(offset.expression if offset is not None else None, "OFFSET") or 0
        return plan if row_count is None and not skip else Limit(plan, row_count, skip)

    def _count(self, tree: exp.Expr | None, clause: str) -> int | None:
        """A row count: a literal or parameter, NULL and ALL meaning no limit."""
        if tree is None or (isinstance(tree, (exp.Var, exp.Column)) and tree.name.upper() == "ALL"):
            return None
        bound = ExpressionBinder(self.context, Scope([], []), clause).bind(tree)
        if not isinstance(bound, Literal) or not (bound.type.is_integer or bound.value is None):
            self.context.fail(f"{clause} needs a whole number", tree)
        if bound.value is not None and bound.value < 0:
            self.context.fail(f"{clause} must not be negative", tree)
        return None if bound.value is None else int(bound.value)

    # -- VALUES and UNION ------------------------------------------------------------------------------------------

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
                    default if default is not None and _says_default(c) else assign(binder, binder.bind(c), t, n, c)
                    for default, (n, t), c in zip_longest(defaults, targets, cells)
                ]
            rows.append(row)
        if targets is None:
            columns = [binder.unify(column, node, "VALUES") for column in zip(*rows, strict=True)]
            columns = [[binder.coerce(e, VARCHAR, node) for e in c] if c[0].type == NULL else c for c in columns]
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

    def _union(self, node: exp.Union, ctes: dict[str, Plan]) -> Plan:
        branches: list[exp.Expr] = []
        current: exp.Expr = node
        kinds: list[bool] = []
        while isinstance(current, exp.Union) and (current is node or not _has_tail(current)):
            kinds.append(bool(current.args.get("distinct")))
            branches.append(current.expression)
            current = current.this
        branches.append(current)
        if any(kinds):
            self.context.unsupported("UNION without ALL", node, "write SELECT DISTINCT * FROM (... UNION ALL ...)")
        plans = [self.bind(branch, ctes) for branch in reversed(branches)]
        return self._tail(self.union_all(plans, list(reversed(branches))), node)

    def union_all(self, plans: list[Plan], trees: list[exp.Expr]) -> Plan:
        """The plans one after another, columns cast to their common types, named by the first."""
        width = len(plans[0].fields)
        for plan, tree in zip(plans, trees, strict=True):
            if len(plan.fields) != width:
                self.context.fail(f"UNION ALL: {width} columns above, {len(plan.fields)} here", tree)
        types: list[DataType] = []
        for i in range(width):
            merged: DataType | None = plans[0].fields[i].type
            for plan, tree in zip(plans, trees, strict=True):
                found = common_type(merged, plan.fields[i].type) if merged is not None else None
                if found is None:
                    self.context.fail(
                        f"UNION ALL: column {i + 1} is {merged} above and {plan.fields[i].type} here", tree
                    )
                merged = found
            assert merged is not None
            types.append(merged)
        binder = ExpressionBinder(self.context, Scope([], []), "UNION ALL")
        names = [f.name for f in plans[0].fields]
        cast = []
        for plan in plans:
            if [f.type for f in plan.fields] != types:
                refs = [ColumnRef(f.type, i, f.name) for i, f in enumerate(plan.fields)]
                plan = project(plan, [binder.coerce(r, t, None) for r, t in zip(refs, types, strict=True)], names)
            cast.append(plan)
        fields = tuple(
            OutputField(names[i], types[i], any(plan.fields[i].nullable for plan in cast)) for i in range(width)
        )
        return UnionAll(tuple(cast), fields)

    def _tail(self, plan: Plan, node: exp.Expr) -> Plan:
        """ORDER BY and LIMIT over a whole query: its columns by name, ordinal or expression."""
        order = node.args.get("order")
        keys: list[tuple[Expression | int, exp.Expr]] = []
        refs: list[Expression] = [ColumnRef(f.type, i, f.name) for i, f in enumerate(plan.fields)]
        if order is not None:
            binder = ExpressionBinder(self.context, Scope.of_fields(plan.fields, ""), "ORDER BY")
            for item in order.expressions:
                tree = item.this
                if isinstance(tree, exp.Literal) and not tree.is_string and tree.this.isdigit():
                    number = int(tree.this)
                    if not 1 <= number <= len(refs):
                        self.context.fail(f"ORDER BY {number}: the query has {len(refs)} columns", tree)
                    keys.append((number - 1, item))
                else:
                    keys.append((binder.bind(tree), item))
        if not keys:
            return self._limit(plan, node)
        return self._ordered(node, plan, refs, [f.name for f in plan.fields], keys, False)


class _OverGroups:
    """Rewrites expressions over the input into expressions over an Aggregate's output."""

    def __init__(self, context: Context, binder: ExpressionBinder, keys: list[Expression], plan: Plan) -> None:
        self.context = context
        self.binder = binder
        self.keys = keys
        self.fields = plan.fields

    def rewrite(self, expression: Expression) -> Expression:
        """BindError for a column that is neither grouped nor inside an aggregate."""
        if expression in self.keys:
            index = self.keys.index(expression)
            return ColumnRef(expression.type, index, self.fields[index].name)
        if isinstance(expression, AggregateRef):
            index = len(self.keys) + expression.index
            return ColumnRef(expression.type, index, self.fields[index].name)
        if isinstance(expression, ColumnRef):
            self.context.fail(
                f"column {expression.name!r} must be in GROUP BY or inside an aggregate such as max({expression.name})",
                self.binder.places.get(expression),
            )
        children = expression.children()
        if not children:
            return expression
        return expression.with_children(tuple(self.rewrite(child) for child in children))


def _aggregate(plan: Plan, keys: list[Expression], aggregations: list[Aggregation]) -> Aggregate:
    nullable = [f.nullable for f in plan.fields]
    fields = [OutputField(str(key), key.type, may_be_null(key, nullable)) for key in keys]
    fields += [OutputField(str(a), a.type, a.function not in ("count", "count_star")) for a in aggregations]
    return Aggregate(plan, tuple(keys), tuple(aggregations), tuple(fields))


def project(plan: Plan, expressions: list[Expression] | list[ColumnRef], names: list[str]) -> Project:
    """A Project with nullability worked out."""
    nullable = [f.nullable for f in plan.fields]
    fields: Fields = tuple(
        OutputField(name, e.type, may_be_null(e, nullable)) for name, e in zip(names, expressions, strict=True)
    )
    return Project(plan, tuple(expressions), fields)


def _says_default(node: exp.Expr) -> bool:
    return isinstance(node, exp.Var) and str(node.this).upper() == "DEFAULT"


def assign(
    binder: ExpressionBinder, value: Expression, target: DataType, column: str, node: exp.Expr | None
) -> Expression:
    """A value in the type of the column it is stored in, as INSERT converts: numbers, times, string literals, text."""
    if value.type == target:
        return value
    numbers = value.type.is_numeric and target.is_numeric
    times = value.type.name in ("DATE", "TIMESTAMP") and target.name in ("DATE", "TIMESTAMP")
    if numbers or times or value.type == NULL or (isinstance(value, Literal) and value.type == VARCHAR):
        return binder.coerce(value, target, node)
    binder.context.fail(f"column {column!r} is {target}, this is {value.type}; write CAST(... AS {target})", node)


def _renamed(plan: Plan, names: list[str]) -> Plan:
    refs = [ColumnRef(f.type, i, f.name) for i, f in enumerate(plan.fields)]
    return replace(project(plan, refs, names))


def _aliases(node: exp.Select) -> dict[str, exp.Expr]:
    return {tree.alias.lower(): tree.this for tree in node.expressions if isinstance(tree, exp.Alias)}


def _has_tail(node: exp.Expr) -> bool:
    return any(node.args.get(part) is not None for part in ("order", "limit", "offset", "with_"))


def _window_function(tree: exp.Expr) -> str | None:
    """tumble or hop, if the tree calls one (or Spark's window)."""
    if not isinstance(tree, exp.Anonymous):
        return None
    name = str(tree.this).removeprefix(FUNCTION_PREFIX).lower()
    return {"tumble": "tumble", "hop": "hop", "window": "tumble"}.get(name)
