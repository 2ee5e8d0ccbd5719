"""What a reader of a topic gets: events, and the positions that name them."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from itertools import repeat

from eventdb.values import us_to_datetime

TYPE_CHECKING = False
if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Iterator
    from typing import Any, NamedTuple

    class Position(NamedTuple):
        """Where an event lies: its partition and its offset in that partition's log. Never changes, never reused."""

        partition: int
        offset: int

else:
    Position = namedtuple("Position", "partition offset")


class Positions(Sequence[Position]):
    """The positions of events of one partition that follow one another; compares equal to a list of them."""

    __slots__ = ("offsets", "partition")

    def __init__(self, partition: int, offsets: range) -> None:
        self.partition = partition
        self.offsets = offsets

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return Positions(self.partition, self.offsets[index])
        return Position(self.partition, self.offsets[index])

    def __iter__(self) -> Iterator[Position]:
        return map(Position, repeat(self.partition), self.offsets)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sequence)
            and len(self) == len(other)
            and all(a == b for a, b in zip(self, other, strict=True))
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Positions(partition={self.partition}, offsets={self.offsets})"


class Event:
    """One event. `event["column"]` is a value; `event.row` is all of them as a dict. Immutable by convention."""

    __slots__ = ("_append_time_us", "_event_time", "_key", "_names", "_values", "headers", "offset", "partition")

    def __init__(
        self,
        names: dict[str, int],
        values: tuple[Any, ...],
        offset: int,
        partition: int,
        append_time_us: int,
        key: int | None,
        event_time: int | None,
        headers: tuple[tuple[str, bytes | None], ...] = (),
    ) -> None:
        self._names = names
        self._values = values
        self.offset = offset
        self.partition = partition
        self._append_time_us = append_time_us
        self._key = key
        self._event_time = event_time
        self.headers = headers  # (name, value) pairs in the order given

    def __getitem__(self, name: str) -> Any:
        try:
            return self._values[self._names[name]]
        except KeyError:
            for known, index in self._names.items():
                if known.lower() == name.lower():
                    return self._values[index]
            raise KeyError(f"no column {name!r}; the columns are {', '.join(self._names)}") from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __len__(self) -> int:
        return len(self._names)

    def keys(self) -> list[str]:
        return list(self._names)

    @property
    def row(self) -> dict[str, Any]:
        """The values by column name, in schema order: bool, int, float, Decimal, str, bytes, date, datetime or None."""
        return dict(zip(self._names, self._values, strict=True))

    @property
    def position(self) -> Position:
        return Position(self.partition, self.offset)

    @property
    def append_time(self) -> dt.datetime:
        """When it was appended, naive UTC; never decreases within a partition."""
        return us_to_datetime(self._append_time_us)

    @property
    def time(self) -> dt.datetime | None:
        """The event time: the topic's event_time column (None where that is NULL), the append time if it has none."""
        if self._event_time is None:
            return self.append_time
        value: dt.datetime | None = self._values[self._event_time]
        return value

    @property
    def key(self) -> Any:
        """The value of the topic's key column; None if the topic has no key."""
        return None if self._key is None else self._values[self._key]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Event) and (self.partition, self.offset, self._values, self._names) == (
            other.partition,
            other.offset,
            other._values,
            other._names,
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in zip(self._names, self._values, strict=True))
        return f"Event({self.partition}/{self.offset}: {shown})"
