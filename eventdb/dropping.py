"""DROP: a topic, table or view goes, and with CASCADE the views that read it; without, what a view reads stays."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from eventdb.errors import EventDBError, TopicNotFound, UsageError

if TYPE_CHECKING:
    from eventdb.database import Database
    from eventdb.definitions import ViewInfo

_FIX = "drop the view first, or write DROP ... CASCADE in SQL"


def drop_named(database: Database, name: str, kind: str, if_exists: bool, cascade: bool = False) -> None:
    """The topic or table is gone with all it holds. UsageError while a view reads it, unless `cascade`."""
    database._check_writable()
    with database._lock:
        database._refresh_catalog()
        try:
            info = database._catalog.topic(name)
        except TopicNotFound:
            if if_exists:
                return
            raise
        if info.kind != kind:
            raise UsageError(f"{info.name!r} is a {info.kind}: DROP {info.kind.upper()} {info.name}")
        kept = database._views_of().readers_of(info.id) if database._catalog.views() else []
        refuse_writers(database, info.kind, info.name, info.id)
        named = _plain_readers(database, {info.name, *kept})
        refuse_readers(info.kind, info.name, [*kept, *named], "" if cascade else _FIX)
        for view in named:
            database._catalog.drop_plain_view(view)
        views = _unlisted(database, kept)
        database._catalog.drop_topic(info.name)
        database._refresh_catalog()
    for kept_view in views:
        database._views_of().clear(kept_view)
    database._store.forget(info.id)


def drop_view(database: Database, name: str, if_exists: bool, cascade: bool = False) -> None:
    """The view is gone. UsageError while another one reads it, unless `cascade`."""
    database._check_writable()
    with database._lock:
        database._refresh_catalog()
        views: list[ViewInfo] = []
        is_plain = name.lower() in database._catalog.plain_views()
        if is_plain or any(view.name.lower() == name.lower() for view in database._catalog.views()):
            kept = kept_readers(database, {name})
            readers = _plain_readers(database, {name, *kept})
            refuse_readers("view", name, [*kept, *readers], "" if cascade else _FIX)
            for view in readers:
                database._catalog.drop_plain_view(view)
            views = _unlisted(database, kept)
        if is_plain:
            database._catalog.drop_plain_view(name)
        database._refresh_catalog()
    for kept_view in views:
        database._views_of().clear(kept_view)
    if not is_plain:
        database._views_of().drop(name, if_exists)


def _unlisted(database: Database, names: list[str]) -> list[ViewInfo]:
    """Materialized views, taken out of the catalog; they are to be cleared where the database's lock is not held."""
    views = [view for view in database._catalog.views() if view.name in names]
    for view in views:
        database._views_of().unlist(view)
    return views


def refuse_writers(database: Database, kind: str, name: str, topic_id: int) -> None:
    """UsageError while a view writes into the topic or table."""
    for writer in database._views_of().writers_of(topic_id) if database._catalog.views() else ():
        raise UsageError(f"the view {writer!r} writes into {kind} {name!r}: DROP VIEW {writer} first")


def refuse_readers(kind: str, name: str, readers: list[str], fix: str) -> None:
    """UsageError with the fix, if there is one, while views read the topic, table or view."""
    if readers and fix:
        more = f" and {len(readers) - 1} more" if len(readers) > 1 else ""
        raise UsageError(f"{kind} {name!r} feeds the view {readers[0]!r}{more}: {fix}")


def kept_readers(database: Database, names: set[str]) -> list[str]:
    """The materialized views that read one of the names, themselves or through other views."""
    texts = {view.name: view.sql for view in database._catalog.views()}
    found: list[str] = []
    while new := _readers(database, {name: sql for name, sql in texts.items() if name not in found}, {*names, *found}):
        found += new
    return found


def _plain_readers(database: Database, names: set[str]) -> list[str]:
    """The plain views that read one of the names, themselves or through other views, in the order they were created."""
    texts = {view.name: view.sql for view in database._catalog.plain_views().values()}
    return _readers(database, texts, names)


def _readers(database: Database, texts: dict[str, str], names: set[str]) -> list[str]:
    """Those of some views, whose texts are given, that read one of the names: directly or through plain views."""
    if not texts:
        return []
    from eventdb.names import RecordingNames
    from eventdb.sql.binder import bind

    wanted = {name.lower() for name in names}
    found = []
    for name, text in texts.items():
        read = RecordingNames(database)
        with suppress(EventDBError):  # a view that cannot be read has still named what it found
            bind(text, read)
        if name.lower() not in wanted and read.seen & wanted:
            found.append(name)
    return found
