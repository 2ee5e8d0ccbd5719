"""The topics where views note the rows that they go on without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventdb.errors import TopicNotFound, UsageError
from eventdb.stream.broken_rows import LETTERS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from eventdb.database import Database


def letters_log(database: Database, name: str) -> Any:
    """The log of a dead-letter topic. TopicNotFound if there is none of that name."""
    return database._log_of(database._catalog.topic(name))


def make_letters(database: Database, name: str | None) -> None:
    """The topic is there."""
    if name is not None and not _is_there(database, name):
        database.create_topic(name, LETTERS, if_not_exists=True)


def check_letters(database: Database, name: str, inputs: Mapping[int, str]) -> None:
    """UsageError if the name is that of something else than a dead-letter topic, or of one that the view reads."""
    if not _is_there(database, name):
        return
    info = database._catalog.topic(name)
    if info.id in inputs:
        raise UsageError(f"dead_letter: the view reads {info.name!r}; name another topic")
    wanted = [(field.name, field.type) for field in LETTERS]
    if info.kind != "topic" or [(field.name, field.type) for field in info.schema] != wanted:
        columns = ", ".join(f"{field.name} {field.type}" for field in LETTERS)
        raise UsageError(
            f"dead_letter: {info.kind} {info.name!r} does not have the columns of broken rows; name a topic that is "
            f"not there, which is made, or one with ({columns})"
        )


def _is_there(database: Database, name: str) -> bool:
    try:
        database._catalog.topic(name)
    except TopicNotFound:
        catalog = database._catalog
        taken = [*(view.name.lower() for view in catalog.views()), *catalog.plain_views()]
        if name.lower() in taken:
            raise UsageError(f"dead_letter: {name!r} is a view; name a topic") from None
        return False
    return True
