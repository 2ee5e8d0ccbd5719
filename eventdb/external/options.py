"""What read_csv, read_parquet and their like are told: DuckDB's names, checked."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Any

from eventdb.errors import UsageError
from eventdb.schema import DataType, parse_type

READERS = {
    "read_csv": "csv", "read_csv_auto": "csv", "read_parquet": "parquet", "parquet_scan": "parquet",
    "read_json": "json", "read_json_auto": "json", "read_ndjson": "json", "read_ndjson_auto": "json",
    "read_arrow": "arrow", "read_ipc": "arrow", "read_feather": "arrow",
}  # fmt: skip
"""Table function -> format."""

FORMAT_SYNONYMS = {"ndjson": "json", "jsonl": "json", "feather": "arrow", "ipc": "arrow"}
"""Other names of formats, for COPY."""

_COMPRESSIONS = {"gzip": "gzip", "gz": "gzip", "zstd": "zstd", "zst": "zstd", "bz2": "bz2", "lz4": "lz4"}


@dataclass(frozen=True)
class ReadOptions:
    """`types` are those of some columns by name, `names` the columns of a CSV file. `hive` None: if the folders look
    like it. The rest is for CSV and as in CsvOptions."""

    union_by_name: bool = False
    filename: str | None = None
    hive: bool | None = None
    types: Mapping[str, DataType] = field(default_factory=dict)
    compression: str | None = None
    csv: Mapping[str, Any] = field(default_factory=dict)


def _flag(name: str, value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    if isinstance(value, str) and value.lower() in ("true", "false"):
        return value.lower() == "true"
    raise UsageError(f"{name} is true or false, not {value!r}")


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{name} is a string, not {value!r}")
    return value


def _character(name: str, value: Any) -> str:
    text = {"\\t": "\t", "tab": "\t"}.get(_text(name, value).lower(), value)
    if len(text.encode()) != 1:
        raise UsageError(f"{name} is one (ASCII) character, not {value!r}")
    return str(text)


def _character_or_none(name: str, value: Any) -> str:
    return "" if value == "" else _character(name, value)


def _count(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise UsageError(f"{name} is a number of lines from 0, not {value!r}")
    return value


def _texts(name: str, value: Any) -> tuple[str, ...]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list | tuple) or not all(isinstance(v, str) for v in values):
        raise UsageError(f"{name} is a string or a list of strings, not {value!r}")
    return tuple(values)


def _types(name: str, value: Any) -> dict[str, DataType]:
    if not isinstance(value, Mapping) or not all(isinstance(v, str) for v in value.values()):
        raise UsageError(f"{name} maps columns to types: {{'a': 'INTEGER', 'b': 'VARCHAR'}}, not {value!r}")
    return {column: parse_type(text) for column, text in value.items()}


def compression_of(name: str, value: Any) -> str | None:
    text = _text(name, value).lower()
    if text in ("auto", ""):
        return None
    if text in ("none", "uncompressed"):
        return "uncompressed"
    if text not in _COMPRESSIONS:
        raise UsageError(f"{name} is auto, none, gzip, zstd, bz2 or lz4, not {value!r}")
    return _COMPRESSIONS[text]


Check = Callable[[str, Any], Any]
_COMMON: dict[str, tuple[str, Check]] = {
    "union_by_name": ("union_by_name", _flag),
    "hive_partitioning": ("hive", _flag),
}
_TEXT: dict[str, tuple[str, Check]] = {"compression": ("compression", compression_of), "columns": ("types", _types)}
_CSV: dict[str, tuple[str, Check]] = {
    "header": ("header", _flag), "delim": ("delimiter", _character), "sep": ("delimiter", _character),
    "delimiter": ("delimiter", _character), "quote": ("quote", _character_or_none),
    "escape": ("escape", _character_or_none), "nullstr": ("nulls", _texts), "null": ("nulls", _texts),
    "skip": ("skip_rows", _count), "names": ("names", _texts), "column_names": ("names", _texts),
    "all_varchar": ("all_varchar", _flag), "encoding": ("encoding", _text),
    "decimal_separator": ("decimal_point", _character), "timestampformat": ("timestamp_format", _text),
    "timestamp_format": ("timestamp_format", _text),
}  # fmt: skip
_TYPES: dict[str, tuple[str, Check]] = {"types": ("types", _types), "dtypes": ("types", _types),
                                        "column_types": ("types", _types)}  # fmt: skip


def known_options(format: str) -> list[str]:
    """The names a reader of the format takes."""
    names = [*_COMMON, "filename"]
    if format != "parquet":
        names += ["compression"]
    if format in ("csv", "json"):
        names += ["columns"]
    if format == "csv":
        names += [*_CSV, *_TYPES]
    return names


def checked(reader: str, format: str, given: Mapping[str, Any]) -> ReadOptions:
    """The options of a reader. UsageError naming an option it does not have, or what is wrong with a value."""
    plain: dict[str, Any] = {}
    csv: dict[str, Any] = {}
    allowed = known_options(format)
    for name, value in given.items():
        if name not in allowed:
            near = get_close_matches(name, allowed, 1)
            hint = f"did you mean {near[0]}?" if near else f"it takes {', '.join(allowed)}"
            raise UsageError(f"{reader}() has no option {name!r}; {hint}")
        if name == "filename":
            is_name = isinstance(value, str) and value.lower() not in ("true", "false")
            plain["filename"] = value if is_name else "filename" if _flag(name, value) else None
        elif name in _COMMON or name in _TEXT or name in _TYPES:
            target, check = (_COMMON | _TEXT | _TYPES)[name]
            plain[target] = check(name, value)
        else:
            target, check = _CSV[name]
            csv[target] = check(name, value)
    if format == "csv" and "columns" in given:
        csv["names"] = tuple(plain["types"])  # it lists all of them, in order
    return ReadOptions(**plain, csv=csv)
