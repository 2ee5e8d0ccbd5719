"""Typed calls: arguments cast to what the registry asks for, literals adapted, constants folded.

Nothing here knows where an expression comes from; the tree passed along only places an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from typing import Any

from eventdb.logical.constants import cast_literal, exact_literal, fold_call
from eventdb.logical.expressions import Call, Case, Cast, Expression, IntervalValue, Literal
from eventdb.logical.functions import SCALARS, castable, common_type
from eventdb.schema import BIGINT, DOUBLE, INTERVAL, NULL, TIMESTAMP, VARCHAR, DataType
from eventdb.sql.context import Context, decimal_literal
from eventdb.sql.intervals import parse_interval

_MONTHS = frozenset(("add", "subtract", "multiply", "divide", "negate", "abs"))
_COMPARISONS = frozenset(("eq", "ne", "lt", "le", "gt", "ge", "is_distinct_from", "is_not_distinct_from"))
_ADAPTING = _COMPARISONS | {"add", "subtract", "multiply", "modulo"}
_SYMBOLS = {
    "add": "+", "subtract": "-", "multiply": "*", "divide": "/", "modulo": "%", "eq": "=", "ne": "<>", "lt": "<",
    "le": "<=", "gt": ">", "ge": ">=", "like": "LIKE", "ilike": "ILIKE", "is_distinct_from": "IS DISTINCT FROM",
    "is_not_distinct_from": "IS NOT DISTINCT FROM",
}  # fmt: skip
_STRING_TARGETS = {"add": (INTERVAL, BIGINT), "subtract": (TIMESTAMP, INTERVAL), "negate": (DOUBLE,)}


class Calls:
    """Builds typed expressions for one bind."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def null(self) -> Literal:
        return Literal(NULL, None)

    def coerce(self, expression: Expression, target: DataType, node: Any) -> Expression:
        """The expression in `target`, by an implicit cast. BindError where a CAST must be written."""
        if expression.type == target:
            return expression
        if isinstance(expression, Literal):
            literal = cast_literal(expression, target)
            if literal is not None:
                return literal
            if target == INTERVAL and isinstance(expression.value, str):
                interval = parse_interval(expression.value)
                if interval is not None:
                    return Literal(INTERVAL, interval)
            if expression.type.name == "VARCHAR":
                self.context.fail(f"{expression} is not a valid {target}", node)
        if not castable(expression.type, target):
            self.context.fail(f"{expression.type} cannot become {target}", node)
        return Cast(target, expression)

    def cast(self, expression: Expression, target: DataType, node: Any, safe: bool = False) -> Expression:
        """CAST or TRY_CAST, folded for literals that fit."""
        if expression.type == target:
            return expression
        if isinstance(expression, Literal):
            literal = cast_literal(expression, target)
            if literal is not None:
                return literal
            if target == INTERVAL and isinstance(expression.value, str):
                interval = parse_interval(expression.value)
                if interval is None and not safe:
                    self.context.fail(f"{expression} is not an INTERVAL", node)
                return Literal(INTERVAL, interval)
        if not castable(expression.type, target):
            self.context.fail(f"there is no cast from {expression.type} to {target}", node)
        return Cast(target, expression, safe)

    def call(self, function: str, args: Sequence[Expression], node: Any, shown: str = "") -> Expression:
        """The registry function with its arguments cast, folded if constant. BindError if the types do not fit."""
        entry = SCALARS[function]
        arguments = self._adapt(list(args), function)
        resolved = entry.resolve([arg.type for arg in arguments])
        if resolved is None:
            arguments, resolved = self._with_strings(function, arguments)
        if resolved is None:
            self.context.fail(self.mismatch(shown or function, entry.signature, arguments), node)
        wanted, result = resolved
        bound = tuple(self.coerce(arg, type, node) for arg, type in zip(arguments, wanted, strict=True))
        call = Call(result, function, bound)
        if function in _MONTHS and INTERVAL in wanted:
            return self._months(call, node)
        return fold_call(call) or call

    def mismatch(self, shown: str, signature: str, arguments: list[Expression]) -> str:
        types = ", ".join(str(arg.type) for arg in arguments)
        if shown in _SYMBOLS and len(arguments) == 2:
            hint = ""
            if any(arg.type == VARCHAR for arg in arguments):
                hint = "; write CAST(... AS type) on the string side"
            elif all(arg.type.name == "DECIMAL" for arg in arguments):
                scale = sum(arg.type.scale for arg in arguments)
                hint = f": the product's scale of {scale} is more than 38 digits; CAST to a smaller scale or to DOUBLE"
            return f"{arguments[0].type} {_SYMBOLS[shown]} {arguments[1].type} does not exist{hint}"
        return f"{shown}({types}) does not exist; {shown}() takes {signature}"

    def _adapt(self, args: list[Expression], function: str) -> list[Expression]:
        """Literals in the type of the column beside them where that changes no value."""
        if len(args) != 2 or function not in _ADAPTING:
            return args
        for i in (0, 1):
            literal, other = args[i], args[1 - i]
            if not isinstance(literal, Literal) or isinstance(other, Literal) or not literal.type.is_numeric:
                continue
            if function in _COMPARISONS and other.type.is_numeric and not other.type.is_float:
                args[i] = exact_literal(literal, other.type) or literal
            elif other.type.name == "DECIMAL" and literal.type.is_integer and literal.value is not None:
                args[i] = decimal_literal(Decimal(literal.value))
        return args

    def _with_strings(self, function: str, args: list[Expression]) -> tuple[list[Expression], Any]:
        """String literals tried as the type the other arguments suggest."""
        literals = [i for i, arg in enumerate(args) if isinstance(arg, Literal) and arg.type == VARCHAR]
        if not literals:
            return args, None
        others = [arg.type for i, arg in enumerate(args) if i not in literals]
        fallback = None  # fits but cannot read a literal: the cast will say which one
        for candidate in (*dict.fromkeys(others), *_STRING_TARGETS.get(function, (TIMESTAMP, INTERVAL))):
            types = [candidate if i in literals else arg.type for i, arg in enumerate(args)]
            resolved = SCALARS[function].resolve(types)
            if resolved is None:
                continue
            wanted = resolved[0]
            if all(self._readable(args[i], wanted[i]) for i in literals):
                return args, resolved
            fallback = fallback or resolved
        return args, fallback

    @staticmethod
    def _readable(argument: Expression, type: DataType) -> bool:
        assert isinstance(argument, Literal)
        if type == INTERVAL:
            return isinstance(argument.value, str) and parse_interval(argument.value) is not None
        return cast_literal(argument, type) is not None

    def _months(self, call: Call, node: Any) -> Expression:
        """Calendar months taken out of INTERVAL literals: add(add_months(ts, m), the exact rest)."""
        args = list(call.args)
        last = args[-1]
        literal = last if isinstance(last, Literal) and isinstance(last.value, IntervalValue) else None
        if literal is None or not literal.value.months:
            for arg in args:
                if isinstance(arg, Literal) and isinstance(arg.value, IntervalValue) and arg.value.months:
                    self.context.unsupported("arithmetic on calendar intervals (months, years)", node)
            return fold_call(call) or call
        if call.function not in ("add", "subtract") or args[0].type != TIMESTAMP:
            self.context.unsupported("arithmetic on calendar intervals (months, years)", node)
        sign = 1 if call.function == "add" else -1
        moved: Expression = Call(TIMESTAMP, "add_months", (args[0], Literal(BIGINT, sign * literal.value.months)))
        if literal.value.microseconds:
            rest = Literal(INTERVAL, IntervalValue(0, literal.value.microseconds))
            moved = Call(TIMESTAMP, call.function, (moved, rest))
        return moved

    def unify(
        self, expressions: Sequence[Expression], node: Any, what: str,
        meet: Callable[[DataType, DataType], DataType | None] = common_type,
    ) -> list[Expression]:  # fmt: skip
        """The expressions in the type in which they meet; string literals follow the others."""
        soft = [isinstance(e, Literal) and e.type == VARCHAR for e in expressions]
        firm = [e for e, is_soft in zip(expressions, soft, strict=True) if not is_soft and e.type != NULL]
        target: DataType | None = firm[0].type if firm else VARCHAR if any(soft) else NULL
        for expression in firm[1:]:
            merged = meet(target, expression.type) if target is not None else None
            if merged is None:
                self.context.fail(f"{what}: {target} and {expression.type} have no common type", node)
            target = merged
        assert target is not None
        return [self.coerce(e, target, node) for e in expressions]

    def case(
        self, conditions: list[Expression], results: list[Expression], otherwise: Expression, node: Any
    ) -> Expression:
        unified = self.unify([*results, otherwise], node, "CASE")
        return Case(unified[0].type, tuple(conditions), tuple(unified[:-1]), unified[-1])
