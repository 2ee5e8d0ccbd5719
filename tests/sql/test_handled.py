"""What is parsed and not run is refused by name: no clause of any statement is left out in silence."""

from __future__ import annotations

import pytest
from sqlglot import exp

from eventdb.errors import UnsupportedSQL
from eventdb.sql import handled
from eventdb.sql.expressions import _BINDERS
from tests.sql.tables import bound

CLAUSES = [  # behind DELETE FROM stock WHERE k > 0, UPDATE stock SET v = 1 WHERE k > 0
    ("LIMIT 1", "LIMIT"),
    ("ORDER BY k", "ORDER BY"),
    ("OFFSET 1", "OFFSET"),
    ("GROUP BY k", "GROUP BY"),
    ("HAVING k > 1", "HAVING"),
    ("QUALIFY k > 1", "QUALIFY"),
    ("WINDOW w AS (ORDER BY k)", "WINDOW"),
    ("FOR UPDATE", "FOR UPDATE"),
    ("FROM devices", "FROM"),
    ("UNION ALL SELECT 1", "UNION"),
]


@pytest.mark.parametrize("statement", ["DELETE FROM stock", "UPDATE stock SET v = 1"])
@pytest.mark.parametrize(("clause", "name"), CLAUSES)
def test_a_change_of_rows_refuses_every_clause_it_would_leave_out(statement: str, clause: str, name: str) -> None:
    """DELETE ... WHERE ... LIMIT 1 deleted every row that WHERE chose."""
    for where in (" WHERE k > 0", " WHERE (k > 0)", " WHERE v IS NOT NULL"):
        with pytest.raises(UnsupportedSQL) as caught:
            bound(f"{statement}{where} {clause}")
        assert name in {caught.value.construct.partition(" in ")[0], caught.value.construct.removeprefix("UPDATE ... ")}
    if statement.startswith("UPDATE") and name == "FROM":
        bound(f"{statement} {clause}")  # where it belongs, it means something
        return
    with pytest.raises(UnsupportedSQL, match=name.split()[0]):
        bound(f"{statement} {clause}")


@pytest.mark.parametrize(
    ("sql", "construct"),
    [
        ("SELECT n FROM readings FOR UPDATE", "FOR UPDATE"),
        ("SELECT n FROM (SELECT n FROM readings FOR SHARE)", "FOR UPDATE"),
        ("SELECT n INTO x FROM readings", "SELECT INTO"),
        ("SELECT n FROM readings USING SAMPLE 1", "TABLESAMPLE"),
        ("SELECT n FROM readings TABLESAMPLE 1%", "TABLESAMPLE in FROM"),
        ("SELECT n FROM (readings LIMIT 1)", "LIMIT in FROM"),
        ("SELECT n FROM (readings TABLESAMPLE 1%)", "TABLESAMPLE in FROM"),
        ("SELECT x.n FROM (readings) AS x", "an alias of a FROM in parentheses"),
        ("SELECT n FROM ONLY readings", "ONLY in FROM"),
        ("SELECT n FROM readings ORDER BY n FETCH FIRST 1 ROW WITH TIES", "WITH TIES in LIMIT"),
        ("SELECT n FROM readings LIMIT 1 BY n", "BY in LIMIT"),
        ("SELECT n FROM readings GROUP BY n WITH TOTALS", "GROUP BY WITH TOTALS"),
        ("SELECT n FROM readings CONNECT BY n", "CONNECT BY"),
        ("SELECT count(* EXCLUDE (n)) FROM readings", "count() of anything but * or one expression"),
        ("SELECT 1 EXCEPT BY NAME SELECT 1", "EXCEPT BY NAME"),
        ("SELECT 1 UNION ALL (SELECT 2 FOR UPDATE)", "FOR UPDATE"),
        ("WITH x USING KEY (a) AS (SELECT 1) SELECT * FROM x", "USING KEY in WITH"),
        ("SELECT INTERVAL '1' DAY TO HOUR", "INTERVALSPAN"),
        ("INSERT INTO stock SELECT 1, 2 FOR UPDATE", "FOR UPDATE"),
        ("INSERT INTO stock VALUES (1, 1) ON CONFLICT (k) DO UPDATE SET v = 1 LIMIT 1", "LIMIT in SET"),
        ("INSERT INTO stock VALUES (1, 1) ON CONFLICT (k) DO UPDATE SET v = 1 WHERE v > 1 LIMIT 1",
         "LIMIT in ON CONFLICT"),
        ("CREATE TABLE x (k INTEGER PRIMARY KEY) WITH (a = 1)", "WITH (...) of a table"),
        ("ALTER TABLE stock ADD COLUMN x INTEGER", "ALTER TABLE ... ADD COLUMN"),
        ("SHOW CREATE TABLE stock", "SHOW CREATE TABLE"),
        ("SHOW MATERIALIZED VIEWS", "SHOW MATERIALIZED VIEWS"),
    ],
)  # fmt: skip
def test_what_is_not_run_is_refused_by_name(sql: str, construct: str) -> None:
    with pytest.raises(UnsupportedSQL) as caught:
        bound(sql)
    assert caught.value.construct == construct


def test_an_argument_of_a_listed_node_is_refused_wherever_it_stands() -> None:
    """Every argument sqlglot may ever fill, of every node we list, is read or found."""
    planted = 0
    for kind, (_, read) in handled._HANDLED.items():
        for argument in set(kind.arg_types) - read:
            deep = exp.Select(expressions=[exp.Paren(this=kind(**{argument: exp.Null()}))])
            assert handled.unhandled(deep) is not None, (kind, argument)
            planted += 1
    assert planted > 100
    assert handled.unlisted(exp.Select(expressions=[exp.Paren(this=exp.Rand())])) is not None


def test_every_expression_that_is_bound_is_listed() -> None:
    refused = {exp.Window}  # in words of the binder's own
    assert set(_BINDERS) - refused <= set(handled._HANDLED)


def test_is_distinct_from_in_set_is_no_from() -> None:
    bound("UPDATE stock SET v = CASE WHEN v IS DISTINCT FROM k THEN 1 END WHERE v IS DISTINCT FROM k RETURNING k")
