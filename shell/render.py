"""Rows as text: table, csv, json (one object a line), line and markdown.

A renderer takes column names, SQL type names and any iterable of rows of Python values, writes to a stream and returns
the number of rows. All but `table` and `markdown` stream: they hold one row at a time. `table` holds at most `max_rows`
rows, the first and the last half; what lies between is counted and not shown.
"""

from __future__ import annotations

import datetime as dt
import json
import math
import unicodedata
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any, TextIO

Row = Sequence[Any]

NUMERIC = frozenset(("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "FLOAT", "DOUBLE", "DECIMAL"))
MIN_COLUMN_CELLS = 6
ELLIPSIS = "\N{HORIZONTAL ELLIPSIS}"


@dataclass(frozen=True, slots=True)
class Layout:
    """`width` in terminal cells and `max_rows` of a table, 0 for no limit; `ascii` draws without box characters."""

    width: int = 0
    max_rows: int = 40
    ascii: bool = False


Renderer = Callable[[Sequence[str], Sequence[str], Iterable[Row], TextIO, Layout], int]
MODES: dict[str, Renderer] = {}


def _mode(name: str) -> Callable[[Renderer], Renderer]:
    def register(renderer: Renderer) -> Renderer:
        MODES[name] = renderer
        return renderer

    return register


# --- values -----------------------------------------------------------------------------------------------------------


def format_value(value: Any) -> str:
    """A value as text, without quotes: NULL, true, 2013-01-01 06:00:00, 1.5, \\x0aff, 1 day 02:00:00."""
    if value is None:
        return "NULL"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _format_float(value)
    if isinstance(value, dt.datetime):
        return value.replace(tzinfo=None).isoformat(" ")
    if isinstance(value, dt.timedelta):
        return format_interval(value)
    if isinstance(value, (bytes, bytearray, memoryview)):
        return "\\x" + bytes(value).hex()
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, (list, dict)):
        return json.dumps(value, ensure_ascii=False, default=format_value)
    return str(value)


def _format_float(value: float) -> str:
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "Infinity" if value > 0 else "-Infinity"
    return repr(value)


def format_interval(value: dt.timedelta) -> str:
    """As PostgreSQL prints it: 2 days 03:04:05.5, a minus before what is negative."""
    sign, value = ("-", -value) if value < dt.timedelta(0) else ("", value)
    minutes, seconds = divmod(value.seconds, 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{hours:02}:{minutes:02}:{seconds:02}"
    if value.microseconds:
        clock += f".{value.microseconds:06}".rstrip("0")
    if not value.days:
        return sign + clock
    days = f"{sign}{value.days} day{'' if value.days == 1 else 's'}"
    return days if clock == "00:00:00" else f"{days} {sign}{clock}"


def _escape(text: str) -> str:
    """Control characters as escapes: data must not move the cursor, colour the terminal or break a line."""
    if text.isprintable():
        return text
    known = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}
    hidden = ("Cc", "Cf", "Cs", "Zl", "Zp")
    return "".join(known.get(c) or (f"\\u{ord(c):04x}" if unicodedata.category(c) in hidden else c) for c in text)


@lru_cache(maxsize=1)
def _cell_width() -> Callable[[str], int]:
    from wcwidth import wcswidth

    return wcswidth


def measure(text: str) -> int:
    """The width of a text in terminal cells (a CJK character or an emoji takes two)."""
    return len(text) if text.isascii() else max(0, _cell_width()(text))


def shorten(text: str, cells: int) -> str:
    """The text, cut to a width in cells with an ellipsis at the end where it is too long."""
    if measure(text) <= cells:
        return text
    kept = text[: max(0, cells - 1)]
    while kept and measure(kept) > cells - 1:
        kept = kept[:-1]
    return kept + ELLIPSIS


def _pad(text: str, cells: int, right: bool) -> str:
    gap = " " * max(0, cells - measure(text))
    return gap + text if right else text + gap


def _is_numeric(type_name: str) -> bool:
    return type_name.partition("(")[0] in NUMERIC


# --- table ------------------------------------------------------------------------------------------------------------

BOX = ("┌─┬┐", "├─┼┤", "└─┴┘", "│", "·")
ASCII = ("+-++", "+-++", "+-++", "|", ".")


@_mode("table")
def render_table(names: Sequence[str], types: Sequence[str], rows: Iterable[Row], out: TextIO, layout: Layout) -> int:
    head, tail, count = _take_ends(rows, layout.max_rows)
    cells = [[_escape(format_value(v)) for v in row] for row in (*head, *tail)]
    titles = [_escape(name) for name in names]
    widths = [
        max([measure(title), measure(type_name), *(measure(row[i]) for row in cells)])
        for i, (title, type_name) in enumerate(zip(titles, types, strict=True))
    ]
    shown = _fit_columns(widths, layout.width)
    right = [_is_numeric(type_name) for type_name in types]
    (top, middle, bottom, bar, dot) = ASCII if layout.ascii else BOX

    def rule(marks: str) -> str:
        return marks[0] + marks[2].join(marks[1] * (widths[i] + 2 if i >= 0 else 3) for i in shown) + marks[3] + "\n"

    def line(texts: Sequence[str], aligned: Sequence[bool]) -> str:
        parts = [_pad(shorten(texts[i], widths[i]), widths[i], aligned[i]) if i >= 0 else ELLIPSIS for i in shown]
        return f"{bar} " + f" {bar} ".join(parts) + f" {bar}\n"

    out.write(rule(top))
    out.write(line(titles, [False] * len(titles)))
    out.write(line([str(t) for t in types], [False] * len(titles)))
    out.write(rule(middle))
    for row in cells[: len(head)]:
        out.write(line(row, right))
    if count > len(cells):
        out.write(line([dot] * len(titles), right))
        for row in cells[len(head) :]:
            out.write(line(row, right))
    out.write(rule(bottom))
    out.write(_footer(count, len(cells), len(titles), sum(i >= 0 for i in shown)))
    return count


def _take_ends(rows: Iterable[Row], limit: int) -> tuple[list[Row], list[Row], int]:
    """The first and last rows, `limit` together (all of them if 0), and how many there were."""
    if not limit:
        everything = list(rows)
        return everything, [], len(everything)
    half = (limit + 1) // 2
    head: list[Row] = []
    tail: deque[Row] = deque(maxlen=limit - half)
    count = 0
    for row in rows:
        if count < half:
            head.append(row)
        else:
            tail.append(row)
        count += 1
    return head, list(tail), count


def _fit_columns(widths: list[int], limit: int) -> list[int]:
    """Which columns to show, -1 for a gap; shrinks the widest of `widths` in place until a line fits `limit` cells."""
    shown = list(range(len(widths)))
    if not limit:
        return shown

    def total() -> int:
        return sum(widths[i] + 3 if i >= 0 else 4 for i in shown) + 1

    while total() > limit:
        widest = max((i for i in shown if i >= 0), key=lambda i: widths[i])
        if widths[widest] > MIN_COLUMN_CELLS:
            rest = sorted((widths[i] for i in shown if i >= 0), reverse=True)
            second = rest[1] if len(rest) > 1 else 0
            floor = max(MIN_COLUMN_CELLS, min(second, widths[widest] - 1))
            widths[widest] = max(floor, widths[widest] - (total() - limit))
        elif len(shown) > 3:
            middle = len(shown) // 2
            if -1 in shown:
                gap = shown.index(-1)
                shown.pop(gap + 1 if len(shown) - gap - 1 >= gap else gap - 1)
            else:
                shown[middle] = -1
        else:
            break  # the terminal is too narrow for any table: let it wrap
    return shown


def _footer(count: int, shown_rows: int, columns: int, shown_columns: int) -> str:
    text = f"{count:,} row{'' if count == 1 else 's'}"
    notes = []
    if shown_rows < count:
        notes.append(f"{shown_rows} shown")
    if shown_columns < columns:
        notes.append(f"{shown_columns} of {columns} columns shown")
    return f"{text}{' (' + ', '.join(notes) + ')' if notes else ''}\n"


# --- the streaming ones -----------------------------------------------------------------------------------------------


def _csv_field(value: Any) -> str:
    """NULL is an empty field, an empty string is ""."""
    if value is None:
        return ""
    text = format_value(value)
    if text == "" or any(c in text for c in ',"\n\r') or text != text.strip():
        return '"' + text.replace('"', '""') + '"'
    return text


@_mode("csv")
def render_csv(names: Sequence[str], types: Sequence[str], rows: Iterable[Row], out: TextIO, layout: Layout) -> int:
    out.write(",".join(map(_csv_field, names)) + "\n")
    count = 0
    for row in rows:
        # A row of one NULL would be an empty line, which readers skip.
        out.write((",".join(map(_csv_field, row)) or '""') + "\n")
        count += 1
    return count


def json_value(value: Any) -> str:
    """A value as JSON; what JSON has no number or type for (NaN, times, bytes) is a string."""
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(_format_float(value))
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, dt.datetime):
        return json.dumps(value.replace(tzinfo=None).isoformat("T") + "Z")
    if value is None or isinstance(value, (bool, int, float, str, list, dict)):
        return json.dumps(value, ensure_ascii=False, default=format_value)
    return json.dumps(format_value(value), ensure_ascii=False)


def distinct_names(names: Sequence[str]) -> list[str]:
    """The names, a repeated one with _1, _2 ... behind it: keys of an object must differ."""
    taken: set[str] = set()
    result = []
    for name in names:
        candidate, number = name, 0
        while candidate in taken or (number and candidate in names):
            number += 1
            candidate = f"{name}_{number}"
        taken.add(candidate)
        result.append(candidate)
    return result


@_mode("json")
def render_json(names: Sequence[str], types: Sequence[str], rows: Iterable[Row], out: TextIO, layout: Layout) -> int:
    keys = [json.dumps(name, ensure_ascii=False) + ":" for name in distinct_names(names)]
    count = 0
    for row in rows:
        out.write("{" + ",".join(key + json_value(value) for key, value in zip(keys, row, strict=True)) + "}\n")
        count += 1
    return count


@_mode("line")
def render_line(names: Sequence[str], types: Sequence[str], rows: Iterable[Row], out: TextIO, layout: Layout) -> int:
    titles = [_escape(name) for name in names]
    width = max(map(measure, titles), default=0)
    count = 0
    for row in rows:
        if count:
            out.write("\n")
        for title, value in zip(titles, row, strict=True):
            out.write(f"{_pad(title, width, True)} = {_escape(format_value(value))}\n")
        count += 1
    return count


@_mode("markdown")
def render_markdown(
    names: Sequence[str], types: Sequence[str], rows: Iterable[Row], out: TextIO, layout: Layout
) -> int:
    def cell(text: str) -> str:
        return _escape(text).replace("\\", "\\\\").replace("|", "\\|") if not text.isalnum() else text

    out.write("| " + " | ".join(cell(name) for name in names) + " |\n")
    out.write("|" + "|".join(" ---: " if _is_numeric(type_name) else " --- " for type_name in types) + "|\n")
    count = 0
    for row in rows:
        out.write("| " + " | ".join(cell(format_value(value)) for value in row) + " |\n")
        count += 1
    return count
