"""EXISTS and NOT EXISTS of few rows over many: only rows that have a key of the few are put into a table.

A semi or anti join with a condition beside its keys holds the rows of its right side. Where the left one is estimated
to have far fewer, it is run first and kept (Shared), and the right side is joined with its keys before it is held: a
scan drops most of its rows in one loop. A join by keys alone holds no rows, only which keys there are.
"""

from __future__ import annotations

from dataclasses import replace

from eventdb.config import COMPILE_MIN_ROWS
from eventdb.logical.cardinality import Statistics, row_count
from eventdb.logical.expressions import ColumnRef
from eventdb.logical.facts import is_volatile
from eventdb.logical.node_expressions import expressions_of
from eventdb.logical.plan import Filter, Join, OutputField, Plan, Project, Scan, transform_plan
from eventdb.logical.relational import Shared, WorkingTable

_RATIO = 2.5
"""So many times the left side's rows the right one has at least."""


def reduce_held_sides(plan: Plan, statistics: Statistics) -> Plan:
    """An equivalent plan with the same rows in the same order."""
    return transform_plan(plan, lambda node: _reduced(node, statistics) if isinstance(node, Join) else node)


def _reduced(join: Join, statistics: Statistics) -> Plan:
    if join.kind not in ("semi", "anti") or join.residual is None or not join.left_keys or any(join.null_matches):
        return join
    scan = _scan(join.right)
    if scan is None or statistics.row_count(scan) < COMPILE_MIN_ROWS or not _is_alone(join.left):
        return join  # fewer rows are soon in a table
    if row_count(join.right, statistics) < _RATIO * row_count(join.left, statistics):
        return join
    few = Shared(join.left, 2)
    fields = tuple(OutputField(f"key_{i}", key.type) for i, key in enumerate(join.left_keys))
    refs = tuple(ColumnRef(field.type, i, field.name) for i, field in enumerate(fields))
    right = Join("semi", join.right, Project(few, join.left_keys, fields), join.right_keys, refs)
    return replace(join, left=few, right=right)


def _scan(plan: Plan) -> Scan | None:
    while isinstance(plan, Filter | Project):
        plan = plan.input
    return plan if isinstance(plan, Scan) and plan.keys is None else None


def _is_alone(plan: Plan) -> bool:
    """Whether the rows are those of this query, the same each time."""
    if isinstance(plan, WorkingTable) or any(map(is_volatile, expressions_of(plan))):
        return False
    return all(map(_is_alone, plan.children))
