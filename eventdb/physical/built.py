"""Built: the held side of a join as a leaf of a plan, once its rows are there and its keys are in a table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from eventdb.batch import RecordBatch
from eventdb.logical.plan import Fields, Join, Plan
from eventdb.physical.context import QueryContext
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.join_table import JoinTable
from eventdb.physical.operands import null_column
from eventdb.physical.operator import Operator


@dataclass(frozen=True, slots=True, eq=False)
class Built(Plan):
    """`table` finds rows by the keys of the join; None where they fit no table. If no key repeats, number n is row n
    and rows with a NULL key are left out; a semi or anti join by keys alone keeps no rows beside the table."""

    name: str
    output: Fields
    rows: RecordBatch
    table: JoinTable | None

    @property
    def fields(self) -> Fields:
        return self.output

    def label(self) -> str:
        return f"Built {self.rows.row_count} rows of {self.name}"

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes + (0 if self.table is None else self.table.nbytes)


def build(join: Join, rows: RecordBatch | None) -> Built:
    """The right side of a join from all its rows (None = none)."""
    fields = join.right.fields
    if rows is None:
        rows = RecordBatch([f.name for f in fields], [null_column(f.type, 0) for f in fields], 0)
    keys = [Evaluator(key)(rows) for key in join.right_keys]
    members = join.kind in ("semi", "anti") and join.residual is None
    table = JoinTable.build(keys, rows.row_count, join.null_matches, members=members)
    if table is not None and members:  # which rows they are is of no account
        rows = rows.slice(0, 0)
    elif table is not None and table.is_unique and len(table.order) < rows.row_count:
        rows = rows.take(table.order)
        table.order = np.arange(rows.row_count)
    return Built(join.right.label(), fields, rows, table)


class BuiltRows(Operator):
    def __init__(self, plan: Built, context: QueryContext) -> None:
        super().__init__(plan.fields, context)
        self.plan = plan

    def label(self) -> str:
        return self.plan.label()

    def produce(self) -> Iterator[RecordBatch]:
        yield self.plan.rows
