"""FROM: topics, views, files, CTEs, subqueries, VALUES, TUMBLE and HOP, and joins, as a plan and a scope."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from difflib import get_close_matches
from itertools import zip_longest
from typing import Any

from sqlglot import exp

from eventdb.errors import BindError, EventDBError, QueryError, TopicNotFound
from eventdb.external.options import READERS
from eventdb.logical.expressions import Expression, Literal
from eventdb.logical.plan import ExternalScan, Fields, OutputField, Plan, Scan, TimeWindow, Values, ViewScan
from eventdb.logical.python_functions import PythonTable
from eventdb.schema import BIGINT, INTEGER, TIMESTAMP, VARCHAR
from eventdb.sql.arguments import arguments, constant, options
from eventdb.sql.context import Context
from eventdb.sql.expressions import ExpressionBinder
from eventdb.sql.functions import width_of
from eventdb.sql.joins import JoinBinder
from eventdb.sql.parser import locate, parse
from eventdb.sql.projection import renamed, stored_type
from eventdb.sql.python_calls import coerced
from eventdb.sql.relation import Relation
from eventdb.sql.scope import Name, Scope
from eventdb.sql.series import bind_series, series_call
from eventdb.sql.statements import TableInfo
from eventdb.sql.tokens import FUNCTION_PREFIX
from eventdb.values import decode_value

_ENDINGS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".pq", ".arrow", ".feather", ".ipc", ".arrows")
FILE_ENDINGS = tuple(ending + packed for ending in _ENDINGS for packed in ("", ".gz", ".zst", ".bz2", ".lz4"))
_SYSTEM = {"_offset": BIGINT, "_partition": INTEGER, "_append_time": TIMESTAMP, "_headers": VARCHAR}
_ELSEWHERE = ("glob", "unnest", "explode", "flatten", "read_text", "read_blob", "json_each", "json_tree", "query_table")
"""Table functions of other databases."""
WINDOW_COLUMNS = ("window_start", "window_end", "window_time")


class RelationBinder:
    """Binds FROM items. `ctes` maps lower-case names to bound plans; `bind_query` binds a nested query."""

    def __init__(
        self, context: Context, ctes: dict[str, Plan], bind_query: Callable[[exp.Expr, dict[str, Plan]], Plan]
    ) -> None:
        self.context = context
        self.ctes = ctes
        self.bind_query = bind_query

    def bind_from(self, select: exp.Select) -> Relation:
        """The joined FROM of a SELECT. A comma binds less tightly than JOIN: FROM a, b JOIN c is a and (b JOIN c)."""
        first = select.args.get("from_")
        if first is None:
            return Relation(Values(((),), ()), Scope([], []))
        joins = JoinBinder(self)
        before: Relation | None = None  # what the last comma follows
        relation = self.item(first.this)
        for join in select.args.get("joins") or []:
            comma = not any(join.args.get(part) for part in ("kind", "side", "method", "on", "using"))
            found = self.alone(join.this) if comma else None
            if isinstance(found, Relation):
                before = relation if before is None else joins.product(before, relation, join)
                relation = found
                continue
            if before is not None and (comma or isinstance(join.this, exp.Lateral)):  # it sees all that stands before
                relation, before = joins.product(before, relation, join), None
            relation = joins.bind(relation, join)
        return relation if before is None else joins.product(before, relation, select)

    def alone(self, node: exp.Expr) -> Relation | BindError | None:
        """A FROM item bound without those before it; None for LATERAL, and why a subquery cannot be bound so."""
        if isinstance(node, exp.Lateral):
            return None
        movable = isinstance(node, exp.Subquery) and not _holds_from(node.this)
        if not movable and series_call(node) is None:
            return self.item(node)
        taken = [len(around.args) for around in self.context.enclosing]
        try:
            return self.item(node)
        except BindError as error:
            for around, count in zip(self.context.enclosing, taken, strict=True):
                del around.args[count:]
            return error

    # -- items -----------------------------------------------------------------------------------------------------

    def item(self, node: exp.Expr) -> Relation:
        """One FROM item with its alias, and the joins inside its parentheses."""
        if isinstance(node, exp.Table):
            relation = self._table(node)
        elif isinstance(node, exp.Subquery) and _holds_from(node.this):
            if node.args.get("alias") is not None:
                self.context.unsupported("an alias of a FROM in parentheses", node, "give each table its own: (t AS x)")
            relation = self.item(node.this)
        elif isinstance(node, (exp.Subquery, exp.Values)):
            relation = self._derived(node)
        elif isinstance(node, exp.Lateral) and isinstance(node.this, exp.Anonymous):
            relation = self._table_function(exp.Table(this=node.this, alias=node.args.get("alias")), node.this)
        elif isinstance(node, exp.Lateral) and isinstance(node.this, exp.Subquery):
            relation = self.named(self.bind_query(_unwrapped(node.this), self.ctes), node, "")  # first: nothing before
        else:
            shown = {"Lateral": "LATERAL", "Unnest": "UNNEST"}.get(type(node).__name__, type(node).__name__)
            self.context.unsupported(f"{shown} in FROM", node)
        for join in node.args.get("joins") or []:
            relation = JoinBinder(self).bind(relation, join)
        return relation

    def _derived(self, node: exp.Expr) -> Relation:
        query = node if isinstance(node, exp.Values) else _unwrapped(node)
        return self.named(self.bind_query(query, self.ctes), node, "")

    def named(self, plan: Plan, node: exp.Expr, default: str) -> Relation:
        alias = node.args.get("alias")
        names = [part.name for part in alias.args.get("columns") or []] if alias is not None else []
        if len(names) > len(plan.fields):
            self.context.fail(f"{len(names)} column names for {len(plan.fields)} columns", node)
        fields = tuple(replace(f, name=n) for f, n in zip(plan.fields, names, strict=False)) + plan.fields[len(names) :]
        return Relation(plan, Scope.of_fields(fields, (alias.name if alias is not None else "") or default))

    def _table(self, node: exp.Table) -> Relation:
        if isinstance(node.this, exp.Anonymous):
            return self._table_function(node, node.this)
        if not isinstance(node.this, exp.Identifier):
            self.context.unsupported(f"{type(node.this).__name__.upper()} in FROM", node)
        parts = [part.name for part in (node.args.get("catalog"), node.args.get("db"), node.this) if part is not None]
        name = ".".join(parts)
        cte = self.ctes.get(name.lower()) if len(parts) == 1 else None
        if cte is not None:
            depth = len(self.context.enclosing)
            if any(plan is cte and stands != depth for plan, stands in self.context.correlated):
                self.context.unsupported("a correlated WITH query in a subquery of its query", node, "repeat it there")
            return self.named(cte, node, name)
        table = self._resolve(name, node)
        if table.kind == "object":
            self.context.refuse_stored(f"the Python object {table.name!r}", node)
        if table.query is not None:
            return self.named(self._viewed(table, node), node, _base_name(name))
        return self._renamed(table, node)

    def _renamed(self, table: TableInfo, node: exp.Expr) -> Relation:
        """The scan of a table under its alias."""
        plan, names = self.scan(table)
        alias = node.args.get("alias")
        shown = (alias.name if alias is not None else "") or _base_name(table.name)
        renamed = [part.name for part in alias.args.get("columns") or []] if alias is not None else []
        if len(renamed) > len(plan.fields):
            self.context.fail(f"{len(renamed)} column names for {len(plan.fields)} columns", node)
        bound = [replace(n, table=shown, name=renamed[i] if i < len(renamed) else n.name) for i, n in enumerate(names)]
        return Relation(plan, Scope(bound, [shown]))

    def _called(self, callee: PythonTable, call: exp.Anonymous) -> TableInfo:
        """The rows of a table function written in Python."""
        binder = ExpressionBinder(self.context, Scope([], []), f"the arguments of {callee.name}()")
        bound = coerced(binder, callee, [binder.bind(argument) for argument in call.expressions], call)
        if not all(isinstance(argument, Literal) for argument in bound):
            self.context.fail(f"the arguments of {callee.name}() must be constants", call)
        values = [decode_value(a.type, a.value) if a.value is not None else None for a in bound
                  if isinstance(a, Literal)]  # fmt: skip
        return self.context.resolver.call(callee, values)

    def _read(self, reader: str, call: exp.Anonymous) -> TableInfo:
        """The files that read_csv('...') and its like name."""
        positional, named = options(self.context, call, reader)
        paths = [constant(self.context, argument, f"{reader}(): the path") for argument in positional]
        paths = paths[0] if len(paths) == 1 and isinstance(paths[0], list) else paths
        if len(positional) != 1 or not all(isinstance(path, str) for path in paths):
            self.context.fail(f"{reader}() takes a path or a list of paths, then options: name => value", call)
        try:
            return self.context.resolver.files(reader, paths, named)
        except EventDBError as error:
            self.context.fail(str(error), call)

    def _viewed(self, table: TableInfo, node: exp.Expr) -> Plan:
        """The plan of a plain view's query, with the view's names. BindError naming the view if it no longer binds."""
        outer = self.context
        if table.name in outer.viewing:
            outer.fail(f"view {table.name!r} reads itself", node)
        inner = Context(parse(table.query or ""), outer.resolver, None)
        inner.is_stored = True
        inner.viewed = outer.viewed
        inner.viewed.add(table.name.lower())
        inner.viewing = (*outer.viewing, table.name)
        inner.recursions = outer.recursions
        try:
            source = inner.source
            plan = type(self)(inner, {}, self.bind_query).query_of(source.query(0, len(source.tokens)))
            source.check_bound()
        except QueryError as error:
            first = str(error).splitlines()[0]
            outer.fail(f"view {table.name!r} cannot be read any more: {first}", node)
        outer.recursions = inner.recursions
        self._check_columns(table, plan, node)
        return renamed(plan, table.schema.names)

    def _check_columns(self, view: TableInfo, plan: Plan, node: exp.Expr) -> None:
        """BindError naming the first column that is another than when the view was created."""
        for kept, found in zip_longest(view.schema, plan.fields):
            if kept is not None and found is not None and kept.name.lower() == found.name.lower():
                if kept.type == stored_type(found.type):
                    continue
                what = f"column {kept.name!r} was {kept.type} when it was created and is {found.type}"
            elif kept is None:
                what = f"its query has a column {found.name!r} that it was created without"
            else:
                what = f"column {kept.name!r} is not where it was" + ("" if found is None else f", but {found.name!r}")
            self.context.fail(f"view {view.name!r} cannot be read any more: {what}; create it again", node)

    def query_of(self, tree: exp.Expr) -> Plan:
        """The plan of a query that stands alone."""
        from eventdb.sql.queries import QueryBinder

        return QueryBinder(self.context).bind(tree, {})

    def _resolve(self, name: str, node: exp.Expr) -> TableInfo:
        line, column = locate(self.context.sql, node)
        start = (node.this._meta or {}).get("start", -1) if isinstance(node.this, exp.Identifier) else -1
        quoted = 0 <= start < len(self.context.sql) and self.context.sql[start] == "'"
        try:
            if quoted or name.lower().endswith(FILE_ENDINGS) or "/" in name:
                return self.context.resolver.file(name)
            return self.context.resolver.table(name)
        except TopicNotFound as error:
            known = {n.lower(): n for n in [*self.ctes, *self.context.resolver.names()]}
            near = [known[n] for n in get_close_matches(name.lower(), list(known), 3)] or list(error.near)
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise BindError(
                f"no topic, table or view {name!r}{hint}", sql=self.context.sql, line=line, column=column
            ) from error
        except QueryError:
            raise
        except EventDBError as error:
            raise BindError(str(error), sql=self.context.sql, line=line, column=column) from error

    def scan(self, table: TableInfo) -> tuple[Plan, list[Name]]:
        """The scan of all columns (and the system columns this statement mentions), and what they are called."""
        fields: Fields = tuple(OutputField(f.name, f.type, f.nullable) for f in table.schema)
        names = [Name("", f.name, f.type, i) for i, f in enumerate(fields)]
        columns = tuple(f.name for f in fields)
        if table.source is not None:
            return ExternalScan(table.source, columns, fields), names
        if table.kind == "view":
            return ViewScan(table.id, table.name, columns, fields), names
        system = self.system_columns(table)
        wanted = [name for name in _SYSTEM if name in system.values()]
        fields += tuple(OutputField(name, _SYSTEM[name], name == "_headers") for name in wanted)
        columns += tuple(wanted)
        position = {name: i for i, name in enumerate(columns)}
        for name, source in system.items():
            index = position[source]
            names.append(Name("", name, fields[index].type, index, in_star=False))
        keys = tuple(table.schema.names[i] for i in table.primary_key)
        return Scan(table.id, table.name, columns, fields, event_time=schema_name(table), primary_key=keys), names

    def system_columns(self, table: TableInfo) -> dict[str, str]:
        """System columns the statement mentions -> the column that holds them."""
        sources = {name: name for name in _SYSTEM} | {"_time": table.event_time or "_append_time"}
        if table.key is not None:
            sources["_key"] = table.key
        schema = {field.name.lower(): field.name for field in table.schema}
        return {
            name: schema.get(source.lower(), source) for name, source in sources.items() if name in self.context.words
        }

    # -- TUMBLE and HOP --------------------------------------------------------------------------------------------

    def _table_function(self, node: exp.Table, call: exp.Anonymous) -> Relation:
        if series_call(node) is not None:
            return bind_series(self.context, call, node, Relation(Values(((),), ()), Scope([], [])))
        name = str(call.this).removeprefix(FUNCTION_PREFIX).lower()
        if name in READERS:
            return self._renamed(self._read(name, call), node)
        callee = self.context.function(name, call)
        if isinstance(callee, PythonTable):
            return self._renamed(self._called(callee, call), node)
        if name not in ("tumble", "hop"):
            if name in _ELSEWHERE:
                self.context.unsupported(f"the table function {name}()", call)
            near = get_close_matches(name, [*READERS, "range", "generate_series", "tumble", "hop"], 1)
            self.context.fail(f"no table function {name}(){f'; did you mean {near[0]}()?' if near else ''}", call)
        named, positional = arguments(call)
        order = ["data", "timecol", "size"] if name == "tumble" else ["data", "timecol", "slide", "size"]
        for key, value in zip(order, positional, strict=False):
            if key in named:
                self.context.fail(f"{name}(): {key} is given twice", value)
            named[key] = value
        unknown = [key for key in named if key not in order]
        missing = [key for key in order if key not in named]
        if len(positional) > len(order) or unknown or missing:
            what = (
                f"unknown {', '.join(unknown)}"
                if unknown
                else f"{', '.join(missing)} missing"
                if missing
                else "too many"
            )
            shown = f"{name.upper()}(topic, time column, {', '.join(f'{k} => interval' for k in order[2:])})"
            self.context.fail(f"{name}(): {what}; write {shown}", call)
        relation = self._window_input(named["data"])
        binder = ExpressionBinder(self.context, relation.scope, name)
        time = binder.bind(_without_descriptor(named["timecol"]))
        relation = self.windowed(relation, time, named, name, call, binder)
        alias = node.args.get("alias")
        if alias is None:
            return relation
        if alias.args.get("columns"):
            self.context.unsupported("column aliases on a table function", node)
        scope = Scope([replace(n, table=alias.name) for n in relation.scope.names], [alias.name])
        return Relation(relation.plan, scope)

    def windowed(
        self,
        relation: Relation,
        time: Expression,
        widths: dict[str, exp.Expr],
        name: str,
        node: Any,
        binder: ExpressionBinder,
    ) -> Relation:
        """The relation with one row per window and the window columns in scope. `widths`: size, and slide for HOP."""
        if time.type.name not in ("TIMESTAMP", "DATE"):
            self.context.fail(f"{name}() needs a TIMESTAMP, not {time.type}", node)
        time = binder.coerce(time, TIMESTAMP, node)
        intervals = {
            key: width_of(binder, binder.bind(widths[key]), widths[key]) for key in ("size", "slide") if key in widths
        }
        if any(value.months for value in intervals.values()):
            self.context.unsupported("a window of calendar months", node, "use time_bucket('1 month', ts)")
        size = intervals["size"].microseconds
        slide = intervals["slide"].microseconds if "slide" in intervals else size
        if slide > size:
            self.context.fail(f"{name}(): slide must not be longer than size; rows between windows would be lost", node)
        plan = TimeWindow(relation.plan, time, size, slide)
        base = len(relation.plan.fields)
        table = relation.scope.tables[0] if len(relation.scope.tables) == 1 else ""
        added = [Name(table, column, TIMESTAMP, base + i) for i, column in enumerate(WINDOW_COLUMNS)]
        return Relation(plan, Scope([*relation.scope.names, *added], relation.scope.tables))

    def _window_input(self, node: exp.Expr) -> Relation:
        if isinstance(node, (exp.Subquery, exp.Select)):
            return self.named(self.bind_query(_unwrapped(node), self.ctes), node, "")
        if isinstance(node, exp.Column):
            parts = [part for part in (node.args.get("db"), node.args.get("table"), node.this) if part is not None]
            table = exp.Table(this=parts[-1], db=parts[-2] if len(parts) > 1 else None)
            return self._table(table)
        if isinstance(node, exp.Literal) and node.is_string:
            table = exp.Table(this=exp.Identifier(this=node.this, quoted=True))
            return self._table(table)
        self.context.fail("the first argument is a topic, view, CTE or subquery", node)


def schema_name(table: TableInfo) -> str | None:
    """The event-time column as the schema spells it."""
    index = table.schema.find(table.event_time) if table.event_time is not None else None
    return None if index is None else table.schema.names[index]


def _holds_from(node: exp.Expr) -> bool:
    """Whether what stands in parentheses in FROM is again a FROM item and not a query."""
    if isinstance(node, exp.Subquery):
        return bool(node.args.get("alias") or node.args.get("joins")) or _holds_from(node.this)
    return isinstance(node, exp.Table)


def _unwrapped(node: exp.Expr) -> exp.Expr:
    """The query inside plain parentheses."""
    while isinstance(node, exp.Subquery) and not any(
        node.args.get(part) for part in ("order", "limit", "offset", "with_")
    ):
        node = node.this
    return node


def _base_name(name: str) -> str:
    """What a table is called without an alias: a file by its name without folder and ending."""
    if name.lower().endswith(FILE_ENDINGS) or "/" in name:
        return name.replace("\\", "/").rsplit("/", 1)[-1].split(".", 1)[0]
    return name.rsplit(".", 1)[-1] if name.startswith("eventdb.") else name


def _without_descriptor(node: exp.Expr) -> exp.Expr:
    """DESCRIPTOR(ts) is ts."""
    if isinstance(node, exp.Anonymous) and str(node.this).lower().endswith("descriptor") and len(node.expressions) == 1:
        inner: exp.Expr = node.expressions[0]
        return inner
    return node


def conjunct_trees(node: exp.Expr) -> list[exp.Expr]:
    """The terms of a chain of ANDs, in order."""
    terms: list[exp.Expr] = []
    stack = [node]
    while stack:
        current = stack.pop()
        if isinstance(current, exp.And):
            stack.extend((current.expression, current.this))
        elif isinstance(current, exp.Paren) and isinstance(current.this, exp.And):
            stack.append(current.this)
        else:
            terms.append(current)
    return terms
