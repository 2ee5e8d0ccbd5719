"""LIKE patterns as matchers without backtracking.

A pattern is split at its `%`: the first piece is anchored at the start, the last at the end, and every piece between
is taken at its leftmost place after the one before. Leftmost is enough because pieces hold no `%`, so the cost is
bounded by the text's length times the pattern's length, whatever the pattern.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import AnyStr

import numpy as np

from eventdb.batch import Array, SpelledDictionary
from eventdb.errors import EvaluationError
from eventdb.physical.like_bytes import match_bytes

Matcher = Callable[[str], bool]
_LEAST_TEXTS = 64
"""Fewer texts are looked at one by one."""


class _Piece:
    """A run of literal characters and `_`: fixed length."""

    __slots__ = ("length", "search", "text")

    def __init__(self, symbols: list[str | None]) -> None:
        self.length = len(symbols)
        self.text = None if None in symbols else "".join(s for s in symbols if s is not None)
        source = "".join("." if s is None else re.escape(s) for s in symbols)
        self.search = re.compile(source, re.DOTALL)

    def at(self, value: str, start: int) -> bool:
        if self.text is not None:
            return value.startswith(self.text, start)
        return self.search.match(value, start) is not None

    def find(self, value: str, start: int, stop: int) -> int:
        """Where the piece first lies inside value[start:stop], -1 if nowhere."""
        if self.text is not None:
            return value.find(self.text, start, stop)
        found = self.search.search(value, start, stop)
        return -1 if found is None else found.start()


def _pieces(pattern: str) -> list[list[str | None]]:
    pieces: list[list[str | None]] = [[]]
    characters = iter(pattern)
    for character in characters:
        if character == "\\":
            quoted = next(characters, None)
            if quoted is None:
                raise EvaluationError(
                    f"LIKE pattern {pattern!r} ends in a backslash that quotes nothing: write \\\\ for a backslash"
                )
            pieces[-1].append(quoted)
        elif character == "%":
            pieces.append([])
        else:
            pieces[-1].append(None if character == "_" else character)
    return pieces


@lru_cache(maxsize=256)
def like_matcher(pattern: str) -> Matcher:
    """A predicate over whole strings. EvaluationError if the pattern ends in a lone backslash."""
    pieces = [_Piece(symbols) for symbols in _pieces(pattern)]
    first, last = pieces[0], pieces[-1]
    if len(pieces) == 1:
        if first.text is not None:
            return first.text.__eq__
        return lambda value: len(value) == first.length and first.at(value, 0)
    middle = [piece for piece in pieces[1:-1] if piece.length]
    least = first.length + last.length

    def match(value: str) -> bool:
        stop = len(value) - last.length
        if len(value) < least or not first.at(value, 0) or not last.at(value, stop):
            return False
        position = first.length
        for piece in middle:
            found = piece.find(value, position, stop)
            if found < 0:
                return False
            position = found + piece.length
        return True

    return match


def match_all(pattern: str, texts: Sequence[str]) -> list[bool]:
    """like_matcher(pattern) of each text. The longest run of literal characters is looked for in all texts at once,
    and the matcher asked where it is; a pattern that says no more than how texts begin, or end, needs no search."""
    match, run = like_matcher(pattern), _longest_run(pattern)
    pieces = _pieces(pattern)
    if len(pieces) == 2 and len(run) == len(pieces[0]) + len(pieces[1]):
        return [text.startswith(run) for text in texts] if pieces[0] else [text.endswith(run) for text in texts]
    if len(texts) < _LEAST_TEXTS or not run:
        return list(map(match, texts))
    found = [False] * len(texts)
    for number in _holders(run, "".join(texts), np.cumsum([0, *map(len, texts)])):
        found[number] = match(texts[number])
    return found


def match_spelled(pattern: str, texts: SpelledDictionary) -> Array:
    """The same for the texts of a dictionary. Their bytes are searched; where the pattern has a `_`, the texts that
    hold its longest run of literal characters become str."""
    pieces = _pieces(pattern)
    if not any(None in piece for piece in pieces):
        spelled = ["".join(s for s in piece if s is not None).encode("utf-8", "surrogatepass") for piece in pieces]
        return match_bytes(spelled, texts.heap, texts.starts)
    match, run = like_matcher(pattern), _longest_run(pattern).encode("utf-8", "surrogatepass")
    if not run:
        return np.array(match_all(pattern, texts.values), dtype=bool)
    first, stop = int(texts.starts[0]), int(texts.starts[-1])
    found = np.zeros(len(texts), dtype=bool)
    for number in _holders(run, texts.heap[first:stop].tobytes(), texts.starts - first):
        found[number] = match(texts.value(number))  # type: ignore[arg-type]
    return found


def _holders(run: AnyStr, whole: AnyStr, starts: Array) -> Iterator[int]:
    """Which of the texts whole[starts[n] : starts[n + 1]] hold a run. One search for each that is long enough, and no
    byte is looked at twice but those of the run's length at a text's end."""
    numbers = np.flatnonzero(np.diff(starts) >= len(run))
    begins, ends = starts[numbers].data, starts[numbers + 1].data
    n = 0
    while n < len(begins) and (place := whole.find(run, begins[n])) >= 0:
        n = bisect_right(begins, place, n) - 1
        if place + len(run) <= ends[n]:  # else it goes on into the next text, or lies in one that is too short
            yield int(numbers[n])
        n += 1


def _longest_run(pattern: str) -> str:
    return max(("".join(symbols) for symbols in _runs(pattern)), key=len, default="")


def _runs(pattern: str) -> list[list[str]]:
    """The runs of literal characters of a pattern."""
    runs: list[list[str]] = [[]]
    for symbols in _pieces(pattern):
        runs.append([])
        for symbol in symbols:
            if symbol is None:
                runs.append([])
            else:
                runs[-1].append(symbol)
    return runs
