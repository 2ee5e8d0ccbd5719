"""A fixed catalog for binding: topics, the table stock, the view hourly, and any file as (a BIGINT, b VARCHAR)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from eventdb.batch import RecordBatch
from eventdb.errors import TopicNotFound
from eventdb.logical.optimizer import optimize
from eventdb.logical.plan import Plan, explain_lines
from eventdb.schema import Schema
from eventdb.sql.binder import bind
from eventdb.sql.statements import Query, Statement, TableInfo

READINGS = Schema.from_mapping(
    {
        "device": "VARCHAR NOT NULL",
        "temp": "DOUBLE",
        "n": "INTEGER",
        "big": "BIGINT",
        "small": "SMALLINT",
        "price": "DECIMAL(10,2)",
        "ok": "BOOLEAN",
        "day": "DATE",
        "ts": "TIMESTAMP",
    }
)
TABLES = {
    "readings": TableInfo(
        "topic", 1, "readings", READINGS, event_time="ts", watermark_delay_us=5_000_000, key="device"
    ),
    "devices": TableInfo(
        "topic", 2, "devices", Schema.from_mapping({"id": "VARCHAR NOT NULL", "site": "VARCHAR", "rank": "SMALLINT"})
    ),
    "plain": TableInfo("topic", 3, "plain", Schema.from_mapping({"x": "INTEGER", "at": "TIMESTAMP"}), event_time="at"),
    "stock": TableInfo(
        "table", 4, "stock", Schema.from_mapping({"k": "INTEGER NOT NULL", "v": "INTEGER"}), key="k", primary_key=(0,)
    ),
    "hourly": TableInfo("view", 1, "hourly", Schema.from_mapping({"device": "VARCHAR", "total": "BIGINT"})),
}


class FakeSource:
    """A file that is never read."""

    kind = "FileScan"

    def __init__(self, name: str, schema: Schema) -> None:
        self.name = name
        self.schema = schema

    def batches(self, *wish: Any) -> Iterator[RecordBatch]:
        raise AssertionError(f"{self.name} is read by a binder")


class Tables:
    """A Resolver over TABLES."""

    def table(self, name: str) -> TableInfo:
        found = TABLES.get(name.lower())
        if found is None:
            raise TopicNotFound(f"no topic, table or view {name!r}", name=name)
        return found

    def file(self, path: str) -> TableInfo:
        schema = Schema.from_mapping({"a": "BIGINT", "b": "VARCHAR"})
        return TableInfo("file", 0, path, schema, source=FakeSource(path, schema))

    def files(self, reader: str, paths: Sequence[str], options: Mapping[str, Any]) -> TableInfo:
        return self.file(f"{reader}({', '.join(paths)}, {options})")

    def format_of(self, path: str) -> str:
        return path.rsplit(".", 1)[-1]

    def function(self, name: str) -> None:
        return None

    def call(self, function: Any, arguments: Sequence[Any]) -> TableInfo:
        raise AssertionError("there are no table functions here")

    def function_names(self) -> list[str]:
        return []

    def names(self) -> list[str]:
        return list(TABLES)


def bound(sql: str, parameters: Any = None) -> Statement:
    return bind(sql, Tables(), parameters)


def plan_of(sql: str, parameters: Any = None) -> Plan:
    statement = bound(sql, parameters)
    assert isinstance(statement, Query), statement
    return statement.plan


def explain(sql: str, parameters: Any = None) -> list[str]:
    """EXPLAIN of the plan as bound, Scan columns shortened to '*' when all are there."""
    return _short(explain_lines(plan_of(sql, parameters)))


def optimized(sql: str, disabled: frozenset[str] = frozenset()) -> list[str]:
    plan = plan_of(sql)
    better = optimize(plan, disabled)
    assert [(f.name, f.type) for f in better.fields] == [(f.name, f.type) for f in plan.fields]
    assert optimize(better, disabled) == better, "optimising twice changes nothing more"
    return _short(explain_lines(better))


def _short(lines: list[str]) -> list[str]:
    everything = f"[{', '.join(READINGS.names)}]"
    return [line.replace(everything, "[*]").replace("[id, site, rank]", "[*]") for line in lines]


def types(sql: str, parameters: Any = None) -> list[str]:
    """The column types of SELECT `sql` FROM readings."""
    return [str(f.type) for f in plan_of(f"SELECT {sql} FROM readings", parameters).fields]


def shown(expression: str, parameters: Any = None) -> str:
    """The bound form of one expression over readings."""
    plan = plan_of(f"SELECT {expression} AS x FROM readings", parameters)
    return str(plan.expressions[0])  # type: ignore[attr-defined]
