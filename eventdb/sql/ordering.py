"""The end of a query: project, DISTINCT, ORDER BY, LIMIT. What is ordered by and not selected is a hidden column."""

from __future__ import annotations

from sqlglot import exp

from eventdb.logical.constants import cast_literal
from eventdb.logical.expressions import Call, ColumnRef, Expression, IntervalValue, Literal, SortKey, walk
from eventdb.logical.over import Over, OverCall
from eventdb.logical.plan import Distinct, DistinctOn, Filter, Limit, OutputField, Plan, Sort, Values
from eventdb.logical.relational import LimitValue
from eventdb.logical.rules.fold_constants import fold
from eventdb.logical.subqueries import holds_subquery
from eventdb.schema import BIGINT, BOOLEAN, DOUBLE, NULL
from eventdb.sql.context import Context
from eventdb.sql.expressions import ExpressionBinder
from eventdb.sql.projection import project
from eventdb.sql.scope import Scope

Target = Expression | int
"""What is ordered by: an expression over the input, or a position of the select list."""


RowCount = Expression | int | None
"""A number of rows, None for all, or the value of a subquery."""


class TailBinder:
    """Binds the clauses that end a query."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def ordered(
        self, node: exp.Expr, plan: Plan, outputs: list[Expression], names: list[str],
        order: list[tuple[Target, exp.Expr]], distinct: bool, on: list[Target] | None = None,
    ) -> Plan:  # fmt: skip
        """Project, DISTINCT, ORDER BY, DISTINCT ON, LIMIT."""
        visible = len(outputs)
        columns = list(outputs)
        keys: list[SortKey] = []
        for target, tree in order:
            if isinstance(target, int):
                index = target
            else:
                if distinct and target not in columns:
                    self.context.fail("with DISTINCT, ORDER BY must name selected columns", tree)
                index = _place(target, columns)
            ref = ColumnRef(columns[index].type, index, names[index] if index < visible else str(columns[index]))
            keys.append(SortKey(ref, bool(tree.args.get("desc")), bool(tree.args.get("nulls_first"))))
        first: list[ColumnRef] = []
        for target in on or ():
            index = target if isinstance(target, int) else _place(target, columns)
            first.append(ColumnRef(columns[index].type, index, str(columns[index])))
        self._check_months(columns, node)
        hidden = [str(column) for column in columns[visible:]]
        result: Plan = project(plan, columns, [*names, *hidden])
        if distinct:
            result = Distinct(result)
        if keys:
            result = Sort(result, tuple(keys))
        if first:
            result = DistinctOn(result, tuple(first))
        result = self.limit(result, node)
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

    def limit(self, plan: Plan, node: exp.Expr) -> Plan:
        limit, offset = node.args.get("limit"), node.args.get("offset")
        if limit is None and offset is None:
            return plan
        options = limit.args.get("limit_options") if limit is not None else None
        if limit is not None and options is not None and options.args.get("percent"):
            return self._percent(plan, limit, offset)
        if isinstance(limit, exp.Fetch):
            row_count = self._count(limit.args.get("count") or exp.Literal.number(1), "FETCH")
        else:
            row_count = self._count(limit.expression if limit is not None else None, "LIMIT")
        skip = self._count(offset.expression if offset is not None else None, "OFFSET")
        if isinstance(row_count, Expression) or isinstance(skip, Expression):
            return self._computed(plan, row_count, skip, node)
        return plan if row_count is None and not skip else Limit(plan, row_count, skip or 0)

    def _computed(self, plan: Plan, row_count: RowCount, skip: RowCount, node: exp.Expr) -> Plan:
        """LIMIT and OFFSET by the values of subqueries; inside a subquery as the rows whose number lies between."""
        binder = ExpressionBinder(self.context, Scope([], []), "LIMIT")
        if not self.context.enclosing:
            values = [v if isinstance(v, Expression) else Literal(BIGINT, v) for v in (row_count, skip)]
            return LimitValue(plan, project(Values(((),), ()), values, ["limit", "offset"]))
        width = len(plan.fields)
        call = OverCall("row_number", (), BIGINT)
        place = ColumnRef(BIGINT, width, str(call))
        zero = Literal(BIGINT, 0)
        skipped: Expression = Literal(BIGINT, skip or 0) if not isinstance(skip, Expression) else skip
        skipped = binder.call("coalesce", [skipped, zero], node)
        terms = [binder.call("gt", [place, skipped], node)]
        if row_count is not None:
            most = row_count if isinstance(row_count, Expression) else Literal(BIGINT, row_count)
            inside = binder.call("le", [binder.call("subtract", [place, skipped], node), most], node)
            terms.append(Call(BOOLEAN, "or", (inside, binder.call("is_null", [most], node))))
        numbered = Over(plan, (call,), (OutputField(str(call), BIGINT, False),))
        refs = [ColumnRef(f.type, i, f.name) for i, f in enumerate(plan.fields)]
        return project(Filter(numbered, Call(BOOLEAN, "and", tuple(terms))), refs, [f.name for f in plan.fields])

    def _percent(self, plan: Plan, limit: exp.Expr, offset: exp.Expr | None) -> Plan:
        """LIMIT p%: that share of all rows, rounded down, after those that OFFSET skips."""
        tree = limit.args.get("count") if isinstance(limit, exp.Fetch) else limit.expression
        binder = ExpressionBinder(self.context, Scope([], []), "LIMIT")
        percent = self._share(binder, tree)
        skip = self._count(offset.expression if offset is not None else None, "OFFSET")
        skipped = skip if isinstance(skip, Expression) else Literal(BIGINT, skip or 0)
        calls = (OverCall("count_star", (), BIGINT), OverCall("row_number", (), BIGINT))
        width = len(plan.fields)
        counted = Over(plan, calls, tuple(OutputField(str(call), BIGINT, False) for call in calls))
        rows, place = (ColumnRef(BIGINT, width + i, str(call)) for i, call in enumerate(calls))
        part = binder.call("divide", [binder.call("multiply", [rows, percent], tree), Literal(DOUBLE, 100.0)], tree)
        last = binder.call("add", [binder.call("floor", [part], tree), skipped], tree)
        kept: Expression = binder.call("le", [place, last], tree)
        if skip:
            kept = Call(BOOLEAN, "and", (binder.call("gt", [place, skipped], tree), kept))
        refs = [ColumnRef(f.type, i, f.name) for i, f in enumerate(plan.fields)]
        return project(Filter(counted, kept), refs, [f.name for f in plan.fields])

    def _share(self, binder: ExpressionBinder, tree: exp.Expr | None) -> Expression:
        """A percentage: a constant from 0 to 100, or what a subquery gives."""
        share = fold(binder.bind(tree)) if tree is not None else binder.null()
        if holds_subquery(share) and share.type.is_numeric:
            return binder.cast(share, DOUBLE, tree)
        percent = cast_literal(share, DOUBLE) if isinstance(share, Literal) and share.type.is_numeric else None
        if percent is None or percent.value is None or not 0 <= percent.value <= 100:
            self.context.fail("LIMIT needs a percentage between 0 and 100", tree)
        return percent

    def _count(self, tree: exp.Expr | None, clause: str) -> RowCount:
        """A row count: a constant or parameter, NULL and ALL meaning no limit; or what a subquery gives."""
        if tree is None or (isinstance(tree, (exp.Var, exp.Column)) and tree.name.upper() == "ALL"):
            return None
        binder = ExpressionBinder(self.context, Scope([], []), clause)
        bound = fold(binder.bind(tree))
        if holds_subquery(bound) and (bound.type.is_numeric or bound.type == NULL):
            return binder.cast(bound, BIGINT, tree)
        if isinstance(bound, Literal) and bound.type.is_numeric:
            bound = cast_literal(bound, BIGINT) or bound
        if not isinstance(bound, Literal) or not (bound.type.is_integer or bound.value is None):
            self.context.fail(f"{clause} needs a whole number", tree)
        if bound.value is not None and bound.value < 0:
            self.context.fail(f"{clause} must not be negative", tree)
        return None if bound.value is None else int(bound.value)


def is_constant(tree: exp.Expr) -> bool:
    """Whether an ORDER BY item is a literal that orders nothing (a number without a sign is a place)."""
    inner = tree.this if isinstance(tree, exp.Neg) else tree
    return isinstance(inner, (exp.Literal, exp.Boolean, exp.Null))


CONSTANT = "a constant changes nothing; name a column, or its place as a number"


def _place(expression: Expression, columns: list[Expression]) -> int:
    """The position of an expression among the columns, to which it is added if it is new."""
    if expression not in columns:
        columns.append(expression)
    return columns.index(expression)
