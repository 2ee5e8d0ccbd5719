"""Queries for few rows: the short way, the operators and DuckDB give the same rows, whatever the parameters.

The histories hold every type, NULLs, repeated keys, raw and sealed segments, one and several partitions, and a table
whose rows were put and deleted again.
"""

from __future__ import annotations

import datetime as dt
import random
from collections import Counter
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import eventdb
from eventdb import session
from eventdb.errors import EventDBError

TYPES = {
    "k": "VARCHAR", "ts": "TIMESTAMP", "b": "BOOLEAN", "i1": "TINYINT", "i2": "SMALLINT", "i4": "INTEGER",
    "i8": "BIGINT", "f4": "FLOAT", "f8": "DOUBLE", "d": "DECIMAL(9,2)", "s": "VARCHAR", "x": "BLOB", "day": "DATE",
}  # fmt: skip
POOLS: dict[str, list[Any]] = {
    "k": ["a", "b", "c", "", "é", "a\0"],
    "ts": [dt.datetime(2026, 1, 1) + dt.timedelta(seconds=i) for i in range(0, 60, 7)],
    "b": [True, False],
    "i1": [-128, 0, 5, 127],
    "i2": [-32768, 0, 5, 32767],
    "i4": [-(1 << 31), 0, 5, (1 << 31) - 1],
    "i8": [-(1 << 63), 0, 5, (1 << 31), (1 << 63) - 1],
    "f4": [-1.5, 0.0, 5.0, 0.25],
    "f8": [-1.5, 0.0, 5.0, 0.1],
    "d": [Decimal("-1.50"), Decimal("0.00"), Decimal("5.00"), Decimal("9999999.99")],
    "s": ["", "a", "b", "x'y", "5", "2026-01-01"],
    "x": [b"", b"a", b"\0\xff"],
    "day": [dt.date(2026, 1, 1), dt.date(1969, 12, 31)],
}
STRANGE: list[Any] = [None, 0, 5, 300, 1 << 40, 0.1, 5.0, Decimal("5.005"), "5", "zz", b"a", dt.date(2026, 1, 1), True]
ROWS = 300


def _row(draw: random.Random, number: int) -> dict[str, Any]:
    row = {name: None if draw.random() < 0.15 else draw.choice(pool) for name, pool in POOLS.items()}
    row["ts"] = dt.datetime(2026, 1, 1) + dt.timedelta(seconds=number // 5)
    return row


class History:
    """A database and DuckDB with the same rows."""

    def __init__(self, path: Path, state: str, partitions: int) -> None:
        draw = random.Random(f"{state} {partitions}")
        self.db = eventdb.open(path)
        self.is_table = state == "table"
        self.duck = duckdb.connect()
        columns = ", ".join(f"{name} {type}" for name, type in TYPES.items())
        self.duck.execute(f"CREATE TABLE h ({columns}, _offset BIGINT, _partition INTEGER)")
        if self.is_table:
            self._fill_table(draw)
            return
        topic = self.db.create_topic("h", TYPES, key="k", event_time="ts", partitions=partitions)
        rows = [_row(draw, number) for number in range(ROWS)]
        for first in range(0, ROWS, ROWS // 3):
            if state == "mixed" and first:
                self.db.compact(full=True)
            part = rows[first : first + ROWS // 3]
            places = topic.append_many(part)
            self._insert([(*row.values(), at.offset, at.partition) for row, at in zip(part, places, strict=True)])
        if state == "sealed":
            self.db.compact(full=True)

    def _fill_table(self, draw: random.Random) -> None:
        types = {**TYPES, "k": "VARCHAR", "i8": "BIGINT"}
        table = self.db.create_table("h", types, primary_key=["k", "i8"])
        model: dict[Any, tuple[Any, ...]] = {}
        for number in range(ROWS):
            row = _row(draw, number)
            row["k"], row["i8"] = draw.choice(POOLS["k"]), draw.choice(POOLS["i8"])
            key = row["k"], row["i8"]
            if draw.random() < 0.2:
                table.delete(key)
                model.pop(key, None)
            else:
                table.put(row)
                model[key] = tuple(row.values())
        self._insert([(*row, None, None) for row in model.values()])

    def _insert(self, rows: list[tuple[Any, ...]]) -> None:
        self.duck.executemany(f"INSERT INTO h VALUES ({', '.join('?' * (len(TYPES) + 2))})", rows)

    def close(self) -> None:
        self.db.close()
        self.duck.close()


@pytest.fixture(
    scope="module", params=[("raw", 1), ("sealed", 1), ("mixed", 1), ("raw", 3), ("mixed", 3), ("table", 1)], ids=str
)
def history(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    made = History(tmp_path_factory.mktemp("history") / "db", *request.param)
    yield made
    made.close()


COMPARISONS = ("=", "<", "<=", ">", ">=", "<>")


@st.composite
def queries(draw: st.DrawFn, is_table: bool) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(text, parameters, other parameters of the same names)."""
    names = list(TYPES) if is_table else [*TYPES, "_offset", "_partition"]
    first: dict[str, Any] = {}
    second: dict[str, Any] = {}

    def parameter(column: str) -> str:
        pool = POOLS.get(column, list(range(0, ROWS, 37)))
        name = f"p{len(first)}"
        for values in (first, second):
            values[name] = draw(st.sampled_from(pool))
        return f"${name}"

    def term() -> str:
        column = draw(st.sampled_from([*names, "k", "k", "ts", "ts"]))
        match draw(st.integers(0, 5)):
            case 0:
                return f"{column} BETWEEN {parameter(column)} AND {parameter(column)}"
            case 1:
                return f"{column} IN ({parameter(column)}, {parameter(column)})"
            case 2:
                return f"({column} = {parameter(column)} OR {column} IS NULL)"
            case _:
                return f"{column} {draw(st.sampled_from(COMPARISONS))} {parameter(column)}"

    terms = [term() for _ in range(draw(st.integers(1, 3)))]
    if is_table and draw(st.booleans()):
        terms += [f"k = {parameter('k')}", f"i8 = {parameter('i8')}"]
    outputs = draw(
        st.lists(st.sampled_from([*names, "i4 / 2.0", "coalesce(s, 'none')", "f8 + 1"]), min_size=1, max_size=4)
    )
    named = ", ".join(f"{output} AS o{i}" for i, output in enumerate(outputs))
    text = f"SELECT {named} FROM h WHERE {' AND '.join(terms)}"
    return text, first, second


def _ordinary(history: History, text: str, parameters: Any) -> list[tuple[Any, ...]]:
    """The rows the operators give."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "short_rows", lambda plan, context: None)
        return history.db.sql(text, parameters).fetchall()


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_the_short_way_the_operators_and_duckdb_give_the_same_rows(history: History, data: st.DataObject) -> None:
    text, *several = data.draw(queries(history.is_table))
    for parameters in several:  # the second ones are filled into what was planned for the first ones
        mine = history.db.sql(text, parameters).fetchall()
        assert mine == _ordinary(history, text, parameters)
        theirs = history.duck.execute(text, parameters).fetchall()
        assert Counter(mine) == Counter(theirs), (text, parameters)
        assert history.db.sql(text, parameters).arrow().num_rows == len(mine)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    column=st.sampled_from(list(TYPES)),
    values=st.lists(st.sampled_from(STRANGE), min_size=2, max_size=4),
    data=st.data(),
)
def test_a_kept_plan_answers_and_fails_as_a_new_one_does(
    history: History, column: str, values: list[Any], data: st.DataObject
) -> None:
    """Values of any type, also such as the column's type does not hold."""
    shape = data.draw(st.sampled_from((
        "SELECT {c}, ? AS given FROM h WHERE k IS NOT NULL AND {c} = $1", "SELECT i4 FROM h WHERE {c} >= ? LIMIT 3",
        "SELECT i4 FROM h WHERE {c} IN (?, 5)", "SELECT i4 + ? FROM h WHERE {c} IS NOT NULL",
        "SELECT count(*) FROM h WHERE {c} < ? GROUP BY {c}", "SELECT k FROM h WHERE ? IS NULL AND {c} = $1",
        "SELECT k FROM h LIMIT ?", "SELECT CASE WHEN {c} = ? THEN 1 ELSE 2 END FROM h",
    ))).format(c=column)  # fmt: skip

    given = [[value, value] if "$1" in shape and shape.count("?") > 1 else [value] for value in values]
    _agree_with_new_plans(history.db, shape, given)


def _agree_with_new_plans(db: eventdb.Database, text: str, several: list[list[Any]]) -> None:
    """The text run with one parameter list after the other, and each of them in a session that keeps no plan."""

    def answer(parameters: list[Any]) -> Any:
        try:
            result = db.sql(text, parameters)
            return result.columns, [str(type) for type in result.types], result.fetchall()
        except EventDBError as error:
            return type(error), str(error)

    kept = [answer(parameters) for parameters in several]
    db._session_of()._plans._entries.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("eventdb.plan_cache._entry", _never_keeps)
        assert kept == [answer(parameters) for parameters in several]
    db._session_of()._plans._entries.clear()


@pytest.mark.parametrize(
    ("text", "several"),
    [
        ("SELECT n FROM t LIMIT ?", [[2], [0], [3], [-1], [None]]),
        ("SELECT n FROM t ORDER BY n LIMIT 2 OFFSET ?", [[2], [0], [1]]),
        ("SELECT date_trunc(?, ts) FROM t", [["minute"], ["hour"], ["nothing"]]),
        ("SELECT k LIKE ? FROM t", [["a%"], ["%c"], ["\\"]]),
        ("SELECT n FROM t WHERE ts > ? - INTERVAL '1 minute'", [[dt.datetime(2026, 1, 1)], [dt.datetime(2026, 1, 2)]]),
        ("SELECT ts + ? FROM t", [[dt.timedelta(1)], [dt.timedelta(2)]]),
        ("SELECT n FROM t WHERE ts >= ?", [["2026-01-01"], ["2026-01-02 00:00:01"], ["never"]]),
        ("SELECT n FROM t WHERE n = ?", [[5.0], [5.5], [2.0], [float("nan")]]),
        ("SELECT n FROM t WHERE n = ?", [[Decimal("5.00")], [Decimal("5.50")]]),
        ("SELECT n FROM t WHERE small = ?", [[5], [300]]),
        ("SELECT n FROM t WHERE n IN (?, ?)", [[1, 2], [2, 5], [None, 5]]),
        ("SELECT n FROM t WHERE ? AND n > 1", [[True], [False]]),
        ("SELECT n + ? AS x, count(*) FROM t GROUP BY n + ?", [[1, 1], [1, 2], [2, 2]]),
        ("SELECT _offset FROM t WHERE _offset >= ? AND _offset < ?", [[0, 2], [2, 0], [1, 9], [-5, 1]]),
        ("SELECT CASE WHEN n > ? THEN 'more' ELSE ? END FROM t", [[1, "a"], [4, "b"]]),
        ("SELECT 10 / ? FROM t", [[5], [0]]),
        ("SELECT coalesce(?, k) FROM t", [["a"], ["b"], [None]]),
        ("INSERT INTO t (small) VALUES (?)", [[5], [300]]),
    ],
)
def test_values_that_decide_the_plan_get_their_own(db: eventdb.Database, text: str, several: list[list[Any]]) -> None:
    topic = db.create_topic("t", {"k": "VARCHAR", "n": "BIGINT", "small": "TINYINT", "ts": "TIMESTAMP"}, key="k")
    topic.append_many(
        [{"k": k, "n": n, "small": n, "ts": dt.datetime(2026, 1, 1, n)} for k, n in (("a", 1), ("abc", 2), ("c", 5))]
    )
    _agree_with_new_plans(db, text, several)


def _never_keeps(*given: Any) -> Any:
    from eventdb.plan_cache import _Entry

    return _Entry(None, None)


@pytest.fixture
def db(tmp_path: Path) -> Iterator[eventdb.Database]:
    with eventdb.open(tmp_path / "db") as opened:
        yield opened


def _binds(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Texts that were bound from now on."""
    from eventdb import plan_cache

    bound: list[str] = []
    real = plan_cache.bind

    def counted(text: str, *rest: Any) -> Any:
        bound.append(text)
        return real(text, *rest)

    monkeypatch.setattr(plan_cache, "bind", counted)
    return bound


@pytest.mark.parametrize(
    ("text", "several"),
    [
        ("SELECT n FROM t WHERE k = $k", [{"k": "a"}, {"k": "b"}, {"k": "none"}]),
        ("SELECT n FROM t WHERE n = ?", [[1], [2]]),
        ("SELECT n FROM t WHERE n >= ? AND n < ?", [[1, 2], [2, 1]]),
        ("SELECT n FROM t WHERE k IN (?, ?)", [["a", "b"], ["a", "a"]]),
        ("UPDATE t SET n = n + ? WHERE k = ?", [[1, "a"], [5, "b"]]),
        ("DELETE FROM t WHERE k = ?", [["a"], ["b"]]),
        ("INSERT INTO t VALUES (?, ?)", [["y", 1], ["z", 2]]),
    ],
)
def test_a_text_is_bound_once_for_all_values_of_its_parameters(
    db: eventdb.Database, monkeypatch: pytest.MonkeyPatch, text: str, several: list[Any]
) -> None:
    table = db.create_table("t", {"k": "VARCHAR", "n": "BIGINT"}, primary_key="k")
    table.put_many([{"k": "a", "n": 1}, {"k": "b", "n": 2}])
    bound = _binds(monkeypatch)
    for parameters in several:
        db.sql(text, parameters)
    assert bound == [text]


def test_a_kept_plan_does_not_outlive_what_it_was_planned_for(db: eventdb.Database, tmp_path: Path) -> None:
    text = "SELECT * FROM t WHERE k = ?"
    db.create_topic("t", {"k": "VARCHAR", "n": "BIGINT"}, key="k").append({"k": "a", "n": 1})
    assert db.sql(text, ["a"]).fetchall() == [("a", 1)]
    db.drop_topic("t")
    with pytest.raises(EventDBError):
        db.sql(text, ["a"])
    db.create_table("t", {"n": "DOUBLE", "k": "VARCHAR"}, primary_key="k").put({"n": 2.5, "k": "a"})
    assert db.sql(text, ["a"]).fetchall() == [(2.5, "a")]


def test_a_file_is_looked_at_again_by_every_statement(db: eventdb.Database, tmp_path: Path) -> None:
    path = tmp_path / "f.csv"
    for text, parameters in ((f"SELECT * FROM '{path}'", None), (f"SELECT * FROM '{path}' WHERE a > ?", [0])):
        path.write_text("a\n1\n")
        assert db.sql(text, parameters).fetchall() == [(1,)]
        path.write_text("a,b\n1,x\n")
        assert db.sql(text, parameters).fetchall() == [(1, "x")]


def test_disabled_rules_are_left_out_of_a_text_that_was_planned_before(db: eventdb.Database) -> None:
    db.create_table("t", {"k": "VARCHAR", "n": "BIGINT"}, primary_key="k")
    for parameters in (None, ["a"]):
        text = "SELECT n FROM t WHERE k = 'a'" if parameters is None else "SELECT n FROM t WHERE k = ?"
        session = db._session_of()
        assert "KeyLookup" in str(_labels(session.bind(text, parameters)))
        db.sql("SET disabled_optimizers = 'key_lookups'")
        assert "KeyLookup" not in str(_labels(session.bind(text, parameters)))
        db.sql("SET disabled_optimizers = ''")


def _labels(statement: Any) -> list[str]:
    from eventdb.logical.plan import explain_lines

    return explain_lines(statement.plan)


def test_a_constant_condition_is_looked_up_beside_one_that_holds_a_parameter(db: eventdb.Database) -> None:
    db.create_table("t", {"k": "VARCHAR", "n": "BIGINT"}, primary_key="k")
    text = "SELECT a.n FROM t a JOIN t b ON a.n = b.n WHERE a.k = 'x' AND b.k = ?"
    assert str(_labels(db._session_of().bind(text, ["y"]))).count("KeyLookup") == 2


def test_the_kept_plans_are_bounded_and_the_ones_used_last_stay(
    db: eventdb.Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    from eventdb import plan_cache

    plans = db._session_of()._plans
    bound = _binds(monkeypatch)
    for i in range(plan_cache.ENTRIES + 20):
        db.sql("SELECT 1")
        db.sql(f"SELECT {i}")
    assert len(plans) == plan_cache.ENTRIES
    assert bound.count("SELECT 1") == 1


def test_statements_that_are_large_or_hold_their_values_are_not_kept(db: eventdb.Database) -> None:
    db.create_topic("t", {"n": "BIGINT"})
    plans = db._session_of()._plans
    db.sql("INSERT INTO t VALUES (1)")
    db.sql("SELECT n FROM t WHERE n IN (" + ", ".join(map(str, range(6_000))) + ")")
    db.sql("SELECT n FROM t WHERE n = ? -- " + "x" * 20_000, [1])
    assert len(plans) == 0
    db.sql("SELECT n FROM t")
    db.sql("INSERT INTO t VALUES (?)", [1])
    assert len(plans) == 2


def test_a_point_query_goes_the_short_way(history: History, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[bool] = []
    real = session.short_rows

    def watched(plan: Any, context: Any) -> Any:
        rows = real(plan, context)
        taken.append(rows is not None)
        return rows

    monkeypatch.setattr(session, "short_rows", watched)
    history.db.sql("SELECT ts FROM h WHERE k = ? AND i8 = ?", ["a", 5])
    history.db.sql("SELECT coalesce(s, '-') FROM h WHERE k = ? AND i8 = 5 AND (i2 % 2 = 1 OR f4 > 0)", ["a"])
    assert taken == [True, True]


def test_a_row_that_breaks_an_expression_is_named_by_the_short_way_too(db: eventdb.Database) -> None:
    topic = db.create_topic("t", {"k": "VARCHAR", "n": "BIGINT"}, key="k")
    topic.append_many([{"k": "a", "n": 1}, {"k": "b", "n": 0}, {"k": "a", "n": 0}])
    with pytest.raises(EventDBError, match="row at offset 2"):
        db.sql("SELECT 1 / n FROM t WHERE k = ?", ["a"])
