"""The runner itself: it must fail when a script is not kept."""

from __future__ import annotations

from typing import Any

import pytest

from .slt_runner import SltError, run_script


def execute(sql: str) -> tuple[list[str], list[tuple[Any, ...]]]:
    if sql == "boom":
        raise ValueError("it broke here")
    return ["BIGINT", "VARCHAR", "DOUBLE"], [(2, "b", 0.5), (1, None, 1e20), (3, "", float("nan"))]


GOOD = """
# first
statement ok
anything

statement error broke
boom

query ITR rowsort
SELECT
----
1\tNULL\t1e+20
2\tb\t0.5
3\t(empty)\tnan

skipif other
onlyif this
statement error
fine

halt
nonsense
"""


def test_a_script_that_is_kept_runs_to_the_end() -> None:
    assert run_script(GOOD, execute, name="x") == 3
    assert run_script(GOOD, execute, name="x", labels=frozenset(["other"])) == 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("statement ok\nanything", "statement ok\nboom"), "it broke"),
        (("statement error broke", "statement error other"), "not 'other'"),
        (("statement error broke\nboom", "statement error\nfine"), "no error"),
        (("2\tb", "2\tc"), "rows differ"),
        (("rowsort", "nosort"), "rows differ"),
        (("query ITR", "query IIR"), "columns are ITR"),
        (("----\n", ""), "a query needs ----"),
        (("# first", "querry I"), "cannot read"),
        (("onlyif this\n", ""), "no error"),
    ],
)
def test_a_script_that_is_not_kept_fails_with_its_place(change: tuple[str, str], message: str) -> None:
    assert change[0] in GOOD
    with pytest.raises(SltError, match=message):
        run_script(GOOD.replace(*change), execute, name="x.slt")
