"""Both engines over the same plan and data, and the comparison of what they give."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from eventdb.batch import RecordBatch
from eventdb.errors import EventDBError
from eventdb.kernels import intrinsics
from eventdb.logical.plan import Plan
from eventdb.physical.context import QueryContext
from eventdb.physical.planner import plan_physical
from tests.physical.building import physical

Rows = list[tuple[Any, ...]]


def outcome(plan: Plan, context: QueryContext) -> tuple[Rows | str, str]:
    """(rows or the error as text, the engine that ran: 'doubted' if the kernel saw errors that are none)."""
    operator = plan_physical(plan, context)
    found: Rows = []
    try:
        for batch in operator.batches():
            assert [c.type for c in batch.columns] == [f.type for f in plan.fields]
            check_form(batch)
            found += list(zip(*[physical(c) for c in batch.columns], strict=True))
    except EventDBError as error:
        return f"{type(error).__name__}: {error}", operator.engine
    doubted = getattr(operator, "accepted_morsel_count", 0)
    return found, "doubted" if doubted else operator.engine


def check_form(batch: RecordBatch) -> None:
    for column in batch.columns:
        assert column.values.dtype == np.dtype(column.type.physical), column
        assert len(column.values) == batch.row_count
        if column.validity is not None:
            assert column.validity.dtype == np.bool_
            assert len(column.validity) == batch.row_count
        if column.dictionary is not None and batch.row_count:
            assert 0 <= column.values.min() <= column.values.max() < len(column.dictionary)


def both(plan: Plan, context: QueryContext) -> tuple[Rows | str, Rows | str, str]:
    """What the interpreted and the compiled engine give, and which engine the latter ended in."""
    expected, _ = outcome(plan, replace(context, execution="interpreted"))
    found, engine = outcome(plan, replace(context, execution="compiled"))
    return expected, found, engine


def same_value(left: Any, right: Any, tolerance: float = 0.0) -> bool:
    if isinstance(left, float) and isinstance(right, float):
        if math.isnan(left) or math.isnan(right):
            return math.isnan(left) and math.isnan(right)
        return left == right or math.isclose(left, right, rel_tol=tolerance, abs_tol=tolerance)
    return type(left) is type(right) and bool(left == right)


def assert_same_rows(
    expected: Rows | str, found: Rows | str, *, ordered: bool, tolerance: float = 0.0, keys: int = 0
) -> None:
    """Equal errors, or equal rows: in order, or matched by their first `keys` values."""
    if isinstance(expected, str) or isinstance(found, str):
        assert found == expected
        return
    if not ordered:
        expected, found = (sorted(r, key=lambda row: _order(row[:keys])) for r in (expected, found))
    assert len(found) == len(expected), (found, expected)
    for left, right in zip(expected, found, strict=True):
        assert len(left) == len(right)
        for a, b in zip(left, right, strict=True):
            assert same_value(a, b, tolerance), (left, right)


def _order(values: Sequence[Any]) -> list[tuple[int, str]]:
    """A total order over values of any type: NULL, NaN and -0.0 included."""
    return [(0 if v is None else 1, repr(v + 0.0 if isinstance(v, float) else v)) for v in values]


def plain_kernel(source: str, tokens: tuple[str, ...]) -> Callable[..., int]:
    """A generated pipeline as plain Python: as many shapes as wanted without a compile."""
    scope: dict[str, Any] = {"np": np}
    plain = {
        "checked_add": intrinsics._plain_add,
        "checked_sub": intrinsics._plain_sub,
        "checked_mul": intrinsics._plain_mul,
        "fast_add": intrinsics._plain_fast_add,
        "bits_of": intrinsics._plain_bits_of,
        "float_of": intrinsics._plain_float_of,
    }
    scope.update(plain)
    exec(compile(source, "<pipeline>", "exec"), scope)
    pipeline = scope["pipeline"]

    def run(*arguments: Any) -> int:
        with np.errstate(all="ignore"):
            return int(pipeline(*arguments))

    return run
