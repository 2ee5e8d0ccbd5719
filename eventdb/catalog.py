"""The catalog: topics, views and settings in one SQLite file. The only module that imports apsw.

It changes with DDL only, one flushed SQLite transaction a statement (WAL, synchronous=FULL). What it says decides what
exists: a topic's files appear at its first append and are collected after it is dropped. Ids are never used again.
Definitions are read once per `generation`, so lookups cost a dictionary access.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import threading
import time
from zlib import crc32

import apsw

from eventdb.definitions import HIDDEN, PLAIN, TopicInfo, ViewInfo, check_name
from eventdb.errors import (
    CatalogError,
    CorruptionError,
    DatabaseLocked,
    DiskFullError,
    ReadOnlyError,
    StorageError,
    TopicExists,
    TopicNotFound,
)
from eventdb.schema import Schema

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, TypeVar

    T = TypeVar("T")

BUSY_TIMEOUT_MS = 30_000
_CONTENT = ("topics", "views")

_TABLES = """
CREATE TABLE IF NOT EXISTS topics (
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE COLLATE NOCASE, kind TEXT NOT NULL,
  schema TEXT NOT NULL, key TEXT, event_time TEXT, watermark_delay_us INTEGER, idle_after_us INTEGER,
  max_future_us INTEGER, options TEXT NOT NULL, created_us INTEGER NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS views (
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE COLLATE NOCASE, sql TEXT NOT NULL,
  schema TEXT NOT NULL, output_topic_id INTEGER, created_us INTEGER NOT NULL, state TEXT NOT NULL, error TEXT) STRICT;
CREATE TABLE IF NOT EXISTS sums (id INTEGER PRIMARY KEY, crc INTEGER NOT NULL) STRICT;
"""


def _catalog_error(error: apsw.Error, path: str) -> Exception:
    if isinstance(error, apsw.FullError):
        return DiskFullError(f"no space left while writing the catalog {path}; nothing was stored", path=path)
    if isinstance(error, apsw.BusyError | apsw.LockedError):
        return DatabaseLocked(f"the catalog {path} is locked by another process: {error}", path=path)
    if isinstance(error, apsw.ReadOnlyError | apsw.PermissionsError | apsw.AuthError):
        return ReadOnlyError(f"the catalog {path} cannot be written", path=path)
    if isinstance(error, apsw.CorruptError | apsw.NotADBError):
        return CorruptionError(f"the catalog {path} does not verify: {error}; restore a backup", path=path)
    return StorageError(f"the catalog {path} failed: {error}", path=path)


@contextlib.contextmanager
def _opening(path: str, mode: int) -> Iterator[None]:
    """The directory is locked: LOCK_EX while the catalog is made, LOCK_SH while one that is there is opened.

    SQLite's change to WAL answers "locked" at once, without waiting, to a process that meets another one in the middle
    of opening. DatabaseLocked after BUSY_TIMEOUT_MS.
    """
    directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
    try:
        deadline = time.monotonic() + BUSY_TIMEOUT_MS / 1000
        while True:
            try:
                fcntl.flock(directory, mode | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise DatabaseLocked(
                        f"another process has been making the catalog {path} for {BUSY_TIMEOUT_MS / 1000:g} s; is it "
                        "stopped?",
                        path=path,
                    ) from None
                time.sleep(0.001)
        yield
    finally:
        fcntl.flock(directory, fcntl.LOCK_UN)  # closing alone would leave it to a child that was forked meanwhile
        os.close(directory)


def _harden(connection: apsw.Connection) -> None:
    connection.config(apsw.SQLITE_DBCONFIG_DEFENSIVE, 1)
    connection.config(apsw.SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0)


def _has_tables(connection: apsw.Connection) -> bool:
    made: int = connection.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'views'").get
    return made == 1


def _is_whole(connection: apsw.Connection) -> bool:
    """Whether whoever made the catalog came to the end."""
    return _has_tables(connection) and connection.execute("PRAGMA journal_mode").get == "wal"


def _lost(path: str) -> CorruptionError:
    return CorruptionError(
        f"the catalog {path} is missing or empty, but a database is made with one and its topics are named there: "
        "restore a backup",
        path=path,
    )


def _require_content(path: str) -> None:
    """The file is there and holds something. Not left to SQLite, which deletes the log beside an empty file."""
    try:
        if os.lstat(path).st_size:
            return
    except FileNotFoundError:
        pass
    raise _lost(path)


def _refuse_foreign(path: str, read_only: bool) -> None:
    """Neither the file nor those SQLite keeps beside it lead elsewhere or belong to somebody else. StorageError."""
    for name in (path, path + "-wal", path + "-shm"):
        try:
            status = os.lstat(name)
        except FileNotFoundError:
            continue
        if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
            raise StorageError(f"{name} is a link, or no regular file: a database holds plain files only", path=name)
        if not read_only and status.st_uid != os.geteuid():
            raise StorageError(f"{name} belongs to user {status.st_uid}: open the database as its owner", path=name)


def _create(path: str) -> None:
    """The file exists and only its owner may read it. OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o600)
    try:
        os.fchmod(fd, 0o600)
    finally:
        os.close(fd)


def _sum(topics: Sequence[Any], views: Sequence[Any]) -> int:
    """The checksum of the content."""
    return crc32(repr((list(topics), list(views))).encode())


def _topic_of(row: Sequence[Any]) -> TopicInfo:
    id, name, kind, schema, key, event_time, delay_us, idle_us, future_us, options, created_us = row
    fields, chosen = Schema.from_text(schema), dict(line.split("\t", 1) for line in options.splitlines())
    if key is not None:
        fields = Schema(fields, fields.index_of(key))
    return TopicInfo(id, name, kind, fields, key, event_time, delay_us, idle_us, future_us, chosen, created_us)


def _view_of(row: Sequence[Any]) -> ViewInfo:
    id, name, sql, schema, output_topic_id, created_us, state, error = row
    fields = Schema.from_text(schema)
    return ViewInfo(id, name, sql, fields, output_topic_id, created_us, state, error)


class Catalog:
    """The open catalog of one database. Thread-safe. Closed once; not usable after fork().

    Without `make`, or read-only, a catalog that is missing or empty is a CorruptionError: only a new database gets one.
    """

    def __init__(self, path: str, *, read_only: bool = False, make: bool = True) -> None:
        self.path = path
        self._lock = threading.RLock()
        self._changes = 0
        self._loaded = -1
        self._topics: list[TopicInfo] = []
        self._views: list[ViewInfo] = []
        self._rebuilds: list[ViewInfo] = []
        self._plain: dict[str, ViewInfo] = {}
        self._topics_by_id: dict[int, TopicInfo] = {}
        self._topics_by_name: dict[str, TopicInfo] = {}
        self._views_by_id: dict[int, ViewInfo] = {}
        try:
            self._connection = self._open(path, read_only, make and not read_only)
        except apsw.Error as error:
            raise _catalog_error(error, path) from None
        except OSError as error:
            raise StorageError(f"cannot open the catalog {path}: {error.strerror}", path=path) from None

    @staticmethod
    def _open(path: str, read_only: bool, make: bool) -> apsw.Connection:
        _refuse_foreign(path, read_only)
        if not make:
            _require_content(path)
        if read_only:
            uri = "file:" + path.replace("%", "%25").replace("?", "%3f").replace("#", "%23") + "?mode=ro"
            if not os.access(os.path.dirname(path), os.W_OK):
                uri += "&immutable=1"  # a read-only medium: nobody can write, and no -shm file can be made
            connection = apsw.Connection(uri, flags=apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI)
        else:
            if os.path.exists(path):
                with _opening(path, fcntl.LOCK_SH):
                    connection = Catalog._connect(path)
                    if _is_whole(connection):
                        return connection
                    connection.close()
            with _opening(path, fcntl.LOCK_EX):
                return Catalog._make(path, make)
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        _harden(connection)
        if not _has_tables(connection):
            connection.close()
            raise _lost(path)
        return connection

    @staticmethod
    def _connect(path: str) -> apsw.Connection:
        os.chmod(path, 0o600)  # by name: closing another descriptor of the file would drop this process's locks
        connection = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
        connection.set_busy_timeout(BUSY_TIMEOUT_MS)
        connection.execute("PRAGMA synchronous = FULL")
        _harden(connection)
        return connection

    @staticmethod
    def _make(path: str, make: bool) -> apsw.Connection:
        """The catalog exists, however far another process came with it before it died."""
        if make and not os.path.exists(path):
            _create(path)
        connection = Catalog._connect(path)
        if not make and not _has_tables(connection):
            connection.close()
            raise _lost(path)
        if not _is_whole(connection):
            connection.execute("PRAGMA journal_mode = WAL")
            with connection:
                connection.execute(_TABLES)
            directory = os.open(os.path.dirname(path) or ".", os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        return connection

    def close(self) -> None:
        with self._lock:
            try:
                self._connection.close()
            except apsw.Error as error:
                raise _catalog_error(error, self.path) from None

    # --- reading ------------------------------------------------------------------------------------------------------

    def generation(self) -> int:
        """Changes whenever any process has changed the catalog; costs a microsecond."""
        with self._lock:
            try:
                version: int = self._connection.execute("PRAGMA data_version").get
            except apsw.Error as error:
                raise _catalog_error(error, self.path) from None
            return (version << 32) + self._changes

    def _load(self) -> None:
        generation = self.generation()
        if generation == self._loaded:
            return
        try:
            with self._connection:
                topics: list[Any] = self._connection.execute("SELECT * FROM topics ORDER BY id").fetchall()
                views: list[Any] = self._connection.execute("SELECT * FROM views ORDER BY id").fetchall()
                noted = self._connection.execute("SELECT crc FROM sums WHERE id = 1").get
        except apsw.Error as error:
            raise _catalog_error(error, self.path) from None
        except UnicodeDecodeError as error:  # SQLite takes any bytes for text
            raise CorruptionError(
                f"the catalog {self.path} does not verify: it holds text that is not UTF-8 ({error.reason}); restore a "
                "backup",
                path=self.path,
            ) from None
        if noted != _sum(topics, views) and (topics or views or noted is not None):
            raise CorruptionError(
                f"the catalog {self.path} does not verify: what it holds has changed by itself; restore a backup",
                path=self.path,
            )
        self._topics = [_topic_of(row) for row in topics]
        every = [_view_of(row) for row in views]
        self._views = [info for info in every if not info.is_plain and not info.is_rebuild]
        self._rebuilds = [info for info in every if info.is_rebuild]
        self._plain = {info.name.lower(): info for info in every if info.is_plain}
        self._topics_by_id = {info.id: info for info in self._topics}
        self._topics_by_name = {info.name.lower(): info for info in self._topics if info.kind != "view"}
        self._views_by_id = {info.id: info for info in [*self._views, *self._rebuilds]}
        self._loaded = generation

    def topics(self) -> list[TopicInfo]:
        """All topics in the order they were created, the hidden ones of views included."""
        with self._lock:
            self._load()
            return list(self._topics)

    def views(self) -> list[ViewInfo]:
        """The materialized views."""
        with self._lock:
            self._load()
            return list(self._views)

    def rebuilds(self) -> list[ViewInfo]:
        """The materialized views that will take the places of others."""
        with self._lock:
            self._load()
            return list(self._rebuilds)

    def plain_views(self) -> dict[str, ViewInfo]:
        """The views that are not materialized, by lower-case name."""
        with self._lock:
            self._load()
            return dict(self._plain)

    def topic(self, name: str) -> TopicInfo:
        """The topic of that name, found without case. TopicNotFound lists near names, or says that it is a view."""
        with self._lock:
            self._load()
            info = self._topics_by_name.get(name.lower())
            if info is not None:
                return info
            if any(view.name.lower() == name.lower() for view in self._views):
                raise TopicNotFound(
                    f"{name!r} is a materialized view: query it with SELECT or subscribe to it", name=name
                )
            if name.lower() in self._plain:
                raise TopicNotFound(f"{name!r} is a view: query it with SELECT", name=name)
            near = self.near(name)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise TopicNotFound(f"no topic, table or view {name!r}{hint}", name=name, near=near)

    def topic_by_id(self, id: int) -> TopicInfo | None:
        with self._lock:
            self._load()
            return self._topics_by_id.get(id)

    def view(self, name: str) -> ViewInfo:
        """The view of that name, found without case. TopicNotFound lists near names."""
        for info in self.views():
            if info.name.lower() == name.lower():
                return info
        near = self.near(name)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise TopicNotFound(f"no view {name!r}{hint}", name=name, near=near)

    def view_by_id(self, id: int) -> ViewInfo | None:
        with self._lock:
            self._load()
            return self._views_by_id.get(id)

    def near(self, name: str) -> tuple[str, ...]:
        """Up to three names that look like `name`."""
        from difflib import get_close_matches

        with self._lock:
            self._load()
            names = {topic.name.lower(): topic.name for topic in self._topics_by_name.values()}
            names |= {view.name.lower(): view.name for view in [*self._views, *self._plain.values()]}
        return tuple(names[found] for found in get_close_matches(name.lower(), names, 3))

    def copy_to(self, path: str) -> set[int]:
        """A copy of the catalog as of one moment, durable, in a file of its own; returns the ids of its topics."""
        _create(path)
        try:
            copy = apsw.Connection(path, flags=apsw.SQLITE_OPEN_READWRITE)
            try:
                with self._lock, copy.backup("main", self._connection, "main") as running:
                    while not running.done:
                        running.step(1000)
                copy.execute("PRAGMA journal_mode = WAL")
                return {id for (id,) in copy.execute("SELECT id FROM topics")}
            finally:
                copy.close()
        except apsw.Error as error:
            raise _catalog_error(error, path) from None

    # --- changing -----------------------------------------------------------------------------------------------------

    def _change(self, work: Callable[[], T]) -> T:
        """Runs `work` in one immediate transaction; a failure changes nothing."""
        with self._lock:
            connection = self._connection
            try:
                connection.execute("BEGIN IMMEDIATE")
                try:
                    result = work()
                    self._note_sum()
                    connection.execute("COMMIT")
                except BaseException:
                    if connection.in_transaction:
                        connection.execute("ROLLBACK")
                    raise
            except apsw.Error as error:
                raise _catalog_error(error, self.path) from None
            self._changes += 1
            return result

    def _note_sum(self) -> None:
        """SQLite has no checksums: the content gets one, in the transaction that changes it."""
        rows = [self._connection.execute(f"SELECT * FROM {table} ORDER BY id").fetchall() for table in _CONTENT]
        self._connection.execute("INSERT OR REPLACE INTO sums VALUES (1, ?)", (_sum(*rows),))

    def _refuse_taken(self, name: str) -> None:
        for select in ("SELECT name, kind FROM topics", "SELECT name, 'view' FROM views"):
            found = self._connection.execute(f"{select} WHERE name = ?", (name,)).fetchone()
            if found is not None:
                raise TopicExists(f"there is a {found[1]} named {found[0]!r} already", name=found[0])

    def _insert(self, table: str, values: dict[str, Any]) -> int:
        columns = ", ".join(values)
        marks = ", ".join("?" * len(values))
        self._connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", tuple(values.values()))
        return self._connection.last_insert_rowid()

    def create_topic(
        self, name: str, schema: Schema, *, key: str | None = None, event_time: str | None = None,
        watermark_delay_us: int | None = None, idle_after_us: int | None = None, max_future_us: int | None = None,
        kind: str = "topic", options: dict[str, str] | None = None, hidden: bool = False,
    ) -> TopicInfo:  # fmt: skip
        """Adds a topic. TopicExists if the name is taken by a topic or a view; UsageError if no topic may have it,
        unless it is `hidden` until it is renamed."""
        if not hidden:
            check_name(name)
        chosen = "\n".join(f"{option}\t{value}" for option, value in (options or {}).items())

        def work() -> int:
            self._refuse_taken(name)
            return self._insert(
                "topics",
                {
                    "name": name, "kind": kind, "schema": schema.to_text(), "key": key,
                    "event_time": event_time, "watermark_delay_us": watermark_delay_us, "idle_after_us": idle_after_us,
                    "max_future_us": max_future_us, "options": chosen, "created_us": _now_us(),
                },
            )  # fmt: skip

        found = self._find_id(self._change(work))
        return found

    def _find_id(self, id: int) -> TopicInfo:
        info = self.topic_by_id(id)
        if info is None:
            raise CatalogError(f"topic {id} was dropped by another process at the moment it was created")
        return info

    def set_options(self, name: str, options: dict[str, str]) -> None:
        """Replaces a topic's options. TopicNotFound if there is none."""
        info = self.topic(name)
        chosen = "\n".join(f"{option}\t{value}" for option, value in options.items())
        self._change(lambda: self._connection.execute("UPDATE topics SET options = ? WHERE id = ?", (chosen, info.id)))

    def drop_topic(self, name: str) -> None:
        """Removes a topic. TopicNotFound if there is none."""
        info = self.topic(name)
        self._change(lambda: self._connection.execute("DELETE FROM topics WHERE id = ?", (info.id,)))

    def drop_hidden(self, id: int) -> bool:
        """Removes a topic that is still being made; whether it was."""

        def work() -> bool:
            self._connection.execute("DELETE FROM topics WHERE id = ? AND substr(name, 1, ?) = ?",
                                     (id, len(HIDDEN), HIDDEN))  # fmt: skip
            return self._connection.changes() > 0

        return self._change(work)

    def replace_topic(self, name: str, by: TopicInfo) -> None:
        """`by` takes the name; the topic or table that has it, if there is one, is gone."""
        check_name(name)

        def work() -> None:
            self._connection.execute("DELETE FROM topics WHERE name = ? AND id <> ? AND kind <> 'view'", (name, by.id))
            if name.lower() != by.name.lower():
                self._refuse_taken(name)
            self._connection.execute("UPDATE topics SET name = ? WHERE id = ?", (name, by.id))

        self._change(work)

    def rename_topic(self, info: TopicInfo, to: str) -> None:
        """TopicExists if the name is taken."""
        check_name(to)

        def work() -> None:
            if to.lower() != info.name.lower():
                self._refuse_taken(to)
            self._connection.execute("UPDATE topics SET name = ? WHERE id = ?", (to, info.id))

        self._change(work)

    def create_plain_view(self, name: str, sql: str, schema: Schema, *, or_replace: bool) -> None:
        """Keeps a query under a name. TopicExists if it is taken, by a plain view only without `or_replace`."""
        check_name(name)

        def work() -> None:
            if or_replace:
                self._connection.execute("DELETE FROM views WHERE name = ? AND state = ?", (name, PLAIN))
            self._refuse_taken(name)
            view = {"name": name, "sql": sql, "schema": schema.to_text(), "created_us": _now_us(), "state": PLAIN}
            self._insert("views", view)

        self._change(work)

    def drop_plain_view(self, name: str) -> None:
        """Forgets the query."""
        self._change(lambda: self._connection.execute("DELETE FROM views WHERE name = ? AND state = ?", (name, PLAIN)))

    def create_view(self, name: str, sql: str, schema: Schema, *, stores_rows: bool) -> ViewInfo:
        """Adds a view and, when its rows are stored, its hidden output topic. TopicExists if the name is taken."""
        check_name(name)

        def work() -> int:
            self._refuse_taken(name)
            return self._insert_view(name, sql, schema, stores_rows=stores_rows)

        info = self.view_by_id(self._change(work))
        if info is None:
            raise CatalogError(f"view {name!r} was dropped by another process at the moment it was created")
        return info

    def _insert_view(self, name: str, sql: str, schema: Schema, *, stores_rows: bool) -> int:
        text, now = schema.to_text(), _now_us()
        view = {"name": name, "sql": sql, "schema": text, "created_us": now, "state": "running"}
        id = self._insert("views", view)
        if stores_rows:
            # '/' keeps the hidden name out of every namespace a user can reach.
            hidden = {"name": f"view/{id}", "kind": "view", "schema": text, "options": "", "created_us": now}
            output = self._insert("topics", hidden)
            self._connection.execute("UPDATE views SET output_topic_id = ? WHERE id = ?", (output, id))
        return id

    def drop_view(self, name: str) -> None:
        """Removes a view, what would take its place, and their output topics. TopicNotFound if there is none."""
        info = self.view(name)

        def work() -> None:
            for view in [info, *(other for other in self.rebuilds() if other.replaces[0] == info.id)]:
                self._remove_view(view)

        self._change(work)

    def _remove_view(self, info: ViewInfo) -> None:
        self._connection.execute("DELETE FROM views WHERE id = ?", (info.id,))
        self._connection.execute("DELETE FROM topics WHERE id = ?", (info.output_topic_id,))

    def fail_view(self, id: int, error: str) -> None:
        """Notes that a view has stopped, and why."""
        self._change(
            lambda: self._connection.execute("UPDATE views SET state = 'failed', error = ? WHERE id = ?", (error, id))
        )


def _now_us() -> int:
    return time.time_ns() // 1000
