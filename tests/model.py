"""The whole product as a plain model: topics are lists of tuples, a query is a loop. Slow, obvious, and the judge."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = tuple[Any, ...]


class ModelTopic:
    """A topic: column names with their SQL types, and every event ever appended; the index is the offset."""

    def __init__(self, columns: Mapping[str, str]) -> None:
        self.columns = dict(columns)
        self.rows: list[Row] = []

    def row(self, event: Mapping[str, Any]) -> Row:
        """An event as a tuple in column order, absent columns None."""
        return tuple(event.get(name) for name in self.columns)

    def extend(self, events: Iterable[Mapping[str, Any]]) -> int:
        """Appends; returns the first offset."""
        first = len(self.rows)
        self.rows.extend(self.row(event) for event in events)
        return first

    def values(self, column: str, stop: int | None = None) -> list[Any]:
        index = list(self.columns).index(column)
        return [row[index] for row in self.rows[:stop]]


class Model:
    """A database: topics by name. The queries are the ones the state machine compares."""

    def __init__(self) -> None:
        self.topics: dict[str, ModelTopic] = {}

    def cut(self) -> dict[str, int]:
        """What a snapshot taken now must keep showing: how many events each topic has."""
        return {name: len(topic.rows) for name, topic in self.topics.items()}

    def totals(self, name: str, column: str, stop: int | None = None) -> Row:
        """count(*), count(column), sum, min and max of a column; NULLs do not count, the sum of nothing is NULL."""
        values = self.topics[name].values(column, stop)
        present = [value for value in values if value is not None]
        if not present:
            return (len(values), 0, None, None, None)
        return (len(values), len(present), sum(present), min(present), max(present))

    def where_greater(self, name: str, column: str, bound: Any) -> list[Row]:
        """Rows whose column is above `bound`; NULL is not above anything."""
        topic = self.topics[name]
        index = list(topic.columns).index(column)
        return [row for row in topic.rows if row[index] is not None and row[index] > bound]

    def grouped(self, name: str, key: str, column: str) -> list[Row]:
        """key, count(*), sum(column) for every key; NULL is a key of its own."""
        topic = self.topics[name]
        groups: dict[Any, list[Any]] = defaultdict(list)
        for k, value in zip(topic.values(key), topic.values(column), strict=True):
            groups[k].append(value)
        found = []
        for k, values in groups.items():
            present = [value for value in values if value is not None]
            found.append((k, len(values), sum(present) if present else None))
        return found


def bag(rows: Iterable[Sequence[Any]]) -> list[tuple[Any, ...]]:
    """Rows in an order of their own, for comparing results without ORDER BY."""
    return sorted(map(tuple, rows), key=repr)
