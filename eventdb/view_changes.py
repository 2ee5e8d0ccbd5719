"""Changing a view that is there: PAUSE, RESUME, REFRESH, CREATE OR REPLACE.

A statement notes in the catalog what is wanted; the process that maintains the views does it, and the statement waits
for that if it must. So a crash at any moment leaves a view as it was, or as it shall be, and whoever maintains next
goes on from there: a pausing view is stored up to what there is and is paused then; a rebuild is a view of its own,
without a name, that takes the place of the old one in one transaction of the catalog once its state has all there is.
What is stored of a view that is out of the catalog is swept by the next maintainer.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from eventdb.dead_letters import make_letters
from eventdb.dropping import kept_readers, refuse_readers
from eventdb.errors import QueryTimeout, TopicExists, TopicNotFound, UsageError, ViewFailed
from eventdb.stream.broken_rows import copy_marks
from eventdb.stream.program import UPDATE
from eventdb.stream.state import StateKeys
from eventdb.stream.view import drop_view_state, start_view
from eventdb.view_catalog import begin_rebuild, gone_ids, move_state, remove_rebuild, set_text, swap_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from eventdb.database import Database
    from eventdb.definitions import ViewInfo
    from eventdb.sql import statements as st
    from eventdb.views import Definition

_LOOK_S = 0.005  # between two looks at the catalog


class ViewGone(TopicNotFound):
    """A view that a statement has bound was dropped, or another one has taken its place, before it was read."""


# --- statements -------------------------------------------------------------------------------------------------------


def pause(database: Database, name: str, timeout_s: float | None) -> None:
    """The view stands still; it holds all that was committed before. ViewFailed if it has failed, QueryTimeout if it
    has not caught up by then: it is paused when it has."""
    info = database._catalog.view(name)
    move_state(database._catalog, info.id, "pausing", ("running",))

    def is_done() -> bool:
        found = _current(database, info)
        if found.state == "failed":
            raise _failed(found)
        if found.state == "running":
            raise UsageError(f"view {found.name!r} was resumed before it had paused")
        return found.state == "paused"

    _wait(database, is_done, timeout_s, f"view {info.name!r} has not caught up yet; it is paused when it has")


def resume(database: Database, name: str) -> None:
    """The view goes on from where it was paused. ViewFailed if it has failed."""
    info = database._catalog.view(name)
    if info.state == "failed":
        raise _failed(info)
    move_state(database._catalog, info.id, "running", ("paused", "pausing"))
    database._refresh_catalog()
    database._views_of().hurry()


def refresh(database: Database, name: str, timeout_s: float | None) -> None:
    """The view is computed anew from its inputs, and is there as before until that is done. A paused one stays paused,
    at what there is now. ViewFailed if that fails, QueryTimeout if it takes longer: it goes on."""
    catalog = database._catalog
    info = catalog.view(name)
    views = database._views_of()
    statement = views.bind(info.sql)
    _refuse_sink(info.name, statement)
    made = views.define(statement)
    start = 0
    if made.program is not None:
        log = database._log_by_id(made.program.facts.id)
        with database._store.snapshot() as snapshot:
            start = max(StateKeys(info.id).start(snapshot), snapshot.offsets(log)[0])
    rebuild = _rebuild(database, info, info.sql, made, start)

    def is_done() -> bool:
        found = catalog.view_by_id(rebuild.id)
        if found is None:
            raise ViewFailed(f"view {name!r} was dropped or replaced before it was refreshed", view=name)
        if found.state == "failed":
            if found.is_rebuild and remove_rebuild(catalog, found):
                clear(database, found)
                database._refresh_catalog()
            raise ViewFailed(found.error or f"view {name!r} cannot be refreshed", view=name)
        return not found.is_rebuild

    _wait(database, is_done, timeout_s, f"view {info.name!r} is not rebuilt yet; that goes on")


def replace(database: Database, statement: st.CreateView) -> None:
    """CREATE OR REPLACE: nothing happens if the view has that query; with KEEP STATE, and where nothing of the state
    changes, it has another text at once; else it is computed anew in the background, and is as before until then."""
    views = database._views_of()
    info = views.find(statement.name)
    if info is None:
        if statement.name.lower() in database._catalog.plain_views():
            raise TopicExists(f"there is a view named {statement.name!r} already", name=statement.name)
        views.create(statement)
        return
    made, before = views.define(statement), views.bind(info.sql)
    make_letters(database, statement.dead_letter)
    _refuse_itself(database, statement)
    if _meaning(statement) == _meaning(before) and info.state != "failed":
        _forget_rebuilds(database, info)
        if (statement.state_limit_bytes, statement.every) != (before.state_limit_bytes, before.every):
            set_text(database._catalog, info, statement.sql, made.schema)
    else:
        _refuse_sink(info.name, before, statement)
        readers = kept_readers(database, {info.name})
        refuse_readers("view", info.name, readers, "drop that first, or DROP VIEW ... CASCADE and create them again")
        if statement.keep_state:
            reason = _why_not_kept(before, statement, views.define(before), made)
            if info.state == "failed":
                reason = "the view has failed"
            if reason:
                raise UsageError(
                    f"KEEP STATE of view {info.name!r} is not possible: {reason}; leave KEEP STATE out to have it "
                    "computed anew"
                )
            _forget_rebuilds(database, info)
            set_text(database._catalog, info, statement.sql, made.schema)
        else:
            _rebuild(database, info, statement.sql, made, views.first_offset(made, statement.start))
    database._refresh_catalog()
    views.hurry()


def _meaning(statement: st.CreateView) -> tuple[object, ...]:
    letters = None if statement.dead_letter is None else statement.dead_letter.lower()
    into = None if statement.into is None else statement.into.id
    return statement.query, statement.emit, statement.grace_us, statement.start, statement.late, into, letters


def _why_not_kept(old: st.CreateView, new: st.CreateView, before: Definition, after: Definition) -> str:
    """Why the state of the old view is not one of the new one; '' if it is."""
    if old.start != new.start:
        return "START FROM differs"
    if (old.emit, old.grace_us) != (new.emit, new.grace_us):
        return "EMIT differs"
    if _meaning(old)[-1] != _meaning(new)[-1]:
        return "dead_letter differs, and so may the rows that its state has left out"
    if before.program is None or after.program is None:
        if before.plan is not None and before.plan == after.plan:
            return ""
        return "the rows of a view with joins, subqueries, several GROUP BY or tables are part of its state"
    was, now = before.program, after.program
    if was.emission != UPDATE or now.emission != UPDATE:
        return "the rows it has given out are stored as they were"
    if was.scan.topic_id != now.scan.topic_id:
        return f"it reads {now.facts.name} in place of {was.facts.name}"
    if (was.scan, was.before) != (now.scan, now.before):
        return "the columns, filters or expressions below its GROUP BY differ"
    assert was.aggregate is not None
    assert now.aggregate is not None
    if was.aggregate.keys != now.aggregate.keys:
        return "its GROUP BY differs"
    if was.aggregate.aggregations != now.aggregate.aggregations:
        return "its aggregates differ"
    return "" if was.window == now.window else "its window differs"


def _refuse_sink(name: str, *statements: st.CreateView) -> None:
    for statement in statements:
        if statement.into is not None:
            raise UsageError(
                f"view {name!r} writes INTO {statement.into.name}, and what is there cannot be taken back: drop it, "
                "and create it INTO a new topic or table"
            )


def _refuse_itself(database: Database, statement: st.CreateView) -> None:
    from eventdb.names import RecordingNames
    from eventdb.sql.binder import bind

    read = RecordingNames(database)
    bind(statement.sql, read)
    if statement.name.lower() in read.seen:
        raise UsageError(f"view {statement.name!r} would read itself")


def _rebuild(database: Database, info: ViewInfo, sql: str, made: Definition, start: int) -> ViewInfo:
    """The view that is to take the place of `info`; one of that text that is being made already goes on."""
    catalog = database._catalog
    for other in catalog.rebuilds():
        if other.replaces == (info.id, start) and other.sql == sql and other.state == "running":
            return other
    rebuild, gone = begin_rebuild(catalog, info, sql, made.schema, start, stores_rows=made.stores_rows)
    for one in gone:
        clear(database, one)
    return rebuild


def _forget_rebuilds(database: Database, info: ViewInfo) -> None:
    for other in database._catalog.rebuilds():
        if other.replaces[0] == info.id and remove_rebuild(database._catalog, other):
            clear(database, other)


def _current(database: Database, info: ViewInfo) -> ViewInfo:
    """The view that has the name now: perhaps another one has taken its place meanwhile."""
    return database._catalog.view_by_id(info.id) or database._catalog.view(info.name)


def _failed(info: ViewInfo) -> ViewFailed:
    return ViewFailed(f"{info.error}; REFRESH VIEW {info.name} computes it anew", view=info.name)


def _wait(database: Database, is_done: Callable[[], bool], timeout_s: float | None, late: str) -> None:
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        database._refresh_catalog()
        if is_done():
            return
        database._views_of().hurry()
        if deadline is not None and time.monotonic() >= deadline:
            raise QueryTimeout(late)
        time.sleep(_LOOK_S)


# --- the maintainer ---------------------------------------------------------------------------------------------------


def begin(database: Database, rebuild: ViewInfo) -> None:
    """The rebuild's first offset is stored, and what is noted of broken rows, if it is of the same text."""
    with database._store.snapshot() as snapshot:
        if StateKeys(rebuild.id).has_begun(snapshot):
            return
    old = database._catalog.view_by_id(rebuild.replaces[0])
    with database._store.write() as transaction:
        start_view(transaction, rebuild.id, rebuild.replaces[1])
        if old is not None and old.sql == rebuild.sql:
            copy_marks(transaction, old.id, rebuild.id)


def finish(database: Database, view_id: int) -> None:
    """The stored state of a pausing view or of a rebuild has all there is: the one is paused, the other takes its
    place. A power cut cannot take that state away."""
    catalog = database._catalog
    info = catalog.view_by_id(view_id)
    if info is None or info.state not in ("running", "pausing"):
        return
    database._store.checkpoint()
    if not info.is_rebuild:
        move_state(catalog, view_id, "paused", ("pausing",))
        return
    old = swap_in(catalog, info)
    if old is not None:
        clear(database, old)


def clear(database: Database, info: ViewInfo) -> None:
    """Removes the state and the stored rows of a view that is out of the catalog."""
    with database._store.write() as transaction:
        drop_view_state(transaction, info.id)
    if info.output_topic_id is not None:
        database._store.forget(info.output_topic_id)


def sweep(database: Database) -> None:
    """Removes the state of views that are out of the catalog, whose process died before it had removed it."""
    gone = [StateKeys(id) for id in gone_ids(database._catalog)]
    with database._store.snapshot() as snapshot:
        left = [keys for keys in gone if keys.is_left(snapshot)]
    if left:
        with database._store.write() as transaction:
            for keys in left:
                keys.drop(transaction)
