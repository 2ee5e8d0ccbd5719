"""What a database holds, asked through SQL: for .tables, .schema and completion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import eventdb

from .completion import Catalog, quote_name


def names_of(database: eventdb.Database) -> tuple[list[str], list[str]]:
    """(topics, views), as SHOW lists them."""
    topics = [str(row[0]) for row in database.sql("SHOW TOPICS").fetchall()]
    views = [str(row[0]) for row in database.sql("SHOW VIEWS").fetchall()]
    return topics, views


def columns_of(database: eventdb.Database, name: str) -> list[tuple[str, str]]:
    """(column, type) of a topic or view, in order."""
    return [(str(row[0]), str(row[1])) for row in database.sql(f"DESCRIBE {quote_name(name)}").fetchall()]


def list_tables(database: eventdb.Database) -> list[tuple[str, str, int]]:
    """(name, 'topic' | 'view', rows) of everything that can be queried."""
    topics, views = names_of(database)
    rows = [(name, "topic", len(database.topic(name))) for name in topics]
    for name in views:
        count = database.sql(f"SELECT count(*) FROM {quote_name(name)}").fetchone()
        rows.append((name, "view", count[0] if count else 0))
    return rows


def read_catalog(database: eventdb.Database, commands: Mapping[str, str], modes: Sequence[str]) -> Catalog:
    """Everything completion may offer, at this moment."""
    topics, views = names_of(database)
    tables = {name: tuple(columns_of(database, name)) for name in (*topics, *views)}
    return Catalog(tables, frozenset(views), function_list(), commands, modes)


def function_list() -> dict[str, str]:
    """Scalar and aggregate functions that are called by name, with what they do."""
    from eventdb.logical.functions import AGGREGATES, SCALARS

    known = {**SCALARS, **AGGREGATES}
    return {name: f"({function.signature}) {function.meaning}" for name, function in sorted(known.items())}
