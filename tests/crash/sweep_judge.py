"""Judges what a swept process left, in a process of its own that opens the directory as its next user would.

    python -m tests.crash.sweep_judge SCENARIO DIRECTORY HISTORY

The history says what each step was told. Every acknowledged event is where it was said to be, once; a step that failed
left nothing; one whose outcome is unknown is there whole or not at all; nothing else is there. The database takes the
next event. Prints one JSON list of problems.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import eventdb
from eventdb.errors import TopicNotFound
from tests.crash.sweep_victim import SCENARIOS, Scenario, make_small, row

NEXT = 1_000_000  # the event appended by the judge
Facts = list[list[Any]]


def read_history(path: Path) -> Facts:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Told:
    """What the swept process was told of each step."""

    def __init__(self, facts: Facts) -> None:
        self.acked: dict[int, list[int] | None] = {}
        self.open: set[int] = set()  # may have happened
        for what, step, *rest in facts:
            if what == "ack":
                self.acked[step] = rest[0]
                self.open.discard(step)
            elif what in ("begin", "unknown"):
                self.open.add(step)
            elif what == "failed":
                self.open.discard(step)
        self.begun = {fact[1] for fact in facts if fact[0] == "begin"}

    def may_have_happened(self, step: int) -> bool:
        return step in self.acked or step in self.open


def judge_rows(scenario: Scenario, told: Told, start: int, found: list[int]) -> list[str]:
    """The numbers of the events from offset `start` on, against what was told."""
    problems = []
    starts = {0}
    for number, step in enumerate(scenario.steps):
        if step.what == "trim":
            starts = {step.first} if number in told.acked else {0, step.first} if number in told.begun else {0}
    if start not in starts:
        problems.append(f"hole: the log begins at {start}, not at {' or '.join(map(str, sorted(starts)))}")
    at = max(0, scenario.base - start)
    if found[:at] != list(range(start, scenario.base)):
        problems.append(f"lost: of {scenario.base} events that were there before: {found[:at]!r:.200}")
    for number, step in enumerate(scenario.steps):
        if not step.rows:
            continue
        wanted = list(range(step.first, step.first + step.rows))
        there = found[at : at + step.rows] == wanted
        offsets = told.acked.get(number)
        what = f"step {number}, {step.rows} events by {step.what}"
        if number in told.acked and not there:
            problems.append(f"lost: {what} was acknowledged; found {found[at : at + step.rows]!r:.200}")
        elif there and not told.may_have_happened(number):
            problems.append(f"phantom: {what} is there, though it failed or never began")
        elif there and offsets is not None and offsets != list(range(start + at, start + at + step.rows)):
            problems.append(f"moved: {what} lies at {start + at}, acknowledged at {offsets!r:.200}")
        if there:
            at += step.rows
    if at != len(found):
        problems.append(f"phantom: events that nobody wrote, wrote twice, or wrote in part: {found[at:]!r:.200}")
    return problems


def judge(name: str, directory: str, facts: Facts) -> list[str]:
    scenario, told = SCENARIOS[name], Told(facts)
    problems = [f"untyped: {fact[1]}" for fact in facts if fact[0] == "untyped"]
    with eventdb.open(directory) as db:
        try:
            log = db.topic("log")
        except TopicNotFound:
            if scenario.base or any(
                number in told.acked for number, s in enumerate(scenario.steps) if s.what != "open"
            ):
                problems.append("lost: the topic is gone")
            return problems
        start, end = log.offsets()
        events = list(log.read(start))
        problems += judge_rows(scenario, told, start, [event["n"] for event in events])
        for offset, event in enumerate(events, start):
            if event.offset != offset or event.row != row(event["n"]):
                problems.append(f"changed: offset {event.offset} is {event.row!r:.200}")
        if start + len(events) != end:
            problems.append(f"hole: reading ends at {start + len(events)}, the log at {end}")
        problems += [f"check: {text}" for text in db._store.check(deep=True)]
        if log.append(row(NEXT)).offset != end or [event["n"] for event in log.read(end)] != [NEXT]:
            problems.append(f"hole: the next event is not at {end}")
    return problems


def main(arguments: Sequence[str]) -> int:
    name, directory, history = arguments
    make_small(SCENARIOS[name])
    print(json.dumps(judge(name, directory, read_history(Path(history)))))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
