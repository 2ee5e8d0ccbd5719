"""A generator of relational queries over the tables t, u, v: joins, subqueries everywhere, set operations."""

from __future__ import annotations

from hypothesis import strategies as st

_SCALARS = (
    "count(*)", "count({})", "max({})", "sum({})", "count(*) + max({})", "regr_count({0}, {0})", "entropy({})",
    "length(string_agg({0}::INTEGER::VARCHAR, ',' ORDER BY {0}))", "median({})",
)  # fmt: skip
JOINS = ("JOIN", "LEFT JOIN", "RIGHT JOIN", "FULL JOIN", "SEMI JOIN", "ANTI JOIN", "CROSS JOIN")


@st.composite
def conditions(draw: st.DrawFn, names: list[str], depth: int = 1, numbers: str = "abd") -> str:
    """A BOOLEAN expression over the named tables."""
    kind = draw(st.integers(0, 9 if depth > 0 else 4))
    first, second = draw(st.sampled_from(names)), draw(st.sampled_from(names))
    x, y = (f"{name}.{draw(st.sampled_from(numbers))}" for name in (first, second))
    operator = draw(st.sampled_from(("=", "=", "=", "<", "<>", ">=", "IS NOT DISTINCT FROM")))
    if kind == 0:
        return f"{x} {operator} {draw(st.integers(0, 2))}"
    if kind == 1:
        return f"{first}.c = {second}.c"
    if kind == 2:
        return f"{x} IS {draw(st.sampled_from(('', 'NOT ')))}NULL"
    if kind in (3, 4):
        return f"{x} {operator} {y}"
    if kind == 5:
        left, right = draw(conditions(names, depth - 1)), draw(conditions(names, depth - 1))
        return f"({left} {draw(st.sampled_from(('AND', 'OR')))} {right})"
    if kind == 6:
        return f"NOT ({draw(conditions(names, depth - 1))})"
    return draw(tests_of_subqueries(names, x, depth - 1))


@st.composite
def tests_of_subqueries(draw: st.DrawFn, names: list[str], operand: str, depth: int) -> str:
    alias = f"s{len(names)}"
    kind = draw(st.integers(0, 5))
    rows = draw(inner_rows(names, alias, depth))
    negated = draw(st.sampled_from(("", "NOT ")))
    if kind == 0:
        return f"{negated}EXISTS (SELECT 1 {rows})"
    if kind in (1, 2):
        return f"{operand} {negated}IN ({draw(columns(alias, rows, names))})"
    if kind == 3:
        comparison = draw(st.sampled_from(("=", "<>", "<", ">=")))
        which = draw(st.sampled_from(("ANY", "ALL")))
        return f"{operand} {comparison} {which} (SELECT {alias}.{draw(st.sampled_from('abd'))} {rows})"
    comparison = draw(st.sampled_from(("=", "<", ">")))
    return f"{operand} {comparison} ({draw(scalars(names, depth))})"


@st.composite
def inner_rows(draw: st.DrawFn, names: list[str], alias: str, depth: int) -> str:
    """FROM and WHERE of a subquery, often correlated."""
    table = draw(st.sampled_from(("t", "u", "v")))
    where = draw(st.none() | conditions([alias, *names, alias], depth))
    return f"FROM {table} {alias}" + (f" WHERE {where}" if where else "")


@st.composite
def columns(draw: st.DrawFn, alias: str, rows: str, names: list[str]) -> str:
    """A query of one column: of the rows as they are, computed over windows, of grouping sets, or DISTINCT ON."""
    x, y = (f"{alias}.{draw(st.sampled_from('abd'))}" for _ in range(2))
    outer = f"{draw(st.sampled_from(names))}.{draw(st.sampled_from('ab'))}"
    forms = (
        f"SELECT {x} {rows}",
        f"SELECT rank() OVER (PARTITION BY {x} ORDER BY {y} NULLS LAST) {rows}",
        f"SELECT sum({x} + {outer}) OVER (ORDER BY {y} NULLS LAST) {rows}",
        f"SELECT count(*) {rows} GROUP BY ROLLUP ({x}, {y})",
        f"SELECT sum({x}) {rows} GROUP BY GROUPING SETS (({y}), ())",
        f"SELECT DISTINCT ON ({x}) {x} {rows}",
        f"SELECT {x} {rows} QUALIFY count(*) OVER (PARTITION BY {y}) > 1",
    )
    return draw(st.sampled_from(forms))


@st.composite
def scalars(draw: st.DrawFn, names: list[str], depth: int) -> str:
    """A query of one value: an aggregate, or the first of the ordered rows."""
    alias = f"s{len(names)}"
    rows = draw(inner_rows(names, alias, depth))
    column = f"{alias}.{draw(st.sampled_from('abd'))}"
    kind = draw(st.integers(0, 4))
    if kind < 4:
        call = draw(st.sampled_from(_SCALARS))
        having = draw(st.sampled_from(("", "", " HAVING count(*) > 1")))
        return f"SELECT {call.format(column)} {rows}{having}"
    return f"SELECT {column} {rows} ORDER BY 1 NULLS LAST LIMIT 1"


@st.composite
def froms(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A FROM clause, and the tables whose columns can be read."""
    text, names, near = "t", ["t"], ["t"]  # near: what an ON can read, which is nothing before a comma
    for table in ("u", "v"):
        if not draw(st.booleans()):
            continue
        kind = draw(st.sampled_from((*JOINS, ",", "LATERAL")))
        if kind == ",":
            text, names, near = f"{text}, {table}", [*names, table], [table]
        elif kind == "CROSS JOIN":
            text, names, near = f"{text} CROSS JOIN {table}", [*names, table], [*near, table]
        elif kind == "LATERAL":
            where = draw(conditions([*near, "w", "w"], 0))
            text += f" LEFT JOIN LATERAL (SELECT w.a, w.b, w.c, w.d FROM {table} w WHERE {where}) {table} ON TRUE"
            names, near = [*names, table], [*near, table]
        else:
            on = draw(conditions([*near, table, table], draw(st.sampled_from((0, 0, 1)))))
            text += f" {kind} {table} ON {on}"
            if kind not in ("SEMI JOIN", "ANTI JOIN"):
                names, near = [*names, table], [*near, table]
    return text, names


@st.composite
def queries(draw: st.DrawFn) -> str:
    source, names = draw(froms())
    where = draw(st.none() | conditions(names, 2))
    text = f"FROM {source}" + (f" WHERE {where}" if where else "")
    if draw(st.booleans()):
        items = [f"{name}.{draw(st.sampled_from('abcd'))}" for name in names]
        if draw(st.booleans()):
            items.append(f"({draw(scalars(names, 1))})")
        if draw(st.booleans()):
            items.append(f"({draw(conditions(names, 1))})")
        return f"SELECT {', '.join(items)} {text}"
    key = f"{draw(st.sampled_from(names))}.a"
    having = draw(st.sampled_from(("", f" HAVING count(*) > (SELECT min(u2.b) FROM u u2 WHERE u2.a = {key})")))
    value = draw(st.sampled_from((f"(SELECT count(*) FROM v v2 WHERE v2.a = {key})", "max(t.b)")))
    return f"SELECT {key}, count(*), {value} {text} GROUP BY {key}{having}"


@st.composite
def set_operations(draw: st.DrawFn) -> str:
    """A chain of set operations over selects of two columns."""

    def one() -> str:
        table = draw(st.sampled_from(("t", "u", "v")))
        text = f"SELECT {draw(st.sampled_from('abd'))}, {draw(st.sampled_from('abd'))} FROM {table}"
        return text + draw(st.sampled_from(("", " WHERE a > 0", " WHERE b IS NULL")))

    text = one()
    for _ in range(draw(st.integers(1, 3))):
        word = draw(st.sampled_from(("UNION", "INTERSECT", "EXCEPT"))) + draw(st.sampled_from(("", " ALL")))
        other = one()
        if draw(st.integers(0, 3)) == 0:
            other = f"({other} {draw(st.sampled_from(('UNION', 'EXCEPT ALL', 'INTERSECT')))} {one()})"
        text = f"({text}) {word} {other}" if draw(st.booleans()) else f"{text} {word} {other}"
    return text
