"""What a database holds, asked through SQL: for .tables, .schema and completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import eventdb
from eventdb.errors import UsageError

from .completion import Catalog, quote_name


def names_of(database: eventdb.Database) -> tuple[list[str], list[str]]:
    """(topics, views), as SHOW lists them."""
    topics = [str(row[0]) for row in database.sql("SHOW TOPICS").fetchall()]
    views = [str(row[0]) for row in database.sql("SHOW VIEWS").fetchall()]
    return topics, views


def find_topic(database: eventdb.Database, name: str, advice: str) -> eventdb.Topic:
    """The topic of that name; UsageError with the advice if it is a table."""
    if name.lower() in map(str.lower, database.tables()):
        raise UsageError(f"{name!r} is a table; {advice}")
    return database.topic(name)


def columns_of(database: eventdb.Database, name: str) -> list[tuple[str, str]]:
    """(column, type) of a topic or view, in order."""
    return [(str(row[0]), str(row[1])) for row in database.sql(f"DESCRIBE {quote_name(name)}").fetchall()]


def list_tables(database: eventdb.Database) -> list[tuple[str, str, int | None]]:
    """(name, kind, events) of every topic and view; a view's rows are not counted (None)."""
    return [(row[0], row[1], row[2]) for row in database.sql("SHOW TABLES").fetchall()]


def read_catalog(database: eventdb.Database, commands: Mapping[str, str], modes: Sequence[str]) -> Catalog:
    """Everything completion may offer, at this moment."""
    topics, views = names_of(database)
    tables = {name: tuple(columns_of(database, name)) for name in (*topics, *views)}
    return Catalog(tables, frozenset(views), function_list(), commands, modes)


def function_list() -> dict[str, str]:
    """The functions SQL may call, in order, with what they do."""
    from eventdb.logical.functions import AGGREGATES, SCALARS
    from eventdb.sql.functions import FUNCTION_NAMES

    known = {**SCALARS, **AGGREGATES}
    return {n: f"({known[n].signature}) {known[n].meaning}" if n in known else "" for n in sorted(FUNCTION_NAMES)}
