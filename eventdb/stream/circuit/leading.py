"""Leading rows: which input rows of a Top-N can still be in its answer when rows only come.

A row behind the first N of its key never moves up again, so it need not be kept.
"""

from __future__ import annotations

from dataclasses import replace

from eventdb.logical.expressions import Call, ColumnRef, Expression, Literal
from eventdb.logical.over import Over
from eventdb.logical.plan import DistinctOn, Filter, Limit, Plan, Project, Sort
from eventdb.logical.predicates import terms_of
from eventdb.logical.relational import LimitBy, WorkingTable

_RANKS = ("row_number", "rank", "dense_rank")


def is_top(plan: Plan) -> bool:
    """Whether it is a Filter that keeps the first rows by the rank its Over gives them."""
    return isinstance(plan, Filter) and isinstance(plan.input, Over) and bool(_bounds(plan, plan.input))


def leading_rows(template: Plan) -> Plan | None:
    """The plan of the leaf's rows that must be kept, where the template is a Top-N right over its leaf; None where all
    must be."""
    below = template.children[0] if template.children else template
    if not below.children or not isinstance(below.children[0], WorkingTable):
        return None
    if isinstance(template, Limit | LimitBy) and isinstance(below, Sort) and template.row_count is not None:
        return replace(template, row_count=template.skip_count + template.row_count, skip_count=0)
    if isinstance(template, DistinctOn) and isinstance(below, Sort):
        return template
    if isinstance(template, Filter) and isinstance(below, Over) and is_top(template):
        kept = Filter(below, _bounds(template, below)[0])
        fields = below.input.fields
        return Project(kept, tuple(ColumnRef(field.type, i, field.name) for i, field in enumerate(fields)), fields)
    return None


def _bounds(plan: Filter, over: Over) -> list[Expression]:
    """What the predicate says of the greatest rank, as terms `rank <= number`; nothing where another call sees the rows
    behind."""
    if len(over.calls) != 1 or over.calls[0].function not in _RANKS:
        return []
    found = (_bound(term, len(over.input.fields)) for term in terms_of(plan.predicate))
    return [bound for bound in found if bound is not None]


def _bound(term: Expression, rank: int) -> Expression | None:
    if not isinstance(term, Call) or term.function not in ("le", "lt", "eq"):
        return None
    column, number = term.args
    if not isinstance(column, ColumnRef) or column.index != rank or not isinstance(number, Literal):
        return None
    return replace(term, function="le") if term.function == "eq" else term
