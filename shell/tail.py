"""`eventdb tail`: the last events of a topic as lines, and those that follow."""

from __future__ import annotations

import threading

import eventdb
from eventdb.event import Event

from .completion import quote_name
from .describe import find_topic
from .interrupt import run_cancellable
from .render import format_value, json_value
from .streams import Streams


def format_event(event: Event, partitions: int = 1) -> str:
    """offset, event time and the columns that are not NULL: `12  2013-01-01 06:00:00  station=EWR temp=39.02`.

    Of a topic of several partitions `partition:offset` comes first.
    """
    columns = " ".join(f"{name}={_quote(value)}" for name, value in event.row.items() if value is not None)
    place = f"{event.partition}:{event.offset}" if partitions > 1 else event.offset
    return f"{place}  {format_value(event.time)}  {columns}"


def _quote(value: object) -> str:
    text = format_value(value)
    return text if text and text.isprintable() and " " not in text else json_value(text)


def format_event_json(event: Event) -> str:
    """The columns and the system columns `_partition`, `_offset` and `_time` as one JSON object."""
    items = [("_partition", event.partition), ("_offset", event.offset), ("_time", event.time), *event.row.items()]
    return "{" + ",".join(f"{json_value(name)}:{json_value(value)}" for name, value in items) + "}"


def tail(
    streams: Streams, path: str, topic_name: str, count: int, follow: bool, as_json: bool, partition: int | None = None
) -> int:
    """Print the last `count` events, of all partitions as Topic.read merges them or of one; with `follow`, those to
    come until Ctrl-C, which is a good end (status 0)."""
    stopping = threading.Event()
    with eventdb.open(path, read_only=True) as db:
        topic = find_topic(db, topic_name, f'its rows: eventdb {path} -c "SELECT * FROM {quote_name(topic_name)}"')
        positions = {}  # by partition: at most `count` events before its end
        surplus = -count
        for number in range(topic.partitions) if partition is None else [partition]:
            earliest, end = topic.offsets(number)
            positions[number] = max(earliest, end - count)
            surplus += end - positions[number]

        def work() -> None:
            skip = surplus  # the last of all partitions are fewer than the last of each
            while not stopping.is_set():
                # A finite timeout, so that Ctrl-C is seen between events.
                timeout = 0.2 if follow else None
                for event in topic.read(positions, follow=follow, timeout=timeout, partition=partition):
                    positions[event.partition] = event.offset + 1
                    if skip > 0:
                        skip -= 1
                        continue
                    streams.print(format_event_json(event) if as_json else format_event(event, topic.partitions))
                    if follow:
                        streams.stdout.flush()
                    if stopping.is_set():
                        return
                if not follow:
                    return

        run_cancellable(work, stopping.set)
    return 0
