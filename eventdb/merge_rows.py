"""MergeRows: which clause of a MERGE each pair of rows comes to, and what becomes of it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from eventdb.batch import Array, Column, RecordBatch
from eventdb.errors import ConstraintError, EvaluationError
from eventdb.physical.evaluate import evaluate
from eventdb.sql import statements as st

Row = tuple[Any, ...]


class MergeRows:
    """The rows to delete, update and insert, of all batches that were added."""

    def __init__(self, statement: st.Merge, width: int) -> None:
        self._statement = statement
        self._width = width
        self.deleted: list[tuple[int, Row]] = []
        self.updated: list[tuple[int, Row, Row]] = []
        self.inserted: list[Row] = []

    def add(self, batch: RecordBatch) -> None:
        """Each row of the statement's plan goes to the first clause that fits it."""
        target, source = _present(batch.columns[self._width]), _present(batch.columns[self._statement.mark])
        kinds = {"matched": target & source, "unmatched": source & ~target, "sourceless": target & ~source}
        for clause in self._statement.clauses:
            candidates = np.flatnonzero(kinds[clause.when])
            if not len(candidates):
                continue
            rows = batch.take(candidates)
            if clause.condition is not None:
                fits = evaluate(clause.condition, rows)
                keep: Array = fits.values if fits.validity is None else fits.values & fits.validity
                candidates, rows = candidates[keep], rows.filter(keep)
            if len(candidates):
                kinds[clause.when][candidates] = False
                self._apply(clause, rows)

    def _apply(self, clause: st.MergeClause, rows: RecordBatch) -> None:
        if clause.action == "nothing":
            return
        if clause.action == "error":
            said = next(rows_of([evaluate(clause.values[0], rows)]))[0] if clause.values else None
            raise EvaluationError(said or "MERGE: a row comes to a clause that says ERROR")
        made = list(rows_of([evaluate(value, rows) for value in clause.values])) if clause.values else []
        if clause.action == "insert":
            self.inserted += made
            return
        old = list(rows_of(rows.columns[: self._width]))
        offsets = rows.columns[self._width].values.tolist()
        if clause.action == "delete":
            self.deleted += zip(offsets, old, strict=True)
        else:
            self.updated += zip(offsets, old, made, strict=True)

    def check(self, name: str) -> None:
        """ConstraintError if two rows of the source change one row of the table."""
        changed = [offset for offset, _ in self.deleted] + [offset for offset, _, _ in self.updated]
        if len(set(changed)) < len(changed):
            raise ConstraintError(
                f"MERGE INTO {name}: several rows of the source change one row of the table, which cannot change "
                "twice in one statement: let the source have one row for each, or add a condition",
                table=name,
            )


def _present(column: Column) -> Array:
    if column.validity is None:
        return np.ones(len(column.values), dtype=bool)
    return column.validity


def rows_of(columns: Sequence[Column]) -> Iterator[Row]:
    """Tuples of physical values: str and bytes decoded, NULL as None."""
    lists = []
    for column in columns:
        raw = column.texts() if column.type.is_coded else column.values.tolist()
        if column.validity is not None:
            raw = [v if ok else None for v, ok in zip(raw, column.validity.tolist(), strict=True)]
        lists.append(raw)
    return zip(*lists, strict=True)
