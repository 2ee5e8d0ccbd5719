"""Statements of our own: topics, inserts, views, subscriptions, settings."""

from __future__ import annotations

from typing import Any

import pytest

from eventdb.errors import BindError, ParseError, QueryError, UnsupportedSQL
from eventdb.logical.plan import Values, explain_lines
from eventdb.sql import statements as st
from tests.sql.tables import bound

FULL = """CREATE TOPIC IF NOT EXISTS readings2 (
  device VARCHAR NOT NULL, temp DOUBLE PRECISION, price DECIMAL(10, 2), ts TIMESTAMP,
  KEY (device), TIMESTAMP (ts),
  WATERMARK FOR ts AS ts - INTERVAL '5 seconds' IDLE AFTER 30s MAX FUTURE INTERVAL '1' HOUR,
) WITH (retention = '7 days', partitions = 1, cleanup = compact);"""


def test_create_topic_reads_every_clause() -> None:
    topic = bound(FULL)
    assert isinstance(topic, st.CreateTopic)
    assert str(topic.schema) == "Schema(device VARCHAR NOT NULL, temp DOUBLE, price DECIMAL(10,2), ts TIMESTAMP)"
    assert (topic.name, topic.if_not_exists, topic.key, topic.event_time) == ("readings2", True, "device", "ts")
    assert (topic.watermark_delay_us, topic.idle_after_us, topic.max_future_us) == (
        5_000_000,
        30_000_000,
        3_600_000_000,
    )
    assert dict(topic.options) == {"retention": "7 days", "partitions": "1", "cleanup": "compact"}


def test_create_topic_takes_the_event_time_from_the_watermark() -> None:
    topic = bound('CREATE TOPIC "my-topic" (timestamp TIMESTAMP, key VARCHAR, WATERMARK FOR timestamp AS timestamp)')
    assert isinstance(topic, st.CreateTopic)
    assert (topic.name, topic.event_time, topic.watermark_delay_us) == ("my-topic", "timestamp", 0)
    assert topic.schema.names == ["timestamp", "key"]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("CREATE TOPIC x", "expected ( at the end"),
        ("CREATE TOPIC x ()", "expected a column name before ')'"),
        ("CREATE TOPIC x (a INTEGER, A INTEGER)", "column 'A' is named twice"),
        ("CREATE TOPIC x (a SERIAL)", "unknown type 'SERIAL'"),
        ("CREATE TOPIC x (a DECIMAL(40, 2))", "the precision must be 1 to 38"),
        ("CREATE TOPIC x (a INTEGER PRIMARY KEY)", "PRIMARY KEY on a column is not supported"),
        ("CREATE TOPIC x (a INTEGER DEFAULT 5)", "DEFAULT on a column is not supported"),
        ("CREATE TOPIC x (a INTEGER, KEY (b))", "KEY: no column 'b'; the columns are a"),
        ("CREATE TOPIC x (a INTEGER, TIMESTAMP (a))", "the event-time column a must be TIMESTAMP, not INTEGER"),
        ("CREATE TOPIC x (a TIMESTAMP, b TIMESTAMP, TIMESTAMP (a), WATERMARK FOR b AS b)", "must be one column"),
        ("CREATE TOPIC x (a TIMESTAMP, WATERMARK FOR a AS a - INTERVAL '1 month')", "write WATERMARK FOR a AS a - "),
        ("CREATE TOPIC x (a TIMESTAMP, WATERMARK FOR a AS a + INTERVAL '1s')", "write WATERMARK FOR a AS a - "),
        ("CREATE TOPIC x (a TIMESTAMP, WATERMARK FOR a AS a IDLE AFTER 5)", "IDLE AFTER needs an exact interval"),
        ("CREATE TOPIC x (_a INTEGER)", "names that begin with '_'"),
        ("CREATE TOPIC x (a INTEGER) WITH (retention)", "expected = before ')'"),
        ("CREATE TOPIC x (a INTEGER) WITH (r = 1, r = 2)", "option r is given twice"),
        ("CREATE TOPIC x (a INTEGER) y", "unexpected 'y'"),
        ("CREATE TOPIC x (a INTEGER, KEY (a), KEY (a))", "KEY is given twice"),
        ("CREATE THING x", "CREATE THING is not supported"),
        ("DROP SCHEMA x", "DROP SCHEMA is not supported"),
        ("CREATE TABLE x (a INTEGER PRIMARY KEY, PRIMARY KEY (a))", "PRIMARY KEY is given twice"),
        ("CREATE TABLE x (a INTEGER, PRIMARY KEY (b))", "PRIMARY KEY: no column 'b'; the columns are a"),
        ("CREATE TABLE x (a INTEGER CHECK PRIMARY KEY)", "CHECK on a column is not supported"),
    ],
)
def test_a_wrong_create_or_drop_says_what_and_where(sql: str, message: str) -> None:
    with pytest.raises(QueryError) as caught:
        bound(sql)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("DROP TOPIC a", st.DropTopic("a", False)),
        ("DROP TOPIC IF EXISTS a.b", st.DropTopic("a.b", True)),
        ("DROP MATERIALIZED VIEW v", st.DropView("v", False)),
        ("drop view if exists v;", st.DropView("v", True)),
        ("SHOW TOPICS", st.ShowTopics("topics")),
        ("SHOW VIEWS", st.ShowTopics("views")),
        ("SHOW TABLES", st.ShowTopics("tables")),
        ("SHOW memory_limit", st.ShowSetting("memory_limit")),
        ("SET memory_limit = '1GB'", st.SetOption("memory_limit", "1GB")),
        ("SET threads TO 2", st.SetOption("threads", 2)),
        ("SET x = -1.5", st.SetOption("x", -1.5)),
        ("SET execution = interpreted", st.SetOption("execution", "interpreted")),
        ("SET x = TRUE", st.SetOption("x", True)),
        ("SET x = DEFAULT", st.SetOption("x", None)),
    ],
)
def test_small_statements(sql: str, expected: st.Statement) -> None:
    assert bound(sql) == expected


def test_describe_takes_a_topic_a_file_or_a_query() -> None:
    described: Any = bound("DESCRIBE readings")
    assert (described.name, described.table.id) == ("readings", 1)
    assert bound("DESCRIBE 'x.csv'").table.kind == "file"  # type: ignore[attr-defined]
    assert [f.name for f in bound("DESCRIBE SELECT n FROM readings").plan.fields] == ["n"]  # type: ignore[attr-defined]


def test_explain_wraps_any_statement() -> None:
    explained = bound("EXPLAIN ANALYZE SELECT 1")
    assert isinstance(explained, st.Explain)
    assert explained.analyze
    assert isinstance(explained.statement, st.Query)


# --- INSERT -------------------------------------------------------------------------------------------------------


def test_insert_values_are_literals_in_the_types_of_the_columns() -> None:
    insert = bound(
        "INSERT INTO readings (ts, device, price, n) VALUES ('2020-01-01', 'a', 1.5, 2), (NULL, 'b', 3, 4) "
        "RETURNING _offset"
    )
    assert isinstance(insert, st.Insert)
    assert insert.columns == (8, 0, 5, 2)
    assert insert.returning is not None
    assert insert.returning.reads_offset
    assert isinstance(insert.plan, Values)
    assert [literal.value for literal in insert.plan.rows[0]] == [1_577_836_800_000_000, "a", 150, 2]
    assert [str(f.type) for f in insert.plan.fields] == ["TIMESTAMP", "VARCHAR", "DECIMAL(10,2)", "INTEGER"]


def test_insert_select_is_cast_to_the_columns() -> None:
    insert = bound("INSERT INTO devices SELECT device, device, n FROM readings")
    assert explain_lines(insert.plan)[0] == "Project device AS id, device AS site, CAST(n AS SMALLINT) AS rank"  # type: ignore[attr-defined]


def test_insert_takes_expressions() -> None:
    insert: Any = bound("INSERT INTO plain VALUES (1 + 1, now()), (length('abc'), NULL)")
    assert explain_lines(insert.plan)[0] == "UnionAll"


@pytest.mark.parametrize(
    ("sql", "message", "column"),
    [
        ("INSERT INTO readngs VALUES (1)", "no topic, table or view 'readngs'", 13),
        ("INSERT INTO hourly VALUES ('a', 1)", "'hourly' is a view", 13),
        ("INSERT INTO plain VALUES (1)", "1 values for 2 columns of plain (x, at)", 27),
        ("INSERT INTO plain VALUES (1, NULL), (1)", "this row has 1 values, expected 2", 38),
        ("INSERT INTO plain (x, y) VALUES (1, 2)", "no column 'y'; the columns are x, at", 23),
        ("INSERT INTO plain (x, x) VALUES (1, 2)", "column 'x' is listed twice", 23),
        ("INSERT INTO readings (temp) VALUES (1)", "column 'device' is NOT NULL and must be listed", 23),
        ("INSERT INTO plain VALUES ('abc', NULL)", "'abc' is not a valid INTEGER", 27),
        ("INSERT INTO plain SELECT device, ts FROM readings", "column 'x' is INTEGER, this is VARCHAR; write CAST", 26),
    ],
)
def test_a_wrong_insert_says_what_and_where(sql: str, message: str, column: int) -> None:
    with pytest.raises(BindError) as caught:
        bound(sql)
    assert message in str(caught.value)
    assert caught.value.column == column


# --- views and subscriptions --------------------------------------------------------------------------------------

WINDOWED = "SELECT window_start, device, avg(temp) AS t FROM TUMBLE(readings, ts, '1m') GROUP BY window_start, device"


@pytest.mark.parametrize(
    ("query", "emit"),
    [
        ("SELECT device, temp FROM readings WHERE temp > 30", None),
        ("SELECT device, count(*) AS c FROM readings GROUP BY device", "update"),
        (WINDOWED, "window_close"),
        (WINDOWED + " EMIT ON UPDATE", "update"),
        (WINDOWED + " EMIT CHANGES", "update"),
        ("SELECT time_bucket('1m', ts) AS b, max(n) AS m FROM readings GROUP BY b", "window_close"),
        ("SELECT window_start, count(*) AS c FROM HOP(readings, ts, 1m, 5m) GROUP BY window_start", "window_close"),
        (
            "SELECT s, count(*) AS c FROM (SELECT window_start AS s FROM TUMBLE(readings, ts, '1m')) GROUP BY s",
            "window_close",
        ),
        ("SELECT window_start, sum(x) AS s FROM TUMBLE(plain, at, '1m') GROUP BY 1 EMIT ON UPDATE", "update"),
        ("SELECT date_trunc('hour', ts) AS h, count(*) AS c FROM readings GROUP BY h", "update"),
    ],
)  # fmt: skip
def test_a_view_has_the_documented_emission(query: str, emit: str | None) -> None:
    sql = f"CREATE MATERIALIZED VIEW v AS {query}"
    view = bound(sql)
    assert isinstance(view, st.CreateView)
    assert view.topic is not None
    assert (view.emit, view.start, view.topic.kind, view.sql) == (emit, "beginning", "topic", sql)


def test_a_view_reads_its_clauses_in_any_order() -> None:
    view = bound(
        f"CREATE MATERIALIZED VIEW IF NOT EXISTS v AS {WINDOWED} "
        "EMIT ON WINDOW CLOSE GRACE 10s LATE ROWS DROP START FROM NOW"
    )
    assert isinstance(view, st.CreateView)
    assert (view.grace_us, view.start, view.if_not_exists) == (10_000_000, "now", True)
    early: Any = bound(f"CREATE MATERIALIZED VIEW v START FROM TIMESTAMP '2020-01-01' AS {WINDOWED}")
    assert early.start == 1_577_836_800_000_000


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("SELECT now() AS t FROM readings", "now() in a continuous query is not supported; use the event time"),
        ("SELECT n FROM readings ORDER BY n", "sort when you read it"),
        ("SELECT n FROM readings LIMIT 5", "say by ORDER BY which rows it keeps"),
        ("SELECT n FROM readings WHERE n > (SELECT x FROM plain LIMIT 1)", "say by ORDER BY which rows it keeps"),
        ("SELECT n FROM readings WHERE n > (SELECT 1 WHERE now() > ts)", "now() in a continuous query"),
        ("SELECT a FROM 'x.csv'", "load its rows into a topic first"),
        ("SELECT 1 AS x", "a continuous query without a topic"),
        ("SELECT n, n FROM readings", "two columns are called 'n'"),
        ("SELECT _offset FROM readings", "names that begin with '_'"),
        ("SELECT ts - ts AS d FROM readings", "is INTERVAL, which cannot be stored"),
        ("SELECT n FROM readings EMIT ON WINDOW CLOSE", "needs a GROUP BY over a window"),
        (
            "SELECT n, count(*) AS c FROM readings GROUP BY n EMIT ON WINDOW CLOSE",
            "needs a window: GROUP BY window_start",
        ),
        ("SELECT window_start, sum(x) AS s FROM TUMBLE(plain, at, '1m') GROUP BY 1", "it has no WATERMARK"),
        (
            "SELECT window_start, count(*) AS c FROM TUMBLE(readings, _append_time, '1m') GROUP BY 1",
            "the column of the WATERMARK",
        ),
        ("SELECT n, count(*) AS c FROM readings GROUP BY n EMIT ON UPDATE GRACE 5s", "unexpected 'GRACE'"),
        ("SELECT n FROM readings LATE ROWS REVISE", "late rows are dropped and counted"),
        ("SELECT n FROM readings EMIT EVERY 0s", "write EMIT ON UPDATE"),
    ],
)  # fmt: skip
def test_a_view_that_cannot_be_maintained_is_refused_with_the_fix(query: str, message: str) -> None:
    with pytest.raises(QueryError) as caught:
        bound(f"CREATE MATERIALIZED VIEW v AS {query}")
    assert message in str(caught.value)
    assert caught.value.line == 1


@pytest.mark.parametrize(
    ("sql", "mode", "emit", "limit"),
    [
        ("SUBSCRIBE TO readings", "snapshot", None, None),
        ("SUBSCRIBE TO readings FROM BEGINNING", "beginning", None, None),
        ("SUBSCRIBE TO hourly FROM NOW LIMIT 5", "now", None, 5),
        ("SUBSCRIBE TO (SELECT n FROM readings WHERE n > 1)", "snapshot", None, None),
        (f"SUBSCRIBE TO ({WINDOWED} EMIT ON UPDATE) FROM NOW", "now", "update", None),
        (f"SUBSCRIBE TO ({WINDOWED})", "snapshot", "window_close", None),
        ("SELECT n FROM readings EMIT CHANGES LIMIT 3", "now", None, 3),
    ],
)
def test_subscribe_reads_target_and_mode(sql: str, mode: str, emit: str | None, limit: int | None) -> None:
    subscribe = bound(sql)
    assert isinstance(subscribe, st.Subscribe)
    assert (subscribe.mode, subscribe.emit, subscribe.limit) == (mode, emit, limit)
    assert (subscribe.table is None) == ("SELECT" in sql)


@pytest.mark.parametrize(
    "query",
    [
        "SELECT n FROM readings JOIN devices ON device = id",
        "SELECT DISTINCT n FROM readings",
        "SELECT total FROM hourly",
        "SELECT max(c) AS m FROM (SELECT count(*) AS c FROM readings GROUP BY n) q",
        "SELECT n FROM readings ORDER BY n LIMIT 5",
        "SELECT n FROM readings WHERE n IN (SELECT x FROM plain)",
        "SELECT median(n) AS m FROM readings",
        "SELECT n, rank() OVER (ORDER BY n) AS r FROM readings",
    ],
)
def test_a_view_of_any_other_shape_revises_its_rows(query: str) -> None:
    view = bound(f"CREATE MATERIALIZED VIEW v AS {query}")
    assert isinstance(view, st.CreateView)
    assert (view.topic, view.emit, view.state_limit_bytes) == (None, "update", None)


def test_a_view_says_how_much_state_it_may_keep() -> None:
    view = bound("CREATE MATERIALIZED VIEW v STATE LIMIT '64MB' ON FULL FAIL AS SELECT DISTINCT n FROM readings")
    assert isinstance(view, st.CreateView)
    assert view.state_limit_bytes == 64 << 20
    with pytest.raises(UnsupportedSQL, match="ON FULL SPILL"):
        bound("CREATE MATERIALIZED VIEW v STATE LIMIT '64MB' ON FULL SPILL AS SELECT DISTINCT n FROM readings")
    with pytest.raises(ParseError, match="is not a size"):
        bound("CREATE MATERIALIZED VIEW v STATE LIMIT 'much' AS SELECT DISTINCT n FROM readings")


def test_a_view_takes_no_parameters_because_its_text_is_stored() -> None:
    with pytest.raises(BindError, match="write the value in place of the parameter"):
        bound("CREATE MATERIALIZED VIEW v AS SELECT n FROM readings WHERE n > $low", {"low": 1})


def test_subscribe_refuses_what_cannot_run_for_ever() -> None:
    with pytest.raises(UnsupportedSQL, match="ORDER BY in a continuous query"):
        bound("SELECT n FROM readings ORDER BY n EMIT CHANGES")
    with pytest.raises(ParseError, match="expected TO"):
        bound("SUBSCRIBE readings")
