"""The kernel for short strings gives the codes that Arrow gives, or declines."""

from __future__ import annotations

import sys

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventdb.arrow import _encode_short
from eventdb.kernels import strings

SHORT = st.text(st.characters(exclude_categories=("Cs",), max_codepoint=0x2FF), max_size=7)
WORDS = SHORT | st.sampled_from(["", "\0", "a", "a\0", "a\0\0", "12345678", "123456789", "\x80" * 7, "x" * 15])


@pytest.fixture(scope="module", autouse=True)
def kernels() -> None:
    from eventdb.kernels import jit

    for tokens in strings._TOKENS.values():
        kernel = jit.build(strings._SOURCE, tokens)
        request = strings.SERVICE.find(strings._SOURCE, tokens)
        assert request.wait(60)
        if request.kernel is None:  # no private directory to keep kernels in
            request.kernel = kernel


@given(st.lists(st.lists(WORDS, max_size=60), min_size=1, max_size=3), st.integers(0, 3), st.booleans())
def test_short_strings_get_the_codes_arrow_gives(chunks: list[list[str]], skip: int, large: bool) -> None:
    kind = pa.large_string() if large else pa.string()
    column = pa.chunked_array([pa.array(chunk, kind).slice(skip) for chunk in chunks], kind)
    found = _encode_short(column)
    if found is None:
        assert any(chunk.buffers()[2] is None for chunk in column.chunks)
        return
    assert found.to_pylist() == column.to_pylist()
    expected = column.combine_chunks().dictionary_encode()
    assert found.indices.to_pylist() == expected.indices.to_pylist()
    assert found.dictionary.to_pylist() == expected.dictionary.to_pylist()


def test_many_rows_get_the_codes_arrow_gives() -> None:
    numbers = np.random.default_rng(1).integers(0, strings.MAX_VALUES - 1, 200_000)
    column = pa.chunked_array([[f"value {n}" for n in numbers]])
    found = _encode_short(column)
    assert found is not None
    assert found.equals(column.combine_chunks().dictionary_encode())


@pytest.mark.parametrize(
    "values",
    [["a", None], ["a", "x" * 16], [f"{n}" for n in range(strings.MAX_VALUES + 1)]],
    ids=["null", "long", "many"],
)
def test_what_the_kernel_does_not_take_is_left_to_arrow(values: list[str | None]) -> None:
    assert _encode_short(pa.chunked_array([values])) is None


def test_a_process_that_goes_on_storing_strings_fetches_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "eventdb.kernels.jit")
    monkeypatch.setattr(strings, "_DEMAND", strings._Demand())
    monkeypatch.setattr(strings, "PAYING_STRINGS", 20)
    column = pa.chunked_array([["a", "b", "a"] * 3])
    assert [_encode_short(column) is None for _ in range(4)] == [True, True, False, False]  # it is in memory already


def test_a_process_without_numba_does_not_load_it_for_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "eventdb.kernels.jit")
    monkeypatch.setattr(strings, "_DEMAND", strings._Demand())
    assert _encode_short(pa.chunked_array([["a"] * 9])) is None
    assert "eventdb.kernels.jit" not in sys.modules
