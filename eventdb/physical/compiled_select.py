"""FusedSelect: filter and computed columns of a scan in one loop; NumPy takes the plain columns of the rows kept.

Morsels run on several threads and come out in offset order. A morsel with a bad row goes through the interpreted
engine, which raises what broke (or returns the rows, if nothing did).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

import numpy as np

from eventdb.batch import Array, Column, Dictionary, RecordBatch
from eventdb.config import MORSEL_ROWS
from eventdb.kernels.service import Kernel
from eventdb.logical.expressions import ColumnRef, Expression
from eventdb.physical.codegen import DEFAULTS, CannotCompile, PipelineText
from eventdb.physical.codegen_expression import CodeTable, ExpressionWriter
from eventdb.physical.compiled_input import ScanInput
from eventdb.physical.fused import FusedPipeline, Shape, request_kernel, write_steps
from eventdb.physical.morsels import Morsel, cut, submit
from eventdb.schema import DataType


@dataclass(slots=True)
class Outputs:
    """The arrays one morsel writes."""

    rows: Array
    values: list[Array] = field(default_factory=list)
    present: list[Array] = field(default_factory=list)


@dataclass(slots=True)
class Computed:
    """An output column the kernel writes: its place among `values`, and among `present` if it can be NULL.

    Of a string it writes the code in `dictionary`; `table` maps that column to the output.
    """

    type: DataType
    value: int
    valid: int | None
    dictionary: Dictionary | None = None
    table: CodeTable | None = None


class SelectSink:
    """Writes the kept rows' positions and computed columns, and assembles batches from them."""

    def __init__(self, outputs: tuple[Expression, ...]) -> None:
        self._outputs = outputs
        self._plan: list[Computed | CodeTable | int] = []
        self._types: list[DataType] = []
        self._valid_count = 0
        self.drops = False

    def write(self, text: PipelineText, writer: ExpressionWriter, drops: bool) -> None:
        self.drops = drops
        text.before("m = 0")
        stores: list[str] = []
        if drops:
            text.named_argument("rows", "i8[w]", lambda morsel: morsel.state.rows)
            stores.append("rows[m] = i")
        for output in self._outputs:
            table = writer.code_table(output) if output.type.is_coded and not isinstance(output, ColumnRef) else None
            index = table.column if table is not None else output.index if isinstance(output, ColumnRef) else -1
            if index >= 0 and writer.source.lookup(index) is not None:
                fetched = ColumnRef(writer.source.type_of(index), index, "")
                stores.extend(self._compute(fetched, text, writer, table))
            elif table is not None:
                self._plan.append(table)
            elif index >= 0:
                self._plan.append(index)
            else:
                stores.extend(self._compute(output, text, writer))
        for line in stores:
            text.emit(line)
        text.emit("m += 1")

    def _compute(
        self, output: Expression, text: PipelineText, writer: ExpressionWriter, table: CodeTable | None = None
    ) -> Iterator[str]:
        value = writer.value(output)
        number = len(self._types)
        self._types.append(output.type)
        name = text.named_argument(
            f"o{number}", f"{_TOKENS[output.type.physical]}[w]", lambda m: m.state.values[number]
        )
        code = value.code if value.valid != "False" else DEFAULTS[value.kind]
        yield f"{name}[m] = {_NARROW.get(output.type.physical, '')}({code})"
        place = None
        if value.valid is not None:
            place = at = self._valid_count
            self._valid_count += 1
            flags = text.named_argument(f"w{place}", "b1[w]", lambda m: m.state.present[at])
            yield f"{flags}[m] = {value.valid}"
        coded = isinstance(output, ColumnRef) and output.type.is_coded
        dictionary = writer.source.dictionary(output.index)[0] if coded else None  # type: ignore[attr-defined]
        self._plan.append(Computed(output.type, number, place, dictionary, table))

    def new_outputs(self, row_count: int) -> Outputs:
        return Outputs(
            np.empty(row_count if self.drops else 0, dtype=np.int64),
            [np.empty(row_count, dtype=type.physical) for type in self._types],
            [np.empty(row_count, dtype=bool) for _ in range(self._valid_count)],
        )

    def columns(self, source: ScanInput, morsel: Morsel, count: int) -> list[Column]:
        """The output columns of a morsel that kept `count` rows."""
        outputs: Outputs = morsel.state
        whole = count == morsel.stop - morsel.start
        rows = outputs.rows[:count]

        def stored(index: int) -> Column:
            part = source.columns(index)[morsel.slice].slice(morsel.start, morsel.stop)
            return part if whole else part.take(rows)

        result = []
        for item in self._plan:
            if isinstance(item, int):
                result.append(stored(item))
            elif isinstance(item, CodeTable):
                result.append(_recode(stored(item.column), item))
            else:
                valid = None if item.valid is None else outputs.present[item.valid][:count]
                column = Column(item.type, outputs.values[item.value][:count], valid, item.dictionary)
                result.append(column if item.table is None else _recode(column, item.table))
        return result


_NARROW = {"<i1": "np.int8", "<i2": "np.int16", "<i4": "np.int32"}
_TOKENS = {"|b1": "b1", "<i1": "i1", "<i2": "i2", "<i4": "i4", "<i8": "i8", "<f4": "f4", "<f8": "f8"}


def _recode(column: Column, table: CodeTable) -> Column:
    assert table.type is not None
    slots = column.values if column.validity is None else np.where(column.validity, column.values, len(table.table) - 1)
    valid = None if table.validity is None else table.validity[slots]
    return Column(table.type, table.table[slots], valid, table.dictionary)


@dataclass(slots=True)
class _Running:
    morsel: Morsel
    future: Future[int]


class FusedSelect(FusedPipeline):
    """Scan, filter and project in one loop."""

    @property
    def _in_flight(self) -> int:
        return 2 * max(1, self.context.threads)

    def _prepare(self, shape: Shape) -> tuple[ScanInput, PipelineText, SelectSink]:
        source = shape.input(self.context, self._in_flight + 1)
        if not source.row_count:
            raise CannotCompile("no rows")
        text = PipelineText(tiled=source.has_blocks)
        writer = ExpressionWriter(text, source)
        sink = SelectSink(shape.outputs)
        with ExitStack() as stack:
            drops = write_steps(shape, text, writer, stack)
            sink.write(text, writer, drops)
        text.finish("0", "m")
        for output in shape.outputs:
            if isinstance(output, ColumnRef) and source.lookup(output.index) is None:
                if output.type.is_coded:
                    source.dictionary(output.index)  # plainly stored strings are better encoded as they stream past
                source.columns(output.index)  # fetched here, not by many threads at once (sealed blocks excepted)
        return source, text, sink

    def produce(self) -> Iterator[RecordBatch]:
        try:
            source, text, sink = self._prepare(self.shape)
            request = request_kernel(text, self.context, source.row_count)
        except CannotCompile:
            self.engine = "interpreted"
            yield from self.interpreted()
            return
        threads = max(1, self.context.threads)
        morsels = deque(cut(source.row_counts, threads, MORSEL_ROWS))
        while not request.settled and morsels:  # still compiling
            yield from self.interpreted(self.only(source, morsels.popleft()))
        if request.kernel is None:
            for morsel in morsels:
                yield from self.interpreted(self.only(source, morsel))
            return
        yield from self._compiled(source, text, sink, request.kernel, morsels)

    def _compiled(
        self, source: ScanInput, text: PipelineText, sink: SelectSink, kernel: Kernel, morsels: deque[Morsel]
    ) -> Iterator[RecordBatch]:
        threads = max(1, self.context.threads)
        running: deque[_Running] = deque()
        arguments = text.arguments

        def work(morsel: Morsel) -> int:
            return int(kernel(morsel.stop - morsel.start, *[argument.fill(morsel) for argument in arguments]))

        try:
            while morsels or running:
                while morsels and len(running) < self._in_flight:
                    morsel = morsels.popleft()
                    morsel = replace(morsel, state=sink.new_outputs(morsel.stop - morsel.start))
                    running.append(_Running(morsel, submit(threads, work, morsel)))
                first = running.popleft()
                count = first.future.result()
                self.context.cancel.check()
                if count < 0:
                    yield from self.interpreted(self.only(source, first.morsel))
                    self.accepted_morsel_count += 1
                elif count:
                    yield RecordBatch(self.names, sink.columns(source, first.morsel, count), count)
        finally:
            for left in running:
                left.future.cancel()


def worth_fusing(shape: Shape) -> bool:
    """Whether there is something to compute: plain columns of all rows come straight from the scan."""
    return bool(shape.steps) or not all(isinstance(output, ColumnRef) for output in shape.outputs)
