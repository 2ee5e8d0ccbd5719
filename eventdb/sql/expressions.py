"""Scalar expressions: syntax trees to bound, typed expressions over the columns of a scope.

Implicit casts: numbers widen, DATE becomes TIMESTAMP, and a string literal takes the type the other side asks for
(`ts > '2013-01-01'`). Nothing else converts by itself: strings and numbers need a CAST.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal
from difflib import get_close_matches
from typing import Any

from sqlglot import exp

from eventdb.errors import UsageError
from eventdb.logical.constants import cast_literal, exact_literal
from eventdb.logical.expressions import (
    Aggregation,
    Call,
    Cast,
    ColumnRef,
    Expression,
    InList,
    Literal,
)
from eventdb.logical.functions import RANKINGS, comparable_type, ends_in_escape
from eventdb.logical.over import OverCall
from eventdb.logical.python_functions import PythonAggregate
from eventdb.schema import BIGINT, BLOB, BOOLEAN, INTERVAL, VARCHAR, DataType
from eventdb.sql import functions
from eventdb.sql.aggregates import bind_aggregate, is_aggregate, parts_of
from eventdb.sql.calls import Calls
from eventdb.sql.comparisons import collate, in_rows, special
from eventdb.sql.context import Context, decimal_literal, integer_literal
from eventdb.sql.intervals import parse_interval
from eventdb.sql.overs import bind_over
from eventdb.sql.patterns import constant_text, requoted
from eventdb.sql.python_calls import python_scalar
from eventdb.sql.references import GroupingRef, OverRef
from eventdb.sql.scope import Scope
from eventdb.sql.subqueries import QUERIES, exists_subquery, in_subquery, outer_column, quantified, scalar_subquery

MAX_DEPTH = 150  # of one bound expression: everything after the binder walks it recursively


class ExpressionBinder(Calls):
    """Binds trees against one scope.

    `clause` names where we are for messages. `aggregations` collects aggregates and `overs` analytic calls; None where
    they are not allowed. `windows` are the definitions of the WINDOW clause.
    `aliases` are select items an unknown column may mean. `places` remembers where each column was first written.
    """

    def __init__(
        self,
        context: Context,
        scope: Scope,
        clause: str,
        aggregations: list[Aggregation] | None = None,
        aliases: dict[str, exp.Expr] | None = None,
    ) -> None:
        super().__init__(context)
        self.scope = scope
        self.clause = clause
        self.aggregations = aggregations
        self.aliases = aliases or {}
        self.places: dict[Expression, exp.Expr] = {}
        self.replaced: dict[str, Expression] = {}
        self.overs: list[OverCall] | None = None
        self.windows: dict[str, exp.Window] = {}
        self._inside_aggregate = False
        self._expanding: set[str] = set()
        self._depth = 0

    # -- entry -----------------------------------------------------------------------------------------------------

    def bind(self, node: exp.Expr) -> Expression:
        """The bound expression of a tree."""
        method = _BINDERS.get(type(node))
        if method is None:
            if isinstance(node, exp.Star | exp.Var):
                self.context.fail(f"{node.name or '*'} is not allowed here", node)
            construct = type(node).__name__
            self.context.unsupported(_CONSTRUCTS.get(construct, f"the expression {construct.upper()}"), node)
        self._depth += 1
        if self._depth > MAX_DEPTH:
            self.context.fail(f"this expression is nested more than {MAX_DEPTH} deep", node)
        try:
            return method(self, node)
        finally:
            self._depth -= 1

    def predicate(self, node: exp.Expr) -> Expression:
        """A BOOLEAN expression: WHERE, HAVING, ON, FILTER."""
        bound = self.bind(node)
        if bound.type.name not in ("BOOLEAN", "NULL"):
            self.context.fail(f"{self.clause} needs a BOOLEAN, not {bound.type}", node)
        return self.coerce(bound, BOOLEAN, node)

    # -- leaves ----------------------------------------------------------------------------------------------------

    def _column(self, node: exp.Column) -> Expression:
        name = node.name
        if isinstance(node.this, exp.Star):
            self.context.fail("* is not allowed here", node)
        qualifiers = [node.args[part].name for part in ("catalog", "db", "table") if node.args.get(part) is not None]
        table = ".".join(qualifiers)
        if len(qualifiers) > 1 and not self.scope.has_table(table):
            self.context.fail(f"a column is written table.column, not {node.sql()!r}", node)
        return self.column(name, table, node)

    def _positional(self, node: exp.PositionalColumn) -> Expression:
        """#n: the n-th column of `*`."""
        names = list(self.scope.star())
        number = int(node.this.name)
        if not 1 <= number <= len(names):
            self.context.fail(f"#{number}: there are {len(names)} columns", node)
        found = names[number - 1]
        return ColumnRef(found.type, found.index, found.name)

    def column(self, name: str, table: str, node: exp.Expr) -> Expression:
        """The column, or what the name stands for: a window bound of GROUP BY, then a select alias."""
        found = self.known(name, table, node)
        if found is not None:
            return found
        alias = self.aliases.get(name.lower()) if not table else None
        if alias is None or name.lower() in self._expanding:
            self.scope.missing(name, table, [] if table else list(self.aliases), self.context, node)
        self._expanding.add(name.lower())
        try:
            return self.bind(alias)
        finally:
            self._expanding.discard(name.lower())

    def known(self, name: str, table: str, node: exp.Expr) -> Expression | None:
        """The column of this query, or of one around it; None if none has it."""
        if not table and name.lower() in self.replaced:
            return self.replaced[name.lower()]
        if table and not self.scope.has_table(table):
            found = outer_column(self.context, name, table, node)
            if found is not None:
                return found
        own = self.scope.find(name, table, self.context, node)
        if own is None:
            return None if table else outer_column(self.context, name, table, node)
        self.places.setdefault(own, node)
        return own

    def _literal(self, node: exp.Literal) -> Expression:
        text = node.this
        if node.is_string:
            return Literal(VARCHAR, text)
        try:
            if text.isdigit():
                return integer_literal(int(text))
            if "e" in text.lower():
                number = float(text)
                if number in (float("inf"), float("-inf")):
                    self.context.fail(f"{text} is out of the range of DOUBLE", node)
                return Literal(_DOUBLE, number)
            return decimal_literal(Decimal(text))
        except UsageError as error:
            self.context.fail(str(error), node)
        except (ValueError, ArithmeticError):
            self.context.fail(f"{text!r} is not a number", node)

    def _boolean(self, node: exp.Boolean) -> Expression:
        return Literal(BOOLEAN, bool(node.this))

    def _null(self, node: exp.Null) -> Expression:
        return self.null()

    def _hex(self, node: exp.HexString) -> Expression:
        try:
            return Literal(BLOB, bytes.fromhex(str(node.this)))
        except ValueError:
            self.context.fail("a blob literal is x'' with pairs of hex digits", node)

    def _parameter(self, node: exp.Expr) -> Expression:
        inner = node.this
        return self.context.parameter(inner.name if isinstance(inner, exp.Expr) else str(inner), node)

    def _interval(self, node: exp.Interval) -> Expression:
        unit = node.args.get("unit")
        if not isinstance(node.this, exp.Literal):
            return self._many_intervals(node, unit)
        value = parse_interval(node.this.name, unit.name if unit is not None else None)
        if value is None:
            shown = f"{node.this.name} {unit.name if unit is not None else ''}".strip()
            self.context.fail(f"{shown!r} is not an interval; write for example INTERVAL '5 minutes'", node)
        return Literal(INTERVAL, value)

    def _many_intervals(self, node: exp.Interval, unit: exp.Expr | None) -> Expression:
        """INTERVAL (n) DAY is n * INTERVAL '1 day'."""
        one = parse_interval("1", unit.name) if unit is not None else None
        if one is None:
            self.context.fail("an interval of an expression needs a unit: INTERVAL (n) DAY", node)
        count = self.bind(node.this)
        if not count.type.is_numeric:
            self.context.fail(f"INTERVAL (n) {unit.name if unit else ''}: n is a number, not {count.type}", node)
        return self.call("multiply", [Literal(INTERVAL, one), count], node)

    def _now(self, node: exp.Expr) -> Expression:
        return self.call("now", [], node)

    def _today(self, node: exp.Expr) -> Expression:
        bound = functions.scalar(self, "current_date", [], node)
        assert bound is not None
        return bound

    # -- operators -------------------------------------------------------------------------------------------------

    def _paren(self, node: exp.Paren) -> Expression:
        inner = node.this
        while isinstance(inner, exp.Paren):
            inner = inner.this
        return self.bind(inner)

    def _binary(self, node: exp.Binary) -> Expression:
        function = _BINARY[type(node)]
        if isinstance(node.expression, (exp.Any, exp.All)):
            return quantified(self, node, function)
        found = special(self, node, function)
        if found is not None:
            return found
        left, right = self.bind(node.this), self.bind(node.expression)
        if function in ("add", "multiply") and _goes_second(left, right):
            left, right = right, left
        return self.call(function, [left, right], node)

    def _connector(self, node: exp.Connector) -> Expression:
        """AND and OR, flat however long the chain."""
        kind, terms, stack = type(node), [], [node]
        while stack:
            current: exp.Expr = stack.pop()
            if type(current) is kind:
                stack.extend((current.expression, current.this))
            else:
                terms.append(current)
        function = "and" if kind is exp.And else "or"
        args: list[Expression] = []
        for term in terms:
            bound = self.bind(term)
            if bound.type.name not in ("BOOLEAN", "NULL"):
                self.context.fail(f"{function.upper()} needs BOOLEAN, not {bound.type}", term)
            bound = self.coerce(bound, BOOLEAN, term)
            nested = bound.args if isinstance(bound, Call) and bound.function == function else (bound,)
            args.extend(nested)
        return Call(BOOLEAN, function, tuple(args))

    def _not(self, node: exp.Not) -> Expression:
        inner = self.bind(node.this)
        if isinstance(inner, InList):
            return InList(BOOLEAN, inner.operand, inner.values, not inner.negated)
        if isinstance(inner, Call) and inner.function in _NEGATED:
            return Call(BOOLEAN, _NEGATED[inner.function], inner.args)
        if inner.type.name not in ("BOOLEAN", "NULL"):
            self.context.fail(f"NOT needs BOOLEAN, not {inner.type}", node)
        return self.call("not", [inner], node)

    def _negate(self, node: exp.Neg) -> Expression:
        inner = node.this
        if isinstance(inner, exp.Literal) and not inner.is_string and inner.this.isdigit():
            try:
                return integer_literal(-int(inner.this))
            except UsageError as error:
                self.context.fail(str(error), node)
        return self.call("negate", [self.bind(inner)], node)

    def _is(self, node: exp.Is) -> Expression:
        operand, right = self.bind(node.this), node.expression
        if isinstance(right, exp.Null):
            return self.call("is_null", [operand], node)
        if isinstance(right, exp.Boolean):
            wanted = Literal(BOOLEAN, bool(right.this))
            if operand.type.name not in ("BOOLEAN", "NULL"):
                self.context.fail(f"IS TRUE and IS FALSE need a BOOLEAN, not {operand.type}", node)
            return self.call("is_not_distinct_from", [operand, wanted], node)
        self.context.unsupported(f"IS {right.sql()}", node)

    def _between(self, node: exp.Between) -> Expression:
        if node.args.get("symmetric"):
            self.context.unsupported("BETWEEN SYMMETRIC", node)
        operand = self.bind(node.this)
        low = self.call("ge", [operand, self.bind(node.args["low"])], node)
        high = self.call("le", [operand, self.bind(node.args["high"])], node)
        return Call(BOOLEAN, "and", (low, high))

    def _in(self, node: exp.In) -> Expression:
        if node.args.get("query") is not None:
            return in_subquery(self, node.this, node.args["query"], node)
        if len(node.expressions) == 1 and isinstance(node.expressions[0], QUERIES):
            return in_subquery(self, node.this, node.expressions[0], node)
        if node.args.get("unnest") is not None or node.args.get("field") is not None:
            self.context.unsupported("IN over a list value", node)
        if isinstance(node.this, exp.Tuple):
            return in_rows(self, node)
        operand = self.bind(node.this)
        values = [self.bind(value) for value in node.expressions]
        if all(isinstance(value, Literal) for value in values):
            soft_operand = isinstance(operand, Literal) and operand.type == VARCHAR
            adapted: list[Expression] = []
            for value in values:
                exact = None
                if isinstance(value, Literal) and not soft_operand:
                    convert = cast_literal if value.type == VARCHAR else exact_literal
                    exact = convert(value, operand.type)
                adapted.append(exact or value)
            unified = self.unify([operand, *adapted], node, "IN", comparable_type)
            literals = tuple(value for value in unified[1:] if isinstance(value, Literal))
            if len(literals) == len(values):
                return InList(BOOLEAN, unified[0], tuple(dict.fromkeys(literals)))
        tests = tuple(self.call("eq", [operand, value], node) for value in values)
        return tests[0] if len(tests) == 1 else Call(BOOLEAN, "or", tests)

    def _like(self, node: exp.Expr) -> Expression:
        return self._like_with(node, None)

    def _escape(self, node: exp.Escape) -> Expression:
        if type(node.this) not in (exp.Like, exp.ILike):
            self.context.unsupported("ESCAPE here", node)
        return self._like_with(node.this, node.expression)

    def _like_with(self, node: exp.Expr, escape: exp.Expr | None) -> Expression:
        function = "like" if isinstance(node, exp.Like) else "ilike"
        operand, pattern = self.bind(node.this), self.bind(node.expression)
        if escape is not None:
            mark = self.bind(escape)
            if not isinstance(mark, Literal) or not isinstance(mark.value, str) or len(mark.value) > 1:
                self.context.fail("ESCAPE needs one character", escape)
            pattern = constant_text(pattern)
            if not isinstance(pattern, Literal) or not isinstance(pattern.value, str | None):
                self.context.unsupported("ESCAPE with a pattern that is not a constant", node)
            if pattern.value is not None:
                pattern = Literal(VARCHAR, requoted(pattern.value, mark.value))
        if isinstance(pattern, Literal) and isinstance(pattern.value, str) and ends_in_escape(pattern.value):
            self.context.fail("the LIKE pattern ends in its escape character", node)
        bound = self.call(function, [operand, pattern], node)
        return self.call("not", [bound], node) if node.args.get("negate") else bound

    def _case(self, node: exp.Case) -> Expression:
        operand = self.bind(node.this) if node.this is not None else None
        conditions, results = [], []
        for arm in node.args["ifs"]:
            condition = self.bind(arm.this)
            if operand is not None:
                condition = self.call("eq", [operand, condition], arm)
            elif condition.type.name not in ("BOOLEAN", "NULL"):
                self.context.fail(f"WHEN needs a BOOLEAN, not {condition.type}", arm)
            conditions.append(self.coerce(condition, BOOLEAN, arm))
            results.append(self.bind(arm.args["true"]))
        default = node.args.get("default")
        return self.case(conditions, results, self.bind(default) if default is not None else self.null(), node)

    def _cast(self, node: exp.Cast) -> Expression:
        if node.args.get("format"):
            self.context.unsupported("CAST ... FORMAT", node)
        target = self.context.type_of(node.args["to"])
        inner = self.bind(node.this)
        bound = self.cast(inner, target, node, isinstance(node, exp.TryCast))
        if isinstance(bound, Cast) and isinstance(node.this, exp.Literal) and target.name in ("DATE", "TIMESTAMP"):
            if bound.safe:
                return Literal(target, None)
            self.context.fail(f"{bound.operand} is not a valid {target}", node)
        return bound

    # -- functions -------------------------------------------------------------------------------------------------

    def _function(self, node: exp.Expr) -> Expression:
        call = parts_of(self.context, node)
        name = call.name
        if name == "grouping_id":
            return self._grouping(exp.Grouping(expressions=[argument.copy() for argument in call.arguments]))
        if name in ("tumble", "window", "hop") or (
            name.endswith(("_start", "_end")) and name in functions.WINDOW_FUNCTIONS
        ):
            return self._window_bound(name, node)
        if is_aggregate(name):
            return bind_aggregate(self, call)
        callee = self.context.function(name, node)
        if isinstance(callee, PythonAggregate):
            return bind_aggregate(self, call)
        if name in RANKINGS:
            self.context.fail(f"{name}() needs a window: {name}(...) OVER (ORDER BY ...)", node)
        call.only_plain(self.context)
        if callee is not None:
            return python_scalar(self, callee, [self.bind(argument) for argument in call.arguments], node)
        if name in functions.KNOWN_ELSEWHERE:
            self.context.unsupported(f"the function {name}()", node, functions.FIXES.get(name, ""))
        bound = functions.scalar(self, name, [self.bind(arg) for arg in call.arguments], node)
        if bound is None:
            known = sorted((*functions.FUNCTION_NAMES, *self.context.resolver.function_names()))
            near = get_close_matches(name, known, 1)
            self.context.fail(f"no function {name}(){f'; did you mean {near[0]}()?' if near else ''}", node)
        return bound

    def _window_bound(self, name: str, node: exp.Expr) -> Expression:
        wanted = "window_end" if name.endswith("_end") else "window_start"
        if wanted not in self.replaced:
            self.context.fail(
                f"{name}() stands in GROUP BY; or write FROM TUMBLE(topic, ts, INTERVAL '1 minute')", node
            )
        return self.replaced[wanted]

    def aggregate_argument(self, node: exp.Expr) -> Expression:
        """An expression inside an aggregate, where no other aggregate and no window function may stand."""
        if self._inside_aggregate:
            return self.bind(node)
        self._inside_aggregate = True
        try:
            return self.bind(node)
        finally:
            self._inside_aggregate = False

    def check_aggregate(self, written: str, node: exp.Expr) -> list[Aggregation]:
        """The collected aggregations; BindError where an aggregate may not stand."""
        if self.aggregations is None:
            self.context.fail(f"{written}() is an aggregate and not allowed in {self.clause}", node)
        if self._inside_aggregate:
            self.context.fail("an aggregate cannot be inside an aggregate", node)
        return self.aggregations

    def _over(self, node: exp.Window) -> Expression:
        if self.overs is None:
            fix = "; filter with QUALIFY" if self.clause in ("WHERE", "HAVING") else ""
            self.context.fail(f"a window function (OVER) is not allowed in {self.clause}{fix}", node)
        if self._inside_aggregate:
            self.context.fail("a window function (OVER) cannot be inside an aggregate", node)
        overs, self.overs = self.overs, None
        clause, self.clause = self.clause, "a window function"
        try:
            found = bind_over(self, node)
        finally:
            self.overs, self.clause = overs, clause
        if found not in overs:
            overs.append(found)
        return OverRef(found.type, overs.index(found))

    def _grouping(self, node: exp.Grouping) -> Expression:
        if self.aggregations is None or self._inside_aggregate:
            self.context.fail(
                f"GROUPING() is not allowed in {'an aggregate' if self.aggregations else self.clause}", node
            )
        if not node.expressions:
            self.context.fail("GROUPING() needs a column of GROUP BY", node)
        reference = GroupingRef(BIGINT, tuple(self.bind(part) for part in node.expressions))
        self.places.setdefault(reference, node)
        return reference

    def _extract(self, node: exp.Extract) -> Expression:
        return functions.date_part(self, node.this.name, self.bind(node.expression), node)

    def _position(self, node: exp.StrPosition) -> Expression:
        return self.call("strpos", [self.bind(node.this), self.bind(node.args["substr"])], node)

    def _substring(self, node: exp.Substring) -> Expression:
        parts = [node.this, node.args.get("start") or exp.Literal.number(1), node.args.get("length")]
        return self.call("substr", [self.bind(part) for part in parts if part is not None], node)

    def _trim(self, node: exp.Trim) -> Expression:
        side = {"LEADING": "ltrim", "TRAILING": "rtrim"}.get(str(node.args.get("position") or "").upper(), "trim")
        parts = [node.this] if node.expression is None else [node.this, node.expression]
        return self.call(side, [self.bind(part) for part in parts], node)

    def _subquery(self, node: exp.Expr) -> Expression:
        return scalar_subquery(self, node)

    def _exists(self, node: exp.Exists) -> Expression:
        return exists_subquery(self, node)


_DOUBLE = DataType("DOUBLE")
_NEGATED = {
    "is_null": "is_not_null",
    "is_not_null": "is_null",
    "is_distinct_from": "is_not_distinct_from",
    "is_not_distinct_from": "is_distinct_from",
}
_BINARY: dict[type, str] = {
    exp.Add: "add", exp.Sub: "subtract", exp.Mul: "multiply", exp.Div: "divide", exp.IntDiv: "divide",
    exp.Mod: "modulo", exp.Pow: "power", exp.EQ: "eq", exp.NEQ: "ne", exp.LT: "lt", exp.LTE: "le", exp.GT: "gt",
    exp.GTE: "ge", exp.DPipe: "concat_op", exp.NullSafeEQ: "is_not_distinct_from", exp.NullSafeNEQ: "is_distinct_from",
}  # fmt: skip
_E = ExpressionBinder
_BINDERS: dict[type, Callable[[ExpressionBinder, Any], Expression]] = {
    **dict.fromkeys(_BINARY, _E._binary),
    exp.Column: _E._column, exp.Literal: _E._literal, exp.Boolean: _E._boolean, exp.Null: _E._null,
    exp.HexString: _E._hex, exp.Placeholder: _E._parameter, exp.Parameter: _E._parameter, exp.Interval: _E._interval,
    exp.CurrentTimestamp: _E._now, exp.CurrentDate: _E._today, exp.Paren: _E._paren, exp.And: _E._connector,
    exp.Or: _E._connector, exp.Not: _E._not, exp.Neg: _E._negate, exp.Is: _E._is, exp.Between: _E._between,
    exp.In: _E._in, exp.Like: _E._like, exp.ILike: _E._like, exp.Escape: _E._escape, exp.Case: _E._case,
    exp.Cast: _E._cast, exp.TryCast: _E._cast, exp.Anonymous: _E._function, exp.Filter: _E._function,
    exp.WithinGroup: _E._function, exp.IgnoreNulls: _E._function, exp.RespectNulls: _E._function,
    exp.Grouping: _E._grouping, exp.Collate: collate,
    exp.PositionalColumn: _E._positional,
    exp.Extract: _E._extract, exp.StrPosition: _E._position, exp.Substring: _E._substring, exp.Trim: _E._trim,
    exp.Subquery: _E._subquery, exp.Select: _E._subquery, exp.Exists: _E._exists, exp.Window: _E._over,
}  # fmt: skip
_CONSTRUCTS = {
    "Bracket": "indexing with []", "Array": "a list value", "Struct": "a struct value",
    "Dot": "a nested field", "JSONExtract": "the JSON operator ->", "JSONExtractScalar": "the JSON operator ->>",
    "Any": "= ANY (...)", "All": "= ALL (...)", "Lambda": "a lambda", "Tuple": "a row value (a, b)",
    "RegexpLike": "a regular expression match", "SimilarTo": "SIMILAR TO", "Glob": "GLOB",
    "BitwiseAnd": "the operator &",
    "BitwiseOr": "the operator |", "BitwiseXor": "the operator #", "BitwiseNot": "the operator ~", "Collate": "COLLATE",
    "AtTimeZone": "AT TIME ZONE", "Map": "a map value",
    "ArrayAgg": "the function list()",
    "Alias": "AS inside an expression", "ToMap": "a map value",
    "Concat": "a string beside another without ||", "ByteString": "a string e'...'", "Abs": "the operator @",
    "CurrentTime": "the type TIME", "Distinct": "DISTINCT here", "Columns": "COLUMNS(...)",
}  # fmt: skip


def _goes_second(left: Expression, right: Expression) -> bool:
    """Whether INTERVAL (or days) stands before the time or number it is added to or multiplied by."""
    if left.type == INTERVAL:
        return right.type.name in ("TIMESTAMP", "DATE")
    return (right.type == INTERVAL and left.type.is_numeric) or (left.type.is_integer and right.type.name == "DATE")
