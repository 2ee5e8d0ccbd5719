"""Every fault of the matrix has its tests, and they exist."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from tests.crash.matrix import COUNTS, ELSEWHERE, MATRIX, PLANTED

TESTS = Path(__file__).resolve().parents[1]


@cache
def names_in(path: str) -> set[str]:
    tree = ast.parse((TESTS / path).read_text(encoding="utf-8"))
    return {node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")}


def missing(names: tuple[str, ...]) -> list[str]:
    return [name for name in names if name.partition("::")[2] not in names_in(name.partition("::")[0])]


def test_no_row_is_left_out() -> None:
    rows = {f"{letter}{number}" for letter, count in COUNTS.items() for number in range(1, count + 1)}
    assert set(MATRIX) | set(ELSEWHERE) == rows
    assert not set(MATRIX) & set(ELSEWHERE)


@pytest.mark.parametrize("row", MATRIX)
def test_the_names_in_a_fault_exist(row: str) -> None:
    assert MATRIX[row].tests
    assert missing(MATRIX[row].tests) == []


def test_a_test_that_does_not_exist_is_noticed() -> None:
    assert missing(("crash/test_matrix.py::test_nothing",)) == ["crash/test_matrix.py::test_nothing"]


@pytest.mark.parametrize("bug", PLANTED)
def test_a_planted_bug_has_a_test_that_catches_it(bug: str) -> None:
    assert missing(PLANTED[bug]) == []


def test_there_are_more_than_six_planted_bugs() -> None:
    assert len(PLANTED) > 6
