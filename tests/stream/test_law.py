"""The law: at any moment the content of a view is the batch answer over the same rows.

Generated queries over generated rows with disorder, repetitions, NULL times and wrong clocks; taken in with any cuts,
with crashes (everything in memory forgotten, the store kept) after any commit; read with and without a maintainer.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from eventdb.batch import RecordBatch
from eventdb.physical.context import QueryContext
from eventdb.physical.planner import run
from eventdb.stream.program import analyse
from eventdb.stream.reader import ViewReader
from eventdb.stream.state import StateKeys
from eventdb.stream.subscribe import Subscriber
from eventdb.stream.view import ViewSpec, load_query, output_schema, save_query, view_spec
from eventdb.stream.watermark import LOWEST_US
from tests.stream.cases import SCHEMA, TOPIC_ID, Case, Row, cases, comparable, cuts, expect, inputs, plan_of
from tests.stream.memory_store import MemoryStore, physical_rows

VIEW_ID = 7
OUTPUT_ID = 8


def create(store: MemoryStore, case: Case) -> ViewSpec:
    plan, facts = plan_of(case), case.facts
    store.log(TOPIC_ID, SCHEMA, 3)
    schema = output_schema(analyse(plan, facts, case.emit, case.grace_s * 1_000_000))
    if schema is not None:
        store.log(OUTPUT_ID, schema)
    return view_spec(
        VIEW_ID,
        "v",
        plan,
        facts,
        store.logs.__getitem__,
        emit=case.emit,
        grace_us=case.grace_s * 1_000_000,
        output_topic_id=None if schema is None else OUTPUT_ID,
    )


def content(reader: ViewReader, spec: ViewSpec, snapshot: Any) -> list[Row]:
    batches: list[RecordBatch] = list(reader.content(spec, snapshot, spec.program.names))
    return [row for batch in batches for row in physical_rows(batch.columns)]


def maintain(store: MemoryStore, spec: ViewSpec, query: Any = None) -> Any:
    """One commit of a maintainer that goes on from `query`, or from the store after a crash."""
    with store.snapshot() as snapshot:
        base = spec.keys.progress(snapshot)
        query = load_query(spec, snapshot) if query is None else query
        _, end = snapshot.offsets(spec.input_log)
        new_rows = spec.reader.read(snapshot, spec.input_log, base.input_offset, end, 7)
        outputs = [query.advance(rows) for rows in new_rows]
    with store.write(journaled=False) as transaction:
        assert save_query(transaction, spec, base, query, [output for output in outputs if output is not None])
    return query


@settings(max_examples=200)
@given(cases(), inputs(), st.data())
def test_content_is_the_batch_answer_after_every_commit_and_crash(case, given_rows, data):
    rows, appended = given_rows
    store = MemoryStore()
    spec = create(store, case)
    reader, query = ViewReader(), None
    start = 0
    for stop in [0, *data.draw(cuts(len(rows)), label="cuts")]:
        for row, append_us in zip(rows[start:stop], appended[start:stop], strict=True):
            store.append(spec.input_log, [row], append_us)
        start = stop
        store.cut = data.draw(st.lists(st.integers(0, 60), max_size=3), label="segments")
        action = data.draw(st.sampled_from(["nothing", "maintain", "maintain", "crash", "read"]), label="action")
        if action == "crash":
            query = None
        if action in ("maintain", "crash"):
            query = maintain(store, spec, query)
        if action == "crash" and data.draw(st.booleans(), label="forget reader"):
            reader, query = ViewReader(), None
        if action != "nothing":
            expected = expect(case, rows[:stop], appended)
            with store.snapshot() as snapshot:
                assert comparable(content(reader, spec, snapshot)) == comparable(expected.rows)
    query = maintain(store, spec, query)
    expected = expect(case, rows, appended)
    assert query.late_row_count == expected.late
    assert query.watermark_us == (LOWEST_US if expected.watermark_us is None else expected.watermark_us)
    with store.snapshot() as snapshot:
        assert comparable(content(ViewReader(), spec, snapshot)) == comparable(expected.rows)
        if case.closes:
            assert len(list(StateKeys(VIEW_ID).groups(snapshot))) == expected.open_groups


@settings(max_examples=200)
@given(cases(), inputs(), st.data())
def test_changes_of_a_subscriber_add_up_to_the_content(case, given_rows, data):
    rows, appended = given_rows
    store = MemoryStore()
    spec = create(store, case)
    stored = data.draw(st.booleans(), label="stored view")
    points = data.draw(cuts(len(rows)), label="cuts")
    begin = data.draw(st.sampled_from([0, *points]), label="subscribe at")
    words = st.sampled_from(["snapshot", "earliest", "latest"])
    mode = data.draw(words | st.integers(0, begin), label="start")
    subscriber = Subscriber(store, spec if stored else view_spec_without_store(spec), mode)
    total: Counter[str] = Counter()
    start, before = 0, Counter()
    for stop in [0, *points]:
        for row, append_us in zip(rows[start:stop], appended[start:stop], strict=True):
            store.append(spec.input_log, [row], append_us)
        start = stop
        if data.draw(st.booleans(), label="maintain"):
            maintain(store, spec)
        if stop < begin:
            continue
        if stop == begin and (mode == "latest" or isinstance(mode, int)):
            point = stop if mode == "latest" else mode
            before = Counter(comparable(expect(case, rows[:point], appended).rows))
        while (changes := subscriber.read(0)) is not None:
            for weight, row in zip(changes.batch.weight.tolist(), physical_rows(changes.batch.columns), strict=True):
                total[comparable([row])[0]] += weight
        expected = Counter(comparable(expect(case, rows[:stop], appended).rows))
        expected.subtract(before)
        assert {k: n for k, n in total.items() if n} == {k: n for k, n in expected.items() if n}


def view_spec_without_store(spec: ViewSpec) -> ViewSpec:
    return ViewSpec(-1, "", spec.program, spec.input_log)


@settings(max_examples=100)
@given(cases(), inputs())
def test_content_is_what_the_query_engine_answers_over_the_accepted_rows(case, given_rows):
    rows, appended = given_rows
    expected = expect(case, rows, appended)
    assume(not expected.partly_late)
    store = MemoryStore()
    spec = create(store, case)
    for row, append_us in zip(rows, appended, strict=True):
        store.append(spec.input_log, [row], append_us)
    with store.snapshot() as snapshot:
        got = content(ViewReader(), spec, snapshot)
    batch = MemoryStore()
    log = batch.log(TOPIC_ID, SCHEMA, 3)
    batch.append(log, [row for i, row in enumerate(rows) if i not in expected.fully_late])
    with batch.snapshot() as snapshot:
        context = QueryContext(snapshot=snapshot, logs=lambda topic_id: log, execution="interpreted")
        answer = [row for result in run(plan_of(case), context) for row in physical_rows(result.columns)]
    if case.closes:
        window, limit = spec.program.window, expected.watermark_us
        assert window is not None
        ends = [None if row[window.position] is None else row[window.position] + window.to_end_us for row in answer]
        closed_by = None if limit is None else limit - spec.program.grace_us
        answer = [
            row for row, end in zip(answer, ends, strict=True)
            if end is not None and closed_by is not None and end <= closed_by
        ]  # fmt: skip
    assert comparable(got) == comparable(answer)
