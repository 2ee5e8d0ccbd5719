"""Group keys of a generated pipeline: which slot a row belongs to, and which key values a slot stands for.

A key with a small known range (dictionary codes, booleans, small integers, time buckets between the least and greatest
time) is a digit; digits combine to one number, NULL being the last value of a digit. If the number of slots is small
enough it addresses the group's cells directly; otherwise digits are packed, keys without a range get a word of their
own, and a hash table finds the group.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from eventdb.batch import Array, Column, Dictionary
from eventdb.logical.expressions import Call, Cast, ColumnRef, Expression, Literal
from eventdb.physical.codegen import CannotCompile, PipelineText, register_kind
from eventdb.physical.codegen_expression import DAY_US, UNIT_US, ExpressionWriter
from eventdb.schema import DataType

MAX_DIRECT_SLOTS = 1 << 22
_MAX_DIGIT = 1 << 40
_EXACT_RECIPROCAL = 1 << 51  # below this the quotient from a float64 reciprocal is off by one at most


class Key(Protocol):
    """A group key of `size` values (None: unbounded). `write` gives a register, `column` turns such numbers back."""

    size: int | None

    def write(self, writer: ExpressionWriter) -> str: ...
    def column(self, numbers: Array) -> Column: ...
    def numbers(self, column: Column) -> Array:
        """The inverse of `column`; CannotCompile if a value has no number."""


@dataclass(slots=True)
class CodeKey:
    """A string: the code of its value. A table maps codes when the key is an expression such as upper(x)."""

    type: DataType
    index: int
    size: int | None
    dictionary: Dictionary
    table: Array | None = None

    def write(self, writer: ExpressionWriter) -> str:
        slot, _ = writer.slot(self.index)
        if self.table is None:
            return slot
        return writer.text.assign(f"np.int64({writer.text.table(self.table)}[{slot}])")

    def column(self, numbers: Array) -> Column:
        assert self.size is not None
        present = numbers < self.size - 1
        codes = np.where(present, numbers, 0).astype(np.int32)
        dictionary = (
            self.dictionary if len(self.dictionary) else Dictionary(["" if self.type.name == "VARCHAR" else b""])
        )
        return Column(self.type, codes, None if present.all() else present, dictionary)

    def numbers(self, column: Column) -> Array:
        assert column.dictionary is not None
        assert self.size is not None
        table = np.array([self.dictionary.code_of(value) for value in column.dictionary.values] or [0], dtype=np.int64)
        codes = table[column.values]
        if column.validity is not None:
            codes = np.where(column.validity, codes, self.size - 1)
        return _checked(codes, self.size)


@dataclass(slots=True)
class RangeKey:
    """An integer-like value in [low, low + (size - 1) * step); booleans too. The last number is NULL."""

    expression: Expression
    low: int
    step: int
    size: int | None

    def write(self, writer: ExpressionWriter) -> str:
        assert self.size is not None
        text = writer.text
        shape = bucket_of(self.expression) if self.step != 1 else None
        value = writer.value(self.expression if shape is None else shape.time)
        if value.kind == "b":
            return text.assign(_or_null(f"(1 if {value.code} else 0)", value.valid, "2"))
        count = text.integer(self.size - 1)
        shifted = text.assign(f"{value.code} - {text.integer(self.low)}")
        if shape is not None:
            number = self._write_bucket(text, shifted, count, value.valid)
            return number if value.valid is None else text.assign(f"{number} if {value.valid} else {count}")
        outside = text.assign(f"not (({shifted} >= 0) & ({shifted} < {count}))")
        text.fail_if(outside, value.valid)
        hidden = outside if value.valid is None else f"{outside} | (not {value.valid})"
        return text.assign(f"{count} if {hidden} else {shifted}")

    def _write_bucket(self, text: PipelineText, shifted: str, count: str, valid: str | None) -> str:
        """The number of the bucket. Times come in order: the last row's bucket is tried first (2.1 against 4.0 ns).

        A 64-bit division costs 10 to 20 cycles; a product with the reciprocal is off by one at most here.
        """
        width, reciprocal = text.integer(self.step), text.double(1.0 / self.step)
        last = text.name("last")
        text.before(f"{last} = np.int64(0)")
        beyond = text.assign(f"{shifted} - {last} * {width}")
        with text.only_if(f"({beyond} < 0) | ({beyond} >= {width})"):
            guess = text.assign(f"np.int64(np.float64({shifted}) * {reciprocal})")
            rest = text.assign(f"{shifted} - {guess} * {width}")
            number = text.assign(f"{guess} - (1 if {rest} < 0 else 0) + (1 if {rest} >= {width} else 0)")
            outside = text.assign(f"not (({shifted} >= 0) & ({number} < {count}))")
            text.fail_if(outside, valid)
            text.emit(f"{last} = 0 if {outside} else {number}")
        return last

    def column(self, numbers: Array) -> Column:
        type = self.expression.type
        last = 2 if type.name == "BOOLEAN" else (self.size or 1) - 1
        present = numbers < last
        values = np.where(present, numbers, 0) * self.step + self.low
        values = values.astype(bool) if type.name == "BOOLEAN" else values.astype(type.physical)
        return Column(type, values, None if present.all() else present)

    def numbers(self, column: Column) -> Array:
        assert self.size is not None
        numbers = (column.values.astype(np.int64) - self.low) // self.step
        if column.validity is not None:
            numbers = np.where(column.validity, numbers, self.size - 1)
        return _checked(numbers, self.size)


def _checked(numbers: Array, size: int) -> Array:
    if len(numbers) and not (int(numbers.min()) >= 0 and int(numbers.max()) < size):
        raise CannotCompile("a key outside its range")
    return numbers


def _or_null(code: str, valid: str | None, null: str) -> str:
    return code if valid is None else f"{code} if {valid} else {null}"


@dataclass(slots=True)
class WordKey:
    """A value without a known range, as an int64: itself or the bits of a float with one zero and one NaN."""

    expression: Expression
    size: int | None = None
    valid: str | None = None

    def write(self, writer: ExpressionWriter) -> str:
        """The word, 0 under a NULL; `valid` is then the register that tells."""
        text = writer.text
        value = writer.value(self.expression)
        self.valid = value.valid
        code = value.code
        if value.kind in "fe":
            wide = text.assign(f"np.float64({code}) + 0.0")
            code = text.assign(f"bits_of({wide} if {wide} == {wide} else np.nan)")
        elif value.kind == "b":
            raise CannotCompile("a BOOLEAN key without a range")
        return code if value.valid is None else text.assign(f"{code} if {value.valid} else 0")

    def column(self, numbers: Array) -> Column:
        type = self.expression.type
        if type.is_float:
            return Column(type, np.ascontiguousarray(numbers).view(np.float64).astype(type.physical))
        return Column(type, numbers.astype(type.physical))

    def numbers(self, column: Column) -> Array:
        raise CannotCompile("a key without a range has no number")


# --- which key ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Bucket:
    time: Expression
    width_us: int
    origin_us: int


def bucket_of(expression: Expression) -> Bucket | None:
    """The fixed-width buckets an expression cuts time into."""
    if not isinstance(expression, Call) or not isinstance(expression.args[0] if expression.args else None, Literal):
        return None
    literal = expression.args[0]
    assert isinstance(literal, Literal)
    if expression.function == "time_bucket" and literal.value is not None:
        if literal.value.months or literal.value.microseconds <= 0:
            return None
        return Bucket(expression.args[1], literal.value.microseconds, 0)
    if expression.function == "date_trunc":
        unit = str(literal.value).lower()
        if unit == "week":
            return Bucket(expression.args[1], 7 * DAY_US, -3 * DAY_US)
        if unit in UNIT_US and unit != "microsecond":
            return Bucket(expression.args[1], UNIT_US[unit], 0)
    return None


_PART_RANGES = {
    "hour": (0, 23), "minute": (0, 59), "second": (0, 59), "millisecond": (0, 59_999), "dow": (0, 6), "isodow": (1, 7),
    "month": (1, 12), "quarter": (1, 4), "day": (1, 31), "year": (1, 9999),
}  # fmt: skip


def value_bounds(
    expression: Expression, column_range: Callable[[int], tuple[int, int] | None]
) -> tuple[int, int] | None:
    """Bounds of an integer-like expression over the rows to be scanned; None if unknown or too wide to matter."""
    if isinstance(expression, ColumnRef):
        return column_range(expression.index)
    if isinstance(expression, Cast):
        inner = value_bounds(expression.operand, column_range)
        pair = (expression.operand.type.name, expression.type.name)
        if inner is not None and pair == ("TIMESTAMP", "DATE"):
            return inner[0] // DAY_US, inner[1] // DAY_US
        if inner is not None and expression.operand.type.is_integer and expression.type.is_integer:
            return inner
        return None
    if isinstance(expression, Call) and expression.function == "date_part" and isinstance(expression.args[0], Literal):
        return _PART_RANGES.get(str(expression.args[0].value).lower())
    if isinstance(expression, Call) and expression.function == "modulo" and isinstance(expression.args[1], Literal):
        divisor = expression.args[1].value
        if isinstance(divisor, int) and divisor and expression.type.is_integer:
            return 1 - abs(divisor), abs(divisor) - 1
    return None


def plan_key(
    expression: Expression, writer: ExpressionWriter, column_range: Callable[[int], tuple[int, int] | None]
) -> Key:
    """The cheapest form of a group key."""
    type = expression.type
    if type.is_coded:
        if isinstance(expression, ColumnRef):
            dictionary, size = writer.source.dictionary(expression.index)
            return CodeKey(type, expression.index, size + 1, dictionary)
        table = writer.code_table(expression)
        count = len(table.dictionary)
        numbers = table.table if table.validity is None else np.where(table.validity, table.table, count)
        return CodeKey(type, table.column, count + 1, table.dictionary, numbers.astype(np.int32))
    if type.name in ("BOOLEAN", "NULL"):
        return RangeKey(expression, 0, 1, 3)
    if register_kind(type) == "i":
        bucket = bucket_of(expression)
        if bucket is not None:
            bounds = value_bounds(bucket.time, column_range)
            if bounds is not None:
                low = (bounds[0] - bucket.origin_us) // bucket.width_us * bucket.width_us + bucket.origin_us
                if bounds[1] - low < _EXACT_RECIPROCAL:
                    return RangeKey(expression, low, bucket.width_us, (bounds[1] - low) // bucket.width_us + 2)
            return WordKey(expression)
        bounds = value_bounds(expression, column_range)
        if bounds is not None and bounds[1] - bounds[0] < _MAX_DIGIT:
            return RangeKey(expression, bounds[0], 1, bounds[1] - bounds[0] + 2)
    return WordKey(expression)


# --- direct addressing --------------------------------------------------------------------------------------------


def slot_count(keys: list[Key]) -> int | None:
    """How many combinations there are; None if a key has no range."""
    total = 1
    for key in keys:
        if key.size is None:
            return None
        total *= key.size
    return total


def digit_order(keys: list[Key]) -> list[int]:
    """Times first: rows come in time order, so the slots in use at a time lie together."""
    return sorted(range(len(keys)), key=lambda i: 0 if isinstance(keys[i], RangeKey) and keys[i].size != 3 else 1)


def write_number(writer: ExpressionWriter, keys: list[Key], order: list[int]) -> str:
    """The combined number of the row's key."""
    text = writer.text
    number = ""
    for position in order:
        digit = keys[position].write(writer)
        size = keys[position].size
        assert size is not None
        number = digit if not number else text.assign(f"{number} * {text.integer(size)} + {digit}")
    return number or "0"


def split_number(numbers: Array, keys: list[Key], order: list[int]) -> dict[int, Array]:
    """The digit of each key for combined numbers."""
    digits: dict[int, Array] = {}
    for position in reversed(order):
        size = keys[position].size
        assert size is not None
        if position == order[0]:
            digits[position] = numbers
        else:
            numbers, digits[position] = np.divmod(numbers, size)
    return digits


def combine_numbers(columns: list[Column], keys: list[Key], order: list[int]) -> Array:
    """The combined number of key columns: the inverse of `split_number`."""
    total = np.zeros(len(columns[0]), dtype=np.int64)
    for position in order:
        size = keys[position].size
        assert size is not None
        total = total * size + keys[position].numbers(columns[position])
    return total


# --- hashing ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class HashLayout:
    """How the words of a hashed key are made of the keys: packed digits, one word per unbounded key, NULL bits."""

    keys: list[Key]
    digits: list[int]
    words: list[int]
    null_bits: list[int]

    @property
    def width(self) -> int:
        return bool(self.digits) + len(self.words) + bool(self.null_bits)

    def columns(self, words: Array) -> list[Column]:
        """The key columns of (groups, width) words."""
        result: dict[int, Column] = {}
        at = 0
        if self.digits:
            for position, numbers in split_number(words[:, 0], self.keys, self.digits).items():
                result[position] = self.keys[position].column(numbers)
            at = 1
        for i, position in enumerate(self.words):
            result[position] = self.keys[position].column(words[:, at + i])
        for bit, position in enumerate(self.null_bits):
            column = result[position]
            present = (words[:, -1] >> bit) & 1 == 0
            result[position] = Column(column.type, column.values, None if present.all() else present, column.dictionary)
        return [result[i] for i in range(len(self.keys))]


def write_hash_words(writer: ExpressionWriter, keys: list[Key]) -> tuple[HashLayout, list[str]]:
    """The words of the row's key."""
    text: PipelineText = writer.text
    digits: list[int] = []
    span = 1
    for position, key in enumerate(keys):
        if key.size is not None and span * key.size < 1 << 62:
            digits.append(position)
            span *= key.size
    rest = [position for position in range(len(keys)) if position not in digits]
    words = [write_number(writer, keys, digits)] if digits else []
    null_bits: list[int] = []
    flags: list[str] = []
    for position in rest:
        key = keys[position]
        words.append(key.write(writer))
        if isinstance(key, WordKey) and key.valid is not None:
            flags.append(f"(0 if {key.valid} else {1 << len(null_bits)})")
            null_bits.append(position)
    if flags:
        words.append(text.assign(" | ".join(flags)))
    return HashLayout(keys, digits, rest, null_bits), words


def write_hash_lookup(text: PipelineText, words: list[str]) -> str:
    """The group of a row, inserted if new. Leaves the pipeline with the row's position when the arrays are full.

    State: `table` (group of a place, -1 free), `gk` (words), `gh` (hash) per group, `st` = [groups, limit, first row].
    The table has a power of two places, at least twice `limit`.
    """
    width = len(words)
    text.emit("h = np.uint64(0x9E3779B97F4A7C15)")
    for word in words:
        text.emit(f"h = (h ^ np.uint64({word})) * np.uint64(0xFF51AFD7ED558CCD)")
        text.emit("h = h ^ (h >> np.uint64(32))")
    text.emit("p = h & mask")
    text.emit("while True:")
    text.emit("    g = np.int64(table[p])")
    text.emit("    if g < 0:")
    text.emit("        if groups >= limit:")
    text.emit("            st[0] = groups")
    text.emit("            return np.int64(-1) if bad else np.int64(i)")
    text.emit("        g = groups")
    text.emit("        groups += 1")
    text.emit("        table[p] = g")
    text.emit("        gh[np.uint64(g)] = np.int64(h)")
    for j, word in enumerate(words):
        text.emit(f"        gk[np.uint64(g) * np.uint64({width}) + np.uint64({j})] = {word}")
    text.emit("        break")
    same = " & ".join(
        f"(gk[np.uint64(g) * np.uint64({width}) + np.uint64({j})] == {word})" for j, word in enumerate(words)
    )
    text.emit(f"    if {same}:")
    text.emit("        break")
    text.emit("    p = (p + np.uint64(1)) & mask")
    return "g"
