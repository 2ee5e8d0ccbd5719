"""The text of a lookup: the number of a row's partner, and the partner's columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from eventdb.batch import Array, Dictionary
from eventdb.kernels.hash_spread import SPREAD
from eventdb.logical.expressions import ColumnRef, Expression, Literal
from eventdb.physical.codegen import CannotCompile, Value, frozen
from eventdb.physical.join_table import Digit
from eventdb.physical.lookup import Lookup
from eventdb.schema import BIGINT

if TYPE_CHECKING:
    from eventdb.physical.codegen_expression import ExpressionWriter


def write_partner(writer: ExpressionWriter, lookup: Lookup) -> str:
    """An int64 register: the number of this row's partner, -1 for none."""
    marker = Literal(BIGINT, ("partner", lookup.number))
    found = writer.text.known(marker)
    if found is None:
        found = writer.text.remember(marker, Value(_write(writer, lookup), "i"))
    return found.code


def _write(writer: ExpressionWriter, lookup: Lookup) -> str:
    text, table = writer.text, lookup.built.table
    assert table is not None
    number, inside = "", []
    for key, digit in zip(lookup.keys, table.digits, strict=True):
        value = _digit(writer, key, digit)
        inside.append(value.valid)
        number = value.code if not number else text.assign(f"{number} * {text.integer(digit.span)} + {value.code}")
    known = text.assign(" & ".join(f"({name})" for name in inside))
    place = text.table(table.table)
    partner = text.assign("np.int64(-1)")
    with text.only_if(known):
        if table.held is None:
            text.emit(f"{partner} = np.int64({place}[np.uint64({number})])")
        else:
            held = text.table(table.held)
            shift, mask = text.integer(table.shift), text.integer(len(table.table) - 1)
            at = text.assign(f"(np.uint64({number}) * np.uint64({SPREAD})) >> np.uint64({shift})")
            text.emit(f"{partner} = np.int64({place}[{at}])")
            text.emit(f"while ({partner} >= 0) and ({held}[np.uint64({partner})] != {number}):")
            text.emit(f"    {at} = ({at} + np.uint64(1)) & np.uint64({mask})")
            text.emit(f"    {partner} = np.int64({place}[{at}])")
    return partner


def _digit(writer: ExpressionWriter, key: Expression, digit: Digit) -> Value:
    """The key's digit; its `valid` says whether it is one, and is never None."""
    text = writer.text
    if digit.dictionary is not None:
        if not isinstance(key, ColumnRef):
            raise CannotCompile("a computed string as a join key")
        dictionary, size = writer.source.dictionary(key.index)
        if size > max(1_000, writer.source.dictionary_limit):
            raise CannotCompile("a dictionary larger than the rows")
        slot, _ = writer.slot(key.index)
        code = text.assign(f"np.int64({text.table(_codes(dictionary, size, digit.dictionary, digit.span))}[{slot}])")
        return Value(code, "i", text.assign(f"{code} >= 0"))
    value = writer.value(key)
    if value.kind != "i":
        raise CannotCompile("a join key that is no integer")
    low, high = text.integer(digit.low), text.integer(digit.low + digit.span - 1)
    valid = text.assign(" & ".join([f"({value.code} >= {low})", f"({value.code} <= {high})", value.valid or "True"]))
    return Value(text.assign(f"{value.code} - {low}"), "i", valid)


def _codes(source: Dictionary, size: int, target: Dictionary, span: int) -> Array:
    """The codes in `target`, if below `span`, of the first `size` values of `source`, -1 for the others, and -1 last,
    for NULL."""
    codes = np.full(size + 1, -1, np.int32)
    if source is target:
        codes[:size] = np.arange(size)
    elif span < size:
        for code, value in enumerate(target.values[:span]):
            place = source.code_of(value)
            if 0 <= place < size:
                codes[place] = code
    else:
        codes[:size] = np.fromiter((target.code_of(value) for value in source.values[:size]), np.int32, count=size)
    codes[codes >= span] = -1
    return codes


def _row(writer: ExpressionWriter, lookup: Lookup) -> str:
    partner = write_partner(writer, lookup)
    return writer.text.assign(f"{partner} if {partner} >= 0 else 0") if lookup.keeps_all else partner


def write_fetched(writer: ExpressionWriter, lookup: Lookup, position: int, index: int, token: str) -> str:
    """What column `position` of the held side, column `index` of the pipeline, holds in the partner's row."""
    values = _filled(lookup.built.rows.columns[position].values)
    row = _row(writer, lookup)
    return f"{writer.array('c', f'{token}[]', index, lambda morsel: values)}[np.uint64({row})]"


def write_fetched_validity(writer: ExpressionWriter, lookup: Lookup, position: int, index: int) -> str:
    """A bool register: whether there is a partner, and its column is present."""
    validity = lookup.built.rows.columns[position].validity
    partner = write_partner(writer, lookup)
    if validity is None:
        return writer.text.assign(f"{partner} >= 0")
    flags = _filled(validity)
    row = _row(writer, lookup)
    there = f"{writer.array('v', 'b1[]', index, lambda morsel: flags)}[np.uint64({row})]"
    return writer.text.assign(f"({partner} >= 0) & {there}" if lookup.keeps_all else there)


def _filled(array: Array) -> Array:
    """The array, with one row if it has none: a place is read before it is known that there is no partner."""
    return frozen(array if len(array) else np.zeros(1, array.dtype))
