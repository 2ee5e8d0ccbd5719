"""Filter over Filter becomes one Filter; the inner terms stay first, so they go on protecting the outer ones."""

from __future__ import annotations

from eventdb.logical.plan import Filter, Plan, transform_plan
from eventdb.logical.predicates import all_of, terms_of


def merge_filters(plan: Plan) -> Plan:
    return transform_plan(plan, _merge)


def _merge(plan: Plan) -> Plan:
    if isinstance(plan, Filter) and isinstance(plan.input, Filter):
        terms = dict.fromkeys([*terms_of(plan.input.predicate), *terms_of(plan.predicate)])
        predicate = all_of(terms)
        assert predicate is not None
        return Filter(plan.input.input, predicate)
    return plan
