"""Topics of several partitions, headers and limits, through the public API, against plain lists."""

from __future__ import annotations

import datetime as dt
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import eventdb
from eventdb.batch import Column, Dictionary
from eventdb.headers import decode_headers, encode_headers
from eventdb.partitioner import Partitioner, key_bytes, murmur2, murmur2_many
from eventdb.schema import DataType

KAFKA = {  # org.apache.kafka.common.utils.UtilsTest
    "21": -973932308, "foobar": -790332482, "a-little-bit-long-string": -985981536,
    "a-little-bit-longer-string": -1486304829, "lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
    "abc": 479470107,
}  # fmt: skip


def java_murmur2(data: bytes) -> int:
    """Kafka's Java code, line by line, with signed bytes and 32-bit overflow."""

    def i32(x: int) -> int:
        return (x + 2**31) % 2**32 - 2**31

    def ushr(x: int, n: int) -> int:
        return (x & 0xFFFFFFFF) >> n

    m, length = 0x5BD1E995, len(data)
    h = i32(0x9747B28C ^ length)
    for i in range(length // 4):
        i4 = i * 4
        k = i32((data[i4] & 0xFF) + ((data[i4 + 1] & 0xFF) << 8) + ((data[i4 + 2] & 0xFF) << 16) + (data[i4 + 3] << 24))
        k = i32(k * m)
        k = i32(k ^ ushr(k, 24))
        k = i32(k * m)
        h = i32(i32(h * m) ^ k)
    tail = length % 4
    at = length & ~3
    if tail == 3:
        h = i32(h ^ (data[at + 2] & 0xFF) << 16)
    if tail >= 2:
        h = i32(h ^ (data[at + 1] & 0xFF) << 8)
    if tail >= 1:
        h = i32(h ^ data[at] & 0xFF)
        h = i32(h * m)
    h = i32(h ^ ushr(h, 13))
    h = i32(h * m)
    return i32(h ^ ushr(h, 15))


@pytest.fixture
def db() -> Iterator[eventdb.Database]:
    with eventdb.open(":memory:") as database:
        yield database


# --- the partitioner --------------------------------------------------------------------------------------------------


def test_murmur2_gives_the_numbers_of_kafkas_own_test() -> None:
    for key, number in KAFKA.items():
        assert murmur2(key.encode()) == number & 0xFFFFFFFF
    assert murmur2_many([key.encode() for key in KAFKA]).astype(np.int32).tolist() == list(KAFKA.values())


@given(st.lists(st.binary(max_size=40), max_size=30))
def test_murmur2_is_kafkas_for_any_bytes(keys: list[bytes]) -> None:
    expected = [java_murmur2(key) & 0xFFFFFFFF for key in keys]
    assert [murmur2(key) for key in keys] == expected
    assert murmur2_many(keys).tolist() == expected


def test_keys_hash_as_kafkas_serializers_write_them() -> None:
    assert key_bytes(DataType("VARCHAR"))("ü") == "ü".encode()
    assert key_bytes(DataType("BLOB"))(b"\0\1") == b"\0\1"
    assert key_bytes(DataType("INTEGER"))(-2) == b"\xff\xff\xff\xfe"
    assert key_bytes(DataType("BIGINT"))(1) == b"\0\0\0\0\0\0\0\1"
    assert key_bytes(DataType("SMALLINT"))(258) == b"\1\2"
    assert key_bytes(DataType("DOUBLE"))(1.5) == b"\x3f\xf8\0\0\0\0\0\0"
    assert key_bytes(DataType("DOUBLE"))(-0.0) == key_bytes(DataType("DOUBLE"))(0.0)


@settings(max_examples=50)
@given(st.data(), st.integers(1, 50))
def test_a_batch_goes_where_its_rows_would_go_one_by_one(data: st.DataObject, count: int) -> None:
    number = st.floats(allow_nan=True, width=64)
    cases: dict[str, Any] = {"BIGINT": st.integers(-(2**63), 2**63 - 1), "INTEGER": st.integers(-(2**31), 2**31 - 1),
                             "DOUBLE": number, "BOOLEAN": st.booleans(), "VARCHAR": st.text(max_size=9)}  # fmt: skip
    name = data.draw(st.sampled_from(sorted(cases)))
    values = data.draw(st.lists(st.none() | cases[name], min_size=1, max_size=20))
    type_ = DataType(name)
    partitioner = Partitioner(type_, count)
    valid = np.array([v is not None for v in values])
    if type_.is_coded:
        words = sorted({v for v in values if v is not None}) or [""]
        codes = np.array([0 if v is None else words.index(v) for v in values], np.int32)
        column = Column(type_, codes, valid, Dictionary(words))
    else:
        column = Column(type_, np.array([0 if v is None else v for v in values], dtype=type_.physical), valid)
    expected = [-1 if v is None else partitioner.of(v) for v in values]
    assert partitioner.of_column(column).tolist() == expected
    assert all(-1 <= p < count for p in expected)


# --- appending and reading --------------------------------------------------------------------------------------------

KEYS = st.sampled_from([None, "", "a", "b", "c", "d", "ü", "long" * 9])
HEADERS = st.none() | st.lists(st.tuples(st.text("abc", max_size=3), st.none() | st.binary(max_size=4)), max_size=3)
EVENTS = st.lists(st.tuples(KEYS, st.integers(0, 99), HEADERS), min_size=1, max_size=12)
CALLS = st.lists(
    st.tuples(
        st.sampled_from(["append", "append_many", "append_batch", "producer", "transaction", "sql"]),
        EVENTS,
        st.none() | st.integers(0, 3),
    ),
    min_size=1,
    max_size=6,
)  # fmt: skip


def call(db: eventdb.Database, how: str, events: list[Any], partition: int | None) -> list[Any]:
    """Appends as asked; positions."""
    topic = db.topic("t")
    rows = [{"k": k, "n": n} for k, n, _ in events]
    headers = [h for _, _, h in events]
    table = {"k": [k for k, _, _ in events], "n": [n for _, n, _ in events]}
    if how == "append":
        return [topic.append(r, partition=partition, headers=h) for r, h in zip(rows, headers, strict=True)]
    if how == "append_many":
        return list(topic.append_many(rows, partition=partition, headers=headers))
    if how == "append_batch":
        return list(topic.append_batch(table, partition=partition, headers=headers))
    if how == "producer":
        with topic.producer(max_rows=4) as out:
            futures = [out.send(r, partition=partition, headers=h) for r, h in zip(rows, headers, strict=True)]
        return [future.result() for future in futures]
    with db.transaction() as tx:
        for r, h in zip(rows[:1], headers[:1], strict=True):
            tx.append("t", r, partition=partition, headers=h)
        tx.append_many("t", rows[1:], partition=partition, headers=headers[1:])
    return list(tx.positions["t"])


@settings(max_examples=40, deadline=None)
@given(CALLS, st.integers(2, 4))
def test_every_way_to_append_fills_the_partitions_as_lists_would(calls: Any, count: int) -> None:
    model: list[list[Any]] = [[] for _ in range(count)]
    with eventdb.open(":memory:") as db:
        topic = db.create_topic("t", {"k": "VARCHAR", "n": "BIGINT"}, key="k", partitions=count)
        for how, events, asked in calls:
            partition = None if asked is None else asked % count
            if how == "sql":
                events, partition = [(k, n, None) for k, n, _ in events], None
                before = [len(rows) for rows in model]
                marks = ", ".join(["(?, ?)"] * len(events))
                db.sql(f"INSERT INTO t VALUES {marks}", [value for k, n, _ in events for value in (k, n)])
                for k, n, _ in events:
                    if k is not None:
                        model[(java_murmur2(k.encode()) & 0x7FFFFFFF) % count].append((k, n, ()))
                for p in range(count):  # rows without a key lie between the others: take them as they are
                    stored = [(e["k"], e["n"], e.headers) for e in topic.read(before[p], partition=p)]
                    assert [s for s in stored if s[0] is not None] == model[p][before[p] :]
                    model[p][before[p] :] = stored
                continue
            positions = call(db, how, events, partition)
            without = set()
            for (k, n, h), (where, offset) in zip(events, positions, strict=True):
                assert offset == len(model[where])
                if partition is not None:
                    assert where == partition
                elif k is not None:
                    assert where == (java_murmur2(k.encode()) & 0x7FFFFFFF) % count
                else:
                    without.add(where)
                model[where].append((k, n, tuple(h or ())))
            if how in ("append_many", "append_batch"):
                assert len(without) <= 1
        for p, rows in enumerate(model):
            assert [(e["k"], e["n"], e.headers) for e in topic.read(partition=p)] == rows
            assert [e.position for e in topic.read(partition=p)] == [(p, i) for i in range(len(rows))]
        merged = list(topic.read())
        assert [(e.append_time, e.partition) for e in merged] == sorted((e.append_time, e.partition) for e in merged)
        for p, rows in enumerate(model):
            assert [(e["k"], e["n"], e.headers) for e in merged if e.partition == p] == rows
        stored = db.sql("SELECT _partition, _offset, k, n, _headers FROM t ORDER BY 1, 2").fetchall()
        expected = [(p, i, *row[:2]) for p, rows in enumerate(model) for i, row in enumerate(rows)]
        assert [row[:4] for row in stored] == expected
        names = [None if row[4] is None else [pair[0] for pair in json.loads(row[4])] for row in stored]
        assert names == [[h[0] for h in r[2]] or None for rows in model for r in rows]
        assert db.check(deep=True) == []


def test_sql_over_partitions_is_one_snapshot_and_skips_nothing(db: eventdb.Database) -> None:
    topic = db.create_topic("t", {"k": "BIGINT", "s": "VARCHAR"}, key="k", partitions=3)
    topic.append_batch({"k": list(range(50_000)), "s": [f"s{i % 7}" for i in range(50_000)]})
    with db.snapshot() as snapshot:
        topic.append_many([{"k": i, "s": "late"} for i in range(100)])
        assert snapshot.sql("SELECT count(*), sum(k) FROM t").fetchall() == [(50_000, sum(range(50_000)))]
    for execution in ("interpreted", "compiled"):
        db.sql(f"SET execution = '{execution}'")
        query = "SELECT _partition, count(*), min(_offset), max(_offset) FROM t GROUP BY 1 ORDER BY 1"
        found = db.sql(query).fetchall()
        assert found == [(p, topic.offsets(p)[1], 0, topic.offsets(p)[1] - 1) for p in range(3)]
        assert db.sql("SELECT count(*) FROM t WHERE _offset < 10").fetchone() == (30,)
        assert db.sql("SELECT s, sum(k) FROM t WHERE s <> 'late' GROUP BY s ORDER BY s").fetchall() == [
            (f"s{d}", sum(range(d, 50_000, 7))) for d in range(7)
        ]


def test_reading_follows_all_partitions_and_starts_where_each_is_told(db: eventdb.Database) -> None:
    topic = db.create_topic("t", {"n": "BIGINT"}, partitions=2)
    for i in range(6):
        topic.append({"n": i}, partition=i % 2)
    assert [e["n"] for e in topic.read({0: 1, 1: 2})] == [2, 4, 5]
    assert [e["n"] for e in topic.read("latest", follow=True, timeout=0.01)] == []
    reader = topic.read("latest", follow=True, timeout=5)
    topic.append({"n": 6}, partition=1)
    topic.append({"n": 7}, partition=0)
    assert [next(reader)["n"], next(reader)["n"]] == [6, 7]
    assert [e["n"] for e in topic.read(limit=3)] == [0, 1, 2]
    middle = list(topic.read())[3].append_time
    assert [e["n"] for e in topic.read(stop=middle)] == [0, 1, 2]
    for wrong, named in (
        (lambda: topic.read(3), "partition"),
        (lambda: topic.read(partition=2), "0 to 1"),
        (lambda: topic.append({"n": 1}, partition=-1), "0 to 1"),
        (topic.offsets, "partition"),
    ):
        with pytest.raises(eventdb.UsageError, match=named):
            wrong()


def test_what_partitions_cannot_do_yet_is_refused_by_name(db: eventdb.Database) -> None:
    topic = db.create_topic("t", {"n": "BIGINT"}, partitions=2)
    for refused in (
        lambda: db.subscribe("t"),
        lambda: db.subscribe("SELECT n FROM t"),
        lambda: topic.producer(id="p"),
        lambda: db.alter_topic("t", partitions=3),
    ):
        with pytest.raises(eventdb.UnsupportedError, match=r"partition"):
            refused()
    assert db.sql("SHOW VIEWS").fetchall() == []


# --- headers ----------------------------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.text(max_size=5), st.none() | st.binary(max_size=9)), max_size=6))
def test_headers_come_back_as_they_were_given(pairs: list[tuple[str, bytes | None]]) -> None:
    assert decode_headers(encode_headers(pairs)) == tuple(pairs)


def test_headers_survive_reopening_and_wrong_ones_store_nothing(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "db") as db:
        topic = db.create_topic("t", {"n": "BIGINT"})
        topic.append({"n": 0})
        topic.append({"n": 1}, headers={"trace": b"\xff\0", "none": None})
        topic.append({"n": 2}, headers=[("a", b"1"), ("a", b"\\x2")])
        for wrong in ({"a": "text"}, {1: b""}, [("a",)], 5, "ab"):
            with pytest.raises(eventdb.UsageError, match="header"):
                topic.append({"n": 3}, headers=wrong)  # type: ignore[arg-type]
        with pytest.raises(eventdb.UsageError, match="1 entries"):
            topic.append_many([{"n": 3}, {"n": 4}], headers=[None])
    with eventdb.open(tmp_path / "db") as db:
        topic = db.topic("t")
        assert [e.headers for e in topic.read()] == [
            (), (("trace", b"\xff\0"), ("none", None)), (("a", b"1"), ("a", b"\\x2")),
        ]  # fmt: skip
        assert db.sql("SELECT _headers FROM t").fetchall() == [
            (None,), ('[["trace", "\\\\xff00"], ["none", null]]',), ('[["a", "1"], ["a", "\\\\x5c7832"]]',),
        ]  # fmt: skip
        assert db.sql("SELECT count(*) FROM t WHERE _headers LIKE '%trace%'").fetchone() == (1,)
        assert topic.delete_before(2) == 2
        assert [e.headers for e in topic.read()] == [(("a", b"1"), ("a", b"\\x2"))]
        with pytest.raises(eventdb.UnsupportedSQL, match="_headers"):
            db.sql("CREATE MATERIALIZED VIEW v AS SELECT _headers AS h FROM t")


# --- limits -----------------------------------------------------------------------------------------------------------


def test_settings_are_kept_shown_and_changed(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "db") as db:
        settings_ = "partitions = 2, retention = '7 days', max_rows = 10, on_full = 'reject'"
        db.sql(f"CREATE TOPIC t (n BIGINT) WITH ({settings_})")
    with eventdb.open(tmp_path / "db") as db:
        shown = db.sql("SHOW TOPICS").fetchall()[0]
        assert (shown[0], *shown[4:]) == ("t", 2, "retention = '7 days', max_rows = 10, on_full = 'reject'")
        topic = db.topic("t")
        topic.append_many([{"n": i} for i in range(5)], partition=0)
        with pytest.raises(eventdb.TopicFull, match="share of 1/2"):
            topic.append({"n": 5}, partition=0)
        db.sql("ALTER TOPIC t SET (max_rows = 20, retention = NULL)")
        assert topic.append({"n": 5}, partition=0) == (0, 5)
        assert db.sql("SHOW TOPICS").fetchall()[0][5] == "max_rows = 20, on_full = 'reject'"
        for wrong in ("partitions = 4", "max_rows = 0", "nothing = 1", "retention = 'soon'", "cleanup = 'compact'"):
            with pytest.raises(eventdb.UsageError, match=wrong.split()[0]):
                db.sql(f"ALTER TOPIC t SET ({wrong})")
        db.alter_topic("t", max_rows=2, on_full="oldest")
        assert db.retain()["partitions_trimmed"] == 1
        assert topic.offsets(0) == (5, 6)


def test_trimmed_reads_say_what_is_left(db: eventdb.Database) -> None:
    topic = db.create_topic("t", {"n": "BIGINT"})
    topic.append_many([{"n": i} for i in range(3000)])
    reader = topic.read()
    assert next(reader)["n"] == 0
    assert topic.delete_before(2500) == 2500
    assert len(topic) == 500
    with pytest.raises(eventdb.OffsetOutOfRange) as caught:
        list(reader)
    assert caught.value.earliest == 2500
    with pytest.raises(eventdb.OffsetOutOfRange, match="2500 to 3000"):
        topic.read(2499)
    with pytest.raises(eventdb.OffsetOutOfRange):
        topic.delete_before(3001)
    assert [e["n"] for e in topic.read()] == list(range(2500, 3000))
    assert db.sql("SELECT min(_offset), count(*) FROM t").fetchone() == (2500, 500)
    assert topic.delete_before(3000) == 3000
    assert topic.append({"n": 1}) == (0, 3000)


def test_a_view_that_has_read_past_the_start_goes_on_and_one_that_has_not_names_the_gap(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "db") as db:
        topic = db.create_topic("t", {"n": "BIGINT"})
        topic.append_many([{"n": i} for i in range(2000)])
        db.sql("CREATE MATERIALIZED VIEW v AS SELECT count(*) AS c FROM t")
        db.wait("v", 1999, timeout=10)
        topic.delete_before(1500)
        assert db.sql("SELECT c FROM v").fetchall() == [(2000,)]
        topic.append({"n": 1})
        assert db.sql("SELECT c FROM v").fetchall() == [(2001,)]
        db.sql("CREATE MATERIALIZED VIEW w AS SELECT count(*) AS c FROM t")
        assert db.sql("SELECT c FROM w").fetchall() == [(501,)]
        db.wait("w", 2000, timeout=10)
        db._views_of().stop()  # nobody maintains them any more
        topic.append_many([{"n": 1}] * 3000)
        db.checkpoint()
        topic.delete_before(4000)
        db._views_of()._reader.forget(1)
        with pytest.raises(eventdb.ViewFailed, match="2001 to 4000"):
            db.sql("SELECT c FROM v")


def test_old_events_go_by_themselves_and_their_space_comes_back(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "db", durability="os") as db:
        topic = db.create_topic("t", {"n": "BIGINT", "s": "VARCHAR"}, max_rows=1000)
        for _ in range(20):
            topic.append_batch({"n": list(range(1000)), "s": ["x" * 100] * 1000})
        deadline = time.monotonic() + 30
        directory = tmp_path / "db" / "topics" / "1" / "0"
        while time.monotonic() < deadline and (len(topic) > 1100 or len(os.listdir(directory)) > 12):
            time.sleep(0.1)
            topic.append({"n": 1, "s": "y"})
        assert len(topic) <= 1100
        assert len(os.listdir(directory)) <= 12


HOLDER = """
    import sys, time, eventdb
    db = eventdb.open(sys.argv[1], durability="os")
    topic = db.create_topic("t", {"n": "BIGINT"}, max_rows=100, if_not_exists=True)
    while True:
        topic.append_many([{"n": i} for i in range(50)])
        print(int(db.stats()["retention"]["applied_here"]), flush=True)
        time.sleep(0.05)
"""


def test_one_process_applies_limits_and_another_takes_over_when_it_is_killed(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "db", durability="os") as db:
        topic = db.create_topic("t", {"n": "BIGINT"}, max_rows=100, if_not_exists=True)
        code = textwrap.dedent(HOLDER)
        child = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "db")], stdout=subprocess.PIPE, text=True,
            cwd=Path(__file__).resolve().parent.parent,
        )  # fmt: skip
        try:
            assert child.stdout is not None
            while child.stdout.readline() != "1\n":
                assert child.poll() is None
            topic.append({"n": 1})  # our own maintenance begins
            time.sleep(3)
            assert not db.stats()["retention"]["applied_here"]  # type: ignore[index]
            child.send_signal(signal.SIGKILL)
        finally:
            child.kill()
            child.wait()
        deadline = time.monotonic() + 30
        while not db.stats()["retention"]["applied_here"]:  # type: ignore[index]
            assert time.monotonic() < deadline, "nobody took over"
            time.sleep(0.05)
        topic.append_many([{"n": i} for i in range(500)])
        while len(topic) > 100:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert db.check(deep=True) == []


def test_retention_by_age_uses_event_time_or_append_time(db: eventdb.Database) -> None:
    old = dt.datetime(2020, 1, 1)
    topic = db.create_topic("t", {"ts": "TIMESTAMP"}, event_time="ts", retention="1 day")
    topic.append_many([{"ts": old}] * 10)
    other = db.create_topic("u", {"ts": "TIMESTAMP"}, retention="1 day")
    other.append_many([{"ts": old}] * 10)
    db.retain()
    assert (len(topic), len(other)) == (0, 10)


def test_a_reader_that_waits_gets_the_headers_of_every_new_event(db: eventdb.Database) -> None:
    topic = db.create_topic("t", {"n": "BIGINT"})
    topic.append({"n": 0})
    reader = topic.read(follow=True, timeout=5)
    assert next(reader).headers == ()
    for i in range(1, 12):
        topic.append({"n": i}, headers={"i": b"%d" % i} if i % 3 else None)
        topic.append({"n": -i})
        assert next(reader).headers == ((("i", b"%d" % i),) if i % 3 else ())
        assert next(reader).headers == ()


def test_describe_shows_the_settings_of_a_topic_beside_its_first_column(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "db") as db:
        db.sql(
            "CREATE TOPIC t (k VARCHAR, at TIMESTAMP, KEY (k), TIMESTAMP (at), "
            "WATERMARK FOR at AS at - INTERVAL '5 seconds' IDLE AFTER INTERVAL '1 minute' "
            "MAX FUTURE INTERVAL '2 hours') WITH (partitions = 4, retention = '7 days', max_rows = 100)"
        )
        rows = db.sql("DESCRIBE t").fetchall()
        assert [(row[0], row[3]) for row in rows] == [("k", "key"), ("at", "event time, watermark 5 s behind")]
        settings = (
            "partitions = 4, retention = '7 days', max_rows = 100, idle after '1 minute', max future '2 hours', "
            "on_full = 'oldest'"
        )
        assert [row[4] for row in rows] == [settings, None]
        db.sql("ALTER TOPIC t SET (retention = NULL, on_full = 'reject')")
        assert "max_rows = 100, on_full = 'reject'" in db.sql("DESCRIBE t").fetchall()[0][4]
        db.create_table("p", {"id": "VARCHAR"}, primary_key="id")
        assert [row[4] for row in db.sql("DESCRIBE p").fetchall()] == [None]
        assert [row[4] for row in db.sql("DESCRIBE SELECT k, at FROM t").fetchall()] == [None, None]
