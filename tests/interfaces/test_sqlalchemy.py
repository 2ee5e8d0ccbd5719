"""SQLAlchemy and pandas over EventDB: DDL, Core, ORM, inspection, read_sql and to_sql."""

from __future__ import annotations

import datetime as dt
import tomllib
import warnings
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import eventdb

sa = pytest.importorskip("sqlalchemy", reason="sqlalchemy is in the dev extra")
orm = pytest.importorskip("sqlalchemy.orm")
pd = pytest.importorskip("pandas")

sa.dialects.registry.register("eventdb", "eventdb.sqlalchemy", "EventDBDialect")  # also where it is not installed

ROOT = Path(__file__).resolve().parents[2]


class Base(orm.DeclarativeBase):  # type: ignore[misc, name-defined]
    pass


class Device(Base):
    __tablename__ = "Device"
    id = sa.Column(sa.String, primary_key=True)
    site = sa.Column(sa.String(20), nullable=False, server_default="'north'".strip("'"))
    order = sa.Column(sa.Integer)
    price = sa.Column(sa.Numeric(9, 2))
    seen = sa.Column(sa.DateTime(timezone=True))
    tags = sa.Column(sa.JSON)
    kind = sa.Column(sa.Enum("a", "b", name="kind"))
    readings = orm.relationship("Reading", back_populates="device")


class Reading(Base):
    __tablename__ = "reading"
    device_id = sa.Column(sa.ForeignKey("Device.id"), primary_key=True)
    number = sa.Column(sa.BigInteger, primary_key=True, autoincrement=False)
    value = sa.Column(sa.Float)
    ok = sa.Column(sa.Boolean)
    device = orm.relationship(Device, back_populates="readings")


events = sa.Table(
    "events", Base.metadata, sa.Column("name", sa.String), sa.Column("at", sa.DateTime), sa.Column("n", sa.Integer),
    eventdb_key="name", eventdb_event_time="at",
)  # fmt: skip


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Any]:
    made = sa.create_engine(f"eventdb:///{tmp_path / 'db'}?durability=os")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", sa.exc.SAWarning)  # of the foreign key
        Base.metadata.create_all(made)
    yield made
    made.dispose()


def test_the_entry_point_names_the_dialect() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    module, _, name = project["entry-points"]["sqlalchemy.dialects"]["eventdb"].partition(":")
    assert getattr(__import__(module, fromlist=[name]), name).name == "eventdb"
    assert project["optional-dependencies"]["sqlalchemy"] == ["sqlalchemy>=2.0"]


def test_objects_are_stored_changed_and_deleted(engine: Any) -> None:
    seen = dt.datetime(2026, 1, 2, 3, 4, 5)
    with orm.Session(engine) as session:
        device = Device(id="d1", site="south", order=3, price=Decimal("1.50"), seen=seen, tags={"a": [1]}, kind="b")
        device.readings = [Reading(number=i, value=i / 2, ok=i % 2 == 0) for i in range(4)]
        session.add_all([device, Device(id="d2")])
        session.flush()
        assert session.scalar(sa.select(sa.func.count()).select_from(Reading)) == 4
        with engine.connect() as other:
            assert other.scalar(sa.select(sa.func.count()).select_from(Device)) == 0
        session.commit()
    with orm.Session(engine) as session:
        device = session.get(Device, "d1")
        assert (device.site, device.order, device.price, device.seen) == ("south", 3, Decimal("1.50"), seen)
        assert (device.tags, device.kind) == ({"a": [1]}, "b")
        assert session.get(Device, "d2").site == "north"
        assert [reading.value for reading in device.readings] == [0.0, 0.5, 1.0, 1.5]
        device.site = "west"
        device.readings[1].value = 9.0
        session.delete(device.readings[0])
        session.commit()
    with orm.Session(engine) as session:
        joined = sa.select(Reading.number, Device.site).join(Device).where(Reading.value > 0.9).order_by(Reading.number)
        assert session.execute(joined).all() == [(1, "west"), (2, "west"), (3, "west")]
        session.execute(sa.update(Reading).where(Reading.ok.is_(True)).values(value=Reading.value + 1))
        session.execute(sa.delete(Reading).where(Reading.number.in_([3])))
        session.rollback()
        found = session.execute(sa.select(Reading.number, Reading.value).order_by(Reading.number)).all()
        assert found == [(1, 9.0), (2, 1.0), (3, 1.5)]


def test_a_second_object_with_a_key_is_an_integrity_error(engine: Any) -> None:
    with orm.Session(engine) as session:
        session.add(Device(id="d1"))
        session.commit()
        session.add(Device(id="d3"))
        session.execute(sa.insert(Device), [{"id": "d4"}, {"id": "d5"}])
        with pytest.raises(sa.exc.IntegrityError, match="d1"):
            session.execute(sa.insert(Device).values(id="d1"))
        session.rollback()
        assert session.scalars(sa.select(Device.id)).all() == ["d1"]


def test_an_object_changed_by_two_sessions_is_a_conflict(engine: Any) -> None:
    with orm.Session(engine) as session:
        session.add(Device(id="d1", order=1))
        session.commit()
    with orm.Session(engine) as first, orm.Session(engine) as second:
        first.get(Device, "d1").order = 2
        second.get(Device, "d1").order = 3
        second.flush()
        first.commit()
        with pytest.raises(sa.exc.OperationalError):
            second.commit()
        second.rollback()
        assert second.get(Device, "d1").order == 2
    with orm.Session(engine.execution_options(isolation_level="SNAPSHOT")) as third, orm.Session(engine) as fourth:
        device = third.get(Device, "d1")
        fourth.get(Device, "d1").order = 7
        fourth.commit()
        device.order += 1  # of what was read before
        with pytest.raises(sa.exc.OperationalError):
            third.commit()


def test_expressions_of_core_run(engine: Any) -> None:
    with engine.begin() as connection:
        rows = [{"name": f"n{i % 3}", "at": dt.datetime(2026, 1, 1, i), "n": i} for i in range(10)]
        assert connection.execute(sa.insert(events), rows).rowcount == 10
    n = events.c.n
    with engine.connect() as connection:
        for query, expected in (
            (sa.select(n).where(n.between(2, 5)).order_by(n.desc()).limit(2).offset(1), [(4,), (3,)]),
            (sa.select(events.c.name, sa.func.sum(n)).group_by(events.c.name).having(sa.func.sum(n) > 12).order_by(
                events.c.name), [("n0", 18), ("n2", 15)]),
            (sa.select(n).where(n.in_([])), []),
            (sa.select(sa.func.count()).where(n.not_in([])), [(10,)]),
            (sa.select(events.c.name).distinct().where(events.c.name.ilike("N1")), [("n1",)]),
            (sa.select(sa.case((n > 8, "big"), else_="small")).where(n >= 8).order_by(n), [("small",), ("big",)]),
            (sa.select(sa.cast(n, sa.String)).where(events.c.at == dt.datetime(2026, 1, 1, 7)), [("7",)]),
            (sa.union(sa.select(n).where(n == 1), sa.select(n).where(n == 1)), [(1,)]),
            (sa.select(sa.exists().where(n == 5)), [(True,)]),
            (sa.select(sa.extract("hour", events.c.at)).where(n == 4), [(4,)]),
            (sa.select(sa.literal("a%b:c")), [("a%b:c",)]),
            (sa.text("SELECT count(*) FROM events WHERE n > :least").bindparams(least=7), [(2,)]),
            (sa.select(n).where(n == 2).with_for_update(), [(2,)]),
            (sa.select(n).order_by(n).offset(8), [(8,), (9,)]),
        ):  # fmt: skip
            assert connection.execute(query).all() == expected, str(query)
        assert isinstance(connection.scalar(sa.select(sa.func.now())), dt.datetime)


def test_the_inspector_shows_topics_tables_and_views(engine: Any) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE MATERIALIZED VIEW totals AS SELECT name, sum(n) AS s FROM events GROUP BY 1")
        connection.exec_driver_sql(
            "CREATE TABLE t (b BIGINT, a VARCHAR DEFAULT 'it''s', c DECIMAL(5,1), d DATE, e FLOAT, f BLOB, "
            "PRIMARY KEY (c, b))"
        )
    inspector = sa.inspect(engine)
    assert inspector.get_table_names() == ["Device", "events", "reading", "t"]
    assert inspector.get_view_names() == ["totals"]
    assert "sum(n)" in inspector.get_view_definition("totals")
    assert [inspector.has_table(name) for name in ("T", "totals", "nothing")] == [True, True, False]
    assert inspector.get_pk_constraint("t")["constrained_columns"] == ["c", "b"]
    assert inspector.get_pk_constraint("events")["constrained_columns"] == []
    columns = {column["name"]: column for column in inspector.get_columns("t")}
    kinds = {name: str(column["type"]) for name, column in columns.items()}
    assert kinds == {"b": "BIGINT", "a": "VARCHAR", "c": "DECIMAL(5, 1)", "d": "DATE", "e": "REAL", "f": "BLOB"}
    assert [columns[name]["nullable"] for name in "abc"] == [True, False, False]
    assert columns["a"]["default"] == "'it''s'"
    assert [column["name"] for column in inspector.get_columns("totals")] == ["name", "s"]
    assert inspector.get_foreign_keys("t") == inspector.get_indexes("t") == inspector.get_unique_constraints("t") == []
    with pytest.raises(sa.exc.NoSuchTableError):
        inspector.get_columns("nothing")
    reflected = sa.Table("t", sa.MetaData(), autoload_with=engine)
    copied = sa.create_engine("eventdb://")
    reflected.create(copied)
    assert sa.inspect(copied).get_pk_constraint("t")["constrained_columns"] == ["c", "b"]
    reflected.drop(copied)
    assert sa.inspect(copied).get_table_names() == []


def test_what_is_reflected_is_made_again_and_dropped_as_it_was(engine: Any) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE loose (a BIGINT, b VARCHAR)")
    for name in ("events", "loose", "Device"):
        reflected = sa.Table(name, sa.MetaData(), autoload_with=engine)
        copied = sa.create_engine("eventdb://")
        reflected.create(copied)
        again = sa.Table(name, sa.MetaData(), autoload_with=copied)
        assert again.dialect_options["eventdb"] == reflected.dialect_options["eventdb"]
        reflected.drop(copied)
        assert sa.inspect(copied).get_table_names() == []
        copied.dispose()
    assert dict(sa.Table("events", sa.MetaData(), autoload_with=engine).dialect_options["eventdb"]) == {
        "kind": "topic", "key": "name", "event_time": "at",
    }  # fmt: skip
    loose = sa.Table("loose", sa.MetaData(), autoload_with=engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(loose), [{"a": 1, "b": "x"}, {"a": 1, "b": "x"}, {"a": 2, "b": None}])
        assert connection.execute(sa.update(loose).where(loose.c.a == 1).values(b="y")).rowcount == 2
        assert connection.execute(sa.delete(loose).where(loose.c.a == 2)).rowcount == 1
    with engine.connect() as connection:
        assert connection.execute(sa.select(loose)).all() == [(1, "y"), (1, "y")]
    with pytest.raises(sa.exc.CompileError, match="eventdb_kind"):
        sa.Table("k", sa.MetaData(), sa.Column("a", sa.Integer, primary_key=True), eventdb_kind="topic").create(engine)


def test_pandas_writes_and_reads(engine: Any) -> None:
    frame = pd.DataFrame(
        {
            "n": [1, 2, 3],
            "x": [0.5, None, 2.5],
            "name": ["a", None, "é'"],
            "at": pd.to_datetime(["2026-01-01", "2026-01-02 03:04:05", None], format="ISO8601"),
            "ok": [True, False, True],
        }
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frame.to_sql("frame", engine, index=False)
        frame.to_sql("frame", engine, if_exists="append", index=False)
        back = pd.read_sql("SELECT * FROM frame ORDER BY n", engine)
        assert len(pd.read_sql_table("frame", engine)) == 6
    for column in frame:
        expected = [None if pd.isna(v) else v for v in frame[column]]
        assert [None if pd.isna(v) else v for v in back[column][::2]] == expected, column
    with pytest.warns(sa.exc.SAWarning, match="index"):
        frame.to_sql("frame", engine, if_exists="replace", index_label="i")
    assert list(pd.read_sql("frame", engine, index_col="i").columns) == list(frame.columns)
    assert pd.read_sql(sa.select(events), engine).empty
    many = pd.DataFrame({"n": range(5000)})
    assert many.to_sql("many", engine, index=False) == 5000
    assert pd.read_sql("SELECT sum(n) AS s FROM many WHERE n >= ?", engine, params=(10,))["s"][0] == sum(
        range(10, 5000)
    )
    assert sum(len(chunk) for chunk in pd.read_sql("SELECT * FROM many", engine, chunksize=999)) == 5000


def test_autocommit_is_an_isolation_level(engine: Any) -> None:
    with engine.connect() as first, engine.connect() as second:
        first = first.execution_options(isolation_level="AUTOCOMMIT")
        first.execute(sa.insert(events).values(name="a", n=1))
        assert second.scalar(sa.select(sa.func.count()).select_from(events)) == 1
        assert second.get_isolation_level() == "READ COMMITTED"
        with pytest.raises(sa.exc.CompileError, match="savepoints"):
            second.begin_nested()


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ([sa.Column("a", sa.Integer, unique=True)], "UniqueConstraint"),
        ([sa.Column("a", sa.Integer), sa.CheckConstraint("a > 1")], "CheckConstraint"),
        ([sa.Column("a", sa.Numeric(40, 2))], "38 digits"),
        ([sa.Column("a", sa.Time)], "TIME"),
        ([sa.Column("a", sa.Integer, sa.Computed("1 + 1"))], "computed"),
        ([sa.Column("a", sa.Integer), sa.Index("i", "a", unique=True)], "unique"),
    ],
)
def test_what_eventdb_cannot_keep_is_refused(engine: Any, columns: list[Any], message: str) -> None:
    with pytest.raises(sa.exc.CompileError, match=message):
        sa.Table("refused", sa.MetaData(), *columns).create(engine)


def test_a_url_says_where_and_how(tmp_path: Path) -> None:
    with eventdb.open(tmp_path / "db") as db:
        db.create_topic("t", {"n": "BIGINT"})
    engine = sa.create_engine(f"eventdb:///{tmp_path / 'db'}?read_only=true&threads=1&timeout=5&memory_limit=100MB")
    with pytest.raises(sa.exc.OperationalError, match="read-only"), engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO t VALUES (1)"))
    engine.dispose()
    with pytest.raises(sa.exc.ArgumentError, match="no server"):
        sa.create_engine("eventdb://host/db").connect()
    for option in ("read_only=maybe", "threads=many"):
        with pytest.raises(sa.exc.ArgumentError, match=option.partition("=")[2]):
            sa.create_engine(f"eventdb:///db?{option}").connect()
    wrong = {"nope=1": "no option 'nope'.*durability", "threads=1&threads=2": "threads is given twice"}
    for option, message in wrong.items():
        with pytest.raises(sa.exc.ArgumentError, match=message):
            sa.create_engine(f"eventdb:///db?{option}").connect()
    with sa.create_engine("eventdb://?autocommit=false").connect() as connection:
        assert connection.connection.dbapi_connection.autocommit is False
    with pytest.raises(sa.exc.ArgumentError, match="perhaps"):
        sa.create_engine("eventdb://?autocommit=perhaps").connect()


def test_an_offset_alone_has_no_limit_in_its_text() -> None:
    dialect = sa.dialects.registry.load("eventdb")()
    query = sa.select(events.c.n)
    texts = [
        str(made.compile(dialect=dialect, compile_kwargs={"literal_binds": True})).split('FROM "events"')[1].split()
        for made in (query.offset(3), query.limit(2), query.limit(2).offset(3), query)
    ]
    assert texts == [["OFFSET", "3"], ["LIMIT", "2"], ["LIMIT", "2", "OFFSET", "3"], []]


def test_autoescape_finds_percent_signs_and_underscores(engine: Any) -> None:
    words = ["a%b", "axb", "a_b", "A%B", "a/b", "%", ""]
    with engine.begin() as connection:
        connection.execute(sa.insert(events), [{"name": word, "n": 0} for word in words])
    name = events.c.name
    with engine.connect() as connection:
        for part in ("%", "_", "a%", "/b", "a_b", "%B"):
            for find, holds in (
                (name.contains(part, autoescape=True), lambda w, p: p in w),
                (name.startswith(part, autoescape=True), str.startswith),
                (name.endswith(part, autoescape=True), str.endswith),
                (name.icontains(part, autoescape=True), lambda w, p: p.lower() in w.lower()),
                (~name.contains(part, autoescape=True), lambda w, p: p not in w),
            ):
                found = connection.execute(sa.select(name).where(find)).scalars().all()
                assert sorted(found) == sorted(word for word in words if holds(word, part)), (part, str(find))
        assert connection.scalar(sa.text("SELECT 'x' LIKE NULL ESCAPE '/'")) is None


def test_the_inspector_shows_plain_views(engine: Any) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE VIEW good AS SELECT name, n + 1 AS next FROM events")
        connection.exec_driver_sql("CREATE MATERIALIZED VIEW totals AS SELECT name, sum(n) AS s FROM events GROUP BY 1")
    inspector = sa.inspect(engine)
    assert inspector.get_view_names() == ["good", "totals"]
    assert inspector.get_materialized_view_names() == ["totals"]
    assert inspector.get_view_definition("GOOD") == 'CREATE VIEW "good" AS SELECT name, n + 1 AS next FROM events'
    assert inspector.has_table("good")
    assert [column["name"] for column in inspector.get_columns("good")] == ["name", "next"]
    text = inspector.get_view_definition("good")
    with engine.begin() as connection:
        connection.exec_driver_sql("DROP VIEW good")
        connection.exec_driver_sql(text)
    with pytest.raises(sa.exc.NoSuchTableError):
        sa.inspect(engine).get_view_definition("nothing")
