"""The writer process of the demo: appends what the log lacks, at a steady rate, and acknowledges each commit.

    python -m eventdb_shell.demo_writer PATH TOPIC EVENTS_PER_SECOND

The offset of an event is the number of its observation, so the log's end says where to go on, whoever wrote before and
however that writer died. Each commit becomes one line on stdout, written after append returned (so it is durable):
`first_offset count monotonic_ns`, the clock read just before the append; it is one clock for all processes.
"""

from __future__ import annotations

import sys
import time
from typing import TextIO

import eventdb

from .demo_data import read_observations


def replay(path: str, topic_name: str, events_per_second: float, acknowledge: TextIO) -> None:
    """Append the rest of the observations; returns when the log holds all of them."""
    observations = read_observations()
    with eventdb.open(path) as db:
        topic = db.topic(topic_name)
        first = position = topic.offsets()[1]
        started = time.monotonic()
        while position < len(observations):
            early = started + (position - first) / events_per_second - time.monotonic()
            if early > 0:
                time.sleep(early)
            due = first + int((time.monotonic() - started) * events_per_second) + 1
            batch = observations[position : max(due, position + 1)]
            before_ns = time.monotonic_ns()
            if len(batch) == 1:
                topic.append(batch[0])
            else:  # the disk is slower than the rate: what is due goes into one commit
                topic.append_many(batch)
            acknowledge.write(f"{position} {len(batch)} {before_ns}\n")
            acknowledge.flush()
            position += len(batch)


if __name__ == "__main__":
    replay(sys.argv[1], sys.argv[2], float(sys.argv[3]), sys.stdout)
