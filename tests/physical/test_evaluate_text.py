"""String functions against plain Python models, LIKE against a reference matcher."""

from __future__ import annotations

import hashlib
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdb.batch import SpelledDictionary
from eventdb.errors import EvaluationError
from eventdb.logical.expressions import Expression, Literal
from eventdb.physical import like_bytes
from eventdb.physical.dictionary_memo import DictionaryMemo, OutputValues
from eventdb.physical.like import like_matcher, match_all, match_spelled
from eventdb.physical.operands import from_values
from eventdb.schema import VARCHAR

from .building import batch_of, call, col, lit, value_of

TEXTS = st.text(alphabet="aAbß%_\\ é😀\n", max_size=6)
NULLABLE = st.one_of(st.none(), TEXTS)


def reference_like(text: str, pattern: str) -> bool:
    """The definition, by recursion."""
    if not pattern:
        return not text
    head, rest = pattern[0], pattern[1:]
    if head == "%":
        return any(reference_like(text[i:], rest) for i in range(len(text) + 1))
    if head == "\\":
        return text[:1] == rest[:1] != "" and reference_like(text[1:], rest[1:])
    return bool(text) and (head == "_" or head == text[0]) and reference_like(text[1:], rest)


def is_sound(pattern: str) -> bool:
    return (len(pattern) - len(pattern.rstrip("\\"))) % 2 == 0


@given(st.lists(NULLABLE, min_size=1, max_size=8), TEXTS.filter(is_sound))
def test_like_matches_its_definition(texts: list[str | None], pattern: str) -> None:
    batch = batch_of({"s": ("VARCHAR", texts), "p": ("VARCHAR", [pattern] * len(texts))})
    s = col(batch, "s")
    expected = [None if t is None else reference_like(t, pattern) for t in texts]
    assert value_of(call("like", s, lit("VARCHAR", pattern)), batch) == expected
    assert value_of(call("like", s, col(batch, "p")), batch) == expected
    lowered = [None if t is None else reference_like(t.lower(), pattern.lower()) for t in texts]
    assert value_of(call("ilike", s, lit("VARCHAR", pattern)), batch) == lowered


@pytest.mark.parametrize(
    ("text", "pattern", "matches"),
    [("aba", "%ab%ba%", False), ("abba", "%ab%ba%", True), ("a", "a%a", False), ("aa", "a%a", True),
     ("aa", "_%_", True),
     ("a", "_%_", False), ("aaa", "%aa%aa%", False), ("ab", "%b%b%", False), ("", "%", True), ("", "_", False)],
)  # fmt: skip
def test_pieces_of_a_pattern_do_not_overlap(text: str, pattern: str, matches: bool) -> None:
    assert reference_like(text, pattern) is matches
    assert like_matcher(pattern)(text) is matches


def test_a_pattern_that_would_backtrack_for_ever_is_fast() -> None:
    match = like_matcher("%a" * 40 + "%b")
    started = time.perf_counter()
    assert not match("a" * 20_000)
    assert match("a" * 20_000 + "b")
    assert not like_matcher("%" + "_a" * 20 + "%b%c")("a" * 20_000)
    assert time.perf_counter() - started < 2.0


def test_a_lone_backslash_raises_only_when_a_row_needs_the_pattern() -> None:
    batch = batch_of({"s": ("VARCHAR", ["a", None])})
    expression = call("like", col(batch, "s"), lit("VARCHAR", "a\\"))
    with pytest.raises(EvaluationError, match="backslash"):
        value_of(expression, batch)
    assert value_of(expression, batch.slice(1, 2)) == [None]


def python_substr(text: str, start: int, count: int | None = None) -> str:
    positions = [p for p in range(1, len(text) + 1) if p >= start and (count is None or p < start + count)]
    return "".join(text[p - 1] for p in positions)


MODELS: dict[str, tuple[Any, list[st.SearchStrategy[Any]]]] = {
    "upper": (str.upper, [TEXTS]),
    "lower": (str.lower, [TEXTS]),
    "length": (len, [TEXTS]),
    "reverse": (lambda s: s[::-1], [TEXTS]),
    "substr": (python_substr, [TEXTS, st.integers(-3, 8), st.integers(0, 8)]),
    "trim": (lambda s, c: s.strip(c) if c else s, [TEXTS, TEXTS]),
    "ltrim": (lambda s, c: s.lstrip(c) if c else s, [TEXTS, TEXTS]),
    "rtrim": (lambda s, c: s.rstrip(c) if c else s, [TEXTS, TEXTS]),
    "replace": (lambda s, a, b: s.replace(a, b) if a else s, [TEXTS, TEXTS, TEXTS]),
    "starts_with": (str.startswith, [TEXTS, TEXTS]),
    "ends_with": (str.endswith, [TEXTS, TEXTS]),
    "contains": (lambda s, p: p in s, [TEXTS, TEXTS]),
    "strpos": (lambda s, p: s.find(p) + 1, [TEXTS, TEXTS]),
    "left": (lambda s, n: s[:n] if n >= 0 else s[: max(len(s) + n, 0)], [TEXTS, st.integers(-8, 8)]),
    "right": (lambda s, n: s[len(s) - min(n, len(s)) :] if n >= 0 else s[-n:], [TEXTS, st.integers(-8, 8)]),
    "lpad": (
        lambda s, n, f: s[: max(n, 0)] if len(s) >= n or not f else (f * n)[: n - len(s)] + s,
        [TEXTS, st.integers(-2, 12), TEXTS],
    ),
    "rpad": (
        lambda s, n, f: s[: max(n, 0)] if len(s) >= n or not f else s + (f * n)[: n - len(s)],
        [TEXTS, st.integers(-2, 12), TEXTS],
    ),
    "repeat": (lambda s, n: s * n, [TEXTS, st.integers(-2, 5)]),
    "concat_op": (lambda a, b: a + b, [TEXTS, TEXTS]),
    "md5": (lambda s: hashlib.md5(s.encode()).hexdigest(), [TEXTS]),
}


@given(st.data(), st.sampled_from(list(MODELS)))
def test_string_functions_agree_with_python(data: st.DataObject, name: str) -> None:
    """Whichever arguments are columns and whichever are constants."""
    model, kinds = MODELS[name]
    rows = data.draw(st.lists(st.tuples(*[st.one_of(st.none(), kind) for kind in kinds]), min_size=1, max_size=8))
    constant = [data.draw(st.booleans()) for _ in kinds]
    rows = [tuple(rows[0][i] if fixed else row[i] for i, fixed in enumerate(constant)) for row in rows]
    types = ["VARCHAR" if kind is TEXTS else "BIGINT" for kind in kinds]
    batch = batch_of({f"c{i}": (types[i], [row[i] for row in rows]) for i in range(len(kinds))})
    args: list[Expression] = [
        Literal(batch.columns[i].type, rows[0][i]) if constant[i] else col(batch, f"c{i}") for i in range(len(kinds))
    ]
    expected = [None if None in row else model(*row) for row in rows]
    assert value_of(call(name, *args), batch) == expected


@given(st.lists(st.tuples(NULLABLE, NULLABLE), min_size=1, max_size=8), NULLABLE)
def test_concat_skips_nulls_and_concat_ws_skips_their_separators(
    rows: list[tuple[str | None, str | None]], extra: str | None
) -> None:
    batch = batch_of({"a": ("VARCHAR", [a for a, _ in rows]), "b": ("VARCHAR", [b for _, b in rows])})
    a, b, c = col(batch, "a"), col(batch, "b"), lit("VARCHAR", extra)
    assert value_of(call("concat", a, c), batch) == [(x or "") + (extra or "") for x, _ in rows]
    assert value_of(call("concat", a, b, c), batch) == [(x or "") + (y or "") + (extra or "") for x, y in rows]
    joined = [",".join(v for v in (x, y, extra) if v is not None) for x, y in rows]
    assert value_of(call("concat_ws", lit("VARCHAR", ","), a, b, c), batch) == joined
    by_column = [None if x is None else x.join(v for v in (y, extra) if v is not None) for x, y in rows]
    assert value_of(call("concat_ws", a, b, c), batch) == by_column


def test_split_part_counts_from_both_ends() -> None:
    def part(text: str, separator: str, n: int) -> Any:
        return value_of(call("split_part", lit("VARCHAR", text), lit("VARCHAR", separator), lit("BIGINT", n)))[0]

    assert [part("a,b,c", ",", n) for n in (1, 2, 3, 4, -1, -3, -4)] == ["a", "b", "c", "", "c", "a", ""]
    assert [part("abc", "", 1), part("abc", "", 2), part("abc", "", -1)] == ["abc", "", "abc"]
    with pytest.raises(EvaluationError, match="split_part"):
        part("a", ",", 0)


def test_texts_beyond_the_largest_value_are_refused_before_they_are_built() -> None:
    for expression in (
        call("repeat", lit("VARCHAR", "ab"), lit("BIGINT", 2**62)),
        call("lpad", lit("VARCHAR", "x"), lit("BIGINT", 2**40), lit("VARCHAR", "é")),
        call("rpad", lit("VARCHAR", "x"), lit("BIGINT", 2**40), lit("VARCHAR", "y")),
    ):
        with pytest.raises(EvaluationError, match="64 MiB"):
            value_of(expression)
    with pytest.raises(EvaluationError, match="negative"):
        value_of(call("substr", lit("VARCHAR", "abc"), lit("BIGINT", 1), lit("BIGINT", -1)))


def test_blobs_have_a_length_in_bytes_and_a_digest() -> None:
    assert value_of(call("length", lit("BLOB", b"\x00\xff\x01"))) == [3]
    assert value_of(call("md5", lit("BLOB", b"abc"))) == ["900150983cd24fb0d6963f7d28e17f72"]
    assert value_of(call("length", lit("VARCHAR", "é😀"))) == [2]


def test_mapped_strings_that_become_equal_share_one_code() -> None:
    batch = batch_of({"s": ("VARCHAR", ["a", "A", "b", "B", "a"])})
    assert value_of(call("upper", col(batch, "s")), batch) == ["A", "A", "B", "B", "A"]


_pattern_parts = st.lists(st.sampled_from(["%", "_", "a", "ab", "\\%", "\\\\", "\0", "ß"]), max_size=6).map("".join)
_texts = st.lists(st.text(alphabet="ab%\\\0ß", max_size=6), max_size=5).map(lambda texts: texts * 30)


@given(_pattern_parts, _texts)
def test_a_pattern_matches_many_texts_as_it_matches_each(pattern: str, texts: list[str]) -> None:
    expected = [like_matcher(pattern)(text) for text in texts]
    assert match_all(pattern, texts) == expected
    heap = ["xa", *texts]  # the first one belongs to nobody, as in a slice
    starts = np.cumsum([0, *(len(text.encode()) for text in heap)]).astype(np.int32)
    data = np.frombuffer("".join(heap).encode(), dtype=np.uint8)
    spelled = SpelledDictionary(starts[1:], data, text=True, distinct=True)
    assert match_spelled(pattern, spelled).tolist() == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(like_bytes, "_AT_A_TIME_BYTES", 3)
        assert match_spelled(pattern, spelled).tolist() == expected


@pytest.mark.parametrize(("text", "run"), [("e" * 400, "e"), ("e" * 400, "e" * 300), ("e" * 3, "e" * 4)])
def test_texts_are_searched_once_each_however_often_the_run_is_in_them(text: str, run: str) -> None:
    texts = [text] * 100
    heap = np.frombuffer("".join(texts).encode(), dtype=np.uint8)
    spelled = SpelledDictionary(np.arange(101, dtype=np.int32) * len(text), heap, text=True, distinct=True)
    finds = 0

    def count(frame: Any, event: str, called: Any) -> None:
        nonlocal finds
        finds += event == "c_call" and called.__name__ == "find"

    for search in (lambda: match_spelled(f"%{run}_x%", spelled), lambda: match_all(f"%{run}_x%", texts)):
        finds = 0
        sys.setprofile(count)
        try:
            found = search()
        finally:
            sys.setprofile(None)
        assert list(found) == [False] * 100
        assert finds <= (101 if len(text) >= len(run) else 0)


def test_threads_that_share_an_expression_give_each_string_one_code(monkeypatch: pytest.MonkeyPatch) -> None:
    add, adding = OutputValues.code, threading.Lock()

    def add_slowly(output: OutputValues, value: Any) -> int:
        assert adding.acquire(blocking=False), "two threads add a string at the same time"
        try:
            time.sleep(0.001)
            return add(output, value)
        finally:
            adding.release()

    monkeypatch.setattr(OutputValues, "code", add_slowly)
    memo = DictionaryMemo(str.upper, VARCHAR, absent="none")
    columns = [from_values(VARCHAR, [None, *(f"{number} {i}" for i in range(5))]) for number in range(20)]
    with ThreadPoolExecutor(4) as pool:
        found = [column.to_pylist() for column in pool.map(memo, columns)]
    assert found == [["none", *(f"{number} {i}" for i in range(5))] for number in range(20)]


@given(
    st.lists(st.one_of(st.none(), TEXTS), min_size=1, max_size=40),
    st.integers(-3, 5), st.one_of(st.none(), st.integers(-1, 5)),
)  # fmt: skip
def test_a_part_of_many_texts_is_that_of_each(texts: list[str | None], start: int, count: int | None) -> None:
    batch = batch_of({"s": ("VARCHAR", texts)})
    bounds = [lit("BIGINT", start), *([] if count is None else [lit("BIGINT", count)])]
    expression = call("substr", col(batch, "s"), *bounds)
    if count is not None and count < 0:
        if any(text is not None for text in texts):
            with pytest.raises(EvaluationError, match="negative"):
                value_of(expression, batch)
        return

    def part(text: str) -> str:  # the characters at start, start + 1 ... of those at 1, 2 ...
        last = len(text) if count is None else start + count - 1
        return "".join(c for i, c in enumerate(text, 1) if start <= i <= last)

    assert value_of(expression, batch) == [None if text is None else part(text) for text in texts]
