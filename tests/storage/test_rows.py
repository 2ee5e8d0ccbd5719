"""Every value that goes in comes out, by rows and by columns, whatever the storage does with it in between."""

from __future__ import annotations

import math
import tempfile
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from eventdb.batch import Column, Dictionary
from eventdb.errors import SchemaMismatch, UsageError
from eventdb.schema import DataType, Field, Schema
from eventdb.storage import Store
from eventdb.storage.commit import append
from eventdb.storage.commit.commit import Writer
from eventdb.storage.device.files import Clock
from tests.storage.simulation import SMALL_LIMITS

Row = tuple[Any, ...]

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "BOOLEAN": st.booleans(),
    "TINYINT": st.integers(-128, 127),
    "SMALLINT": st.integers(-(2**15), 2**15 - 1),
    "INTEGER": st.integers(-(2**31), 2**31 - 1),
    "BIGINT": st.integers(-(2**63), 2**63 - 1),
    "FLOAT": st.floats(width=32),
    "DOUBLE": st.floats(),
    "DECIMAL": st.integers(-(10**18) + 1, 10**18 - 1),
    "VARCHAR": TEXT | st.sampled_from(["", "a", "b", "\0", "\U0001f600" * 9, "x" * 3000]),
    "BLOB": st.binary(max_size=12) | st.sampled_from([b"", b"\0", b"y" * 5000]),
    "DATE": st.integers(-(2**31), 2**31 - 1),
    "TIMESTAMP": st.integers(-(2**63) + 1, 2**63 - 2),
}


def type_of(name: str) -> DataType:
    return DataType(name, 18, 4) if name == "DECIMAL" else DataType(name)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Schema, list[list[Row]], int | None]:
    names = draw(st.lists(st.sampled_from(sorted(VALUES)), min_size=1, max_size=6))
    nullable = [draw(st.booleans()) for _ in names]
    fields = [
        Field(f"c{i}", type_of(name), nullable=null) for i, (name, null) in enumerate(zip(names, nullable, strict=True))
    ]
    cells = [st.none() | VALUES[name] if null else VALUES[name] for name, null in zip(names, nullable, strict=True)]
    batches = draw(st.lists(st.lists(st.tuples(*cells), min_size=1, max_size=12), min_size=1, max_size=6))
    times = [i for i, name in enumerate(names) if name == "TIMESTAMP"]
    return Schema(fields), batches, times[0] if times else None


def same(a: Any, b: Any) -> bool:
    if isinstance(a, float) and isinstance(b, float):
        return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))
    return type(a) is type(b) and bool(a == b)


def assert_same(found: list[Row], expected: list[Row]) -> None:
    assert len(found) == len(expected)
    for row, wanted in zip(found, expected, strict=True):
        assert all(same(a, b) for a, b in zip(row, wanted, strict=True)), (row, wanted)


def by_columns(store: Store, log: Any, start: int, stop: int) -> list[Row]:
    found: list[Row] = []
    with store.snapshot() as snapshot:
        for part in snapshot.slices(log, start, stop):
            columns = []
            for i, field in enumerate(log.schema.fields):
                column = part.column(i)
                values = column.values.tolist()
                if field.type.is_coded:
                    assert column.dictionary is not None
                    values = [column.dictionary.values[code] for code in values]
                valid = [True] * len(values) if column.validity is None else column.validity.tolist()
                columns.append([v if ok else None for v, ok in zip(values, valid, strict=True)])
            assert part.first_offset == start + len(found)
            assert part.append_times().tolist() == sorted(part.append_times().tolist())
            if log.event_time is not None:
                known = [t for t in columns[log.event_time] if t is not None]
                low, high = part.time_range or (2**63, -(2**63))
                assert all(low <= t <= high for t in known)
            found += zip(*columns, strict=True)
    return found


def by_rows(store: Store, log: Any, start: int, stop: int) -> list[Row]:
    with store.snapshot() as snapshot:
        return [row[2] for chunk in snapshot.rows(log, start, stop) for row in chunk]


def as_columns(schema: Schema, rows: list[Row]) -> list[Column]:
    columns = []
    for i, field in enumerate(schema.fields):
        values = [row[i] for row in rows]
        valid = np.array([v is not None for v in values])
        dictionary = None
        if field.type.is_coded:
            words = list(dict.fromkeys(v for v in values if v is not None)) or [
                "" if field.type.name == "VARCHAR" else b""
            ]
            dictionary = Dictionary(words)
            values = [0 if v is None else words.index(v) for v in values]
            array = np.array(values, np.int32)
        else:
            array = np.array([0 if v is None else v for v in values], field.type.physical)
        columns.append(Column(field.type, array, None if valid.all() else valid, dictionary))
    return columns


@example(
    (Schema([Field("c0", DataType("VARCHAR"))]), [[("x" * 3000,)], [("a",)], [(None,)] * 9, [("z" * 9000,)]], None)
)
@given(cases())
def test_what_goes_in_comes_out(case: tuple[Schema, list[list[Row]], int | None]) -> None:
    schema, batches, event_time = case
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as directory:
        for name, value in SMALL_LIMITS.items():
            patch.setattr(f"eventdb.storage.{name}", value)
        expected: list[Row] = []
        for life in range(2):
            store = Store.open(directory + "/db", durability="os", live_topics=lambda: {1: schema}, maintenance=False)
            log = store.log(1, schema, event_time)
            for i, rows in enumerate(batches):
                if (i + life) % 3 == 0:
                    with store.write() as transaction:
                        assert transaction.append_columns(log, as_columns(schema, rows)) == len(expected)
                elif (i + life) % 3 == 1:
                    with store.write() as transaction:
                        assert transaction.append_rows(log, rows) == len(expected)
                else:
                    for j, row in enumerate(rows):
                        assert store.append_row(log, row) == len(expected) + j
                expected += rows
            for start in (0, len(expected) // 2):
                assert_same(by_rows(store, log, start, len(expected)), expected[start:])
                assert_same(by_columns(store, log, start, len(expected)), expected[start:])
            assert store.check(deep=True) == []
            store.close()


class StoppedClock(Clock):
    def time_us(self) -> int:
        return 1_700_000_000_000_000


def recorded(rows: list[Row], schema: Schema, event_time: int | None, *, short: bool) -> tuple[list[bytes], int]:
    """What the journal is told of each row after the first, by the short way or by the long one; and how many of them
    took the short way."""
    payloads, counted = [], 0

    def keep_short(writer: Writer, tail: Any, data: bytes, after: int, marks: Any) -> None:
        nonlocal counted
        counted += 1
        payloads.append(data)
        commit_short(writer, tail, data, after, marks)

    def keep_long(writer: Writer, payload: bytes, *rest: Any, **named: Any) -> bool:
        payloads.append(payload)
        return commit_long(writer, payload, *rest, **named)

    commit_short, commit_long = append.commit_record, Writer.commit_head
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory() as directory:
        patch.setattr(append, "commit_record", keep_short)
        patch.setattr(Writer, "commit_head", keep_long)
        store = Store.open(
            directory + "/db", durability="os", live_topics=lambda: {1: schema}, maintenance=False, clock=StoppedClock()
        )
        log = store.log(1, schema, event_time)
        with store.write() as transaction:
            transaction.append_rows(log, rows[:1])
        for row in rows[1:]:
            if short:
                store.append_row(log, row)
            else:
                with store.write() as transaction:
                    transaction.append_rows(log, [row])
        store.close()
    return payloads, counted


@example((Schema([Field("c0", DataType("BLOB")), Field("c1", DataType("VARCHAR"))]), [[(b"\0" * 9, "a")] * 9], None))
@given(cases())
def test_the_short_way_records_what_the_long_way_records(case: tuple[Schema, list[list[Row]], int | None]) -> None:
    schema, batches, event_time = case
    rows = [row for batch in batches for row in batch]
    rows += rows  # the strings of the second half are known
    found, short = recorded(rows, schema, event_time, short=True)
    expected, none = recorded(rows, schema, event_time, short=False)
    assert found == expected
    assert none == 0
    assert short >= len(rows) // 2


def test_values_larger_than_a_heap_and_a_full_dictionary_go_on_in_new_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventdb.storage.segment.cells.DICTIONARY_LIMIT", 50)
    schema = Schema([Field("s", DataType("VARCHAR")), Field("b", DataType("BLOB"))])
    with tempfile.TemporaryDirectory() as directory:
        store = Store.open(directory + "/db", durability="os", live_topics=lambda: {1: schema}, maintenance=False)
        log = store.log(1, schema, None)
        expected: list[Row] = []
        for i in range(120):
            row = (f"value {i}", b"b" * (300_000 if i % 40 == 7 else i))
            assert store.append_row(log, row) == i
            expected.append(row)
        assert_same(by_rows(store, log, 0, 120), expected)
        assert_same(by_columns(store, log, 0, 120), expected)
        assert store.check(deep=True) == []
        store.close()


@pytest.mark.parametrize("row", [(1,), (1, 2, 3), (None, "a"), ("1", "a"), (2**63, "a"), (1.5, "a"), (1, 5)], ids=repr)
def test_a_row_that_does_not_fit_is_refused_and_nothing_is_stored(row: Row) -> None:
    schema = Schema([Field("n", DataType("BIGINT"), nullable=False), Field("s", DataType("VARCHAR"))])
    with tempfile.TemporaryDirectory() as directory:
        store = Store.open(directory + "/db", durability="os", live_topics=lambda: {1: schema}, maintenance=False)
        log = store.log(1, schema, None)
        for known in (False, True):
            with pytest.raises((SchemaMismatch, UsageError)):
                store.append_row(log, row)
            with pytest.raises((SchemaMismatch, UsageError)), store.write() as transaction:
                transaction.append_rows(log, [(7, "a"), row])
            assert by_rows(store, log, 0, 1 if known else 0) == ([(7, "a")] if known else [])
            if not known:
                assert store.append_row(log, (7, "a")) == 0
        assert store.check(deep=True) == []
        store.close()
