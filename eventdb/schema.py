"""Types, fields and schemas: the one table that says how a SQL type is stored.

A value of every type is stored in a fixed width (`physical`): VARCHAR and BLOB as int32 codes of a dictionary or, in
segments that store them plainly, as bytes in a heap; DECIMAL as an integer scaled by 10**scale, of more than 18 digits
(`is_wide`) as that integer's bytes, like a BLOB (wide_decimals.py); DATE as days and TIMESTAMP as microseconds since
1970-01-01 UTC. INTERVAL and NULL exist in expressions only and cannot be stored.

This module is on the append path: it imports nothing but the errors.
"""

from __future__ import annotations

from eventdb.config import MAX_COLUMNS
from eventdb.errors import SchemaMismatch, UsageError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

#          name        physical struct width
_STORAGE = {
    "BOOLEAN": ("|b1", "?", 1),
    "TINYINT": ("<i1", "b", 1),
    "SMALLINT": ("<i2", "h", 2),
    "INTEGER": ("<i4", "i", 4),
    "BIGINT": ("<i8", "q", 8),
    "FLOAT": ("<f4", "f", 4),
    "DOUBLE": ("<f8", "d", 8),
    "DECIMAL": ("<i8", "q", 8),
    "VARCHAR": ("<i4", "i", 4),
    "BLOB": ("<i4", "i", 4),
    "DATE": ("<i4", "i", 4),
    "TIMESTAMP": ("<i8", "q", 8),
    "INTERVAL": ("<i8", "q", 8),
    "NULL": ("|b1", "?", 1),
}

_ALIASES = {
    "BOOL": "BOOLEAN",
    "INT1": "TINYINT",
    "INT2": "SMALLINT",
    "SHORT": "SMALLINT",
    "INT16": "SMALLINT",
    "INT": "INTEGER",
    "INT4": "INTEGER",
    "INT32": "INTEGER",
    "INT8": "BIGINT",
    "LONG": "BIGINT",
    "INT64": "BIGINT",
    "REAL": "FLOAT",
    "FLOAT4": "FLOAT",
    "FLOAT8": "DOUBLE",
    "DOUBLE PRECISION": "DOUBLE",
    "NUMERIC": "DECIMAL",
    "DEC": "DECIMAL",
    "TEXT": "VARCHAR",
    "STRING": "VARCHAR",
    "CHAR": "VARCHAR",
    "BYTEA": "BLOB",
    "BINARY": "BLOB",
    "VARBINARY": "BLOB",
    "BYTES": "BLOB",
    "DATETIME": "TIMESTAMP",
    "TIMESTAMPTZ": "TIMESTAMP",
}

MAX_DECIMAL_DIGITS = 38
NARROW_DECIMAL_DIGITS = 18  # the most that an int64 holds


class DataType:
    """A SQL type. Equal types compare and hash equal. `precision` and `scale` are 0 except for DECIMAL."""

    __slots__ = (
        "is_coded", "is_float", "is_integer", "is_numeric", "is_wide", "name", "physical", "precision", "scale",
        "stored_name", "struct_code", "width_bytes",
    )  # fmt: skip

    def __init__(self, name: str, precision: int = 0, scale: int = 0) -> None:
        self.name = name
        self.precision = precision
        self.scale = scale
        self.is_wide = precision > NARROW_DECIMAL_DIGITS
        self.stored_name = "BLOB" if self.is_wide else name  # what segments take it for
        self.physical, self.struct_code, self.width_bytes = _STORAGE[self.stored_name]
        self.is_integer = name in ("TINYINT", "SMALLINT", "INTEGER", "BIGINT")
        self.is_float = name in ("FLOAT", "DOUBLE")
        self.is_numeric = self.is_integer or self.is_float or name == "DECIMAL"
        self.is_coded = self.stored_name in ("VARCHAR", "BLOB")  # values are codes of a dictionary

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, DataType)
            and self.name == other.name
            and self.precision == other.precision
            and self.scale == other.scale
        )

    def __hash__(self) -> int:
        return hash((self.name, self.precision, self.scale))

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        return f"DECIMAL({self.precision},{self.scale})" if self.name == "DECIMAL" else self.name

    @property
    def is_storable(self) -> bool:
        return self.name not in ("INTERVAL", "NULL")


BOOLEAN = DataType("BOOLEAN")
TINYINT = DataType("TINYINT")
SMALLINT = DataType("SMALLINT")
INTEGER = DataType("INTEGER")
BIGINT = DataType("BIGINT")
FLOAT = DataType("FLOAT")
DOUBLE = DataType("DOUBLE")
VARCHAR = DataType("VARCHAR")
BLOB = DataType("BLOB")
DATE = DataType("DATE")
TIMESTAMP = DataType("TIMESTAMP")
INTERVAL = DataType("INTERVAL")
NULL = DataType("NULL")

_SIMPLE = {
    t.name: t for t in (BOOLEAN, TINYINT, SMALLINT, INTEGER, BIGINT, FLOAT, DOUBLE, VARCHAR, BLOB, DATE, TIMESTAMP)
}

INTEGER_RANGES = {
    "TINYINT": (-(1 << 7), (1 << 7) - 1),
    "SMALLINT": (-(1 << 15), (1 << 15) - 1),
    "INTEGER": (-(1 << 31), (1 << 31) - 1),
    "BIGINT": (-(1 << 63), (1 << 63) - 1),
}


def decimal_type(precision: int = 18, scale: int = 3) -> DataType:
    """DECIMAL(precision, scale); 1 <= precision <= 38 and 0 <= scale <= precision, else UsageError."""
    if not 1 <= precision <= MAX_DECIMAL_DIGITS:
        raise UsageError(f"DECIMAL({precision},{scale}): the precision must be 1 to {MAX_DECIMAL_DIGITS}")
    if not 0 <= scale <= precision:
        raise UsageError(f"DECIMAL({precision},{scale}): the scale must be 0 to {precision}")
    return DataType("DECIMAL", precision, scale)


def parse_type(text: str) -> DataType:
    """The type a SQL type name stands for, `DECIMAL(p,s)` and the usual aliases included. UsageError if unknown."""
    if not isinstance(text, str):
        raise UsageError(f"a type is a string such as 'DOUBLE', not {type(text).__name__}")
    name, _, rest = text.strip().upper().partition("(")
    name = " ".join(name.split())
    name = _ALIASES.get(name, name)
    if name == "DECIMAL":
        if not rest:
            return decimal_type()
        try:
            numbers = [int(part) for part in rest.rstrip(") ").split(",")]
        except ValueError:
            raise UsageError(f"type {text!r}: expected DECIMAL(precision, scale)") from None
        return decimal_type(*numbers) if len(numbers) == 2 else decimal_type(numbers[0], 0)
    if name in _SIMPLE and (not rest or name == "VARCHAR"):
        return _SIMPLE[name]
    from difflib import get_close_matches

    near = get_close_matches(name, [*_SIMPLE, "DECIMAL", *_ALIASES], 1)
    hint = f"; did you mean {near[0]}?" if near else f"; the types are {', '.join(_SIMPLE)}, DECIMAL(p,s)"
    raise UsageError(f"unknown type {text!r}{hint}")


class Field:
    """A named, typed column."""

    __slots__ = ("name", "nullable", "type")

    def __init__(self, name: str, type: DataType, nullable: bool = True) -> None:
        self.name = name
        self.type = type
        self.nullable = nullable

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Field)
            and self.name == other.name
            and self.type == other.type
            and self.nullable == other.nullable
        )

    def __hash__(self) -> int:
        return hash((self.name, self.type, self.nullable))

    def __repr__(self) -> str:
        return f"{self.name} {self.type}{'' if self.nullable else ' NOT NULL'}"


class Schema:
    """An ordered, immutable list of fields with distinct names (compared without case). `key` is the position of the
    column that rows are looked up by, None without one; it does not count when schemas are compared."""

    __slots__ = ("_index", "fields", "key")

    def __init__(self, fields: Iterable[Field], key: int | None = None) -> None:
        self.fields = tuple(fields)
        self.key = key
        self._index = {field.name.lower(): i for i, field in enumerate(self.fields)}
        if not self.fields:
            raise UsageError("a schema needs at least one column")
        if len(self.fields) > MAX_COLUMNS:
            raise UsageError(f"a schema has at most {MAX_COLUMNS} columns, not {len(self.fields)}")
        if len(self._index) != len(self.fields):
            names = [field.name.lower() for field in self.fields]
            twice = next(name for name in names if names.count(name) > 1)
            raise UsageError(f"column {twice!r} is named twice")

    @staticmethod
    def from_mapping(columns: Mapping[str, str | DataType]) -> Schema:
        """From {name: type text or DataType}; a text may end in NOT NULL."""
        fields = []
        for name, text in columns.items():
            if not isinstance(name, str) or not name or "\0" in name:
                raise UsageError(f"a column name is a non-empty string, not {name!r}")
            if name.startswith("_"):
                raise UsageError(f"column {name!r}: names that begin with '_' are kept for system columns")
            if isinstance(text, DataType):
                fields.append(Field(name, text))
                continue
            if not isinstance(text, str):
                raise UsageError(f"column {name!r}: a type is a string such as 'DOUBLE', not {type(text).__name__}")
            words = text.upper().split()
            required = words[-2:] == ["NOT", "NULL"]
            fields.append(Field(name, parse_type(" ".join(words[:-2]) if required else text), not required))
        return Schema(fields)

    def index_of(self, name: str) -> int:
        """The position of a column, found without case. SchemaMismatch naming near columns if missing."""
        found = self._index.get(name.lower())
        if found is None:
            from difflib import get_close_matches

            near = get_close_matches(name, self.names, 3)
            hint = f"did you mean {', '.join(near)}?" if near else f"the columns are {', '.join(self.names)}"
            raise SchemaMismatch(f"no column {name!r}; {hint}", column=name)
        return found

    def find(self, name: str) -> int | None:
        return self._index.get(name.lower())

    @property
    def names(self) -> list[str]:
        return [field.name for field in self.fields]

    @property
    def types(self) -> list[DataType]:
        return [field.type for field in self.fields]

    def __len__(self) -> int:
        return len(self.fields)

    def __iter__(self) -> Iterator[Field]:
        return iter(self.fields)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self.fields == other.fields

    def __hash__(self) -> int:
        return hash(self.fields)

    def __repr__(self) -> str:
        return f"Schema({', '.join(map(repr, self.fields))})"

    def to_text(self) -> str:
        """One line a column: type, NULL or NOT NULL, name, separated by tabs; the name's own tabs and line breaks
        escaped.

        Not JSON, whose module would cost a process that only appends a tenth of its start.
        """
        return "\n".join(
            f"{f.type}\t{'NULL' if f.nullable else 'NOT NULL'}\t{f.name.encode('unicode_escape').decode('ascii')}"
            for f in self.fields
        )

    @staticmethod
    def from_text(text: str) -> Schema:
        """What `to_text` wrote."""
        fields = []
        for line in text.split("\n"):
            type, null, name = line.split("\t")
            fields.append(Field(name.encode("ascii").decode("unicode_escape"), parse_type(type), null == "NULL"))
        return Schema(fields)
