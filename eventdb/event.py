"""What a reader of a topic gets: events, and the positions that name them.

Most readers look at a few columns of an event. So an event keeps the values as they are stored and makes Python's
datetimes and decimals of them when they are asked for: a TIMESTAMP costs more than the rest of an event of six columns.
"""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Sequence
from itertools import repeat

from eventdb.errors import CorruptionError
from eventdb.values import decoder_of, us_to_datetime

TYPE_CHECKING = False
if TYPE_CHECKING:
    import datetime as dt
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, NamedTuple

    from eventdb.headers import Pairs
    from eventdb.schema import Schema

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


class EventKind:
    """What the events of one partition have in common."""

    __slots__ = ("_schema", "decode_row", "decoders", "event_time", "key", "names", "partition")

    def __init__(
        self, schema: Schema, partition: int, key: int | None, event_time: int | None,
        decode_row: Callable[[Sequence[Any]], tuple[Any, ...]],
    ) -> None:  # fmt: skip
        self.names = {name: i for i, name in enumerate(schema.names)}
        self.decoders = [decoder_of(field.type) for field in schema]
        self.partition = partition
        self.key = key
        self.event_time = event_time
        self.decode_row = decode_row
        self._schema = schema

    def __reduce__(self) -> tuple[Any, ...]:
        return _kind_of, (self._schema, self.partition, self.key, self.event_time)


def _kind_of(schema: Schema, partition: int, key: int | None, event_time: int | None) -> EventKind:
    """An EventKind that comes from another process."""
    from eventdb.row import RowCodec

    return EventKind(schema, partition, key, event_time, RowCodec(schema).decode)


class Event:
    """One event. `event["column"]` is a value; `event.row` is all of them as a dict. Immutable by convention."""

    __slots__ = ("_append_time_us", "_kind", "_stored", "offset")
    headers: Pairs = ()
    """(name, value) pairs in the order given."""

    def __init__(self, kind: EventKind, stored: tuple[Any, ...], offset: int, append_time_us: int) -> None:
        self._kind = kind
        self._stored = stored
        self.offset = offset
        self._append_time_us = append_time_us

    def __getitem__(self, name: str) -> Any:
        kind = self._kind
        index = kind.names.get(name)
        return self._value(_index_of(kind, name) if index is None else index)

    def _value(self, index: int) -> Any:
        value = self._stored[index]
        decode = self._kind.decoders[index]
        try:
            return value if decode is None or value is None else decode(value)
        except (OverflowError, ValueError) as error:
            raise self._damaged(error) from None

    def _damaged(self, error: Exception) -> CorruptionError:
        """What is stored is no value of its type: nothing that was appended is."""
        return CorruptionError(
            f"the event at offset {self.offset} of partition {self._kind.partition} is damaged: a stored value is none "
            f"of its column's type ({error}); check(deep=True) says what else is, a backup or repair helps"
        )

    def __iter__(self) -> Iterator[str]:
        return iter(self._kind.names)

    def __contains__(self, name: object) -> bool:
        return name in self._kind.names

    def __len__(self) -> int:
        return len(self._kind.names)

    def keys(self) -> list[str]:
        return list(self._kind.names)

    @property
    def row(self) -> dict[str, Any]:
        """The values by column name, in schema order: bool, int, float, Decimal, str, bytes, date, datetime or None."""
        try:
            return dict(zip(self._kind.names, self._kind.decode_row(self._stored), strict=True))
        except (OverflowError, ValueError) as error:
            raise self._damaged(error) from None

    @property
    def partition(self) -> int:
        return self._kind.partition

    @property
    def position(self) -> Position:
        return Position(self._kind.partition, self.offset)

    @property
    def append_time(self) -> dt.datetime:
        """When it was appended, naive UTC; never decreases within a partition."""
        return us_to_datetime(self._append_time_us)

    @property
    def time(self) -> dt.datetime | None:
        """The event time: the topic's event_time column (None where that is NULL), the append time if it has none."""
        event_time = self._kind.event_time
        if event_time is None:
            return self.append_time
        value: dt.datetime | None = self._value(event_time)
        return value

    @property
    def key(self) -> Any:
        """The value of the topic's key column; None if the topic has no key."""
        return None if self._kind.key is None else self._value(self._kind.key)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Event)
            and (self.offset, self.partition) == (other.offset, other.partition)
            and self._kind.names == other._kind.names
            and self._kind.decode_row(self._stored) == other._kind.decode_row(other._stored)
        )

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={value!r}" for name, value in self.row.items())
        return f"Event({self.partition}/{self.offset}: {shown})"


class EventWithHeaders(Event):
    """An event that has headers: few do, so the others have no room for them."""

    __slots__ = ("headers",)

    def __init__(
        self, kind: EventKind, stored: tuple[Any, ...], offset: int, append_time_us: int, headers: Pairs
    ) -> None:
        super().__init__(kind, stored, offset, append_time_us)
        self.headers = headers


def _index_of(kind: EventKind, name: str) -> int:
    """A name is found in any case. KeyError."""
    for known, index in kind.names.items():
        if known.lower() == name.lower():
            return index
    raise KeyError(f"no column {name!r}; the columns are {', '.join(kind.names)}")
