"""Kernels of strings, by function name: each is a Python function of values, called once per distinct value."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from typing import Any

from eventdb.config import MAX_VALUE_BYTES, MIB
from eventdb.errors import EvaluationError
from eventdb.logical.expressions import Call, Literal
from eventdb.physical.dictionary_memo import DictionaryMemo
from eventdb.physical.like import Matcher, like_matcher, match_all, match_spelled
from eventdb.physical.operands import Kernel, KernelBuilder, constant, map_distinct

TextFunction = Callable[..., Any]


def text_kernel(
    function: TextFunction, *, strict: bool = True,
    of_all: Callable[[list[Any]], Callable[[list[Any]], list[Any]] | None] | None = None,
) -> KernelBuilder:  # fmt: skip
    """The kernel of a Python function of physical values. `of_all`, given its arguments with None for the one that
    varies, gives what does the same to a list of values at once, or None where there is no such thing.

    With one argument that varies and is a string, the function runs once per value of its dictionary, remembered over
    batches; otherwise once per distinct combination of the arguments in the batch.
    """

    def build(call: Call) -> Kernel:
        type = call.type
        varying = [i for i, arg in enumerate(call.args) if not isinstance(arg, Literal)]
        nulls = any(isinstance(arg, Literal) and arg.value is None for arg in call.args)
        if strict and nulls:
            return lambda args: constant(type, None)
        if len(varying) != 1 or not call.args[varying[0]].type.is_coded:
            return lambda args: map_distinct(function, args, type, strict=strict)
        position = varying[0]
        fixed = [arg.value if isinstance(arg, Literal) else None for arg in call.args]
        whole = None if of_all is None or position else of_all(fixed)
        memo = DictionaryMemo(_bind(function, fixed, position), type, None if strict else function(*fixed), whole)
        return lambda args: memo(args[position])

    return build


def _bind(function: TextFunction, fixed: list[Any], position: int) -> Callable[[Any], Any]:
    """The function of its one varying argument."""
    if len(fixed) == 1:
        return function
    if position == len(fixed) - 1:
        return partial(function, *fixed[:-1])
    before, after = fixed[:position], fixed[position + 1 :]
    return lambda value: function(*before, value, *after)


# --- the functions ------------------------------------------------------------------------------------------------


def _substr(text: str, start: int, count: int | None = None) -> str:
    if count is None:
        return text[max(start - 1, 0) :]
    if count < 0:
        raise EvaluationError(f"substr: the count must not be negative, it is {count}")
    stop = start - 1 + count
    return text[max(start - 1, 0) : max(stop, 0)]


def _substr_of_all(fixed: list[Any]) -> Callable[[list[Any]], list[Any]] | None:
    start, count = fixed[1], fixed[2] if len(fixed) > 2 else None
    if count is not None and count < 0:
        return None
    first, stop = max(start - 1, 0), None if count is None else max(start - 1 + count, 0)
    return lambda texts: [text[first:stop] for text in texts]


def _trim(text: str, characters: str = " ") -> str:
    return text.strip(characters) if characters else text


def _ltrim(text: str, characters: str = " ") -> str:
    return text.lstrip(characters) if characters else text


def _rtrim(text: str, characters: str = " ") -> str:
    return text.rstrip(characters) if characters else text


def _replace(text: str, old: str, new: str) -> str:
    return text.replace(old, new) if old else text


def _concat(*parts: str | None) -> str:
    return "".join([part for part in parts if part is not None])


def _concat_ws(separator: str | None, *parts: str | None) -> str | None:
    return None if separator is None else separator.join([part for part in parts if part is not None])


def _left(text: str, count: int) -> str:
    return text[:count]


def _right(text: str, count: int) -> str:
    if count >= 0:
        return text[max(len(text) - count, 0) :]
    return text[-count:]


def _check_size(name: str, count: int, value: str) -> None:
    widest = max(map(ord, value), default=0)
    each = 1 if widest < 0x80 else 2 if widest < 0x800 else 3 if widest < 0x10000 else 4
    if count * each > MAX_VALUE_BYTES:
        limit = MAX_VALUE_BYTES // MIB
        raise EvaluationError(f"{name}: the result would be longer than {limit} MiB, the largest a value can be")


def _fill(name: str, text: str, count: int, fill: str) -> str | None:
    """What is missing to `count`; None if nothing is to be added."""
    missing = count - len(text)
    if missing <= 0 or not fill:
        return None
    _check_size(name, count, fill)
    return (fill * (missing // len(fill) + 1))[:missing]


def _lpad(text: str, count: int, fill: str) -> str:
    added = _fill("lpad", text, count, fill)
    return text[: max(count, 0)] if added is None else added + text


def _rpad(text: str, count: int, fill: str) -> str:
    added = _fill("rpad", text, count, fill)
    return text[: max(count, 0)] if added is None else text + added


def _repeat(text: str, count: int) -> str:
    if count <= 0 or not text:
        return ""
    _check_size("repeat", count * len(text), text)
    return text * count


def _split_part(text: str, separator: str, number: int) -> str:
    if number == 0:
        raise EvaluationError("split_part: the part number counts from 1 (or from -1 at the end), it is 0")
    parts = text.split(separator) if separator else [text]
    index = number - 1 if number > 0 else len(parts) + number
    return parts[index] if 0 <= index < len(parts) else ""


def _md5(value: str | bytes) -> str:
    data = value.encode("utf-8", "surrogatepass") if isinstance(value, str) else value
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _like(text: str, pattern: str) -> bool:
    return like_matcher(pattern)(text)


@lru_cache(maxsize=256)
def _lowered(pattern: str) -> Matcher:
    return like_matcher(pattern.lower())


def _ilike(text: str, pattern: str) -> bool:
    return _lowered(pattern)(text.lower())


def _like_builder(function: Callable[[str, str], bool], lower: bool) -> KernelBuilder:
    """LIKE with a constant pattern compiles it once; a pattern that cannot match raises only when a row needs it."""
    general = text_kernel(function)

    def build(call: Call) -> Kernel:
        pattern = call.args[1]
        if not isinstance(pattern, Literal) or pattern.value is None:
            return general(call)
        text = pattern.value.lower() if lower else pattern.value
        try:
            matcher = like_matcher(text)
        except EvaluationError:
            return general(call)
        if lower:
            memo = DictionaryMemo(lambda value: matcher(value.lower()), call.type)
        else:
            memo = DictionaryMemo(
                matcher, call.type, of_all=lambda values: match_all(text, values),
                of_spelled=lambda values: match_spelled(text, values),
            )  # fmt: skip
        return lambda args: memo(args[0])

    return build


def _starts_with(text: str, part: str) -> bool:
    return text.startswith(part)


def _ends_with(text: str, part: str) -> bool:
    return text.endswith(part)


def _contains(text: str, part: str) -> bool:
    return part in text


def _strpos(text: str, part: str) -> int:
    return text.find(part) + 1


def in_memo(values: Sequence[Any], type: Any) -> DictionaryMemo:
    """Membership of a string column in a fixed set."""
    members = frozenset(values)
    return DictionaryMemo(members.__contains__, type)


TEXT: dict[str, KernelBuilder] = {
    "like": _like_builder(_like, lower=False), "ilike": _like_builder(_ilike, lower=True),
    "concat_op": text_kernel(str.__add__), "concat": text_kernel(_concat, strict=False),
    "concat_ws": text_kernel(_concat_ws, strict=False),
    "upper": text_kernel(str.upper), "lower": text_kernel(str.lower), "length": text_kernel(len),
    "substr": text_kernel(_substr, of_all=_substr_of_all), "trim": text_kernel(_trim), "ltrim": text_kernel(_ltrim),
    "rtrim": text_kernel(_rtrim), "replace": text_kernel(_replace), "starts_with": text_kernel(_starts_with),
    "ends_with": text_kernel(_ends_with), "contains": text_kernel(_contains), "strpos": text_kernel(_strpos),
    "left": text_kernel(_left), "right": text_kernel(_right), "lpad": text_kernel(_lpad), "rpad": text_kernel(_rpad),
    "reverse": text_kernel(lambda text: text[::-1]), "repeat": text_kernel(_repeat),
    "split_part": text_kernel(_split_part), "md5": text_kernel(_md5),
}  # fmt: skip
