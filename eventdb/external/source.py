"""Source: the interface of everything outside the database that FROM can read. Loads no library."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from eventdb.schema import DataType, Schema

if TYPE_CHECKING:
    from eventdb.batch import RecordBatch

Terms = tuple[tuple[str, str, Any], ...]
"""(column, eq | lt | le | gt | ge, physical value) or (column, in, tuple of them), true of all rows that are wanted."""


class Source(Protocol):
    """Rows from outside. `kind` and `name` are for EXPLAIN; `schema` has every column a query may name."""

    kind: str
    name: str
    schema: Schema

    def batches(
        self, columns: Sequence[str], types: Sequence[DataType], terms: Terms = (), limit: int | None = None
    ) -> Iterator[RecordBatch]:
        """The chosen columns (none: rows without columns) in the types of `schema`, streamed.

        Rows for which a term is not true may be left out; after `limit` rows no more are needed. A typed error names
        the source where it cannot be read.
        """
        ...
