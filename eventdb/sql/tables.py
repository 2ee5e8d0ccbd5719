"""CREATE TABLE."""

from __future__ import annotations

from eventdb.errors import UsageError
from eventdb.logical.expressions import Literal
from eventdb.logical.plan import OutputField, Project, Values
from eventdb.logical.rules.fold_constants import fold_constants
from eventdb.schema import DataType, Field, Schema
from eventdb.sql.context import Context
from eventdb.sql.expressions import ExpressionBinder
from eventdb.sql.projection import assign
from eventdb.sql.scope import Scope
from eventdb.sql.statements import CreateTable
from eventdb.sql.tokens import TokenType
from eventdb.sql.topics import column_start
from eventdb.sql.words import Words


def create_table(words: Words, context: Context) -> CreateTable:
    """The statement after CREATE TABLE. ParseError or UnsupportedSQL with the place."""
    if_not_exists = words.accept("IF", "NOT", "EXISTS")
    name = words.name("the table's name")
    if words.word() == "AS":
        raise words.unsupported("CREATE TABLE ... AS SELECT", "create the table, then INSERT INTO it")
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
    return CreateTable(name, required(schema, positions), tuple(positions), if_not_exists, tuple(defaults))


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
        raise words.unsupported("a DEFAULT that is no constant", "give the value in each INSERT", start)
    return found.value
