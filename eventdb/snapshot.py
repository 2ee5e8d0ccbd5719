"""Snapshot: many queries over one consistent cut of all topics and views."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from eventdb.errors import ClosedError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import TracebackType

    from eventdb.database import Database
    from eventdb.result import Result


class Snapshot:
    """See Database.snapshot. Close it soon: the index keeps every page it can reach."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._snapshot: Any = database._store.snapshot()

    @property
    def commit_id(self) -> int:
        """The last commit it includes; commits are numbered across all topics and processes."""
        self._check()
        return int(self._snapshot.commit_id)

    def offsets(self, topic: str, partition: int | None = None) -> tuple[int, int]:
        """(earliest offset, end offset) of a topic in this cut; of one partition, if the topic has several."""
        self._check()
        start, end = self._snapshot.offsets(self._database.topic(topic)._one(partition))
        return start, end

    def sql(
        self, text: str, parameters: Sequence[Any] | dict[str, Any] | None = None, *, timeout: float | None = None,
        **named: Any,
    ) -> Result:  # fmt: skip
        """A query, as Database.sql runs it, over this cut. UsageError for statements that change something."""
        self._check()
        return self._database._run(text, parameters, named, timeout, self._snapshot)

    def close(self) -> None:
        if self._snapshot is not None:
            self._snapshot.close()
            self._snapshot = None

    def _check(self) -> None:
        if self._snapshot is None:
            raise ClosedError("the snapshot is closed")
        self._database._check_open()

    def __enter__(self) -> Snapshot:
        self._check()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
