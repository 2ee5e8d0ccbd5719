"""`eventdb tail`: the last events of a topic as lines, and those that follow."""

from __future__ import annotations

import threading

import eventdb
from eventdb.event import Event

from .interrupt import run_cancellable
from .render import format_value, json_value
from .streams import Streams


def format_event(event: Event) -> str:
    """offset, event time and the columns that are not NULL: `12  2013-01-01 06:00:00  station=EWR temp=39.02`."""
    columns = " ".join(f"{name}={_quote(value)}" for name, value in event.row.items() if value is not None)
    return f"{event.offset}  {format_value(event.time)}  {columns}"


def _quote(value: object) -> str:
    text = format_value(value)
    return text if text and text.isprintable() and " " not in text else json_value(text)


def format_event_json(event: Event) -> str:
    """The columns and the system columns `_offset` and `_time` as one JSON object."""
    items = [("_offset", event.offset), ("_time", event.time), *event.row.items()]
    return "{" + ",".join(f"{json_value(name)}:{json_value(value)}" for name, value in items) + "}"


def tail(streams: Streams, path: str, topic_name: str, count: int, follow: bool, as_json: bool) -> int:
    """Print the last `count` events; with `follow`, those to come until Ctrl-C, which is a good end (status 0)."""
    stopping = threading.Event()
    with eventdb.open(path, read_only=True) as db:
        topic = db.topic(topic_name)
        earliest, end = topic.offsets()
        render = format_event_json if as_json else format_event

        def work() -> None:
            position = max(earliest, end - count)
            while not stopping.is_set():
                # A finite timeout, so that Ctrl-C is seen between events.
                for event in topic.read(position, follow=follow, timeout=0.2 if follow else None):
                    streams.print(render(event))
                    if follow:
                        streams.stdout.flush()
                    position = event.offset + 1
                    if stopping.is_set():
                        return
                if not follow:
                    return

        run_cancellable(work, stopping.set)
    return 0
