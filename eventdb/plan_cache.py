"""PlanCache: a text is parsed, bound and simplified once for each combination of types its parameters come in.

An entry holds for one text at one state of the catalog, one set of disabled rules and one type of each parameter. Where
the plan does not depend on the values (see logical/parameters.py) they are filled in, and only what follows from them
is worked out: the offsets, times and keys to read. Otherwise the text is bound anew. Statements that read files are not
kept: a file may change.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

from eventdb.errors import EventDBError, InternalError
from eventdb.logical.expressions import Literal
from eventdb.logical.optimizer import finishing, optimize, optimize_open
from eventdb.logical.parameters import Fill, OtherPlan, Slot, Watch, fill_of
from eventdb.sql import statements as st
from eventdb.sql.binder import bind
from eventdb.sql.context import Parameters, literal_of, parameters_of

ENTRIES = 256
LONGEST_TEXT = 16_384  # characters of a statement that is kept
PLANNED = (st.Query, st.Insert, st.InsertRows, st.Update, st.Delete, st.Merge, st.CreateAs, st.CopyTo)
"""Statements that run a plan; theirs is optimised."""


class Names(st.Resolver, Protocol):
    """A resolver that notes whether it was asked for a file."""

    read_files: bool


@dataclass(frozen=True, slots=True)
class _Entry:
    """`statement` holds for all values if both are set or `fill` fills them in; without either, bind again."""

    statement: st.Statement | None
    fill: Fill | None


class PlanCache:
    """The statements of a session. Threads may ask at the same time; at most ENTRIES are kept, those used last."""

    def __init__(self) -> None:
        self._entries: OrderedDict[Any, _Entry] = OrderedDict()
        self._lock = threading.Lock()

    def statement(
        self, text: str, given: Any, names: Names, generation: Hashable, disabled: frozenset[str]
    ) -> st.Statement:
        """The statement of a text with these parameters, its plan optimised. `generation` tells states of what
        `names` looks into apart. Errors: those of `bind`."""
        parameters = parameters_of(given)
        values = _literals(parameters)
        if values is None:  # a value without a SQL type: the binder says which
            return _optimized(bind(text, names, parameters), disabled)
        key = (text, generation, disabled, isinstance(parameters, Mapping),
               *[(name, value.type) for name, value in values.items()])  # fmt: skip
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
        if entry is None:
            entry = _entry(text, names, parameters, values, disabled)
            lasting = bool(values) or isinstance(entry.statement, st.Query)  # not the rows of an INSERT, run once
            if lasting and not names.read_files and len(text) <= LONGEST_TEXT:
                self._keep(key, entry)
        if entry.fill is not None:
            try:
                filled: st.Statement = entry.fill(values)
                return filled
            except OtherPlan:
                pass
        elif entry.statement is not None:
            return entry.statement
        return _optimized(bind(text, names, parameters), disabled)

    def _keep(self, key: Any, entry: _Entry) -> None:
        with self._lock:
            self._entries[key] = entry
            while len(self._entries) > ENTRIES:
                self._entries.popitem(last=False)

    def __len__(self) -> int:
        return len(self._entries)


def _literals(parameters: Parameters) -> dict[str, Literal] | None:
    """Parameters by name ('1', '2', ... if given by position); None if one has no SQL type."""
    if not parameters:
        return {}
    named = parameters.items() if isinstance(parameters, Mapping) else enumerate(parameters, 1)
    values = {}
    for name, value in named:
        literal = literal_of(value)
        if literal is None:
            return None
        values[str(name)] = literal
    return values


def _entry(
    text: str, names: Names, parameters: Parameters, values: Mapping[str, Literal], disabled: frozenset[str]
) -> _Entry:
    """What can be kept of a text, by binding it with slots."""
    if not values:
        return _Entry(_optimized(bind(text, names, parameters), disabled), None)
    watch = Watch()
    slots = {name: literal if literal.is_null else Slot(literal, name, watch) for name, literal in values.items()}
    try:
        given: Parameters = (
            slots if isinstance(parameters, Mapping) else None if parameters is None else [*slots.values()]
        )
        statement = bind(text, names, given)
        if not isinstance(statement, PLANNED):
            return _Entry(None, None)
        opened = replace(statement, plan=optimize_open(statement.plan, disabled))
    except InternalError:
        raise
    except EventDBError:
        return _Entry(None, None)  # bound with the values it says what is wrong, if anything is
    if watch.seen:
        return _Entry(None, None)
    fill = fill_of(opened, finishing(disabled))
    return _Entry(_optimized(statement, disabled) if fill is None else None, fill)


def _optimized(statement: st.Statement, disabled: frozenset[str]) -> st.Statement:
    if isinstance(statement, PLANNED):
        return replace(statement, plan=optimize(statement.plan, disabled))
    return statement
