"""A topic's settings: what WITH (...), SET (...) and create_topic take, checked, as the catalog keeps them.

The catalog keeps text; durations are microseconds, sizes bytes.
"""

from __future__ import annotations

from eventdb.errors import UnsupportedError, UsageError
from eventdb.partitioner import MAX_PARTITIONS
from eventdb.values import parse_duration_us, parse_size_bytes

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

SETTINGS = ("retention", "max_bytes", "max_rows", "on_full")
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
            text = _duration(int(value)) if name == "retention" else value
            parts.append(f"{name} = '{text}'" if name in ("retention", "on_full") else f"{name} = {text}")
    return ", ".join(parts)


def _duration(us: int) -> str:
    for unit, size in (("day", 86_400_000_000), ("hour", 3_600_000_000), ("minute", 60_000_000), ("second", 1_000_000),
                       ("ms", 1_000)):  # fmt: skip
        if us % size == 0:
            count = us // size
            return f"{count} {unit}" + ("s" if count != 1 and unit != "ms" else "")
    return f"{us} us"
