"""From the plan of a query to one whose windows close, with what its topics declare."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from eventdb.definitions import TopicInfo
from eventdb.errors import TopicNotFound, UnsupportedSQL
from eventdb.logical.closing import close_windows
from eventdb.logical.plan import Plan, Scan
from eventdb.stream.circuit.closed_rows import Closing
from eventdb.stream.circuit.timeline import EventTime


def closing_plan(
    plan: Plan, topic: Callable[[int], TopicInfo | None], grace_us: int, output_log: Any
) -> tuple[Plan, Closing]:
    """The plan for a CircuitSpec and its `closing`. UnsupportedSQL, with the fix, where its windows cannot close."""
    event_times: dict[int, EventTime] = {}

    def event_time(scan: Scan) -> str:
        info = topic(scan.topic_id)
        if info is None:
            raise TopicNotFound(f"the topic {scan.name!r} was dropped", name=scan.name)
        if info.kind != "topic":
            raise UnsupportedSQL(
                f"EMIT ON WINDOW CLOSE of a query that reads the {info.kind} {scan.name!r} is not supported: its rows "
                "may change after a window has closed; join it where you read the view, or write EMIT ON UPDATE",
                construct=f"a {info.kind}",
            )
        if info.event_time is None or info.watermark_delay_us is None:
            raise UnsupportedSQL(
                f"a window over topic {scan.name!r} never closes: it has no WATERMARK; create the topic with "
                "WATERMARK FOR ts AS ts - INTERVAL '5 seconds', or write EMIT ON UPDATE",
                construct="a topic without a WATERMARK",
            )
        event_times[info.id] = EventTime(info.watermark_delay_us, info.idle_after_us, info.max_future_us)
        return info.event_time

    closed = close_windows(plan, event_time, grace_us)
    return closed, Closing(grace_us, event_times, output_log)
