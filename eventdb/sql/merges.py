"""MERGE INTO target USING source ON condition | USING (columns) WHEN ... THEN ... [RETURNING ...]."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sqlglot import exp

from eventdb.logical.expressions import ColumnRef, Expression, Literal, columns_of, remap
from eventdb.logical.plan import Plan
from eventdb.logical.predicates import terms_of
from eventdb.logical.subqueries import holds_subquery
from eventdb.schema import BOOLEAN, VARCHAR
from eventdb.sql.changes import (
    alias_of,
    assignments,
    columns_of_table,
    default_of,
    refuse_same_name,
    source_rows,
    target,
    target_rows,
)
from eventdb.sql.context import Context
from eventdb.sql.expressions import ExpressionBinder
from eventdb.sql.inserts import positions, wrong_width
from eventdb.sql.joins import join_plan
from eventdb.sql.projection import assign, project, says_default
from eventdb.sql.queries import QueryBinder
from eventdb.sql.relation import Relation
from eventdb.sql.returning import returned
from eventdb.sql.scope import Scope
from eventdb.sql.statements import Merge, MergeClause, TableInfo
from eventdb.sql.words import Words

_ACTIONS = ("UPDATE", "DELETE", "INSERT", "DO", "ERROR")
_MARK = "_source"


class _Merge:
    """The two sides of one MERGE."""

    def __init__(self, words: Words, context: Context, table: TableInfo, alias: str) -> None:
        self.words = words
        self.context = context
        self.table = table
        self.alias = alias
        self.target = target_rows(table, alias)
        self.source = self.target
        self.joined = self.target.scope
        self.terms: list[Expression] = []

    def join(self) -> None:
        """Reads USING source, and ON condition or USING (columns)."""
        words, context = self.words, self.context
        words.expect("USING")
        start = words.index
        places = [words.at_depth_zero(start, word) for word in ("ON", "USING")]
        stop = min([place for place in places if place is not None], default=words.stop)
        source = source_rows(words, context, start, stop, "MERGE")
        refuse_same_name(words, self.target.scope, source.scope, start)
        refs = [ColumnRef(f.type, i, f.name) for i, f in enumerate(source.plan.fields)]
        names = [*(f.name for f in source.plan.fields), _MARK]
        self.source = Relation(project(source.plan, [*refs, Literal(BOOLEAN, True)], names), source.scope)
        width = len(self.target.plan.fields)
        self.joined = self.target.scope.joined(source.scope, width)
        words.index = stop
        if words.accept("USING"):
            self._using(words.names("a column"), width)
            return
        words.expect("ON")
        start = words.index
        words.index = min(
            [at for at in (_next_clause(words, start), words.at_depth_zero(start, "RETURNING")) if at is not None],
            default=words.stop,
        )
        tree = words.source.expression(start, words.index, "MERGE")
        self.terms = terms_of(ExpressionBinder(context, self.joined, "ON").predicate(tree))

    def _using(self, names: list[tuple[str, int]], width: int) -> None:
        shared = set()
        for name, at in names:
            tree = self.words.source.expression(at, at + 1, "USING")
            mine = ExpressionBinder(self.context, self.target.scope, "USING")
            other = ExpressionBinder(self.context, self.source.scope, "USING").column(name, "", tree)
            other = remap(other, {i: i + width for i in columns_of(other)})
            self.terms.append(mine.call("eq", [mine.column(name, "", tree), other], tree))
            shared.add(name.lower())
        known = [
            replace(n, bare=False) if n.index >= width and n.name.lower() in shared else n for n in self.joined.names
        ]
        self.joined = Scope(known, self.joined.tables)

    # --- WHEN ... THEN ... --------------------------------------------------------------------------------------------

    def clause(self) -> MergeClause:
        """The clause that comes next."""
        words = self.words
        words.expect("WHEN")
        when = "matched"
        if words.accept("NOT"):
            when = "unmatched"
            words.expect("MATCHED")
            if words.accept("BY"):
                if words.accept("SOURCE"):
                    when = "sourceless"
                else:
                    words.expect("TARGET")
        else:
            words.expect("MATCHED")
        condition = None
        scope = self._scope(when)
        if words.accept("AND"):
            start = words.index
            words.index = _then(words, start)
            tree = words.source.expression(start, words.index, "WHEN")
            condition = ExpressionBinder(self.context, scope, "WHEN").predicate(tree)
        words.expect("THEN")
        at = words.index
        action = words.word()
        words.index += 1
        if action == "DO":
            words.expect("NOTHING")
            return MergeClause(when, condition, "nothing")
        if action == "DELETE" and when != "unmatched":
            return MergeClause(when, condition, "delete")
        if action == "ERROR":
            return MergeClause(when, condition, "error", self._message(scope))
        if action == "UPDATE" and when != "unmatched":
            return MergeClause(when, condition, "update", self._update(when, scope))
        if action == "INSERT" and when == "unmatched":
            return MergeClause(when, condition, "insert", self._insert(scope))
        words.index = at
        allowed = "INSERT, DO NOTHING or ERROR" if when == "unmatched" else "UPDATE, DELETE, DO NOTHING or ERROR"
        words.wrong(f"expected {allowed}")

    def _scope(self, when: str) -> Scope:
        """What there is: no target where nothing of it matched, no source the other way round."""
        if when == "matched":
            return self.joined
        width = len(self.target.plan.fields)
        if when == "sourceless":
            return self.target.scope
        names = [replace(n, index=n.index + width) for n in self.source.scope.names]
        return Scope(names, self.source.scope.tables)

    def _end(self) -> int:
        words = self.words
        places = (_next_clause(words, words.index), words.at_depth_zero(words.index, "RETURNING"))
        return min([place for place in places if place is not None], default=words.stop)

    def _message(self, scope: Scope) -> tuple[Expression, ...]:
        words, start = self.words, self.words.index
        words.index = self._end()
        if words.index == start:
            return ()
        tree = words.source.expression(start, words.index, "ERROR")
        binder = ExpressionBinder(self.context, scope, "ERROR")
        return (binder.cast(binder.bind(tree), VARCHAR, tree),)

    def _update(self, when: str, scope: Scope) -> tuple[Expression, ...]:
        words, table = self.words, self.table
        changed: dict[int, Expression] = {}
        stop = self._end()
        words.accept("SET")
        if words.index == stop or words.accept("*") or words.accept("BY", "NAME") or words.accept("BY", "POSITION"):
            if when == "sourceless":
                words.wrong("expected SET: there is no row of the source to take values from")
            by_position = words.word(-1) == "POSITION"
            changed = self._source_values(by_position, list(range(len(table.schema))), optional=not by_position)
        else:
            changed = assignments(words, self.context, table, self.alias, scope, (stop,))
        if words.index != stop:
            words.wrong("expected WHEN, RETURNING or the end")
        kept = columns_of_table(table)
        return tuple(changed.get(i, kept[i]) for i in range(len(table.schema)))

    def _insert(self, scope: Scope) -> tuple[Expression, ...]:
        words, table = self.words, self.table
        stop = self._end()
        given: dict[int, Expression] = {}
        if words.accept("DEFAULT", "VALUES"):
            pass
        elif words.index == stop or words.accept("*") or words.accept("BY", "NAME") or words.accept("BY", "POSITION"):
            by_name = words.word(-1) == "NAME"
            given = self._source_values(not by_name, list(range(len(table.schema))), optional=by_name)
        else:
            names = words.names("a column") if words.word() == "(" else None
            columns = positions(words, table, names)
            if words.index == stop and names is not None:
                given = self._source_values(True, list(columns), optional=False)
            else:
                if words.word() != "VALUES":
                    words.wrong("expected VALUES")
                tree = words.source.query(words.index, stop)
                words.index = stop
                given = self._values(tree, columns, scope)
        if words.index != stop:
            words.wrong("expected WHEN, RETURNING or the end")
        if len(given) < len(table.schema):
            positions(words, table, [(table.schema.names[i], words.index - 1) for i in given])
        return tuple(given.get(i, default_of(table, i)) for i in range(len(table.schema)))

    def _values(self, tree: exp.Expr, columns: tuple[int, ...], scope: Scope) -> dict[int, Expression]:
        if len(tree.expressions) != 1:
            self.context.fail("INSERT of MERGE takes one row of values", tree)
        row = tree.expressions[0]
        cells = row.expressions if isinstance(row, exp.Tuple) else [row.this if isinstance(row, exp.Paren) else row]
        fields = [self.table.schema.fields[i] for i in columns]
        if len(cells) != len(columns):
            wrong_width(self.context, self.table, [(f.name, f.type) for f in fields], len(cells), row)
        binder = ExpressionBinder(self.context, scope, "INSERT")
        return {
            i: default_of(self.table, i)
            if says_default(cell)
            else assign(binder, binder.bind(cell), field.type, field.name, cell)
            for i, field, cell in zip(columns, fields, cells, strict=True)
        }

    def _source_values(self, by_position: bool, columns: list[int], *, optional: bool) -> dict[int, Expression]:
        """The source's columns as values of the target's, by their names or their places."""
        width = len(self.target.plan.fields)
        source = [replace(n, index=n.index + width) for n in self.source.scope.star()]
        binder = ExpressionBinder(self.context, self.joined, "MERGE")
        schema = self.table.schema
        if by_position:
            if len(source) != len(columns):
                raise self.words.bind_error(
                    f"the source has {len(source)} columns for {len(columns)} of {self.table.name}: name them",
                    self.words.index - 1,
                )
            pairs = list(zip(columns, source, strict=True))
        else:
            found = {n.name.lower(): n for n in source}
            unknown = [n.name for n in source if schema.find(n.name) is None]
            if unknown:
                raise self.words.bind_error(
                    f"the source's column {unknown[0]!r} is none of {self.table.name}", self.words.index - 1
                )
            pairs = [(i, found[schema.names[i].lower()]) for i in columns if schema.names[i].lower() in found]
        return {
            i: assign(binder, ColumnRef(n.type, n.index, n.name), schema.types[i], schema.names[i], None)
            for i, n in pairs
        }


def merge(words: Words, context: Context) -> Merge:
    """The statement after MERGE."""
    words.expect("INTO")
    table = target(words, context, "MERGE")
    sides = _Merge(words, context, table, alias_of(words, table, "USING"))
    clauses: list[MergeClause] = []
    with QueryBinder(context).nested(context.ctes):
        sides.join()
        while words.word() == "WHEN":
            at = words.index
            made = sides.clause()
            if any(known.when == made.when and known.condition is None for known in clauses):
                raise words.error("this clause is never reached: one without a condition stands before it", at)
            clauses.append(made)
    if not clauses:
        words.wrong("expected WHEN MATCHED or WHEN NOT MATCHED")
    returning = None
    if words.word() == "RETURNING":
        returning = returned(words, context, table.schema, sides.alias, merge=True)
    words.end()
    kinds = {clause.when for clause in clauses}
    kind = {(True, True): "full", (True, False): "right", (False, True): "left"}.get(
        ("unmatched" in kinds, "sourceless" in kinds), "inner"
    )
    plan = join_plan(sides.target.plan, sides.source.plan, kind, sides.terms)
    mark = len(plan.fields) - 1
    plan, clauses = _with_subqueries(plan, clauses)
    return Merge(table, plan, mark, tuple(clauses), returning)


def _with_subqueries(plan: Plan, clauses: list[MergeClause]) -> tuple[Plan, list[MergeClause]]:
    """Expressions that hold queries become columns of the plan: clauses are worked out row by row, without one."""
    added: list[Expression] = []

    def moved(expression: Expression | None) -> Any:
        if expression is None or not holds_subquery(expression):
            return expression
        added.append(expression)
        return ColumnRef(expression.type, len(plan.fields) + len(added) - 1, "")

    made = [
        replace(clause, condition=moved(clause.condition), values=tuple(moved(value) for value in clause.values))
        for clause in clauses
    ]
    if not added:
        return plan, clauses
    kept = [ColumnRef(f.type, i, f.name) for i, f in enumerate(plan.fields)]
    return project(plan, [*kept, *added], [*(f.name for f in plan.fields), *("" for _ in added)]), made


def _next_clause(words: Words, start: int) -> int | None:
    places = [words.at_depth_zero(start, "WHEN", *rest) for rest in (("MATCHED",), ("NOT", "MATCHED"))]
    return min([place for place in places if place is not None], default=None)


def _then(words: Words, start: int) -> int:
    places = [words.at_depth_zero(start, "THEN", action) for action in _ACTIONS]
    return min([place for place in places if place is not None], default=words.stop)
