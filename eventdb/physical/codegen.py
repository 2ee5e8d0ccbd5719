"""The text of a generated pipeline: arguments, constants, and the row loop that expressions and sinks write into.

A pipeline is one Python function for Numba over one morsel. Its text depends on the shape only (types, nullability,
operators); constants, lookup tables and sizes are arguments, so queries that differ in them share a kernel.

Registers hold bool, int64 (all integers, DECIMAL, DATE, TIMESTAMP, INTERVAL, codes), float64, or float32 for FLOAT.
A `Value` is a register and the register that says whether it is present (None = always). Under a NULL a register holds
anything. `bad` becomes True where a value breaks an expression: the operator then lets the interpreted engine say how.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from eventdb.batch import Array
from eventdb.config import TILE_ROWS
from eventdb.kernels.cache import intrinsics_stamp
from eventdb.logical.expressions import Expression
from eventdb.schema import DataType


class CannotCompile(Exception):
    """The plan or an expression has no generated form: the interpreted engine runs it. Never leaves the package."""


def frozen(array: Array) -> Array:
    """A read-only C-contiguous view (or copy) of an array: the one layout kernels are compiled for."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def register_kind(type: DataType) -> str:
    """'b' bool, 'i' int64, 'f' float64, 'e' float32."""
    if type.name in ("BOOLEAN", "NULL"):
        return "b"
    if type.name == "DOUBLE":
        return "f"
    return "e" if type.name == "FLOAT" else "i"


def integer_text(value: int) -> str:
    """An int64 constant in source form: Numba reads the digits of -2**63 as unsigned."""
    return "(-9223372036854775807 - 1)" if value == -(1 << 63) else str(value)


DEFAULTS = {"b": "False", "i": "0", "f": "0.0", "e": "np.float32(0.0)"}


@dataclass(frozen=True, slots=True)
class Value:
    """A computed expression: the register, its kind, and the register of its validity (None = never NULL)."""

    code: str
    kind: str
    valid: str | None = None


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a pipeline. `fill(morsel)` gives it for a morsel; constants ignore the morsel."""

    name: str
    token: str
    fill: Callable[[Any], Any]


class PipelineText:
    """Collects the arguments and lines of one pipeline. `tokens` and `source` are final after `finish`.

    A `tiled` one loads its tile columns (kernels/tiles.py) before the rows of each tile.
    """

    def __init__(self, *, tiled: bool = False) -> None:
        self.tiled = tiled
        self._tiles: list[str] = []
        self.arguments: list[Argument] = []
        self._prologue: list[str] = []
        self._lines: list[str] = []
        self._epilogue: list[str] = []
        self._depth = 3 if tiled else 2
        self._names = 0
        self._memo: list[dict[Expression, Value]] = [{}]
        self._integers: list[int] = []
        self._floats: list[float] = []

    # --- names, constants and arguments ---

    def name(self, prefix: str = "t") -> str:
        self._names += 1
        return f"{prefix}{self._names}"

    def argument(self, prefix: str, token: str, fill: Callable[[Any], Any]) -> str:
        name = self.name(prefix)
        self.arguments.append(Argument(name, token, fill))
        return name

    def named_argument(self, name: str, token: str, fill: Callable[[Any], Any]) -> str:
        self.arguments.append(Argument(name, token, fill))
        return name

    def tile(self, index: int, token: str, fill: Callable[[Any], Any]) -> str:
        """The value in this row of column `index`, a tile column."""
        name = f"x_{index}"
        if name not in self._tiles:
            self._tiles.append(name)
            self.named_argument(name, f"{token}[t]", fill)
            self.before(f"y_{index} = {name}[3]")
        return f"y_{index}[np.uint64(j)]"

    def table(self, array: Array) -> str:
        """A constant array as an argument."""
        fixed = frozen(array)
        return self.argument("l", f"{_token(fixed)}[]", lambda morsel: fixed)

    def integer(self, value: int) -> str:
        """A constant int64: an argument, so that its value is no part of the shape."""
        name = self.name("k")
        self._prologue.append(f"{name} = ci[{len(self._integers)}]")
        self._integers.append(value)
        return name

    def double(self, value: float) -> str:
        name = self.name("k")
        self._prologue.append(f"{name} = cf[{len(self._floats)}]")
        self._floats.append(value)
        return name

    # --- lines ---

    def emit(self, line: str) -> None:
        self._lines.append("    " * self._depth + line)

    def before(self, line: str) -> None:
        """A line that runs once, before the loop."""
        self._prologue.append(line)

    def after(self, line: str) -> None:
        """A line that runs once, after the loop."""
        self._epilogue.append(line)

    def assign(self, expression: str) -> str:
        name = self.name()
        self.emit(f"{name} = {expression}")
        return name

    def fail_if(self, condition: str, *valid: str | None) -> None:
        """The row breaks the expression where `condition` holds and all of `valid` are present."""
        guards = [name for name in valid if name is not None]
        self.emit("bad |= " + " & ".join([f"({condition})", *guards]))

    @contextmanager
    def only_if(self, condition: str) -> Iterator[None]:
        """Lines written inside run for rows where `condition` holds; what they compute is not known outside."""
        self.emit(f"if {condition}:")
        self._depth += 1
        self._memo.append({})
        mark = len(self._lines)
        yield
        if len(self._lines) == mark:
            self.emit("pass")
        self._memo.pop()
        self._depth -= 1

    def known(self, expression: Expression) -> Value | None:
        for scope in self._memo:
            if expression in scope:
                return scope[expression]
        return None

    def remember(self, expression: Expression, value: Value) -> Value:
        self._memo[-1][expression] = value
        return value

    # --- the result ---

    def finish(self, start: str = "0", result: str = "0") -> None:
        """Closes the text. The pipeline runs rows [start, n) and returns `result`, or -1 if a row was bad."""
        self._start = start
        self._result = result
        if self._integers:
            constants = frozen(np.array(self._integers, np.int64))
            self.arguments.insert(0, Argument("ci", "i8[]", lambda morsel: constants))
        if self._floats:
            doubles = frozen(np.array(self._floats, np.float64))
            self.arguments.insert(0, Argument("cf", "f8[]", lambda morsel: doubles))

    @property
    def tokens(self) -> tuple[str, ...]:
        return ("i8", *(argument.token for argument in self.arguments))

    def _loop(self) -> list[str]:
        if not self.tiled:
            return [f"    for i in range({self._start}, n):"]
        return [
            f"    for first in range(0, n, {TILE_ROWS}):",
            f"        stop = min(first + {TILE_ROWS}, n)",
            *(f"        load_tile({name}, first, stop)" for name in self._tiles),
            f"        for j in range({0 if self._start == '0' else f'max({self._start} - first, 0)'}, stop - first):",
            "            i = first + j",
        ]

    @property
    def source(self) -> str:
        lines = [
            f"# intrinsics {intrinsics_stamp()}",
            f"def pipeline({', '.join(['n', *(argument.name for argument in self.arguments)])}):",
            *("    " + line for line in self._prologue),
            "    bad = False",
            *self._loop(),
            *(self._lines or ["    " * self._depth + "pass"]),
            *("    " + line for line in self._epilogue),
            "    if bad:",
            "        return np.int64(-1)",
            f"    return np.int64({self._result})",
            "",
        ]
        return "\n".join(lines)


_TOKENS = {
    "bool": "b1", "int8": "i1", "int16": "i2", "int32": "i4", "int64": "i8",
    "uint8": "u1", "float32": "f4", "float64": "f8",
}  # fmt: skip


def _token(array: Array) -> str:
    return _TOKENS[array.dtype.name]


def token_of(type: DataType) -> str:
    """The item token of a type's physical array."""
    return _TOKENS[np.dtype(type.physical).name]
