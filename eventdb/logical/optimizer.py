"""The optimiser: rules that simplify, run until the plan stays as it is, then the rules that finish it.

Every rule is a pure function; `disabled` names rules (of RULES) to leave out, so tests can show that each one changes
no result.
"""

from __future__ import annotations

from collections.abc import Callable

from eventdb.logical.plan import Plan
from eventdb.logical.rules.drop_dependent_keys import drop_dependent_keys
from eventdb.logical.rules.fold_constants import fold_constants
from eventdb.logical.rules.key_lookups import key_lookups
from eventdb.logical.rules.merge_filters import merge_filters
from eventdb.logical.rules.merge_projects import merge_projects
from eventdb.logical.rules.prune_columns import prune_columns
from eventdb.logical.rules.push_filters import push_filters
from eventdb.logical.rules.push_limit import push_limit
from eventdb.logical.rules.scan_ranges import scan_ranges
from eventdb.logical.rules.tumble_to_bucket import tumble_to_bucket

Rule = Callable[[Plan], Plan]

_REPEATED: tuple[Rule, ...] = (
    tumble_to_bucket,
    fold_constants,
    merge_filters,
    push_filters,
    merge_projects,
    drop_dependent_keys,
)
_LAST: tuple[Rule, ...] = (push_limit, scan_ranges, key_lookups, prune_columns, merge_projects)
RULES: tuple[str, ...] = tuple(dict.fromkeys(rule.__name__ for rule in (*_REPEATED, *_LAST)))
_MAX_ROUNDS = 4


def optimize(plan: Plan, disabled: frozenset[str] = frozenset()) -> Plan:
    """An equivalent plan with the same fields: same names, types and order. Cost: about a millisecond at most."""
    repeated = [rule for rule in _REPEATED if rule.__name__ not in disabled]
    for _ in range(_MAX_ROUNDS):
        before = plan
        for rule in repeated:
            plan = rule(plan)
        if plan is before or plan == before:
            break
    for rule in _LAST:
        if rule.__name__ not in disabled:
            plan = rule(plan)
    return plan
