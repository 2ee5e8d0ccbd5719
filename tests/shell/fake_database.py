"""A database of scripted answers: the shell is tested without one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

from eventdb.batch import Column, RecordBatch
from eventdb.errors import ParseError, QueryCancelled
from eventdb.result import Result
from eventdb.schema import VARCHAR
from eventdb.stream.emission import Change


def rows_result(names: list[str], *columns: list[str | None]) -> Result:
    """A result of VARCHAR columns."""
    made = [Column.encode(VARCHAR, values) for values in columns]
    return Result(names, [VARCHAR] * len(names), [RecordBatch(names, made)])


class FakeSubscription:
    """Gives the changes it was made with and then waits until it is closed."""

    columns = ("station", "temp")

    def __init__(self, changes: list[Change], live: bool) -> None:
        self._changes = changes
        self._live = live
        self.closed = threading.Event()

    def __enter__(self) -> FakeSubscription:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[Change]:
        yield from self._changes
        if self._live:
            assert self.closed.wait(20), "nobody ended the subscription"

    def close(self) -> None:
        self.closed.set()


class FakeDatabase:
    """`log` is what was asked of it. SELECT 'x' answers x, WAIT blocks until interrupt, FAIL is no SQL, BUG is one."""

    def __init__(self) -> None:
        self.log: list[str] = []
        self.interrupted = threading.Event()
        self.waiting = threading.Event()
        self.closed = False
        self.live = False

    def session(self) -> FakeDatabase:
        return self

    def sql(self, text: str) -> Result:
        self.log.append(text)
        word = text.split()[0]
        if text in ("SHOW TOPICS", "SHOW TABLES"):
            return rows_result(["name", "kind", "rows"], ["weather"], ["topic"], ["12"])
        if text == "SHOW VIEWS":
            return rows_result(["name"], ["daily"])
        if word == "DESCRIBE":
            return rows_result(["column_name", "column_type"], ["station", "temp"], ["VARCHAR", "DOUBLE"])
        if word == "FAIL":
            raise ParseError("no statement begins with FAIL", sql=text, line=1, column=1)
        if word == "BUG":
            raise RuntimeError("boom")
        if word == "WAIT":
            self.waiting.set()
            assert self.interrupted.wait(20), "nobody interrupted the query"
            raise QueryCancelled("the query was interrupted", sql=text)
        if word == "CREATE":
            return Result([], [], [])
        return rows_result(["value"], [text.partition(" ")[2].strip("'")])

    def subscribe(self, query: str, *, start: str | None = None) -> FakeSubscription:
        self.log.append(query)
        self.waiting.set()
        return FakeSubscription([Change("+I", ("EWR", 31.1), 7), Change("-D", ("EWR", None), 8)], self.live)

    def interrupt(self) -> None:
        self.interrupted.set()

    def check(self, deep: bool = False) -> list[str]:
        return ["segment 3 is torn"] if deep else []

    def stats(self) -> dict[str, Any]:
        return {"commits": 1234, "clean": True, "topics": {"weather": 12}, "views": {}}

    def close(self) -> None:
        self.closed = True
