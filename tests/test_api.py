"""The public API refuses what is wrong with one typed error that names it and says what to do, and stores nothing."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable, Iterable
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import eventdb
from eventdb.errors import UnsupportedSQL
from tests.conftest import COLUMNS, GOOD
from tests.strategies import VALUES, WRONG


def in_one_transaction(db: eventdb.Database, *appends: tuple[Any, Any]) -> None:
    with db.transaction() as tx:
        for topic, event in appends:
            tx.append(topic, event)


def consume(results: Iterable[object]) -> None:
    for _ in results:
        pass


# --- opening ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"path": ""}, "path"),
        ({"path": None}, "path"),
        ({"path": 7}, "path"),
        ({"path": "a\0b"}, "NUL"),
        ({"durability": "always"}, "durability"),
        ({"durability": "interval:"}, "durability"),
        ({"durability": "interval:-5ms"}, "durability"),
        ({"durability": "interval:fast"}, "durability"),
        ({"durability": None}, "durability"),
        ({"durability": 3}, "durability"),
        ({"read_only": "yes"}, "read_only"),
        ({"memory_limit": "lots"}, "memory_limit"),
        ({"memory_limit": 0}, "memory_limit"),
        ({"memory_limit": -1}, "memory_limit"),
        ({"memory_limit": None}, "memory_limit"),
        ({"threads": 0}, "threads"),
        ({"threads": True}, "threads"),
        ({"threads": "two"}, "threads"),
        ({"path": ":memory:", "read_only": True}, "memory"),
    ],
)
def test_a_wrong_option_of_open_is_named_and_nothing_is_made(path: Path, arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(eventdb.UsageError, match=named):
        eventdb.open(**{"path": path, **arguments})
    assert not path.exists()


def test_what_is_not_a_database_is_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "notes.txt"
    file.write_text("mine")
    with pytest.raises(eventdb.NotADatabase, match=r"notes\.txt"):
        eventdb.open(file)
    full = tmp_path / "folder"
    full.mkdir()
    (full / "photo.jpg").write_bytes(b"jpeg")
    with pytest.raises(eventdb.NotADatabase, match="folder"):
        eventdb.open(full)
    assert file.read_text() == "mine"
    assert [one.name for one in full.iterdir()] == ["photo.jpg"]


def test_a_missing_database_cannot_be_opened_read_only(path: Path) -> None:
    with pytest.raises(eventdb.StorageError, match="db"):
        eventdb.open(path, read_only=True)
    assert not path.exists()


def test_a_missing_parent_is_a_typed_error(tmp_path: Path) -> None:
    with pytest.raises(eventdb.StorageError, match="nowhere"):
        eventdb.open(tmp_path / "nowhere" / "db")


def test_a_newer_format_is_refused(path: Path) -> None:
    eventdb.open(path).close()
    raw = bytearray((path / "FORMAT").read_bytes())
    raw[8] += 1  # the version; whether its checksum is looked at first or not, nothing may be touched
    (path / "FORMAT").write_bytes(raw)
    with pytest.raises((eventdb.FormatTooNew, eventdb.CorruptionError, eventdb.NotADatabase), match="db"):
        eventdb.open(path)


# --- topics -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["", "_hidden", "eventdb.mine", "a b", "a/b", "../up", "a\0b", "ü", "9lives", "x" * 250, 5, None]
)
def test_a_wrong_topic_name_is_refused(db: eventdb.Database, name: Any) -> None:
    with pytest.raises(eventdb.UsageError):
        db.create_topic(name, COLUMNS)
    assert db.topics() == []


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"columns": {}}, "column"),
        ({"columns": None}, "columns"),
        ({"columns": ["a"]}, "columns"),
        ({"columns": {"a": "DUOBLE"}}, "DOUBLE"),
        ({"columns": {"a": "DECIMAL(40,2)"}}, "precision"),
        ({"columns": {"a": "DECIMAL(4,9)"}}, "scale"),
        ({"columns": {"a": 5}}, "a"),
        ({"columns": {"": "BIGINT"}}, "name"),
        ({"columns": {"_offset": "BIGINT"}}, "_offset"),
        ({"columns": {"a": "BIGINT", "A": "BIGINT"}}, "twice"),
        ({"columns": {"a": "INTERVAL"}}, "INTERVAL"),
        ({"key": "devcie"}, "device"),
        ({"event_time": "temp"}, "TIMESTAMP"),
        ({"event_time": "tss"}, "ts"),
        ({"watermark": "5 seconds"}, "event_time"),
        ({"event_time": "ts", "watermark": "soon"}, "watermark"),
        ({"event_time": "ts", "watermark": -5}, "watermark"),
        ({"partitions": 0}, "partition"),
        ({"partitions": "many"}, "partition"),
        ({"retention": "soon"}, "retention"),
        ({"max_rows": -1}, "max_rows"),
        ({"max_bytes": 10}, "max_bytes"),
        ({"on_full": "reject"}, "on_full"),
        ({"max_rows": 5, "on_full": "stop"}, "on_full"),
        ({"cleanup": "compact"}, "cleanup"),
        ({"compression": "zip"}, "compression"),
        ({"like": {"a": 1}}, "like"),
    ],
)
def test_a_wrong_option_of_create_topic_is_named_and_no_topic_is_made(
    db: eventdb.Database, arguments: dict[str, Any], named: str
) -> None:
    with pytest.raises(eventdb.UsageError, match=named):
        db.create_topic("readings", **{"columns": COLUMNS, **arguments})
    assert db.topics() == []


def test_a_taken_name_is_refused_in_any_case(db: eventdb.Database, topic: eventdb.Topic) -> None:
    with pytest.raises(eventdb.TopicExists, match="readings"):
        db.create_topic("READINGS", {"x": "BIGINT"})
    assert db.create_topic("readings", COLUMNS, if_not_exists=True).name == "readings"


def test_a_missing_topic_is_named_with_near_ones(db: eventdb.Database, topic: eventdb.Topic) -> None:
    with pytest.raises(eventdb.TopicNotFound, match="readings") as caught:
        db.topic("raedings")
    assert caught.value.name == "raedings"
    assert "readings" in caught.value.near
    with pytest.raises(eventdb.TopicNotFound, match="nothing"):
        db.drop_topic("nothing")
    db.drop_topic("nothing", if_exists=True)
    with pytest.raises(eventdb.UsageError, match="string"):
        db.topic(5)  # type: ignore[arg-type]


def test_a_dropped_topic_is_gone_for_every_handle(path: Path, db: eventdb.Database, topic: eventdb.Topic) -> None:
    topic.append(GOOD)
    with eventdb.open(path, durability="os") as other:
        other.drop_topic("readings")
    with pytest.raises(eventdb.TopicNotFound, match="readings"):
        db.topic("readings")
    with pytest.raises(eventdb.TopicNotFound, match="readings"):
        topic.append_many([GOOD])
    again = db.create_topic("readings", {"x": "BIGINT"})
    assert again.offsets() == (0, 0)


# --- rows -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_", sorted(VALUES))
def test_every_wrong_value_is_refused_with_column_value_and_type(db: eventdb.Database, type_: str) -> None:
    topic = db.create_topic("one", {"x": type_})
    for value in WRONG[type_]:
        with pytest.raises(eventdb.SchemaMismatch, match="'x'") as caught:
            topic.append({"x": value})
        assert caught.value.column == "x"
        assert caught.value.value is value
        assert caught.value.expected == type_
        with pytest.raises(eventdb.SchemaMismatch, match="'x'"):
            topic.append_many([{"x": None}, {"x": value}])
    assert len(topic) == 0


@pytest.mark.parametrize(
    "event",
    [{}, {"device": None}, {**GOOD, "extra": 1}, {**GOOD, "DEVICE": "twice"}, {1: 2}, [1, 2], "row", None, 5],
    ids=repr,
)
def test_a_row_that_does_not_fit_stores_nothing(db: eventdb.Database, topic: eventdb.Topic, event: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: topic.append(event),
        lambda: topic.append_many([GOOD, event]),
        lambda: topic.producer().send(event),
    ]
    for call in calls:
        with pytest.raises(eventdb.SchemaMismatch):
            call()
    with pytest.raises(eventdb.SchemaMismatch):
        in_one_transaction(db, (topic, GOOD), (topic, event))
    assert len(topic) == 0


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"device": ["a"], "temp": ["hot"]}, "temp"),
        ({"device": ["a", "b"], "temp": [1.0]}, "temp|length"),
        ({"device": ["a", None]}, "device"),
        ({"temp": [1.0]}, "device"),
        ({"device": ["a"], "where": [1]}, "where"),
        ({"device": ["a"], "n": [1.5]}, "n"),
        ({"device": ["a"], "n": [2**70]}, "n"),
        ([GOOD], "append_many|dict"),
        (5, "int"),
        (None, "None"),
        ("device", "str"),
    ],
)
def test_a_batch_that_does_not_fit_stores_nothing(topic: eventdb.Topic, data: Any, named: str) -> None:
    with pytest.raises(eventdb.UsageError, match=named):
        topic.append_batch(data)
    assert len(topic) == 0


def test_append_many_wants_rows_and_takes_none(topic: eventdb.Topic) -> None:
    assert topic.append_many([]) == []
    for wrong in (GOOD, topic):
        with pytest.raises((eventdb.UsageError, TypeError)):
            topic.append_many(wrong)  # type: ignore[arg-type]
    assert len(topic) == 0


def test_values_come_back_as_they_went_in(db: eventdb.Database) -> None:
    typed = {
        "BOOLEAN": True,
        "TINYINT": -128,
        "SMALLINT": 32767,
        "INTEGER": -(2**31),
        "BIGINT": 2**63 - 1,
        "FLOAT": 0.5,
        "DOUBLE": -0.0,
        "DECIMAL(10,2)": Decimal("-12345678.91"),
        "VARCHAR": "naïve \0 \U0001f40d",
        "BLOB": b"\0\xff",
        "DATE": dt.date(1899, 12, 31),
        "TIMESTAMP": dt.datetime(2262, 4, 12, 1, 2, 3, 4),
    }
    row = {f"c{i}": value for i, value in enumerate(typed.values())}
    topic = db.create_topic("all_types", dict(zip(row, typed, strict=True)))
    topic.append(row)
    topic.append(dict.fromkeys(row))
    topic.append_batch({name: [value] for name, value in row.items()})
    found = [event.row for event in topic.read()]
    assert found == [row, dict.fromkeys(row), row]
    assert [type(value) for value in found[0].values()] == [type(value) for value in row.values()]


# --- reading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "arguments",
    [{"start": "middle"}, {"start": 1.5}, {"start": True}, {"start": None}, {"stop": "latest?"}, {"limit": -1},
     {"limit": 1.0}, {"limit": True}, {"follow": True, "timeout": -1}, {"timeout": "1"}],
    ids=repr,
)  # fmt: skip
def test_a_wrong_argument_of_read_is_refused_at_once(topic: eventdb.Topic, arguments: dict[str, Any]) -> None:
    with pytest.raises(eventdb.UsageError, match=next(reversed(arguments))):
        topic.read(**arguments)


@pytest.mark.parametrize("arguments", [{"start": 3}, {"stop": 3}, {"start": 10**20}], ids=repr)
def test_an_offset_outside_the_log_says_what_there_is(topic: eventdb.Topic, arguments: dict[str, Any]) -> None:
    topic.append_many([GOOD, GOOD])
    with pytest.raises(eventdb.OffsetOutOfRange, match="0 to 2") as caught:
        topic.read(**arguments)
    assert (caught.value.earliest, caught.value.latest) == (0, 2)


def test_reading_from_and_to_times_and_offsets(topic: eventdb.Topic) -> None:
    day = dt.timedelta(days=1)
    start = dt.datetime(2024, 1, 1)
    topic.append_many([{**GOOD, "n": n, "ts": start + n * day} for n in range(10)])

    def numbers(*arguments: Any, **named: Any) -> list[int]:
        return [event["n"] for event in topic.read(*arguments, **named)]

    assert numbers(start + 3 * day, stop=start + 5 * day) == [3, 4]
    assert numbers(-2) == [8, 9]
    assert numbers(7, limit=2) == [7, 8]
    assert numbers("latest") == []
    assert numbers(start + 99 * day) == []


# --- SQL through the facade -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "arguments", "error"),
    [
        ("SELEC 1", {}, eventdb.ParseError),
        ("SELECT nope FROM readings", {}, eventdb.BindError),
        ("SELECT * FROM nowhere", {}, eventdb.BindError),
        ("SELECT 1 / 0", {}, eventdb.EvaluationError),
        ("SELECT * FROM readings WHERE n > ?", {}, eventdb.UsageError | eventdb.QueryError),
        ("SELECT * FROM readings WHERE n > ?", {"parameters": [1, 2]}, eventdb.UsageError | eventdb.QueryError),
        ("SELECT $a", {"parameters": {"b": 1}}, eventdb.UsageError | eventdb.QueryError),
        ("SELECT $a", {"parameters": [1], "a": 1}, eventdb.UsageError),
        ("SELECT ?", {"parameters": [object()]}, eventdb.UsageError | eventdb.QueryError),
        ("INSERT INTO readings (device, temp) VALUES ('a', 'warm')", {}, eventdb.EventDBError),
        ("INSERT INTO readings (temp) VALUES (1.0)", {}, eventdb.EventDBError),
        ("", {}, eventdb.EventDBError),
        ("SELECT 1; SELECT 2", {}, eventdb.EventDBError),
        ("SELECT 1", {"timeout": 0}, eventdb.UsageError),
        ("SELECT 1", {"timeout": "1"}, eventdb.UsageError),
        ("SET nothing = 1", {}, eventdb.UsageError),
        ("SUBSCRIBE TO readings", {}, eventdb.UsageError),
        (5, {}, eventdb.UsageError),
    ],
)
def test_wrong_sql_is_a_typed_error_and_changes_nothing(
    db: eventdb.Database, topic: eventdb.Topic, text: Any, arguments: dict[str, Any], error: Any
) -> None:
    with pytest.raises(getattr(error, "__args__", error)):
        db.sql(text, **arguments)
    assert len(topic) == 0


def test_a_snapshot_refuses_to_change_anything(db: eventdb.Database, topic: eventdb.Topic) -> None:
    with db.snapshot() as snapshot:
        for text in ("INSERT INTO readings (device) VALUES ('x')", "CREATE TOPIC t (a BIGINT)", "DROP TOPIC readings"):
            with pytest.raises(eventdb.UsageError, match="snapshot"):
                snapshot.sql(text)
    assert len(topic) == 0


def test_waiting_for_a_view_times_out(db: eventdb.Database, topic: eventdb.Topic) -> None:
    db.sql("CREATE MATERIALIZED VIEW v AS SELECT device, count(*) AS c FROM readings GROUP BY device")
    position = topic.append(GOOD)
    db.wait("v", position, timeout=30)
    assert db.sql("SELECT * FROM v").fetchall() == [("d1", 1)]
    with pytest.raises(TimeoutError):
        db.wait("v", position.offset + 10, timeout=0.01)
    with pytest.raises(eventdb.CatalogError):
        db.wait("nothing", position)
    with pytest.raises(eventdb.UsageError, match="feeds"):
        db.drop_topic("readings")


def test_an_interrupted_query_stops(db: eventdb.Database, topic: eventdb.Topic) -> None:
    topic.append_batch({"device": ["d"] * 3_000, "n": list(range(3_000))})
    join = "SELECT count(*) FROM readings a JOIN readings b ON a.device = b.device WHERE a.n + b.n > 5"
    stop = threading.Event()

    def interrupt() -> None:
        while not stop.wait(0.01):
            db.interrupt()

    thread = threading.Thread(target=interrupt)
    thread.start()
    try:
        with pytest.raises(eventdb.QueryCancelled):
            consume(db.sql(text) for text in [join] * 200)
    finally:
        stop.set()
        thread.join()
    assert db.sql("SELECT count(*) FROM readings").fetchone() == (3_000,)


@pytest.mark.parametrize("parameters", [0, 7, "7", b"7", {7}, (n for n in [7]), {1: 7}], ids=lambda p: type(p).__name__)
def test_parameters_are_a_list_or_a_dict(db: eventdb.Database, parameters: Any) -> None:
    with pytest.raises(eventdb.UsageError, match="parameter"):
        db.sql("SELECT 1 WHERE 7 = ?", parameters)
    assert db.sql("SELECT 1 WHERE 7 = ?", [7]).fetchall() == db.sql("SELECT 1 WHERE 7 = ?", (7,)).fetchall() == [(1,)]


@pytest.mark.parametrize("wrong", [1, ["a"], {"a": 1}], ids=repr)
def test_a_key_is_the_name_of_one_column(db: eventdb.Database, wrong: Any) -> None:
    for option in ("key", "event_time"):
        with pytest.raises(eventdb.UsageError, match=option):
            db.create_topic("x", {"a": "BIGINT"}, **{option: wrong})
    with pytest.raises(eventdb.UsageError, match="primary_key"):
        db.create_table("x", {"a": "BIGINT"}, primary_key=1)  # type: ignore[arg-type]
    assert "x" not in db.topics() + db.tables()


@pytest.mark.parametrize("wrong", [None, 7, "", "a\0b"], ids=repr)
def test_a_backup_goes_to_a_path(db: eventdb.Database, wrong: Any) -> None:
    with pytest.raises(eventdb.UsageError, match="path"):
        db.backup(wrong)
    with pytest.raises(eventdb.UsageError, match="path"):
        eventdb.restore("nowhere", wrong)


def test_a_limit_of_a_change_is_refused_and_changes_nothing(db: eventdb.Database) -> None:
    """It was left out: DELETE ... WHERE ... LIMIT 1 deleted all rows that WHERE chose."""
    db.create_table("k", {"id": "BIGINT", "v": "BIGINT"}, primary_key="id")
    db.sql("INSERT INTO k VALUES (1, 1), (2, 2), (3, 3)")
    for change in ("DELETE FROM k", "UPDATE k SET v = 9"):
        with pytest.raises(UnsupportedSQL, match="LIMIT"):
            db.sql(f"{change} WHERE id > 0 LIMIT 1")
    assert db.sql("SELECT * FROM k ORDER BY id").fetchall() == [(1, 1), (2, 2), (3, 3)]


def test_joins_of_a_named_subquery_in_parentheses_are_not_lost(db: eventdb.Database) -> None:
    db.sql("CREATE TOPIC a (n BIGINT)"), db.sql("CREATE TOPIC b (m BIGINT)")
    db.sql("INSERT INTO a VALUES (1), (2)"), db.sql("INSERT INTO b VALUES (2), (3)")
    assert db.sql("SELECT * FROM ((SELECT n FROM a) x JOIN b ON x.n = b.m)").fetchall() == [(2, 2)]
    assert len(db.sql("SELECT n FROM a ORDER BY n FETCH FIRST ROW ONLY").fetchall()) == 1
