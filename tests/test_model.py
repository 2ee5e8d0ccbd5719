"""The product against the plain model: any sequence of calls, through several handles, gives what lists would give."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import eventdb
from tests.model import Model, ModelTopic, bag
from tests.strategies import KEY, NAMES, NUMBER, bad_rows, row_lists, rows, schemas

DURABILITIES = ("commit", "interval:10ms", "os")
MAX_HANDLES = 3


class Broken(Exception):
    """What the user's own code raises inside a transaction."""


class DatabaseMachine(RuleBasedStateMachine):
    """Rules are calls of the public API; the model makes the same step and the two are compared."""

    def __init__(self) -> None:
        super().__init__()
        self._work = Path(tempfile.mkdtemp(prefix="eventdb-model-"))
        self.model = Model()
        self.handles: list[eventdb.Database] = []
        self.snapshots: list[tuple[eventdb.Snapshot, dict[str, int]]] = []

    @initialize(durability=st.sampled_from(DURABILITIES))
    def open_first(self, durability: str) -> None:
        self.durability = durability
        self._open()

    def _open(self) -> None:
        self.handles.append(eventdb.open(self._work / "db", durability=self.durability))

    def _any(self, data: st.DataObject) -> eventdb.Database:
        return self.handles[data.draw(st.integers(0, len(self.handles) - 1), "handle")]

    def _some_topic(self, data: st.DataObject) -> str:
        return data.draw(st.sampled_from(sorted(self.model.topics)), "topic")

    def teardown(self) -> None:
        for snapshot, _ in self.snapshots:
            snapshot.close()
        for db in self.handles:
            db.close()
        if self.model.topics:
            with eventdb.open(self._work / "db", read_only=True) as db:
                for name, topic in self.model.topics.items():
                    assert [tuple(event.row.values()) for event in db.topic(name).read()] == topic.rows
        shutil.rmtree(self._work, ignore_errors=True)

    # --- topics and handles -------------------------------------------------------------------------------------------

    @rule(data=st.data(), name=st.sampled_from(NAMES), columns=schemas())
    def create_topic(self, data: st.DataObject, name: str, columns: dict[str, str]) -> None:
        db = self._any(data)
        if name in self.model.topics:
            with pytest.raises(eventdb.TopicExists):
                db.create_topic(name, columns)
        else:
            db.create_topic(name, columns)
            self.model.topics[name] = ModelTopic(columns)

    @precondition(lambda self: self.model.topics)
    @rule(data=st.data(), sure=st.integers(0, 3))
    def drop_topic(self, data: st.DataObject, sure: int) -> None:
        if sure or self.snapshots:
            return  # rarely, and not under a snapshot: a dropped topic's name is gone for snapshots too
        name = self._some_topic(data)
        self._any(data).drop_topic(name)
        del self.model.topics[name]
        with pytest.raises(eventdb.TopicNotFound, match=name):
            self._any(data).topic(name)

    @precondition(lambda self: len(self.handles) < MAX_HANDLES)
    @rule()
    def open_another(self) -> None:
        self._open()

    @rule(data=st.data())
    def close_one(self, data: st.DataObject) -> None:
        db = self._any(data)
        for one in [one for one in self.snapshots if one[0]._database is db]:
            one[0].close()
            self.snapshots.remove(one)
        db.close()
        self.handles.remove(db)
        if not self.handles:
            self._open()

    @rule(data=st.data())
    def checkpoint(self, data: st.DataObject) -> None:
        self._any(data).checkpoint()

    # --- appending ----------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.model.topics)
    @rule(data=st.data())
    def append(self, data: st.DataObject) -> None:
        name = self._some_topic(data)
        topic = self.model.topics[name]
        row = data.draw(rows(topic.columns), "row")
        assert self._any(data).topic(name).append(row) == (0, topic.extend([row]))

    @precondition(lambda self: self.model.topics)
    @rule(data=st.data())
    def append_many(self, data: st.DataObject) -> None:
        name = self._some_topic(data)
        topic = self.model.topics[name]
        events = data.draw(row_lists(topic.columns), "rows")
        positions = self._any(data).topic(name).append_many(events)
        first = topic.extend(events)
        assert positions == [(0, first + i) for i in range(len(events))]

    @precondition(lambda self: self.model.topics)
    @rule(data=st.data())
    def append_batch(self, data: st.DataObject) -> None:
        name = self._some_topic(data)
        topic = self.model.topics[name]
        events = data.draw(row_lists(topic.columns), "rows")
        table = {column: [event.get(column) for event in events] for column in topic.columns}
        offsets = self._any(data).topic(name).append_batch(table)
        first = topic.extend(events)
        assert list(offsets) == list(range(first, first + len(events)))

    @precondition(lambda self: self.model.topics)
    @rule(data=st.data())
    def send(self, data: st.DataObject) -> None:
        name = self._some_topic(data)
        topic = self.model.topics[name]
        events = data.draw(row_lists(topic.columns, max_size=5), "rows")
        with self._any(data).topic(name).producer(max_rows=3) as out:
            futures = [out.send(event) for event in events]
        first = topic.extend(events)
        assert [future.result() for future in futures] == [(0, first + i) for i in range(len(events))]

    @precondition(lambda self: self.model.topics)
    @rule(data=st.data(), fails=st.booleans())
    def transaction(self, data: st.DataObject, fails: bool) -> None:
        db = self._any(data)
        parts: list[tuple[str, list[dict[str, Any]]]] = []
        for _ in range(data.draw(st.integers(1, 3), "parts")):
            name = self._some_topic(data)
            parts.append((name, data.draw(row_lists(self.model.topics[name].columns, max_size=4), "rows")))
        try:
            with db.transaction() as tx:
                for name, events in parts:
                    if len(events) == 1:
                        tx.append(name, events[0])
                    else:
                        tx.append_many(name, events)
                if fails:
                    raise Broken
        except Broken:
            return
        for name, events in parts:
            first = self.model.topics[name].extend(events)
            if events:
                assert (0, first) in tx.positions[name]

    @precondition(lambda self: self.model.topics)
    @rule(data=st.data(), how=st.sampled_from(["append", "append_many", "transaction", "send"]))
    def a_bad_row_stores_nothing(self, data: st.DataObject, how: str) -> None:
        name = self._some_topic(data)
        columns = self.model.topics[name].columns
        good = data.draw(rows(columns), "good")
        bad, column = data.draw(bad_rows(columns), "bad")
        db = self._any(data)
        topic = db.topic(name)
        with pytest.raises(eventdb.SchemaMismatch, match=column):
            getattr(self, f"_bad_{how}")(db, topic, good, bad)

    @staticmethod
    def _bad_append(db: eventdb.Database, topic: eventdb.Topic, good: dict[str, Any], bad: dict[str, Any]) -> None:
        topic.append(bad)

    @staticmethod
    def _bad_append_many(db: eventdb.Database, topic: eventdb.Topic, good: dict[str, Any], bad: dict[str, Any]) -> None:
        topic.append_many([good, bad, good])

    @staticmethod
    def _bad_send(db: eventdb.Database, topic: eventdb.Topic, good: dict[str, Any], bad: dict[str, Any]) -> None:
        with topic.producer() as out:
            out.send(bad)

    @staticmethod
    def _bad_transaction(db: eventdb.Database, topic: eventdb.Topic, good: dict[str, Any], bad: dict[str, Any]) -> None:
        with db.transaction() as tx:
            tx.append(topic, good)
            tx.append(topic, bad)

    # --- reading ------------------------------------------------------------------------------------------------------

    @precondition(lambda self: self.model.topics)
    @rule(data=st.data())
    def read(self, data: st.DataObject) -> None:
        name = self._some_topic(data)
        topic = self.model.topics[name]
        end = len(topic.rows)
        start = data.draw(st.integers(0, end), "start")
        stop = data.draw(st.none() | st.integers(0, end), "stop")
        limit = data.draw(st.none() | st.integers(0, 5), "limit")
        expected = list(enumerate(topic.rows))[start : end if stop is None else stop][:limit]
        handle = self._any(data).topic(name)
        found = [(event.offset, tuple(event.row.values())) for event in handle.read(start, stop=stop, limit=limit)]
        assert found == expected
        assert handle.offsets() == (0, end)

    @precondition(lambda self: self.model.topics)
    @rule(data=st.data(), bound=st.integers(-1_000_000, 1_000_000))
    def query(self, data: st.DataObject, bound: int) -> None:
        name = self._some_topic(data)
        db = self._any(data)
        assert self._totals(db, name) == self.model.totals(name, NUMBER)
        found = db.sql(f"SELECT * FROM {name} WHERE {NUMBER} > ?", [bound])
        assert bag(found.fetchall()) == bag(self.model.where_greater(name, NUMBER, bound))
        groups = db.sql(f"SELECT {KEY}, count(*), sum({NUMBER}) FROM {name} GROUP BY {KEY}").fetchall()
        assert bag(groups) == bag(self.model.grouped(name, KEY, NUMBER))

    @staticmethod
    def _totals(where: eventdb.Database | eventdb.Snapshot, name: str) -> tuple[Any, ...] | None:
        n = NUMBER
        return where.sql(f"SELECT count(*), count({n}), sum({n}), min({n}), max({n}) FROM {name}").fetchone()

    @precondition(lambda self: len(self.snapshots) < 2)
    @rule(data=st.data())
    def take_snapshot(self, data: st.DataObject) -> None:
        self.snapshots.append((self._any(data).snapshot(), self.model.cut()))

    @precondition(lambda self: self.snapshots)
    @rule(data=st.data())
    def a_snapshot_stays_as_it_was(self, data: st.DataObject) -> None:
        snapshot, cut = data.draw(st.sampled_from(self.snapshots), "snapshot")
        for name, end in cut.items():
            assert snapshot.offsets(name) == (0, end)
            assert self._totals(snapshot, name) == self.model.totals(name, NUMBER, end)

    @precondition(lambda self: self.snapshots)
    @rule()
    def close_snapshot(self) -> None:
        self.snapshots.pop(0)[0].close()

    @invariant()
    def nothing_is_damaged(self) -> None:
        if self.handles:
            assert self.handles[0].check() == []


TestDatabase = DatabaseMachine.TestCase
TestDatabase.settings = settings(stateful_step_count=30)
