"""What one bind shares: the text, the catalog, the parameters, and how errors are made."""

from __future__ import annotations

import datetime as dt
import math
from collections.abc import Callable, Mapping, Sequence
from decimal import Context as DecimalContext
from decimal import Decimal
from difflib import get_close_matches
from typing import Any, NoReturn

from sqlglot import exp

from eventdb.errors import BindError, UsageError
from eventdb.logical.expressions import IntervalValue, Literal
from eventdb.logical.plan import Plan
from eventdb.logical.python_functions import Callee
from eventdb.schema import (
    BIGINT,
    BLOB,
    BOOLEAN,
    DATE,
    DOUBLE,
    INTEGER,
    INTEGER_RANGES,
    INTERVAL,
    MAX_DECIMAL_DIGITS,
    NULL,
    TIMESTAMP,
    VARCHAR,
    DataType,
    decimal_type,
    parse_type,
)
from eventdb.sql.parser import Source, locate, position_of
from eventdb.sql.statements import Resolver
from eventdb.sql.subqueries import Enclosing
from eventdb.sql.tokens import TokenType
from eventdb.values import date_to_days, datetime_to_us
from eventdb.wide_decimals import pack

Parameters = Mapping[str, Any] | Sequence[Any] | None

_TYPES = {
    "BOOLEAN": "BOOLEAN", "TINYINT": "TINYINT", "SMALLINT": "SMALLINT", "INT": "INTEGER", "BIGINT": "BIGINT",
    "FLOAT": "FLOAT", "DOUBLE": "DOUBLE", "TEXT": "VARCHAR", "VARCHAR": "VARCHAR", "CHAR": "VARCHAR", "DATE": "DATE",
    "TIMESTAMP": "TIMESTAMP", "TIMESTAMPNTZ": "TIMESTAMP", "TIMESTAMPTZ": "TIMESTAMP", "DATETIME": "TIMESTAMP",
    "VARBINARY": "BLOB", "BINARY": "BLOB", "BLOB": "BLOB", "INTERVAL": "INTERVAL", "NULL": "NULL",
}  # fmt: skip


_ITEM_STARTS = frozenset((TokenType.SELECT, TokenType.DISTINCT, TokenType.RETURNING))
_ITEM_ENDS = frozenset(
    (
        TokenType.COMMA, TokenType.FROM, TokenType.WHERE, TokenType.GROUP_BY, TokenType.HAVING, TokenType.ORDER_BY,
        TokenType.LIMIT, TokenType.OFFSET, TokenType.UNION, TokenType.FETCH,
    )
)  # fmt: skip


class Context:
    """One bind of one statement."""

    def __init__(self, source: Source, resolver: Resolver, parameters: Parameters) -> None:
        self.source = source
        self.sql = source.sql
        self.words = source.words
        self.resolver = resolver
        self.parameters = parameters_of(parameters)
        self.used: set[str] = set()
        self.enclosing: list[Enclosing] = []  # the queries around the one that is bound, the nearest last
        self.ctes: dict[str, Plan] = {}  # the WITH names in sight
        self.bind_query: Callable[[exp.Expr, dict[str, Plan]], Plan] | None = None  # None where no query may stand
        self.correlated: list[
            tuple[Plan, int]
        ] = []  # WITH queries that read a query around them, and how deep they stand
        self.recursions = 0
        self.is_stored = False  # whether the text is kept, for other programs to run
        self.viewing: tuple[str, ...] = ()  # the plain views around what is bound
        self.viewed: set[str] = set()  # those that were read, lower-case

    # -- errors ----------------------------------------------------------------------------------------------------

    def fail(self, message: str, node: Any = None) -> NoReturn:
        """Raise a BindError at a tree."""
        line, column = locate(self.sql, node)
        raise BindError(message, sql=self.sql, line=line, column=column)

    def unsupported(self, construct: str, node: Any = None, fix: str = "") -> NoReturn:
        """Raise UnsupportedSQL at a tree: '<construct> is not supported yet[; fix]'."""
        raise self.source.unsupported(construct, node, fix)

    def written(self, node: Any) -> str | None:
        """A select item as it was written, with single spaces; None if its place is not known."""
        tokens = self.source.tokens
        at = self.source.token_at(position_of(node))
        if at is None:
            return None
        first, depth = at, 0
        while first > 0:
            before = tokens[first - 1]
            depth += (before.text == ")") - (before.text == "(")
            if before.token_type in _ITEM_STARTS or (before.token_type is TokenType.COMMA and depth <= 0):
                break
            first -= 1
        last, depth = first, 0
        for i in range(first, len(tokens)):
            token = tokens[i]
            depth += (token.text == "(") - (token.text == ")")
            if depth < 0 or (depth == 0 and token.token_type in _ITEM_ENDS):
                break
            last = i
        text = " ".join(self.sql[tokens[first].start : tokens[last].end + 1].split())
        name, bracket, rest = text.partition("(")
        return name.lower() + bracket + rest if bracket and name.replace("_", "a").isalnum() else text

    # -- names -----------------------------------------------------------------------------------------------------

    def function(self, name: str, node: Any) -> Callee | None:
        """The function written in Python of a lower-case name. UnsupportedSQL in a stored query."""
        callee = self.resolver.function(name)
        if callee is not None:
            self.refuse_stored(f"the Python function {name}()", node)
        return callee

    def refuse_stored(self, what: str, node: Any) -> None:
        """UnsupportedSQL in a stored query, for what lives in this program alone."""
        if self.is_stored:
            fix = "it lives in this program, the view is for all that open the database: use it when you read the view"
            self.unsupported(f"{what} in a view", node, fix)

    # -- types and parameters --------------------------------------------------------------------------------------

    def type_of(self, node: exp.DataType) -> DataType:
        """The type a CAST or column definition names. UnsupportedSQL for nested types, BindError for unknown ones."""
        kind = node.this.value if hasattr(node.this, "value") else str(node.this)
        if kind in ("DECIMAL", "NUMERIC"):
            try:
                numbers = [int(part.name) for part in node.expressions]
                return decimal_type(*(numbers if len(numbers) != 1 else [numbers[0], 0]))
            except (UsageError, ValueError, TypeError) as error:
                self.fail(str(error), node)
        if kind in _TYPES and not (node.args.get("nested") and kind not in ("DATE",)):
            name = _TYPES[kind]
            return INTERVAL if name == "INTERVAL" else NULL if name == "NULL" else parse_type(name)
        if kind == "USER-DEFINED":
            try:
                return parse_type(str(node.args.get("kind")))
            except UsageError as error:
                self.fail(str(error), node)
        self.unsupported(f"type {kind}", node)

    def parameter(self, name: str, node: Any) -> Literal:
        """The literal of $name, $1 or the n-th ?."""
        self.used.add(name)
        if self.parameters is None or isinstance(self.parameters, Mapping):
            given = self.parameters or {}
            if name not in given:
                near = get_close_matches(name, list(given), 1)
                hint = f"; did you mean ${near[0]}?" if near else f"; given: {', '.join(given) or 'none'}"
                self.fail(f"no value for parameter ${name}{hint}", node)
            value = given[name]
        else:
            if not name.isdigit():
                self.fail(f"no value for parameter ${name}: the values were given by position", node)
            if not 1 <= int(name) <= len(self.parameters):
                self.fail(f"no value for parameter {name}: {len(self.parameters)} given", node)
            value = self.parameters[int(name) - 1]
        literal = value if isinstance(value, Literal) else literal_of(value)
        if literal is None:
            self.fail(f"parameter ${name}: a {type(value).__name__} has no SQL type", node)
        return literal

    def check_parameters(self) -> None:
        """UsageError if a value was passed that the statement does not use."""
        if self.parameters is None:
            return
        if isinstance(self.parameters, Mapping):
            extra = [f"${name}" for name in self.parameters if name not in self.used]
        else:
            extra = [f"number {i + 1}" for i in range(len(self.parameters)) if str(i + 1) not in self.used]
        if extra:
            raise UsageError(f"the statement has no parameter {', '.join(extra)}")


def parameters_of(given: object) -> Parameters:
    """The parameters as given; UsageError if they are neither a list of values nor a dict of names."""
    if isinstance(given, Mapping):
        wrong = [name for name in given if not isinstance(name, str)]
        if wrong:
            raise UsageError(f"a parameter's name is a string, not {wrong[0]!r}")
        return given
    if given is None or (isinstance(given, Sequence) and not isinstance(given, str | bytes | bytearray | memoryview)):
        return given
    raise UsageError(f"parameters are a list or tuple for ?, a dict or keyword arguments for $name, not {given!r:.60}")


def integer_literal(value: int) -> Literal:
    """INTEGER if it fits, else BIGINT, else DECIMAL(38,0). UsageError for more digits."""
    low, high = INTEGER_RANGES["INTEGER"]
    if low <= value <= high:
        return Literal(INTEGER, value)
    low, high = INTEGER_RANGES["BIGINT"]
    if low <= value <= high:
        return Literal(BIGINT, value)
    if abs(value) >= 10**MAX_DECIMAL_DIGITS:
        raise UsageError(
            f"an integer has at most {MAX_DECIMAL_DIGITS} digits, not {len(str(abs(value)))}; a DOUBLE is written 1e40"
        )
    return Literal(decimal_type(MAX_DECIMAL_DIGITS, 0), pack(value))


def decimal_literal(value: Decimal) -> Literal:
    """DECIMAL(digits, scale) as written; DOUBLE beyond 38 digits."""
    _, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int):
        return Literal(DOUBLE, float(value))
    scale = max(0, -exponent)
    precision = max(len(digits) + max(0, exponent), scale, 1)
    if precision > MAX_DECIMAL_DIGITS:
        return Literal(DOUBLE, float(value))
    type = decimal_type(precision, scale)
    scaled = int(value.scaleb(scale, DecimalContext(prec=2 * MAX_DECIMAL_DIGITS)))
    return Literal(type, pack(scaled) if type.is_wide else scaled)


def literal_of(value: Any) -> Literal | None:
    """The literal of a Python (or NumPy scalar) value, None if no SQL type fits."""
    if value is None:
        return Literal(NULL, None)
    if isinstance(value, bool):
        return Literal(BOOLEAN, value)
    if isinstance(value, int):
        return integer_literal(int(value))
    if isinstance(value, float):
        return Literal(DOUBLE, float(value))
    if isinstance(value, str):
        return Literal(VARCHAR, str(value))
    if isinstance(value, dt.datetime):
        return Literal(TIMESTAMP, datetime_to_us(value))
    if isinstance(value, dt.date):
        return Literal(DATE, date_to_days(value))
    if isinstance(value, dt.timedelta):
        whole = (value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds
        return Literal(INTERVAL, IntervalValue(0, whole)) if math.isfinite(whole) else None
    if isinstance(value, Decimal):
        return decimal_literal(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return Literal(BLOB, bytes(value))
    if type(value).__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        if hasattr(value, "astype") and value.dtype.kind == "M":
            micros = value.astype("datetime64[us]")
            return Literal(TIMESTAMP, None if micros != micros else int(micros.astype("int64")))
        plain = value.item()
        return None if type(plain).__module__ == "numpy" else literal_of(plain)
    return None
