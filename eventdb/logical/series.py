"""Series: the numbers or times of generate_series and range, for each row of an input."""

from __future__ import annotations

from dataclasses import dataclass

from eventdb.logical.expressions import Expression
from eventdb.logical.plan import Fields, OutputField, Unary


@dataclass(frozen=True, slots=True)
class Series(Unary):
    """Each input row once for each value from `start` to `stop` by `step`: the input's fields, then the value.

    BIGINT, or TIMESTAMP with an INTERVAL step. `inclusive`: `stop` itself may be a value (generate_series; not range).
    A NULL gives no rows, a step of 0 is an error.
    """

    start: Expression
    stop: Expression
    step: Expression
    inclusive: bool
    name: str

    @property
    def fields(self) -> Fields:
        return (*self.input.fields, OutputField(self.name, self.start.type, False))

    def label(self) -> str:
        end = "to" if self.inclusive else "before"
        return f"Series {self.name} from {self.start} {end} {self.stop} by {self.step}"
