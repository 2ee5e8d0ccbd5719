"""Sink: a topic or table that a view's rows go to, beside the view's own content.

They are written in the commit that stores the state and the input positions they follow from. That commit is journaled,
so after a power loss all of it is there or none, and each row is in the sink exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from eventdb.batch import RecordBatch
from eventdb.errors import ViewFailed
from eventdb.stream.state import Reading, StateKeys

if TYPE_CHECKING:
    from eventdb.storage.transaction import WriteTransaction


class Sink(Protocol):
    @property
    def topic_id(self) -> int:
        """Of the topic or table."""

    def write(self, transaction: WriteTransaction, changes: Sequence[RecordBatch]) -> None:
        """Writes rows that came, and, where a batch has a weight, takes back those that went. Called once a commit.
        ViewFailed when a row does not fit."""


def require_state(sink: Sink | None, view_id: int, name: str, store: Reading, *, has_state: bool) -> None:
    """ViewFailed if rows were written to the sink by a state that is not there: they would be written again."""
    if sink is not None and not has_state and StateKeys(view_id).has_written(store):
        raise ViewFailed(
            f"view {name!r} has written rows to its topic, but the state they followed from is gone or of another "
            "version (after restore(..., to_offset=) or an upgrade): it would write them again; drop the view and "
            "create it again, with START FROM NOW or into a new topic",
            view=name,
        )
