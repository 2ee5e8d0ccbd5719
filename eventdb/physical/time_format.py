"""strftime and strptime with fixed English names: independent of the process's locale and of the platform's C library.

Timestamps are integer microseconds since 1970-01-01 UTC.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Callable
from functools import lru_cache

from eventdb.errors import EvaluationError
from eventdb.values import datetime_to_us, us_to_datetime

DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November",
    "December",
)  # fmt: skip

Parser = Callable[[str], int]

_FORMAT: dict[str, Callable[[dt.datetime], str]] = {
    "Y": lambda t: f"{t.year:04d}", "y": lambda t: f"{t.year % 100:02d}", "m": lambda t: f"{t.month:02d}",
    "d": lambda t: f"{t.day:02d}", "H": lambda t: f"{t.hour:02d}", "I": lambda t: f"{(t.hour + 11) % 12 + 1:02d}",
    "M": lambda t: f"{t.minute:02d}", "S": lambda t: f"{t.second:02d}", "f": lambda t: f"{t.microsecond:06d}",
    "p": lambda t: "AM" if t.hour < 12 else "PM", "j": lambda t: f"{t.timetuple().tm_yday:03d}",
    "a": lambda t: DAYS[t.weekday()][:3], "A": lambda t: DAYS[t.weekday()], "b": lambda t: MONTHS[t.month - 1][:3],
    "B": lambda t: MONTHS[t.month - 1], "u": lambda t: str(t.isoweekday()), "w": lambda t: str(t.isoweekday() % 7),
    "V": lambda t: f"{t.isocalendar()[1]:02d}", "G": lambda t: f"{t.isocalendar()[0]:04d}",
    "F": lambda t: f"{t.year:04d}-{t.month:02d}-{t.day:02d}",
    "T": lambda t: f"{t.hour:02d}:{t.minute:02d}:{t.second:02d}",
    "s": lambda t: str(datetime_to_us(t) // 1_000_000), "%": lambda t: "%",
}  # fmt: skip


def format_pieces(pattern: str) -> list[tuple[str, bool]]:
    """The pattern as (text, is a field letter). EvaluationError for a field that does not exist."""
    pieces: list[tuple[str, bool]] = []
    position = 0
    while position < len(pattern):
        place = pattern.find("%", position)
        if place < 0:
            place = len(pattern)
        if place > position:
            pieces.append((pattern[position:place], False))
        if place < len(pattern):
            letter = pattern[place + 1 : place + 2]
            if letter not in _FORMAT:
                fields = " ".join("%" + name for name in _FORMAT)
                raise EvaluationError(f"format {pattern!r}: unknown field %{letter}; the fields are {fields}")
            pieces.append((letter, True))
        position = place + 2
    return pieces


@lru_cache(maxsize=64)
def _writers(pattern: str) -> tuple[Callable[[dt.datetime], str] | str, ...]:
    return tuple(_FORMAT[text] if field else text for text, field in format_pieces(pattern))


def format_timestamp(us: int, pattern: str) -> str:
    """The text of a timestamp; years 1 to 9999."""
    moment = us_to_datetime(us)
    return "".join([part if isinstance(part, str) else part(moment) for part in _writers(pattern)])


_NAMES = {
    "a": [name[:3] for name in DAYS], "A": list(DAYS), "b": [name[:3] for name in MONTHS], "B": list(MONTHS),
    "p": ["AM", "PM"],
}  # fmt: skip
_DIGITS = {
    "Y": r"\d{4}", "G": r"\d{4}", "y": r"\d{2}", "m": r"\d{1,2}", "d": r"\d{1,2}", "H": r"\d{1,2}", "I": r"\d{1,2}",
    "M": r"\d{1,2}", "S": r"\d{1,2}", "f": r"\d{1,6}", "j": r"\d{1,3}", "u": r"[1-7]", "w": r"[0-6]", "V": r"\d{1,2}",
    "s": r"-?\d{1,12}",
}  # fmt: skip
_COMPOSED = {"F": "%Y-%m-%d", "T": "%H:%M:%S"}


@lru_cache(maxsize=64)
def timestamp_parser(pattern: str) -> Parser:
    """A function text -> microseconds; it raises EvaluationError for text that does not fit the pattern.

    Fields that the pattern leaves out are those of 1900-01-01 00:00:00. Names match in any case.
    """
    pieces: list[tuple[str, bool]] = []
    for text, field in format_pieces(pattern):
        pieces.extend(format_pieces(_COMPOSED[text]) if field and text in _COMPOSED else [(text, field)])
    source, letters = "", []
    for text, field in pieces:
        if not field or text == "%":
            source += re.escape(text)
            continue
        letters.append(text)
        source += "(" + ("|".join(_NAMES[text]) if text in _NAMES else _DIGITS[text]) + ")"
    matcher = re.compile(source, re.IGNORECASE | re.ASCII)

    def parse(text: str) -> int:
        found = matcher.fullmatch(text)
        if found is None:
            raise EvaluationError(f"strptime: {text[:80]!r} does not fit the format {pattern!r}")
        try:
            return _assemble(dict(zip(letters, found.groups(), strict=True)))
        except (ValueError, OverflowError) as problem:
            raise EvaluationError(f"strptime: {text[:80]!r} is not a time ({problem}; format {pattern!r})") from None

    return parse


def _assemble(fields: dict[str, str]) -> int:
    if "s" in fields:
        seconds = int(fields["s"])
        us_to_datetime(seconds * 1_000_000)  # OverflowError outside years 1 to 9999
        return seconds * 1_000_000 + int(fields.get("f", "0").ljust(6, "0"))
    hour = int(fields.get("H", "0"))
    if "I" in fields and "H" not in fields:
        hour = int(fields["I"])
        if not 1 <= hour <= 12:
            raise ValueError("the hour of a 12-hour clock is 1 to 12")
        hour = hour % 12 + (12 if fields.get("p", "AM").upper() == "PM" else 0)
    minute, second = int(fields.get("M", "0")), int(fields.get("S", "0"))
    clock = dt.time(hour, minute, second, int(fields.get("f", "0").ljust(6, "0")))
    return datetime_to_us(dt.datetime.combine(_day(fields), clock))


def _day(fields: dict[str, str]) -> dt.date:
    if "G" in fields and "V" in fields:
        weekday = int(fields.get("u", "1"))
        return dt.date.fromisocalendar(int(fields["G"]), int(fields["V"]), weekday)
    year = 1900
    if "Y" in fields:
        year = int(fields["Y"])
    elif "y" in fields:
        short = int(fields["y"])
        year = short + (1900 if short >= 69 else 2000)
    if "j" in fields and "m" not in fields:
        number = int(fields["j"])
        day = dt.date(year, 1, 1) + dt.timedelta(days=number - 1)
        if day.year != year:
            raise ValueError(f"year {year} has no day {number}")
        return day
    month = int(fields.get("m", "1"))
    for letter, width in (("B", 20), ("b", 3)):
        if letter in fields:
            name = fields[letter].lower()
            month = next(i for i, full in enumerate(MONTHS, 1) if full[:width].lower() == name)
    return dt.date(year, month, int(fields.get("d", "1")))
