"""What a topic, a table and a view are, as the catalog keeps them; and how they may be called."""

from __future__ import annotations

import json

from eventdb.config import MAX_TOPIC_NAME_CHARS
from eventdb.errors import UsageError
from eventdb.schema import Schema

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

HIDDEN = "making/"  # begins the name of what is being made: '/' keeps it out of every namespace
PRIMARY_KEY = "primary_key"  # the option that holds a table's key: positions of columns
ROW_ID = "_row"  # the hidden column, the last one, that is the key of a table without a primary key
PLAIN = "plain"  # the state of a view that is not materialized
REBUILD = HIDDEN + "view/"  # begins the name of a view that is made to take another one's place
DEFAULT = "default."  # begins the option that holds the default of a table's column: its position, then JSON


class TopicInfo:
    """A topic's definition. `kind` is 'topic', 'table', or 'view' for the hidden topic of a view's output rows.

    `key` and `event_time` are column names; delays are microseconds, None where not declared.
    """

    __slots__ = (
        "created_us", "event_time", "id", "idle_after_us", "key", "kind", "max_future_us", "name", "options", "schema",
        "watermark_delay_us",
    )  # fmt: skip

    def __init__(
        self, id: int, name: str, kind: str, schema: Schema, key: str | None, event_time: str | None,
        watermark_delay_us: int | None, idle_after_us: int | None, max_future_us: int | None, options: dict[str, str],
        created_us: int,
    ) -> None:  # fmt: skip
        self.id = id
        self.name = name
        self.kind = kind
        self.schema = schema
        self.key = key
        self.event_time = event_time
        self.watermark_delay_us = watermark_delay_us
        self.idle_after_us = idle_after_us
        self.max_future_us = max_future_us
        self.options = options
        self.created_us = created_us

    @property
    def partitions(self) -> int:
        return int(self.options.get("partitions", "1"))

    @property
    def primary_key(self) -> tuple[int, ...]:
        """The positions of a table's key columns; () for a topic."""
        text = self.options.get(PRIMARY_KEY, "")
        return tuple(map(int, text.split(","))) if text else ()

    @property
    def is_hidden(self) -> bool:
        """Whether it is still being made, and has no name of its own."""
        return self.name.startswith(HIDDEN)

    @property
    def is_keyless(self) -> bool:
        """Whether it is a table without a primary key: its key is a hidden column, ROW_ID."""
        return self.kind == "table" and self.schema.names[-1] == ROW_ID

    @property
    def visible(self) -> Schema:
        """The schema without the hidden column."""
        return Schema(self.schema.fields[:-1]) if self.is_keyless else self.schema

    @property
    def defaults(self) -> dict[int, Any]:
        """The physical values that columns of a table (by position) have when a row does not name them."""
        return {
            int(name.removeprefix(DEFAULT)): stored_default(text)
            for name, text in self.options.items()
            if name.startswith(DEFAULT)
        }

    def __repr__(self) -> str:
        return f"TopicInfo({self.id}, {self.name!r}, {self.schema!r})"


def default_option(value: Any) -> str:
    """The text of a default, from its physical value."""
    return json.dumps({"hex": value.hex()} if isinstance(value, bytes) else value)


def stored_default(text: str) -> Any:
    """The physical value that `default_option` wrote."""
    value = json.loads(text)
    return bytes.fromhex(value["hex"]) if isinstance(value, dict) else value


class ViewInfo:
    """A view's definition: its whole CREATE statement, its columns, and whether it runs or why it stopped.

    `state` is 'running', 'failed' (`error` says why), 'paused', or 'pausing' until its maintainer has stored all there
    is.

    `output_topic_id` names the hidden topic of a view whose rows are append-only, None for one that revises its rows.
    """

    __slots__ = ("created_us", "error", "id", "name", "output_topic_id", "schema", "sql", "state")

    def __init__(
        self, id: int, name: str, sql: str, schema: Schema, output_topic_id: int | None, created_us: int, state: str,
        error: str | None,
    ) -> None:  # fmt: skip
        self.id = id
        self.name = name
        self.sql = sql
        self.schema = schema
        self.output_topic_id = output_topic_id
        self.created_us = created_us
        self.state = state
        self.error = error

    @property
    def is_plain(self) -> bool:
        """Whether it is a name for a query, which is run when it is read."""
        return self.state == PLAIN

    @property
    def is_rebuild(self) -> bool:
        """Whether it takes the place of another view once it has caught up, and has no name of its own until then."""
        return self.name.startswith(REBUILD)

    @property
    def replaces(self) -> tuple[int, int]:
        """Of a rebuild: the id of the view whose place it takes, and the first offset it takes into account."""
        id, start = self.name.removeprefix(REBUILD).split("/")
        return int(id), int(start)

    def __repr__(self) -> str:
        return f"ViewInfo({self.id}, {self.name!r}, {self.state})"


def check_name(name: object) -> str:
    """The name, if a topic or view may be called so; UsageError with the rule otherwise."""
    if not isinstance(name, str):
        raise UsageError(f"a topic name is a string, not {name!r}")
    rest = name.replace("_", "a").replace(".", "a").replace("-", "a")
    if not name.isascii() or not rest.isalnum() or not name[0].isalpha() or name.lower().startswith("eventdb."):
        raise UsageError(
            f"topic name {name!r}: use letters, digits, '_', '.' and '-', begin with a letter; 'eventdb.' is reserved"
        )
    if len(name) > MAX_TOPIC_NAME_CHARS:
        raise UsageError(f"topic name {name[:20]!r}... has {len(name)} characters; the limit is {MAX_TOPIC_NAME_CHARS}")
    return name
