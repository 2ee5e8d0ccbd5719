"""UNION, INTERSECT and EXCEPT, with ALL and BY NAME: columns brought to common types, names from the first query.

The parser nests them: INTERSECT binds tighter than the others, which go from left to right.
"""

from __future__ import annotations

from collections.abc import Callable

from sqlglot import exp

from eventdb.logical.constants import cast_literal
from eventdb.logical.expressions import ColumnRef, Expression, Literal
from eventdb.logical.functions import common_type
from eventdb.logical.plan import Distinct, OutputField, Plan, Project, UnionAll
from eventdb.logical.relational import SetOperation
from eventdb.schema import NULL, VARCHAR, DataType
from eventdb.sql.context import Context
from eventdb.sql.expressions import ExpressionBinder
from eventdb.sql.projection import project
from eventdb.sql.scope import Scope


class SetOperationBinder:
    def __init__(self, context: Context, bind: Callable[[exp.Expr], Plan]) -> None:
        self.context = context
        self.bind_query = bind

    def bind(self, node: exp.SetOperation) -> Plan:
        """The plan of a chain of operators, without the ORDER BY and LIMIT over it."""
        chain: list[exp.SetOperation] = []
        current: exp.Expr = node
        while isinstance(current, exp.SetOperation) and (current is node or not has_tail(current)):
            chain.append(current)
            current = current.this
        plan = self.bind_query(current)
        for operator in reversed(chain):
            plan = self._combined(plan, operator, self.bind_query(operator.expression))
        return plan

    def _combined(self, left: Plan, node: exp.SetOperation, right: Plan) -> Plan:
        distinct = bool(node.args.get("distinct"))
        kind = type(node).__name__.lower()
        what = kind.upper() + ("" if distinct else " ALL")
        if node.args.get("by_name"):
            if kind != "union":
                self.context.unsupported(f"{what} BY NAME", node)
            left, right = self._by_name(left, right)
        if kind != "union":
            plans, fields = self.aligned([left, right], [node, node.expression], what)
            return SetOperation(kind, plans[0], plans[1], not distinct, fields)
        parts = list(left.inputs) if isinstance(left, UnionAll) and not distinct else [left]
        plans, fields = self.aligned([*parts, right], [*[node] * len(parts), node.expression], what)
        union = UnionAll(tuple(plans), fields)
        return Distinct(union) if distinct else union

    def _by_name(self, left: Plan, right: Plan) -> tuple[Plan, Plan]:
        """Both with the columns of the left one, then those only the right one has; NULL where one has it not."""
        names = {f.name.lower(): f.name for f in (*right.fields, *left.fields)}
        order = list(dict.fromkeys(f.name.lower() for f in (*left.fields, *right.fields)))
        arranged = []
        for plan in (left, right):
            places = {f.name.lower(): i for i, f in enumerate(plan.fields)}
            values: list[Expression] = [Literal(NULL, None)] * len(order)
            for i, name in enumerate(order):
                place = places.get(name)
                if place is None:
                    continue
                values[i] = ColumnRef(plan.fields[place].type, place, names[name])
                if isinstance(plan, Project) and isinstance(plan.expressions[place], Literal):
                    values[i] = plan.expressions[place]  # for _readable to see
            arranged.append(project(plan, values, [names[n] for n in order]))
        return arranged[0], arranged[1]

    def aligned(
        self, plans: list[Plan], trees: list[exp.Expr], what: str
    ) -> tuple[list[Plan], tuple[OutputField, ...]]:
        """The plans with the same types, and the fields of their combination. BindError where there is no such type."""
        width = len(plans[0].fields)
        for plan, tree in zip(plans, trees, strict=True):
            if len(plan.fields) != width:
                self.context.fail(f"{what}: {width} columns above, {len(plan.fields)} here", tree)
        types: list[DataType] = []
        plans = self._readable(plans)
        for i in range(width):
            merged: DataType | None = plans[0].fields[i].type
            for plan, tree in zip(plans, trees, strict=True):
                found = common_type(merged, plan.fields[i].type) if merged is not None else None
                if found is None:
                    self.context.fail(f"{what}: column {i + 1} is {merged} above and {plan.fields[i].type} here", tree)
                merged = found
            assert merged is not None
            types.append(merged)
        binder = ExpressionBinder(self.context, Scope([], []), what)
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
        return cast, fields

    @staticmethod
    def _readable(plans: list[Plan]) -> list[Plan]:
        """Text that is written in a query as a value of the type its column has in the others, as in PostgreSQL."""
        result = list(plans)
        for place, plan in enumerate(plans):
            if not isinstance(plan, Project):
                continue
            expressions = list(plan.expressions)
            for i, value in enumerate(expressions):
                wanted = {p.fields[i].type for p in plans} - {value.type, NULL}
                if isinstance(value, Literal) and value.type == VARCHAR and len(wanted) == 1:
                    expressions[i] = cast_literal(value, wanted.pop()) or value
            if tuple(expressions) != plan.expressions:
                result[place] = project(plan.input, expressions, [f.name for f in plan.fields])
        return result


def has_tail(node: exp.Expr) -> bool:
    """Whether clauses stand behind a query as a whole."""
    return any(node.args.get(part) is not None for part in ("order", "limit", "offset", "with_"))


def written_items(node: exp.Expr, names: list[str]) -> dict[str, int]:
    """The places of the columns of a set operation under what its queries wrote: names, aliases and expressions, those
    of the first query that has them. Its ORDER BY may say these besides `names`, its own columns."""
    columns = _written(node) if isinstance(node, exp.SetOperation) else None
    if columns is None:
        return {}
    places = {name.lower(): i for i, name in reversed(list(enumerate(names)))}
    found: dict[str, int] = {}
    for name, texts in columns:
        for text in texts:
            if name in places:
                found.setdefault(text, places[name])
    return found


def _written(node: exp.Expr) -> list[tuple[str, list[str]]] | None:
    """For each column of a query its name and what is written for it; None where that cannot be told."""
    while isinstance(node, (exp.Subquery, exp.Paren)):
        node = node.this
    if isinstance(node, exp.Select):
        if any(item.is_star or item.find(exp.Columns) is not None for item in node.expressions):
            return None
        columns = []
        for item in node.expressions:
            tree = item.this if isinstance(item, exp.Alias) else item
            text = tree.sql().lower()
            name = item.alias_or_name.lower() or text
            texts = [name] if isinstance(tree, exp.Literal) else [name, text]
            if isinstance(tree, exp.Column):
                texts += [f"{table.alias_or_name}.{tree.name}".lower() for table in node.find_all(exp.Table)]
            columns.append((name, texts))
        return columns
    if not isinstance(node, exp.SetOperation):
        return None
    left, right = _written(node.this), _written(node.expression)
    if left is None or right is None:
        return left
    if not node.args.get("by_name"):
        return [(name, [*texts, *more]) for (name, texts), (_, more) in zip(left, right, strict=False)]
    merged = {name: list(texts) for name, texts in left}
    for name, texts in right:
        merged.setdefault(name, []).extend(texts)
    return list(merged.items())
