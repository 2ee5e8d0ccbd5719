"""A filter that says which keys of a table it wants makes the scan below it a lookup of those keys.

Every column of the primary key is compared with a constant (=) or a list of them (IN), in terms that stand before any
that can raise: rows that are not looked up are not evaluated. The filter stays.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import product
from math import prod

from eventdb.logical.expressions import Call, ColumnRef, Expression, InList, Literal
from eventdb.logical.functions import may_raise
from eventdb.logical.plan import Filter, Plan, Scan, transform_plan
from eventdb.logical.predicates import terms_of

MAX_KEYS = 4_096
"""Beyond so many keys a scan is not slower."""


def key_lookups(plan: Plan) -> Plan:
    return transform_plan(plan, _change)


def _change(plan: Plan) -> Plan:
    if not isinstance(plan, Filter) or not isinstance(plan.input, Scan) or not plan.input.primary_key:
        return plan
    scan = plan.input
    wanted: dict[str, tuple[object, ...]] = {}
    for term in terms_of(plan.predicate):
        if may_raise(term):
            break
        index, values = _wanted(term)
        column = scan.columns[index] if index >= 0 else ""
        if column in scan.primary_key and (column not in wanted or len(values) < len(wanted[column])):
            wanted[column] = values
    if len(wanted) < len(scan.primary_key):
        return plan
    lists = [wanted[column] for column in scan.primary_key]
    if prod(map(len, lists)) > MAX_KEYS:
        return plan
    return Filter(replace(scan, keys=tuple(product(*lists))), plan.predicate)


def _wanted(term: Expression) -> tuple[int, tuple[object, ...]]:
    """(column, the values it must be one of); (-1, ()) for a term that says no such thing."""
    column: Expression
    literals: Iterable[Expression]
    if isinstance(term, InList) and not term.negated:
        column, literals = term.operand, term.values
    elif isinstance(term, Call) and term.function == "eq":
        column, literal = term.args if isinstance(term.args[0], ColumnRef) else reversed(term.args)
        literals = (literal,)
    else:
        return -1, ()
    if not isinstance(column, ColumnRef):
        return -1, ()
    values = []
    for literal in literals:
        if not isinstance(literal, Literal):
            return -1, ()
        if literal.value is None:
            continue  # equals nothing
        if literal.type != column.type and not (literal.type.is_integer and column.type.is_integer):
            return -1, ()
        values.append(literal.value)
    return column.index, tuple(dict.fromkeys(values))
