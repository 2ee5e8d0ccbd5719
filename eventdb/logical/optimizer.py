"""The optimiser: subqueries become joins, then rules that simplify run until the plan stays as it is, then the rules
that finish it.

Every rule is a pure function; `disabled` names rules (of RULES) to leave out, so tests can show that each one changes
no result.
"""

from __future__ import annotations

from collections.abc import Callable

from eventdb.logical.parameters import fill_of
from eventdb.logical.plan import Filter, Plan, transform_plan
from eventdb.logical.rules.connect_joins import connect_joins
from eventdb.logical.rules.drop_dependent_keys import drop_dependent_keys
from eventdb.logical.rules.factor_terms import factor_terms
from eventdb.logical.rules.fold_constants import fold_constants
from eventdb.logical.rules.join_filters import join_filters
from eventdb.logical.rules.key_lookups import key_lookups
from eventdb.logical.rules.marks_to_semi_joins import marks_to_semi_joins
from eventdb.logical.rules.merge_filters import merge_filters
from eventdb.logical.rules.merge_projects import merge_projects
from eventdb.logical.rules.prune_columns import prune_columns
from eventdb.logical.rules.push_filters import push_filters
from eventdb.logical.rules.push_limit import push_limit
from eventdb.logical.rules.scan_ranges import scan_ranges
from eventdb.logical.rules.tumble_to_bucket import tumble_to_bucket
from eventdb.logical.rules.unnest_subqueries import unnest_subqueries
from eventdb.logical.subqueries import has_subqueries

Rule = Callable[[Plan], Plan]

_REPEATED: tuple[Rule, ...] = (
    tumble_to_bucket,
    fold_constants,
    merge_filters,
    factor_terms,
    push_filters,
    join_filters,
    connect_joins,
    marks_to_semi_joins,
    merge_projects,
    drop_dependent_keys,
)
_LAST: tuple[Rule, ...] = (push_limit, scan_ranges, key_lookups, prune_columns, merge_projects)
_OF_VALUES: tuple[Rule, ...] = (scan_ranges, key_lookups)
"""Rules of _LAST that ask what a literal's value is. They change filters right above scans and nothing else."""
RULES: tuple[str, ...] = (
    *dict.fromkeys(rule.__name__ for rule in (*_REPEATED, *_LAST)), "order_joins", "common_subplans",
    "block_statistics",
)  # fmt: skip
"""The last ones run when a query starts: `order_joins` asks its snapshot about the rows, the others
need to know which rows of a table are current."""
_MAX_ROUNDS = 4


def optimize(plan: Plan, disabled: frozenset[str] = frozenset()) -> Plan:
    """An equivalent plan with the same fields: same names, types and order. Cost: about a millisecond at most."""
    plan = _simplified(plan, disabled)
    for rule in _LAST:
        if rule.__name__ not in disabled:
            plan = rule(plan)
    return plan


def optimize_open(plan: Plan, disabled: frozenset[str] = frozenset()) -> Plan:
    """The plan optimised as far as the values of its parameters (Slots) are of no account: all but what
    `finishing` does to the nodes that hold one."""
    plan = _simplified(plan, disabled)
    for rule in _LAST:
        if rule not in _OF_VALUES and rule.__name__ not in disabled:
            plan = rule(plan)
    finish = finishing(disabled).get(Filter)
    if finish is None:
        return plan
    return transform_plan(plan, lambda node: finish(node) if _is_constant(node) else node)


def _is_constant(plan: Plan) -> bool:
    return isinstance(plan, Filter) and fill_of(plan.predicate) is None


def finishing(disabled: frozenset[str] = frozenset()) -> dict[type[Plan], Rule]:
    """What is left to do with a node of a plan of `optimize_open` once it holds its values, by the node's type."""
    rules = [rule for rule in _OF_VALUES if rule.__name__ not in disabled]

    def finish(plan: Plan) -> Plan:
        for rule in rules:
            plan = rule(plan)
        return plan

    return {Filter: finish} if rules else {}


def _simplified(plan: Plan, disabled: frozenset[str]) -> Plan:
    if has_subqueries(plan):
        plan = unnest_subqueries(plan)
    repeated = [rule for rule in _REPEATED if rule.__name__ not in disabled]
    for _ in range(_MAX_ROUNDS):
        before = plan
        for rule in repeated:
            plan = rule(plan)
        if plan is before or plan == before:
            break
    return plan
