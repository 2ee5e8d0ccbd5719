"""Python values as a column, by the rules of an append."""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from decimal import Decimal
from types import NoneType
from typing import Any

import numpy as np
import pyarrow as pa

from eventdb.arrow import arrow_type, column_from_arrow
from eventdb.batch import Column
from eventdb.row import value_checker
from eventdb.schema import DataType, Field

_EXACT: dict[str, type] = {  # values of another class are looked at one by one
    "BOOLEAN": bool, "DOUBLE": float, "VARCHAR": str, "BLOB": bytes, "DATE": dt.date, "TIMESTAMP": dt.datetime,
    "INTERVAL": dt.timedelta, "DECIMAL": Decimal, "FLOAT": NoneType,
}  # fmt: skip


def column_of_values(values: Sequence[Any], type: DataType, name: str) -> Column:
    """A column of Python values, None for NULL. SchemaMismatch with the first that a topic would not store in it."""
    if {value.__class__ for value in values} <= {_EXACT.get(type.name, int), NoneType}:
        try:
            return column_from_arrow(pa.array(values, arrow_type(type), from_pandas=False), type, name)
        except (pa.ArrowException, ValueError, TypeError, OverflowError):
            pass  # the checks say which value it is
    check = value_checker(Field(name, type))
    physical = [check(value) for value in values]
    if type.is_coded:
        return column_from_arrow(pa.array(physical, arrow_type(type)), type, name)
    validity = np.fromiter((value is not None for value in physical), dtype=bool, count=len(physical))
    held = np.array([0 if value is None else value for value in physical], dtype=type.physical)
    return Column(type, held, None if validity.all() else validity)
