"""What observers see while writers write, are stopped and are killed: recorded by a reading process, judged afterwards.

The rules are those of Jepsen's log checker, for a log whose reads are snapshots: what was read exists and stays where
it was read, ends only grow, an acknowledged event is in every later cut, and an atomic operation is in a cut whole.
"""

from __future__ import annotations

import random
import time
from bisect import bisect_right
from collections.abc import Iterable
from itertools import islice, pairwise
from operator import itemgetter

import eventdb
from tests.crash.history import SEND, History, Operation, Recorder, Sight
from tests.crash.workload import TOPICS

EVENTS_PER_SIGHT = 40


def observe(db: eventdb.Database, history: Recorder, name: str, rng: random.Random, seconds: float) -> None:
    """Opens cut after cut and records where both topics end and some events of one, by SQL and by plain reading."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began_s = time.monotonic()
        with db.snapshot() as cut:
            ends = {topic: cut.offsets(topic)[1] for topic in TOPICS}
            topic = rng.choice(TOPICS)
            first = max(0, ends[topic] - EVENTS_PER_SIGHT) if rng.random() < 0.5 else rng.randrange(ends[topic] + 1)
            stop = min(ends[topic], first + EVENTS_PER_SIGHT)
            if rng.random() < 0.5:
                found = cut.sql(
                    f"SELECT writer, n FROM {topic} WHERE _offset >= ? AND _offset < ? ORDER BY _offset", [first, stop]
                ).fetchall()
                seen = [(writer, n) for writer, n in found]
            else:
                events = islice(db.topic(topic).read(first), stop - first) if stop > first else ()
                seen = [(event["writer"], event["n"]) for event in events]
        if len(seen) != stop - first:
            history.wrong(name, f"{topic} {first}..{stop} of a cut that ends at {ends[topic]} has {len(seen)} events")
        history.saw(name, began_s, ends, topic, first, seen)
        time.sleep(rng.expovariate(1 / 0.002))


def judge_sights(history: History, places: dict[tuple[str, int], int]) -> list[tuple[str, str]]:
    """Every sight against what is there in the end (`places`) and against what had been acknowledged when it began."""
    problems: list[tuple[str, str]] = []
    topics = _topics_of(history.operations)
    last: dict[str, Sight] = {}
    acked = sorted((op for op in history.operations if op.acked_s is not None), key=lambda op: op.acked_s or 0.0)
    reached: dict[str, int] = {}
    done = 0
    for sight in sorted(history.sights, key=lambda one: one.began_s):
        problems += _judge_events(sight, places, topics)
        before = last.get(sight.reader)
        if before is not None and any(sight.ends[topic] < before.ends[topic] for topic in sight.ends):
            problems.append(("backwards", f"{sight.reader} saw {before.ends}, later {sight.ends}"))
        last[sight.reader] = sight
        while done < len(acked) and (acked[done].acked_s or 0.0) < sight.began_s:
            for topic, end in _ends_of(acked[done]):
                reached[topic] = max(reached.get(topic, 0), end)
            done += 1
        for topic, end in reached.items():
            if sight.ends[topic] < end:
                problems.append(
                    ("unseen", f"{sight.reader}: {topic} ends at {sight.ends[topic]}, {end} was acknowledged before")
                )
    return problems + _judge_atomicity(history)


def _topics_of(operations: Iterable[Operation]) -> dict[tuple[str, int], str]:
    return {
        (op.writer, n): topic
        for op in operations
        for topic, first, count in op.parts
        for n in range(first, first + count)
    }


def _ends_of(operation: Operation) -> list[tuple[str, int]]:
    """(topic, offset behind its last event) of the parts of an operation whose offsets are known."""
    known = operation.offsets or []
    return [(part[0], max(offsets) + 1) for part, offsets in zip(operation.parts, known, strict=False) if offsets]


def _judge_events(
    sight: Sight, places: dict[tuple[str, int], int], topics: dict[tuple[str, int], str]
) -> list[tuple[str, str]]:
    problems = []
    for offset, (writer, n) in enumerate(sight.seen, sight.first):
        place = places.get((writer, n)) if topics.get((writer, n)) == sight.topic else None
        what = f"{sight.reader} saw {writer}/{n} at {sight.topic} {offset}"
        if place is None:
            problems.append(("aborted", f"{what}: it is not there"))
        elif place != offset:
            problems.append(("inconsistent", f"{what}: it lies at {place}"))
    return problems


def _judge_atomicity(history: History) -> list[tuple[str, str]]:
    """Cuts follow one another, whoever saw them, and an atomic operation lies on one side of every cut."""
    cuts = sorted({tuple(sight.ends[topic] for topic in TOPICS) for sight in history.sights})
    problems = [
        ("torn", f"the cuts {before} and {after} of {TOPICS} are not of one order of commits")
        for before, after in pairwise(cuts)
        if any(late < early for early, late in zip(before, after, strict=True))
    ]
    if problems:
        return problems
    for operation in history.operations:
        if operation.kind == SEND or not operation.offsets or not any(operation.offsets):
            continue
        lows, highs = _bounds_of(operation)
        # Ends grow along the cuts: those from `some` on hold a row of it, those from `every` on hold all its rows.
        some = min(bisect_right(cuts, low, key=itemgetter(topic)) for topic, low in lows.items())
        every = max(bisect_right(cuts, high, key=itemgetter(topic)) for topic, high in highs.items())
        if some < every:
            what = f"{operation.kind} {operation.writer}/{operation.op}"
            problems.append(("torn", f"{what}, {lows}..{highs} by topic, is in the cut {cuts[some]} in part"))
    return problems


def _bounds_of(operation: Operation) -> tuple[dict[int, int], dict[int, int]]:
    """The first and the last offset of its rows, by the topic's position in TOPICS."""
    lows: dict[int, int] = {}
    highs: dict[int, int] = {}
    for part, offsets in zip(operation.parts, operation.offsets or [], strict=True):
        if offsets:
            topic = TOPICS.index(part[0])
            lows[topic] = min(lows.get(topic, offsets[0]), offsets[0])
            highs[topic] = max(highs.get(topic, offsets[-1]), offsets[-1])
    return lows, highs
