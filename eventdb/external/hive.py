"""Hive partitioning: folders named column=value, whose values are columns of the files below."""

from __future__ import annotations

import datetime as dt
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from eventdb.external.source import Terms
from eventdb.schema import BIGINT, DATE, VARCHAR, DataType
from eventdb.values import date_to_days

NULL_NAME = "__HIVE_DEFAULT_PARTITION__"
_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "eq": operator.eq, "lt": operator.lt, "le": operator.le, "gt": operator.gt, "ge": operator.ge,
    "in": lambda value, wanted: value in wanted,
}  # fmt: skip


def texts_of(path: str) -> dict[str, str | None]:
    """What the folders of a path say: column -> text, None for NULL."""
    found: dict[str, str | None] = {}
    for folder in path.split("/")[:-1]:
        name, equals, value = folder.partition("=")
        if equals and name:
            found[unquote(name)] = None if value == NULL_NAME else unquote(value)
    return found


def typed(files: Sequence[Mapping[str, str | None]]) -> tuple[dict[str, DataType], list[dict[str, Any]]]:
    """The columns that all files have, and their physical values in each: BIGINT or DATE where every value is one."""
    names = [name for name in files[0] if all(name in file for file in files)]
    types: dict[str, DataType] = {}
    values: list[dict[str, Any]] = [{} for _ in files]
    for name in names:
        texts = [file[name] for file in files]
        types[name], read = _type_of([text for text in texts if text is not None])
        for value, text in zip(values, texts, strict=True):
            value[name] = None if text is None else read(text)
    return types, values


def _type_of(texts: Sequence[str]) -> tuple[DataType, Callable[[str], Any]]:
    if texts and all(re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", text) for text in texts):
        return BIGINT, int
    if texts and all(re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text) for text in texts):
        try:
            days = {text: date_to_days(dt.date.fromisoformat(text)) for text in texts}
        except ValueError:
            return VARCHAR, str
        return DATE, days.__getitem__
    return VARCHAR, str


def may_hold(values: Mapping[str, Any], terms: Terms) -> bool:
    """Whether a file with these partition values can have a row for which every term is true."""
    for column, function, wanted in terms:
        if column in values:
            value = values[column]
            if value is None or not _OPERATORS[function](value, wanted):
                return False
    return True
