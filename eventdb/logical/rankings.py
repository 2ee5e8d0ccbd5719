"""The functions that exist only with OVER. Every aggregate can be used with OVER too."""

from __future__ import annotations

from collections.abc import Sequence

from eventdb.logical.signatures import Function, Resolution, define, overloads
from eventdb.logical.types import common_type
from eventdb.schema import BIGINT, DataType

_S = overloads


def _offset(types: Sequence[DataType]) -> Resolution | None:
    """lag and lead: value[, how many rows away[, default]]."""
    if not 1 <= len(types) <= 3 or (len(types) > 1 and not (types[1].is_integer or types[1].name == "NULL")):
        return None
    value = types[0] if len(types) < 3 else common_type(types[0], types[2])
    return None if value is None else ((value, BIGINT, value)[: len(types)], value)


RANKINGS: dict[str, Function] = define(
    [
        Function("row_number", "-> BIGINT", "place of the row in its partition, from 1", _S(" -> BIGINT")),
        Function("rank", "-> BIGINT", "1 + rows before the row's peers", _S(" -> BIGINT")),
        Function("dense_rank", "-> BIGINT", "1 + groups of peers before the row", _S(" -> BIGINT")),
        Function("percent_rank", "-> DOUBLE", "(rank - 1) / (rows - 1), 0 for one row", _S(" -> DOUBLE")),
        Function("cume_dist", "-> DOUBLE", "rows up to the row's last peer / rows", _S(" -> DOUBLE")),
        Function(
            "ntile",
            "BIGINT -> BIGINT",
            "number of the row's bucket of so many equal ones; NULL for NULL; less than 1 raises",
            _S("BIGINT -> BIGINT"),
            raises=True,
        ),
        Function(
            "lag", "any[, BIGINT[, default]] -> same", "value so many rows before; the default without one", _offset
        ),
        Function(
            "lead", "any[, BIGINT[, default]] -> same", "value so many rows after; the default without one", _offset
        ),
        Function("first_value", "any -> same", "value of the frame's first row", _S("any -> first")),
        Function("last_value", "any -> same", "value of the frame's last row", _S("any -> first")),
        Function(
            "nth_value",
            "any, BIGINT -> same",
            "value of the frame's n-th row, from 1; NULL without one",
            _S("any, BIGINT -> first"),
        ),
    ]
)

FRAMELESS = ("row_number", "rank", "dense_rank", "percent_rank", "cume_dist", "ntile", "lag", "lead")
"""They look at the partition, whatever the frame."""
SKIPS_NULLS = ("lag", "lead", "first_value", "last_value", "nth_value", "first", "last", "any_value")
"""IGNORE NULLS means something for them."""
