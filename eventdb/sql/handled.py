"""Which parts of a syntax tree the binder reads. What is parsed and not listed here is refused, never left out.

sqlglot reads far more than we run: a clause it knows lands in an argument of a node that nobody looks at. The table
lists, for each kind of node, where it stands and the arguments the binder reads or refuses with words of its own.
"""

from __future__ import annotations

from typing import Any

from sqlglot import exp

_TAIL = "order limit offset with_"
_PARTS: dict[str, tuple[str, str]] = {  # node: (its place in messages, its arguments)
    "Select": ("", f"expressions from_ joins where group having qualify windows distinct {_TAIL}"),
    "Subquery": ("a parenthesised query", f"this alias joins {_TAIL}"),
    "Union": ("UNION", f"this expression distinct by_name {_TAIL}"),
    "Intersect": ("INTERSECT", f"this expression distinct by_name {_TAIL}"),
    "Except": ("EXCEPT", f"this expression distinct by_name {_TAIL}"),
    "Lateral": ("LATERAL", "this alias"),
    "Values": ("VALUES", f"expressions alias {_TAIL}"),
    "With": ("WITH", "expressions recursive"),
    "CTE": ("WITH", "this alias materialized"),  # MATERIALIZED is a hint: the rows are the same
    "From": ("FROM", "this"),
    "Table": ("FROM", "this db catalog alias joins"),
    "TableAlias": ("an alias", "this columns"),
    "Join": ("JOIN", "this on using side kind method"),
    "Where": ("WHERE", "this"),
    "Group": ("", "expressions all"),
    "Having": ("HAVING", "this"),
    "Order": ("ORDER BY", "this expressions"),
    "Ordered": ("ORDER BY", "this desc nulls_first"),
    "Limit": ("LIMIT", "expression limit_options"),
    "Offset": ("OFFSET", "expression"),
    "Fetch": ("FETCH", "direction count limit_options"),
    "LimitOptions": ("LIMIT", "rows percent"),
    "Distinct": ("DISTINCT", "expressions on"),
    "Star": ("a select list", "except_ replace rename"),
    "Column": ("a column", "this table db catalog"),
    "Identifier": ("a name", "this quoted"),
    "Literal": ("a literal", "this is_string"),
    "Interval": ("INTERVAL", "this unit"),
    "Between": ("BETWEEN", "this low high symmetric"),
    "In": ("IN", "this expressions query unnest field"),
    "Like": ("LIKE", "this expression negate"),
    "ILike": ("ILIKE", "this expression negate"),
    "Case": ("CASE", "this ifs default"),
    "If": ("CASE", "this true"),
    "Cast": ("CAST", "this to format"),
    "TryCast": ("TRY_CAST", "this to format safe"),
    "DataType": ("a type", "this expressions nested kind"),
    "Div": ("a division", "this expression typed safe"),
    "DPipe": ("||", "this expression safe"),
    "StrPosition": ("POSITION", "this substr"),
    "Substring": ("SUBSTRING", "this start length"),
    "Trim": ("TRIM", "this expression position"),
    "Alias": ("an alias", "this alias"),
    "Window": ("OVER", "this partition_by order spec alias over"),
    "WindowSpec": ("a frame", "kind start start_side end end_side exclude"),
    "Describe": ("DESCRIBE", "this kind as_json"),
    "Null": ("", ""),
    "CurrentTimestamp": ("CURRENT_TIMESTAMP", ""),
    "CurrentDate": ("CURRENT_DATE", ""),
} | dict.fromkeys(
    """Array Struct Boolean HexString Placeholder Parameter Var Paren And Or Not Neg Is Escape Anonymous Filter Extract
    IgnoreNulls RespectNulls WithinGroup Qualify GroupingSets Rollup Cube Grouping Columns
    Tuple Kwarg PropertyEQ DataTypeParam Add Sub Mul IntDiv Mod Pow EQ NEQ LT LTE GT GTE NullSafeEQ
    NullSafeNEQ PositionalColumn Exists Any All Collate""".split(),
    ("an expression", "this expression expressions"),
)  # fmt: skip
_HANDLED = {getattr(exp, name): (place, frozenset(parts.split())) for name, (place, parts) in _PARTS.items()}
_NAMES = {
    "windows": "WINDOW", "pivots": "PIVOT", "laterals": "LATERAL", "sample": "TABLESAMPLE", "locks": "FOR UPDATE",
    "when": "FOR SYSTEM_TIME AS OF", "totals": "GROUP BY WITH TOTALS", "into": "SELECT INTO",
    "kind": "SELECT AS", "with_": "WITH", "connect": "CONNECT BY", "from_": "FROM", "group": "GROUP BY",
    "order": "ORDER BY", "expressions": "BY", "key_expressions": "USING KEY",
}  # fmt: skip


def shown(part: str) -> str:
    """The clause an argument of a node holds, as it is written."""
    return _NAMES.get(part, part.strip("_").replace("_", " ").upper())


def unhandled(tree: exp.Expr) -> tuple[str, exp.Expr] | None:
    """The first part of a tree that the binder does not read: what it is called, and where it stands.

    None if all is read. Kinds of nodes that are not listed are passed over with all below them: `unlisted` has them.
    """
    for node in _listed(tree):
        place, parts = _HANDLED[type(node)]
        for name, value in node.args.items():
            if value and name not in parts:
                part = value[0] if isinstance(value, list) else value
                return f"{shown(name)} in {place}" if place else shown(name), part if _is_node(part) else node
    return None


def unlisted(tree: exp.Expr) -> exp.Expr | None:
    """The first node of a kind the table does not list. The binder refuses nearly all of them, in better words."""
    return next((node for node in _listed(tree, others=True) if type(node) not in _HANDLED), None)


def _listed(tree: exp.Expr, others: bool = False) -> list[exp.Expr]:
    """The listed nodes of a tree from the top, and the others they hold if wanted."""
    found, stack = [], [tree]
    while stack:
        node = stack.pop()
        listed = type(node) in _HANDLED
        if listed or others:
            found.append(node)
        if listed:
            for value in node.args.values():
                stack.extend(part for part in (value if isinstance(value, list) else [value]) if _is_node(part))
    return found


def _is_node(value: Any) -> bool:
    return isinstance(value, exp.Expr)
