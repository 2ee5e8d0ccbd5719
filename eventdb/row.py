"""Rows in and out: a dict checked against a schema becomes a tuple of physical values, and back.

`RowCodec` generates one function per schema, because the append path pays for every Python bytecode: a loop over the
columns costs 2.1 us for six columns, the generated straight-line function 0.6 us. Values that are not of the expected
exact type take the slow path (`_Checker`), which converts what can be converted without loss and refuses the rest.
"""

from __future__ import annotations

import datetime as dt

from eventdb.config import MAX_VALUE_BYTES
from eventdb.errors import SchemaMismatch
from eventdb.schema import INTEGER_RANGES
from eventdb.values import (
    EPOCH,
    EPOCH_UTC,
    MAX_TIMESTAMP_US,
    MIN_TIMESTAMP_US,
    date_to_days,
    datetime_to_us,
    decoder_of,
)
from eventdb.wide_decimals import pack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any

    from eventdb.schema import Field, Schema

MIN_DATE_DAYS = -719_162
MAX_DATE_DAYS = 2_932_896
MAX_FLOAT32 = 3.4028235677973366e38

_PYTHON_TYPES = {
    "BOOLEAN": "bool",
    "FLOAT": "float",
    "DOUBLE": "float",
    "DECIMAL": "Decimal or int",
    "VARCHAR": "str",
    "BLOB": "bytes",
    "DATE": "datetime.date",
    "TIMESTAMP": "datetime.datetime (naive = UTC) or int microseconds since 1970",
    "INTERVAL": "datetime.timedelta",
}


_NONE = type(None)


class _Checker:
    """Converts one Python value to the physical value of a field, or raises SchemaMismatch."""

    __slots__ = ("convert", "field")

    def __init__(self, field: Field) -> None:
        self.field = field
        name = "INTEGER" if field.type.is_integer else field.type.name
        self.convert: Callable[[Any], Any] = getattr(self, f"_{name.lower()}")

    def __call__(self, value: Any) -> Any:
        if value is None:
            if self.field.nullable:
                return None
            raise self.refuse(None, "the column is NOT NULL")
        if type(value).__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 0) == 0:
            value = self._item(value)
        return self.convert(value)

    def _item(self, value: Any) -> Any:
        """The Python value of a NumPy scalar."""
        item = value.item()
        if value.dtype.kind not in "mM" or not isinstance(item, int):
            return item
        whole = value.astype(f"{value.dtype.kind}8[us]")  # what Python's types do not hold is an int, in any unit
        if whole != value or self.field.type.name != "TIMESTAMP":
            raise self.refuse(value)
        return whole.item()

    def refuse(self, value: Any, why: str = "") -> SchemaMismatch:
        field = self.field
        expected = str(field.type)
        python = _PYTHON_TYPES.get(field.type.name, "int")
        shown = repr(value)
        if len(shown) > 80:
            shown = shown[:77] + "..."
        reason = why or f"pass {python}"
        return SchemaMismatch(
            f"column {field.name!r} is {expected}: cannot store {shown} ({type(value).__name__}); {reason}",
            column=field.name,
            value=value,
            expected=expected,
        )

    def _boolean(self, value: Any) -> bool:
        if isinstance(value, bool):
            return value
        raise self.refuse(value)

    def _integer(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.refuse(value)
        low, high = INTEGER_RANGES[self.field.type.name]
        if not low <= value <= high:
            raise self.refuse(value, f"the range is {low} to {high}")
        return int(value)

    def _double(self, value: Any) -> float:
        if isinstance(value, bool) or not (isinstance(value, int | float) or type(value).__name__ == "Decimal"):
            raise self.refuse(value)
        try:
            return float(value)
        except OverflowError:
            raise self.refuse(value, "it is too large for a double") from None

    def _float(self, value: Any) -> float:
        number = self._double(value)
        if abs(number) >= MAX_FLOAT32 and abs(number) != float("inf"):
            raise self.refuse(value, f"a FLOAT holds up to {MAX_FLOAT32:.7g}; use DOUBLE")
        return number

    def _decimal(self, value: Any) -> int | bytes:
        from decimal import (  # 2 ms that a process without decimals does not pay
            MAX_EMAX,
            MAX_PREC,
            MIN_EMIN,
            Context,
            Decimal,
        )

        if isinstance(value, bool) or not isinstance(value, int | Decimal):
            raise self.refuse(value)
        type_ = self.field.type
        number = Decimal(value)
        if not number.is_finite():
            raise self.refuse(value, "it is not a finite number")
        if number and number.adjusted() >= type_.precision - type_.scale:
            raise self.refuse(value, f"it has more than {type_.precision - type_.scale} digits before the point")
        scaled = number.scaleb(type_.scale, Context(MAX_PREC, Emin=MIN_EMIN, Emax=MAX_EMAX))  # which rounds nothing
        whole = int(scaled)
        if whole != scaled:
            raise self.refuse(value, f"it has more than {type_.scale} digits after the point; round it first")
        return pack(whole) if type_.is_wide else whole

    def _varchar(self, value: Any) -> str:
        if not isinstance(value, str):
            raise self.refuse(value)
        try:
            size = len(value.encode())
        except UnicodeEncodeError:
            raise self.refuse(value, "it holds a lone surrogate, which has no UTF-8 form") from None
        if size > MAX_VALUE_BYTES:
            raise self.refuse(value, f"a value has at most {MAX_VALUE_BYTES} bytes, not {size}")
        return str(value)

    def _blob(self, value: Any) -> bytes:
        if not isinstance(value, bytes | bytearray | memoryview):
            raise self.refuse(value)
        data = bytes(value)
        if len(data) > MAX_VALUE_BYTES:
            raise self.refuse(value, f"a value has at most {MAX_VALUE_BYTES} bytes, not {len(data)}")
        return data

    def _date(self, value: Any) -> int:
        if isinstance(value, dt.datetime) or not isinstance(value, dt.date):
            raise self.refuse(value)
        return date_to_days(value)

    def _timestamp(self, value: Any) -> int:
        if isinstance(value, dt.datetime):
            number = datetime_to_us(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            number = value
        else:
            raise self.refuse(value)
        if not MIN_TIMESTAMP_US <= number <= MAX_TIMESTAMP_US:
            raise self.refuse(value, "the range is the years 1 to 9999, in microseconds since 1970")
        return number

    def _interval(self, value: Any) -> int:
        if not isinstance(value, dt.timedelta):
            raise self.refuse(value)
        number = (value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds
        if not -(1 << 63) <= number < 1 << 63:
            raise self.refuse(value, "the range is 292000 years")
        return number


def value_checker(field: Field) -> Callable[[Any], Any]:
    """The physical value of a Python one that is stored in such a column; SchemaMismatch if it is not."""
    return _Checker(field)


def _fast_test(field: Field, v: str) -> str:
    """A Python condition on the variable `v` that is true only for values that are stored exactly as they are."""
    name = field.type.name
    if field.type.is_integer:
        low, high = INTEGER_RANGES[name]
        return f"type({v}) is int and {low} <= {v} <= {high}"
    if name == "DOUBLE":
        return f"type({v}) is float"
    if name == "FLOAT":
        return f"type({v}) is float and {-MAX_FLOAT32!r} < {v} < {MAX_FLOAT32!r}"
    if name == "BOOLEAN":
        return f"{v} is True or {v} is False"
    if name == "VARCHAR":
        # Short ASCII needs no check at all; anything else goes through the checker, which proves it has a UTF-8 form.
        return f"type({v}) is str and {v}.isascii() and len({v}) < 4096"
    if name == "BLOB":
        return f"type({v}) is bytes and len({v}) < 4096"
    return "False"


def _fits_all(field: Field, kinds: set[type], values: list[Any]) -> bool:
    """True only if all values, which are of the types `kinds`, are stored exactly as they are: _fast_test for many."""
    name = field.type.name
    if field.type.is_integer or name == "TIMESTAMP":
        low, high = (MIN_TIMESTAMP_US, MAX_TIMESTAMP_US) if name == "TIMESTAMP" else INTEGER_RANGES[name]
        return kinds == {int} and low <= min(values) and max(values) <= high
    if name == "FLOAT":
        return kinds == {float} and all(-MAX_FLOAT32 < value < MAX_FLOAT32 for value in values)
    if name in ("DOUBLE", "BOOLEAN"):
        return kinds == {float if name == "DOUBLE" else bool}
    if name == "VARCHAR":
        return kinds == {str} and "".join(values).isascii() and max(map(len, values)) < 4096
    return name == "BLOB" and kinds == {bytes} and max(map(len, values)) < 4096


class RowCodec:
    """encode(dict) -> tuple of physical values in schema order; decode(tuple) -> tuple of Python values.

    `encode` raises SchemaMismatch for an unknown or missing NOT NULL column or a value that does not fit. A missing
    column has its physical value of `defaults` (by position), if there is one.
    """

    __slots__ = ("_checkers", "_defaults", "_names", "_schema", "decode", "encode")

    def __init__(self, schema: Schema, defaults: Mapping[int, Any] | None = None) -> None:
        self._schema = schema
        self._defaults = dict(defaults or {})
        self._checkers = [_Checker(field) for field in schema]
        self._names = frozenset(schema.names)
        self.encode: Callable[[Mapping[str, Any]], tuple[Any, ...]] = self._generate_encode()
        self.decode: Callable[[Sequence[Any]], tuple[Any, ...]] = self._generate_decode()

    def _generate_encode(self) -> Callable[[Mapping[str, Any]], tuple[Any, ...]]:
        fields = list(self._schema)
        lines = ["def encode(event):", "  try:", f"    if len(event) != {len(fields)}: return slow(event)"]
        scope: dict[str, Any] = {"slow": self._encode_slow, "datetime": dt.datetime}
        scope |= {"EPOCH": EPOCH, "EPOCH_UTC": EPOCH_UTC}
        lines.extend(f"    v{i} = event[{field.name!r}]" for i, field in enumerate(fields))
        lines.append("  except (KeyError, TypeError, IndexError): return slow(event)")
        for i, field in enumerate(fields):
            scope[f"check{i}"] = self._checkers[i]
            if field.type.name == "TIMESTAMP":
                lines.append(f"  if type(v{i}) is datetime:")
                lines.append(f"    d = v{i} - (EPOCH if v{i}.tzinfo is None else EPOCH_UTC)")
                lines.append(f"    v{i} = (d.days * 86400 + d.seconds) * 1000000 + d.microseconds")
                lines.append(f"  elif type(v{i}) is not int or not {MIN_TIMESTAMP_US} <= v{i} <= {MAX_TIMESTAMP_US}:")
                lines.append(f"    v{i} = check{i}(v{i})")
                continue
            lines.append(f"  if not ({_fast_test(field, f'v{i}')}): v{i} = check{i}(v{i})")
        lines.append(f"  return ({', '.join(f'v{i}' for i in range(len(fields)))},)")
        exec("\n".join(lines), scope)  # the text holds only column names (as literals) and constants
        function: Callable[[Mapping[str, Any]], tuple[Any, ...]] = scope["encode"]
        return function

    def encode_all(self, events: Sequence[Mapping[str, Any]]) -> list[list[Any]]:
        """`encode` for many, at least one: a list of physical values for each column. A third of the time, because a
        look at a whole column costs hardly more than one at a value."""
        try:
            if set(map(len, events)) != {len(self._schema)}:
                raise KeyError
            columns = [[event[name] for event in events] for name in self._schema.names]
        except (KeyError, TypeError, IndexError):
            return [list(column) for column in zip(*map(self.encode, events), strict=True)]
        for i, field in enumerate(self._schema):
            values = columns[i]
            kinds = set(map(type, values))
            if field.nullable and _NONE in kinds:
                kinds.discard(_NONE)
                values = [value for value in values if value is not None]
            if values and not _fits_all(field, kinds, values):
                columns[i] = list(map(self._checkers[i], columns[i]))
        return columns

    def _encode_slow(self, event: Mapping[str, Any]) -> tuple[Any, ...]:
        """Missing columns are their defaults or NULL; names match without case; anything unknown is refused."""
        if not hasattr(event, "keys") or not hasattr(event, "__getitem__"):
            raise SchemaMismatch(f"a row is a dict of column to value, not {type(event).__name__} ({event!r:.60})")
        row: list[Any] = [None] * len(self._schema)
        seen: dict[int, str] = {}
        for name in event.keys():  # noqa: SIM118  (the mapping may iterate over something else)
            if not isinstance(name, str):
                raise SchemaMismatch(f"a column name is a string, not {name!r}")
            index = self._schema.index_of(name)
            if index in seen:
                raise SchemaMismatch(f"column {name!r} is given twice, as {seen[index]!r} too", column=name)
            seen[index] = name
            row[index] = event[name]
        absent = {i: value for i, value in self._defaults.items() if i not in seen}
        return tuple(
            absent[i] if i in absent else checker(value)
            for i, (checker, value) in enumerate(zip(self._checkers, row, strict=True))
        )

    def _generate_decode(self) -> Callable[[Sequence[Any]], tuple[Any, ...]]:
        if not any(decoder_of(field.type) for field in self._schema):
            return tuple
        values = []
        scope: dict[str, Any] = {"EPOCH": EPOCH, "delta": dt.timedelta}
        for i, field in enumerate(self._schema):
            decode = decoder_of(field.type)
            if field.type.name == "TIMESTAMP":
                values.append(f"None if v{i} is None else EPOCH + delta(0, 0, v{i})")
            elif decode is not None:
                scope[f"decode{i}"] = decode
                values.append(f"None if v{i} is None else decode{i}(v{i})")
            else:
                values.append(f"v{i}")
        names = "".join(f"v{i}, " for i in range(len(values)))
        exec(f"def decode(row):\n  {names}= row\n  return ({', '.join(values)},)", scope)  # our own names only
        function: Callable[[Sequence[Any]], tuple[Any, ...]] = scope["decode"]
        return function
