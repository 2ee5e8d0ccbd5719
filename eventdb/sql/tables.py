"""CREATE [OR REPLACE] TABLE, also AS a query; CREATE TOPIC AS."""

from __future__ import annotations

from eventdb.errors import UsageError
from eventdb.logical.expressions import Literal
from eventdb.logical.plan import OutputField, Plan, Project, Values
from eventdb.logical.rules.fold_constants import fold_constants
from eventdb.schema import DataType, Field, Schema
from eventdb.sql.context import Context
from eventdb.sql.expressions import ExpressionBinder
from eventdb.sql.projection import assign, stored_type
from eventdb.sql.queries import QueryBinder
from eventdb.sql.scope import Scope
from eventdb.sql.statements import CreateAs, CreatePlainView, CreateTable
from eventdb.sql.tokens import TokenType
from eventdb.sql.topics import column_start
from eventdb.sql.words import Words


def create_table(words: Words, context: Context, or_replace: bool = False) -> CreateTable | CreateAs:
    """The statement after CREATE TABLE. ParseError or UnsupportedSQL with the place."""
    at = words.index
    if_not_exists = words.accept("IF", "NOT", "EXISTS")
    if or_replace and if_not_exists:
        raise words.error("OR REPLACE and IF NOT EXISTS exclude each other", at)
    name = words.name("the table's name")
    if is_query_next(words):
        return create_as(words, context, "table", name, if_not_exists, or_replace)
    fields: list[Field] = []
    key: list[tuple[str, int]] = []
    defaults: list[tuple[int, object]] = []
    words.elements(lambda: _element(words, context, fields, key, defaults))
    if words.word() == "WITH":
        raise words.unsupported("WITH (...) of a table", "a table has no options yet")
    words.end()
    try:
        schema = Schema(fields)
    except UsageError as error:
        raise words.error(str(error), 0) from None
    positions = []
    for column, at in key:
        index = schema.find(column)
        if index is None:
            raise words.error(f"PRIMARY KEY: no column {column!r}; the columns are {', '.join(schema.names)}", at)
        if index in positions:
            raise words.error(f"PRIMARY KEY: column {column!r} is named twice", at)
        positions.append(index)
    return CreateTable(name, required(schema, positions), tuple(positions), if_not_exists, tuple(defaults), or_replace)


def is_query_next(words: Words) -> bool:
    """Whether AS comes next, perhaps behind a list of bare names."""
    if words.word() == "AS":
        return True
    if words.word() != "(":
        return False
    close = words.at_depth_zero(words.index, ")")
    inside = range(words.index + 1, close or words.index)
    return close is not None and words.word_at(close + 1) == "AS" and all(words.word_at(i) == "," for i in inside[1::2])


def create_as(words: Words, context: Context, kind: str, name: str, if_not_exists: bool, or_replace: bool) -> CreateAs:
    """The statement from [(names)] AS on: query [WITH [NO] DATA]."""
    names = words.names("a column") if words.word() == "(" else []
    words.expect("AS")
    start, stop, with_data = words.index, words.stop, True
    for ending, data in ((("WITH", "NO", "DATA"), False), (("WITH", "DATA"), True)):
        if [words.word_at(stop - len(ending) + i) for i in range(len(ending))] == list(ending):
            stop, with_data = stop - len(ending), data
            break
    words.index = words.stop
    plan = QueryBinder(context).bind(words.source.query(start, stop), {})
    return CreateAs(kind, name, schema_of(words, plan, names, name), plan, if_not_exists, or_replace, with_data)


def schema_of(words: Words, plan: Plan, names: list[tuple[str, int]], what: str) -> Schema:
    """The columns of a table or view of a query. BindError for names that are too many or taken, or for a type that
    cannot be stored."""
    if len(names) > len(plan.fields):
        raise words.bind_error(f"{len(names)} column names for {len(plan.fields)} columns", names[0][1])
    fields = []
    for i, field in enumerate(plan.fields):
        title = names[i][0] if i < len(names) else field.name
        type = stored_type(field.type)
        if not type.is_storable:
            raise words.bind_error(f"column {title!r} of {what} is of type {type}, which cannot be stored: cast it", 0)
        fields.append(Field(title, type, True))
    try:
        return Schema(fields)
    except UsageError as error:
        raise words.bind_error(f"{error}; name one of them with AS", 0) from None


def _named_query(words: Words, plan: Plan, names: list[tuple[str, int]], text: str) -> str:
    """The query with the columns under the names of the view, each bound to its column by name. BindError if two
    columns have one name."""
    found = [field.name for field in plan.fields]
    twice = next((name for i, name in enumerate(found) if name.lower() in map(str.lower, found[:i])), None)
    if twice is not None:
        raise words.bind_error(f"two columns of the query are named {twice!r}: name one of them with AS", names[0][1])
    titles = [name for name, _ in names] + found[len(names) :]
    items = ", ".join(f"{_quoted(name)} AS {_quoted(title)}" for name, title in zip(found, titles, strict=True))
    return f"SELECT {items} FROM (\n{text}\n)"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def create_plain_view(words: Words, context: Context, or_replace: bool) -> CreatePlainView:
    """The statement after CREATE VIEW: [IF NOT EXISTS] name [(columns)] AS query."""
    if_not_exists = words.accept("IF", "NOT", "EXISTS")
    name = words.name("the view's name")
    names = words.names("a column") if words.word() == "(" else []
    words.expect("AS")
    start, words.index = words.index, words.stop
    tree = words.source.query(start, words.stop)
    context.is_stored = True
    plan = QueryBinder(context).bind(tree, {})
    if context.used:
        context.fail("a view is stored as its text: write the value in place of the parameter", tree)
    if name.lower() in context.viewed:
        context.fail(f"view {name!r} would read itself", tree)
    text = context.sql[words.tokens[start].start :].strip().rstrip(";")
    schema = schema_of(words, plan, names, name)
    if names:
        text = _named_query(words, plan, names, text)
    return CreatePlainView(name, schema, text, if_not_exists, or_replace)


def required(schema: Schema, positions: list[int]) -> Schema:
    """The schema with the columns at the positions NOT NULL."""
    return Schema(Field(f.name, f.type, f.nullable and i not in positions) for i, f in enumerate(schema))


def _element(
    words: Words, context: Context, fields: list[Field], key: list[tuple[str, int]], defaults: list[tuple[int, object]]
) -> None:
    """One column or PRIMARY KEY clause between the commas."""
    at = words.index
    if words.word(1) == "(" and (words.word() == "PRIMARY KEY"):
        if key:
            raise words.error("PRIMARY KEY is given twice", at)
        words.index += 1
        key += words.names("a column")
        return
    if words.word() in ("CONSTRAINT", "UNIQUE", "FOREIGN", "FOREIGN KEY", "CHECK", "KEY") and words.word(1) in (
        "(", "KEY", "UNIQUE", "PRIMARY KEY",
    ):  # fmt: skip
        raise words.unsupported(f"the constraint {words.word()}", "a table has PRIMARY KEY (columns) and NOT NULL")
    name, type = column_start(words, fields)
    nullable = True
    while not words.ended and words.word() not in (",", ")"):
        if words.accept("NOT", "NULL"):
            nullable = False
        elif words.word() == "PRIMARY KEY":
            if key:
                raise words.error("PRIMARY KEY is given twice; of several columns: PRIMARY KEY (a, b)", words.index)
            key.append((name, words.index))
            words.index += 1
        elif words.accept("DEFAULT"):
            if defaults and defaults[-1][0] == len(fields):
                raise words.error(f"column {name!r} has two defaults", words.index - 1)
            defaults.append((len(fields), _default(words, context, name, type)))
        elif not words.accept("NULL"):
            found = words.word() or words.text()
            raise words.unsupported(f"{found} on a column", "a column has a type, NOT NULL, DEFAULT and PRIMARY KEY")
    fields.append(Field(name, type, nullable))


def _default(words: Words, context: Context, name: str, type: DataType) -> object:
    """The physical value of the constant behind DEFAULT."""
    start = words.index
    ends = [words.at_depth_zero(start, word) for word in (",", "NOT", "NULL", "PRIMARY KEY", "DEFAULT")]
    depth, stop = 0, words.stop
    for i in range(start, words.stop):  # up to the bracket that closes the list of columns
        text = "" if words.tokens[i].token_type is TokenType.STRING else words.tokens[i].text
        depth += (text == "(") - (text == ")")
        if depth < 0:
            stop = i
            break
    words.index = min([end for end in ends if end is not None and end > start], default=stop)
    words.index = min(words.index, stop)
    if words.index == start:
        words.wrong(f"expected a constant behind DEFAULT of {name}")
    tree = words.source.expression(start, words.index)
    binder = ExpressionBinder(context, Scope([], []), "DEFAULT")
    value = fold_constants(Project(Values(((),), ()), (assign(binder, binder.bind(tree), type, name, tree),),
                                   (OutputField(name, type),)))  # fmt: skip
    assert isinstance(value, Project)
    (found,) = value.expressions
    if not isinstance(found, Literal):
        raise words.unsupported("a DEFAULT that is not a constant", "give the value in each INSERT", start)
    return found.value
