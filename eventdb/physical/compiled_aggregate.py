"""FusedAggregate: scan, filter, project and aggregate in one loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

from eventdb.batch import Column, RecordBatch
from eventdb.errors import EvaluationError
from eventdb.kernels.service import Kernel, Request
from eventdb.logical.expressions import Call, ColumnRef, Expression, Literal
from eventdb.physical.codegen import CannotCompile, PipelineText, register_kind
from eventdb.physical.codegen_expression import ExpressionWriter
from eventdb.physical.codegen_group import bucket_of
from eventdb.physical.compiled_input import ScanInput
from eventdb.physical.compiled_prefix import InterpretedPrefix
from eventdb.physical.compiled_sinks import AggregateSink, HashSink, choose_sink
from eventdb.physical.evaluate import Evaluator
from eventdb.physical.fused import FusedPipeline, request_kernel, write_steps
from eventdb.physical.morsels import Morsel, cut, run
from eventdb.schema import TIMESTAMP

# --- derived keys -------------------------------------------------------------------------------------------------


def _base_of(key: Expression) -> Expression:
    """window_end and window_time are functions of window_start: one digit serves all three."""
    if isinstance(key, Call) and key.function in ("add", "subtract") and isinstance(key.args[1], Literal):
        inner = key.args[0]
        if key.type == TIMESTAMP and bucket_of(inner) is not None and key.args[1].value is not None:
            return inner
    return key


@dataclass(frozen=True, slots=True)
class KeyPlan:
    """The keys rows are grouped by, and each key of the query as an expression over those."""

    bases: tuple[Expression, ...]
    outputs: tuple[Expression, ...]

    @staticmethod
    def of(keys: tuple[Expression, ...]) -> KeyPlan:
        bases = tuple(dict.fromkeys(_base_of(key) for key in keys))
        outputs: list[Expression] = []
        for key in keys:
            base = _base_of(key)
            reference = ColumnRef(base.type, bases.index(base), str(base))
            outputs.append(
                reference if base is key or base == key else key.with_children((reference, *key.children()[1:]))
            )
        return KeyPlan(bases, tuple(outputs))

    def columns(self, bases: list[Column], row_count: int) -> list[Column]:
        result = []
        for output in self.outputs:
            if isinstance(output, ColumnRef):
                result.append(bases[output.index])
            else:
                result.append(Evaluator(output)(RecordBatch([str(i) for i in range(len(bases))], bases, row_count)))
        return result


# --- the aggregate operator ---------------------------------------------------------------------------------------


@dataclass(slots=True)
class Prepared:
    """A pipeline ready to run: its input, text and sink."""

    source: ScanInput
    text: PipelineText
    sink: AggregateSink
    keys: KeyPlan


class FusedAggregate(FusedPipeline):
    """Scan, filter, project and aggregate in one loop; per-thread groups are merged at the end."""

    def prepare(self) -> Prepared:
        """Reads what the generated text depends on. CannotCompile if some part has no generated form."""
        shape = self.shape
        assert shape.aggregations is not None
        source = shape.input(self.context)
        if not source.row_count:
            raise CannotCompile("no rows")
        text = PipelineText(tiled=source.has_blocks)
        writer = ExpressionWriter(text, source)
        keys = KeyPlan.of(shape.keys)
        context = self.context
        memory = context.memory_limit_bytes // 2
        sink = choose_sink(keys.bases, shape.aggregations, writer, source, max(1, context.threads), memory)
        with ExitStack() as stack:
            write_steps(shape, text, writer, stack)
            sink.write(text, writer)
        text.finish(*sink.range())
        return Prepared(source, text, sink, keys)

    def produce(self) -> Iterator[RecordBatch]:
        batch = None
        try:
            batch = self._run()
        except CannotCompile:
            self.engine = "interpreted"
        finally:
            self.release()
        if self.engine == "interpreted":  # behind the handler: the error holds the groups of all threads
            yield from self.interpreted()
        elif batch is not None:
            yield batch

    def _run(self) -> RecordBatch | None:
        prepared = self.prepare()
        source = prepared.source
        request = request_kernel(prepared.text, self.context, source.row_count)
        morsels = cut(source.row_counts, max(1, self.context.threads))
        states: list[Any] = []
        if not request.settled:
            if isinstance(prepared.sink, HashSink):
                raise CannotCompile("the kernel is being compiled for the next query")
            states, morsels = self._interpret_meanwhile(prepared, request, morsels)
        if morsels:
            if request.kernel is None:
                raise CannotCompile(str(request.error))
            states = self._run_kernel(prepared, request.kernel, morsels) + states
        self.context.hold(self, "an aggregation", sum(state.nbytes for state in states))
        return self._result(prepared, states)

    def _run_kernel(self, prepared: Prepared, kernel: Kernel, morsels: list[Morsel]) -> list[Any]:
        """The states of the threads after all morsels."""
        sink, arguments = prepared.sink, prepared.text.arguments
        states: dict[int, Any] = {}
        bad: list[Morsel] = []
        full: list[bool] = []
        can_spill = self.context.spill_folder is not None and isinstance(sink, HashSink)

        def work(thread: int, morsel: Morsel) -> bool:
            state = states.get(thread)
            if state is None:
                state = states[thread] = sink.new_state()
            rows = morsel.stop - morsel.start
            if sink.call(kernel, arguments, replace(morsel, state=state), rows) < 0:
                bad.append(morsel)
                return False
            if can_spill and not self.context.may_hold(self, sum(held.nbytes for held in list(states.values()))):
                full.append(True)
                return False
            return True

        run(morsels, max(1, self.context.threads), work, self.context.cancel)
        if bad:
            self._explain(prepared.source, min(bad, key=lambda morsel: morsel.number))
        if full:
            raise CannotCompile("more groups than fit in memory: those that go to disk are interpreted")
        return [states[thread] for thread in sorted(states)]

    def _interpret_meanwhile(
        self, prepared: Prepared, request: Request, morsels: list[Morsel]
    ) -> tuple[list[Any], list[Morsel]]:
        """Interprets morsels from the front until the kernel is there: (states of those rows, morsels left)."""
        prefix = InterpretedPrefix(prepared.sink, prepared.keys.bases, self.shape)
        left = deque(morsels)
        while left and not request.settled:
            self.context.cancel.check()
            morsel = left.popleft()
            try:
                for batch in self.interpreted(self.only(prepared.source, morsel, prefix.plan)):
                    prefix.add(batch)
            except EvaluationError:
                self._explain(prepared.source, morsel)  # perhaps only a partial sum is too large
        return prefix.states, list(left)

    def _explain(self, source: ScanInput, morsel: Morsel) -> None:
        """Lets the interpreted engine raise what broke in a morsel; CannotCompile if it finds nothing wrong."""
        if self._sums_may_overflow():
            raise CannotCompile("perhaps only a partial sum passes 64 bits: that depends on all rows")
        for _ in self.interpreted(self.only(source, morsel)):
            pass
        self.accepted_morsel_count += 1
        raise CannotCompile("the interpreted engine accepts these values")

    def _sums_may_overflow(self) -> bool:
        return any(
            a.function in ("sum", "avg") and register_kind(a.args[0].type) == "i" and a.args[0].type.width_bytes == 8
            for a in self.shape.aggregations or ()
        )

    def _result(self, prepared: Prepared, states: list[Any]) -> RecordBatch | None:
        groups = prepared.sink.merge(states)
        count = len(groups.integers)
        if not count:
            return None
        types = tuple(field.type for field in self.fields[len(self.shape.keys) :])
        columns = prepared.keys.columns(groups.keys, count)
        columns += prepared.sink.cells.columns(groups.integers, groups.floats, types)
        return RecordBatch(self.names, columns, count)
