"""Which plans can be maintained, what window their groups lie in, and what the others are told."""

from __future__ import annotations

import pytest

from eventdb.errors import BindError, UnsupportedSQL
from eventdb.logical.expressions import Aggregation, ColumnRef, IntervalValue, Literal, SortKey
from eventdb.logical.plan import Aggregate, Distinct, Join, Limit, OutputField, Plan, Project, Scan, Sort, TimeWindow
from eventdb.schema import BIGINT, INTERVAL, TIMESTAMP, VARCHAR
from eventdb.stream.program import TopicFacts, analyse
from eventdb.stream.view import output_schema
from tests.stream.cases import SCAN_FIELDS, SCHEMA, SECOND, TOPIC_ID, Case, call, plan_of, ref

SCAN = Scan(TOPIC_ID, "readings", ("device", "v", "d", "ts"), SCAN_FIELDS)
FACTS = TopicFacts(TOPIC_ID, "readings", SCHEMA, None, "ts", 5 * SECOND)
COUNT = Aggregation("count_star", (), BIGINT)


def _grouped(plan: Plan, *keys: object) -> Aggregate:
    fields = (*(OutputField(f"k{i}", k.type) for i, k in enumerate(keys)), OutputField("n", BIGINT))
    return Aggregate(plan, keys, (COUNT,), fields)


def _case(window, keys, **changes) -> Case:
    facts = {"where": None, "aggregates": ("count_star",), "having": None, "emit": None, "delay_s": 5}
    return Case(window=window, keys=keys, grace_s=0, max_future_s=None, **{**facts, **changes})


@pytest.mark.parametrize(
    ("window", "key", "to_end"),
    [
        (("tumble", 10, 10), "window_start", 10 * SECOND),
        (("hop", 10, 5), "window_end", 0),
        (("hop", 10, 5), "window_time", 1),
        (("bucket", 10, 10), "bucket", 10 * SECOND),
    ],
)
def test_the_window_of_a_group_is_found_from_its_key(window, key, to_end):
    case = _case(window, ("device", key))
    program = analyse(plan_of(case), case.facts)
    assert program.emission == "window_close"
    assert program.window is not None
    assert (program.window.position, program.window.to_end_us) == (1, to_end)


def test_the_window_is_found_through_projections_and_date_trunc():
    time = ref(SCAN.fields, "ts")
    renamed = Project(SCAN, (time,), (OutputField("t", TIMESTAMP),))
    hour = call("date_trunc", TIMESTAMP, Literal(VARCHAR, "hour"), ColumnRef(TIMESTAMP, 0, "t"))
    program = analyse(_grouped(renamed, hour), FACTS)
    assert program.window is not None
    assert program.window.size_us == 3600 * SECOND


def test_months_close_at_the_end_of_the_month():
    month = call("date_trunc", TIMESTAMP, Literal(VARCHAR, "month"), ref(SCAN.fields, "ts"))
    window = analyse(_grouped(SCAN, month), FACTS).window
    assert window is not None
    import numpy as np

    first = np.array(["2024-02-01"], dtype="datetime64[us]").astype(np.int64)
    assert window.ends(first).astype("datetime64[us]").tolist()[0].isoformat() == "2024-03-01T00:00:00"


def test_without_a_watermark_windows_are_revised():
    case = _case(("tumble", 10, 10), ("window_end",), delay_s=None)
    program = analyse(plan_of(case), case.facts)
    assert program.emission == "update"
    assert program.window is None


def test_a_window_of_another_column_is_no_event_time_window():
    later = call("add", TIMESTAMP, ref(SCAN.fields, "ts"), Literal(INTERVAL, IntervalValue(0, 5)))
    other = TimeWindow(SCAN, later, 10, 10)
    program = analyse(_grouped(other, ref(other.fields, "window_end")), FACTS)
    assert program.window is None


def test_distinct_rows_are_groups_without_aggregates():
    program = analyse(Distinct(Project(SCAN, (ref(SCAN.fields, "device"),), (OutputField("device", VARCHAR),))), FACTS)
    assert program.aggregate is not None
    assert program.aggregate.aggregations == ()
    assert program.emission == "update"


@pytest.mark.parametrize(
    ("plan", "construct"),
    [
        (Sort(SCAN, (SortKey(ref(SCAN.fields, "v")),)), "ORDER BY"),
        (Limit(SCAN, 5), "LIMIT"),
        (Join("inner", SCAN, SCAN, (ref(SCAN.fields, "v"),), (ref(SCAN.fields, "v"),)), "JOIN"),
        (_grouped(_grouped(SCAN, ref(SCAN.fields, "v")), ColumnRef(BIGINT, 1, "n")), "an aggregate of an aggregate"),
        (Project(SCAN, (call("now", TIMESTAMP),), (OutputField("t", TIMESTAMP),)), "now()"),
    ],
)
def test_what_cannot_be_maintained_is_named(plan, construct):
    with pytest.raises(UnsupportedSQL) as failure:
        analyse(plan, FACTS)
    assert failure.value.construct == construct


@pytest.mark.parametrize(
    ("case", "fix"),
    [
        (_case(None, None), "leave EMIT out"),
        (_case(("tumble", 10, 10), ("window_end",), delay_s=None), "WATERMARK FOR"),
        (_case(("tumble", 10, 10), ("device",)), "group by window_start"),
    ],
)
def test_emit_on_window_close_says_what_is_missing(case, fix):
    with pytest.raises(UnsupportedSQL, match=fix):
        analyse(plan_of(case), case.facts, "window_close")


def test_output_schema_exists_for_append_only_views_only():
    case = _case(("tumble", 10, 10), ("window_end", "device"))
    schema = output_schema(analyse(plan_of(case), case.facts))
    assert schema is not None
    assert schema.names == ["window_end", "device", "a0"]
    assert output_schema(analyse(plan_of(case), case.facts, "update")) is None
    fields = (OutputField("x", BIGINT), OutputField("X", BIGINT))
    twice = Project(SCAN, (ref(SCAN.fields, "v"), ref(SCAN.fields, "v")), fields)
    with pytest.raises(BindError, match="two columns"):
        output_schema(analyse(twice, FACTS))
