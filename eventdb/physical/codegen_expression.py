"""Expression -> lines of a generated pipeline, with the semantics of logical/functions.py.

Only what gives bit-equal results to NumPy is generated: arithmetic, comparisons, logic, conditionals, exact float
functions, times of fixed units. Everything else raises CannotCompile, and the interpreted engine runs the query.
An expression over one dictionary column is evaluated once per distinct value into a lookup table instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from eventdb.batch import Array, Column, Dictionary
from eventdb.errors import QueryError
from eventdb.logical.expressions import Call, Case, Cast, ColumnRef, Expression, InList, Literal, columns_of
from eventdb.logical.functions import is_volatile, may_raise
from eventdb.physical.codegen import DEFAULTS, CannotCompile, PipelineText, Value, register_kind, token_of
from eventdb.physical.codegen_join import write_fetched, write_fetched_validity
from eventdb.physical.evaluate import Evaluator, Frame
from eventdb.physical.lookup import Lookup
from eventdb.schema import DataType

SECOND_US = 1_000_000
DAY_US = 86_400 * SECOND_US
UNIT_US = {
    "microsecond": 1, "millisecond": 1_000, "second": SECOND_US, "minute": 60 * SECOND_US, "hour": 3_600 * SECOND_US,
    "day": DAY_US,
}  # fmt: skip
_IN_LIST_LIMIT = 16


class Input(Protocol):
    """The columns a pipeline reads. Positions are those of the scan's fields."""

    def type_of(self, index: int) -> DataType: ...
    def is_nullable(self, index: int) -> bool:
        """Whether some row of the scanned slices is NULL."""

    def dictionary(self, index: int) -> tuple[Dictionary, int]:
        """The one dictionary of a coded column and how many codes are in use; CannotCompile if slices differ."""

    def values(self, index: int) -> Callable[[Any], Array]:
        """Gives the column's values for a morsel."""

    def tile(self, index: int) -> Callable[[Any], tuple[Array, ...]] | None:
        """Gives the column as a tile column for a morsel; None if it is read as `values` only."""

    def validity(self, index: int) -> Callable[[Any], Array]:
        """Gives the column's validity for a morsel (all True where it has none)."""

    @property
    def dictionary_limit(self) -> int:
        """The largest dictionary worth evaluating an expression for."""

    def lookup(self, index: int) -> tuple[Lookup, int] | None:
        """The lookup that gives the column, and its position there; None for a column of the scan."""

    def column_range(self, index: int) -> tuple[int, int] | None:
        """Bounds of an integer-like column over all rows, None if unknown or wide."""


@dataclass(frozen=True, slots=True)
class CodeTable:
    """A string expression over one dictionary column: `table[code]` is the code of its value in `dictionary`."""

    type: DataType
    column: int
    table: Array
    validity: Array | None
    dictionary: Dictionary


class ExpressionWriter:
    """Writes expressions over `source` into `text`. `value` may be called for several; equal ones are computed once."""

    def __init__(self, text: PipelineText, source: Input) -> None:
        self.text = text
        self.source = source
        self._slots: dict[int, str] = {}

    # --- entry points ---

    def value(self, expression: Expression) -> Value:
        """The registers of an expression for the current row. CannotCompile if it has no generated form."""
        found = self.text.known(expression)
        if found is None:
            found = self.text.remember(expression, self._write(expression))
        return found

    def is_true(self, expression: Expression) -> str:
        """A bool register: the predicate is true (neither false nor NULL)."""
        value = self.value(expression)
        return value.code if value.valid is None else self.text.assign(f"{value.code} & {value.valid}")

    def _write(self, expression: Expression) -> Value:
        if expression.type.name == "NULL":
            return Value("False", "b", "False")
        if isinstance(expression, Literal):
            return self._literal(expression)
        if isinstance(expression, ColumnRef):
            return self._column(expression)
        if expression.type.is_coded:
            raise CannotCompile(f"{expression}: strings are not computed per row")
        coded = self._only_coded_column(expression)
        if coded is not None:
            return self._lookup(expression, coded)
        if isinstance(expression, Call):
            return self._call(expression)
        if isinstance(expression, Cast):
            return self._cast(expression)
        if isinstance(expression, Case):
            return self._case(expression)
        if isinstance(expression, InList):
            return self._in_list(expression)
        raise CannotCompile(f"{type(expression).__name__} is not generated")

    # --- leaves ---

    def _literal(self, literal: Literal) -> Value:
        kind = register_kind(literal.type)
        if literal.type.is_coded:
            raise CannotCompile("a string literal outside a dictionary expression")
        if literal.value is None:
            return Value(DEFAULTS[kind], kind, "False")
        if kind == "b":
            return Value(str(bool(literal.value)), kind)
        if kind == "i":
            return Value(self.text.integer(integer_value(literal)), kind)
        name = self.text.double(float(literal.value))
        return Value(name if kind == "f" else f"np.float32({name})", kind)

    def _column(self, column: ColumnRef) -> Value:
        index = column.index
        kind = register_kind(column.type)
        token = token_of(column.type)
        stored = self._stored(index, token)
        code = self.text.assign(f"np.int64({stored})" if kind == "i" else stored)
        return Value(code, kind, self.validity(index))

    def validity(self, index: int) -> str | None:
        """The register that says whether column `index` is present in this row."""
        if not self.source.is_nullable(index):
            return None
        marker = Literal(self.source.type_of(index), ("validity", index))
        found = self.text.known(marker)
        fetched = self.source.lookup(index)
        if found is None and fetched is not None:
            found = self.text.remember(marker, Value(write_fetched_validity(self, *fetched, index), "b"))
        elif found is None:
            name = self.array("v", "b1[]", index, self.source.validity(index))
            found = self.text.remember(marker, Value(self.text.assign(f"{name}[i]"), "b"))
        return found.code

    def _stored(self, index: int, token: str) -> str:
        """What column `index` holds in this row."""
        fetched = self.source.lookup(index)
        if fetched is not None:
            return write_fetched(self, *fetched, index, token)
        fill = self.source.tile(index)
        if fill is not None:
            return self.text.tile(index, token, fill)
        return f"{self.array('c', f'{token}[]', index, self.source.values(index))}[i]"

    def array(self, prefix: str, token: str, index: int, fill: Callable[[Any], Array]) -> str:
        """The argument that holds the array of column `index`."""
        for argument in self.text.arguments:
            if argument.name == f"{prefix}_{index}":
                return argument.name
        return self.text.named_argument(f"{prefix}_{index}", token, fill)

    # --- dictionary columns ---

    def _only_coded_column(self, expression: Expression) -> int | None:
        """The column, if the expression reads one dictionary column and nothing else."""
        columns = columns_of(expression)
        if len(columns) != 1 or is_volatile(expression):
            return None
        (index,) = columns
        return index if self.source.type_of(index).is_coded else None

    def slot(self, index: int) -> tuple[str, int]:
        """(register, n): the code of dictionary column `index`, or n for NULL; always in [0, n]. n is a constant."""
        _, size = self.source.dictionary(index)
        marker = Literal(self.source.type_of(index), ("slot", index))
        found = self.text.known(marker)
        if found is None:
            if index not in self._slots:
                self._slots[index] = self.text.integer(size)
            limit, valid = self._slots[index], self.validity(index)
            code = self.text.assign(
                f"np.int64(np.uint32({self._stored(index, 'i4')}))"
            )  # never negative, which spares a comparison
            # A code outside the dictionary means a damaged file: it must not be used as an address.
            outside = self.text.assign(f"{code} >= {limit}")
            self.text.fail_if(outside, valid)
            hidden = outside if valid is None else f"{outside} | (not {valid})"
            found = self.text.remember(marker, Value(self.text.assign(f"{limit} if {hidden} else {code}"), "i"))
        return found.code, size

    def evaluate_dictionary(self, expression: Expression, index: int) -> Column:
        """The expression for every value of a dictionary, then for NULL. CannotCompile if one of them raises."""
        type = self.source.type_of(index)
        dictionary, size = self.source.dictionary(index)
        if size > max(1_000, self.source.dictionary_limit):
            raise CannotCompile("a dictionary larger than the rows")
        codes = np.arange(size + 1, dtype=np.int32)
        codes[size] = 0
        present = np.ones(size + 1, dtype=bool)
        present[size] = False
        if not size:
            dictionary = Dictionary(["" if type.name == "VARCHAR" else b""])
        column = Column(type, codes, present, dictionary)
        try:
            rows: Any = Frame({index: column}, size + 1)
            return Evaluator(expression)(rows)
        except QueryError as error:
            # Perhaps only for a value no row holds any more: let the engine that looks at rows decide.
            raise CannotCompile(f"{expression} raises for a value of the dictionary: {error}") from None

    def _lookup(self, expression: Expression, index: int) -> Value:
        kind = register_kind(expression.type)
        equal = self._equality(expression, index)
        if equal is not None:
            return equal
        result = self.evaluate_dictionary(expression, index)
        slot, _ = self.slot(index)
        table = self.text.table(result.values)
        code = self.text.assign(f"np.int64({table}[{slot}])" if kind == "i" else f"{table}[{slot}]")
        valid = None
        if result.validity is not None and not result.validity.all():
            valid = self.text.assign(f"{self.text.table(result.validity)}[{slot}]")
        return Value(code, kind, valid)

    def _equality(self, expression: Expression, index: int) -> Value | None:
        """column = 'literal' compares codes: no table, so the loop stays free of gathers."""
        if not (isinstance(expression, Call) and expression.function in ("eq", "ne")):
            return None
        left, right = expression.args
        if isinstance(left, Literal):
            left, right = right, left
        if not (isinstance(left, ColumnRef) and isinstance(right, Literal) and right.value is not None):
            return None
        dictionary, size = self.source.dictionary(index)
        found = dictionary.code_of(right.value)
        wanted = self.text.integer(found if found < size else -1)
        column = self.value(left)
        sign = "==" if expression.function == "eq" else "!="
        return Value(self.text.assign(f"{column.code} {sign} {wanted}"), "b", column.valid)

    def code_table(self, expression: Expression) -> CodeTable:
        """How a string expression over one dictionary column maps codes to codes of distinct values."""
        index = self._only_coded_column(expression)
        if index is None or not expression.type.is_coded:
            raise CannotCompile(f"{expression}: not a function of one dictionary column")
        result = self.evaluate_dictionary(expression, index)
        assert result.dictionary is not None
        numbers: dict[Any, int] = {}
        values = result.dictionary.values
        table = np.fromiter((numbers.setdefault(values[c], len(numbers)) for c in result.values.tolist()), np.int32)
        validity = result.validity
        known = None if validity is None or validity.all() else validity
        return CodeTable(expression.type, index, table, known, Dictionary(list(numbers)))

    # --- operators ---

    def both(self, *valid: str | None) -> str | None:
        """The register that is true where all are (None = always)."""
        names = [name for name in dict.fromkeys(valid) if name is not None]
        if len(names) <= 1:
            return names[0] if names else None
        return self.text.assign(" & ".join(names))

    def _call(self, call: Call) -> Value:
        from eventdb.physical.codegen_functions import FUNCTIONS

        name = call.function
        if name in ("and", "or"):
            return self._logic(call.args, name == "and")
        if name == "coalesce":
            return self._coalesce(call)
        if name not in FUNCTIONS:
            raise CannotCompile(f"{name} is not generated")
        texts = [arg for arg in call.args if arg.type.is_coded and not isinstance(arg, Literal)]
        if texts and name not in ("is_null", "is_not_null"):
            raise CannotCompile(f"{name} over several string columns")
        return FUNCTIONS[name](self, call)

    def _logic(self, args: tuple[Expression, ...], conjunction: bool) -> Value:
        """AND and OR. A later argument that can raise runs only for rows the earlier ones have not decided."""
        first = self.value(args[0])
        # `decided`: some argument is false (AND) or true (OR), which settles the row whatever the others say.
        decided = self._deciding(first, conjunction)
        valid = first.valid
        for position, arg in enumerate(args[1:], 1):
            rest = args[position:]
            if may_raise(arg):
                return self._lazy_logic(rest, decided, valid, conjunction)
            value = self.value(arg)
            own = self._deciding(value, conjunction)
            decided = self.text.assign(f"{decided} | {own}")
            valid = self.both(valid, value.valid)
        return self._decided_value(decided, valid, conjunction)

    def _deciding(self, value: Value, conjunction: bool) -> str:
        code = f"(not {value.code})" if conjunction else value.code
        return self.text.assign(code if value.valid is None else f"{code} & {value.valid}")

    def _decided_value(self, decided: str, valid: str | None, conjunction: bool) -> Value:
        code = self.text.assign(f"not {decided}") if conjunction else decided
        return Value(code, "b", None if valid is None else self.text.assign(f"{decided} | {valid}"))

    def _lazy_logic(self, rest: tuple[Expression, ...], decided: str, valid: str | None, conjunction: bool) -> Value:
        text = self.text
        settled, known = text.assign(f"{decided} | False"), text.assign(f"{valid or 'True'} | False")
        with text.only_if(f"not {settled}"):
            value = self._logic(rest, conjunction) if len(rest) > 1 else self.value(rest[0])
            text.emit(f"{settled} = {self._deciding(value, conjunction)}")
            if value.valid is not None:
                text.emit(f"{known} = {known} & {value.valid}")
        return self._decided_value(settled, known, conjunction)

    def _coalesce(self, call: Call) -> Value:
        kind = register_kind(call.type)
        text = self.text
        first = self.value(call.args[0])
        if first.valid is None or len(call.args) == 1:
            return first
        code, valid = text.assign(first.code), text.assign(f"{first.valid} | False")
        for arg in call.args[1:]:
            with text.only_if(f"not {valid}"):
                value = self.value(arg)
                text.emit(f"{code} = {value.code}")
                text.emit(f"{valid} = {value.valid or 'True'}")
        return Value(code, kind, valid)

    def _case(self, case: Case) -> Value:
        text = self.text
        kind = register_kind(case.type)
        code, valid, open_ = text.assign(DEFAULTS[kind]), text.assign("False"), text.assign("True")
        for condition, result in zip(case.conditions, case.results, strict=True):
            with text.only_if(open_):
                holds = self.is_true(condition)
                with text.only_if(holds):
                    self._store(result, kind, code, valid)
                    text.emit(f"{open_} = False")
        with text.only_if(open_):
            self._store(case.otherwise, kind, code, valid)
        return Value(code, kind, valid)

    def _store(self, result: Expression, kind: str, code: str, valid: str) -> None:
        value = self.value(result)
        if value.valid == "False":
            return
        if value.kind != kind:
            raise CannotCompile(f"{result} has another type than its CASE")
        self.text.emit(f"{code} = {value.code}")
        self.text.emit(f"{valid} = {value.valid or 'True'}")

    def _in_list(self, test: InList) -> Value:
        operand = self.value(test.operand)
        present = [literal for literal in test.values if literal.value is not None]
        if len(present) > _IN_LIST_LIMIT:
            raise CannotCompile("a long IN list of numbers")
        found = "False"
        for literal in present:
            wanted = self._literal(literal).code
            found = self.text.assign(f"{found} | ({operand.code} == {wanted})")
        valid = operand.valid
        if len(present) < len(test.values):  # x IN (1, NULL) is never false
            valid = self.both(valid, found)
        return Value(self.text.assign(f"not {found}") if test.negated else found, "b", valid)

    def _cast(self, cast: Cast) -> Value:
        from eventdb.physical.codegen_functions import write_cast

        return write_cast(self, cast)


def integer_value(literal: Literal) -> int:
    """The int64 of an integer, DECIMAL, DATE, TIMESTAMP or exact INTERVAL literal."""
    value = literal.value
    if literal.type.name == "INTERVAL":
        if value.months:
            raise CannotCompile("a calendar interval")
        value = value.microseconds
    if not -(1 << 63) <= int(value) < 1 << 63:
        raise CannotCompile("a literal beyond 64 bits")
    return int(value)
