"""What opening a database and creating a topic are given, checked; a topic's settings as the catalog keeps them.

The catalog keeps text; durations are microseconds, sizes bytes.
"""

from __future__ import annotations

import os

from eventdb.config import SEAL_AFTER_US
from eventdb.definitions import DEFAULT, PRIMARY_KEY, ROW_ID, default_option
from eventdb.errors import SchemaMismatch, UnsupportedError, UsageError
from eventdb.partitioner import MAX_PARTITIONS
from eventdb.schema import BIGINT, Field, Schema
from eventdb.values import parse_duration_us, parse_size_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from eventdb.catalog import Catalog
    from eventdb.definitions import TopicInfo

SETTINGS = ("retention", "max_bytes", "max_rows", "on_full", "seal_after")
NEVER = "never"
MIN_BYTES = 64 << 10  # of max_bytes for each partition: room for a few of the smallest segments
_LATER = {"cleanup": "compaction", "dedup_window": "deduplication"}


def checked_options(given: Mapping[str, Any], kept: Mapping[str, str] | None = None) -> dict[str, str]:
    """The options as stored: `given` over those `kept`; None takes an option away. UsageError names what is wrong."""
    options = dict(kept or {})
    for name, value in given.items():
        if name in _LATER:
            raise UnsupportedError(f"option {name!r}: {_LATER[name]} is not built yet", construct=name)
        if name not in SETTINGS and (name != "partitions" or kept is not None):
            if name == "partitions":
                raise UnsupportedError(
                    "the number of partitions is fixed: keys would move; create a new topic and copy the events",
                    construct=name,
                )
            raise UsageError(f"a topic has no option {name!r}; the options are partitions, {', '.join(SETTINGS)}")
        if value is None or (isinstance(value, str) and value.lower() in ("none", "null", "default")):
            options.pop(name, None)
        else:
            options[name] = _checked(name, value)
    partitions = int(options.get("partitions", "1"))
    if partitions == 1:
        options.pop("partitions", None)
    if "on_full" in options and not {"max_bytes", "max_rows"} & options.keys():
        raise UsageError("on_full says what happens at max_bytes or max_rows: give one of them too")
    if "max_bytes" in options and int(options["max_bytes"]) < MIN_BYTES * partitions:
        raise UsageError(f"max_bytes is at least {MIN_BYTES * partitions} bytes for {partitions} partition(s)")
    if "max_rows" in options and int(options["max_rows"]) < partitions:
        raise UsageError(f"max_rows is at least 1 for each of the {partitions} partition(s)")
    return options


def _checked(name: str, value: Any) -> str:
    if name == "retention":
        duration = parse_duration_us(value, name)
        if not duration:
            raise UsageError("retention must be more than zero; without it events are kept for ever")
        return str(duration)
    if name == "seal_after":
        return NEVER if value == NEVER else str(parse_duration_us(value, name))
    if name == "max_bytes":
        return str(parse_size_bytes(int(value) if isinstance(value, str) and value.isdigit() else value, name))
    if name == "on_full":
        if value not in ("oldest", "reject"):
            raise UsageError(f"on_full is 'oldest' (old events go) or 'reject' (appends fail), not {value!r}")
        return str(value)
    number = int(value) if isinstance(value, str) and value.isdecimal() else value
    most = MAX_PARTITIONS if name == "partitions" else 1 << 62
    if isinstance(number, bool) or not isinstance(number, int) or not 1 <= number <= most:
        raise UsageError(f"{name} is an integer from 1 to {most}, not {value!r}")
    return str(number)


def shown_options(options: Mapping[str, str]) -> str:
    """The settings as they are written: "retention = '7 days', max_rows = 100"."""
    parts = []
    for name in SETTINGS:
        value = options.get(name)
        if value is not None:
            text = _duration(int(value)) if name in ("retention", "seal_after") and value != NEVER else value
            parts.append(f"{name} = {text}" if name in ("max_bytes", "max_rows") else f"{name} = '{text}'")
    return ", ".join(parts)


def described_options(info: TopicInfo) -> str:
    """All that was said about a topic beyond its columns, what was not said included where it has a default."""
    parts = [f"partitions = {info.partitions}", shown_options(info.options)]
    if info.idle_after_us is not None:
        parts.append(f"idle after '{_duration(info.idle_after_us)}'")
    if info.max_future_us is not None:
        parts.append(f"max future '{_duration(info.max_future_us)}'")
    if {"max_bytes", "max_rows"} & info.options.keys() and "on_full" not in info.options:
        parts.append("on_full = 'oldest'")
    return ", ".join(part for part in parts if part)


def seal_after_us(topics: Iterable[TopicInfo], topic_id: int) -> int | None:
    """The age from which a topic's segments are sealed, full or not; None = never."""
    options = next((topic.options for topic in topics if topic.id == topic_id), {})
    value = options.get("seal_after", str(SEAL_AFTER_US))
    return None if value == NEVER else int(value)


def _duration(us: int) -> str:
    for unit, size in (("day", 86_400_000_000), ("hour", 3_600_000_000), ("minute", 60_000_000), ("second", 1_000_000),
                       ("ms", 1_000)):  # fmt: skip
        if us % size == 0:
            count = us // size
            return f"{count} {unit}" + ("s" if count != 1 and unit != "ms" else "")
    return f"{us} us"


def checked_opening(path: object, read_only: object, threads: object) -> str:
    """The path of a database to open; UsageError for what cannot be a path, a number of threads or a flag."""
    name = checked_path(path)
    if threads is not None and (isinstance(threads, bool) or not isinstance(threads, int) or not 1 <= threads <= 1024):
        raise UsageError(f"threads is an integer from 1 to 1024, not {threads!r}")
    if not isinstance(read_only, bool):
        raise UsageError(f"read_only is True or False, not {read_only!r}")
    return name


def checked_path(path: object) -> str:
    """The path as text; UsageError for what cannot be one."""
    if not isinstance(path, str | os.PathLike) or not os.fspath(path):
        raise UsageError(f"a path is a non-empty string or path object, not {path!r}")
    name: str = os.fsdecode(os.fspath(path))
    if "\0" in name:
        raise UsageError("a path cannot hold a NUL byte")
    return name


def schema_of(columns: Mapping[str, str] | Schema) -> Schema:
    """The schema of a dict of name to SQL type."""
    if isinstance(columns, Schema):
        return columns
    if not hasattr(columns, "items"):
        raise UsageError(f"columns is a dict of name to SQL type, not {type(columns).__name__}")
    return Schema.from_mapping(columns)


def key_positions(schema: Schema, primary_key: str | Sequence[str] | None) -> tuple[int, ...]:
    """The positions of the columns of a primary key; () if there is none. UsageError if it names none or one twice."""
    if primary_key is None:
        return ()
    if not isinstance(primary_key, str | list | tuple):
        raise UsageError(f"primary_key names a column or several, not {primary_key!r}")
    names = [primary_key] if isinstance(primary_key, str) else list(primary_key)
    if not names or not all(isinstance(column, str) for column in names):
        raise UsageError(f"primary_key names a column or several, not {primary_key!r}")
    positions = tuple(schema.index_of(column) for column in names)
    if len(set(positions)) != len(positions):
        raise UsageError(f"primary_key names a column twice: {', '.join(names)}")
    return positions


def stored_schema(schema: Schema, key: tuple[int, ...]) -> Schema:
    """What a table stores: its columns, those of the key NOT NULL; without a key a hidden column for one, the last."""
    fields = [Field(f.name, f.type, f.nullable and i not in key) for i, f in enumerate(schema)]
    return Schema(fields if key else [*fields, Field(ROW_ID, BIGINT, nullable=False)])


def add_table(
    catalog: Catalog, name: str, schema: Schema, key: tuple[int, ...], defaults: Mapping[int, Any],
    hidden: bool = False,
) -> TopicInfo:  # fmt: skip
    """Adds a table to the catalog: see Catalog.create_topic."""
    options = {f"{DEFAULT}{i}": default_option(value) for i, value in defaults.items() if value is not None}
    options[PRIMARY_KEY] = ",".join(map(str, key or (len(schema),)))
    return catalog.create_topic(
        name, stored_schema(schema, key), key=schema.names[key[0]] if len(key) == 1 else None, kind="table",
        options=options, hidden=hidden,
    )  # fmt: skip


def require_same(
    info: TopicInfo, columns: Schema, key: str | None = None, event_time: str | None = None,
    primary_key: tuple[int, ...] = (),
) -> None:  # fmt: skip
    """The topic or table that is there is the one asked for, as far as anything was said. SchemaMismatch naming the
    first difference."""

    def differs(what: str, found: str | None, wanted: str | None) -> SchemaMismatch:
        return SchemaMismatch(
            f"{info.kind} {info.name!r} exists with another schema: {what} is {found or 'not there'} in it, "
            f"{wanted or 'not there'} in what is to be created; drop it, take another name, or ask for what it has",
            expected=found,
        )

    for i in range(max(len(info.visible), len(columns))):
        there, asked = (s.fields[i] if i < len(s) else None for s in (info.visible, columns))
        if asked is not None and i in primary_key:
            asked = Field(asked.name, asked.type, nullable=False)
        if repr(there).lower() != repr(asked).lower():
            shown = ("" if field is None else repr(field) for field in (there, asked))
            raise differs(f"column {i + 1}", *shown)
    known = () if info.is_keyless else info.primary_key
    if known != primary_key:
        named = [", ".join(columns.names[i] for i in positions) for positions in (known, primary_key)]
        raise differs("the primary key", *named)
    for what, found, wanted in (("the key", info.key, key), ("event_time", info.event_time, event_time)):
        if wanted is not None and (found or "").lower() != wanted.lower():
            raise differs(what, found, wanted)


def inferred_schema(like: Any) -> Schema:
    """The schema that a sample, one event or a table, would fit."""
    from eventdb.arrow import infer_schema

    if (
        isinstance(like, dict)
        and like
        and not any(hasattr(v, "__len__") and not isinstance(v, str | bytes) for v in like.values())
    ):
        like = {name: [value] for name, value in like.items()}
    schema = infer_schema(like)
    return Schema.from_mapping({field.name: str(field.type) for field in schema})
